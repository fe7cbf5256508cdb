"""Reading what a sandboxed process left behind. Total: anything odd is a fail of the candidate, never an error here."""

from __future__ import annotations

import signal
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from factory.sandbox.inside.plain import NotPlain, decode, parse
from factory.sandbox.verdict import Status

Kind = Literal["value", "not_plain", "too_big", "exception", "missing", "malformed"]


@dataclass(frozen=True)
class Result:
    """One line of a candidate. `value` counts only for kind `value`; `text` is for people; `line` is in the solution."""

    kind: Kind
    value: Any = None
    name: str = ""
    text: str = ""

    @property
    def status(self) -> Status:
        """The verdict on a test whose result this is, when it is no value."""
        if self.kind == "exception":
            return "memory" if self.name == "MemoryError" else "exception"
        return "output" if self.kind == "too_big" else "wrong" if self.kind == "not_plain" else "protocol"


def read_line(tree: Any) -> Result:
    """One parsed line as a result."""
    try:
        kind, *rest = tree
        if kind == "v" and len(rest) == 1:
            return Result("value", decode(rest[0]))
        if kind == "n":
            name, text = rest
            return Result("not_plain", name=str(name), text=str(text))
        if kind == "x":
            return Result("too_big", text=str(rest[0]))
        if kind == "e":
            name, text, line, _ = rest
            where = f" (line {int(line)})" if line else ""
            return Result("exception", name=str(name), text=f"{name}: {text}{where}")
    except (NotPlain, ValueError, TypeError, IndexError, KeyError):
        pass
    return Result("malformed", text="the process answered with something that is no answer")


def read_results(text: str, calls: int) -> tuple[Result, list[Result]]:
    """The line about loading and one result a call, in order. More lines than asked for spoil them all."""
    lines = text.split("\n")
    if len(lines) > calls + 2 or (len(lines) == calls + 2 and lines[-1]):
        bad = Result("malformed", text="the process answered more often than it was asked")
        return bad, [bad] * calls
    results = []
    for line in lines[:-1]:
        try:
            results.append(read_line(parse(line)))
        except NotPlain:
            results.append(Result("malformed", text="the process answered with something that is no answer"))
    missing = Result("missing")
    results += [missing] * (calls + 1 - len(results))
    return results[0], results[1:]


def death(report: Mapping[str, Any], limits: Mapping[str, Any]) -> tuple[Status, str]:
    """Why a process ended before it had answered all, from what its keeper saw."""
    reason, status = report["reason"], report["status"]
    if reason == "timeout":
        return "timeout", f"Timed out after {limits['wall']:g} s."
    if reason == "output":
        return "output", f"Printed or returned more than {limits['output'] >> 10} KB."
    if reason == "memory":
        return "memory", f"Used more memory than {limits['memory'] >> 20} MB."
    if reason == "protocol":
        return "protocol", "Spoke out of turn to the supervisor."
    # The kernel's clocks of the limit and of the usage differ a little.
    if status == -signal.SIGXCPU or (status == -signal.SIGKILL and report["cpu"] >= 0.8 * limits["cpu"]):
        return "cpu", f"Used more than {limits['cpu']} s of CPU."
    tail = report["stderr"][-2000:]
    if "MemoryError" in tail or "bad_alloc" in tail or "heap out of memory" in tail:
        return "memory", f"Ran out of memory ({limits['memory'] >> 20} MB)."
    if status < 0:
        return "crash", f"The process was killed by {_signal(-status)}."
    return "crash", f"The process exited (status {status}) instead of returning."


def _signal(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"
