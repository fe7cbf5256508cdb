"""The code generator: every step against a scripted model, real sandbox, real journal."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from factory.errors import RecordError
from factory.generators.code_checks import python_tests, signature
from factory.generators.few_shot import FewShot, different_calls, expected_values, stated_cases
from factory.journal import Journal
from factory.prompts import Templates
from factory.sandbox import open_sandbox
from tests.factory_run import run_task
from tests.model_server import ModelServer, Reply, last_text

PROBLEM = "<problem>Write a function `clamp(x, low, high)` that returns x, or the nearer bound where x lies outside.</problem>"
RIGHT = (
    "```python\ndef clamp(x, low, high):\n    if x < low:\n        return low\n    return high if x > high else x\n```"
)
WRONG = "```python\ndef clamp(x, low, high):\n    return min(x, high)\n```"
TESTS = """```python
assert clamp(5, 0, 10) == 5
assert clamp(-3, 0, 10) == 0
assert clamp(12, 0, 10) == 10
assert clamp(0, 0, 10) == 0
assert clamp(10, 0, 10) == 10
assert clamp(7, 8, 9) == 8
```"""


def scripted(solutions: list[str], repairs: list[str], tests: str = TESTS) -> ModelServer:
    """A model that answers each step from a list; the last answer is given again and again."""
    steps = {"solution": list(solutions), "repair": list(repairs)}

    def script(body: dict[str, Any]) -> Reply:
        text = last_text(body)
        if "failed some of its tests" in text:
            kind = "repair"
        elif text.startswith("Solve this exercise"):
            kind = "solution"
        elif text.startswith("Write tests"):
            return Reply(tests)
        else:
            return Reply(PROBLEM)
        answers = steps[kind]
        return Reply(answers.pop(0) if len(answers) > 1 else answers[0])

    return ModelServer(script)


def one(folder: Path, server: ModelServer, *overrides: str) -> dict[str, Any]:
    """The single record of a run of one attempt."""
    run_task(folder, server, "code", "n=1", "attempts=1", "model.prompt_form=chat", *overrides)
    with Journal(folder / "outputs/code/journal.db") as journal:
        config = journal.current_config()
        assert config is not None
        (fate,) = journal.fates(config[0])
    return fate.record.model_dump()


def test_a_right_solution_is_kept_with_its_tests_run(tmp_path: Path) -> None:
    with scripted([RIGHT], [RIGHT]) as server:
        record = one(tmp_path, server, "task.alternatives=0")
    assert record["kept"]
    assert record["messages"][0]["content"].startswith("Write a function `clamp")
    assert "def clamp" in record["messages"][1]["content"]
    assert record["scores"]["execution"]["detail"]["trust"] == "supervisor"
    assert record["scores"]["test_strength"]["value"] >= 0.6
    assert len(record["meta"]["tests"]) == 6
    assert record["meta"]["hidden_tests"] == 2


def test_feedback_leads_to_a_correction(tmp_path: Path) -> None:
    with scripted([WRONG], [f"Below low it must give low.\n<verdict>code</verdict>\n{RIGHT}"]) as server:
        record = one(tmp_path, server, "task.alternatives=0")
        repair = next(last_text(body) for body in server.bodies if "failed some" in last_text(body))
    assert record["kept"]
    assert [attempt["verdict"]["status"] for attempt in record["meta"]["attempts"]] == ["wrong", "pass"]
    # The model saw what it got wrong, and nothing of the hidden tests.
    assert "assert clamp(-3, 0, 10) == 0" in repair
    assert "expected 0, got -3" in repair
    assert "clamp(7, 8, 9)" not in repair


def test_corrections_are_bounded(tmp_path: Path) -> None:
    with scripted([WRONG], [f"<verdict>code</verdict>\n{WRONG}"]) as server:
        record = one(tmp_path, server, "task.repairs=2")
        asked = sum("failed some" in last_text(body) for body in server.bodies)
    assert not record["kept"]
    assert record["reason"] == "execution: wrong"
    assert asked == 2
    assert len(record["meta"]["attempts"]) == 3


def test_weakening_the_tests_does_not_help(tmp_path: Path) -> None:
    """The model declares the failing tests wrong; the hidden ones, which it never saw, still decide."""
    weaker = "<verdict>tests</verdict>\n```python\nassert clamp(-3, 0, 10) == -3\n```"
    tests = TESTS.replace("assert clamp(0, 0, 10) == 0\n", "")
    with scripted([WRONG], [weaker], tests) as server:
        record = one(tmp_path, server, "task.alternatives=0")
    assert record["meta"]["attempts"][-1]["verdict"]["status"] == "pass"
    assert not record["kept"]
    assert record["reason"] == "execution: wrong"


def test_fewer_tests_are_no_correction(tmp_path: Path) -> None:
    none = "<verdict>tests</verdict>\n```python\nx = 1\n```"
    with scripted([WRONG], [none]) as server:
        record = one(tmp_path, server)
    assert len(record["meta"]["attempts"]) == 1
    assert record["reason"] == "execution: wrong"


def test_tests_that_say_nothing_are_weak(tmp_path: Path) -> None:
    empty = "```python\n" + "\n".join(f"assert clamp({n}, {n}, {n}) == {n}" for n in range(10, 16)) + "\n```"
    with scripted([RIGHT], [RIGHT], empty) as server:
        record = one(tmp_path, server, "task.alternatives=0")
    assert record["scores"]["execution"]["value"] == 1
    assert not record["kept"]
    assert record["reason"] == "test_strength: weak_tests"


@pytest.mark.parametrize(
    ("solution", "reason"),
    [
        ("no code here", "parse: no code block"),
        ("```python\ndef clamp(x:\n```", "parse: SyntaxError"),
        ("```python\nx = 1\n```", "parse: defines no function"),
        ("```python\ndef clamp(x, low, high):\n    return undefined_name\n```", "lint: F821"),
        ("```python\nimport os\ndef clamp(x, low, high):\n    return x\n```", "import: os is not allowed"),
        (
            "```python\nimport numpy\ndef clamp(x, low, high):\n    return x\n```",
            "import: numpy is not in the standard library",
        ),
        ("```python\ndef clamp(x, low, high):\n    while True: pass\n```", "execution: timeout"),
    ],
)
def test_what_does_not_run_says_why(tmp_path: Path, solution: str, reason: str) -> None:
    with scripted([solution], ["I do not know."]) as server:
        record = one(tmp_path, server, "sandbox.wall=1", "sandbox.cpu=5")
    assert not record["kept"]
    assert record["reason"] == reason


def test_alternatives_that_fail_become_pairs(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    import datasets

    from factory.cli import main

    with scripted([RIGHT, WRONG, RIGHT], [RIGHT]) as server:
        record = one(tmp_path, server, "task.alternatives=2")
    assert record["kept"]
    assert [other["verdict"]["status"] for other in record["meta"]["alternatives"]] == ["wrong"]
    with pytest.raises(SystemExit) as ended:
        main(["export", f"out={tmp_path}/outputs/code", "format=preference", f"to={tmp_path}/pairs"])
    assert ended.value.code == 0
    (pair,) = datasets.load_dataset(str(tmp_path / "pairs"), split="train", cache_dir=str(tmp_path / "cache"))
    assert pair["chosen"][0]["content"] == record["messages"][1]["content"]
    assert "min(x, high)" in pair["rejected"][0]["content"]
    assert pair["prompt"] == [{"role": "user", "content": record["meta"]["problem"]}]
    assert (pair["chosen_reward"], pair["source"]) == (1.0, "verifier")
    assert pair["rejected_reward"] == pytest.approx(4 / 6)


def test_equal_solutions_count_once(tmp_path: Path) -> None:
    """Names and layout aside, every seed gives the same solution: the second one is a duplicate."""
    renamed = RIGHT.replace("high", "top").replace("clamp", "bound")
    with scripted([RIGHT, renamed], [RIGHT], TESTS) as server:
        status = run_task(
            tmp_path,
            server,
            "code",
            "n=2",
            "attempts=2",
            "in_flight=1",
            "task.alternatives=0",
            "model.prompt_form=chat",
        )
    assert status == 3
    manifest = json.loads((tmp_path / "outputs/code/manifest.json").read_text())
    assert manifest["kept"] == 1


def test_snippets_of_source_are_seeds(tmp_path: Path) -> None:
    (tmp_path / "src").mkdir()
    (tmp_path / "src/one.py").write_text("def f():\n    return 'snippet to build on'\n")
    with scripted([RIGHT], [RIGHT]) as server:
        one(tmp_path, server, "source.kind=snippets", f"source.path={tmp_path}/src", "task.alternatives=0")
        assert any("<snippet>" in last_text(body) for body in server.bodies)


@pytest.mark.parametrize(
    ("language", "program"),
    [
        ("javascript", "console.log(require('fs').readFileSync(0, 'utf8').trim() * 2)"),
        ("bash", "read n; echo $((n * 2))"),
        ("c", '#include <stdio.h>\nint main(void) { int n; scanf("%d", &n); printf("%d\\n", n * 2); }'),
        ("cpp", "#include <iostream>\nint main() { int n; std::cin >> n; std::cout << n * 2 << std::endl; }"),
    ],
)
def test_programs_in_other_languages_are_run(tmp_path: Path, language: str, program: str) -> None:
    cases = json.dumps([{"stdin": f"{n}\n", "stdout": f"{2 * n}\n"} for n in (1, 5, -3)])
    with scripted([f"```{language}\n{program}\n```"], ["-"], f"```json\n{cases}\n```") as server:
        record = one(
            tmp_path, server, f"task.language={language}", "task.alternatives=0", "sandbox.wall=20", "sandbox.cpu=20"
        )
    assert record["kept"], record["reason"]
    assert record["scores"]["execution"]["detail"]["total"] == 3
    # `n * 2` and its few constants leave little to mutate, but what there is must be noticed.
    strength = record["scores"]["test_strength"]["detail"]
    assert strength["stub_fails"]
    assert strength["mutants"] >= 1


# ---- the few-shot form for very small models


def test_every_example_passes_strong_tests_and_states_its_cases() -> None:
    import asyncio

    shots = FewShot(Templates())

    async def check() -> None:
        async with open_sandbox() as sandbox:
            for examples in shots.examples.values():
                for example in examples:
                    verdict = await sandbox.verify(example.solution, example.tests)
                    assert verdict.status == "pass", (example.problem, verdict.feedback)
                    assert (await sandbox.strength(example.solution, list(example.tests))).share >= 0.6
                    stated = stated_cases(example.problem)
                    assert stated, example.problem
                    assert (await sandbox.verify(example.solution, stated)).status == "pass", example.problem

    asyncio.run(check())


def test_the_prompt_ends_inside_the_problem_and_is_read_from_there() -> None:
    shots = FewShot(Templates())
    row = next(shots.seeds(0))
    prompt = shots.prompt(row, Templates())
    assert prompt.endswith(row["opening"])
    assert row["signature"] in prompt.splitlines()[-1]
    text = " 1 to 'a', and any other number to 'b'.\ndef f(x):\n    return 'a' if x == 1 else 'b'\n\n# Tests\nassert f(1) == 'a'\nassert f(2) =="
    problem, solution, tests = shots.read(prompt, text)
    assert problem.startswith("Write a Python function")
    assert solution.startswith("def f(x):")
    assert tests == ["assert f(1) == 'a'"]


def test_repeating_an_example_is_told_from_a_new_problem() -> None:
    shots = FewShot(Templates())
    example = shots.examples["mapping"][0]
    tail = example.problem.split("`", 2)[2] + "\n" + example.solution + "\n\n# Tests\n" + "\n".join(example.tests)
    prompt = "# Problem: " + example.problem[: len(example.problem) - len(example.problem.split("`", 2)[2])]
    with pytest.raises(RecordError, match="copy"):
        shots.read(prompt, tail)


def test_seeds_depend_on_the_seed_alone_and_do_not_repeat_early() -> None:
    from itertools import islice

    shots = FewShot(Templates())
    first = [row["signature"] for row in islice(shots.seeds(1), 300)]
    assert first == [row["signature"] for row in islice(FewShot(Templates()).seeds(1), 300)]
    assert first != [row["signature"] for row in islice(shots.seeds(2), 300)]
    assert len(set(first)) == 300


@given(st.dictionaries(st.integers(-50, 50), st.sampled_from(["a", "b", "c d"]), min_size=1, max_size=4))
def test_stated_pairs_become_tests(pairs: dict[int, str]) -> None:
    text = ", ".join(f"{key} to {value!r}" for key, value in pairs.items())
    cases = stated_cases(f"Write a Python function `f(x)` that maps {text}, and any other number to 'z'.")
    assert cases == [f"assert f({key}) == {value!r}" for key, value in pairs.items()] + ["assert f(987) == 'z'"]


def test_a_problem_that_contradicts_itself_is_lost() -> None:
    with pytest.raises(RecordError, match="contradicts"):
        stated_cases("Write a Python function `f(x)` that maps 1 to 'a', 1 to 'b', and any other number to 'c'.")


@given(st.text())
def test_reading_tests_never_fails(text: str) -> None:
    tests = python_tests(text)
    assert len(expected_values(different_calls(tests))) <= len(tests)


def test_signatures_show_no_bodies() -> None:
    code = "@cache\ndef f(a: int, b=2) -> int:\n    secret = 1\n    return a\nclass C:\n    def m(self): return 3\n"
    assert signature(code, "python") == "def f(a: int, b=2) -> int:\nclass C:\n    def m(self):"
