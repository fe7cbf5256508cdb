"""`task=backtranslation`: code, described, written again, and compared by what it does."""

from __future__ import annotations

import ast
import asyncio
import json
import random
from pathlib import Path
from typing import Any

import pytest

from factory.errors import ConfigError
from factory.generators.backtranslation import copies
from factory.generators.behaviour import entry_of, head
from factory.generators.few_shot import load_data
from factory.generators.inputs import drawn_inputs
from factory.prompts import Templates
from factory.sandbox import open_sandbox
from tests.factory_run import run_task
from tests.model_server import ModelServer, Reply, last_text
from tests.records import fates, manifest

TASK = "backtranslation"
CODE = "def span(numbers: list[int]) -> int:\n    if not numbers:\n        return 0\n    return max(numbers) - min(numbers)"
TELLS = (
    "Takes a list of whole numbers and gives the difference of its largest and smallest one, and 0 for an empty list."
)
SAME = "```python\ndef solve(numbers: list[int]) -> int:\n    top = sorted(numbers)\n    return top[-1] - top[0] if top else 0\n```"
EMPTY_WRONG = (
    "```python\ndef span(numbers: list[int]) -> int:\n    return max(numbers, default=1) - min(numbers, default=0)\n```"
)


def scripted(describe: str = TELLS, again: str = SAME, inputs: str = "[]", grade: int = 5) -> ModelServer:
    def script(body: dict[str, Any]) -> Reply:
        text = last_text(body)
        if "response_format" in body:
            return Reply(json.dumps({"reason": "none found", "score": grade}))
        if "from its description" in text:
            assert "if not numbers" not in text, "the description and the head are all that it may see"
            assert "span" not in text, "and not the name, which tells too much"
            assert language_other(text) or "def solve(" in text
            return Reply(again)
        return Reply(inputs if text.startswith("Choose") else describe)

    return ModelServer(script)


def language_other(text: str) -> bool:
    return "```python" not in text


def seeds(folder: Path, *rows: dict[str, Any]) -> tuple[str, ...]:
    (folder / "rows.jsonl").write_text("\n".join(map(json.dumps, rows)))
    return (f"source.path={folder}/rows.jsonl", "n=null", "model.prompt_form=chat")


def test_equal_behaviour_keeps_the_description(tmp_path: Path) -> None:
    with scripted() as server:
        assert (
            run_task(tmp_path, server, TASK, *seeds(tmp_path, {"code": CODE}), "task.directions=[describe, implement]")
            == 0
        )
    described, implemented = fates(tmp_path, TASK)
    assert described.kept and implemented.kept
    assert described.id != implemented.id
    assert described.messages[1].content == TELLS
    assert CODE in described.messages[0].content
    assert TELLS in implemented.messages[0].content
    assert "def span(numbers: list[int]) -> int:" in implemented.messages[0].content
    assert implemented.messages[1].content == f"```python\n{CODE}\n```"
    detail = described.scores["fidelity"].detail
    assert (detail["by"], detail["passed"]) == ("execution", detail["total"])
    assert described.meta["tests_by"] == "annotations"
    assert "assert span([]) == 0" in described.meta["tests"]
    assert described.meta["solution"].endswith("span = solve")


def test_one_input_that_tells_them_apart_is_enough(tmp_path: Path) -> None:
    with scripted(again=EMPTY_WRONG) as server:
        run_task(tmp_path, server, TASK, *seeds(tmp_path, {"code": CODE}))
    (record,) = fates(tmp_path, TASK)
    assert not record.kept
    assert 0 < record.scores["fidelity"].value < 1
    assert record.reason == "fidelity: execution wrong"


def test_without_annotations_the_model_chooses_inputs_and_the_original_gives_the_outputs(tmp_path: Path) -> None:
    bare = CODE.replace(": list[int]", "").replace(" -> int", "")
    chosen = json.dumps([[[3, 9]], [[]], [[5]], ["no list"], [[1, 1, 4]], [[3, 9]]])
    with scripted(inputs=f"```json\n{chosen}\n```") as server:
        run_task(tmp_path, server, TASK, *seeds(tmp_path, {"code": bare}))
    (record,) = fates(tmp_path, TASK)
    assert record.kept
    assert record.meta["tests_by"] == "model"
    assert record.meta["tests"] == ["assert span([3, 9]) == 6", "assert span([]) == 0", "assert span([5]) == 0",
                                    "assert span([1, 1, 4]) == 3"]  # fmt: skip


@pytest.mark.parametrize(("grade", "kept"), [(5, True), (4, False)])
def test_what_cannot_be_run_is_judged(tmp_path: Path, grade: int, kept: bool) -> None:
    code = "fn twice(x: i64) -> i64 {\n    2 * x\n}"
    with scripted(describe="Doubles a whole number of 64 bits.", again="```rust\nfn twice(x: i64) -> i64 { x + x }\n```", grade=grade) as server:  # fmt: skip
        run_task(tmp_path, server, TASK, *seeds(tmp_path, {"code": code, "language": "rust"}))
    (record,) = fates(tmp_path, TASK)
    assert record.kept == kept
    assert record.scores["fidelity"].detail == {"by": "judge", "grade": grade, "says": "none found"} or not kept
    assert record.scores["fidelity"].value == (grade - 1) / 4


def test_tests_that_come_with_the_code_count_too(tmp_path: Path) -> None:
    told = {"code": CODE, "tests": ["assert span([100, 7]) == 93"]}
    with scripted() as server:
        run_task(tmp_path, server, TASK, *seeds(tmp_path, told))
    (record,) = fates(tmp_path, TASK)
    assert record.meta["tests"][0] == "assert span([100, 7]) == 93"
    assert record.meta["tests_by"] == "source and annotations"


def test_chance_in_the_original_is_seen(tmp_path: Path) -> None:
    code = "def span(numbers: list[int]) -> float:\n    import random\n    return random.random()"
    with scripted() as server:
        run_task(tmp_path, server, TASK, *seeds(tmp_path, {"code": code}))
    assert manifest(tmp_path, TASK)["reasons"] == {"original: its results change from run to run": 1}


@pytest.mark.parametrize(
    ("answers", "reason"),
    [
        ({"describe": "Short."}, "description: too short"),
        ({"describe": f"It is this:\n```python\n{CODE}\n```"}, "description: holds the code"),
        ({"describe": "It does this: if not numbers, then return max(numbers) - min(numbers), as said."}, "description: holds the code"),
        ({"again": "I cannot."}, "regenerate: no code block"),
        ({"again": "```python\ndef span(:\n```"}, "fidelity: execution exception"),
    ],
)  # fmt: skip
def test_what_is_lost_says_why(tmp_path: Path, answers: dict[str, str], reason: str) -> None:
    with scripted(**answers) as server:
        run_task(tmp_path, server, TASK, *seeds(tmp_path, {"code": CODE}))
    assert manifest(tmp_path, TASK)["reasons"] == {reason: 1}


def test_the_functions_of_a_folder_are_seeds(tmp_path: Path) -> None:
    (tmp_path / "src").mkdir()
    (tmp_path / "src/one.py").write_text(CODE + "\n\n\ndef unfit(x):\n    return CONSTANT\n")
    with scripted() as server:
        words = ("source.kind=functions", f"source.path={tmp_path}/src", "n=null", "model.prompt_form=chat")
        run_task(tmp_path, server, TASK, *words)
    (record,) = fates(tmp_path, TASK)
    assert record.kept
    assert record.meta["seed"]["path"] == "one.py"


def test_a_small_model_continues_examples(tmp_path: Path) -> None:
    def script(body: dict[str, Any]) -> Reply:
        if body["prompt"].endswith("def solve(numbers: list[int]) -> int:"):
            assert "# What it does\nThe function gives the difference" in body["prompt"]
            return Reply("\n    if not numbers:\n        return 0\n    return max(numbers) - min(numbers)\n\n")
        assert body["prompt"].endswith(f"{CODE}\n\n# What it does\nThe function")
        return Reply(" gives the difference of the largest and the smallest number, or 0.\n")

    with ModelServer(script) as server:
        words = seeds(tmp_path, {"code": CODE})
        run_task(tmp_path, server, TASK, *words, "model.prompt_form=few_shot")
    (record,) = fates(tmp_path, TASK)
    assert record.kept, record.reason
    assert (
        record.messages[1].content == "The function gives the difference of the largest and the smallest number, or 0."
    )


def test_what_is_wrong_is_told_beforehand(tmp_path: Path) -> None:
    for words, told in (
        (("source.items=[{text: a}]",), "column `code`"),
        (("task.styles=[]",), "one entry"),
        (("scorers.fidelity.low=5",), "must be below"),
    ):
        with ModelServer() as server, pytest.raises(ConfigError, match=told):
            run_task(tmp_path, server, TASK, *words)


# ---- the parts


def test_the_projects_functions_pass_their_tests_and_can_be_drawn_for() -> None:
    async def check() -> None:
        async with open_sandbox() as sandbox:
            for entry in load_data(Templates(), "functions.yaml"):
                verdict = await sandbox.verify(entry["code"], entry["tests"])
                assert verdict.status == "pass", (entry["code"], verdict.feedback)
                function = entry_of(entry["code"])
                assert function is not None
                assert drawn_inputs(function, random.Random(0), 3) is not None

    asyncio.run(check())


def test_heads_and_drawn_inputs() -> None:
    assert head("import os\n@cache\ndef f(a: int, *, b=2) -> str:\n    return 1") == "def f(a: int, *, b=2) -> str:"
    assert head("x = 1") == ""
    assert head("def f(a):\n    return f(a)", "g") == "def g(a):"

    def drawn(text: str) -> Any:
        return drawn_inputs(ast.parse(f"def f({text}): pass").body[0], random.Random(1), 20)  # type: ignore[arg-type]

    for arguments in drawn("a: list[dict[str, int]], b: bool, c: float"):
        assert isinstance(arguments[0], list) and isinstance(arguments[1], bool) and isinstance(arguments[2], float)
        assert all(
            isinstance(key, str) and isinstance(value, int) for part in arguments[0] for key, value in part.items()
        )
    assert drawn("a: set[int]") is drawn("a") is drawn("*a: int") is drawn("*, a: int") is None
    assert drawn("") == [[]] * 20


def test_what_counts_as_a_copy() -> None:
    assert copies("So: if not numbers: return 0; return max(numbers) - min(numbers)", CODE)
    assert not copies(TELLS, CODE)
    assert not copies("anything", "x = 1")
