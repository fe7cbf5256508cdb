"""The topic tree: lists and their rejection, the order of the leaves, prompts of every kind, against a scripted model."""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from factory.compose import compose_config
from factory.errors import ConfigError
from factory.generators.lists import Distinct, entry, normal
from factory.generators.topic_tree import passage
from factory.plan import make_plan
from tests.factory_run import run_task
from tests.model_server import ModelServer, Reply, Script
from tests.records import fates, manifest

CHAT = "model.prompt_form=chat"
SMALL = ("task.branches.general.breadth=[2,2]", "task.prompts=2", "task.topics=mine/topics.yaml")
OPEN = "task.shares={open_qa: 1, writing: 0, maths: 0, coding: 0, closed_qa: 0}"


@pytest.fixture(autouse=True)
def topics(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Fewer topics by hand than the package's."""
    monkeypatch.chdir(tmp_path)
    Path("prompts/mine").mkdir(parents=True)
    by_hand = {"general": ["Bees"], "maths": {"beginner": ["fractions"]}, "coding": {"beginner": ["loops"]}}
    Path("prompts/mine/topics.yaml").write_text(yaml.safe_dump(by_hand))


def asked(body: dict[str, Any]) -> str:
    return str(body["messages"][0]["content"])


def wanted(body: dict[str, Any]) -> int:
    """How many entries the schema demands."""
    items = body["response_format"]["json_schema"]["schema"]["properties"]["items"]
    assert items["minItems"] == items["maxItems"]
    return int(items["maxItems"])


def names(body: dict[str, Any], word: str) -> Reply:
    return Reply(json.dumps({"items": [f"{word} {'KLMN'[n]}" for n in range(wanted(body))]}))


def answering(topics: Callable[[dict[str, Any], str], Reply | None] = lambda body, above: None) -> Script:
    """Names topics after what is above them, prompts after their topic, revisions after their prompt."""

    def script(body: dict[str, Any]) -> Reply:
        text = asked(body)
        if "table of contents" in text:
            found = re.search(r"subtopics of: (.*)", text)
            above = found.group(1).split(" > ")[-1] if found else "Main"
            return topics(body, above) or names(body, above)
        if "response_format" in body:
            about = re.search(r"(?:about|to do with|problems on|tasks in Python on) ([^.(?]+)", text)
            kind = re.search(r"of this kind: ([\w ]+)\.", text)
            return names(body, f"{kind.group(1) if kind else 'Ask'} {about.group(1).strip() if about else 'the text'}")
        if "<prompt>" in text:
            first = re.search(r"<request>\n(.*)\n</request>", text)
            assert first is not None
            return Reply(f"<prompt>{first.group(1)}, more exactly</prompt>")
        return Reply(f"answer to {text}")

    return script


def grown(folder: Path, script: Script, *overrides: str) -> tuple[list[Any], dict[str, Any], ModelServer]:
    with ModelServer(script) as server:
        run_task(folder, server, "topic_tree", CHAT, *SMALL, *overrides)
    tree = json.loads((folder / "outputs/topic_tree/tree.json").read_text())
    return fates(folder, "topic_tree"), tree, server


def drawn(node: dict[str, Any]) -> Any:
    """The tree as nested names."""
    children = [drawn(child) for child in node.get("children", [])]
    return {node["name"]: children} if children else node["name"]


def test_the_tree_merges_both_sources_and_leaves_come_in_turn(tmp_path: Path) -> None:
    records, tree, server = grown(tmp_path, answering(), OPEN, "n=null")
    (root,) = tree["roots"]
    assert tree["complete"]
    assert drawn(root)[root["name"]] == [
        {"Bees": ["Bees K", "Bees L"]},
        {"Main K": ["Main K K", "Main K L"]},
        {"Main L": ["Main L K", "Main L L"]},
    ]
    assert [child["origin"] for child in root["children"]] == ["manual", "model", "model"]
    leaves = list(dict.fromkeys(record.meta["topic"] for record in records))
    assert leaves == ["Bees K", "Main K K", "Main L K", "Bees L", "Main K L", "Main L L"], "one of each in turn"
    assert records[2].meta["path"] == ["general", "Main K", "Main K K"]
    assert all(record.kept for record in records) and len(records) == 12
    first = records[0]
    assert first.meta["first_prompt"] == "Ask Bees K K"
    assert first.meta["prompt"] == "Ask Bees K K, more exactly" == first.messages[0].content
    assert first.messages[1].content == "answer to Ask Bees K K, more exactly"
    # 4 nodes, then for each of 6 leaves one list, and for each of 12 prompts a revision and an answer.
    assert server.count == 4 + 6 + 24
    assert any("The collection has these already; name others: Bees" in asked(body) for body in server.bodies)


def test_lists_that_are_wrong_are_asked_for_again(tmp_path: Path) -> None:
    def topics(body: dict[str, Any], above: str) -> Reply | None:
        tries = len(body["messages"]) // 2
        if above == "Main":
            bad = ["Rivers, lakes and seas", '{"items": ["Only one"]}', '{"items": ["The rivers", "Lakes"]}']
            return Reply(bad[tries])
        if above == "Lakes":  # duplicates: one of the parent, one of the sibling; what is missing is asked for alone
            lists = [["The Lake!", "Salt"], ["salt"], ["Ice"]]
            assert wanted(body) == len(lists[tries])
            return Reply(json.dumps({"items": lists[tries]}))
        if above == "The rivers":
            return Reply(json.dumps({"items": ["x" * 90] * wanted(body)}))
        return None

    records, tree, server = grown(tmp_path, answering(topics), OPEN, "n=null")
    (root,) = tree["roots"]
    assert drawn(root)[root["name"]] == [{"Bees": ["Bees K", "Bees L"]}, "The rivers", {"Lakes": ["Salt", "Ice"]}]
    rivers = root["children"][1]
    assert "too long" in rivers["problem"] and rivers["asked"] == 2
    assert {record.meta["topic"] for record in records} == {"Bees K", "Bees L", "The rivers", "Salt", "Ice"}
    complaints = [body["messages"][-1]["content"] for body in server.bodies if len(body["messages"]) > 1]
    assert any("is not a list of 2" in text for text in complaints)
    assert any("say what others say already" in text and "Give 1 other, " in text for text in complaints)


def test_levels_keywords_and_text_types(tmp_path: Path) -> None:
    shares = "task.shares={open_qa: 1, writing: 1, maths: 1, coding: 1, closed_qa: 0}"
    levels = ("task.branches.maths.levels=[beginner]", "task.branches.coding.levels=[beginner]")
    breadths = ("task.branches.maths.breadth=[1]", "task.branches.coding.breadth=[1]")
    types = ("task.text_types=[letter, poem, fable]", "task.types_each=2")
    records, tree, server = grown(tmp_path, answering(), shares, *levels, *breadths, *types, "n=null")
    assert [root["branch"] for root in tree["roots"]] == ["general", "maths", "coding"]
    assert tree["roots"][1]["level"] == "beginner" and tree["roots"][1]["name"] == "mathematics (beginner)"
    kinds = [record.meta["kind"] for record in records if record.id and record.meta["first_prompt"].endswith(" K")]
    assert kinds[:4] == ["open_qa", "writing", "maths", "coding"]
    assert Counter(kinds) == {"open_qa": 6, "writing": 12, "maths": 2, "coding": 2}
    by_topic = Counter(record.meta["topic"] for record in records if record.meta["kind"] == "writing")
    assert set(by_topic.values()) == {4}, "two text types with two prompts each"
    assert {record.meta["text_type"] for record in records if record.meta["kind"] == "writing"} == {
        "letter",
        "poem",
        "fable",
    }
    maths = [record for record in records if record.meta["kind"] == "maths"]
    assert [record.meta["topic"] for record in maths] == ["fractions"] * 2 + ["Main K"] * 2
    prompt = next(asked(body) for body in server.bodies if "mathematical problems on fractions" in asked(body))
    assert "Level: beginner" in prompt


def test_questions_on_documents(tmp_path: Path) -> None:
    (tmp_path / "texts").mkdir()
    (tmp_path / "texts/a.txt").write_text("The mill was built in 1820.")
    (tmp_path / "texts/b.txt").write_text("\n\n".join(f"Paragraph {number}. " + "Words. " * 20 for number in range(9)))
    (tmp_path / "texts/c.txt").write_text("  ")
    shares = "task.shares={open_qa: 0, writing: 0, maths: 0, coding: 0, closed_qa: 1}"
    records, tree, _ = grown(tmp_path, answering(), shares, "n=null", "source.path=texts", "task.max_document=500")
    assert tree["roots"] == []
    mill, long, empty = records[0], records[2], records[4]
    assert mill.messages[0].content == 'Ask the text K, more exactly\n\nText:\n"""\nThe mill was built in 1820.\n"""'
    assert mill.meta["source"] == "a.txt" and "text" not in mill.meta
    shown = long.messages[0].content
    assert 300 < len(shown) < 600 and re.search(r'"""\nParagraph \d\.', shown)
    assert empty.reason == "source: the document is empty"
    assert manifest(tmp_path, "topic_tree")["kept"] == 4


def test_enough_records_end_the_run_and_the_tree_is_whole(tmp_path: Path) -> None:
    def slow(body: dict[str, Any], above: str) -> Reply | None:
        reply = names(body, above)
        reply.delay = 0.3 if above == "Main L" else 0.0
        return reply

    records, tree, _ = grown(tmp_path, answering(slow), OPEN, "n=2")
    assert tree["complete"], "the slow topic, too"
    assert [record.meta["topic"] for record in records if record.kept][:2] == ["Bees K", "Bees K"]


def test_leaves_are_used_before_the_tree_is_whole(tmp_path: Path) -> None:
    order: list[str] = []

    def slow(body: dict[str, Any], above: str) -> Reply | None:
        reply = names(body, above)
        if above == "Main L":
            reply.delay = 1.0
        return reply

    def script(body: dict[str, Any]) -> Reply:
        reply = answering(slow)(body)
        order.append("slow" if reply.delay else asked(body)[:20])
        return reply

    grown(tmp_path, script, OPEN, "n=null")
    after = order[order.index("slow") :]
    assert sum(text.startswith("Write 2 questions") for text in after) >= 2, "Bees K and Main K K did not wait"


def test_a_lost_engine_stops_the_run_and_it_goes_on(tmp_path: Path) -> None:
    """A tree with a hole would have another order: nothing is concluded from a failure that may pass."""
    down = True

    def topics(body: dict[str, Any], above: str) -> Reply | None:
        return Reply("busy", status=503) if down and above == "Main K" else None

    with ModelServer(answering(topics)) as server:
        words = (CHAT, *SMALL, OPEN, "n=null", "engine.retries=1", "engine.backoff=0.01", "engine.identity=one")
        status = run_task(tmp_path, server, "topic_tree", *words)
        assert status == 3
        assert "Main K" in manifest(tmp_path, "topic_tree")["stopped"]
        assert not json.loads((tmp_path / "outputs/topic_tree/tree.json").read_text())["complete"]
        down = False
        assert run_task(tmp_path, server, "topic_tree", *words) == 0
    assert len(fates(tmp_path, "topic_tree")) == 12


def test_a_changed_filter_asks_nothing(tmp_path: Path) -> None:
    with ModelServer(answering()) as server:
        run_task(tmp_path, server, "topic_tree", CHAT, *SMALL, OPEN, "n=null")
        before = server.count
        run_task(tmp_path, server, "topic_tree", CHAT, *SMALL, OPEN, "n=null", "scorers.rules.min_chars=500")
        assert server.count == before
    assert manifest(tmp_path, "topic_tree")["kept"] == 0


def test_a_small_model_continues_lists(tmp_path: Path) -> None:
    def script(body: dict[str, Any]) -> Reply:
        if "messages" in body:
            return Reply("an answer")
        prompt = body["prompt"]
        last, before = prompt.splitlines()[-1], prompt.splitlines()[-2]
        if last.startswith("Subtopics:"):
            have = last.removeprefix("Subtopics:")
            topic = before.removeprefix("Topic: ")
            return Reply(f" {topic}; 1. {topic} {have.count(';')}x; {topic} cut", finish_reason="length")
        if last.startswith("Questions:"):
            return Reply(" Why so?; What for?; And one too many?\nTopic: other")
        return Reply(f" {before.removeprefix('Request: ')} And how?\nRequest: other")

    with ModelServer(script) as server:
        run_task(tmp_path, server, "topic_tree", "model.prompt_form=few_shot", *SMALL, OPEN, "n=null")
    tree = json.loads((tmp_path / "outputs/topic_tree/tree.json").read_text())
    (root,) = tree["roots"]
    assert drawn(root["children"][0]) == {"Bees": ["Bees 0x", "Bees 1x"]}, (
        "the topic itself is no subtopic, and the rest was asked for"
    )
    first, second = fates(tmp_path, "topic_tree")[:2]
    assert [first.messages[0].content, second.messages[0].content] == ["Why so? And how?", "What for? And how?"]


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"shares": {}}, "task.shares: is empty"),
        ({"branches": {}}, "task.shares.open_qa: needs task.branches.general"),
        ({"branches": {"general": {"subject": "all", "breadth": [2, 0]}}}, "each level needs one topic"),
        ({"text_types": []}, "task.text_types=[]"),
        ({"topics": "mine/none.yaml"}, "mine/none.yaml was not found"),
        ({"topics": "mine/wrong.yaml"}, "prompts/mine/wrong.yaml: maths.beginner: must be a list of topics"),
    ],
)
def test_mistakes_are_told(changes: dict[str, Any], told: str) -> None:
    Path("prompts/mine/wrong.yaml").write_text("maths: {beginner: fractions}")
    words = ["task=topic_tree", "engine=openai", "engine.base_url=http://127.0.0.1:9/v1", "model=custom"]
    composed, problems = compose_config("generate", [*words, "model.path=m"])
    composed["task"] |= changes
    with pytest.raises(ConfigError) as caught:
        make_plan(composed, problems)
    assert told in str(caught.value)


def test_documents_need_a_text(tmp_path: Path) -> None:
    words = ["task=topic_tree", "engine=openai", "engine.base_url=http://127.0.0.1:9/v1", "model=custom"]
    composed, problems = compose_config("generate", [*words, "model.path=m", "source.items=[{body: text}]"])
    with pytest.raises(ConfigError, match="closed QA needs documents, in a column `text`"):
        make_plan(composed, problems)


# ---- lists and passages


@given(st.lists(st.text(max_size=20), max_size=12), st.integers(0, 6))
def test_what_is_taken_in_is_different(texts: list[str], most: int) -> None:
    distinct = Distinct(["Lakes"], 15)
    refused = distinct.take(texts, most)
    keys = [normal(text) for text in distinct.found]
    assert len(set(keys)) == len(keys) <= most and "lake" not in keys and "" not in keys
    assert all(0 < len(text) <= 15 and text == entry(text) for text in distinct.found)
    assert len(refused) + len(distinct.found) <= len(texts)


def test_the_same_in_other_words() -> None:
    assert normal("The Lakes!") == normal("lake") == normal("a  LAKE")
    assert normal("history of art") == "history art" != normal("art history")
    assert [entry(text) for text in ("1. one", "- two", "3) three", "2024 elections")] == [
        "one",
        "two",
        "three",
        "2024 elections",
    ]


@given(st.lists(st.text(alphabet="ab ", max_size=80), min_size=1, max_size=20), st.integers(0, 99))
def test_a_passage_is_made_of_whole_paragraphs(paragraphs: list[str], chance: int) -> None:
    import random

    text = "\n\n".join(paragraphs)
    found = passage(text, 200, random.Random(chance))
    assert len(found) <= 200 and found in text
    if len(text) > 200:
        assert all(part.strip() in {each.strip() for each in paragraphs} for part in found.split("\n\n"))
