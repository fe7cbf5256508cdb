"""Instruction backtranslation (Li et al. 2023, Humpback): a text that people wrote becomes an answer, and a model writes the
instruction that it answers; pairs that the model itself rates highest are kept.

Two iterations: a model trained on what the first one kept rates the first run's candidates again (`source.kind=run` with
`source.lost=true`), which asks for no new instructions. The paper's funnel: 502,000 -> 195,000 -> 42,000.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any, ClassVar

from pydantic import Field, model_validator

from factory.engine.request import Sampling
from factory.errors import RecordError
from factory.generators.base import Context, GeneratorSettings, chat
from factory.generators.parsing import ParseSettings, parse_answer
from factory.prompts import Templates
from factory.records import Record, content_hash
from factory.sources import Item

FOLDER = "instruction_backtranslation"
_BLOCK = ParseSettings(kind="blocks", names=("instruction",))
_SPEAKS_OF_IT = re.compile(
    r"\b(?:the|this) (?:above |given |following )?(?:text|answer|passage|excerpt)\b", re.IGNORECASE
)


class InstructionSettings(GeneratorSettings):
    """A segment has `least_chars` to `most_chars`; `segments` are drawn from each text, null takes all.
    An instruction has `least_words` to `most_words`."""

    least_chars: int = Field(600, ge=1)
    most_chars: int = Field(3000, ge=1)
    segments: int | None = Field(None, ge=1)
    least_words: int = Field(3, ge=1)
    most_words: int = Field(150, ge=1)
    few_shot_sampling: Sampling = Sampling()

    @model_validator(mode="after")
    def _ordered(self) -> InstructionSettings:
        if self.least_chars * 2 > self.most_chars:
            raise ValueError(
                f"task.most_chars={self.most_chars} must be twice task.least_chars={self.least_chars} or more"
            )
        if self.least_words > self.most_words:
            raise ValueError(f"task.least_words={self.least_words} must not be above task.most_words={self.most_words}")
        return self


class InstructionBacktranslation:
    """One text gives one record for each of its segments; a candidate of an earlier run gives itself."""

    Settings: ClassVar[type[GeneratorSettings]] = InstructionSettings
    uses_sandbox = False
    carries_columns = False

    def __init__(self, settings: InstructionSettings, templates: Templates, prompt_form: str) -> None:
        self.settings, self._templates, self.prompt_form = settings, templates, prompt_form
        self.template = f"{FOLDER}/{prompt_form}/instruction.j2"
        self.templates: Sequence[str] = (self.template,)

    def check(self, columns: set[str] | None) -> list[str]:
        problems = self._templates.check(self.template)
        if columns is not None and not columns & {"text", "segment"}:
            problems.append(
                "task=instruction_backtranslation needs seeds with a column `text`: a folder of texts, or rows"
            )
        return problems

    def fingerprint(self, record: Record) -> str | None:
        return content_hash("".join(str(record.meta["segment"]).lower().split()))

    async def generate(self, item: Item, context: Context) -> Sequence[Record]:
        row = item.row
        if row.get("segment") and row.get("candidate"):  # an earlier run's record: only the rating is new
            iteration = int(row.get("iteration", 1)) + 1
            meta = {
                "segment": row["segment"],
                "candidate": row["candidate"],
                "iteration": iteration,
                "seed": row.get("seed", {}),
            }
            return [context.record(chat(str(row["candidate"]), str(row["segment"])), meta)]
        segments = split_text(str(row.get("text") or ""), self.settings.least_chars, self.settings.most_chars)
        if not segments:
            raise RecordError("source: holds no segment of the wanted length")
        if self.settings.segments is not None and len(segments) > self.settings.segments:
            places = sorted(context.rng.sample(range(len(segments)), self.settings.segments))
            segments = [segments[place] for place in places]
        seed = {name: value for name, value in row.items() if name != "text"}
        return [await self._candidate(segment, number, seed, context) for number, segment in enumerate(segments)]

    async def _candidate(self, segment: str, number: int, seed: dict[str, Any], context: Context) -> Record:
        meta: dict[str, Any] = {"segment": segment, "iteration": 1, "seed": {**seed, "segment": number}}
        try:
            instruction = await self._instruction(segment, number, context)
        except RecordError as error:
            if not error.final:
                raise
            return context.record((), meta, sample=number, reason=str(error))
        return context.record(chat(instruction, segment), {**meta, "candidate": instruction}, sample=number)

    async def _instruction(self, segment: str, number: int, context: Context) -> str:
        """Raises `RecordError` where the model wrote nothing that can be an instruction."""
        prompt = context.render(self.template, text=segment)
        if self.prompt_form == "few_shot":
            sampling = self.settings.few_shot_sampling
            answer = await context.ask(prompt=prompt, label="instruction", sample=number, sampling=sampling)
            text = answer.text.strip()
        else:
            answer = await context.ask(chat(prompt), label="instruction", sample=number)
            text = parse_answer(answer.text, _BLOCK)["instruction"]
        count = len(text.split())
        if answer.truncated:
            raise RecordError("instruction: cut off at the token limit")
        if not self.settings.least_words <= count <= self.settings.most_words:
            raise RecordError(
                "instruction: too short" if count < self.settings.least_words else "instruction: too long"
            )
        if _SPEAKS_OF_IT.search(text):
            raise RecordError("instruction: speaks of the text itself")
        if "".join(text.lower().split()).rstrip(".") in "".join(segment.lower().split()):
            raise RecordError("instruction: is a part of the text")
        return text


def split_text(text: str, least: int, most: int) -> list[str]:
    """Segments of `least` to `most` characters, cut at paragraphs, else at sentences; what fits nowhere is left out."""
    segments: list[str] = []
    current = ""
    for part in _pieces(text, most):
        joined = f"{current}\n\n{part}" if current else part
        if len(joined) <= most:
            current = joined
            continue
        segments.append(current)
        current = part
    segments.append(current)
    return [segment for segment in segments if least <= len(segment) <= most]


def _pieces(text: str, most: int) -> list[str]:
    """Paragraphs; one that is too long, in groups of its sentences."""
    found: list[str] = []
    for paragraph in re.split(r"\n[ \t]*\n", text):
        paragraph = paragraph.strip()
        while len(paragraph) > most:
            cut = max(paragraph.rfind(mark, 0, most) for mark in (". ", "! ", "? ", "。", "\n"))
            if cut <= 0:
                paragraph = ""  # no place to cut: a table, or noise
                break
            found.append(paragraph[: cut + 1].strip())
            paragraph = paragraph[cut + 1 :].strip()
        if paragraph:
            found.append(paragraph)
    return found
