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
from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal

import orjson
from pydantic import Field

from factory.engine.request import Sampling
from factory.engine.structured import parse_json
from factory.errors import RecordError
from factory.generators.base import Context, GeneratorSettings, chat
from factory.generators.code_checks import (
    TEST_SCHEMA,
    as_tests,
    check_source,
    linter_problem,
    python_tests,
    signature,
)
from factory.generators.few_shot import ATTEMPT, DATA, FewShot, expected_values, load_data, stated_cases
from factory.generators.parsing import ParseSettings, fenced_code, parse_answer
from factory.prompts import Templates
from factory.records import Record, content_hash
from factory.sandbox import Verdict
from factory.sources import Item

Language = Literal["python", "javascript", "bash", "c", "cpp"]
FENCES: dict[str, tuple[str, ...]] = {
    "python": ("python", "py", "python3"),
    "javascript": ("javascript", "js", "node"),
    "bash": ("bash", "sh", "shell"),
    "c": ("c",),
    "cpp": ("cpp", "c++", "cxx"),
}


class CodeSettings(GeneratorSettings):
    """`hidden_tests` are kept from the correction loop; `repairs` bounds it; `levels` are drawn for each problem.

    `alternatives` further answers are asked for once a solution passed; those that fail make preference pairs.
    """

    language: Language = "python"
    levels: tuple[str, ...] = ("beginner", "intermediate", "advanced")
    repairs: int = Field(2, ge=0)
    hidden_tests: int = Field(2, ge=0)
    max_tests: int = Field(12, ge=2)
    lint: tuple[str, ...] = ()
    forbidden_imports: tuple[str, ...] = ()
    problem_sampling: Sampling = Sampling()
    few_shot_sampling: Sampling = Sampling()
    alternatives: int = Field(0, ge=0)
    alternative_sampling: Sampling = Sampling()


@dataclass
class Draft:
    """A problem with its present solution and tests, and the attempts that led here."""

    problem: str
    solution: str = ""
    tests: list[Any] = field(default_factory=list)
    hidden: list[Any] = field(default_factory=list)
    attempts: list[dict[str, Any]] = field(default_factory=list)


@dataclass(frozen=True)
class Tried:
    """What came of running a solution: why it failed (or nothing), feedback for the model, the verdict if it ran."""

    reason: str
    feedback: str
    verdict: Verdict | None = None

    def told(self, solution: str, tests: Sequence[Any]) -> dict[str, Any]:
        """As it stands in a record's `attempts`."""
        told: dict[str, Any] = {"code": solution, "tests": list(tests), "verdict": None}
        if self.verdict is not None:
            fields = {"status", "passed", "total", "trust", "backend"}
            told["verdict"] = self.verdict.model_dump(include=fields)
            told["verdict"]["tests"] = [outcome.model_dump(exclude_defaults=True) for outcome in self.verdict.tests]
        return told | {"feedback": self.feedback, "reason": self.reason}


class CodeGenerator:
    """One seed gives one record: the problem, and the last solution whether it passed or not, with all its attempts."""

    Settings: ClassVar[type[GeneratorSettings]] = CodeSettings
    uses_sandbox = True
    carries_columns = False

    def __init__(self, settings: CodeSettings, templates: Templates, prompt_form: str) -> None:
        self.settings, self.prompt_form, self._templates = settings, prompt_form, templates
        if prompt_form == "few_shot":
            self.templates: Sequence[str] = (ATTEMPT, *DATA)
        else:
            names = ("problem_topic", "problem_snippet", "solution", "tests", "repair")
            self.templates = tuple(f"code/chat/{name}.j2" for name in names)
        self._few_shot: FewShot | None = None

    def check(self, columns: set[str] | None) -> list[str]:
        prompts = [name for name in self.templates if name.endswith(".j2")]
        problems = [problem for name in prompts for problem in self._templates.check(name)]
        if self.settings.lint and self.settings.language == "python" and (problem := linter_problem()):
            problems.append(problem)
        if self.prompt_form == "few_shot":
            if self.settings.language != "python":
                problems.append("the few-shot prompts are for task.language=python; for others use a chat model")
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
            yield from self._shots.seeds(seed)
        topics = [{"topic": topic} for topic in load_data(self._templates, "code/topics.yaml")]
        for epoch in range(2**31):
            yield from random.Random(f"{seed}/{epoch}").sample(topics, len(topics))

    @property
    def _shots(self) -> FewShot:
        if self._few_shot is None:
            self._few_shot = FewShot(self._templates)
        return self._few_shot

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
            draft = await self._chat(topic, str(seed.get("snippet") or ""), context)
        await self._correct(draft, context)
        alternatives = await self._alternatives(draft, context)
        meta = {
            "language": self.settings.language,
            "topic": topic or str(seed.get("path", "")),
            "problem": draft.problem,
            "solution": draft.solution,
            "tests": [*draft.tests, *draft.hidden],
            "hidden_tests": len(draft.hidden),
            "attempts": draft.attempts,
            "alternatives": alternatives,
            "seed": seed,
        }
        answer = f"```{self.settings.language}\n{draft.solution}\n```"
        reason = draft.attempts[-1]["reason"]
        # A solution that ran goes to the scorers, which decide; one that could not be run has its reason already.
        ran = not reason or draft.attempts[-1]["verdict"] is not None
        return [context.record(chat(draft.problem, answer), meta, reason="" if ran else reason)]

    # ---- drafting

    async def _attempt(self, row: Mapping[str, Any], context: Context) -> Draft:
        """Problem, solution and tests in one continuation; the problem's own cases are the hidden tests."""
        prompt = self._shots.prompt(row, self._templates)
        answer = await context.ask(prompt=prompt, label="attempt", sampling=self.settings.few_shot_sampling)
        problem, solution, tests = self._shots.read(prompt, answer.text)
        if len(tests) < 2:
            raise RecordError("tests: fewer than two could be read")
        if len(expected_values(tests)) < 2:
            raise RecordError("tests: all expect the same value")
        hidden = stated_cases(problem)
        if not hidden:
            raise RecordError("problem: states no case to check it by")
        return Draft(
            problem, solution, tests[: self.settings.max_tests], [test for test in hidden if test not in tests]
        )

    async def _chat(self, topic: str, snippet: str, context: Context) -> Draft:
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
        problem = parse_answer(answer.text, ParseSettings(kind="blocks", names=("problem",)))["problem"]
        if len(problem) < 40:
            raise RecordError("problem: too short")
        draft = Draft(problem)
        question = context.render("code/chat/solution.j2", problem=problem, language=settings.language)
        answer = await context.ask(chat(question), label="solution")
        draft.solution = self._code(answer.text, answer.truncated)
        tests = await self._ask_tests(draft, context)
        keep = max(1, len(tests) - settings.hidden_tests)
        draft.tests, draft.hidden = tests[:keep], tests[keep:]
        return draft

    def _code(self, text: str, truncated: bool) -> str:
        code = fenced_code(text, FENCES[self.settings.language])
        if code is None or not code.strip():
            raise RecordError("parse: the answer is cut off" if truncated else "parse: no code block")
        return code

    async def _ask_tests(self, draft: Draft, context: Context) -> list[Any]:
        """Tests from the problem and the solution's signature alone, so that they do not repeat its mistakes."""
        settings = self.settings
        question = context.render(
            "code/chat/tests.j2",
            problem=draft.problem,
            signature=signature(draft.solution, settings.language),
            language=settings.language,
        )
        answer = await context.ask(chat(question), label="tests")
        tests = self._read_tests(answer.text)[: settings.max_tests]
        if not tests:
            raise RecordError("tests: none could be read")
        return tests

    def _read_tests(self, text: str) -> list[Any]:
        if self.settings.language == "python":
            return python_tests(fenced_code(text, FENCES["python"]) or text)
        try:
            cases: list[Any] = parse_json(text, TEST_SCHEMA)
        except RecordError as error:
            raise RecordError(f"tests: {error}") from error
        return cases

    # ---- correcting

    async def _correct(self, draft: Draft, context: Context) -> None:
        """Run; while it fails and turns are left, ask for a correction. Every attempt is written down."""
        for turn in range(self.settings.repairs + 1):
            tried = await self._try(draft.solution, draft.tests, context)
            draft.attempts.append(tried.told(draft.solution, draft.tests))
            if not tried.reason or turn == self.settings.repairs:
                return
            if not await self._repair(draft, tried, context, turn):
                return

    async def _alternatives(self, draft: Draft, context: Context) -> list[dict[str, Any]]:
        """Other answers to a problem whose solution passes, each with its verdict; equal ones are left out."""
        settings, seen, told = self.settings, {draft.solution}, []
        tests = [*draft.tests, *draft.hidden]
        if draft.attempts[-1]["reason"] or (await self._try(draft.solution, tests, context)).reason:
            return []
        for number in range(settings.alternatives):
            try:
                solution = await self._another(draft.problem, number, context)
            except RecordError as error:
                told.append(Tried(str(error), "").told("", ()))
                continue
            if solution not in seen:
                seen.add(solution)
                told.append((await self._try(solution, tests, context)).told(solution, tests))
        return told

    async def _another(self, problem: str, number: int, context: Context) -> str:
        settings = self.settings
        if self.prompt_form == "few_shot":
            prompt = self._shots.prompt(context.item.row, self._templates).rsplit("# Problem: ", 1)[0]
            sampling = settings.alternative_sampling.over(settings.few_shot_sampling)
            prompt = f"{prompt}# Problem: {problem}\n"
            answer = await context.ask(prompt=prompt, label="alternative", sample=number, sampling=sampling)
            return answer.text.split("# Tests")[0].strip()
        question = context.render("code/chat/solution.j2", problem=problem, language=settings.language)
        answer = await context.ask(
            chat(question), label="alternative", sample=number, sampling=settings.alternative_sampling
        )
        return self._code(answer.text, answer.truncated)

    async def _try(self, solution: str, tests: Sequence[Any], context: Context) -> Tried:
        settings = self.settings
        problem = await check_source(solution, settings.language, settings.lint, settings.forbidden_imports)
        if problem:
            return Tried(problem, problem)
        if not tests:
            return Tried("tests: none could be read", "There are no tests.")
        verdict = await context.sandbox.verify(solution, as_tests(tests, settings.language), language=settings.language)
        reason = "" if verdict.status == "pass" else f"execution: {verdict.status}"
        return Tried(reason, verdict.feedback, verdict)

    async def _repair(self, draft: Draft, tried: Tried, context: Context, turn: int) -> bool:
        """Ask for a correction; False where the model gave none that can be used."""
        if self.prompt_form == "few_shot":
            return False
        failing = _failing(draft.tests, tried.verdict)
        question = context.render(
            "code/chat/repair.j2",
            problem=draft.problem,
            code=draft.solution,
            failing=[test if isinstance(test, str) else orjson.dumps(test).decode() for test in failing],
            feedback=tried.feedback,
            language=self.settings.language,
        )
        answer = await context.ask(chat(question), label="repair", sample=turn)
        wrong = re.search(r"<verdict>\s*(code|tests)\s*</verdict>", answer.text, re.IGNORECASE)
        try:
            if wrong and wrong.group(1).lower() == "tests":
                corrected = self._read_tests(answer.text)
                if len(corrected) < len(failing):
                    return False  # fewer tests are no correction
                draft.tests = [test for test in draft.tests if test not in failing] + corrected
            else:
                draft.solution = self._code(answer.text, answer.truncated)
        except RecordError:
            return False
        return True


def _failing(tests: Sequence[Any], verdict: Verdict | None) -> list[Any]:
    if verdict is None:
        return []
    return [test for test, outcome in zip(tests, verdict.tests, strict=True) if outcome.status != "pass"]
