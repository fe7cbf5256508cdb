"""Fidelity: does code that was written from a description do what the described code does?

By execution where the record has tests of the original's behaviour: the share that the new code passes. Otherwise a model
compares the two, and its grade is brought to the same range from 0 to 1.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pydantic import model_validator

from factory.errors import ScorerError
from factory.generators.base import Context, chat
from factory.records import Frozen, Record, Score


class FidelitySettings(Frozen):
    """`template` is rendered with `original`, `regenerated`, `description`, `language`, `low` and `high`."""

    template: str = "backtranslation/fidelity.j2"
    low: int = 1
    high: int = 5

    @model_validator(mode="after")
    def _ordered(self) -> FidelitySettings:
        if self.low >= self.high:
            raise ValueError(f"low={self.low} must be below high={self.high}")
        return self


class Fidelity:
    """Needs `meta` of a backtranslation record. One score, `fidelity`; `detail` says who decided."""

    uses_sandbox = True
    Settings = FidelitySettings
    names = ("fidelity",)

    def __init__(self, settings: FidelitySettings) -> None:
        self.settings = settings
        self.templates = (settings.template,)
        grades = list(range(settings.low, settings.high + 1))
        self.schema: dict[str, Any] = {
            "type": "object",
            "properties": {"reason": {"type": "string"}, "score": {"type": "integer", "enum": grades}},
            "required": ["reason", "score"],
            "additionalProperties": False,
        }

    async def score(self, record: Record, context: Context) -> Mapping[str, Score]:
        meta, settings = record.meta, self.settings
        if not {"language", "code", "description", "solution", "tests"} <= set(meta):
            raise ScorerError(
                "the record holds no code with a description and code from it; fidelity is for backtranslation"
            )
        if meta["tests"]:
            verdict = await context.sandbox.verify(meta["solution"], list(meta["tests"]))
            detail = {"by": "execution", "passed": verdict.passed, "total": verdict.total, "trust": verdict.trust}
            reason = "" if verdict.status == "pass" else f"execution {verdict.status}"
            return {"fidelity": Score(value=verdict.share, reason=reason, detail=detail)}
        question = context.render(
            settings.template,
            original=meta["code"],
            regenerated=meta["solution"],
            description=meta["description"],
            language=meta["language"],
            low=settings.low,
            high=settings.high,
        )
        answer = await context.ask_json(chat(question), self.schema, label="fidelity")
        value = (answer["score"] - settings.low) / (settings.high - settings.low)
        detail = {"by": "judge", "grade": answer["score"], "says": str(answer["reason"])}
        return {"fidelity": Score(value=value, reason="" if value == 1 else "judge", detail=detail)}
