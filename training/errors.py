"""What can go wrong in training that the person at the keyboard can put right."""

from __future__ import annotations

from collections.abc import Sequence


class TrainingError(Exception):
    """Settings, data or models that will not do. `problems` are listed one a line, each with its remedy."""

    def __init__(self, *problems: str) -> None:
        self.problems: Sequence[str] = problems
        super().__init__("\n".join(problems))
