"""Answers to one prompt compared in both orders: consistent wins count, verifiers come first, and no more is asked than said."""

from __future__ import annotations

import collections
import json
import re
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from factory.errors import ScorerError
from factory.scorers.comparison import load_pair_rubric, read_verdict, worth
from factory.scorers.pairwise import drawn_pairs
from tests.model_server import ModelServer, Reply, Script, last_text
from tests.runs import command, run, table, write_rows
from tests.test_endpoints import endpoint
from tests.test_judge import manifest

VERIFIED = """
from factory.records import Frozen, Score


class Execution:
    Settings, names, templates, uses_sandbox = Frozen, ("execution",), (), False

    def __init__(self, settings):
        pass

    async def score(self, record, context):
        return {"execution": Score(value=float("right" in record.messages[-1].content))}
"""


def said(better: str) -> Reply:
    return Reply(json.dumps({"reason": f"the {better}", "better": better}))


def shown(body: dict[str, Any]) -> tuple[str, str]:
    found = re.search(r"the first answer\n(.*?)\n=+ the second answer\n(.*?)\n====", last_text(body), re.DOTALL)
    assert found
    return found.group(1), found.group(2)


def longer(body: dict[str, Any]) -> Reply:
    first, second = (len(text) for text in shown(body))
    return said("first" if first > second else "second" if second > first else "tie")


def compared(
    folder: Path, script: Script, responses: list[str], *words: str
) -> tuple[dict[str, dict[str, Any]], ModelServer]:
    """(rows by their answer, the server) of one group."""
    write_rows(folder, [{"prompt": "Why?", "responses": responses}])
    with ModelServer(script) as server:
        run(folder, server, "task=score", "scorers.pairwise.enabled=true", *words)
    return {row["messages"][-1]["content"]: row for row in table(folder)}, server


def value(row: dict[str, Any]) -> float | None:
    return row["scores"]["pairwise"] and row["scores"]["pairwise"]["value"]


def detail(row: dict[str, Any]) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(row["scores"]["pairwise"]["detail"])
    return found


def test_every_pair_in_both_orders(tmp_path: Path) -> None:
    rows, server = compared(tmp_path, longer, ["a", "bb", "ccc"])
    assert {text: value(row) for text, row in rows.items()} == {"a": 0, "bb": 0.5, "ccc": 1}
    assert sorted(map(shown, server.bodies)) == [(a, b) for a in rows for b in rows if a != b]
    assert {(body["temperature"], body["max_tokens"]) for body in server.bodies} == {(0, 512)}
    against = detail(rows["bb"])["against"]
    assert against[rows["a"]["id"]]["said"] == ["first", "second"], (
        "the first of (this, other), the second of (other, this)"
    )
    assert against[rows["ccc"]["id"]]["said"] == ["second", "first"]
    assert detail(rows["ccc"])["against"][rows["bb"]["id"]]["said"] == ["first", "second"], (
        "the same from the other's side"
    )
    assert against[rows["a"]["id"]]["reasons"] == ["the first", "the second"]


@pytest.mark.parametrize("place", ["first", "second", "tie"])
def test_a_judge_that_follows_the_place_decides_nothing(place: str, tmp_path: Path) -> None:
    rows, _ = compared(tmp_path, lambda body: said(place), ["a", "b"])
    assert [value(row) for row in rows.values()] == [0.5, 0.5]
    assert detail(rows["a"])["against"][rows["b"]["id"]]["said"] == [place, place], "which tells the position bias"


def test_both_records_tell_the_same_story_of_an_inconsistent_pair(tmp_path: Path) -> None:
    def script(body: dict[str, Any]) -> Reply:
        return said("first" if shown(body) == ("a", "b") else "tie")

    rows, _ = compared(tmp_path, script, ["a", "b"])
    assert detail(rows["a"])["against"][rows["b"]["id"]]["said"] == ["first", "tie"]
    assert detail(rows["b"])["against"][rows["a"]["id"]]["said"] == ["tie", "first"]
    assert value(rows["a"]) == value(rows["b"]) == 0.5


def test_the_same_text_is_a_tie_that_nobody_is_asked_about(tmp_path: Path) -> None:
    write_rows(tmp_path, [{"prompt": "Why?", "responses": ["a", "a"]}])
    with ModelServer(longer) as server:
        run(tmp_path, server, "task=score", "scorers.pairwise.enabled=true")
    rows = table(tmp_path)
    assert (server.count, [value(row) for row in rows]) == (0, [0.5, 0.5])
    assert detail(rows[0]) == {"against": {}, "unasked": {rows[1]["id"]: {"by": "the same text", "worth": 0.5}}}


@pytest.mark.parametrize("skip", [True, False])
def test_a_verifier_comes_first(skip: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    (tmp_path / "verified.py").write_text(VERIFIED)
    (tmp_path / "conf/task").mkdir(parents=True)
    # A scorer is asked in the order of its place in the configuration.
    (tmp_path / "conf/task/checked.yaml").write_text(
        "# @package _global_\ndefaults: [_self_, score]\nscorers: {execution: {scorer: verified.Execution}}\n"
    )
    answers = ["right", "right too", "wrong, but long"]
    rows, server = compared(tmp_path, longer, answers, "task=checked", f"scorers.pairwise.skip_verified={skip}")
    if not skip:
        assert server.count == 6
        assert [value(rows[text]) for text in answers] == [0, 0.5, 1]
        return
    assert sorted(map(shown, server.bodies)) == [("right", "right too"), ("right too", "right")]
    assert [value(rows[text]) for text in answers] == [0.5, 1, 0]
    told = detail(rows["wrong, but long"])
    assert told["against"] == {}, "no judge said anything"
    assert told["unasked"] == {rows[text]["id"]: {"by": "execution", "worth": 0} for text in answers[:2]}
    assert set(detail(rows["right"])["against"]) == {rows["right too"]["id"]}


def test_a_large_group_is_asked_about_no_more_than_was_said(tmp_path: Path) -> None:
    texts = ["x" * number for number in range(1, 13)]
    rows, server = compared(tmp_path, longer, texts, "scorers.pairwise.comparisons=3")
    assert server.count == 12 * 3
    assert {len(detail(row)["against"]) for row in rows.values()} == {3}
    asked = sorted(map(shown, server.bodies))
    (tmp_path / "again").mkdir()
    _, server = compared(tmp_path / "again", longer, texts, "scorers.pairwise.comparisons=3")
    assert sorted(map(shown, server.bodies)) == asked, "drawn by the records alone"


def test_an_answer_alone_has_no_score(tmp_path: Path) -> None:
    rows, server = compared(tmp_path, longer, ["a"])
    assert (server.count, rows["a"]["scores"]["pairwise"]) == (0, None)
    assert manifest(tmp_path)["score_errors"] == {
        "pairwise": {"there is no other answer to the same prompt to compare it with": 1}
    }


@pytest.mark.parametrize(
    ("reply", "why"),
    [
        (Reply("The first one."), "there is no JSON in the answer"),
        (Reply("I'm sorry, I can't compare them."), "refused to judge"),
        (
            Reply('{"reason": "a", "better": "fir', finish_reason="length"),
            "cut off at the token limit; raise max_tokens",
        ),
        (Reply('{"reason": "a", "better": "both"}'), "better: 'both' is not one of ['first', 'second', 'tie']"),
        (Reply("too long", status=400), "engine: HTTP 400: too long"),
    ],
)
def test_a_comparison_that_could_not_be_had_is_no_tie(reply: Reply, why: str, tmp_path: Path) -> None:
    def script(body: dict[str, Any]) -> Reply:
        return (
            reply
            if "the first answer\na\n========== the second answer\nbad" in str(body["messages"][0]["content"])
            else longer(body)
        )

    rows, _ = compared(tmp_path, script, ["a", "bad", "cc"])
    assert (value(rows["a"]), value(rows["bad"])) == (0, 1), "of the one comparison that was had"
    assert detail(rows["a"])["errors"] == {rows["bad"]["id"]: why}
    assert manifest(tmp_path)["score_errors"] == {"pairwise (in part)": {why: 2}}, "once for each of the two"


def test_a_judge_that_never_says_anything_gives_no_score(tmp_path: Path) -> None:
    rows, _ = compared(tmp_path, lambda body: Reply("no"), ["a", "bb"])
    assert [value(row) for row in rows.values()] == [None, None]
    assert manifest(tmp_path)["score_errors"] == {"pairwise": {"there is no JSON in the answer": 2}}


def test_an_engines_failure_is_tried_again_and_what_was_said_is_not_asked_again(tmp_path: Path) -> None:
    state = {"up": False}

    def script(body: dict[str, Any]) -> Reply:
        return Reply("later", status=503) if shown(body) == ("a", "bb") and not state["up"] else longer(body)

    write_rows(tmp_path, [{"prompt": "Why?", "responses": ["a", "bb"]}])
    words = ("task=score", "scorers.pairwise.enabled=true", "engine.retries=0")
    with ModelServer(script) as server:
        run(tmp_path, server, *words)
        assert {row["reason"] for row in table(tmp_path, "rejected")} == {"engine: HTTP 503: later (1 tries)"}
        state["up"] = True
        run(tmp_path, server, *words)
        assert server.count == 3
    assert [value(row) for row in table(tmp_path)] == [0, 1]


def test_a_model_that_continues_text(tmp_path: Path) -> None:
    def script(body: dict[str, Any]) -> Reply:
        answers = re.findall(r"^(?:First|Second) answer: (.*)$", body["prompt"], re.MULTILINE)[-2:]
        return Reply(f" So it is.\nBetter: {'first' if len(answers[0]) > len(answers[1]) else 'second'}\n")

    rows, server = compared(tmp_path, script, ["a", "bb"], "model.prompt_form=few_shot")
    assert [value(row) for row in rows.values()] == [0, 1]
    assert server.bodies[0]["prompt"].endswith("Judgement:")
    assert server.bodies[0]["prompt"].count("Better: ") == len(load_pair_rubric("pairwise").examples)
    assert detail(rows["a"])["against"][rows["bb"]["id"]]["reasons"] == ["So it is.", "So it is."]


@pytest.mark.parametrize(
    "text", [" So.", " So.\nBetter: third", " So.\nBetter: first\nBetter: second", "Better: the first"]
)
def test_a_continued_comparison_that_cannot_be_read_is_an_error(text: str) -> None:
    with pytest.raises(ScorerError, match="line 'Better: "):
        read_verdict(text)


def test_a_panel_by_majority_in_each_order(tmp_path: Path) -> None:
    scripts: list[Script] = [longer, longer, lambda body: said("first")]
    servers = [ModelServer(script).__enter__() for script in scripts]
    words = [word for name, server in zip("abc", servers, strict=True) for word in endpoint(name, server.url)]
    try:
        rows, own = compared(tmp_path, longer, ["a", "bb"], *words, "scorers.pairwise.panel=[a,b,c]")
    finally:
        for server in servers:
            server.__exit__()
    assert (own.count, [server.count for server in servers]) == (0, [2, 2, 2])
    told = detail(rows["a"])["against"][rows["bb"]["id"]]
    assert told["said"] == ["second", "first"]
    assert told["panel"] == {"a": ["second", "first"], "b": ["second", "first"], "c": ["first", "first"]}
    assert told["agreement"] == pytest.approx(1 / 3)
    assert [value(row) for row in rows.values()] == [0, 1]


def test_a_panel_that_is_split_is_a_tie_and_one_that_is_down_is_counted(tmp_path: Path) -> None:
    with ModelServer(lambda body: said("first")) as a, ModelServer(lambda body: said("second")) as b:
        down = endpoint("c", "http://127.0.0.1:9/v1", "engine.first_patience=0.1", "engine.backoff=0.01")
        words = [*endpoint("a", a.url), *endpoint("b", b.url), *down]
        chosen = ("scorers.pairwise.panel=[a,b,c]", "scorers.pairwise.quorum=2")
        rows, _ = compared(tmp_path, longer, ["x", "yy"], *words, *chosen)
    assert detail(rows["x"])["against"][rows["yy"]["id"]]["said"] == ["tie", "tie"]
    assert detail(rows["x"])["errors"] == {f"{rows['yy']['id']}@c": "its server is gone"}
    assert manifest(tmp_path)["score_errors"] == {"pairwise (in part)": {"its server is gone": 2}}


def test_a_wrong_rubric_is_told(tmp_path: Path) -> None:
    write_rows(tmp_path, [{"prompt": "Why?", "responses": ["a"]}])
    for rubric, told in (
        ("five", "criteria: "),
        ("pairwize", "did you mean pairwise? (there is pairwise; or a mapping)"),
    ):
        words = ("task=score", "scorers.pairwise.enabled=true", f"scorers.pairwise.rubric={rubric}")
        status, said_ = command(tmp_path, "http://127.0.0.1:9/v1", *words)
        assert (status, told in said_) == (2, True), said_


# ---- which pairs


@given(st.integers(0, 40), st.integers(1, 12))
def test_every_answer_has_its_comparisons_and_no_pair_comes_twice(count: int, comparisons: int) -> None:
    ids = [f"id{number}" for number in range(count)]
    pairs = list(drawn_pairs(ids, comparisons))
    assert all(one != other for one, other in pairs)
    assert len({frozenset(pair) for pair in pairs}) == len(pairs)
    each = collections.Counter(place for pair in pairs for place in pair)
    wanted = min(comparisons, max(count - 1, 0))
    extra = sorted(each[place] - wanted for place in range(count))
    odd = count * wanted % 2
    assert extra == [0] * (count - odd) + [1] * odd


@given(st.permutations([f"id{number}" for number in range(9)]), st.integers(1, 5))
def test_pairs_do_not_depend_on_the_order_of_the_records(ids: list[str], comparisons: int) -> None:
    def named(order: list[str]) -> set[frozenset[str]]:
        return {frozenset((order[one], order[other])) for one, other in drawn_pairs(order, comparisons)}

    assert named(ids) == named(sorted(ids))


said_of = st.sampled_from(["first", "second", "tie"])


@given(said_of, said_of)
def test_what_one_wins_the_other_loses(a: str, b: str) -> None:
    assert worth((a, b)) + worth((b, a)) == 1
    assert (worth((a, b)) != 0.5) == ({a, b} == {"first", "second"})
