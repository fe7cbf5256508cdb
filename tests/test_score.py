"""`task=score`: data that a user has, scored; nothing is generated."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from factory.generators.score import _answers, _whole
from factory.records import Message
from tests.factory_run import run_task
from tests.model_server import ModelServer, Reply
from tests.runs import command, table, write_rows


def scored(folder: Path, rows: list[dict[str, Any]], *words: str) -> list[dict[str, Any]]:
    """The records of these rows, kept and lost, in the order of the rows."""
    path = write_rows(folder, rows)
    with ModelServer() as server:
        assert run_task(folder, server, "score", f"source.path={path}", "run=run", *words) == 0
        assert server.count == 0, "nobody is asked"
    (folder / "run").symlink_to(folder / "outputs/run")
    return [*table(folder), *table(folder, "rejected")]


def turns(*texts: str) -> list[dict[str, str]]:
    return [{"role": ("user", "assistant")[place % 2], "content": text} for place, text in enumerate(texts)]


def test_every_form_of_a_row(tmp_path: Path) -> None:
    rows = [
        {"messages": turns("a", "b", "c", "d"), "topic": "x"},
        {"prompt": "a", "response": "b", "topic": "y"},
        {"prompt": turns("a", "b", "c"), "response": "d"},
        {"prompt": turns("a"), "responses": ["b", "c"], "topic": "z"},
        {"prompt": "a", "chosen": "b", "rejected": "c"},
        {"prompt": turns("a"), "chosen": turns("a", "b"), "rejected": [{"role": "assistant", "content": "c"}]},
        {"chosen": turns("a", "b"), "rejected": turns("a", "c")},
    ]
    found = scored(tmp_path, rows)
    assert [[turn["content"] for turn in row["messages"]] for row in found] == [
        list("abcd"), list("ab"), list("abcd"), *[list("ab"), list("ac")] * 4,
    ]  # fmt: skip
    meta = [json.loads(row["meta"]) for row in found]
    assert [entry.get("preferred") for entry in meta] == [None] * 5 + [True, False] * 3
    groups = [entry.get("group") for entry in meta]
    assert groups[:3] == [None] * 3
    assert len(set(groups[3:])) == 1, "answers to the same prompt, however it was written"
    assert [row["topic"] for row in found[:5]] == ["x", "y", None, "z", "z"]
    assert all(row["scores"]["rules"]["value"] == 1 for row in found)
    assert len({row["id"] for row in found}) == len(found)


def test_what_holds_no_answer_is_lost_with_its_reason(tmp_path: Path) -> None:
    rows = [
        {"prompt": "a", "response": "b"},
        {"messages": turns("a")},
        {"messages": []},
        {"messages": "hello"},
        {"prompt": "a"},
        {"prompt": "a", "responses": []},
        {"prompt": None, "response": "b"},
        {"prompt": "a", "chosen": "b", "rejected": None},
    ]
    reasons = [row["reason"] for row in scored(tmp_path, rows)]
    assert reasons == [
        "",
        "source: the conversation does not end with an answer",
        "source: messages is empty",
        "source: messages is no list of role and content",
        "source: the row has no messages, response, list of responses, or chosen and rejected",
        "source: the row has no messages, response, list of responses, or chosen and rejected",
        "source: the row has no prompt, and response is no list of role and content",
        "source: the row has no messages, response, list of responses, or chosen and rejected",
    ]


def test_errors_of_an_earlier_scoring_are_not_this_ones(tmp_path: Path) -> None:
    (row,) = scored(tmp_path, [{"prompt": "a", "response": "b", "score_errors": {"judge": "refused to judge"}}])
    assert "score_errors" not in json.loads(row["meta"])


def test_ids_do_not_depend_on_the_model(tmp_path: Path) -> None:
    rows = [{"prompt": "a", "responses": ["b", "b"]}, {"prompt": "a", "response": "b"}]
    ids = []
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        ids.append([row["id"] for row in scored(tmp_path / name, rows, f"model.path={name}")])
    assert ids[0] == ids[1]
    assert len(set(ids[0])) == 3


def test_verifiers_find_what_they_need_in_another_runs_records(tmp_path: Path) -> None:
    meta = {"language": "python", "tests": ["assert f(1) == 2", "assert f(2) == 3"]}
    rows = [
        {"prompt": "Add one.", "response": "x", **meta, "solution": "def f(x):\n    return x + 1"},
        {"prompt": "Add one.", "response": "y", **meta, "solution": "def f(x):\n    return x"},
    ]
    found = scored(tmp_path, rows, "+scorer@scorers.execution=execution", "scorers.execution.strength=false")
    assert [row["scores"]["execution"]["value"] for row in found] == [1, 0], "and both are kept"


def test_a_source_of_another_form_is_told_before_anything_starts(tmp_path: Path) -> None:
    write_rows(tmp_path, 2)
    status, said = command(tmp_path, "http://127.0.0.1:9/v1", "task=score")
    assert status == 2
    assert (
        "source: a row to be scored has messages, prompt and response, prompt and responses, or prompt, chosen and "
        in said
    )
    assert "(there is instruction)" in said


def test_a_judge_scores_data_that_is_there(tmp_path: Path) -> None:
    write_rows(tmp_path, [{"prompt": "a", "chosen": "b", "rejected": "c"}])
    with ModelServer(lambda body: Reply('{"reason": "so", "score": 4}')) as server:
        status, said = command(tmp_path, server.url, "task=score", "scorers.judge.enabled=true")
        assert (status, server.count) == (0, 2), said
    assert [row["scores"]["judge"]["value"] for row in table(tmp_path)] == [4, 4]


messages = st.lists(
    st.builds(Message, role=st.sampled_from(["system", "user", "assistant"]), content=st.text(max_size=5)), min_size=1, max_size=4
)  # fmt: skip


@given(messages, st.text(max_size=5))
def test_a_conversation_is_the_prompt_and_then_the_answer_however_it_is_written(
    prompt: list[Message], text: str
) -> None:
    plain = [turn.model_dump() for turn in prompt]
    answer = Message(role="assistant", content=text)
    whole = (*prompt, answer)
    for written in (text, [*plain, answer.model_dump()]):
        assert _whole({"prompt": plain}, written, "response") == whole
    chosen, rejected = _answers({"prompt": plain, "chosen": text, "rejected": text + "!"})[0]
    assert chosen == whole
    assert rejected[:-1] == whole[:-1]


@pytest.mark.parametrize(
    "value", [3, {"role": "user"}, [{"role": "robot", "content": "a"}], [{"role": "user"}], [None]]
)
def test_no_list_of_turns_is_never_guessed_at(value: Any, tmp_path: Path) -> None:
    (found,) = scored(tmp_path, [{"prompt": "a", "response": "b"}, {"prompt": value, "response": "b"}])[1:]
    assert found["reason"] == "source: prompt is no list of role and content"
