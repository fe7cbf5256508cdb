"""What the sandbox answers: verdicts, executions, the strength of tests."""

from __future__ import annotations

from typing import Literal, get_args

from factory.errors import RecordError
from factory.records import Frozen

Status = Literal["pass", "wrong", "exception", "timeout", "cpu", "memory", "output", "crash", "protocol", "infra_error"]
Trust = Literal["supervisor", "rpc", "in_process"]
STATUSES: tuple[Status, ...] = get_args(Status)
# The least trusted way in which any test was judged labels the whole verdict.
TRUSTS: tuple[Trust, ...] = get_args(Trust)
_SHOWN, _TESTS_SHOWN = 400, 3


class SandboxError(RecordError):
    """The machine failed, twice, on two workers: says nothing about the candidate, so it is never a verdict."""

    final = False  # another run may find the machine in better health


class StdioTest(Frozen):
    """A test of a whole program: what it reads, and what it must print. Trailing white space of lines is ignored."""

    stdin: str = ""
    expected_stdout: str = ""
    args: tuple[str, ...] = ()


class Outcome(Frozen):
    """One test's fate. `got` and `expected` are capped representations; `error` says what went wrong, if anything."""

    test: str
    status: Status
    got: str = ""
    expected: str = ""
    error: str = ""


class Verdict(Frozen):
    """A candidate's verdict. `pass` only if there was at least one test and each one passed.

    `status` is the first failing test's. `feedback` is fit to be shown to a model. `backend` names what isolated it.
    """

    status: Status
    passed: int
    total: int
    tests: tuple[Outcome, ...] = ()
    feedback: str = ""
    trust: Trust = "supervisor"
    backend: str = ""
    seconds: float = 0.0

    @property
    def share(self) -> float:
        """Passed tests over all tests, 0 without tests."""
        return self.passed / self.total if self.total else 0.0


class Execution(Frozen):
    """One run of a program. `status` is `pass` for exit code 0, `exception` for another code, `crash` for a signal."""

    status: Status
    stdout: str
    stderr: str
    exit_code: int
    seconds: float
    backend: str


class Strength(Frozen):
    """What tests are worth: do they fail when the solution does nothing, and how many of its mutants do they catch?

    `baseline` is the verdict's status on the solution itself: unless it is `pass`, no mutant was tried and `share` is 0.
    `survivors` are a few mutants that no test noticed, as `line: before -> after`.
    """

    baseline: Status
    stub_fails: bool
    mutants: int
    killed: int
    survivors: tuple[str, ...] = ()

    @property
    def share(self) -> float:
        """Killed mutants over all mutants. A solution without mutants has nothing to get wrong: 1 if the stub fails."""
        if self.baseline != "pass":
            return 0.0
        return self.killed / self.mutants if self.mutants else float(self.stub_fails)


def shorten(text: str, limit: int = _SHOWN) -> str:
    """At most `limit` characters, the middle left out."""
    if len(text) <= limit:
        return text
    half = (limit - 5) // 2
    return f"{text[:half]} ... {text[-half:]}"


def summarise(outcomes: list[Outcome], *, trust: Trust, backend: str, seconds: float, error: str = "") -> Verdict:
    """The verdict that follows from the tests' outcomes; `error` is said when there is nothing else to say."""
    passed = sum(outcome.status == "pass" for outcome in outcomes)
    failing = [outcome for outcome in outcomes if outcome.status != "pass"]
    if not outcomes:
        status: Status = "protocol"
        feedback = error or "There are no tests, so nothing was verified."
    elif not failing:
        status, feedback = "pass", f"All {passed} tests passed."
    else:
        status = failing[0].status
        feedback = _feedback(failing, passed, len(outcomes))
    return Verdict(
        status=status,
        passed=passed,
        total=len(outcomes),
        tests=tuple(outcomes),
        feedback=feedback,
        trust=trust,
        backend=backend,
        seconds=seconds,
    )


def _feedback(failing: list[Outcome], passed: int, total: int) -> str:
    if all(outcome.error and outcome.error == failing[0].error for outcome in failing) and len(failing) == total:
        return f"No test passed. {shorten(failing[0].error)}"
    lines = [f"{passed} of {total} tests passed. Failing:"]
    for outcome in failing[:_TESTS_SHOWN]:
        lines.append(f"- {shorten(outcome.test)}")
        if outcome.got or outcome.expected:
            lines.append(f"  expected {shorten(outcome.expected)}, got {shorten(outcome.got)}")
        if outcome.error:
            lines.append(f"  {shorten(outcome.error)}")
    if len(failing) > _TESTS_SHOWN:
        lines.append(f"- and {len(failing) - _TESTS_SHOWN} more")
    return "\n".join(lines)
