"""The sandbox itself: verify a candidate against tests, run a program, measure tests."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from typing import Any

from factory.errors import UserError
from factory.sandbox import judge, mutate, programs
from factory.sandbox.backends import opened
from factory.sandbox.config import SandboxConfig
from factory.sandbox.mutate_text import text_mutants
from factory.sandbox.results import death, read_results
from factory.sandbox.rewrite import Broken, Check, Free, names, parse_tests
from factory.sandbox.slots import Slots
from factory.sandbox.verdict import (
    TRUSTS,
    Execution,
    Outcome,
    Status,
    StdioTest,
    Strength,
    Trust,
    Verdict,
    summarise,
)

_REFUSED = (
    "refused: the test passes something that is not plain data ({}), so only the candidate's own process could run it"
)
_SPOKEN: Mapping[str, Status] = {"pass": "pass", "wrong": "wrong", "exception": "exception"}
NOT_COMPILED = "does not compile"
# Programs that do nothing, for the check that tests notice it.
STUBS = {"javascript": "", "bash": ":", "c": "int main(void) { return 0; }", "cpp": "int main() {}"}
Test = str | StdioTest


class Sandbox:
    """Runs untrusted code in helper processes, `slots` at once. Made by `open_sandbox`."""

    def __init__(self, slots: Slots, settings: Mapping[str, Any]) -> None:
        self._slots, self._settings = slots, settings
        self.backend: str = settings["backend"]
        self.disk_quota = self.backend == "bwrap"

    async def verify(
        self,
        code: str,
        tests: Sequence[Test],
        *,
        language: str = "python",
        entry: str | None = None,
        allow_in_process: bool = False,
        wall: float | None = None,
    ) -> Verdict:
        """Judge `code` by `tests`: runnable statements (Python only) or `StdioTest`s.

        `entry` names the function under test, which tests may also call `candidate`. `wall` replaces the configured
        seconds. Tests that need the candidate's own process are refused (`protocol`) unless `allow_in_process`.
        Raises `SandboxError` when the machine fails, `UserError` for a language that cannot run here.
        """
        case = _Case(self, code, entry, allow_in_process, self._settings["wall"] if wall is None else wall)
        statements = [(place, test) for place, test in enumerate(tests) if isinstance(test, str)]
        programs = [(place, test) for place, test in enumerate(tests) if isinstance(test, StdioTest)]
        if language != "python" and statements:
            raise UserError(
                f"sandbox: {language} is verified by StdioTest (input and output), not by Python statements"
            )
        await case.statements(statements)
        await case.programs(programs, language)
        return case.verdict()

    async def run(self, code: str, *, language: str = "python", stdin: str = "", args: Sequence[str] = ()) -> Execution:
        """Run `code` as a program. Raises like `verify`."""
        test = StdioTest(stdin=stdin, args=tuple(args))
        case = _Case(self, code, None, False, self._settings["wall"])
        report = (await case.reports([test], language))[0]
        why = death(report, case.limits)
        status, _ = judge.exit_status(report, why)
        return Execution(
            status=status,
            stdout=_text(report["stdout"]),
            stderr=_text(report["stderr"]),
            exit_code=report["status"],
            seconds=report["seconds"],
            backend=self.backend,
        )

    async def strength(
        self,
        code: str,
        tests: Sequence[str | StdioTest],
        *,
        language: str = "python",
        entry: str | None = None,
        limit: int = 32,
        seed: int = 0,
    ) -> Strength:
        """What `tests` are worth for the solution `code`: at most `limit` mutants, the choice fixed by `seed`.

        A program in another language is mutated token by token, a quarter as often, since each mutant is compiled and
        started anew; its stub is a program that does nothing. Raises like `verify`.
        """
        baseline = await self.verify(code, tests, language=language, entry=entry)
        if baseline.status != "pass":
            return Strength(baseline=baseline.status, stub_fails=False, mutants=0, killed=0)
        # A mutant that loops is killed by the clock: give it a fair multiple of what the solution took, no more.
        wall = min(self._settings["wall"], 0.5 + 10 * baseline.seconds)
        if language == "python":
            mutants, stub = mutate.mutants(code, limit=limit, seed=seed), mutate.stub(code)
        else:
            mutants, stub = text_mutants(code, limit=max(1, limit // 4), seed=seed), STUBS[language]
        sources = [stub, *(mutant.code for mutant in mutants)]
        verdicts = await asyncio.gather(
            *(self.verify(source, tests, language=language, entry=entry, wall=wall) for source in sources)
        )
        stubbed, *judged = verdicts
        # What does not even compile says nothing about the tests.
        tried = [
            (mutant, verdict)
            for mutant, verdict in zip(mutants, judged, strict=True)
            if language == "python" or not any(outcome.error.startswith(NOT_COMPILED) for outcome in verdict.tests)
        ]
        alive = [mutant.change for mutant, verdict in tried if verdict.status == "pass"]
        return Strength(
            baseline="pass",
            stub_fails=stubbed.status != "pass",
            mutants=len(tried),
            killed=len(tried) - len(alive),
            survivors=tuple(alive[:5]),
        )

    def languages(self) -> list[programs.Language]:
        """What can be verified here, and why not."""
        return programs.languages(self.backend)


def _text(latin: str) -> str:
    return latin.encode("latin-1").decode("utf-8", "backslashreplace")


class _Case:
    """One candidate's way through its tests."""

    def __init__(self, sandbox: Sandbox, code: str, entry: str | None, allow_in_process: bool, wall: float) -> None:
        self.sandbox, self.code, self.entry, self.allow_in_process = sandbox, code, entry, allow_in_process
        self.limits = {**sandbox._settings, "wall": wall}
        self.outcomes: dict[int, Outcome] = {}
        self.trusts: set[Trust] = {"supervisor"}
        self.seconds = 0.0
        self.limit = int(self.limits["output"])

    def verdict(self) -> Verdict:
        """Everything learnt so far, in the order of the tests."""
        outcomes = [self.outcomes[place] for place in sorted(self.outcomes)]
        trust = max(self.trusts, key=TRUSTS.index)
        return summarise(outcomes, trust=trust, backend=self.sandbox.backend, seconds=self.seconds)

    async def _ask(self, message: dict[str, Any], seconds: float) -> dict[str, Any]:
        return await self.sandbox._slots.ask({**message, "wall": self.limits["wall"]}, seconds)

    async def statements(self, tests: Sequence[tuple[int, str]]) -> None:
        """Judge tests that are statements: by comparison where they can be rewritten, else by RPC."""
        parsed = parse_tests([test for _, test in tests], self.code, self.entry)
        checks: list[tuple[int, Check]] = []
        free: list[tuple[int, Free]] = []
        for (place, _), item in zip(tests, parsed, strict=True):
            if isinstance(item, Broken):
                self.outcomes[place] = Outcome(test=item.test, status="protocol", error=item.error)
            elif isinstance(item, Check):
                checks.append((place, item))
            else:
                free.append((place, item))
        free += [(place, Free(item.test)) for place, item in await self._compare(checks)]
        if any(not item.setup for _, item in free):
            await self._remote(sorted(free, key=lambda pair: pair[0]))

    async def _compare(self, checks: list[tuple[int, Check]]) -> list[tuple[int, Check]]:
        """Judge rewritten tests; those whose results are not plain data come back."""
        if not checks:
            return []
        calls = [call for _, item in checks for call in item.calls]
        body = {"mode": "calls", "code": self.code, "calls": calls, "entry": self.entry, "limit": self.limit}
        report = await self._ask({"op": "python", "body": body}, self.limits["wall"])
        self.seconds += report["seconds"]
        load, results = read_results(report["result"], len(calls))
        why = death(report, self.limits)
        if load.kind != "value" or report["reason"] == "output":
            self._all(checks, (load.status, load.text) if load.kind not in ("missing", "value") else why)
            return []
        again = []
        for place, item in checks:
            outcome = judge.check(item, results[: len(item.calls)], why)
            results = results[len(item.calls) :]
            if outcome is None:
                again.append((place, item))
            else:
                self.outcomes[place] = outcome
        return again

    def _all(self, tests: Sequence[tuple[int, Check | Free]], why: judge.Death) -> None:
        for place, item in tests:
            if not (isinstance(item, Free) and item.setup):
                self.outcomes[place] = Outcome(test=item.test, status=why[0], error=why[1])

    async def _remote(self, tests: list[tuple[int, Free]]) -> None:
        """Judge tests as they are written, in a second sandbox that calls the candidate."""
        known = names(self.code, self.entry)
        candidate = {"mode": "serve", "code": self.code, "entry": self.entry, "limit": self.limit}
        tester = {
            "mode": "tester",
            "tests": [item.test for _, item in tests],
            "imports": list(known.imports),
            "names": sorted(known.own),
            "limit": self.limit,
        }
        answer = await self._ask({"op": "rpc", "candidate": candidate, "tester": tester}, self.limits["wall"])
        self.trusts.add("rpc")
        report = answer["candidate"]
        self.seconds += report["seconds"]
        load = judge.loaded(report.get("loaded", ""))
        why = death(report, self.limits)
        if load.kind != "value":
            self._all(tests, (load.status, load.text) if load.kind != "missing" else why)
            return
        verdicts = judge.verdict_lines(answer["verdicts"], answer["nonce"], len(tests))
        refused = []
        for (place, item), said in zip(tests, verdicts, strict=True):
            if said is not None and said[0] == "refused" and self.allow_in_process:
                refused.append((place, item))
            elif not item.setup:
                self.outcomes[place] = self._outcome(item, said, answer, why)
        if refused:
            await self._in_process(refused, [item.test for _, item in tests if item.setup])

    def _outcome(
        self, item: Free, said: tuple[str, str] | None, answer: Mapping[str, Any], why: judge.Death
    ) -> Outcome:
        """What the tester said of one test; without a word, what became of the two processes."""
        if answer["candidate"]["reason"] and (said is None or said[0] == "gone"):
            return Outcome(test=item.test, status=why[0], error=why[1])
        if said is None:
            end, error = death(answer["tester"], self.limits)
            return Outcome(test=item.test, status=end, error=f"the test itself: {error}")
        word, words = said
        if word in _SPOKEN:
            return Outcome(test=item.test, status=_SPOKEN[word], error=words)
        if word == "refused":
            return Outcome(test=item.test, status="protocol", error=_REFUSED.format(words))
        if answer["candidate"]["status"] != 0 and why[0] != "crash":
            return Outcome(test=item.test, status=why[0], error=why[1])
        return Outcome(test=item.test, status="crash", error=words or why[1])

    async def _in_process(self, tests: list[tuple[int, Free]], setup: list[str]) -> None:
        """Run tests beside the candidate, which can fake them: the verdict says so."""
        self.trusts.add("in_process")
        body = {
            "mode": "statements",
            "code": self.code,
            "tests": [*setup, *(item.test for _, item in tests)],
            "entry": self.entry,
            "limit": self.limit,
        }
        report = await self._ask({"op": "python", "body": body}, self.limits["wall"])
        self.seconds += report["seconds"]
        _, results = read_results(report["result"], len(setup) + len(tests))
        why = death(report, self.limits)
        for (place, item), result in zip(tests, results[len(setup) :], strict=True):
            if result.kind == "value":
                self.outcomes[place] = Outcome(test=item.test, status="pass")
            elif result.kind == "missing":
                self.outcomes[place] = Outcome(test=item.test, status=why[0], error=why[1])
            else:
                wrong = result.kind == "exception" and result.name == "AssertionError"
                status = "wrong" if wrong else result.status
                self.outcomes[place] = Outcome(test=item.test, status=status, error=result.text)

    async def programs(self, tests: Sequence[tuple[int, StdioTest]], language: str) -> None:
        """Judge tests by what a program prints."""
        if not tests:
            return
        reports = await self.reports([test for _, test in tests], language)
        for (place, test), report in zip(tests, reports, strict=True):
            outcome = judge.stdio(test, report, death(report, self.limits))
            if report.get("not_compiled"):
                outcome = outcome.model_copy(update={"error": f"{NOT_COMPILED}: {outcome.error}"})
            self.outcomes[place] = outcome

    async def reports(self, tests: Sequence[StdioTest], language: str) -> list[dict[str, Any]]:
        """One run of the program for each test."""
        if language == "python":
            reports = list(await asyncio.gather(*map(self._script, tests)))
        else:
            reports = await self._program(tests, language)
        self.seconds += sum(report["seconds"] for report in reports)
        return reports

    async def _script(self, test: StdioTest) -> dict[str, Any]:
        body = {"mode": "script", "code": self.code, "args": list(test.args)}
        return await self._ask({"op": "python", "body": body, "stdin": test.stdin}, self.limits["wall"])

    async def _program(self, tests: Sequence[StdioTest], language: str) -> list[dict[str, Any]]:
        able = {item.name: item for item in programs.languages(self.sandbox.backend)}
        if language not in able:
            raise UserError(f"sandbox: language={language!r} is not one of {', '.join(able)}")
        if not able[language].ok:
            raise UserError(f"sandbox: {language}: {able[language].why}")
        request = programs.request(language, self.limits["memory"] >> 20)
        runs = [{"stdin": test.stdin, "args": list(test.args)} for test in tests]
        message = {"op": "program", "source": self.code, "runs": runs, **request}
        answer = await self._ask(message, 30 + len(tests) * self.limits["wall"])
        if answer["compiled"] is not None:
            return [{**answer["compiled"], "not_compiled": True}] * len(tests)
        return list(answer["runs"])


@asynccontextmanager
async def open_sandbox(config: SandboxConfig | None = None) -> AsyncIterator[Sandbox]:
    """A sandbox on the first backend whose self-test passes; closing it leaves no process behind.

    Raises `NoIsolation` when there is none and `allow_unsafe` is false.
    """
    async with opened(config or SandboxConfig()) as (slots, settings):
        yield Sandbox(slots, settings)
