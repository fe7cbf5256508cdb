"""Self-Instruct: the pool, the filters and the instances, against a scripted model."""

from __future__ import annotations

import json
import re
import sqlite3
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from factory.config import imported
from factory.generators.instances import read_instances
from factory.generators.instruction_filters import FilterSettings, sound_instances, unfit
from factory.generators.seed_tasks import Instance, load_seed_tasks
from factory.generators.self_instruct import listed
from factory.prompts import Templates
from tests.factory_run import run_task
from tests.model_server import ModelServer, Reply, Script, last_text
from tests.records import fates, manifest
from tests.test_conf import composed

CHAT = "model.prompt_form=chat"
# Different enough from each other and from the seed tasks.
NEW = [
    "Name the capital of each of these lands.",
    "Turn a complaint about noise into a friendly request for quiet evenings.",
    "Which of these animals lays eggs?",
    "Count how many syllables each word has.",
    "Invent a board game that two tired parents could play.",
    "Put these historical events into their right order.",
    "How many days lie between both dates?",
    "Advise somebody who is afraid of speaking before colleagues.",
]


def model(instructions: list[list[str]], **cases: Any) -> Script:
    """Answers the n-th request for instructions with the n-th list; `cases` has instances by a word of the instruction."""
    left = list(instructions)

    def script(body: dict[str, Any]) -> Reply:
        text = str(body["messages"][0]["content"])  # of a repeated question, too
        if "further tasks" in text:
            return Reply(json.dumps({"tasks": left.pop(0) if len(left) > 1 else left[0]}))
        if "Is it a classification?" in text:
            return Reply(json.dumps({"classification": "Which of these" in text}))
        for word, answer in cases.items():
            if word in text:
                return answer if isinstance(answer, Reply) else Reply(json.dumps({"instances": answer}))
        key = "label" if "label first" in text or "First decide which labels" in text else "output"
        return Reply(json.dumps({"instances": [{"input": "some material", key: "an answer"}]}))

    return script


def test_instructions_become_instances(tmp_path: Path) -> None:
    cases = {
        "animals": [{"label": "hen", "input": "hen, cow"}, {"label": "trout", "input": "dog, trout"}],
        "board game": [{"input": "none", "output": "Pillow chess: each move is made lying down."}],
        "syllables": [
            {"input": "river", "output": "two"},
            {"input": "river", "output": "2"},
            {"input": "sun", "output": "sun"},
            {"input": "mountain", "output": "two"},
            {"input": "mountain", "output": "two"},
        ],
    }
    with ModelServer(model([NEW], **cases)) as server:
        run_task(tmp_path, server, "self_instruct", CHAT, "n=9", "attempts=9", "in_flight=1")
        asked = [last_text(body) for body in server.bodies]
    told = fates(tmp_path, "self_instruct")
    by_instruction: dict[str, list[Any]] = {}
    for record in told[: len(NEW) + 1]:
        by_instruction.setdefault(record.meta["instruction"], []).append(record)
    assert list(by_instruction) == NEW
    hen, trout = by_instruction["Which of these animals lays eggs?"]
    assert [message.content for message in hen.messages] == ["Which of these animals lays eggs?\n\nhen, cow", "hen"]
    assert trout.meta["output"] == "trout" and trout.meta["classification"] is True
    (game,) = by_instruction["Invent a board game that two tired parents could play."]
    assert game.messages[0].content == game.meta["instruction"], "no input, so none is shown"
    (counted,) = by_instruction["Count how many syllables each word has."]
    assert (counted.meta["input"], counted.meta["output"]) == ("mountain", "two")
    assert all(record.kept for record in told[: len(NEW) + 1])
    # The label is asked for first for classifications only.
    first = [text for text in asked if "First decide which labels" in text]
    assert first and all("animals" in text for text in first)
    # What was said again by later answers is not new; the funnel counts it.
    assert manifest(tmp_path, "self_instruct")["kept"] == 9


def test_the_funnel_counts_each_reason(tmp_path: Path) -> None:
    bad = [
        "Sing it",
        "Please write " + "very " * 150 + "long",
        "Draw a map of the old town.",
        "Write a program that adds numbers.",
        "- Translate the following words.",
        "élan should be explained to beginners.",
        "Complete the analogy and give the reason for it.",
        NEW[0],
        NEW[0].replace("Name", "State"),
    ]
    refused = Reply("no", status=400)
    with ModelServer(model([bad[:8], [bad[8], NEW[3], NEW[4]]], syllables=refused, board=Reply("no json"))) as server:
        status = run_task(tmp_path, server, "self_instruct", CHAT, "n=2", "attempts=2", "in_flight=1")
    told = fates(tmp_path, "self_instruct")
    reasons = Counter(record.reason for record in told)
    board = "instances: there is no JSON in the answer"
    assert status == 3
    assert {reason: count for reason, count in reasons.items() if not reason.startswith("engine")} == {
        "instruction: too few words": 1,
        "instruction: too many words": 1,
        "instruction: not for text alone (map)": 1,
        "instruction: begins with 'write a program'": 1,
        "instruction: begins with punctuation": 1,
        "instruction: begins with a character beyond ASCII": 1,
        "novelty: too like a seed task": 1,
        "novelty: too like an earlier one": 1,
        board: 1,
        "": 1,
    }
    assert manifest(tmp_path, "self_instruct")["reasons"] == {k: v for k, v in reasons.items() if k}
    assert [record.meta["novel"] for record in told if record.reason == board] == [True], (
        "it is in the pool all the same"
    )


def demonstrations(body: dict[str, Any]) -> list[str]:
    return re.findall(r"^\d+\. (.*)$", last_text(body), re.MULTILINE)


def many(body: dict[str, Any], count: int = 4) -> Reply:
    """New instructions that depend on the request alone, so that the order of requests does not matter."""
    text = last_text(body)
    if "further tasks" in text:
        mark = abs(hash(text)) % 10**9
        kinds = ["odd", "even"]
        return Reply(
            json.dumps({"tasks": [f"Task {kinds[n % 2]} w{mark}a{n} b{mark}c{n} d{mark}e{n}." for n in range(count)]})
        )
    if "Is it a classification?" in text:
        return Reply('{"classification": false}')
    return Reply(json.dumps({"instances": [{"input": "x", "output": f"answer to {hash(text)}"}]}))


def test_examples_are_six_of_people_and_two_of_the_pool(tmp_path: Path) -> None:
    people = {task.instruction for task in load_seed_tasks(Templates(), "self_instruct/seeds_en.yaml")}
    with ModelServer(many) as server:
        run_task(tmp_path, server, "self_instruct", CHAT, "n=60", "task.lag=2", "in_flight=4")
        shown = [demonstrations(body) for body in server.bodies if "further tasks" in last_text(body)]
    assert all(len(set(each)) == 8 for each in shown)
    from_pool = [sum(text not in people for text in each) for each in shown]
    assert from_pool[0] == 0 and from_pool.count(0) >= 2, (
        "nothing is in the pool yet"
    )  # two may arrive in another order
    assert set(from_pool[8:]) == {2}
    told = fates(tmp_path, "self_instruct")
    made = {record.id: record for record in told}
    later = [record for record in told if record.parents]
    assert later and all(made[parent].meta["novel"] for record in later for parent in record.parents)


def test_draws_are_journaled_and_a_changed_threshold_asks_nothing_it_need_not(tmp_path: Path) -> None:
    """A stricter filter changes the pool; without the journal of draws every later prompt would be another one."""
    with ModelServer(many) as server:
        few = "in_flight=4"  # more could run ahead of what the first run has answered
        run_task(tmp_path, server, "self_instruct", CHAT, "n=60", "task.lag=2", few)
        before, asked = server.count, sum("further tasks" in last_text(body) for body in server.bodies)
        journal = sqlite3.connect(tmp_path / "outputs/self_instruct/journal.db")
        assert journal.execute("SELECT count(DISTINCT key) FROM draws").fetchone()[0] >= asked > 8
        run_task(tmp_path, server, "self_instruct", CHAT, "n=26", "task.lag=2", "task.filters.not_text=[odd]", few)
        assert server.count == before
    kept = [record for record in fates(tmp_path, "self_instruct") if record.kept]
    assert len(kept) >= 26 and not any("odd" in record.meta["instruction"] for record in kept)


def test_a_stopped_run_goes_on_to_the_same_records(tmp_path: Path) -> None:
    """A budget ends it in the middle; what waits for a stopped item concludes nothing."""
    kept: list[list[tuple[str, Any, Any]]] = []
    for name, budgets in (
        ("whole", []),
        ("parts", ["budget.requests=37", "budget.requests=150", "budget.requests=260"]),
    ):
        folder = tmp_path / name
        with ModelServer(many) as server:
            for budget in budgets:
                words = ("n=160", "task.lag=2", "in_flight=6", budget, "engine.identity=one")
                assert run_task(folder, server, "self_instruct", CHAT, *words) == 3
            words = ("n=160", "task.lag=2", "in_flight=6", "engine.identity=one")
            assert run_task(folder, server, "self_instruct", CHAT, *words) == 0
        told = [record for record in fates(folder, "self_instruct") if record.kept][:160]
        kept.append([(record.id, record.messages, record.parents) for record in told])
    assert kept[0] == kept[1]


# ---- Chinese


def test_in_chinese_lengths_are_characters_and_novelty_is_bm25(tmp_path: Path) -> None:
    new = [
        "请帮我把这段话改成更简洁的表达方式，并保留所有重要的数字。",
        "好吗？",
        "画出这个城市的地图。",
        "为一家新开的书店起三个名字，并说明理由。",
        "解释这个成语的意思，并用它造一个句子。",
        "请" + "非常" * 60 + "详细地说明。",
    ]

    def script(body: dict[str, Any]) -> Reply:
        text = last_text(body)
        if "请再写" in text:
            assert len(demonstrations(body)) == 8
            return Reply(json.dumps({"tasks": new}))
        if "它是分类任务吗" in text:
            return Reply('{"classification": false}')
        return Reply(json.dumps({"instances": [{"input": "", "output": "好的。"}]}))

    with ModelServer(script) as server:
        run_task(tmp_path, server, "self_instruct_zh", CHAT, "n=2", "attempts=2", "in_flight=1")
    reasons = Counter(record.reason for record in fates(tmp_path, "self_instruct_zh")[:6])
    assert reasons == {
        "": 2,
        "instruction: too short": 1,
        "instruction: not for text alone (地图)": 1,
        "novelty: too like a seed task": 1,
        "instruction: too long": 1,
    }


# ---- the few-shot form


def test_a_small_model_continues_lists_and_cases(tmp_path: Path) -> None:
    def script(body: dict[str, Any]) -> Reply:
        prompt = str(body.get("prompt"))
        if prompt.startswith("Different tasks"):
            assert prompt.endswith("\n9.")
            return Reply(f" {NEW[2]}\n10. {NEW[3]}\n11. {NEW[4]} And then it is cut", finish_reason="length")
        if prompt.startswith("Can the answers"):
            return Reply(" Yes" if "lays eggs" in prompt.splitlines()[-2] else " No")
        if prompt.endswith("Label:"):
            return Reply(" hen\nInput: hen, cow\nLabel: none\nInput: cow, dog")
        return Reply(" river, sea\nOutput: two, one\nInput: tree\nOutput: one\n\nTask: another")

    with ModelServer(script) as server:
        run_task(tmp_path, server, "self_instruct", "model.prompt_form=few_shot", "n=4", "attempts=4", "in_flight=1")
    told = fates(tmp_path, "self_instruct")[:4]
    assert [(r.meta["instruction"], r.meta["input"], r.meta["output"]) for r in told] == [
        (NEW[2], "hen, cow", "hen"),
        (NEW[2], "cow, dog", "none"),
        (NEW[3], "river, sea", "two, one"),
        (NEW[3], "tree", "one"),
    ]
    assert all(record.kept for record in told)


@given(st.text())
def test_reading_never_fails(text: str) -> None:
    assert all(isinstance(each, Instance) for each in read_instances(text, True) + read_instances(text, False))
    assert all("\n" not in entry for entry in listed(text))


@given(st.lists(st.tuples(st.sampled_from(["", "a", "b", " a "]), st.sampled_from(["", "a", "x", "y"])), max_size=8))
def test_instances_that_are_kept_are_sound(cases: list[tuple[str, str]]) -> None:
    kept, _ = sound_instances([Instance(input=given_, output=said) for given_, said in cases], 3)
    assert len(kept) <= 3
    assert len({each.input for each in kept}) == len(kept)
    for each in kept:
        assert each.output and each.output != each.input
        assert len({said.strip() for given_, said in cases if given_.strip() == each.input and said.strip()}) == 1


@given(st.text(max_size=60), st.booleans())
def test_filters_take_any_text(text: str, ascii_first: bool) -> None:
    bounds = FilterSettings(
        min_words=2, max_words=5, max_chars=9, not_text=("map", "地图"), openings=("a b",), ascii_first=ascii_first
    )
    reason = unfit(text, bounds)
    assert reason or (2 <= len(text.split()) <= 5 and len(text) <= 9 and text[0].isalnum())


def test_plurals_are_words_and_parts_of_words_are_not() -> None:
    bounds = FilterSettings(not_text=("graph", "map"))
    assert unfit("Describe both graphs.", bounds) == "not for text alone (graph)"
    assert unfit("Explain what a mapping and a paragraph are.", bounds) == ""


# ---- seed tasks


@pytest.mark.parametrize("name", ["en", "zh"])
def test_seed_tasks_are_many_different_and_sound(name: str) -> None:
    tasks = load_seed_tasks(Templates(), f"self_instruct/seeds_{name}.yaml")
    assert len(tasks) >= 25
    assert sum(task.classification for task in tasks) >= 5
    task = "self_instruct" if name == "en" else "self_instruct_zh"
    settings = imported(composed(f"task={task}")["task"]["generator"], "", []).Settings.model_validate(
        composed(f"task={task}")["task"]
    )
    index = settings.novelty.index()
    for each in tasks:
        assert unfit(each.instruction, settings.filters) == "", each.name
        assert index.like(each.instruction) is None, f"{each.name} is too like another seed task"
        assert len(sound_instances(each.instances, 5)[0]) == len(each.instances), each.name
        index.add(each.instruction)


def test_mistakes_in_seed_tasks_are_told_together(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from factory.errors import ConfigError
    from factory.plan import make_plan

    monkeypatch.chdir(tmp_path)
    Path("prompts/mine").mkdir(parents=True)
    Path("prompts/mine/seeds.yaml").write_text(
        "- {name: a, instruction: Do it., classification: maybe, instances: []}\n"
        "- {name: b, instruction: Do that., classification: false, instances: [{output: done}]}\n"
        "- {name: c, instances: [{output: done}]}\n"
    )
    words = ["task=self_instruct", "engine=openai", "engine.base_url=http://127.0.0.1:9/v1", "model=custom"]
    with pytest.raises(ConfigError) as caught:
        make_plan(composed(*words, "model.path=m", "task.seed_tasks=mine/seeds.yaml"), [])
    told = "\n".join(caught.value.problems)
    assert "task 1: classification" in told and "task 1: instances" in told and "task 3: instruction" in told
    assert "task 2" not in told
