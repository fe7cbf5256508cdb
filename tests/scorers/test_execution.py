"""The execution scorer: what models write again and again is run once."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from factory.records import Message, Record
from factory.sandbox import Verdict
from factory.scorers import execution
from factory.scorers.execution import Execution, ExecutionSettings

TESTS = ["assert f(1) == 2", "assert f(2) == 3"]


class Box:
    """Says of each code what `says` has, and counts; `begun` is set while one is being judged."""

    def __init__(self, **says: str) -> None:
        self.says, self.asked = says, list[str]()
        self.sandbox = self

    async def verify(self, code: str, tests: list[str], *, language: str) -> Verdict:
        self.asked.append(code)
        await asyncio.sleep(0.01)
        return Verdict(status=self.says.get(code, "wrong"), passed=0, total=len(tests))


def record(code: str, tests: list[str] = TESTS) -> Record:
    meta = {"language": "python", "solution": code, "tests": tests}
    return Record(id=code, task="t", messages=(Message(role="user", content="?"),), meta=meta)


def judged(box: Any, *records: Record) -> list[str]:
    scorer = Execution(ExecutionSettings(strength=False))

    async def all_at_once() -> list[str]:
        found = await asyncio.gather(*(scorer.score(one, box) for one in records))
        again = [await scorer.score(one, box) for one in records]
        assert again == found
        return [scores["execution"].reason for scores in found]

    return asyncio.run(all_at_once())


def test_the_same_code_with_the_same_tests_is_run_once_at_once_or_later() -> None:
    box = Box(a="exception")
    assert judged(box, record("a"), record("a"), record("b"), record("a", TESTS[:1] * 2)) == [
        "exception",
        "exception",
        "wrong",
        "exception",
    ]
    assert sorted(box.asked) == ["a", "a", "b"]


def test_what_the_clock_or_the_machine_did_is_tried_again() -> None:
    box = Box(a="timeout")
    judged(box, record("a"), record("a"))
    assert box.asked == ["a"] * 4


def test_no_more_is_remembered_than_a_bound(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(execution, "REMEMBERED", 2)
    box: Any = Box()
    scorer = Execution(ExecutionSettings(strength=False))

    async def in_turn() -> None:
        for code in "abcca":
            await scorer.score(record(code), box)

    asyncio.run(in_turn())
    assert box.asked == list("abca")


def test_a_sandbox_that_fails_is_not_a_verdict_for_the_next() -> None:
    class Failing(Box):
        async def verify(self, code: str, tests: list[str], *, language: str) -> Verdict:
            if not self.asked:
                self.asked.append(code)
                raise RuntimeError("the machine")
            return await super().verify(code, tests, language=language)

    async def both() -> None:
        box: Any = Failing(a="pass")
        scorer = Execution(ExecutionSettings(strength=False))
        found = await asyncio.gather(*(scorer.score(record("a"), box) for _ in range(2)), return_exceptions=True)
        assert isinstance(found[0], RuntimeError)
        assert not isinstance(found[1], BaseException)
        assert found[1]["execution"].value == 1.0

    asyncio.run(both())
