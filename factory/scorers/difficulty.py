"""Difficulty: how hard an instruction is, on three levels, by a model that gives its reason first.

Llama 3.1 (section 4.2.3) scores the difficulty of prompts in two ways: this judgement, and the number of intention tags
(`factory.scorers.tags`).
"""

from __future__ import annotations

from collections.abc import Mapping

from factory.generators.base import Context
from factory.records import Record, Score
from factory.scorers.asking import AskingSettings, ask_about, instruction_of, object_schema, templates_of

_NAME = "difficulty/judge"


class DifficultySettings(AskingSettings):
    """`levels` are what the three mean, the easiest first."""

    levels: tuple[str, str, str] = (
        "a well-known fact, a common task, one step",
        "several steps or constraints, or knowledge of a field",
        "long reasoning, constraints that pull against each other, or what few experts could do at once",
    )


class Difficulty:
    """One score, `difficulty`: 1 easy, 2 medium, 3 hard; `detail` holds the level and the reason."""

    uses_sandbox = False
    Settings = DifficultySettings
    names = ("difficulty",)
    templates = templates_of(_NAME)

    def __init__(self, settings: DifficultySettings) -> None:
        self.settings = settings
        self.levels = dict(zip(("easy", "medium", "hard"), settings.levels, strict=True))
        self.schema = object_schema(reason={"type": "string"}, difficulty={"type": "string", "enum": list(self.levels)})

    async def score(self, record: Record, context: Context) -> Mapping[str, Score]:
        variables = {"instruction": instruction_of(record, self.settings.max_chars), "levels": self.levels}
        answer = await ask_about(context, _NAME, variables, self.schema, self.settings)
        value = 1 + list(self.levels).index(answer["difficulty"])
        detail = {"level": answer["difficulty"], "says": str(answer["reason"])}
        return {"difficulty": Score(value=value, detail=detail)}
