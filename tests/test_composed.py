"""Functions composed of small steps: what their words say is what they do, and they make problems without end."""

from __future__ import annotations

import ast
import itertools
import json
import random
import re
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from factory.errors import ConfigError
from factory.generators.behaviour import entry_of
from factory.generators.composed import FILE, Grammar, Join, Step, composed_functions, load_grammar
from factory.generators.function_completion import problem_of, with_examples, without_docstring
from factory.generators.inputs import drawn_inputs
from factory.prompts import Templates
from tests.factory_run import run_task
from tests.model_server import ModelServer, Reply, last_text
from tests.records import fates, manifest

TASK = "function_completion"
GRAMMAR = load_grammar(Templates())
KINDS = {
    "int": int, "float": float, "bool": bool, "mapping": dict, "numbers": list, "words": list, "text": str, "number": int,
    "table": dict, "decimal": float, "decimals": list, "rows": list,
}  # fmt: skip


JOINED = load_grammar(Templates()).joins


def alone(step: Step) -> dict[str, Any]:
    """A function of this step and no other."""
    return next(composed_functions(Grammar(values=GRAMMAR.values, steps=(step,)), 0, 1))


def function(code: str) -> ast.FunctionDef:
    entry = entry_of(code)
    assert entry is not None
    return entry


def called(row: dict[str, Any], count: int, *also: type[Exception]) -> list[Any]:
    """What the function of a row gives on drawn inputs; calls that raise are left out."""
    space: dict[str, Any] = {}
    exec(row["code"], space)  # of our own file
    entry = function(row["code"])
    entry.args = function(f"{row['signature']} pass").args
    results = []
    for arguments in drawn_inputs(entry, random.Random(0), count) or ():
        try:
            results.append(space[entry.name](*arguments))
        except (ZeroDivisionError, *also):
            continue
    return results


@pytest.mark.parametrize("number", range(len(GRAMMAR.steps)), ids=lambda number: GRAMMAR.steps[number].name)
def test_every_step_gives_its_kind_and_more_than_one_value(number: int) -> None:
    step = GRAMMAR.steps[number]
    results = called(alone(step), 300)
    assert {type(result) for result in results if result is not None} == {KINDS[step.gives]}
    assert len(set(map(repr, results))) > 1
    for text in (*step.noun, *step.does):
        for parameter in step.takes:
            assert f"`{parameter}`" in text, "a parameter that the words leave out cannot be guessed"
    assert all("{x}" in text for text in step.noun)


NAMED = "brought_together"  # instead of a join's own name, which may be a step's too


def joined(join: Join, seed: int) -> dict[str, Any]:
    """A function that this join makes, and no other."""
    grammar = GRAMMAR.model_copy(update={"joins": (join.model_copy(update={"name": NAMED}),)})
    return next(row for row in composed_functions(grammar, seed, 1, 1.0) if f"def {NAMED}" in row["code"])


@pytest.mark.parametrize("number", range(len(JOINED)), ids=lambda number: f"{number}-{JOINED[number].name}")
def test_every_join_gives_what_it_says(number: int) -> None:
    join = JOINED[number]
    row = joined(join, number)
    kind = {"list": list, "tuple": tuple, "int": int, "str": str, "bool": bool}[join.annotation.partition("[")[0]]
    results = called(row, 300, TypeError)  # None of an empty list, where the join cannot do with it
    assert {type(result) for result in results} == {kind}
    assert row["signature"].endswith(f"-> {join.annotation}:")
    assert " for " not in join.code, "the loop's name may be a parameter's"
    letters = "abc"[: len(join.of)]
    assert all(f"{{{letter}}}" in text for text in join.noun for letter in letters)
    problem = problem_of(row["code"])
    assert problem is not None
    told = ast.get_docstring(problem.entry) or ""
    assert all(f"`{argument.arg}`" in told for argument in problem.entry.args.args)


def test_a_condition_is_told_without_its_whether() -> None:
    [join] = [join for join in JOINED if join.name == "or_zero"]
    for seed in range(20):
        told = (ast.get_docstring(function(joined(join, seed)["code"])) or "").replace("\n", " ")
        condition = told.split(" if ", 1)[1]
        assert not condition.startswith(("whether ", "True if")), told


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"of": ["nothing", "int"]}, "joins.0: of nothing"),
        ({"code": "{a} + {d}"}, "joins.0"),
        ({"noun": ["{a} {"]}, "joins.0"),
        ({"code": "{a} +"}, "joins.0"),
    ],
)
def test_a_join_that_cannot_be_is_told(
    change: dict[str, Any], said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = GRAMMAR.model_dump(mode="json")
    data["joins"] = [{**data["joins"][0], **change}]
    (tmp_path / "prompts/function_completion").mkdir(parents=True)
    (tmp_path / "prompts" / FILE).write_text(yaml.safe_dump(data))
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ConfigError, match=re.escape(said)):
        load_grammar(Templates())


def test_as_many_are_joined_as_are_asked_for() -> None:
    grammar = GRAMMAR.model_copy(update={"joins": tuple(join.model_copy(update={"name": NAMED}) for join in JOINED)})
    counts = []
    for share in (0.0, 0.5, 1.0):
        rows = itertools.islice(composed_functions(grammar, 0, 3, share), 400)
        counts.append(sum(f"def {NAMED}" in row["code"] for row in rows))
    none, half, all_ = counts
    assert none == 0
    assert all_ > 300, "a tenth has another name by chance, and some find no chains that fit"
    assert 0.4 < half / all_ < 0.6


@given(st.integers(0, 2**20))
def test_composed_functions_are_problems_and_the_same_for_a_seed(seed: int) -> None:
    first = list(itertools.islice(composed_functions(GRAMMAR, seed, 3), 3))
    assert first == list(itertools.islice(composed_functions(GRAMMAR, seed, 3), 3))
    for row in first:
        problem = problem_of(row["code"])
        assert problem is not None
        assert row["signature"].startswith(f"def {problem.entry.name}(")
        assert [argument.arg for argument in problem.entry.args.args] == [
            argument.arg for argument in function(f"{row['signature']} pass").args.args
        ]


def test_there_are_many_and_most_tell_right_from_wrong() -> None:
    rows = list(itertools.islice(composed_functions(GRAMMAR, 1, 3), 400))
    assert len({row["code"] for row in rows}) > 350
    # None of an empty list, where the next step cannot do with it; ranges that no memory holds.
    results = [called(row, 16, TypeError, AttributeError, MemoryError, OverflowError) for row in rows]
    assert sum(len(set(map(repr, found))) > 1 for found in results) > 320


@given(st.integers(0, 2**20), st.integers(1, 3))
def test_examples_in_a_docstring_change_nothing_else(seed: int, count: int) -> None:
    code = next(composed_functions(GRAMMAR, seed, 3))["code"]
    name = function(code).name
    tests = [f"assert {name}([{number}]) == {number * number}" for number in range(6)]
    shown = with_examples(code, tests, count, random.Random(seed))
    text = ast.get_docstring(function(shown)) or ""
    assert sum(f"{name}([{number}])" in text for number in range(6)) == count
    assert ast.dump(ast.parse(without_docstring(shown))) == ast.dump(ast.parse(without_docstring(code)))
    assert with_examples(shown, tests, count, random.Random(0)) == shown, "a docstring with examples stays"


def test_results_that_a_docstring_cannot_hold_are_not_shown() -> None:
    code = 'def f(x: str) -> str:\n    """Turn x around."""\n    return x[::-1]'
    for result in (r"'\\'", "'" + "x" * 100 + "'", "'" + '"""' + "'"):
        assert with_examples(code, [f"assert f('a') == {result}"], 1, random.Random(0)) == code


def test_a_run_asks_for_composed_functions_and_what_they_do_decides(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "prompts/function_completion").mkdir(parents=True)
    grammar = {
        "values": {
            "numbers": {"annotation": "list[int]", "names": ["xs"], "called": "a list of integers", "weight": 1}
        },
        "steps": [{"name": "total", "of": "numbers", "gives": "int", "noun": ["the sum of {x}"], "code": "sum({x})"}],
    }
    (tmp_path / "prompts" / FILE).write_text(yaml.safe_dump(grammar))
    monkeypatch.chdir(tmp_path)
    asked: list[str] = []

    def script(body: dict[str, Any]) -> Reply:
        asked.append(last_text(body))
        name = asked[-1].split("def ", 1)[1].split("(", 1)[0]
        return Reply(f"```python\ndef {name}(xs):\n    return {'sum(xs)' if len(asked) < 4 else 'len(xs)'}\n```")

    with ModelServer(script) as server:
        words = ("task.composed=1", "task.answers=1", "model.prompt_form=chat", "n=null", "attempts=6")
        run_task(tmp_path, server, TASK, *words, "engine.concurrency=1")
    assert all("the sum of" in text.lower() for text in asked)
    found = fates(tmp_path, TASK)
    assert len(found) == 6
    assert sum(not record.kept and record.reason == "execution: wrong" for record in found) == 3
    assert manifest(tmp_path, TASK)["kept"] == sum(record.kept for record in found) > 0


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"gives": "colour"}, "steps.0: numbers to colour"),
        ({"code": "sum({x}"}, "steps.0: .*never closed"),
        ({"code": "{n: 1 for n in {x}}"}, "steps.0"),
        ({"noun": []}, "steps.0.noun"),
    ],
)
def test_a_grammar_that_is_wrong_is_refused_before_anything_is_asked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, change: dict[str, Any], told: str
) -> None:
    (tmp_path / "prompts/function_completion").mkdir(parents=True)
    step = {"name": "total", "of": "numbers", "gives": "int", "noun": ["the sum of {x}"], "code": "sum({x})"} | change
    values = {"numbers": {"annotation": "list[int]", "names": ["xs"], "called": "a list of integers", "weight": 1}}
    (tmp_path / "prompts" / FILE).write_text(yaml.safe_dump({"values": values, "steps": [step]}))
    monkeypatch.chdir(tmp_path)
    with ModelServer(lambda body: Reply("")) as server, pytest.raises(ConfigError, match=f"composed.yaml: {told}"):
        run_task(tmp_path, server, TASK, "n=1")
    assert server.count == 0


def test_a_signature_says_what_to_call_a_bare_function_with(tmp_path: Path) -> None:
    code = 'def f(lookup):\n    """How many entries there are."""\n    return len(lookup)'
    (tmp_path / "rows.jsonl").write_text(json.dumps({"code": code, "signature": "def f(lookup: dict[str, int]):"}))
    with ModelServer(lambda body: Reply(f"```python\n{code}\n```")) as server:
        words = (f"source.path={tmp_path}/rows.jsonl", "n=null", "task.answers=1", "model.prompt_form=chat")
        run_task(tmp_path, server, TASK, *words)
    (record,) = fates(tmp_path, TASK)
    assert record.kept
    assert record.meta["tests_by"] == "annotations"
    assert all("({" in test for test in record.meta["tests"])
