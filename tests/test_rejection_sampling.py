"""`task=rejection_sampling`: K answers to a prompt as a group, the best of them, and pairs."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pyarrow.parquet
import pytest

from factory.compose import compose_config
from factory.errors import ConfigError
from factory.export import ExportSettings, export
from tests.factory_run import run_task
from tests.model_server import ModelServer, Reply, last_text
from tests.records import fates, manifest

TASK = "rejection_sampling"
JUDGE = ("scorers.judge.enabled=true", "scorers.judge.keep='judge >= 3'")


def rows(folder: Path, *rows: dict[str, Any]) -> str:
    (folder / "rows.jsonl").write_text("\n".join(map(json.dumps, rows)))
    return f"source.path={folder}/rows.jsonl"


def graded(answers: list[tuple[str, int]]) -> ModelServer:
    """Answers in turn, whatever the prompt, and the judge's grade of each."""
    grades, left = dict(answers), [text for text, _ in answers]

    def script(body: dict[str, Any]) -> Reply:
        if "response_format" in body:
            grade = next(grade for text, grade in grades.items() if text in last_text(body))
            return Reply(json.dumps({"reason": "so", "score": grade}))
        return Reply(left.pop(0))

    return ModelServer(script)


def exported(folder: Path, *words: str) -> list[dict[str, Any]]:
    composed, problems = compose_config("export", [f"out={folder}/outputs/{TASK}", f"to={folder}/to", *words])
    assert problems == []
    export(ExportSettings.model_validate({key: value for key, value in composed.items() if key != "hydra"}))
    return pyarrow.parquet.read_table(folder / "to/part-00000.parquet").to_pylist()  # type: ignore[no-any-return]


ANSWERS = [("A poor one", 1), ("A fair one", 3), ("The best one", 5), ("A good one", 4), ("A weak one", 2)]


def test_the_best_of_a_group_and_its_pairs(tmp_path: Path) -> None:
    source = rows(tmp_path, {"instruction": "Name a colour."})
    with graded(ANSWERS) as server:
        assert run_task(tmp_path, server, TASK, source, "task.answers=5", *JUDGE) == 0
        assert server.count == 10
    found = fates(tmp_path, TASK)
    assert len({record.meta["group"] for record in found}) == 1
    assert len({record.id for record in found}) == 5
    assert sorted(record.meta["sample"] for record in found) == [0, 1, 2, 3, 4]
    assert manifest(tmp_path, TASK)["kept"] == 3
    assert manifest(tmp_path, TASK)["reasons"] == {"not (judge >= 3)": 2}
    (best,) = exported(tmp_path, "per_group=1", "reward=judge")
    assert best["messages"][-1]["content"] == "The best one"
    assert len(exported(tmp_path, "per_group=2", "reward=judge")) == 2
    assert len(exported(tmp_path)) == 3
    (pair,) = exported(tmp_path, "format=preference", "reward=judge")
    assert pair["prompt"] == [{"role": "user", "content": "Name a colour."}]
    assert (pair["chosen"][0]["content"], pair["rejected"][0]["content"]) == ("The best one", "A poor one")
    assert (pair["chosen_reward"], pair["rejected_reward"], pair["source"]) == (5, 1, "judge")
    gaps = [
        row["rejected_reward"]
        for row in exported(tmp_path, "format=preference", "reward=judge", "max_pairs=9", "min_gap=2")
    ]
    assert sorted(gaps) == [1, 2], "a gap of exactly two is not above two"
    graded_pairs = exported(tmp_path, "format=preference", "max_pairs=9")
    assert sorted(row["rejected_reward"] for row in graded_pairs) == [1, 2, 3, 4], "the grades are there: they rank"
    plain = exported(tmp_path, "format=preference", "max_pairs=9", "pairs.decide=[keep]")
    assert {(row["chosen_reward"], row["rejected_reward"], row["source"]) for row in plain} == {(1, 0, "verifier")}


def test_a_score_that_nobody_gave_is_told(tmp_path: Path) -> None:
    source = rows(tmp_path, {"instruction": "Name a colour."})
    with graded(ANSWERS) as server:
        run_task(tmp_path, server, TASK, source, "task.answers=2")
    with pytest.raises(ConfigError, match=r"reward=rule: no score is named 'rule'; did you mean rules"):
        exported(tmp_path, "format=preference", "reward=rule")


def test_groups_of_different_prompts_are_never_mixed(tmp_path: Path) -> None:
    source = rows(tmp_path, *({"instruction": f"Question {number}"} for number in range(6)))

    def script(body: dict[str, Any]) -> Reply:
        return Reply(f"{last_text(body)}: {server.count} " + "x" * (server.count * 7 % 40))

    with ModelServer(script) as server:
        run_task(tmp_path, server, TASK, source, "task.answers=4", "scorers.rules.max_chars=30", "engine.concurrency=1")
    pairs = exported(tmp_path, "format=preference", "max_pairs=4")
    assert len(pairs) > 3
    for pair in pairs:
        question = pair["prompt"][0]["content"]
        assert pair["chosen"][0]["content"].startswith(question)
        assert pair["rejected"][0]["content"].startswith(question)
        assert len(pair["chosen"][0]["content"]) <= 30 < len(pair["rejected"][0]["content"])


def test_equal_answers_count_once_and_style_prompts_are_dropped(tmp_path: Path) -> None:
    source = rows(tmp_path, {"messages": [{"role": "system", "content": "Be kind."}, {"role": "user", "content": "Hi"},
                                          {"role": "assistant", "content": "an old answer"}]})  # fmt: skip
    with ModelServer(lambda body: Reply("Blue." if "Terse" in str(body) else "It is blue.")) as server:
        run_task(tmp_path, server, TASK, source, "task.answers=8", "task.systems=[Terse, Chatty]")
        sent = {tuple(turn["content"] for turn in body["messages"]) for body in server.bodies}
    assert sent == {("Terse", "Be kind.", "Hi"), ("Chatty", "Be kind.", "Hi")}
    reasons = manifest(tmp_path, TASK)["reasons"]
    assert reasons == {"duplicate: the same as an earlier record": 6}
    for record in fates(tmp_path, TASK):
        assert [turn.content for turn in record.messages[:-1]] == ["Be kind.", "Hi"]
        assert record.meta["system"] in ("Terse", "Chatty")


def test_one_answer_that_fails_costs_one_record(tmp_path: Path) -> None:
    source = rows(tmp_path, {"instruction": "Name a colour."}, {"messages": []}, {"messages": "hi"})
    replies = [Reply("Red."), Reply("no", status=400), Reply("Gre", finish_reason="length"), Reply(" ")]
    with ModelServer(lambda body: replies.pop(0)) as server:
        run_task(tmp_path, server, TASK, source, "task.answers=4")
    reasons = manifest(tmp_path, TASK)["reasons"]
    assert manifest(tmp_path, TASK)["kept"] == 1
    assert reasons.pop("answer: cut off at the token limit") == 1
    assert reasons.pop("answer: empty") == 1
    assert reasons.pop("source: messages holds no turn of the user to answer") == 1
    assert reasons.pop("source: messages is no list of role and content") == 1
    (other,) = reasons
    assert other.startswith("engine: ")


def test_what_fails_waits_for_what_is_under_way() -> None:
    import asyncio

    from factory.generators.together import together

    done = []

    async def work(number: int) -> int:
        await asyncio.sleep(0.01 * number)
        if number == 0:
            raise ValueError("at once")
        done.append(number)
        return number

    with pytest.raises(ValueError, match="at once"):
        asyncio.run(together(map(work, range(4))))
    assert done == [1, 2, 3]
    assert asyncio.run(together(map(work, range(1, 4)))) == [1, 2, 3]
