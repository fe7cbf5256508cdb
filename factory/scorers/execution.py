"""Execution: a solution is run against its tests, here and now, whatever the generator says it saw.

Two scores: `execution`, 1 where every test passes, and `test_strength`, the share of mutants of the solution that the
tests notice (0 where they pass on a stub that returns None: such tests say nothing).
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import Any
from weakref import WeakValueDictionary

from pydantic import Field

from factory.errors import ScorerError
from factory.generators.base import Context
from factory.generators.code_checks import as_tests
from factory.records import Frozen, Record, Score, content_hash
from factory.sandbox import Verdict

# What the clock, the memory or the machine did may turn out otherwise the next time; these do not.
_REPEATABLE = frozenset(["pass", "wrong", "exception"])
REMEMBERED = 2048  # verdicts


class ExecutionSettings(Frozen):
    """`strength`: measure how strong the tests are."""

    strength: bool = True
    min_tests: int = Field(2, ge=1)  # fewer are no evidence


class Execution:
    """Needs `meta` of a code record: `language`, `solution`, `tests`."""

    uses_sandbox = True
    Settings = ExecutionSettings
    names = ("execution", "test_strength")
    templates: tuple[str, ...] = ()

    def __init__(self, settings: ExecutionSettings) -> None:
        self.settings = settings
        self._verdicts: dict[str, Verdict] = {}
        self._verifying: WeakValueDictionary[str, asyncio.Lock] = WeakValueDictionary()

    async def score(self, record: Record, context: Context) -> Mapping[str, Score]:
        meta = record.meta
        if not {"language", "solution", "tests"} <= set(meta):
            raise ScorerError("the record holds no language, solution and tests; the execution scorer is for code")
        tests, language = list(meta["tests"]), str(meta["language"])
        if len(tests) < self.settings.min_tests:
            return {"execution": Score(value=0.0, reason="too few tests", detail={"passed": 0, "total": len(tests)})}
        verdict = await self._verdict(meta["solution"], tests, language, context)
        detail = {
            "status": verdict.status,
            "passed": verdict.passed,
            "total": verdict.total,
            "trust": verdict.trust,
            "backend": verdict.backend,
        }
        if verdict.status != "pass":
            return {"execution": Score(value=0.0, reason=verdict.status, detail=detail)}
        scores = {"execution": Score(value=1.0, detail=detail)}
        if self.settings.strength:
            scores["test_strength"] = await self._strength(meta["solution"], tests, language, context)
        return scores

    async def _verdict(self, solution: str, tests: list[Any], language: str, context: Context) -> Verdict:
        """Of the sandbox; the same code with the same tests, as models write it again and again, has the verdict that it had."""
        key = content_hash(solution, tests, language)
        async with self._verifying.setdefault(key, asyncio.Lock()):
            verdict = self._verdicts.get(key)
            if verdict is None:
                verdict = await context.sandbox.verify(solution, as_tests(tests, language), language=language)
                if verdict.status in _REPEATABLE:
                    self._verdicts[key] = verdict
                    if len(self._verdicts) > REMEMBERED:
                        del self._verdicts[next(iter(self._verdicts))]
            return verdict

    async def _strength(self, solution: str, tests: list[Any], language: str, context: Context) -> Score:
        found = await context.sandbox.strength(solution, as_tests(tests, language), language=language)
        detail = {"killed": found.killed, "mutants": found.mutants, "stub_fails": found.stub_fails}
        if not found.stub_fails:
            return Score(value=0.0, reason="weak_tests", detail=detail)
        return Score(value=found.share, reason="weak_tests" if found.share < 1 else "", detail=detail)
