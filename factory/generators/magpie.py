"""Magpie (Xu et al. 2024): an aligned model that is shown nothing but the header of a user's turn writes the turn itself.

The instruction is drawn at temperature 1 and answered at 0. For preferences, further answers are drawn at 0.8, and export
takes the best and the worst by a reward.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, ClassVar

from pydantic import Field, model_validator

from factory.engine.request import Response, Sampling
from factory.errors import RecordError
from factory.generators.base import Context, GeneratorSettings, chat
from factory.generators.from_template import TOO_LONG
from factory.prompts import Templates
from factory.records import Record, content_hash
from factory.sources import Item

# Marks of a conversation's form have no place in an instruction.
_MARKUP = re.compile(
    r"<\|[\w ]+\|>|</?s>|\[/?INST\]|<(?:start|end)_of_turn>|^\s*(?:user|assistant)\s*:", re.IGNORECASE | re.MULTILINE
)


class MagpieSettings(GeneratorSettings):
    """`header` is what the model's chat template puts before a user's turn, `before` what precedes it (a system prompt, in
    the template's form). Instructions have `least_words` to `most_words`. `samples` are further answers."""

    header: str
    before: str = ""
    least_words: int = Field(3, ge=1)
    most_words: int = Field(300, ge=1)
    samples: int = Field(0, ge=0)
    instruction_sampling: Sampling = Sampling()
    sample_sampling: Sampling = Sampling()

    @model_validator(mode="after")
    def _ordered(self) -> MagpieSettings:
        if not self.header.strip():
            raise ValueError(
                "task.header: is empty; give the text that your model's chat template puts before a user's turn"
            )
        if self.least_words > self.most_words:
            raise ValueError(f"task.least_words={self.least_words} must not be above task.most_words={self.most_words}")
        return self


class Magpie:
    """Needs no seeds: each number is one draw. One draw gives one record, and one more for each of `samples`."""

    Settings: ClassVar[type[GeneratorSettings]] = MagpieSettings
    uses_sandbox = False
    carries_columns = False
    templates: Sequence[str] = ()

    def __init__(self, settings: MagpieSettings, templates: Templates, prompt_form: str) -> None:
        self.settings = settings

    def check(self, columns: set[str] | None) -> list[str]:
        if columns is not None and "draw" not in columns:
            return ["task=magpie takes no source: the model writes the instructions; leave out source.path"]
        return []

    def seeds(self, seed: int) -> Iterator[Mapping[str, Any]]:
        return ({"draw": number} for number in range(2**31))

    def fingerprint(self, record: Record) -> str | None:
        words = re.findall(r"\w+", record.messages[0].content.lower())
        return content_hash(words, record.meta["sample"])

    async def generate(self, item: Item, context: Context) -> Sequence[Record]:
        settings = self.settings
        drawn = await context.ask(
            prompt=settings.before + settings.header,
            label="instruction",
            sample=int(item.row["draw"]),
            sampling=settings.instruction_sampling,
        )
        instruction = drawn.text.strip()
        if problem := self._problem(instruction, drawn):
            raise RecordError(f"instruction: {problem}")
        question, meta = chat(instruction), {"group": content_hash(instruction), "draw": int(item.row["draw"])}
        records = []
        for number in range(settings.samples + 1):
            sampling = settings.sample_sampling if number else None
            answer = await context.ask(
                question, label="sample" if number else "answer", sample=number, sampling=sampling
            )
            reason = TOO_LONG if answer.truncated else "" if answer.text.strip() else "answer: empty"
            talk = (*question, *chat(("assistant", answer.text)))
            records.append(context.record(talk, {**meta, "sample": number}, sample=number, reason=reason))
        return records

    def _problem(self, instruction: str, drawn: Response) -> str:
        """Why this is no instruction to train on."""
        if drawn.truncated:
            return "cut off at the token limit"
        count = len(instruction.split())
        if count < self.settings.least_words:
            return "too short"
        if count > self.settings.most_words:
            return "too long"
        if _MARKUP.search(instruction):
            return "holds marks of the chat template"
        return ""
