"""From a problem to a solution that was run: parser, linter, tests that the model writes without seeing the solution, corrections
with the sandbox's feedback, and further answers to a problem that was solved (Llama 3.1 report, section 4.3.1)."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import orjson
from pydantic import Field

from factory.engine.request import Sampling
from factory.engine.structured import parse_json
from factory.errors import RecordError
from factory.generators.base import Context, GeneratorSettings, chat
from factory.generators.code_checks import TEST_SCHEMA, as_tests, check_source, linter_problem, python_tests, signature
from factory.generators.few_shot import ATTEMPT, DATA, FewShot, expected_values, stated_cases
from factory.generators.parsing import fenced_code
from factory.prompts import Templates
from factory.sandbox import Verdict

Language = Literal["python", "javascript", "bash", "c", "cpp"]
FENCES: dict[str, tuple[str, ...]] = {
    "python": ("python", "py", "python3"),
    "javascript": ("javascript", "js", "node"),
    "bash": ("bash", "sh", "shell"),
    "c": ("c",),
    "cpp": ("cpp", "c++", "cxx"),
}


class SolveSettings(GeneratorSettings):
    """`hidden_tests` are kept from the correction loop; `repairs` bounds it.

    `alternatives` further answers are asked for once a solution passed; those that fail make preference pairs.
    """

    language: Language = "python"
    repairs: int = Field(2, ge=0)
    hidden_tests: int = Field(2, ge=0)
    max_tests: int = Field(12, ge=2)
    lint: tuple[str, ...] = ()
    forbidden_imports: tuple[str, ...] = ()
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


class Solver:
    """Solves problems for a generator. `sample` tells apart several problems of one item."""

    def __init__(self, settings: SolveSettings, templates: Templates, prompt_form: str) -> None:
        self.settings, self.prompt_form, self._templates = settings, prompt_form, templates
        if prompt_form == "few_shot":
            self.templates: Sequence[str] = (ATTEMPT, *DATA)
        else:
            self.templates = tuple(f"code/chat/{name}.j2" for name in ("solution", "tests", "repair"))
        self._few_shot: FewShot | None = None

    def check(self) -> list[str]:
        prompts = [name for name in self.templates if name.endswith(".j2")]
        problems = [problem for name in prompts for problem in self._templates.check(name)]
        if self.settings.lint and self.settings.language == "python" and (problem := linter_problem()):
            problems.append(problem)
        if self.prompt_form == "few_shot" and self.settings.language != "python":
            problems.append("the few-shot prompts are for task.language=python; for others use a chat model")
        return problems

    @property
    def shots(self) -> FewShot:
        if self._few_shot is None:
            self._few_shot = FewShot(self._templates)
        return self._few_shot

    def drafted(self, problem: str, solution: str, tests: Sequence[str]) -> Draft:
        """A few-shot attempt's parts; the cases that the problem states are the hidden tests. Raises `RecordError`."""
        if len(tests) < 2:
            raise RecordError("tests: fewer than two could be read")
        if len(expected_values(tests)) < 2:
            raise RecordError("tests: all expect the same value")
        hidden = stated_cases(problem)
        if not hidden:
            raise RecordError("problem: states no case to check it by")
        return Draft(
            problem, solution, list(tests[: self.settings.max_tests]), [test for test in hidden if test not in tests]
        )

    async def draft(self, problem: str, context: Context, sample: int = 0) -> Draft:
        """A chat model's solution and tests; part of these stays hidden."""
        settings, draft = self.settings, Draft(problem)
        question = context.render("code/chat/solution.j2", problem=problem, language=settings.language)
        answer = await context.ask(chat(question), label="solution", sample=sample)
        draft.solution = self._code(answer.text, answer.truncated)
        tests = await self._ask_tests(draft, context, sample)
        keep = max(1, len(tests) - settings.hidden_tests)
        draft.tests, draft.hidden = tests[:keep], tests[keep:]
        return draft

    def _code(self, text: str, truncated: bool) -> str:
        code = fenced_code(text, FENCES[self.settings.language])
        if code is None or not code.strip():
            raise RecordError("parse: the answer is cut off" if truncated else "parse: no code block")
        return code

    async def _ask_tests(self, draft: Draft, context: Context, sample: int) -> list[Any]:
        """Tests from the problem and the solution's signature alone, so that they do not repeat its mistakes."""
        settings = self.settings
        question = context.render(
            "code/chat/tests.j2",
            problem=draft.problem,
            signature=signature(draft.solution, settings.language),
            language=settings.language,
        )
        answer = await context.ask(chat(question), label="tests", sample=sample)
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

    async def correct(self, draft: Draft, context: Context, sample: int = 0) -> None:
        """Run; while it fails and turns are left, ask for a correction. Every attempt is written down."""
        for turn in range(self.settings.repairs + 1):
            tried = await self._try(draft.solution, draft.tests, context)
            draft.attempts.append(tried.told(draft.solution, draft.tests))
            if not tried.reason or turn == self.settings.repairs:
                return
            if not await self._repair(draft, tried, context, sample * (self.settings.repairs + 1) + turn):
                return

    async def alternatives(self, draft: Draft, context: Context, topic: str, sample: int = 0) -> list[dict[str, Any]]:
        """Other answers to a problem whose solution passes, each with its verdict; equal ones are left out.

        `topic` is the set of examples that the few-shot form shows."""
        settings, seen, told = self.settings, {draft.solution}, []
        tests = [*draft.tests, *draft.hidden]
        if draft.attempts[-1]["reason"] or (await self._try(draft.solution, tests, context)).reason:
            return []
        for number in range(settings.alternatives):
            try:
                solution = await self._another(draft.problem, topic, sample * settings.alternatives + number, context)
            except RecordError as error:
                told.append(Tried(str(error), "").told("", ()))
                continue
            if solution not in seen:
                seen.add(solution)
                told.append((await self._try(solution, tests, context)).told(solution, tests))
        return told

    async def _another(self, problem: str, topic: str, number: int, context: Context) -> str:
        settings = self.settings
        if self.prompt_form == "few_shot":
            sampling = settings.alternative_sampling.over(settings.few_shot_sampling)
            prompt = self.shots.prompt_for(problem, topic, self._templates)
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

    async def _repair(self, draft: Draft, tried: Tried, context: Context, sample: int) -> bool:
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
        answer = await context.ask(chat(question), label="repair", sample=sample)
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


def told(draft: Draft, language: str) -> dict[str, Any]:
    """What a code record's `meta` says of a draft."""
    return {
        "language": language,
        "problem": draft.problem,
        "solution": draft.solution,
        "tests": [*draft.tests, *draft.hidden],
        "hidden_tests": len(draft.hidden),
        "attempts": draft.attempts,
    }


def lost(draft: Draft) -> str:
    """Why a draft needs no scorer; nothing where it ran, which leaves the verdict to them."""
    last = draft.attempts[-1]
    return "" if last["verdict"] is not None else str(last["reason"])
