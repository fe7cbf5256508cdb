"""Evol-Instruct for code (WizardCoder: Luo et al. 2023, arXiv:2306.08568, section 3.1): five ways to make a programming task
harder, round by round. Every task's answer is run against tests, as in `task=code`; a task that nobody could solve has no
children.
"""

from __future__ import annotations

import random
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import ClassVar, Literal

from factory.errors import RecordError
from factory.generators.base import Context, GeneratorSettings, chat
from factory.generators.code_solver import Solver, SolveSettings, lost, told
from factory.generators.evolution import Answer, EvolutionSettings, evolve
from factory.generators.few_shot import load_data
from factory.generators.rewriting import Rewriter, one_line
from factory.prompts import Templates
from factory.records import Record, content_hash
from factory.sources import Item

Operation = Literal["constraint", "rarer", "reasoning", "misleading", "bound"]
_SEEDS = {"chat": "evol_code/seeds.yaml", "few_shot": "evol_code/few_shot/seeds.yaml"}
# The few-shot attempt's examples (code/few_shot/examples.yaml) of the shape that the small model's seeds have.
_SHAPE = "mapping"


class EvolCodeSettings(EvolutionSettings, SolveSettings):
    """Evolution's settings and those of solving a problem."""

    operations: tuple[Operation, ...] = ("constraint", "rarer", "reasoning", "misleading", "bound")


class EvolCode:
    """One seed is one lineage: its own task and `rounds` evolved ones, a record each, solved and tested."""

    Settings: ClassVar[type[GeneratorSettings]] = EvolCodeSettings
    uses_sandbox = True
    carries_columns = False

    def __init__(self, settings: EvolCodeSettings, templates: Templates, prompt_form: str) -> None:
        self.settings, self._templates, self.prompt_form = settings, templates, prompt_form
        self.rewriter = Rewriter(settings, templates, "evol_code", prompt_form)
        self.solver = Solver(settings, templates, prompt_form)
        self.templates: Sequence[str] = (*self.rewriter.templates, *self.solver.templates, _SEEDS[prompt_form])

    def check(self, columns: set[str] | None) -> list[str]:
        problems = self.rewriter.check() + self.solver.check()
        if columns is not None and not columns & {"instruction", "item"}:
            problems.append("task=evol_code needs seeds with a column `instruction`, or a plain list of texts")
        return problems

    def seeds(self, seed: int) -> Iterator[Mapping[str, str]]:
        """The project's own programming tasks, without end."""
        rows = [{"instruction": text} for text in load_data(self._templates, _SEEDS[self.prompt_form])]
        for epoch in range(2**31):
            yield from random.Random(f"{seed}/{epoch}").sample(rows, len(rows))

    def fingerprint(self, record: Record) -> str | None:
        return content_hash(re.findall(r"\w+", str(record.meta.get("instruction")).casefold()))

    async def generate(self, item: Item, context: Context) -> Sequence[Record]:
        row = dict(item.row)
        start = str(row.get("instruction") or row.get("item") or "").strip()
        if not start:
            raise RecordError("source: the instruction is empty")

        async def rewrite(parent: str, number: int) -> tuple[str, str]:
            return await self.rewriter.rewrite(parent, number, context)

        async def answer(instruction: str, number: int) -> Answer:
            return await self._solved(instruction, number, context)

        return await evolve(start, self.settings.rounds, context, rewrite=rewrite, answer=answer, seed=row)

    async def _solved(self, problem: str, number: int, context: Context) -> Answer:
        """The task with its solution, run against the tests that the correction loop may see."""
        solver, language = self.solver, self.settings.language
        if self.prompt_form == "few_shot":
            prompt = solver.shots.prompt_for(one_line(problem), _SHAPE, self._templates)
            sampling = self.settings.few_shot_sampling
            response = await context.ask(prompt=prompt, label="attempt", sample=number, sampling=sampling)
            draft = solver.drafted(*solver.shots.read(prompt, response.text))
        else:
            draft = await solver.draft(problem, context, number)
        await solver.correct(draft, context, number)
        alternatives = await solver.alternatives(draft, context, _SHAPE, number)
        meta = {**told(draft, language), "alternatives": alternatives}
        messages = chat(draft.problem, f"```{language}\n{draft.solution}\n```")
        # One that fails its tests is no ground to evolve from; it goes to the scorers where it ran, for their verdict.
        return Answer(messages, meta, reason=lost(draft), sound=not draft.attempts[-1]["reason"])
