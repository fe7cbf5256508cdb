"""Code with execution feedback (Llama 3.1 report, section 4.3.1): nothing is kept that did not run.

Topic or snippet -> problem -> solution -> parser and linter -> tests that the model writes without seeing the solution ->
run in the sandbox -> on failure the model gets problem, code and feedback, and mends code or tests, a bounded number of
times. Part of the tests stays hidden from that loop, so that weakening the visible ones gains nothing: the `execution`
scorer runs them all. A small model does the first steps in one few-shot continuation (`prompt_form: few_shot`).
"""

from __future__ import annotations

import ast
import random
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, ClassVar

from factory.engine.request import Sampling
from factory.errors import RecordError
from factory.generators.base import Context, GeneratorSettings, chat
from factory.generators.code_solver import Draft, Solver, SolveSettings, lost, told
from factory.generators.few_shot import load_data
from factory.generators.parsing import ParseSettings, parse_answer
from factory.prompts import Templates
from factory.records import Message, Record, content_hash
from factory.sources import Item

_PROBLEMS = ("code/chat/problem_topic.j2", "code/chat/problem_snippet.j2")


class CodeSettings(SolveSettings):
    """`levels` are drawn for each problem."""

    levels: tuple[str, ...] = ("beginner", "intermediate", "advanced")
    problem_sampling: Sampling = Sampling()


class CodeGenerator:
    """One seed gives one record: the problem, and the last solution whether it passed or not, with all its attempts."""

    Settings: ClassVar[type[GeneratorSettings]] = CodeSettings
    uses_sandbox = True
    carries_columns = False

    def __init__(self, settings: CodeSettings, templates: Templates, prompt_form: str) -> None:
        self.settings, self.prompt_form, self._templates = settings, prompt_form, templates
        self.solver = Solver(settings, templates, prompt_form)
        self._asking = () if prompt_form == "few_shot" else _PROBLEMS
        self.templates: Sequence[str] = (*self._asking, *self.solver.templates)

    def check(self, columns: set[str] | None) -> list[str]:
        problems = [problem for name in self._asking for problem in self._templates.check(name)] + self.solver.check()
        if self.prompt_form == "few_shot":
            if columns is not None and not {"topic", "signature", "opening"} <= columns:
                problems.append(
                    "the few-shot prompts take the seeds of prompts/code/few_shot/seeds.yaml, not topics or snippets; "
                    "for a source of your own use a model with prompt_form=chat"
                )
        elif columns is not None and not columns & {"topic", "snippet", "item"}:
            problems.append("task=code needs seeds with a column `topic` or `snippet`, or a plain list of topics")
        return problems

    def seeds(self, seed: int) -> Iterator[Mapping[str, Any]]:
        """The task's own seeds, without end: topics for a chat model, signatures for a small one."""
        if self.prompt_form == "few_shot":
            yield from self.solver.shots.seeds(seed)
        topics = [{"topic": topic} for topic in load_data(self._templates, "code/topics.yaml")]
        for epoch in range(2**31):
            yield from random.Random(f"{seed}/{epoch}").sample(topics, len(topics))

    def examples(self) -> Sequence[Sequence[Message]]:
        """The solved problems that a small model is shown, as conversations like those of the records."""
        if self.prompt_form != "few_shot":
            return []
        shown = [example for examples in self.solver.shots.examples.values() for example in examples]
        return [chat(one.problem, f"```{self.settings.language}\n{one.solution.strip()}\n```") for one in shown]

    def fingerprint(self, record: Record) -> str | None:
        """Two records are the same where the solutions are, names and layout aside."""
        if record.meta.get("language") != "python":
            return content_hash(record.meta.get("solution"))
        try:
            tree = ast.parse(str(record.meta.get("solution", "")))
        except (SyntaxError, ValueError):
            return None
        names: dict[str, str] = {}
        for node in ast.walk(tree):
            for attribute in ("name", "id", "arg"):
                if isinstance(name := getattr(node, attribute, None), str):
                    setattr(node, attribute, names.setdefault(name, f"n{len(names)}"))
        return content_hash(re.sub(r"'''.*?'''|\"\"\".*?\"\"\"", "", ast.dump(tree), flags=re.DOTALL))

    async def generate(self, item: Item, context: Context) -> Sequence[Record]:
        seed = dict(item.row)
        topic = str(seed.get("topic") or seed.get("item") or "")
        if self.prompt_form == "few_shot":
            draft = await self._attempt(seed, context)
        else:
            draft = await self.solver.draft(
                await self._problem(topic, str(seed.get("snippet") or ""), context), context
            )
        await self.solver.correct(draft, context)
        alternatives = await self.solver.alternatives(draft, context, topic)
        meta = {
            "topic": topic or str(seed.get("path", "")),
            **told(draft, self.settings.language),
            "alternatives": alternatives,
            "seed": seed,
        }
        answer = f"```{self.settings.language}\n{draft.solution}\n```"
        return [context.record(chat(draft.problem, answer), meta, reason=lost(draft))]

    # ---- drafting

    async def _attempt(self, row: Mapping[str, Any], context: Context) -> Draft:
        """Problem, solution and tests in one continuation; the problem's own cases are the hidden tests."""
        shots = self.solver.shots
        prompt = shots.prompt(row, self._templates)
        answer = await context.ask(prompt=prompt, label="attempt", sampling=self.settings.few_shot_sampling)
        return self.solver.drafted(*shots.read(prompt, answer.text))

    async def _problem(self, topic: str, snippet: str, context: Context) -> str:
        settings = self.settings
        level = context.rng.choice(settings.levels)
        if snippet:
            question = context.render(
                "code/chat/problem_snippet.j2", snippet=snippet, language=settings.language, level=level
            )
        else:
            question = context.render(
                "code/chat/problem_topic.j2", topic=topic, language=settings.language, level=level
            )
        answer = await context.ask(chat(question), label="problem", sampling=settings.problem_sampling)
        problem: str = parse_answer(answer.text, ParseSettings(kind="blocks", names=("problem",)))["problem"]
        if len(problem) < 40:
            raise RecordError("problem: too short")
        return problem
