"""Answer: whether the final answer is right, by the data set that made the question or against a known answer."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from contextlib import AbstractAsyncContextManager
from typing import Any

from factory.errors import ScorerError
from factory.generators.base import Context
from factory.reasoning import Scorer as GymScorer
from factory.reasoning import Tasks, final_answer
from factory.records import Frozen, Record, Score
from factory.resources import Resources


class AnswerSettings(Frozen):
    """`tolerance`: two numbers are equal when they differ by less than this share of the known one."""

    tolerance: float = 1e-6


class Answer:
    """Needs `meta.reasoning` (task=reasoning writes it) or `meta.answer`, a text or number.

    One score, `answer`: 1 where it is right, what the data set gives for a partly right one, 0 else. The final answer is
    the last <answer>...</answer>; a record without one is wrong, not an error.
    """

    uses_sandbox = False
    Settings = AnswerSettings
    names = ("answer",)
    templates: tuple[str, ...] = ()

    def __init__(self, settings: AnswerSettings) -> None:
        self.settings = settings

    def ready(self, resources: Resources) -> AbstractAsyncContextManager[Any]:
        return GymScorer()

    async def score(self, record: Record, context: Context) -> Mapping[str, Score]:
        text = next((message.content for message in reversed(record.messages) if message.role == "assistant"), "")
        found, meta = final_answer(text), record.meta
        if "reasoning" not in meta and "answer" not in meta:
            raise ScorerError("the record's meta holds neither reasoning nor answer; nothing says what is right")
        if found is None:
            return {"answer": Score(value=0.0, reason="no <answer>")}
        if "reasoning" in meta:
            made = meta["reasoning"]
            scorer: GymScorer = await context.opened(self)
            value, why = await scorer.score(Tasks(**made["task"]), "train", made["block"], made["place"], found)
        else:
            value, why = float(same_answer(found, str(meta["answer"]), self.settings.tolerance)), ""
        return {
            "answer": Score(value=value, reason="" if value == 1 else why or "wrong", detail={"found": found[:500]})
        }


def same_answer(found: str, known: str, tolerance: float) -> bool:
    """Equal as numbers where both are, else as texts without case, blanks at the edges and a full stop at the end."""
    numbers = _number(found), _number(known)
    if numbers[0] is not None and numbers[1] is not None:
        return math.isclose(numbers[0], numbers[1], rel_tol=tolerance, abs_tol=tolerance)
    return _plain(found) == _plain(known)


def _number(text: str) -> float | None:
    if not re.fullmatch(r"[-+]?[\d,]*\.?\d+(e[-+]?\d{1,3})?%?", text.strip().lstrip("$"), re.IGNORECASE):
        return None
    return float(text.strip().lstrip("$").replace(",", "").rstrip("%"))


def _plain(text: str) -> str:
    return " ".join(text.casefold().split()).rstrip(".")
