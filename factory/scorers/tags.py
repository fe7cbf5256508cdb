"""Tags: an instruction's intentions, named freely by a model (InsTag: Lu et al. 2023). Their number says how complex it is.

The names differ from answer to answer; `factory.tags` brings those of a whole data set together.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pydantic import Field, model_validator

from factory.errors import ScorerError
from factory.generators.base import Context
from factory.records import Record, Score
from factory.scorers.asking import AskingSettings, ask_about, instruction_of, object_schema, templates_of

_NAME = "tags/tag"
_LONGEST = 80  # characters of a tag: a longer one is a sentence


class TagsSettings(AskingSettings):
    """Between `min_tags` and `max_tags` are asked for; of more the first ones are taken."""

    min_tags: int = Field(1, ge=1)
    max_tags: int = Field(8, ge=1, le=50)

    @model_validator(mode="after")
    def _ordered(self) -> TagsSettings:
        if self.min_tags > self.max_tags:
            raise ValueError(f"min_tags={self.min_tags} must not be above max_tags={self.max_tags}")
        return self


class Tags:
    """One score, `tags`: how many different ones there are. `detail` holds them, and what the model said of each."""

    uses_sandbox = False
    Settings = TagsSettings
    names = ("tags",)
    templates = templates_of(_NAME)

    def __init__(self, settings: TagsSettings) -> None:
        self.settings = settings
        text = {"type": "string"}
        tag = object_schema(tag={**text, "minLength": 1, "maxLength": _LONGEST}, explanation=text)
        self.schema = object_schema(
            tags={"type": "array", "items": tag, "minItems": settings.min_tags, "maxItems": settings.max_tags}
        )

    async def score(self, record: Record, context: Context) -> Mapping[str, Score]:
        settings = self.settings
        instruction = instruction_of(record, settings.max_chars)
        variables = {"instruction": instruction, "least": settings.min_tags, "most": settings.max_tags}
        answer = await ask_about(context, _NAME, variables, self.schema, settings)
        found = different(answer["tags"])
        if len(found) < settings.min_tags:
            raise ScorerError(f"tags: {len(found)} different ones, fewer than min_tags={settings.min_tags}")
        detail = {"tags": list(found), "explanations": found}
        return {"tags": Score(value=len(found), detail=detail)}


def different(tags: list[Mapping[str, Any]]) -> dict[str, str]:
    """Each tag once, whatever its capitals, with its explanation; those without a letter or digit are none."""
    found: dict[str, str] = {}
    for entry in tags:
        name = " ".join(str(entry["tag"]).lower().split())
        if any(sign.isalnum() for sign in name):
            found.setdefault(name, str(entry["explanation"]))
    return found
