"""`python -m training CONFIG.json`: what every process of a stage runs. `launch.py` starts it."""

from __future__ import annotations

import importlib
import json
import os
import sys
from collections.abc import Sequence
from pathlib import Path

from training.errors import TrainingError
from training.launch import STOPPED
from training.settings import TrainSettings


def main(words: Sequence[str]) -> int:
    """Train what the configuration says; the exit status: 0 done, 2 cannot be done as it is, 3 stopped before."""
    config = json.loads(Path(words[0]).read_text())
    settings = TrainSettings.model_validate(config["settings"])
    first = int(os.environ.get("RANK", 0)) == 0
    # Progress bars and hints of the libraries are not ours to show.
    os.environ.setdefault("TQDM_DISABLE", "1")
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false" if "RANK" in os.environ else "true")
    os.environ.setdefault("TRL_EXPERIMENTAL_SILENCE", "1")
    os.environ.setdefault("PYTORCH_ALLOC_CONF", "expandable_segments:True")

    def say(text: str) -> None:
        if first:
            print(text, file=sys.stderr, flush=True)

    from training.work import claim, open_work

    try:
        work = open_work(settings, say)
        if "RANK" not in os.environ and claim(work):
            say(f"{settings.out}/model is there already")
            return 0
        stage = importlib.import_module(f"training.{settings.stage.name}")
        done = stage.train(work, say, skip=config["skip"])
    except TrainingError as error:
        for problem in error.problems:
            print(f"error: {problem}", file=sys.stderr)
        return 2
    if not done:
        say("stopped; a checkpoint is kept, and the same command goes on from there")
    return 0 if done else STOPPED


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
