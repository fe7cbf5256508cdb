"""`task=instructions_with_constraints`: prompts with constraints, answers that code checks, and what the funnel counts."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from factory.constraints import check
from factory.errors import ConfigError
from tests.factory_run import run_task
from tests.model_server import ModelServer, Reply, last_text
from tests.records import fates, manifest

TASK = "instructions_with_constraints"
COMMA = "task.kinds=[punctuation:no_comma]"
ONE = ("task.most=1", COMMA)


def test_what_code_finds_true_is_kept_and_the_rest_says_what_it_breaks(tmp_path: Path) -> None:
    """Every third answer holds a comma."""
    asked = 0

    def script(body: dict[str, Any]) -> Reply:
        nonlocal asked
        asked += 1
        return Reply(f"Gulls, boats and rain {asked}." if asked % 3 == 0 else f"Gulls and boats and rain {asked}.")

    with ModelServer(script) as server:
        status = run_task(tmp_path, server, TASK, "n=6", "attempts=9", "in_flight=1", *ONE,
                          "task.variants={single: 1, all_turns: 0, revision: 0}")  # fmt: skip
    assert status == 0
    found = fates(tmp_path, TASK)
    kept = [record for record in found if record.kept]
    assert len(kept) == 6
    assert manifest(tmp_path, TASK)["reasons"] == {"constraints: punctuation:no_comma": 2}
    for record in kept:
        user, answer = record.messages
        assert user.content.startswith(record.meta["request"])
        assert record.meta["wordings"][0] in user.content
        assert check(answer.content, record.meta["constraints"])[0].kept
        assert (record.meta["scope"], record.scores["constraints"].value) == ("last", 1.0)
    lost = next(record for record in found if not record.kept)
    assert lost.scores["constraints"].detail["verdicts"] == [
        [{"id": "punctuation:no_comma", "kept": False, "why": "a comma"}]
    ]


@pytest.mark.parametrize("late", [False, True])
def test_rules_for_all_turns_are_checked_in_every_answer(tmp_path: Path, late: bool) -> None:
    def script(body: dict[str, Any]) -> Reply:
        second = len(body["messages"]) == 3
        return Reply("With a comma, alas." if second == late else "Without one.")

    with ModelServer(script) as server:
        run_task(
            tmp_path, server, TASK, "n=1", "attempts=1", *ONE, "task.variants={all_turns: 1, single: 0, revision: 0}"
        )
        assert server.count == 2
    (record,) = fates(tmp_path, TASK)
    assert [message.role for message in record.messages] == ["user", "assistant", "user", "assistant"]
    assert "In all your answers" in record.messages[0].content
    assert record.messages[0].content.endswith(record.meta["request"])
    assert not record.kept
    assert record.reason == "constraints: punctuation:no_comma"
    verdicts = record.scores["constraints"].detail["verdicts"]
    assert [turn[0]["kept"] for turn in verdicts] == ([True, False] if late else [False, True])
    assert record.scores["constraints"].value == 0.5


def test_a_revision_is_judged_by_its_last_answer(tmp_path: Path) -> None:
    def script(body: dict[str, Any]) -> Reply:
        if len(body["messages"]) == 1:
            assert "comma" not in last_text(body)
            return Reply("First, with a comma.")
        assert body["messages"][1]["content"] == "First, with a comma."
        assert "write your answer again" in last_text(body)
        return Reply("Then without one.")

    with ModelServer(script) as server:
        run_task(
            tmp_path, server, TASK, "n=1", "attempts=1", *ONE, "task.variants={revision: 1, single: 0, all_turns: 0}"
        )
    (record,) = fates(tmp_path, TASK)
    assert record.kept
    assert record.meta["variant"] == "revision"


def test_several_answers_to_one_prompt_are_a_group(tmp_path: Path) -> None:
    answers = iter(["Yes, but.", "No.", "Well, no."])
    with ModelServer(lambda body: Reply(next(answers))) as server:
        run_task(tmp_path, server, TASK, "n=1", "attempts=1", *ONE, "task.answers=3", "engine.concurrency=1",
                 "task.variants={single: 1, all_turns: 0, revision: 0}")  # fmt: skip
    found = fates(tmp_path, TASK)
    assert [record.kept for record in found] == [False, True, False]
    assert len({record.meta["group"] for record in found}) == 1
    assert len({record.messages[0].content for record in found}) == 1
    assert [record.meta["sample"] for record in found] == [0, 1, 2]


def test_an_answer_cut_off_or_empty_is_lost_as_such(tmp_path: Path) -> None:
    replies = [Reply("No end to", finish_reason="length"), Reply(" ")]
    with ModelServer(lambda body: replies.pop(0)) as server:
        run_task(tmp_path, server, TASK, "n=2", "attempts=2", "in_flight=1", *ONE,
                 "task.variants={single: 1, all_turns: 0, revision: 0}")  # fmt: skip
    assert manifest(tmp_path, TASK)["reasons"] == {"answer: cut off at the token limit": 1, "answer: empty": 1}


def test_the_same_command_asks_nothing_twice_and_a_loose_check_decides_anew(tmp_path: Path) -> None:
    words = ("n=4", "attempts=4", *ONE, "task.variants={single: 1, all_turns: 0, revision: 0}")
    with ModelServer(lambda body: Reply("Sure, here it is:\nGulls and boats.")) as server:
        run_task(tmp_path, server, TASK, *words)
        assert manifest(tmp_path, TASK)["kept"] == 0
        run_task(tmp_path, server, TASK, *words, "scorers.constraints.loose=true")
        assert server.count == 4
    assert manifest(tmp_path, TASK)["kept"] == 4


def test_rows_of_your_own_are_requests(tmp_path: Path) -> None:
    (tmp_path / "rows.jsonl").write_text(
        json.dumps({"instruction": "Name a colour."}) + "\n" + json.dumps({"instruction": ""})
    )
    with ModelServer(lambda body: Reply("Blue.")) as server:
        run_task(tmp_path, server, TASK, f"source.path={tmp_path}/rows.jsonl", "n=null", *ONE,
                 "task.variants={single: 1, all_turns: 0, revision: 0}")  # fmt: skip
    assert manifest(tmp_path, TASK)["kept"] == 1
    assert manifest(tmp_path, TASK)["reasons"] == {"source: no request in instruction or prompt or item": 1}


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (("task.kinds=[punctuation:no_coma]",), "did you mean punctuation:no_comma"),
        (("task.least=4",), "task.least=4 must not be above task.most=3"),
        (("task.variants={single: 0, all_turns: 0, revision: 0}",), "needs a weight above 0"),
        (("task.later_turns=99",), "follow_up"),
    ],
)
def test_what_is_wrong_is_told_beforehand(tmp_path: Path, words: tuple[str, ...], told: str) -> None:
    with ModelServer() as server, pytest.raises(ConfigError, match=told):
        run_task(tmp_path, server, TASK, *words)


def test_a_record_without_constraints_cannot_be_scored(tmp_path: Path) -> None:
    with ModelServer(lambda body: Reply("Blue.")) as server:
        run_task(
            tmp_path, server, "respond", "source.items=[{instruction: hi}]", "+scorer@scorers.constraints=constraints"
        )
    assert list(manifest(tmp_path, "respond")["reasons"]) == [
        "constraints: the record's meta holds no constraints; see docs/constraints.md for their form"
    ]
