"""One model of transformers at a time.

While it loads a model, transformers puts other functions into its own classes (`transformers.initialization`) and puts back those
that it found. Two threads that load at once can find each other's, and leave every later model of the process without tied
weights. So whoever loads a model in a thread holds this.
"""

from __future__ import annotations

import threading

one_at_a_time = threading.Lock()
