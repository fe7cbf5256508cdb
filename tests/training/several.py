"""`python -m tests.training.several CONFIG.json ...`: trainings one after the other in the same processes, for speed."""

from __future__ import annotations

import sys

from training.__main__ import main

if __name__ == "__main__":
    for config in sys.argv[1:]:
        if status := main([config]):
            sys.exit(status)
