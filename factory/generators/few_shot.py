"""One-shot attempts for very small models: four examples of one shape, a signature, and the model writes the rest.

A model of 135M parameters copies a shape well and mixes shapes badly, so a prompt shows one set of examples. What it
writes is often not what it promised: the cases that the problem's own text states (`maps 'red' to 'stop'`) are turned
into tests that the model never sees, and a problem that states none is not taken.
"""

from __future__ import annotations

import ast
import random
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from factory.errors import ConfigError, RecordError
from factory.generators.code_checks import python_tests
from factory.prompts import Templates
from factory.records import Frozen

FOLDER = "code/few_shot"
ATTEMPT = f"{FOLDER}/attempt.j2"
DATA = (f"{FOLDER}/examples.yaml", f"{FOLDER}/seeds.yaml")
_LITERAL = r"('[^'\n]*'|\"[^\"\n]*\"|-?\d+(?:\.\d+)?)"
_PARTS = re.compile(r"(?P<problem>[^\n]+)\n+(?P<solution>.+?)\n+# Tests\n(?P<tests>.+)", re.DOTALL)
# Values that no problem names, to stand for "anything else".
_OTHER_WORD, _OTHER_NUMBER = "zzqx", 987


class Example(Frozen):
    """One example of a set: as the prompt shows it."""

    set: str
    problem: str
    solution: str
    tests: tuple[str, ...]


class SeedSet(Frozen):
    """`pattern` names two lists of words; `weight` is the set's share of the attempts."""

    weight: int
    opening: str
    pattern: str
    thing: tuple[str, ...]
    property: tuple[str, ...]

    def signatures(self) -> list[str]:
        pairs = ((thing, quality) for thing in self.thing for quality in self.property if thing != quality)
        return [self.pattern.format(thing=thing, property=quality) for thing, quality in pairs]


class FewShot:
    """The examples and seeds beside the template, and the reading of what came back."""

    def __init__(self, templates: Templates) -> None:
        """Raises `ConfigError` where the files are missing or wrong."""
        examples = [Example.model_validate(entry) for entry in load_data(templates, DATA[0])]
        self.sets = {
            name: SeedSet.model_validate(entry) for name, entry in load_data(templates, DATA[1])["sets"].items()
        }
        self.examples: dict[str, list[Example]] = {name: [] for name in self.sets}
        for example in examples:
            self.examples.setdefault(example.set, []).append(example)
        lonely = sorted(name for name in self.sets if not self.examples[name])
        if lonely:
            raise ConfigError(f"prompts/{FOLDER}/seeds.yaml: no examples for the set {lonely[0]!r} in examples.yaml")
        self._solutions = {example.solution.strip() for example in examples}
        self._problems = {example.problem.strip() for example in examples}

    def seeds(self, seed: int) -> Iterator[dict[str, Any]]:
        """Rows without end: sets by their weight, each set's signatures in a new order whenever it has run out."""
        rng = random.Random(f"few-shot/{seed}")
        stacks: dict[str, list[str]] = {name: [] for name in self.sets}
        names, weights = list(self.sets), [entry.weight for entry in self.sets.values()]
        while True:
            name = rng.choices(names, weights)[0]
            if not stacks[name]:
                stacks[name] = self.sets[name].signatures()
                rng.shuffle(stacks[name])
            yield {"topic": name, "signature": stacks[name].pop(), "opening": self.sets[name].opening}

    def prompt(self, row: Mapping[str, Any], templates: Templates) -> str:
        variables = {name: row[name] for name in ("signature", "opening")}
        return templates.render(ATTEMPT, {"examples": self.examples[row["topic"]], **variables})

    def prompt_for(self, problem: str, topic: str, templates: Templates) -> str:
        """The same, for a problem that is written already: it ends where the solution begins."""
        variables = {"examples": self.examples[topic], "signature": "", "opening": ""}
        return f"{templates.render(ATTEMPT, variables).rsplit('# Problem: ', 1)[0]}# Problem: {problem}\n"

    def read(self, prompt: str, text: str) -> tuple[str, str, list[str]]:
        """(problem, solution, tests) of a continuation; the prompt ends inside the problem's sentence.

        Raises `RecordError` where a part is missing, or all of it repeats an example.
        """
        found = _PARTS.match(prompt.rsplit("# Problem: ", 1)[-1] + text)
        if not found:
            raise RecordError("parse: not problem, solution and tests")
        problem, solution = found["problem"].strip(), found["solution"].strip()
        if problem in self._problems or solution in self._solutions:
            raise RecordError("copy: repeats an example of the prompt")
        return problem, solution, different_calls(python_tests(found["tests"]))


def load_data(templates: Templates, name: str) -> Any:
    """A YAML file among the templates, the user's before the package's. Raises `ConfigError` naming what is wrong.

    Read once for these templates and the same object for all who ask: not to be changed.
    """
    if name not in templates.data:
        templates.data[name] = _read(templates, name)
    return templates.data[name]


def _read(templates: Templates, name: str) -> Any:
    for folder in templates.folders:
        path = Path(folder, name)
        if path.exists():
            try:
                return yaml.safe_load(path.read_text())
            except yaml.YAMLError as error:
                raise ConfigError(f"{path}: is not YAML: {error}") from error
    raise ConfigError(f"prompts/{name} was not found in {' or '.join(map(str, templates.folders))}")


def different_calls(tests: Sequence[str]) -> list[str]:
    """Of the tests `assert f(literals) == literal` the first for each call; others are left out."""
    kept: dict[str, str] = {}
    for test in tests:
        statement = ast.parse(test).body[0]
        if not isinstance(statement, ast.Assert) or not isinstance(statement.test, ast.Compare):
            continue
        compare = statement.test
        if len(compare.ops) != 1 or not isinstance(compare.ops[0], ast.Eq) or not isinstance(compare.left, ast.Call):
            continue
        call = compare.left
        if (
            isinstance(call.func, ast.Name)
            and not call.keywords
            and all(map(_literal, [*call.args, compare.comparators[0]]))
        ):
            kept.setdefault(ast.dump(call), test)
    return list(kept.values())


def _literal(node: ast.expr) -> bool:
    try:
        ast.literal_eval(node)
    except (ValueError, TypeError, SyntaxError, MemoryError, RecursionError):
        return False
    return True


def expected_values(tests: Sequence[str]) -> set[str]:
    """The different values that tests of the form `assert f(...) == value` expect."""
    return {ast.unparse(ast.parse(test).body[0].test.comparators[0]) for test in tests}  # type: ignore[attr-defined]


def stated_cases(problem: str) -> list[str]:
    """Tests that follow from the problem's text alone, by its form; none where it states no case.

    Forms: "maps A to B, ..., and anything else to C"; "the item of [...] at position index, counted from 0"; "returns N
    ... for each". Raises `RecordError` where the text contradicts itself.
    """
    named = re.search(r"`(\w+)\(", problem)
    if not named:
        return []
    cases: dict[Any, Any] = {}
    pairs = [(ast.literal_eval(a), ast.literal_eval(b)) for a, b in re.findall(f"{_LITERAL} to {_LITERAL}", problem)]
    if " maps " in problem and pairs:
        other = re.search(rf"any(?:thing else| other number) to {_LITERAL}", problem)
        if other:
            unnamed = _OTHER_NUMBER if isinstance(pairs[0][0], int | float) else _OTHER_WORD
            pairs.append((unnamed, ast.literal_eval(other.group(1))))
    elif listed := re.search(r"item of (\[[^\]\n]*\]) at position", problem):
        try:
            pairs = list(enumerate(ast.literal_eval(listed.group(1))))
        except (ValueError, SyntaxError):
            return []
    elif scaled := re.search(r"\) returns (\d+) [\w ]+ for each |` that returns (\d+) [\w ]+ for each ", problem):
        factor = int(scaled.group(1) or scaled.group(2))
        pairs = [(count, factor * count) for count in (0, 1, 7)]
    else:
        return []
    for given, wanted in pairs:
        if cases.setdefault(given, wanted) != wanted:
            raise RecordError("problem: contradicts itself")
    return [f"assert {named.group(1)}({given!r}) == {wanted!r}" for given, wanted in cases.items()]
