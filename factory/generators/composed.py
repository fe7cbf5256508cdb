"""Functions composed of small steps, without end: "the sum of the squares of the even numbers of `values`".

The steps are data (`prompts/function_completion/composed.yaml`): what each gives, in words and as Python. A chain of them is a
documented function, so a model can be asked for it by its docstring, and what it does decides. The same idea for
reasoning: reasoning-gym (arXiv:2505.24760); for lists of integers and strings: DeepCoder (arXiv:1611.01989).
"""

from __future__ import annotations

import builtins
import random
import textwrap
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from pydantic import Field, ValidationError

from factory.errors import ConfigError
from factory.generators.few_shot import load_data
from factory.prompts import Templates
from factory.records import Frozen

FILE = "function_completion/composed.yaml"
WIDTH = 92  # of a docstring's lines
_KINDS = {"int": "int", "float": "float", "bool": "bool", "mapping": "dict"}  # that no step begins with
_MODULES = ("math",)
_LENGTHS = (4, 4, 2)  # weights of chains of one, two, three steps


class Value(Frozen):
    """What a function may take: its annotation, names, and `called` with its article."""

    annotation: str
    names: tuple[str, ...] = Field(min_length=1)
    called: str
    weight: float = Field(gt=0)


class Step(Frozen):
    """From one kind of value to another; see the file's head."""

    name: str
    of: str
    gives: str
    noun: tuple[str, ...] = Field(min_length=1)
    does: tuple[str, ...] = ()
    code: str
    takes: Mapping[str, str] = Field(default_factory=dict)


class Grammar(Frozen):
    values: Mapping[str, Value]
    steps: tuple[Step, ...]


def load_grammar(templates: Templates) -> Grammar:
    """The user's file before the package's. Raises `ConfigError` naming the place that is wrong."""
    try:
        grammar = Grammar.model_validate(load_data(templates, FILE))
    except ValidationError as error:
        where = ".".join(str(part) for part in error.errors()[0]["loc"])
        raise ConfigError(f"prompts/{FILE}: {where}: {error.errors()[0]['msg']}") from error
    for number, step in enumerate(grammar.steps):
        if step.of not in grammar.values or step.gives not in {*grammar.values, *_KINDS}:
            kinds = ", ".join([*grammar.values, *_KINDS])
            raise ConfigError(f"prompts/{FILE}: steps.{number}: {step.of} to {step.gives}; the kinds are {kinds}")
        try:
            compile(step.code.format(x="x"), "code", "eval")
            [text.format(x="x") for text in step.noun]
        except (SyntaxError, ValueError, KeyError, IndexError) as error:
            raise ConfigError(f"prompts/{FILE}: steps.{number}: {error} (braces of Python are doubled)") from error
    return grammar


def composed_functions(grammar: Grammar, seed: int, most_steps: int) -> Iterator[dict[str, Any]]:
    """Rows with `code`, a function with a docstring and mostly with annotations, and `signature`, its head with all of them.
    The same for the same seed."""
    for number in range(2**62):
        yield _function(grammar, random.Random(f"composed/{seed}/{number}"), most_steps)


def _function(grammar: Grammar, rng: random.Random, most_steps: int) -> dict[str, Any]:
    kinds = [name for name in grammar.values if any(step.of == name for step in grammar.steps)]
    kind = rng.choices(kinds, [grammar.values[name].weight for name in kinds])[0]
    chain = _chain(grammar, rng, kind, rng.choices(range(1, most_steps + 1), _weights(most_steps))[0])
    value = grammar.values[kind]
    taken = {name: annotation for step in chain for name, annotation in step.takes.items()}
    given = rng.choice([name for name in value.names if name not in taken] or [f"{value.names[0]}_"])
    steps = [f"_{number}" for number in range(1, len(chain))]
    lines = [
        f"{to} = {step.code.format(x=of)}" for to, of, step in zip(steps, [given, *steps], chain[:-1], strict=False)
    ]
    lines.append(f"return {chain[-1].code.format(x=[given, *steps][-1])}")
    text = _ordered(rng, value, given, chain) if rng.random() < 0.4 else _nested(rng, value, given, chain)
    doc = textwrap.wrap(_capital(text) + ".", WIDTH)
    if rng.random() < 0.3:
        told = ['"""', *doc, '"""']
    else:
        told = [f'"""{doc[0]}', *doc[1:], '"""'] if len(doc) > 1 else [f'"""{doc[0]}"""']
    body = [*told, *lines]
    name = _name(rng, chain, {given, *taken})
    parameters = {given: value.annotation, **taken}
    style = rng.choices(("new", "old", "none"), (5, 3, 2))[0]
    result = grammar.values[kind].annotation if (kind := chain[-1].gives) in grammar.values else _KINDS[kind]
    code = "\n".join([_head(name, parameters, result, style), *(f"    {line}" for line in body)])
    imports = [f"import {module}" for module in _MODULES if f"{module}." in code]
    if typing := [name for name in ("Dict", "List") if f"{name}[" in code]:
        imports.append(f"from typing import {', '.join(typing)}")
    whole = "\n".join([*imports, *(["", ""] if imports else []), code])
    return {"code": whole, "signature": _head(name, parameters, result, "new")}


def _weights(most: int) -> Sequence[float]:
    return [_LENGTHS[min(number, len(_LENGTHS) - 1)] for number in range(most)]


def _chain(grammar: Grammar, rng: random.Random, kind: str, length: int) -> list[Step]:
    chain: list[Step] = []
    while len(chain) < length and kind in grammar.values:
        taken = {name for step in chain for name in step.takes}
        last = len(chain) + 1 == length
        possible = [
            step for step in grammar.steps if step.of == kind and step not in chain and not taken & set(step.takes)
        ]
        leading = [step for step in possible if step.gives not in _KINDS]
        possible = possible if last or not (leading or chain) else leading
        if not possible:
            break
        chain.append(rng.choice(possible))
        kind = chain[-1].gives
    return chain


def _nested(rng: random.Random, value: Value, given: str, chain: Sequence[Step]) -> str:
    """ "return the sum of the squares of `values`" """
    text = f"`{given}`" if rng.random() < 0.6 else f"{_the(value)} `{given}`"
    for step in chain:
        text = rng.choice(step.noun).format(x=text)
    return rng.choice(("return {}", "return {}", "compute {}", "{}")).format(text)


def _ordered(rng: random.Random, value: Value, given: str, chain: Sequence[Step]) -> str:
    """ "given a list of integers `values`, square each number and return the sum of the result" """
    *before, last = chain
    if not all(step.does for step in before):
        return _nested(rng, value, given, chain)
    orders = [rng.choice(step.does) for step in before]
    if last.does and before:
        orders.append(rng.choice(last.does))
        end = "return the result"
    else:
        end = "return " + rng.choice(last.noun).format(x="the result" if before else "it")
    match rng.randrange(3):
        case 0:
            return f"given {value.called} `{given}`, {', '.join(orders)}{' and ' if orders else ''}{end}"
        case 1:
            return ". ".join(map(_capital, [f"take {_the(value)} `{given}`", *orders, end]))
        case _:
            then = [order if number == 0 else f"then {order}" for number, order in enumerate(orders)]
            return ". ".join(map(_capital, [f"you are given {value.called} `{given}`", *then, end]))


def _capital(text: str) -> str:
    return text[:1].upper() + text[1:]


def _the(value: Value) -> str:
    return f"the {value.called.split(' ', 1)[1]}"


def _name(rng: random.Random, chain: Sequence[Step], taken: set[str]) -> str:
    name = "_".join(dict.fromkeys(step.name for step in reversed(chain)))
    if rng.random() < 0.1:
        name = rng.choice(("solve", "compute", "process", "transform"))
    return f"get_{name}" if name in taken or hasattr(builtins, name) else name


def _head(name: str, parameters: Mapping[str, str], result: str, style: str) -> str:
    if style == "none":
        return f"def {name}({', '.join(parameters)}):"
    head = f"def {name}({', '.join(f'{key}: {kind}' for key, kind in parameters.items())}) -> {result}:"
    return head.replace("list[", "List[").replace("dict[", "Dict[") if style == "old" else head
