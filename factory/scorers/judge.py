"""A model, or a panel of several, as judge: a rubric, the reason before the grade, one number.

A judge that answers rubbish, refuses or is cut off is an error on that record, never a grade.
"""

from __future__ import annotations

import statistics
from collections.abc import Mapping
from typing import Any, Literal

from pydantic import field_validator, model_validator

from factory.errors import RecordError, ScorerError
from factory.generators.base import Context
from factory.records import Record, Score
from factory.scorers.grading import CHAT, FEW_SHOT, Grade, about_logprobs, ask_grade
from factory.scorers.panel import Combine, JudgeAsked, agreement, combined, poll
from factory.scorers.rubric import load_rubric, rubric_file


class JudgeSettings(JudgeAsked):
    """`rubric` is the name of a file in `prompts/judge/`, or a mapping of its form.

    `expected`: the score is the expected grade by the judge's token probabilities: true, where that cannot be had it is an
    error; auto, it is the grade then; false, it is always the grade. `combine` makes one number of a panel's.
    """

    rubric: str | Mapping[str, Any] = "five"
    expected: Literal["auto"] | bool = False
    combine: Combine = "mean"

    @field_validator("rubric")
    @classmethod
    def _is_rubric(cls, value: str | Mapping[str, Any]) -> str | Mapping[str, Any]:
        load_rubric(value)
        return value

    @model_validator(mode="after")
    def _can_expect(self) -> JudgeSettings:
        if self.expected is True and not load_rubric(self.rubric).one_digit:
            raise ValueError("expected=true needs a rubric whose grades are single digits, from 0 to 9")
        return self


class Judge:
    """One score, `judge`: the sum of the rubric's grades, or its expectation."""

    uses_sandbox = False
    Settings = JudgeSettings
    names = ("judge",)

    def __init__(self, settings: JudgeSettings) -> None:
        self.settings = settings
        self.rubric = load_rubric(settings.rubric)
        named = (rubric_file(settings.rubric),) if isinstance(settings.rubric, str) else ()
        self.templates = (CHAT, FEW_SHOT, *named)
        self._without_logprobs: set[str | None] = set()  # endpoints that refused to give them

    async def score(self, record: Record, context: Context) -> Mapping[str, Score]:
        settings = self.settings
        votes, errors = await poll(settings, lambda endpoint: self._grade(record, context, endpoint))
        grades = {name: vote.total for name, vote in votes.items()}
        expected = [vote.expected for vote in votes.values() if vote.expected is not None]
        values = [self._value(vote) for vote in votes.values()]
        detail: dict[str, Any] = {"grade": statistics.median_low(grades.values()), "max": self.rubric.high}
        if settings.panel:
            detail["says"] = "\n".join(f"{name}: {vote.says}" for name, vote in votes.items())
            detail |= {"panel": grades, "agreement": agreement(grades)} | ({"errors": errors} if errors else {})
        else:
            (vote,) = votes.values()
            detail |= {"says": vote.says} | self._told(vote)
        if len(expected) == len(votes):
            detail["expected"] = combined(expected, settings.combine)
        return {"judge": Score(value=combined(values, settings.combine), detail=detail)}

    def _told(self, vote: Grade) -> dict[str, Any]:
        """What only one judge's detail holds."""
        told: dict[str, Any] = {"criteria": dict(vote.grades)} if len(vote.grades) > 1 else {}
        if vote.probabilities is not None:
            told["probabilities"] = {str(grade): share for grade, share in vote.probabilities.items()}
            told["mass"] = vote.mass
        return told

    def _value(self, vote: Grade) -> float:
        wanted = self.settings.expected is not False and vote.expected is not None
        return float(vote.expected if wanted and vote.expected is not None else vote.total)

    async def _grade(self, record: Record, context: Context, endpoint: str | None) -> Grade:
        settings = self.settings
        wanted = settings.expected is not False and self.rubric.one_digit and endpoint not in self._without_logprobs
        try:
            grade = await ask_grade(
                self.rubric, record, context, endpoint=endpoint, sampling=settings.sampling, logprobs=wanted
            )
        except RecordError as error:
            if not wanted or settings.expected is True or not about_logprobs(error):
                raise
            self._without_logprobs.add(endpoint)
            return await self._grade(record, context, endpoint)
        if settings.expected is True and grade.expected is None:
            raise ScorerError("judge: the server gave no log-probabilities at the grade; expected=auto does without")
        return grade
