"""Several answers to one question in one request (`engine.samples`): fewer requests, and nothing else is different."""

from __future__ import annotations

import json
import sqlite3
from pathlib import Path
from typing import Any

import pytest

from factory.engine.replies import shared
from tests.factory_run import run_task
from tests.model_server import ModelServer, Reply, last_text
from tests.records import fates, manifest

TASK = "rejection_sampling"
TOGETHER = ("engine.samples=true", "scorers.rules.enabled=false")


def rows(folder: Path, count: int = 4) -> str:
    lines = (json.dumps({"instruction": f"Say the number {n}."}) for n in range(count))
    (folder / "rows.jsonl").write_text("\n".join(lines))
    return f"source.path={folder}/rows.jsonl"


def test_one_request_for_all_samples_of_a_question(tmp_path: Path) -> None:
    with ModelServer() as server:
        assert run_task(tmp_path, server, TASK, rows(tmp_path), "task.answers=5", *TOGETHER) == 0
        assert [body["n"] for body in server.bodies] == [5] * 4
    found = fates(tmp_path, TASK)
    assert len(found) == 20
    assert len({record.messages[-1].content for record in found}) == 20
    told = manifest(tmp_path, TASK)
    assert told["requests"] == 20, "answers are what is counted and paid for"
    assert told["tokens"]["prompt"] == 4 * 10, "the prompt is read once"


def test_a_larger_number_of_samples_asks_for_the_new_ones_alone(tmp_path: Path) -> None:
    with ModelServer() as server:
        run_task(tmp_path, server, TASK, rows(tmp_path), "task.answers=3", *TOGETHER)
        before = {record.id: record.messages for record in fates(tmp_path, TASK)}
        run_task(tmp_path, server, TASK, rows(tmp_path), "task.answers=8", *TOGETHER)
        assert [body.get("n") for body in server.bodies] == [3] * 4 + [5] * 4
    after = {record.id: record.messages for record in fates(tmp_path, TASK)}
    assert len(after) == 32
    assert before.items() <= after.items()


def test_the_same_answers_as_one_by_one_are_used_again(tmp_path: Path) -> None:
    with ModelServer() as server:
        run_task(tmp_path, server, TASK, rows(tmp_path), "task.answers=3", *TOGETHER)
        run_task(tmp_path, server, TASK, rows(tmp_path), "task.answers=3", "scorers.rules.enabled=false")
        assert server.count == 4


def test_a_refused_request_costs_its_samples_and_nobody_elses(tmp_path: Path) -> None:
    def script(body: dict[str, Any]) -> Reply:
        return Reply("no", status=400) if "number 2" in last_text(body) else Reply(last_text(body))

    with ModelServer(script) as server:
        run_task(tmp_path, server, TASK, rows(tmp_path), "task.answers=3", *TOGETHER)
    assert manifest(tmp_path, TASK)["kept"] == 9
    lost = [record for record in fates(tmp_path, TASK) if not record.kept]
    assert len(lost) == 3
    assert all("HTTP 400" in record.reason for record in lost)


@pytest.mark.parametrize("temperature", ["0", "1e-6"])
def test_the_likeliest_answer_is_asked_for_one_at_a_time(tmp_path: Path, temperature: str) -> None:
    """A server refuses `n` above 1 there: two judges of the same answer lost both their grades by it."""

    def script(body: dict[str, Any]) -> Reply:
        greedy = body["temperature"] < 1e-5 and body.get("n", 1) > 1
        return Reply("n must be 1 when using greedy sampling", status=400) if greedy else Reply(last_text(body))

    with ModelServer(script) as server:
        words = ("task.answers=3", f"task.sampling.temperature={temperature}")
        run_task(tmp_path, server, TASK, rows(tmp_path), *words, *TOGETHER)
    assert [record.reason for record in fates(tmp_path, TASK)] == [""] * 12


def test_a_server_that_gives_fewer_answers_is_told_not_believed(tmp_path: Path) -> None:
    def script(body: dict[str, Any]) -> Reply:
        body["n"] = 1
        return Reply("one")

    with ModelServer(script) as server:
        run_task(tmp_path, server, TASK, rows(tmp_path, 1), "task.answers=3", "engine.retries=0", *TOGETHER)
    assert manifest(tmp_path, TASK)["kept"] == 0
    assert "malformed answer" in next(iter(manifest(tmp_path, TASK)["reasons"]))


def test_what_is_in_flight_is_counted_in_answers(tmp_path: Path) -> None:
    """No more than `concurrency` answers are being written at once, whatever they are asked for in."""
    with ModelServer(lambda body: Reply(last_text(body), delay=0.05)) as server:
        run_task(tmp_path, server, TASK, rows(tmp_path, 8), "task.answers=4", "engine.concurrency=8", *TOGETHER)
        assert server.peak == 2
        run_task(
            tmp_path, server, TASK, rows(tmp_path, 9), "task.answers=16", "engine.concurrency=8", "seed=1", *TOGETHER
        )
        assert server.peak == 2, "what weighs more than the limit goes alone"


def test_a_budget_counts_answers(tmp_path: Path) -> None:
    with ModelServer() as server:
        status = run_task(tmp_path, server, TASK, rows(tmp_path), "task.answers=5", "budget.requests=12", *TOGETHER)
        assert status == 3
        assert server.count == 2
    with sqlite3.connect(tmp_path / f"outputs/{TASK}/journal.db") as journal:
        assert journal.execute("SELECT count(*) FROM responses").fetchone()[0] == 10


@pytest.mark.parametrize(("total", "weights"), [(10, [1, 1, 1]), (0, [3]), (7, [1, 5, 1]), (3, [1] * 5)])
def test_tokens_are_shared_out_whole(total: int, weights: list[int]) -> None:
    parts = shared(total, weights)
    assert sum(parts) == total
    assert all(part >= 0 for part in parts)
