"""From what came back to outcomes: the supervisor's comparison, on plain data only. Pure and total."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from factory.sandbox.evaluate import TooMuch, evaluate, show
from factory.sandbox.inside.plain import NotPlain, parse
from factory.sandbox.results import Result, read_line
from factory.sandbox.rewrite import Check, Condition
from factory.sandbox.verdict import Outcome, Status, StdioTest

Death = tuple[Status, str]


class _NoValue(Exception):
    """A condition needs the result of a call that gave none."""

    def __init__(self, result: Result) -> None:
        self.result = result


def check(item: Check, results: Sequence[Result], death: Death) -> Outcome | None:
    """The outcome of a rewritten test; None when a result is not plain data, so that only the RPC form can tell.

    `death` is why the process ended, for calls that it left unanswered.
    """

    def hole(name: str) -> Any:
        result = results[int(name[1:])]
        if result.kind != "value":
            raise _NoValue(result)
        return result.value

    for condition in item.conditions:
        try:
            if evaluate(condition.node, hole):
                continue
        except _NoValue as stop:
            if stop.result.kind == "not_plain":
                return None
            status, error = death if stop.result.kind == "missing" else (stop.result.status, stop.result.text)
            return Outcome(test=item.test, status=status, expected=condition.expected, error=error)
        except TooMuch as error:
            return Outcome(test=item.test, status="output", error=f"The test asks for {error}.")
        except Exception as error:  # what the assert itself would have raised, None < 3 for one
            text = f"{type(error).__name__}: {error}"[:400]
            return Outcome(test=item.test, status="exception", got=_got(condition, hole), error=text)
        return Outcome(test=item.test, status="wrong", got=_got(condition, hole), expected=condition.expected)
    return Outcome(test=item.test, status="pass")


def _got(condition: Condition, hole: Any) -> str:
    """The results in the condition; of an equality with one known side, the other side's value."""
    try:
        if condition.computed is not None:
            return show(evaluate(condition.computed, hole))
        return ", ".join(show(hole(name), 150) for name in condition.holes)
    except Exception:
        return ""


def verdict_lines(lines: Sequence[str], nonce: str, count: int) -> list[tuple[str, str] | None]:
    """The tester's status and words for each test; None where it gave none, or gave it without the nonce."""
    found: list[tuple[str, str] | None] = [None] * count
    for line in lines:
        try:
            said, index, status, words = parse(line)
            if said == nonce and isinstance(index, int) and found[index] is None:
                found[index] = (str(status), str(words))
        except (NotPlain, ValueError, TypeError, IndexError):
            continue
    return found


def loaded(text: str) -> Result:
    """The candidate's line about its loading, from an RPC."""
    try:
        return read_line(parse(text)) if text else Result("missing")
    except NotPlain:
        return Result("malformed", text="the process answered with something that is no answer")


def _normal(text: str) -> list[str]:
    return [line.rstrip() for line in text.rstrip().splitlines()]


def stdio(test: StdioTest, report: Mapping[str, Any], death: Death) -> Outcome:
    """The outcome of one run of a program: its exit, then its output against what was expected."""
    name = f"stdin: {show(test.stdin, 150)}" + (f" args: {list(test.args)}" if test.args else "")
    output = report["stdout"].encode("latin-1").decode("utf-8", "backslashreplace")
    status, error = exit_status(report, death)
    shown = {"got": show(output), "expected": show(test.expected_stdout)}
    if status != "pass":
        return Outcome(test=name, status=status, error=error, **shown)
    if _normal(output) == _normal(test.expected_stdout):
        return Outcome(test=name, status="pass")
    return Outcome(test=name, status="wrong", **shown)


def exit_status(report: Mapping[str, Any], death: Death) -> tuple[Status, str]:
    """A program's end as a status: 0 is `pass`, another exit code `exception`, anything else why it died."""
    if report["status"] == 0 and not report["reason"]:
        return "pass", ""
    if report["status"] > 0 and not report["reason"] and death[0] == "crash":
        lines = report["stderr"].strip().splitlines()
        return "exception", f"exit status {report['status']}: {' | '.join(lines[-3:])[-400:]}"
    return death
