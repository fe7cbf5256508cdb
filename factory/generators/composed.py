"""Functions composed of small steps, without end: "the sum of the squares of the even numbers of `values`".

The steps are data (`prompts/function_completion/composed.yaml`): what each gives, in words and as Python. A chain of them is a
documented function, and so are several chains that a `join` brings together ("the sum of A and B", "A if C, and B otherwise");
a model can be asked for it by its docstring, and what it does decides. The same idea for reasoning: reasoning-gym
(arXiv:2505.24760); for lists of integers and strings: DeepCoder (arXiv:1611.01989).
"""

from __future__ import annotations

import builtins
import functools
import keyword
import random
import textwrap
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

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
_SHORT = (2, 6, 1)  # the same for what is joined: of none, one, two steps
_LETTERS = ("a", "b", "c")
_TRIES = 40  # chains drawn for one that leads to what a join needs
_SAME = 0.7  # how often a further chain is over the first one's parameter


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


class Join(Frozen):
    """From several results, named a, b, c in `noun` and `code`, to one; see the file's head."""

    name: str
    of: tuple[str, ...] = Field(min_length=1, max_length=3)
    annotation: str
    noun: tuple[str, ...] = Field(min_length=1)
    code: str


class Grammar(Frozen):
    values: Mapping[str, Value]
    steps: tuple[Step, ...]
    joins: tuple[Join, ...] = ()

    @functools.cached_property
    def steps_of(self) -> Mapping[str, Sequence[Step]]:
        """The steps that begin with each kind."""
        return {name: [step for step in self.steps if step.of == name] for name in self.values}


class Part(NamedTuple):
    """A chain of steps (none: the value itself) over the parameter `given`."""

    given: str
    value: Value
    chain: Sequence[Step]


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
    for number, join in enumerate(grammar.joins):
        if unknown := sorted({*join.of} - {*grammar.values, *_KINDS}):
            kinds = ", ".join([*grammar.values, *_KINDS])
            raise ConfigError(f"prompts/{FILE}: joins.{number}: of {', '.join(unknown)}; the kinds are {kinds}")
        letters = dict(zip(_LETTERS, join.of, strict=False))
        try:
            compile(join.code.format(**letters), "code", "eval")
            [text.format(**letters) for text in join.noun]
        except (SyntaxError, ValueError, KeyError, IndexError) as error:
            raise ConfigError(f"prompts/{FILE}: joins.{number}: {error} (braces of Python are doubled)") from error
    return grammar


def composed_functions(grammar: Grammar, seed: int, most_steps: int, joined: float = 0.0) -> Iterator[dict[str, Any]]:
    """Rows with `code`, a function with a docstring and mostly with annotations, and `signature`, its head with all of them.
    `joined` of them join several chains, the others are one chain. The same for the same seed."""
    for number in range(2**62):
        rng = random.Random(f"composed/{seed}/{number}")
        found = _joined(grammar, rng) if grammar.joins and rng.random() < joined else None
        yield found or _one_chain(grammar, rng, most_steps)


def _one_chain(grammar: Grammar, rng: random.Random, most_steps: int) -> dict[str, Any]:
    kind = _any_kind(grammar, rng)
    chain = _chain(grammar, rng, kind, rng.choices(range(1, most_steps + 1), _weights(most_steps))[0])
    value = grammar.values[kind]
    taken = {name for step in chain for name in step.takes}
    part = Part(_free(rng, value, taken), value, chain)
    text = _ordered(rng, part) if rng.random() < 0.4 else _nested(rng, part)
    kind = chain[-1].gives
    result = grammar.values[kind].annotation if kind in grammar.values else _KINDS[kind]
    names = [step.name for step in reversed(chain)]
    lines, expression = _code(part, 0)
    return _row(rng, text, names, [part], [*lines, f"return {expression}"], result)


def _joined(grammar: Grammar, rng: random.Random) -> dict[str, Any] | None:
    """Chains over one or more parameters, brought together; None where chance found nothing that fits."""
    join, parts, taken = rng.choice(grammar.joins), list[Part](), set[str]()
    for wanted in join.of:
        part = _leading_to(grammar, rng, wanted, parts, taken)
        if part is None:
            return None
        parts.append(part)
        taken |= {part.given, *(name for step in part.chain for name in step.takes)}
    if len({(part.given, *(step.name for step in part.chain)) for part in parts}) < len(parts):
        return None  # the sum of a thing and itself
    clauses = []
    for part, wanted in zip(parts, join.of, strict=True):
        text = _noun(rng, part, "whether " if wanted == "bool" else "")
        if text is None:
            return None
        clauses.append(text)
    text = rng.choice(join.noun).format(**dict(zip(_LETTERS, clauses, strict=False)))
    if rng.random() < 0.4:
        given = {part.given: f"{part.value.called} `{part.given}`" for part in parts}
        text = f"given {' and '.join(given.values())}, return {text}"
    else:
        text = rng.choice(("return {}", "return {}", "compute {}", "{}")).format(text)
    lines, expressions = list[str](), dict[str, str]()
    for letter, part in zip(_LETTERS, parts, strict=False):
        more, expression = _code(part, len(lines))
        lines += more
        expressions[letter] = expression if expression.isidentifier() else f"({expression})"
    names = [join.name, *(part.chain[-1].name for part in parts if part.chain)]
    return _row(rng, text, names, parts, [*lines, f"return {join.code.format(**expressions)}"], join.annotation)


def _leading_to(
    grammar: Grammar, rng: random.Random, wanted: str, parts: Sequence[Part], taken: set[str]
) -> Part | None:
    """A chain to the kind `wanted`, over a parameter of `parts` or a new one."""
    for _ in range(_TRIES):
        if parts and rng.random() < _SAME:
            given, value = parts[0].given, parts[0].value
            kind = next(name for name, known in grammar.values.items() if known is value)
        else:
            kind = _any_kind(grammar, rng)
            value = grammar.values[kind]
            free = [name for name in value.names if name not in taken]
            if not free:
                continue
            given = rng.choice(free)
        length = rng.choices(range(len(_SHORT)), _SHORT)[0]
        chain = _chain(grammar, rng, kind, length)
        takes = {name for step in chain for name in step.takes}
        if (chain[-1].gives if chain else kind) == wanted and not takes & (taken | {given}):
            return Part(given, value, chain)
    return None


def _row(
    rng: random.Random, text: str, names: Sequence[str], parts: Sequence[Part], lines: Sequence[str], result: str
) -> dict[str, Any]:
    """The function: `lines` are its body behind the docstring, which says `text`."""
    parameters = {part.given: part.value.annotation for part in parts}
    parameters |= {name: kind for part in parts for step in part.chain for name, kind in step.takes.items()}
    doc = textwrap.wrap(_capital(text) + ".", WIDTH)
    if rng.random() < 0.3:
        told = ['"""', *doc, '"""']
    else:
        told = [f'"""{doc[0]}', *doc[1:], '"""'] if len(doc) > 1 else [f'"""{doc[0]}"""']
    name = _name(rng, names, set(parameters))
    style = rng.choices(("new", "old", "none"), (5, 3, 2))[0]
    code = "\n".join([_head(name, parameters, result, style), *(f"    {line}" for line in (*told, *lines))])
    imports = [f"import {module}" for module in _MODULES if f"{module}." in code]
    if typing := [name for name in ("Dict", "List", "Tuple") if f"{name}[" in code]:
        imports.append(f"from typing import {', '.join(typing)}")
    whole = "\n".join([*imports, *(["", ""] if imports else []), code])
    return {"code": whole, "signature": _head(name, parameters, result, "new")}


def _code(part: Part, begun: int) -> tuple[list[str], str]:
    """(lines that lead there, the expression of the result); `begun` intermediate results have names already."""
    x, lines = part.given, list[str]()
    for step in part.chain[:-1]:
        lines.append(f"_{begun + len(lines) + 1} = {step.code.format(x=x)}")
        x = f"_{begun + len(lines)}"
    return lines, part.chain[-1].code.format(x=x) if part.chain else x


def _any_kind(grammar: Grammar, rng: random.Random) -> str:
    kinds = [name for name, steps in grammar.steps_of.items() if steps]
    return rng.choices(kinds, [grammar.values[name].weight for name in kinds])[0]


def _free(rng: random.Random, value: Value, taken: set[str]) -> str:
    return rng.choice([name for name in value.names if name not in taken] or [f"{value.names[0]}_"])


def _weights(most: int) -> Sequence[float]:
    return [_LENGTHS[min(number, len(_LENGTHS) - 1)] for number in range(most)]


def _chain(grammar: Grammar, rng: random.Random, kind: str, length: int) -> list[Step]:
    chain: list[Step] = []
    while len(chain) < length and kind in grammar.values:
        taken = {name for step in chain for name in step.takes}
        last = len(chain) + 1 == length
        possible = [step for step in grammar.steps_of[kind] if step not in chain and not taken & set(step.takes)]
        leading = [step for step in possible if step.gives not in _KINDS]
        possible = possible if last or not (leading or chain) else leading
        if not possible:
            break
        chain.append(rng.choice(possible))
        kind = chain[-1].gives
    return chain


def _noun(rng: random.Random, part: Part, behind: str) -> str | None:
    """ "the sum of the squares of `values`", of a noun that begins with `behind`, without that; None where there is none."""
    text = f"`{part.given}`"
    for step in part.chain:
        nouns = [noun for noun in step.noun if step is not part.chain[-1] or noun.startswith(behind)]
        if not nouns:
            return None
        text = rng.choice(nouns).format(x=text)
    return text.removeprefix(behind)


def _nested(rng: random.Random, part: Part) -> str:
    """ "return the sum of the squares of `values`" """
    text = f"`{part.given}`" if rng.random() < 0.6 else f"{_the(part.value)} `{part.given}`"
    for step in part.chain:
        text = rng.choice(step.noun).format(x=text)
    return rng.choice(("return {}", "return {}", "compute {}", "{}")).format(text)


def _ordered(rng: random.Random, part: Part) -> str:
    """ "given a list of integers `values`, square each number and return the sum of the result" """
    value, given = part.value, part.given
    *before, last = part.chain
    if not all(step.does for step in before):
        return _nested(rng, part)
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


def _name(rng: random.Random, steps: Sequence[str], taken: set[str]) -> str:
    name = "_".join(dict.fromkeys(steps))
    if rng.random() < 0.1:
        name = rng.choice(("solve", "compute", "process", "transform"))
    return f"get_{name}" if name in taken or hasattr(builtins, name) or keyword.iskeyword(name) else name


def _head(name: str, parameters: Mapping[str, str], result: str, style: str) -> str:
    if style == "none":
        return f"def {name}({', '.join(parameters)}):"
    head = f"def {name}({', '.join(f'{key}: {kind}' for key, kind in parameters.items())}) -> {result}:"
    return (
        head.replace("list[", "List[").replace("dict[", "Dict[").replace("tuple[", "Tuple[") if style == "old" else head
    )
