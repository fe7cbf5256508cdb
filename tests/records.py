"""What a run of `run_task` left, read back."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from factory.journal import Journal
from factory.records import Record


def fates(folder: Path, task: str) -> list[Record]:
    """Every record of the run, kept or lost, in the order of the seeds."""
    with Journal(folder / f"outputs/{task}/journal.db") as journal:
        config = journal.current_config()
        assert config is not None
        return [fate.record for fate in journal.fates(config[0])]


def manifest(folder: Path, task: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((folder / f"outputs/{task}/manifest.json").read_text())
    return found
