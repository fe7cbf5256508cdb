"""What the user can put right: the stage says it in short lines and ends."""

from __future__ import annotations

from collections.abc import Sequence


class TrainingError(Exception):
    """Something wrong with the data, the model, the settings or the machine; `problems` are listed one a line."""

    def __init__(self, *problems: str) -> None:
        self.problems: Sequence[str] = problems
        super().__init__("\n".join(problems))


class Diverged(TrainingError):
    """The loss is not a number any more: says at which step and with which rows."""
