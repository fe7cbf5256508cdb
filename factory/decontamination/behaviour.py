"""Functions that do what a problem of an evaluation set asks for, however they are called and described.

Texts do not show it: "the longest of `words`" told in other words is the same problem. The problem's own tests do.
"""

from __future__ import annotations

import ast
from collections.abc import Iterable, Mapping

import orjson

from factory.decontamination.sets import Item
from factory.errors import RecordError
from factory.generators.base import Context
from factory.generators.behaviour import entry_of

CONTAMINATED = "contaminated"  # how the reason begins of a problem that is left out
SECONDS = 0.2  # for one problem's tests; a function that runs longer on them is taken for another one
# Every problem's tests on the function, which must be called by them. It stands behind the code in the sandbox.
_PROGRAM = """
_the_function_ = {function}  # here: inside, its name may be one of ours
def _try():
    import json, signal
    def over(*_): raise TimeoutError
    signal.signal(signal.SIGALRM, over)
    for name, entry, solution, tests in json.loads({problems}):
        calls = []
        def candidate(*given, **named):
            calls.append(1)
            return _the_function_(*given, **named)
        try:
            signal.setitimer(signal.ITIMER_REAL, {seconds})
            space = {{}}
            exec(solution, space)
            space[entry] = candidate
            exec(tests, space)
            if callable(space.get("check")): space["check"](candidate)
            found = bool(calls)
        except BaseException:
            found = False
        finally:
            signal.setitimer(signal.ITIMER_REAL, 0)
        if found: print({mark!r} + name, flush=True)
    print({mark!r}, flush=True)
_try()
"""


class Behaviours:
    """The problems of evaluation sets that have a solution in Python and tests; others say nothing of what they ask."""

    def __init__(self, items: Iterable[Item]) -> None:
        found: dict[int, list[tuple[str, str, str, str]]] = {}
        for item in items:
            entry = entry_of(item.solution) if item.tests.strip() else None
            if entry is not None:
                row = (item.name, entry.name, item.solution, item.tests)
                found.setdefault(_parameters(entry), []).append(row)
        # As they stand in the program, a hundred kilobytes of them: written once.
        self._by_parameters = {count: repr(orjson.dumps(rows).decode()) for count, rows in found.items()}

    async def same(self, code: str, context: Context) -> str | None:
        """The first problem with as many parameters whose tests the last function of `code` passes, run in the sandbox;
        None without one. What `code` prints is not trusted to be silent: the mark is drawn anew.

        Raises `RecordError` where it could not be compared with all of them.
        """
        entry = entry_of(code)
        problems = self._by_parameters.get(_parameters(entry)) if entry else None
        if entry is None or problems is None:
            return None
        mark = f"#{context.rng.getrandbits(64):016x}#"
        values: Mapping[str, object] = {
            "problems": problems, "function": entry.name, "mark": mark, "seconds": SECONDS,
        }  # fmt: skip
        ran = await context.sandbox.run(code + _PROGRAM.format(**values))
        found = [line.removeprefix(mark) for line in ran.stdout.splitlines() if line.startswith(mark)]
        if not found:  # not even the word that all were tried
            raise RecordError("avoid: comparing it with evaluation problems did not come to its end")
        return found[0] or None


def _parameters(entry: ast.FunctionDef) -> int:
    return len(entry.args.posonlyargs) + len(entry.args.args)
