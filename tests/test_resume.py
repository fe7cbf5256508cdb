"""What is paid for once is never paid for again: changed rules, scorers, rows, templates, counts; kills."""

from __future__ import annotations

import asyncio
import sqlite3
from pathlib import Path
from typing import Any

import pytest

from benchmarks.kill import Comparison, Scenario, compare
from tests.model_server import ModelServer, Reply, last_text
from tests.runs import Listener, kept, records, run, run_once, table, write_rows


def script(body: dict[str, Any]) -> Reply:
    """Answers of growing length; the judge's grade depends on the number."""
    text = last_text(body)
    if "response_format" in body:
        number = int(text.split("question number ")[1].split()[0])
        return Reply(f'{{"reason": "because", "score": {number % 5 + 1}}}')
    return Reply("x" * int(text.split()[-1]))


def graded(folder: Path) -> dict[str, float]:
    return {row["instruction"]: row["scores"]["judge"]["value"] for row in table(folder)}


def test_the_same_again_asks_nothing(tmp_path: Path) -> None:
    write_rows(tmp_path, 30)
    with ModelServer(script) as server:
        run(tmp_path, server)
        first = records(tmp_path)
        run(tmp_path, server)
        assert server.count == 30
    assert records(tmp_path) == first


def test_a_run_that_needs_no_answer_needs_no_server(tmp_path: Path) -> None:
    write_rows(tmp_path, 30)
    with ModelServer(script) as server:
        run(tmp_path, server)
    run(tmp_path, server.url, "scorers.rules.min_chars=20")
    assert len(kept(tmp_path)) == 10


def test_a_changed_threshold_asks_nothing(tmp_path: Path) -> None:
    write_rows(tmp_path, 30)
    with ModelServer(script) as server:
        run(tmp_path, server, "scorers.judge.enabled=true")
        before = server.count
        assert set(graded(tmp_path).values()) == {4, 5}
        run(tmp_path, server, "scorers.judge.enabled=true", "scorers.judge.keep='judge >= 2'")
        assert set(graded(tmp_path).values()) == {2, 3, 4, 5}
        run(tmp_path, server, "scorers.judge.enabled=true", "keep='judge == 3'")
        assert set(graded(tmp_path).values()) == {3}
        run(tmp_path, server, "scorers.judge.enabled=true", "scorers.judge.keep='judge >= 2'")
        assert server.count == before == 30 + 29, "the empty answer was never judged"
    assert set(graded(tmp_path).values()) == {2, 3, 4, 5}


def test_a_scorer_switched_on_asks_its_own_questions_only(tmp_path: Path) -> None:
    write_rows(tmp_path, 20)
    with ModelServer(script) as server:
        run(tmp_path, server)
        assert server.count == 20
        run(tmp_path, server, "scorers.judge.enabled=true")
        assert server.count == 20 + 19
        run(tmp_path, server)
        run(tmp_path, server, "scorers.rules.enabled=false")
        run(tmp_path, server, "scorers.judge.enabled=true", "scorers.rules.min_chars=5")
        assert server.count == 20 + 19
        assert server.repeated == 0


def test_more_wanted_pays_for_the_new_ones_only(tmp_path: Path) -> None:
    write_rows(tmp_path, 200)
    with ModelServer(lambda body: Reply("fine")) as server:
        run(tmp_path, server, "n=40", "engine.concurrency=1")
        assert server.count == 40
        first = kept(tmp_path)
        run(tmp_path, server, "n=90", "engine.concurrency=1")
        assert server.count == 90
        assert kept(tmp_path)[:40] == first
        run(tmp_path, server, "n=90", "engine.concurrency=8")
        assert server.count == 90
        run(tmp_path, server, "n=40")
    assert len(kept(tmp_path)) == 40
    assert kept(tmp_path) == first
    assert server.repeated == 0


def test_the_first_ones_in_the_order_of_the_rows_are_kept_whoever_is_faster(tmp_path: Path) -> None:
    def slow_first(body: dict[str, Any]) -> Reply:
        number = int(last_text(body).split()[-1])
        text = "" if number % 3 == 1 else f"answer {number}"
        return Reply(text, delay=0.002 * (number * 7919 % 50))

    write_rows(tmp_path, 120)
    outcome, server = run_once(tmp_path, slow_first, "n=40", "engine.concurrency=16")
    wanted = [f"answer {number}" for number in range(120) if number % 3 != 1][:40]
    assert [answer for _, answer in kept(tmp_path)] == wanted
    assert server.count <= 60 + 16
    assert outcome.status == 0


def test_fewer_than_wanted_is_said(tmp_path: Path) -> None:
    write_rows(tmp_path, 10)
    outcome, _ = run_once(tmp_path, lambda body: Reply("fine"), "n=12")
    assert outcome.status == 3
    assert "10 of the 12 records wanted" in str(outcome.stopped)


def test_attempts_bound_the_rows_tried(tmp_path: Path) -> None:
    write_rows(tmp_path, 50)
    outcome, server = run_once(tmp_path, lambda body: Reply(""), "n=5", "attempts=9")
    assert (outcome.status, server.count) == (3, 9)


def test_an_edited_row_is_done_again_alone(tmp_path: Path) -> None:
    rows = [{"instruction": f"question number {number}"} for number in range(30)]
    with ModelServer(lambda body: Reply(last_text(body))) as server:
        write_rows(tmp_path, rows)
        run(tmp_path, server)
        first = dict(kept(tmp_path))
        rows[12] = {"instruction": "another question altogether"}
        write_rows(tmp_path, [*rows, {"instruction": "one more"}])
        run(tmp_path, server)
        assert server.count == 32
    now = dict(kept(tmp_path))
    assert len(now) == 31
    assert set(first.values()) - set(now.values()) == {"question number 12"}
    assert len(set(first) & set(now)) == 29


def test_a_row_appended_to_a_file_without_a_last_newline_is_the_only_new_one(tmp_path: Path) -> None:
    path = write_rows(tmp_path, 5)
    path.write_bytes(path.read_bytes().rstrip())
    with ModelServer(lambda body: Reply("x")) as server:
        run(tmp_path, server)
        path.write_bytes(path.read_bytes() + b'\n{"instruction": "one more"}\n')
        run(tmp_path, server)
        assert server.count == 6


def test_a_changed_prompt_says_so_and_asks_for_what_it_changes(tmp_path: Path) -> None:
    write_rows(tmp_path, [{"instruction": f"question {n}", "kind": "abc"[n % 3]} for n in range(30)])
    with ModelServer(lambda body: Reply(last_text(body))) as server:
        run(tmp_path, server)
        listener = Listener()
        louder = "task.prompt='{{ instruction }}{% if kind == \"a\" %}!{% endif %}'"
        run(tmp_path, server, louder, display=listener)
        assert server.count == 30 + 10
        assert "changed since this run's last time: task.prompt" in listener.said[0]
        assert sum(answer.endswith("!") for _, answer in kept(tmp_path)) == 10
        quiet = Listener()
        run(tmp_path, server, louder, display=quiet)
        assert quiet.said == []
        assert server.count == 40


def test_a_changed_template_file_is_noticed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    write_rows(tmp_path, 10)
    (tmp_path / "prompts").mkdir()
    ask, inner = tmp_path / "prompts" / "ask.j2", tmp_path / "prompts" / "tone.j2"
    ask.write_text("{% include 'tone.j2' %}{{ instruction }}")
    inner.write_text("Kindly: ")
    own = ("task.template=ask.j2", "task.prompt=null")
    with ModelServer(lambda body: Reply(last_text(body))) as server:
        run(tmp_path, server, *own)
        inner.write_text("Quickly: ")
        listener = Listener()
        run(tmp_path, server, *own, display=listener)
        assert "a prompt template" in listener.said[0]
        assert server.count == 20
    assert all(answer.startswith("Quickly: ") for _, answer in kept(tmp_path))


def test_another_model_and_another_place_are_asked_anew_unless_they_have_a_name(tmp_path: Path) -> None:
    write_rows(tmp_path, 5)
    with ModelServer(lambda body: Reply("x")) as one, ModelServer(lambda body: Reply("x")) as two:
        run(tmp_path, one)
        listener = Listener()
        run(tmp_path, one, "model.path=other", display=listener)
        assert "the model" in listener.said[0]
        run(tmp_path, two)
        assert (one.count, two.count) == (10, 5)
        run(tmp_path, one, "engine.identity=house")
        run(tmp_path, two, "engine.identity=house")
        assert (one.count, two.count) == (15, 5)


def test_sampling_decides_the_answer_and_patience_does_not(tmp_path: Path) -> None:
    write_rows(tmp_path, 5)
    with ModelServer(lambda body: Reply("x")) as server:
        run(tmp_path, server)
        run(tmp_path, server, "engine.deadline=5", "engine.concurrency=2", "budget.requests=500", "in_flight=3")
        assert server.count == 5
        run(tmp_path, server, "task.sampling.temperature=0.1")
        assert server.count == 10
        assert server.bodies[-1]["temperature"] == 0.1
        run(tmp_path, server, "seed=1")
        assert server.count == 15


def test_a_journal_read_by_others_while_it_is_written(tmp_path: Path) -> None:
    """`report` and `explain` look at a run that goes on."""
    write_rows(tmp_path, 200)
    seen: list[int] = []

    def watching(body: dict[str, Any]) -> Reply:
        path = tmp_path / "run" / "journal.db"
        with sqlite3.connect(f"file:{path}?mode=ro", uri=True) as reader:
            seen.append(reader.execute("SELECT count(*) FROM responses").fetchone()[0])
        return Reply("x")

    run_once(tmp_path, watching, "engine.concurrency=4")
    assert max(seen) > 150
    assert seen == sorted(seen)


def test_killed_runs_end_as_one_that_was_not(tmp_path: Path) -> None:
    """SIGKILL at random moments, several times a run, then to the end; `python -m benchmarks.kill` does a hundred."""

    async def main() -> list[Comparison]:
        scenarios = (Scenario(seed, rows=120, concurrency=12) for seed in range(4))
        return await asyncio.gather(*(compare(tmp_path / str(each.seed), each) for each in scenarios))

    for found in asyncio.run(main()):
        assert found.kills >= 1
        assert found.same, found
        assert found.repeated <= found.allowed, found


@pytest.mark.parametrize("task", ["self_instruct", "topic_tree", "evol_instruct"])
def test_killed_runs_that_build_on_their_own_results_end_as_one_that_was_not(tmp_path: Path, task: str) -> None:
    """The pool, the tree and the lineages are the same, too: a draw or a parent that differed would change what is asked."""

    async def main() -> list[Comparison]:
        scenarios = (Scenario(seed, rows=60, concurrency=8, task=task) for seed in (0, 3))
        return await asyncio.gather(*(compare(tmp_path / str(each.seed), each) for each in scenarios))

    for found in asyncio.run(main()):
        assert found.kills >= 1
        assert found.same, found
        assert found.repeated <= found.allowed, found
