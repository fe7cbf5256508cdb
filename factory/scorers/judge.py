"""A model as judge: one rubric, the reasoning before the score, structured output.

An answer that cannot be read as a judgement is an error on that record, never a score of zero.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pydantic import model_validator

from factory.generators.base import Context, chat
from factory.records import Frozen, Record, Score


class JudgeSettings(Frozen):
    """`template` is rendered with `conversation` (the messages), `rubric`, `low` and `high`."""

    template: str = "judge/rubric.j2"
    rubric: str
    low: int = 1
    high: int = 5

    @model_validator(mode="after")
    def _ordered(self) -> JudgeSettings:
        if self.low >= self.high:
            raise ValueError(f"low={self.low} must be below high={self.high}")
        return self


class Judge:
    """One score, `judge`, a whole number from `low` to `high`."""

    uses_sandbox = False
    Settings = JudgeSettings
    names = ("judge",)

    def __init__(self, settings: JudgeSettings) -> None:
        self.settings = settings
        self.templates = (settings.template,)
        scores = list(range(settings.low, settings.high + 1))
        self.schema: dict[str, Any] = {
            "type": "object",
            "properties": {"reason": {"type": "string"}, "score": {"type": "integer", "enum": scores}},
            "required": ["reason", "score"],
            "additionalProperties": False,
        }

    async def score(self, record: Record, context: Context) -> Mapping[str, Score]:
        settings = self.settings
        question = context.render(
            settings.template,
            conversation=[message.model_dump() for message in record.messages],
            rubric=settings.rubric,
            low=settings.low,
            high=settings.high,
        )
        answer = await context.ask_json(chat(question), self.schema, label="judge")
        return {"judge": Score(value=float(answer["score"]), detail={"says": str(answer["reason"])})}
