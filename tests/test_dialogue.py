"""`task=dialogue`: both sides by the model, the rules that end a dialogue, and courtesies cut out."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from factory.errors import ConfigError
from factory.generators.dialogue import without_courtesies
from factory.records import Record
from tests.factory_run import run_task
from tests.model_server import ModelServer, Reply, last_text
from tests.records import fates, manifest

ASKS = "You play the user"
ANSWERS = ["A cloth bag at room temperature keeps it fresh.", "Because cold hardens the starch sooner.", "Freeze it sliced, then toast it."]  # fmt: skip


def one(folder: Path, user: list[str], *words: str, answers: list[str] = ANSWERS, first: str = "How is bread kept?",
        form: str = "chat") -> tuple[Record, ModelServer]:  # fmt: skip
    """The record of one dialogue whose user's later turns and answers are given."""
    says, tells = list(user), list(answers)

    def script(body: dict[str, Any]) -> Reply:
        asked = "prompt" in body or last_text(body).startswith(ASKS)
        return Reply((says if asked else tells).pop(0))

    with ModelServer(script) as server:
        run_task(folder, server, "dialogue", f"source.items=['{first}']", "n=null", f"model.prompt_form={form}", *words)
    (record,) = fates(folder, "dialogue")
    return record, server


def test_three_turns_with_a_persona(tmp_path: Path) -> None:
    record, server = one(tmp_path, ["Thanks! Why not in the fridge, please?", '"And in the freezer?"'])
    assert record.kept
    assert [(turn.role, turn.content) for turn in record.messages] == [
        ("user", "How is bread kept?"), ("assistant", ANSWERS[0]), ("user", "Why not in the fridge?"),
        ("assistant", ANSWERS[1]), ("user", "And in the freezer?"), ("assistant", ANSWERS[2]),
    ]  # fmt: skip
    assert (record.meta["turns"], record.meta["ended"]) == (3, "turn limit")
    persona = record.meta["persona"]
    asked = [last_text(body) for body in server.bodies if last_text(body).startswith(ASKS)]
    assert len(asked) == 2
    assert all(persona["person"] in text for text in asked)
    assert f"Assistant: {ANSWERS[1]}" in asked[1]
    styles = {"normal": "ordinary question", "complex": "two conditions", "concise": "at most eight words"}
    assert styles[persona["style"]] in asked[0]


def test_two_turn_prompts_end_with_the_user(tmp_path: Path) -> None:
    record, server = one(tmp_path, ["Why not in the fridge?"], "task.turns=2", "task.answer_last=false")
    assert record.kept
    assert [turn.role for turn in record.messages] == ["user", "assistant", "user"]
    assert server.count == 2


@pytest.mark.parametrize(
    ("said", "ended"),
    [
        ("<done>", "done"),
        ("I see. <done>", "done"),
        ("Thank you so much!", "done"),
        ("Sure! Here is a list.", "role flip"),
        ("As an AI, I cannot eat bread.", "role flip"),
        ("Fine. Let me know if you have other questions.", "role flip"),
        ("Assistant: Because it hardens.", "role flip"),
        ("How is the bread kept?", "repetition"),
        ("A cloth bag at room temperature keeps it fresh?", "repetition"),
    ],
)
def test_what_ends_a_dialogue(tmp_path: Path, said: str, ended: str) -> None:
    """What came before is kept where it has turns enough, and lost with its reason where not."""
    record, _ = one(tmp_path, ["Why not in the fridge?", said])
    assert record.kept
    assert (record.meta["turns"], record.meta["ended"]) == (2, ended)
    assert record.messages[-1].content == ANSWERS[1]
    (tmp_path / "short").mkdir()
    record, _ = one(tmp_path / "short", [said])
    assert (record.kept, record.reason) == (False, f"dialogue: {ended} after 1 of its turns")


def test_an_assistant_that_repeats_itself_ends_it_before_the_question(tmp_path: Path) -> None:
    record, _ = one(
        tmp_path, ["Why not in the fridge?", "And in the freezer?"], answers=[*ANSWERS[:2], ANSWERS[0] + " Yes."]
    )
    assert record.kept
    assert record.meta["ended"] == "repetition"
    assert record.messages[-1].content == ANSWERS[1]


def test_a_small_model_continues_a_transcript(tmp_path: Path) -> None:
    record, server = one(tmp_path, [" Why not in the fridge?", " <done>"], form="few_shot")
    assert record.messages[2].content == "Why not in the fridge?"
    raw = [body for body in server.bodies if "prompt" in body]
    assert raw[0]["prompt"].endswith(f"Person: How is bread kept?\nAssistant: {ANSWERS[0]}\nPerson:")
    assert raw[0]["stop"] == ["\n"]


def test_the_funnel_of_several_dialogues(tmp_path: Path) -> None:
    def script(body: dict[str, Any]) -> Reply:
        text = last_text(body)
        if text.startswith(ASKS):
            return Reply(
                "<done>" if "topic 1" in text else "Sure, here is more." if "topic 2" in text else "What does it cost?"
            )
        return (
            Reply("", finish_reason="length") if "topic 3" in text else Reply(f"It is {text} {len(body['messages'])}.")
        )

    items = ",".join(f"Tell me of topic {number}" for number in range(5))
    with ModelServer(script) as server:
        run_task(
            tmp_path, server, "dialogue", f"source.items=[{items}]", "n=null", "task.turns=2", "model.prompt_form=chat"
        )
    found = manifest(tmp_path, "dialogue")
    assert found["kept"] == 2
    assert found["reasons"] == {
        "dialogue: done after 1 of its turns": 1,
        "dialogue: role flip after 1 of its turns": 1,
        "answer: cut off at the token limit": 1,
    }


@pytest.mark.parametrize(
    ("text", "left"),
    [
        ("Thanks! That's really helpful. Could you please tell me more?", "Could you tell me more?"),
        ("Thank you so much.", ""),
        ("Great, but what about rain?", "But what about rain?"),
        ("Hi! Why? Thanks in advance!", "Why?"),
        ("Can you explain it, please?", "Can you explain it?"),
        ("Great things take time, do they not?", "Great things take time, do they not?"),
        ("How much thanks is enough?", "How much thanks is enough?"),
        ("Good point about thanks to a friend?", "Good point about thanks to a friend?"),
    ],
)
def test_courtesies_are_cut_out_and_nothing_else(text: str, left: str) -> None:
    assert without_courtesies(text) == left


@given(st.text())
def test_cutting_any_text_ends_and_is_settled(text: str) -> None:
    left = without_courtesies(text)
    assert len(left) <= len(text) + 2


@pytest.mark.parametrize(
    ("words", "told"),
    [(("task.least_turns=4",), "must not be above task.turns=3"), (("task.styles=[rude]",), "normal"),
     (("task.styles=[]",), "one style"), (("source.items=[{thing: x}]",), "column `instruction`")],
)  # fmt: skip
def test_what_is_wrong_is_told_beforehand(tmp_path: Path, words: tuple[str, ...], told: str) -> None:
    with ModelServer() as server, pytest.raises(ConfigError, match=told):
        run_task(tmp_path, server, "dialogue", *words)
