"""Inputs to call a Python function with: its docstring's examples, draws by its annotations, or else by trial.

A call is the text of its arguments, as `[1, 2], "a"`; everything in it is plain data.
"""

from __future__ import annotations

import ast
import doctest
import itertools
import random
from collections.abc import Mapping, Sequence
from typing import Any

Kind = ast.expr


class OtherKind(Exception):
    """A kind of value that is not drawn: more than plain data, or not told."""


TRIALS = 16  # combinations of kinds that are tried where a function does not say what it takes
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
_NUMBERS = (0, 1, -1, 2, -2, 3, 4, 5, -5, 7, 10, 12, 25, 60, 99, 100, -8)
_UNKNOWN = tuple(
    ast.parse(kind, mode="eval").body
    for kind in ("str", "int", "list[int]", "list[str]", "float", "dict[str, int]", "bool")
)
_NAMED = {
    "str": "s string text word name line path prefix suffix sep char key value title label message filename url first second",
    "int": "n i j k x y a b num number count size width height length index total start stop end step limit year base",
    "list[int]": "xs lst list nums numbers values items seq sequence array arr data iterable",
    "list[str]": "words lines names strings args parts",
    "dict[str, int]": "d dct dictionary mapping counts",
    "bool": "flag reverse strict",
}
_HINTS = {name: kind for kind, names in _NAMED.items() for name in names.split()}


def example_calls(entry: ast.FunctionDef) -> list[str]:
    """The calls in the docstring's `>>>` examples whose arguments are plain data, in order."""
    found: dict[str, None] = {}
    try:
        examples = doctest.DocTestParser().get_examples(ast.get_docstring(entry) or "")
    except ValueError:  # a docstring that is not well formed
        return []
    for example in examples:
        try:
            call = ast.parse(example.source, mode="eval").body
            if isinstance(call, ast.Call) and isinstance(call.func, ast.Name) and call.func.id == entry.name:
                for argument in [*call.args, *(keyword.value for keyword in call.keywords)]:
                    ast.literal_eval(argument)
                start = ast.unparse(call)
                found[start.removeprefix(f"{entry.name}(").removesuffix(")")] = None
        except (SyntaxError, ValueError, TypeError, MemoryError, RecursionError):
            continue
    return list(found)


def drawn_inputs(entry: ast.FunctionDef, rng: random.Random, count: int) -> list[list[Any]] | None:
    """Arguments drawn by the annotations, every second time with `related` ones; None where a parameter has none, or one of
    another kind."""
    arguments = entry.args
    if arguments.vararg or arguments.kwarg or any(default is None for default in arguments.kw_defaults):
        return None
    parameters = [*arguments.posonlyargs, *arguments.args]
    constants = _constants(entry)
    try:
        drawn = [[_value(parameter.annotation, rng, constants) for parameter in parameters] for _ in range(count)]
    except OtherKind:
        return None
    return _half_related(drawn, rng)


def _half_related(drawn: Sequence[Sequence[Any]], rng: random.Random) -> list[list[Any]]:
    return [related(arguments, rng) if place % 2 else list(arguments) for place, arguments in enumerate(drawn)]


def related(arguments: Sequence[Any], rng: random.Random) -> list[Any]:
    """The arguments, some of them taken out of others: an element, a key, a place, a part of a string. What a function does
    with a key that the dictionary has, or a prefix that the string begins with, independent draws hardly ever show."""
    found = list(arguments)
    for place, value in enumerate(found):
        wholes = [
            other for at, other in enumerate(found) if at != place and isinstance(other, str | list | dict) and other
        ]
        if not wholes or rng.random() < 0.4:
            continue
        whole = rng.choice(wholes)
        elements = [element for element in whole if type(element) is type(value)]
        if isinstance(value, str) and isinstance(whole, str):
            start = rng.choice((0, rng.randrange(len(whole)), max(0, len(whole) - 2)))
            found[place] = whole[start : start + rng.randint(1, 3)]
        elif type(value) is int and (not elements or rng.random() < 0.5):
            found[place] = rng.randint(0, len(whole))
        elif elements:
            found[place] = rng.choice(elements)
        elif isinstance(value, list) and isinstance(whole, list) and value and type(value[0]) is type(whole[0]):
            found[place] = [*rng.choices(whole, k=rng.randint(1, 3)), *value[:2]]
    return found


def as_calls(inputs: Sequence[Sequence[Any]]) -> list[str]:
    """Each list of arguments as the text of a call, every one once."""
    return list(dict.fromkeys(", ".join(map(repr, arguments)) for arguments in inputs))


def guesses(entry: ast.FunctionDef, rng: random.Random, each: int) -> list[list[str]]:
    """`each` calls for every one of the likeliest combinations of kinds of argument, likeliest first.

    A parameter is what its annotation, its default or its name says; else every kind is tried. Parameters with a default
    are left out of some calls, and every second one has `related` arguments. Nothing where a parameter must be given by name, or takes what is no plain data.
    """
    arguments = entry.args
    if any(default is None for default in arguments.kw_defaults):
        return []
    parameters = [*arguments.posonlyargs, *arguments.args]
    needed = len(parameters) - len(arguments.defaults)
    choices: list[Sequence[Kind]] = []
    for place, parameter in enumerate(parameters):
        kinds = _kinds(parameter, arguments.defaults[place - needed] if place >= needed else None)
        if not kinds and place >= needed:
            break  # it and those behind it keep their defaults
        if not kinds:
            return []
        choices.append(kinds)
    if not choices:
        return []
    constants = _constants(entry)
    likely = sorted(itertools.product(*(range(len(kinds)) for kinds in choices)), key=sum)[:TRIALS]
    found = []
    for places in likely:
        kinds = [options[place] for options, place in zip(choices, places, strict=True)]
        inputs = [
            [_value(kind, rng, constants) for kind in kinds[: rng.randint(min(needed, len(kinds)), len(kinds))]]
            for _ in range(each)
        ]
        found.append(as_calls(_half_related(inputs, rng)))
    return found


def _kinds(parameter: ast.arg, default: ast.expr | None) -> Sequence[Kind]:
    if parameter.annotation is not None:
        try:
            _value(parameter.annotation, random.Random(0), {})
        except OtherKind:
            return ()
        return (parameter.annotation,)
    if isinstance(default, ast.Constant) and type(default.value).__name__ in ("int", "str", "float", "bool"):
        return (ast.Name(type(default.value).__name__),)
    if default is not None:
        return ()
    if hint := _HINTS.get(parameter.arg):
        first = ast.parse(hint, mode="eval").body
        return (first, *(kind for kind in _UNKNOWN if ast.dump(kind) != ast.dump(first)))
    return _UNKNOWN


def _constants(entry: ast.FunctionDef) -> Mapping[str, Sequence[Any]]:
    """Short strings and numbers in the body, by kind: where a function decides, they are the telling inputs."""
    body = [node for node in entry.body if not (isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant))]
    found = [node.value for part in body for node in ast.walk(part) if isinstance(node, ast.Constant)]
    return {
        kind.__name__: list(dict.fromkeys(value for value in found if type(value) is kind and len(repr(value)) <= 12))
        for kind in (str, int)
    }


def _value(kind: Kind | None, rng: random.Random, constants: Mapping[str, Sequence[Any]]) -> Any:
    """A value of a kind; now and then one of the `constants`. Raises `OtherKind` for the rest."""

    def inner(of: Kind) -> Any:
        return _value(of, rng, constants)

    if isinstance(kind, ast.Name) and (own := constants.get(kind.id)) and rng.random() < 0.4:
        found = rng.choice(own)
        whole = kind.id != "str" or rng.random() < 0.3
        return found if whole else rng.choice(_WORDS) + found + rng.choice(_WORDS)
    match kind:
        case ast.Name(id="int"):
            return rng.choice(_NUMBERS)
        case ast.Name(id="float"):
            return rng.choice(_NUMBERS) / 4
        case ast.Name(id="bool"):
            return rng.random() < 0.5
        case ast.Name(id="str"):
            return rng.choice(_WORDS)
        case ast.Subscript(value=ast.Name(id="list" | "List" | "Sequence" | "Iterable"), slice=of):
            return [inner(of) for _ in range(rng.randint(0, 5))]
        case ast.Subscript(value=ast.Name(id="dict" | "Dict" | "Mapping"), slice=ast.Tuple(elts=[key, of])):
            return {inner(key): inner(of) for _ in range(rng.randint(0, 4))}
        case ast.Subscript(
            value=ast.Name(id="tuple" | "Tuple"), slice=ast.Tuple(elts=[of, ast.Constant(value=rest)])
        ) if rest is ...:
            return tuple(inner(of) for _ in range(rng.randint(0, 5)))
        case ast.Subscript(value=ast.Name(id="tuple" | "Tuple"), slice=ast.Tuple(elts=elements)):
            return tuple(inner(of) for of in elements)
        case ast.Subscript(value=ast.Name(id="Optional"), slice=of):
            return inner(of)
        case ast.BinOp(left=left, op=ast.BitOr(), right=ast.Constant(value=None)):
            return inner(left)
    raise OtherKind
