"""`task=oss_instruct`: snippets of source become problems with solutions."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from factory.errors import ConfigError
from factory.generators.few_shot import load_data
from factory.generators.oss_instruct import EXAMPLES
from factory.prompts import Templates
from factory.sandbox import open_sandbox
from tests.factory_run import run_task
from tests.model_server import ModelServer, Reply, last_text
from tests.records import fates, manifest

PROBLEM = "Write a function `double{0}(x)` that returns twice the number it is given, for number {0}."
CODE = "def double{0}(x):\n    return 2 * x + {0} - {0}"
ANSWER = f"<problem>{PROBLEM}</problem>\n<solution>It adds.\n```python\n{CODE}\n```</solution>"


def folder(path: Path, files: int = 40) -> str:
    (path / "src").mkdir()
    for number in range(files):
        (path / f"src/file{number}.py").write_text(f"value_{number} = {number}\n")
    return f"source.path={path}/src"


def test_a_snippet_becomes_a_problem_with_its_solution(tmp_path: Path) -> None:
    with ModelServer(lambda body: Reply(ANSWER.format(1))) as server:
        run_task(tmp_path, server, "oss_instruct", folder(tmp_path, 1), "n=1", "attempts=1")
        (body,) = server.bodies
    assert body["temperature"] == 0
    assert "<fragment>\nvalue_0 = 0\n</fragment>" in last_text(body)
    assert "one programming problem in python" in last_text(body)
    (record,) = fates(tmp_path, "oss_instruct")
    assert record.kept
    assert record.messages[0].content == PROBLEM.format(1)
    assert record.messages[1].content.startswith("It adds.\n```python")
    assert record.meta["solution"] == CODE.format(1)
    assert record.meta["snippet"] == "value_0 = 0"
    assert record.meta["seed"]["path"] == "file0.py"


def test_what_shares_its_seed_its_problem_or_its_solution_is_dropped(tmp_path: Path) -> None:
    """Drawn from five files again and again: two share their problem, two their solution, and one answers anew each time."""
    made = {"value_0": (0, 0), "value_1": (0, 1), "value_2": (2, 3), "value_3": (3, 3), "value_4": (4, 4)}
    count = 0

    def script(body: dict[str, Any]) -> Reply:
        nonlocal count
        count += 1
        name = next(name for name in made if name in last_text(body))
        problem, solution = made[name] if name != "value_4" else (100 + count, 100 + count)
        return Reply(
            f"<problem>{PROBLEM.format(problem)}</problem>\n<solution>```python\n{CODE.format(solution)}\n```</solution>"
        )

    with ModelServer(script) as server:
        run_task(tmp_path, server, "oss_instruct", folder(tmp_path, 5), "n=30", "attempts=30", "in_flight=1")
    found = manifest(tmp_path, "oss_instruct")
    assert found["kept"] == 3
    assert found["reasons"] == {"duplicate: the same as an earlier record": 27}


@pytest.mark.parametrize(
    ("reply", "reason"),
    [
        (Reply("No idea."), "parse: no <problem> block"),
        (Reply(ANSWER.format(1), finish_reason="length"), "unfinished: cut off at the token limit"),
        (Reply(ANSWER.format(1).replace("\n```<", "<")), "unfinished: a code block does not end"),
        (Reply(ANSWER.format(1).replace("```python", "").replace("```", "")), "parse: no code block"),
        (Reply(ANSWER.format(1).replace("return", "return return")), "parse: SyntaxError"),
        (Reply(f"<problem>Double.</problem><solution>```python\n{CODE.format(1)}\n```</solution>"), "problem: too short"),
        (Reply(ANSWER.format(1).replace("Write", "As in the snippet, write")), "problem: speaks of the snippet"),
        (Reply(f"<problem>{PROBLEM.format(1)}</problem><solution>```python\nvalue_0 = 0\n```</solution>"), "solution: is the snippet"),
    ],
)  # fmt: skip
def test_what_is_lost_says_why(tmp_path: Path, reply: Reply, reason: str) -> None:
    with ModelServer(lambda body: reply) as server:
        run_task(tmp_path, server, "oss_instruct", folder(tmp_path, 1), "n=1", "attempts=1")
    assert manifest(tmp_path, "oss_instruct")["reasons"] == {reason: 1}


def test_the_language_is_the_files_own(tmp_path: Path) -> None:
    (tmp_path / "src").mkdir()
    (tmp_path / "src/one.rs").write_text("let x = 1;\n")
    answer = f"<problem>{PROBLEM.format(1)}</problem><solution>```rust\nfn main() {{}}\n```</solution>"
    with ModelServer(lambda body: Reply(answer)) as server:
        words = (f"source.path={tmp_path}/src", "source.suffixes=[.rs]", "n=1", "attempts=1")
        run_task(tmp_path, server, "oss_instruct", *words)
        assert "problem in rust" in last_text(server.bodies[0])
    (record,) = fates(tmp_path, "oss_instruct")
    assert (record.kept, record.meta["language"]) == (True, "rust")


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        (" `twice(x)` that returns twice its argument.\n\n# Answer\ndef twice(x):\n    return 2 * x\n", ""),
        (" `twice(x)` that returns twice its argument.\n\n# Answer\ndef other(x):\n    return 2 * x\n",
         "solution: does not define what the problem names"),
        (" that is good.\n", "parse: not problem and answer"),
        (" `to_lines(pairs)` that takes a dictionary and returns a list with one text \"key=value\" for each entry, in order."
         "\n\n# Answer\ndef to_lines(pairs):\n    return 1\n", "copy: repeats an example of the prompt"),
    ],
)  # fmt: skip
def test_a_small_model_continues_examples(tmp_path: Path, text: str, reason: str) -> None:
    with ModelServer(lambda body: Reply(text)) as server:
        run_task(
            tmp_path, server, "oss_instruct", folder(tmp_path, 1), "n=1", "attempts=1", "model.prompt_form=few_shot"
        )
        assert server.bodies[0]["prompt"].endswith("# Code seen\nvalue_0 = 0\n\n# Exercise\nWrite a Python function")
    (record,) = fates(tmp_path, "oss_instruct")
    assert record.reason == reason
    if not reason:
        assert record.messages[0].content == "Write a Python function `twice(x)` that returns twice its argument."


def test_every_example_defines_what_it_names_and_runs() -> None:
    import asyncio
    import re

    async def check() -> None:
        async with open_sandbox() as sandbox:
            for example in load_data(Templates(), EXAMPLES):
                name = re.search(r"`(\w+)\(", example["problem"])
                assert name
                verdict = await sandbox.verify(
                    example["solution"], [f"assert callable({name.group(1)})"], allow_in_process=True
                )
                assert verdict.status == "pass", (example["problem"], verdict.feedback)

    asyncio.run(check())


def test_what_is_wrong_is_told_beforehand(tmp_path: Path) -> None:
    for words, told in (
        (("source.path=nowhere",), "no such file"),
        (("source.kind=list", "source.items=[a]"), "column `snippet`"),
        ((folder(tmp_path), "task.language=rust", "model.prompt_form=few_shot"), "are for python"),
    ):
        with ModelServer() as server, pytest.raises(ConfigError, match=told):
            run_task(tmp_path, server, "oss_instruct", *words)
