"""Evol-Instruct (Xu et al. 2023, arXiv:2304.12244): an instruction is made harder, or another one is made beside it, round
by round; each is answered, and rounds that led nowhere are eliminated by the paper's four rules.
"""

from __future__ import annotations

import random
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import ClassVar, Literal

from pydantic import Field

from factory.errors import ConfigError, RecordError
from factory.generators.base import Context, GeneratorSettings, chat
from factory.generators.evolution import Answer, EvolutionSettings, evolve
from factory.generators.rewriting import Rewriter, says_nothing, sorry_and_short
from factory.generators.seed_tasks import load_seed_tasks
from factory.prompts import Templates
from factory.records import Record, content_hash
from factory.sources import Item

Operation = Literal["constraint", "deepen", "concretise", "reasoning", "complicate", "breadth"]
_SEEDS = "self_instruct/seeds_en.yaml"


class EvolSettings(EvolutionSettings):
    """An answer that says sorry in fewer than `sorry_words` words eliminates its round."""

    operations: tuple[Operation, ...] = ("constraint", "deepen", "concretise", "reasoning", "complicate", "breadth")
    sorry_words: int = Field(80, ge=0)


class EvolInstruct:
    """One seed is one lineage: its own instruction and `rounds` evolved ones, a record each."""

    Settings: ClassVar[type[GeneratorSettings]] = EvolSettings
    uses_sandbox = False
    carries_columns = False

    def __init__(self, settings: EvolSettings, templates: Templates, prompt_form: str) -> None:
        self.settings, self._templates = settings, templates
        self.rewriter = Rewriter(settings, templates, "evol_instruct", prompt_form)
        self.templates: Sequence[str] = (*self.rewriter.templates, _SEEDS)

    def check(self, columns: set[str] | None) -> list[str]:
        problems = self.rewriter.check()
        try:
            load_seed_tasks(self._templates, _SEEDS)
        except ConfigError as error:
            problems += error.problems
        if columns is not None and not columns & {"instruction", "item"}:
            problems.append("task=evol_instruct needs seeds with a column `instruction`, or a plain list of texts")
        return problems

    def seeds(self, seed: int) -> Iterator[Mapping[str, str]]:
        """The project's own seed tasks, without end: a second lineage of a seed draws other operations."""
        rows = [{"instruction": task.text} for task in load_seed_tasks(self._templates, _SEEDS)]
        for epoch in range(2**31):
            yield from random.Random(f"{seed}/{epoch}").sample(rows, len(rows))

    def fingerprint(self, record: Record) -> str | None:
        """Two lineages of one seed share its first record, and may meet again."""
        return content_hash(re.findall(r"\w+", str(record.meta.get("instruction")).casefold()))

    async def generate(self, item: Item, context: Context) -> Sequence[Record]:
        row = dict(item.row)
        start = str(row.get("instruction") or row.get("item") or "").strip()
        if not start:
            raise RecordError("source: the instruction is empty")

        async def rewrite(parent: str, number: int) -> tuple[str, str]:
            return await self.rewriter.rewrite(parent, number, context)

        async def answer(instruction: str, number: int) -> Answer:
            return await self._answer(instruction, number, context)

        return await evolve(start, self.settings.rounds, context, rewrite=rewrite, answer=answer, seed=row)

    async def _answer(self, instruction: str, number: int, context: Context) -> Answer:
        response = await context.ask(chat(instruction), label="answer", sample=number)
        text = response.text.strip()
        messages = chat(instruction, text)
        if response.truncated:
            return Answer(messages, reason="answer: cut off at the token limit")
        if says_nothing(text):
            return Answer(messages, reason="evolution: the answer has only punctuation and stop words")
        if sorry_and_short(text, self.settings.sorry_words):
            return Answer(messages, reason="evolution: the answer is short and says sorry")
        return Answer(messages)
