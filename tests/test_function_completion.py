"""`task=function_completion`: what a function does decides about answers to its docstring."""

from __future__ import annotations

import ast
import asyncio
import json
import random
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from factory.errors import ConfigError
from factory.generators.behaviour import entry_of, observed_tests, telling
from factory.generators.few_shot import load_data
from factory.generators.function_completion import ASK, DATA, EXAMPLES, WORDINGS, problem_of, without_docstring
from factory.generators.inputs import drawn_inputs, example_calls, guesses, related
from factory.prompts import Templates
from factory.sandbox import SandboxConfig, open_sandbox
from tests.export.runs import exported
from tests.export.runs import rows as rows_of
from tests.factory_run import run_task
from tests.model_server import ModelServer, Reply, last_text
from tests.records import fates, manifest

TASK = "function_completion"
HEAD = 'def dozens(eggs, spare=0):\n    """Full boxes of twelve.\n\n    >>> dozens(25)\n    2\n    """'
CODE = f"{HEAD}\n    return (eggs + spare) // 12"
RIGHT = f"{HEAD}\n    total = eggs + spare\n    return (total - total % 12) // 12"
WRONG = f"{HEAD}\n    return eggs // 12"


def rows(folder: Path, *found: dict[str, Any]) -> tuple[str, ...]:
    (folder / "rows.jsonl").write_text("\n".join(map(json.dumps, found)))
    return (f"source.path={folder}/rows.jsonl", "n=null", "engine.concurrency=1")


def answered(folder: Path, answers: list[str], *found: dict[str, Any], more: Sequence[str] = ()) -> None:
    """One run of a chat model that gives these answers in turn."""
    left = iter(answers)
    with ModelServer(lambda body: Reply(next(left))) as server:
        words = (f"task.answers={len(answers)}", "model.prompt_form=chat", "engine.samples=false")
        assert run_task(folder, server, TASK, *rows(folder, *found), *words, *more) == 0


def fenced(code: str) -> str:
    return f"Here it is:\n```python\n{code}\n```\nIt divides."


def test_what_the_function_does_decides_which_answers_are_kept(tmp_path: Path) -> None:
    other = "def other(eggs):\n    return 1"
    answers = [fenced(RIGHT), fenced(WRONG), "It is easy.", fenced(f"{HEAD}\n    pass"), fenced(other)]
    answered(tmp_path, answers, {"code": CODE, "path": "shop.py", "name": "dozens", "line": 7})
    found = fates(tmp_path, TASK)
    assert [record.reason for record in found] == [
        "",
        "execution: wrong",
        "parse: no code block",
        "answer: an empty function",
        "parse: does not define the function",
    ]
    kept = found[0]
    assert kept.messages[1].content == f"```python\n{RIGHT}\n```"
    assert HEAD in kept.messages[0].content and "// 12" not in kept.messages[0].content
    assert kept.meta["tests"][0] == "assert dozens(25) == 2", "the docstring's own example comes first"
    assert any(", " in test for test in kept.meta["tests"]), "the parameter with a default is tried, too"
    assert kept.meta["tests_by"] == "trial"
    assert kept.meta["seed"] == {"path": "shop.py", "name": "dozens", "line": 7}
    assert len({record.meta["group"] for record in found}) == 1


def test_answers_that_differ_in_layout_alone_count_once(tmp_path: Path) -> None:
    answered(tmp_path, [fenced(RIGHT), fenced(RIGHT.replace(" + ", "  +  "))], {"code": CODE})
    assert manifest(tmp_path, TASK)["reasons"] == {"duplicate: the same as an earlier record": 1}


def test_right_and_wrong_answers_to_a_function_make_a_pair(tmp_path: Path) -> None:
    answered(tmp_path, [fenced(WRONG), fenced(RIGHT)], {"code": CODE})
    (pair,) = rows_of(exported(tmp_path / "outputs", "format=preference", runs=[TASK]))
    assert pair["chosen"] == [{"role": "assistant", "content": f"```python\n{RIGHT}\n```"}]
    assert pair["rejected"] == [{"role": "assistant", "content": f"```python\n{WRONG}\n```"}]
    assert HEAD in pair["prompt"][0]["content"]


def test_an_answer_may_leave_the_docstring_out(tmp_path: Path) -> None:
    left = iter([fenced(RIGHT)])
    with ModelServer(lambda body: Reply(next(left))) as server:
        words = ("task.answers=1", "task.docstring=false", "model.prompt_form=chat")
        run_task(tmp_path, server, TASK, *rows(tmp_path, {"code": CODE}), *words)
    (record,) = fates(tmp_path, TASK)
    assert record.kept
    assert record.messages[1].content == f"```python\n{without_docstring(RIGHT)}\n```"


def test_a_small_model_goes_on_behind_the_docstring(tmp_path: Path) -> None:
    """A raw prompt ends behind the docstring, and what comes after the function is cut off."""
    prompts: list[str] = []

    def script(body: dict[str, Any]) -> Reply:
        prompts.append(last_text(body))
        return Reply("\n    return (eggs + spare) // 12\n\nprint(dozens(3))\n")

    with ModelServer(script) as server:
        run_task(
            tmp_path, server, TASK, *rows(tmp_path, {"code": CODE}), "task.answers=1", "model.prompt_form=few_shot"
        )
    assert prompts[0].endswith(HEAD)
    (record,) = fates(tmp_path, TASK)
    assert record.kept
    assert record.meta["solution"] == CODE


def test_imports_that_the_problem_shows_are_part_of_the_solution(tmp_path: Path) -> None:
    head = 'import math\n\n\ndef around(radius: float) -> float:\n    """How long a circle is, to whole numbers."""'
    body = "    return round(2 * math.pi * radius)"
    answered(tmp_path, [fenced(f"def around(radius):\n{body}")], {"code": f"{head}\n{body}"})
    (record,) = fates(tmp_path, TASK)
    assert record.kept
    assert record.meta["solution"].startswith("import math\n")
    assert record.meta["tests_by"] == "annotations"


@pytest.mark.parametrize(
    ("code", "told"),
    [
        ("def f(a):\n    return a + 1", "source: no plain function with a docstring and a result"),
        (f"x = 1\n{CODE}", "source: no plain function with a docstring and a result"),
        (CODE.replace("return", "print"), "source: no plain function with a docstring and a result"),
        (f"@cache\n{CODE}", "source: no plain function with a docstring and a result"),
        (CODE.replace("(eggs + spare) // 12", "1 // 0"), "tests: too few inputs that give a result"),
        (CODE.replace("(eggs + spare) // 12", "range(eggs)"), "tests: too few inputs that give a result"),
        (CODE.replace("(eggs + spare) // 12", "'dozens'"), "tests: all expect the same value"),
        (CODE.replace("return (eggs", "import random\n    return random.random() + (eggs"), "original: its results change from run to run"),
        (f"{HEAD}\n" + "    eggs += 1\n" * 40 + "    return eggs", "source: the function is too long"),
        ("", "source: no code in code or solution"),
    ],
)  # fmt: skip
def test_functions_that_set_no_problem_are_lost_before_the_model_is_asked(tmp_path: Path, code: str, told: str) -> None:
    with ModelServer(lambda body: pytest.fail("asked")) as server:
        run_task(tmp_path, server, TASK, *rows(tmp_path, {"code": code}))
    (record,) = fates(tmp_path, TASK)
    assert record.reason == told


def test_rows_without_code_are_told_beforehand(tmp_path: Path) -> None:
    with ModelServer() as server, pytest.raises(ConfigError, match="needs seeds with a column `code`"):
        run_task(tmp_path, server, TASK, *rows(tmp_path, {"instruction": "Add."}))


def test_requests_are_worded_in_four_ways_none_of_them_the_evaluations() -> None:
    templates = Templates()
    variables = {"problem": HEAD, "name": "dozens"}
    texts = {templates.render(ASK, {**variables, "wording": number}) for number in range(WORDINGS)}
    assert len(texts) == WORDINGS and all(HEAD in text for text in texts)
    assert templates.render("evaluate/humaneval.j2", variables) not in texts


# ---- inputs


def parsed(text: str) -> ast.FunctionDef:
    found = entry_of(text)
    assert found is not None
    return found


@pytest.mark.parametrize(
    ("head", "right", "wrong"),
    [
        ("def without(table: dict[str, int], key: str) -> dict[str, int]", "{k: v for k, v in table.items() if k != key}", "dict(table)"),
        ("def last(text: str, length: int, times: int) -> str", "text[max(len(text) - length, 0) :] * times", "text[:length] * times"),
        ("def begins(text: str, part: str) -> bool", "text.startswith(part)", "part == ''"),
        ("def place(numbers: list[int], one: int) -> int", "numbers.index(one) if one in numbers else -1", "-1"),
        ("def all_above(numbers: list[int], limit: int) -> bool", "all(n > limit for n in numbers)", "not numbers"),
        ("def shared(a: list[str], b: list[str]) -> bool", "any(x in b for x in a)", "a == b and a != []"),
    ],
)  # fmt: skip
def test_answers_that_are_right_of_unrelated_arguments_alone_do_not_pass(
    tmp_path: Path, head: str, right: str, wrong: str
) -> None:
    code = f'{head}:\n    """What the body says."""\n    return {right}'
    answered(tmp_path, [fenced(code), fenced(code.replace(right, wrong))], {"code": code}, more=["task.inputs=8"])
    assert [record.reason for record in fates(tmp_path, TASK)] == ["", "execution: wrong"]


TESTS = st.lists(st.tuples(st.integers(0, 99), st.integers(0, 4)), max_size=60)


@given(TESTS, st.integers(0, 40))
def test_telling_tests_have_every_result_before_one_twice_as_often(drawn: list[tuple[int, int]], most: int) -> None:
    tests = list(dict.fromkeys(f"assert f({call}) == {result}" for call, result in drawn))
    chosen = telling(tests, most)
    assert chosen == [test for test in tests if test in set(chosen)]
    assert len(chosen) == min(most, len(tests))
    there, taken = (Counter(test.split(" == ")[1] for test in which) for which in (tests, chosen))
    most_often = max(taken.values(), default=0)
    assert all(taken[result] >= min(count, most_often - 1) for result, count in there.items())


@given(st.integers(0, 2**20))
def test_related_arguments_stay_of_their_kind(seed: int) -> None:
    arguments = ["Oak tree", 7, ["a", "b"], {"k": 3}, [4, 5], -1, ""]
    found = related(arguments, random.Random(seed))
    assert [type(value) for value in found] == [type(value) for value in arguments]
    assert arguments == ["Oak tree", 7, ["a", "b"], {"k": 3}, [4, 5], -1, ""], "what was drawn stays as it is"


def test_half_of_the_draws_are_related() -> None:
    entry = entry_of("def f(table: dict[str, int], key: str): pass")
    assert entry is not None
    drawn = drawn_inputs(entry, random.Random(0), 400) or []
    there = [key in table for table, key in drawn]
    assert sum(there[1::2]) > 2 * sum(there[::2]) > 0


def test_a_call_without_end_loses_no_earlier_result() -> None:
    code = "def f(n):\n    while n == 3:\n        pass\n    return n * n"

    async def observed() -> list[str]:
        async with open_sandbox(SandboxConfig(slots=1, wall=1)) as sandbox:
            context: Any = SimpleNamespace(sandbox=sandbox, rng=random.Random(0))
            return await observed_tests(code, ["1", "2", "3", "4"], context)

    assert asyncio.run(observed()) == ["assert f(1) == 1", "assert f(2) == 4"]


def test_calls_of_the_docstrings_examples() -> None:
    text = """def f(a, b=1):
    '''
    >>> f([1, 'x'], b=2)
    7
    >>> f(open('/etc/passwd'))
    >>> g(1)
    >>> f(1)
    Traceback (most recent call last):
    >>> f(*names)
    >>> f([1, 'x'], b=2)
    '''
    return a"""
    assert example_calls(parsed(text)) == ["[1, 'x'], b=2", "1"]
    assert example_calls(parsed("def f(a):\n    '''\n    >>> f(1)\n  3\n    '''")) == []


def test_a_parameter_is_what_it_says_it_is() -> None:
    def first(text: str) -> list[Any]:
        (calls, *_) = guesses(parsed(f"def f({text}):\n    return 1"), random.Random(0), 12)
        return [ast.literal_eval(f"({call},)") for call in calls]

    assert all(isinstance(text, str) for (text,) in first("text"))
    assert all(isinstance(number, int) for (number,) in first("count"))
    assert all(isinstance(items, list) for (items,) in first("items"))
    assert all(isinstance(word, str) for (word,) in first("count: str"))
    assert {len(call) for call in first("count, sep=','")} == {1, 2}
    assert all(len(call) == 1 for call in first("count, options={}")), (
        "what takes more than plain data keeps its default"
    )
    assert guesses(parsed("def f(*, a):\n    return 1"), random.Random(0), 3) == []
    assert guesses(parsed("def f(a: Model):\n    return 1"), random.Random(0), 3) == []


def test_constants_of_the_body_are_tried() -> None:
    (calls, *_) = guesses(parsed("def f(text):\n    return text == 'quux'"), random.Random(0), 40)
    assert any("quux" in call for call in calls)
    drawn = drawn_inputs(parsed("def f(number: int) -> bool:\n    return number == 8191"), random.Random(0), 40)
    assert drawn is not None and [8191] in drawn


@given(st.text(alphabet="def f(a):\n \"'#x1,", max_size=60))
def test_no_text_breaks_the_reading_of_problems(text: str) -> None:
    problem = problem_of(text)
    assert problem is None or text.startswith(problem.text.split("\n")[0])
    assert isinstance(without_docstring(text), str)


# ---- what comes with the project


def test_the_projects_exercises_pass_their_tests_and_set_problems() -> None:
    async def check() -> None:
        async with open_sandbox() as sandbox:
            for entry in load_data(Templates(), DATA):
                verdict = await sandbox.verify(entry["code"], entry["tests"])
                assert verdict.status == "pass", (entry["code"], verdict.feedback)

    asyncio.run(check())
    problems = [
        problem_of(entry["code"]) for entry in [*load_data(Templates(), DATA), *load_data(Templates(), EXAMPLES)]
    ]
    assert all(problem is not None and problem.lines <= 15 for problem in problems)
    names = [problem.entry.name for problem in problems if problem]
    assert len(set(names)) == len(names)
    drawn = [drawn_inputs(problem.entry, random.Random(0), 3) for problem in problems if problem]
    assert sum(found is not None for found in drawn) > 0.9 * len(drawn)
