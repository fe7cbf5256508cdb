"""`task=instruction_backtranslation`: texts become answers, in two iterations."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from factory.errors import ConfigError
from factory.generators.instruction_backtranslation import split_text
from tests.factory_run import run_task
from tests.model_server import ModelServer, Reply, last_text
from tests.records import fates, manifest

TASK = "instruction_backtranslation"
WORDS = ("model.prompt_form=chat", "task.least_chars=60", "task.most_chars=140")


def paragraph(number: int) -> str:
    return f"Paragraph number {number} tells at some length of the old town and of its {number} bridges over the river."


def texts(folder: Path, *counts: int) -> str:
    (folder / "texts").mkdir()
    start = 0
    for name, count in enumerate(counts):
        (folder / f"texts/{name}.txt").write_text("\n\n".join(paragraph(start + number) for number in range(count)))
        start += count
    return f"source.path={folder}/texts"


def scripted(grades: dict[int, int]) -> ModelServer:
    """Writes an instruction for each paragraph; grades pairs by the paragraph's number, 5 where nothing is said."""

    def script(body: dict[str, Any]) -> Reply:
        text = last_text(body)
        number = int(text.split("Paragraph number ")[1].split()[0])
        if "response_format" in body:
            return Reply(json.dumps({"reason": "so", "score": grades.get(number, 5)}))
        return Reply(f"<instruction>Describe town {number} and what crosses its river.</instruction>")

    return ModelServer(script)


def test_texts_become_answers_and_the_rating_decides(tmp_path: Path) -> None:
    with scripted({1: 4, 2: 1}) as server:
        assert run_task(tmp_path, server, TASK, texts(tmp_path, 3, 1), *WORDS) == 0
        assert server.count == 8
    assert manifest(tmp_path, TASK)["kept"] == 2
    assert manifest(tmp_path, TASK)["reasons"] == {"not (judge >= 4.5)": 2}
    record = next(record for record in fates(tmp_path, TASK) if record.kept)
    assert [turn.content for turn in record.messages] == ["Describe town 0 and what crosses its river.", paragraph(0)]
    assert record.meta["seed"] == {"path": "0.txt", "segment": 0}


def test_the_second_iteration_rates_again_and_writes_nothing_new(tmp_path: Path) -> None:
    with scripted({1: 4, 2: 1}) as server:
        run_task(tmp_path, server, TASK, texts(tmp_path, 4), *WORDS, "run=first")
    with scripted({0: 3}) as server:
        again = (f"source.path={tmp_path}/outputs/first", "source.lost=true", "run=second", "model.path=better")
        run_task(tmp_path, server, TASK, *WORDS, *again)
        assert server.count == 4
        assert all("response_format" in body for body in server.bodies)
    kept = [record for record in fates(tmp_path, "second") if record.kept]
    assert {record.messages[0].content for record in kept} == {
        f"Describe town {n} and what crosses its river." for n in (1, 2, 3)
    }
    assert {record.meta["iteration"] for record in kept} == {2}
    first = {record.id for record in fates(tmp_path, "first")}
    assert {parent for record in kept for parent in record.parents} <= first
    with scripted({}) as server:
        run_task(tmp_path, server, TASK, *WORDS, f"source.path={tmp_path}/outputs/first", "run=third")
        assert server.count == 2, "without source.lost only what the first one kept"


@pytest.mark.parametrize(
    ("answer", "reason"),
    [
        ("Nothing.", "parse: no <instruction> block"),
        ("<instruction>Go on</instruction>", "instruction: too short"),
        (f"<instruction>{'word ' * 200}</instruction>", "instruction: too long"),
        ("<instruction>Summarise the above text for me.</instruction>", "instruction: speaks of the text itself"),
        ("<instruction>Paragraph number 0 tells at some length.</instruction>", "instruction: is a part of the text"),
    ],
)
def test_what_is_lost_says_why(tmp_path: Path, answer: str, reason: str) -> None:
    with ModelServer(lambda body: Reply(answer)) as server:
        run_task(tmp_path, server, TASK, texts(tmp_path, 1), *WORDS)
    (record,) = fates(tmp_path, TASK)
    assert record.reason == reason
    assert record.meta["segment"] == paragraph(0)


def test_a_small_model_continues_examples(tmp_path: Path) -> None:
    def script(body: dict[str, Any]) -> Reply:
        if body["prompt"].endswith("Judgement:"):
            return Reply(" It fits.\nScore: 5\n")
        assert body["prompt"].endswith(f"Answer: {paragraph(0)}\nRequest:")
        return Reply(" Describe a town with bridges.\n")

    with ModelServer(script) as server:
        run_task(tmp_path, server, TASK, texts(tmp_path, 1), *WORDS, "model.prompt_form=few_shot")
    (record,) = fates(tmp_path, TASK)
    assert (record.kept, record.messages[0].content) == (True, "Describe a town with bridges.")


def test_a_text_without_a_segment_is_lost_and_few_are_drawn_where_few_are_wanted(tmp_path: Path) -> None:
    (tmp_path / "rows.jsonl").write_text(
        json.dumps({"text": "Short."}) + "\n" + json.dumps({"text": "\n\n".join(map(paragraph, range(9)))})
    )
    with scripted({}) as server:
        run_task(tmp_path, server, TASK, f"source.path={tmp_path}/rows.jsonl", *WORDS, "task.segments=2")
    found = manifest(tmp_path, TASK)
    assert (found["kept"], found["reasons"]) == (2, {"source: holds no segment of the wanted length": 1})


@given(st.text(alphabet="ab. \n!", max_size=600), st.integers(1, 40))
def test_segments_keep_their_bounds_and_their_order(text: str, least: int) -> None:
    segments = split_text(text, least, 2 * least)
    assert all(least <= len(segment) <= 2 * least for segment in segments)
    flat, place = "".join(text.split()), 0
    for segment in segments:
        place = flat.index("".join(segment.split()), place) + len("".join(segment.split()))


def test_a_long_paragraph_is_cut_at_its_sentences() -> None:
    text = " ".join(f"This is sentence number {number}." for number in range(40))
    segments = split_text(text, 60, 200)
    assert all(segment.endswith(".") and segment.startswith("This is") for segment in segments)
    assert " ".join(segments).split() == text.split()[: len(" ".join(segments).split())]
    assert split_text("x" * 1000, 60, 200) == []


def test_what_is_wrong_is_told_beforehand(tmp_path: Path) -> None:
    for words, told in (
        (("source.items=[{code: a}]",), "column `text`"),
        (("source.items=[{text: a}]", "task.most_chars=700"), "must be twice"),
        (("source.items=[{text: a}]", "task.least_words=200"), "must not be above"),
    ):
        with ModelServer() as server, pytest.raises(ConfigError, match=told):
            run_task(tmp_path, server, TASK, *words)
