"""Difficulty, tags and topics of instructions that are there already, against a scripted model."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from factory.compose import compose_config
from factory.errors import ConfigError
from factory.plan import make_plan
from tests.factory_run import run_task
from tests.model_server import ModelServer, Reply, last_text
from tests.records import fates
from tests.runs import write_rows

HARD = "Prove Fermat's last theorem."


def row(instruction: str, answer: str = "Done.") -> dict[str, Any]:
    return {"messages": [{"role": "user", "content": instruction}, {"role": "assistant", "content": answer}]}


def scored(
    folder: Path, script: Any, scorer: str, *options: str, rows: list[dict[str, Any]] | None = None
) -> tuple[list[Any], ModelServer]:
    write_rows(folder, rows if rows is not None else [row(HARD)])
    with ModelServer(script) as server:
        status = run_task(folder, server, "score", f"source.path={folder}/rows.jsonl", f"+scorer@scorers.{scorer}={scorer}",
                          "engine.structured=parse", *options)  # fmt: skip
    assert status == 0
    return fates(folder, "score"), server


def saying(answer: Mapping[str, Any]) -> Any:
    return lambda body: Reply(json.dumps(answer))


# ---- difficulty


@pytest.mark.parametrize(("level", "value"), [("easy", 1), ("medium", 2), ("hard", 3)])
def test_difficulty_is_one_to_three(level: str, value: int, tmp_path: Path) -> None:
    (record,), server = scored(tmp_path, saying({"reason": "Long.", "difficulty": level}), "difficulty")
    assert record.scores["difficulty"].value == value
    assert record.scores["difficulty"].detail == {"level": level, "says": "Long."}
    asked = last_text(server.bodies[0])
    assert HARD in asked and "Done." not in asked, "the instruction is judged, not the answer"
    assert server.bodies[0]["temperature"] == 0


def test_what_is_no_level_is_no_score(tmp_path: Path) -> None:
    (record,), server = scored(tmp_path, saying({"reason": "Long.", "difficulty": "impossible"}), "difficulty")
    assert "difficulty" not in record.scores
    assert "impossible" in record.meta["score_errors"]["difficulty"]
    assert server.count == 3, "asked again twice"


def test_a_small_model_continues_examples(tmp_path: Path) -> None:
    (record,), server = scored(tmp_path, saying({"reason": "Long.", "difficulty": "hard"}), "difficulty",
                               "model.prompt_form=few_shot")  # fmt: skip
    assert record.scores["difficulty"].value == 3
    (body,) = server.bodies
    assert f"Instruction: {HARD}\nRating:" in body["prompt"]


def test_a_small_model_that_is_cut_off_or_babbles_gives_no_score(tmp_path: Path) -> None:
    def script(body: dict[str, Any]) -> Reply:
        return Reply('{"reason": "an', finish_reason="length") if "Sing" in last_text(body) else Reply("I like trains.")

    records, server = scored(
        tmp_path, script, "difficulty", "model.prompt_form=few_shot", rows=[row("Sing."), row("Go.")]
    )
    assert [record.meta["score_errors"]["difficulty"] for record in records] == [
        "cut off at the token limit; raise max_tokens", "there is no JSON in the answer",
    ]  # fmt: skip
    assert server.count == 2


def test_the_levels_are_the_users(tmp_path: Path) -> None:
    _, server = scored(tmp_path, saying({"reason": "", "difficulty": "easy"}), "difficulty",
                       "scorers.difficulty.levels=[a child can,a student can,nobody can]")  # fmt: skip
    assert "- hard: nobody can" in last_text(server.bodies[0])


def test_all_that_the_user_says_is_judged_and_long_texts_are_cut(tmp_path: Path) -> None:
    turns = [{"role": "system", "content": "Be kind."}, {"role": "user", "content": "First " + "x" * 500}, {"role": "assistant", "content": "Yes."},
             {"role": "user", "content": "the very end"}]  # fmt: skip
    _, server = scored(tmp_path, saying({"reason": "", "difficulty": "easy"}), "difficulty", "scorers.difficulty.max_chars=200",
                       rows=[{"messages": [*turns, {"role": "assistant", "content": "Z"}]}])  # fmt: skip
    asked = last_text(server.bodies[0])
    shown = asked.split("==========")[1].strip()
    assert shown.startswith("First x") and shown.endswith("the very end") and "[...]" in shown
    assert len(shown) <= 200


def test_another_model_may_be_asked(tmp_path: Path) -> None:
    write_rows(tmp_path, [row(HARD)])
    with ModelServer(saying({"reason": "", "difficulty": "hard"})) as big, ModelServer() as own:
        run_task(tmp_path, own, "score", f"source.path={tmp_path}/rows.jsonl", "+scorer@scorers.difficulty=difficulty",
                 "scorers.difficulty.endpoint=big", "model@endpoints.big.model=custom", "endpoints.big.model.path=b",
                 "engine@endpoints.big.engine=openai", f"endpoints.big.engine.base_url={big.url}",
                 "endpoints.big.model.prompt_form=few_shot")  # fmt: skip
        assert (own.count, big.count) == (0, 1)
        assert "prompt" in big.bodies[0], "in the form that the asked model is used to"


# ---- tags


def tagging(*tags: str) -> Any:
    return saying({"tags": [{"tag": tag, "explanation": f"about {tag}"} for tag in tags]})


def test_tags_are_counted_once_each(tmp_path: Path) -> None:
    (record,), _ = scored(tmp_path, tagging("Number Theory", "proof", " number  theory ", "!?"), "tags")
    score = record.scores["tags"]
    assert score.value == 2
    assert score.detail["tags"] == ["number theory", "proof"]
    assert score.detail["explanations"]["proof"] == "about proof"


@pytest.mark.parametrize(
    ("tags", "said"),
    [
        ((), "[]"),
        (("a", "b", "c", "d"), "too long"),
        (("!",), "0 different ones, fewer than min_tags=1"),
        (("x" * 81,), "is too long"),
    ],
)
def test_tags_beyond_the_bounds_are_no_score(tags: tuple[str, ...], said: str, tmp_path: Path) -> None:
    (record,), _ = scored(tmp_path, tagging(*tags), "tags", "scorers.tags.max_tags=3")
    assert "tags" not in record.scores
    assert said in record.meta["score_errors"]["tags"]


# ---- topics

TAXONOMY = """
Music:
  Jazz: ["Who played the trumpet in the band?", "Name a jazz pianist.", "Explain {{ swing }} in a band."]
  Opera: ["Which aria ends the act?", "Name an opera by Verdi."]
Sport:
  Tennis: ["How do I serve a tennis ball?", "Explain the tie-break in tennis."]
  Football: ["What is offside in football?", "Who won the football cup?"]
Other:
  Anything: ["Tell me something."]
"""


@pytest.fixture
def own_prompts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "prompts/topic").mkdir(parents=True)
    (tmp_path / "prompts/topic/mine.yaml").write_text(TAXONOMY)
    return tmp_path / "prompts/topic"


def choosing(body: dict[str, Any]) -> Reply:
    fine = "subtopic" in last_text(body)
    return Reply(
        json.dumps(
            {"reason": "It is sung.", "topic": "Opera" if fine else "Music", "confidence": "medium" if fine else "high"}
        )
    )


def test_a_model_chooses_in_two_steps(tmp_path: Path, own_prompts: Path) -> None:
    (record,), server = scored(tmp_path, choosing, "topic", "scorers.topic.taxonomy=topic/mine.yaml")
    score = record.scores["topic"]
    assert score.value == pytest.approx(2 / 3), "the less certain of the two"
    assert score.detail == {"by": "model", "coarse": "Music", "fine": "Opera", "says": "It is sung."}
    first, second = (last_text(body) for body in server.bodies)
    assert "- Sport, such as: How do I serve a tennis ball?; What is offside in football?" in first
    assert "- Jazz" in second and "Sport" not in second


def test_a_topic_without_a_choice_within_is_not_asked_about(tmp_path: Path, own_prompts: Path) -> None:
    (record,), server = scored(tmp_path, saying({"reason": "r", "topic": "Other", "confidence": "low"}), "topic",
                               "scorers.topic.taxonomy=topic/mine.yaml")  # fmt: skip
    assert record.scores["topic"].detail["fine"] == "Anything"
    assert (record.scores["topic"].value, server.count) == (pytest.approx(1 / 3), 1)


def test_the_packages_taxonomy_is_one(tmp_path: Path) -> None:
    def script(body: dict[str, Any]) -> Reply:
        assert body["temperature"] == 0
        topic = "Proofs and logic" if "subtopics of Mathematics" in last_text(body) else "Mathematics"
        return Reply(json.dumps({"reason": "", "topic": topic, "confidence": "high"}))

    (record,), _ = scored(tmp_path, script, "topic", "model.prompt_form=few_shot")
    assert record.scores["topic"].detail["fine"] == "Proofs and logic"


CLASSIFIER = (
    "scorers.topic.by=classifier",
    "scorers.topic.embedding.model=hashing",
    "scorers.topic.taxonomy=topic/mine.yaml",
)


def test_a_classifier_asks_nobody(tmp_path: Path, own_prompts: Path) -> None:
    pytest.importorskip("sklearn")
    rows = [
        row(text)
        for text in ("Name another opera by Verdi.", "Explain how to serve a tennis ball.", "Who won the football cup?")
        for _ in range(5)
    ]
    records, server = scored(tmp_path, None, "topic", *CLASSIFIER, rows=rows)
    assert server.count == 0
    details = [record.scores["topic"].detail for record in records]
    assert [detail["fine"] for detail in details] == ["Opera"] * 5 + ["Tennis"] * 5 + ["Football"] * 5
    assert {detail["coarse"] for detail in details} == {"Music", "Sport"}
    assert all(1 / 3 < record.scores["topic"].value <= 1 for record in records)
    assert all(record.scores["topic"].value >= record.scores["topic"].detail["fine_confidence"] for record in records)


def test_a_classifier_learns_from_the_users_examples(tmp_path: Path, own_prompts: Path) -> None:
    pytest.importorskip("sklearn")
    examples = [
        {"text": "green apples", "coarse": "Music", "fine": "Jazz"},
        {"text": "red cherries", "coarse": "Sport", "fine": "Tennis"},
    ]
    (own_prompts / "own.jsonl").write_text("\n".join(map(json.dumps, examples)))
    rows = [row("Where do green apples grow?"), row("Where do red cherries grow?")]
    records, _ = scored(tmp_path, None, "topic", *CLASSIFIER, "scorers.topic.examples=topic/own.jsonl", rows=rows)
    assert [record.scores["topic"].detail["fine"] for record in records] == ["Jazz", "Tennis"]


@pytest.mark.parametrize(
    ("file", "text", "told"),
    [
        ("mine.yaml", "Music: [a, b]", "should be coarse topic -> fine topic -> list of examples; Music"),
        ("mine.yaml", "Music: {Jazz: [a]}", "holds 1 coarse topics"),
        ("mine.yaml", "Music: {Jazz: [a]}\nSport: {Tennis: []}", "no example for Sport/Tennis"),
        ("mine.yaml", "Music: {", "is not YAML"),
        ("own.jsonl", '{"text": "a", "coarse": "Music", "fine": "Rock"}', "Music/Rock is no topic of the taxonomy"),
        ("own.jsonl", '{"text": "a", "coarse": "Music", "fine": "Jazz"}', "fewer than two topics"),
        ("own.jsonl", '{"text": "a"}', "should be rows of text, coarse and fine; 0/coarse"),
        ("own.jsonl", "{", "is not JSONL"),
    ],
)
def test_a_wrong_file_is_told_before_the_run(
    file: str, text: str, told: str, tmp_path: Path, own_prompts: Path
) -> None:
    (own_prompts / file).write_text(text)
    with pytest.raises(ConfigError, match=told.replace("[", r"\[")):
        planned(tmp_path, *CLASSIFIER, *(["scorers.topic.examples=topic/own.jsonl"] if file == "own.jsonl" else []))


@pytest.mark.parametrize(
    ("scorer", "option", "told"),
    [
        ("topic", "scorers.topic.taxonomy=topic/none.yaml", "prompts/topic/none.yaml was not found"),
        ("topic", "scorers.topic.by=magic", "scorers.topic.by=magic"),
        ("tags", "scorers.tags.min_tags=9", "min_tags=9 must not be above max_tags=8"),
        ("difficulty", "scorers.difficulty.endpoint=big", "no such endpoint"),
        ("perplexity", "scorers.perplexity.stride=4096", "stride=4096 must be below window=4096"),
    ],
)
def test_a_wrong_key_is_told_before_the_run(scorer: str, option: str, told: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=told):
        planned(tmp_path, f"+scorer@scorers.{scorer}={scorer}", option, scorer="")


def planned(folder: Path, *options: str, scorer: str = "+scorer@scorers.topic=topic") -> None:
    write_rows(folder, [row(HARD)])
    make_plan(*compose_config("generate", ["task=score", f"source.path={folder}/rows.jsonl", "engine=openai", "model=custom", "model.path=m",
                                           "engine.base_url=http://127.0.0.1:9/v1", *([scorer] if scorer else []), *options]))  # fmt: skip
