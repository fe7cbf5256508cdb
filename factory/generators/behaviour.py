"""What a Python function does, as tests: inputs by its annotations or by a model, outputs by running it in the sandbox."""

from __future__ import annotations

import ast
import copy
import random
from collections.abc import Sequence
from typing import Any

import orjson

from factory.errors import RecordError
from factory.generators.base import Context

INPUTS_SCHEMA: dict[str, Any] = {"type": "array", "minItems": 1, "items": {"type": "array"}}
MAX_OUTPUT = 300  # characters of an expected value
_WORDS = (
    "",
    "a",
    "Oak tree",
    "level",
    "42",
    "to be or not to be",
    "Hello, World!",
    "ab ba",
    "x-1",
    "  two  ",
    "AAAb",
    "Noon",
)
_NUMBERS = (0, 1, -1, 2, 3, 5, 7, 10, 12, 25, 60, 99, 100, -8)


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


def drawn_inputs(entry: ast.FunctionDef, rng: random.Random, count: int) -> list[list[Any]] | None:
    """Arguments drawn by the annotations; None where a parameter has none, or one of another kind."""
    arguments = entry.args
    if arguments.vararg or arguments.kwarg or any(default is None for default in arguments.kw_defaults):
        return None
    parameters = [*arguments.posonlyargs, *arguments.args]
    kinds = [parameter.annotation for parameter in parameters]
    try:
        return [[_value(kind, rng) for kind in kinds] for _ in range(count)]
    except NotImplementedError:
        return None


def _value(kind: ast.expr | None, rng: random.Random) -> Any:
    match kind:
        case ast.Name(id="int"):
            return rng.choice(_NUMBERS)
        case ast.Name(id="float"):
            return rng.choice(_NUMBERS) / 4
        case ast.Name(id="bool"):
            return rng.random() < 0.5
        case ast.Name(id="str"):
            return rng.choice(_WORDS)
        case ast.Subscript(value=ast.Name(id="list"), slice=inner):
            return [_value(inner, rng) for _ in range(rng.randint(0, 5))]
        case ast.Subscript(value=ast.Name(id="dict"), slice=ast.Tuple(elts=[key, inner])):
            return {_value(key, rng): _value(inner, rng) for _ in range(rng.randint(0, 4))}
    raise NotImplementedError


async def observed_tests(code: str, inputs: Sequence[Sequence[Any]], context: Context) -> list[str]:
    """`assert f(input) == output` for each input on which the function answers with plain data, the same twice.

    Inputs that raise are left out, and so are repeated ones.
    """
    entry = entry_of(code)
    if entry is None:
        return []
    calls = list(dict.fromkeys(", ".join(map(repr, arguments)) for arguments in inputs))
    first = await _outputs(code, entry.name, calls, context)
    second = await _outputs(code, entry.name, calls, context)
    same = {number: output for number, output in first.items() if second.get(number) == output}
    if first and not same:
        raise RecordError("original: its results change from run to run")
    return [f"assert {entry.name}({calls[number]}) == {output}" for number, output in sorted(same.items())]


async def _outputs(code: str, name: str, calls: Sequence[str], context: Context) -> dict[int, str]:
    """The representation of each call's result, by the call's number, where it reads back as the same plain data."""
    mark = f"#{context.rng.getrandbits(64):016x}#"
    lines = [code, "import json as _json"]
    for number, call in enumerate(calls):
        lines.append(f"try: print({mark!r} + _json.dumps([{number}, repr({name}({call}))]))\nexcept Exception: pass")
    ran = await context.sandbox.run("\n".join(lines))
    found: dict[int, str] = {}
    for line in ran.stdout.splitlines():
        if not line.startswith(mark):
            continue
        try:
            number, text = orjson.loads(line.removeprefix(mark))
            if len(text) <= MAX_OUTPUT and repr(ast.literal_eval(text)) == text:
                found[int(number)] = text
        except (ValueError, TypeError, SyntaxError, MemoryError, RecursionError):
            continue
    return found


def outputs_differ(tests: Sequence[str]) -> bool:
    """Whether tests expect two different things at least: one answer to everything shows nothing."""
    return len({test.rsplit(" == ", 1)[-1] for test in tests}) > 1
