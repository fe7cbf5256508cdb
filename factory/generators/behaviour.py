"""What a Python function does, as tests: outputs by running it in the sandbox (the inputs: `factory.generators.inputs`)."""

from __future__ import annotations

import ast
import copy
import functools
import itertools
from collections.abc import Sequence
from typing import Any

import orjson

from factory.errors import RecordError
from factory.generators.base import Context

INPUTS_SCHEMA: dict[str, Any] = {"type": "array", "minItems": 1, "items": {"type": "array"}}
MAX_OUTPUT = 300  # characters of an expected value


def entry_of(code: str) -> ast.FunctionDef | None:
    """The last function at the top of the code, which is the one that others serve; None without one."""
    try:
        tree = ast.parse(code)
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return None
    return next((node for node in reversed(tree.body) if isinstance(node, ast.FunctionDef)), None)


def head(code: str, called: str = "") -> str:
    """The function's `def` line under its own name or another, decorators and body left out; nothing without a function."""
    entry = entry_of(code)
    if entry is None:
        return ""
    bare = copy.copy(entry)
    bare.body, bare.decorator_list, bare.name = [ast.Pass()], [], called or entry.name
    return ast.unparse(bare).rsplit("\n", 1)[0]


async def observed_tests(code: str, calls: Sequence[str], context: Context) -> list[str]:
    """`assert f(call) == output` for each call on which the function answers with plain data, the same twice.

    Calls that raise are left out. Raises `RecordError` where nothing comes out the same twice.
    """
    entry = entry_of(code)
    if entry is None:
        return []
    first = await _outputs(code, entry.name, calls, context)
    second = await _outputs(code, entry.name, calls, context)
    first = {number: output for number, output in first.items() if _is_plain(output)}
    same = {number: output for number, output in first.items() if second.get(number) == output}
    if first and not same:
        raise RecordError("original: its results change from run to run")
    return [f"assert {entry.name}({calls[number]}) == {output}" for number, output in sorted(same.items())]


async def _outputs(code: str, name: str, calls: Sequence[str], context: Context) -> dict[int, str]:
    """The representation of each call's result, by the call's number. Whether it is plain data is not yet looked at."""
    mark = f"#{context.rng.getrandbits(64):016x}#"
    lines = [code, "import json as _json"]
    for number, call in enumerate(calls):
        # Flushed, so that a call without end takes no earlier one's result with it.
        lines.append(
            f"try:\n    _shown = repr({name}({call}))\n"
            f"    if len(_shown) <= {MAX_OUTPUT}: print({mark!r} + _json.dumps([{number}, _shown]), flush=True)\n"
            "except Exception: pass"
        )
    ran = await context.sandbox.run("\n".join(lines))
    found: dict[int, str] = {}
    for line in ran.stdout.splitlines():
        if not line.startswith(mark):
            continue
        try:
            number, text = orjson.loads(line.removeprefix(mark))
            if isinstance(text, str) and len(text) <= MAX_OUTPUT:
                found[int(number)] = text
        except (ValueError, TypeError):
            continue
    return found


@functools.lru_cache(maxsize=4096)
def _is_plain(text: str) -> bool:
    """Whether a representation reads back as the same plain data."""
    try:
        return repr(ast.literal_eval(text)) == text
    except (ValueError, TypeError, SyntaxError, MemoryError, RecursionError):
        return False


async def likeliest_calls(code: str, combinations: Sequence[Sequence[str]], context: Context) -> list[str]:
    """Of several sets of calls the one that gives the most different results; of equal ones the first."""
    entry = entry_of(code)
    if entry is None or not combinations:
        return []
    calls = [call for combination in combinations for call in combination]
    outputs, best, start = await _outputs(code, entry.name, calls, context), (0, 0), 0
    found: Sequence[str] = ()
    for combination in combinations:
        numbers = range(start, start + len(combination))
        results = [outputs[number] for number in numbers if number in outputs and _is_plain(outputs[number])]
        start += len(combination)
        if (told := (len(set(results)), len(results))) > best:
            best, found = told, combination
    return list(found)


def telling(tests: Sequence[str], most: int) -> list[str]:
    """At most so many of the tests, in their order: one of each result, then a second of each, and so on. Of a function that
    is true of few inputs half the tests are then true, if there are so many; drawn ones would nearly all be false."""
    by_result: dict[str, list[str]] = {}
    for test in dict.fromkeys(tests):
        by_result.setdefault(_expected(test), []).append(test)
    turns = itertools.chain.from_iterable(itertools.zip_longest(*by_result.values()))
    chosen = set(itertools.islice((test for test in turns if test is not None), most))
    return [test for test in tests if test in chosen]


def outputs_differ(tests: Sequence[str]) -> bool:
    """Whether tests expect two different things at least: one answer to everything shows nothing."""
    return len(set(map(_expected, tests))) > 1


def _expected(test: str) -> str:
    return test.rsplit(" == ", 1)[-1]
