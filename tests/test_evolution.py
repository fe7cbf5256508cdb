"""Evol-Instruct and its kind for code: rounds, eliminations and lineage, against a scripted model."""

from __future__ import annotations

import io
import json
import re
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console

from factory.explain import explain
from factory.generators.few_shot import FewShot, load_data, stated_cases
from factory.generators.rewriting import leaked, same_text, says_nothing, sorry_and_short, tagged
from factory.prompts import Templates
from factory.records import Record
from tests.factory_run import run_task
from tests.model_server import ModelServer, Reply, Script, last_text
from tests.records import fates, manifest

CHAT = "model.prompt_form=chat"
START = "Name three rivers."
LONG = "The answer goes on at some length and says something about the matter."


def evolving(rounds: list[str | Reply], answers: dict[str, str] | None = None, equal: str = "no such text") -> Script:
    """The n-th rewriting is the n-th of `rounds`; `answers` by a word of the instruction; `equal` is judged the same."""
    left = list(rounds)

    def script(body: dict[str, Any]) -> Reply:
        text = last_text(body)
        if "between <instruction>" in text:
            found = left.pop(0)
            return found if isinstance(found, Reply) else Reply(f"<instruction>{found}</instruction>")
        if text.startswith("Compare two instructions"):
            return Reply(json.dumps({"reason": "compared", "equal": equal in text.split("<second>")[1]}))
        for word, answer in (answers or {}).items():
            if word in text:
                return Reply(answer)
        return Reply(LONG)

    return script


def lineage(folder: Path, script: Script, *overrides: str, task: str = "evol_instruct") -> list[Record]:
    """The records of one seed."""
    with ModelServer(script) as server:
        run_task(folder, server, task, CHAT, "n=null", f"source.items=['{START}']", *overrides)
    return fates(folder, task)


def test_four_rounds_each_from_the_last(tmp_path: Path) -> None:
    rounds = [f"Name three rivers of land number {number} and their lengths." for number in range(1, 5)]
    records = lineage(tmp_path, evolving(list(rounds)))
    assert [record.meta["instruction"] for record in records] == [START, *rounds]
    assert all(record.kept for record in records)
    assert [message.content for message in records[3].messages] == [rounds[2], LONG]
    assert [record.parents for record in records] == [(), *((record.id,) for record in records[:4])]
    assert [step["round"] for step in records[4].meta["lineage"]] == [0, 1, 2, 3]
    assert [step["id"] for step in records[4].meta["lineage"]] == [record.id for record in records[:4]]
    assert len({record.id for record in records}) == 5
    assert manifest(tmp_path, "evol_instruct")["kept"] == 5


@pytest.mark.parametrize(
    ("bad", "answers", "reason"),
    [
        ("name THREE rivers", {}, "evolution: equal to its parent"),
        ("Which three rivers can you name?", {}, "evolution: equal to its parent, says the model"),
        ("... and so on!", {}, "evolution: only punctuation and stop words"),
        ("Name three rivers as a rewritten prompt.", {}, "evolution: leaks the prompt's words (rewritten prompt)"),
        (Reply("I would rather not."), {}, "evolution: no instruction"),
        (Reply("<instruction>Name", finish_reason="length"), {}, "evolution: cut off at the token limit"),
        ("Name lost rivers.", {"lost": "Sorry, I do not know."}, "evolution: the answer is short and says sorry"),
        ("Name lost rivers.", {"lost": "... the, and?"}, "evolution: the answer has only punctuation and stop words"),
        (Reply("no", status=400), {}, "engine"),
    ],
)
def test_an_eliminated_round_has_no_children(
    tmp_path: Path, bad: str | Reply, answers: dict[str, str], reason: str
) -> None:
    good = "Name three rivers and the seas that they reach."
    script = evolving([bad, good], answers, equal="Which three rivers")
    records = lineage(tmp_path, script, "task.rounds=2")
    assert [record.kept for record in records] == [True, False, True]
    assert records[1].reason.startswith(reason)
    if isinstance(bad, str):
        assert records[1].meta["instruction"] == bad
        assert records[1].meta["operation"] in (
            "constraint",
            "deepen",
            "concretise",
            "reasoning",
            "complicate",
            "breadth",
        )
    assert records[2].parents == (records[0].id,), "evolved from the seed again"
    assert records[2].meta["instruction"] == good


def test_sorry_in_a_long_answer_is_no_ground(tmp_path: Path) -> None:
    answers = {"lost": "I am sorry to say that nobody knows all of them. " + "One flows here. " * 30}
    records = lineage(
        tmp_path, evolving(["Name lost rivers."], answers), "task.rounds=1", "scorers.rules.enabled=false"
    )
    assert records[1].kept


def test_operations_are_drawn_uniformly_and_named(tmp_path: Path) -> None:
    count = 60

    def script(body: dict[str, Any]) -> Reply:
        text = last_text(body)
        if "between <instruction>" in text:
            return Reply(f"<instruction>Another task about {abs(hash(text))}.</instruction>")
        return Reply('{"reason": "", "equal": false}' if "Compare two" in text else LONG)

    with ModelServer(script) as server:
        items = ",".join(f"Do the thing of number {number}" for number in range(count))
        run_task(tmp_path, server, "evol_instruct", CHAT, "n=null", f"source.items=[{items}]")
        asked = [last_text(body) for body in server.bodies if "between <instruction>" in last_text(body)]
    drawn = Counter(record.meta["operation"] for record in fates(tmp_path, "evol_instruct") if record.meta["round"])
    assert set(drawn) == {"constraint", "deepen", "concretise", "reasoning", "complicate", "breadth"}
    assert all(20 <= drawn[each] <= 60 for each in drawn), drawn  # 40 expected of each, six sigma
    marks = {"breadth": "It is rarer", "constraint": "one more requirement", "deepen": "more depth",
             "concretise": "something particular", "reasoning": "several steps", "complicate": "material to work on"}  # fmt: skip
    assert Counter(name for text in asked for name, mark in marks.items() if mark in text) == drawn
    assert sum("10 to 20 words" in text for text in asked) == len(asked) - drawn["breadth"]


def test_explain_tells_the_lineage(tmp_path: Path) -> None:
    rounds = ["Name three rivers of Asia.", Reply("No."), "Name three rivers of Asia that freeze."]
    records = lineage(tmp_path, evolving(rounds), "task.rounds=3")
    out = io.StringIO()
    explain(records[3].id, [tmp_path / "outputs/evol_instruct"], Console(file=out, width=160))
    told = out.getvalue()
    story = told[told.index("Lineage") : told.index("Conversation")]
    lines = [line.strip() for line in story.splitlines() if re.search(r"round \d", line)]
    assert [re.search(r"round (\d)", line).group(1) for line in lines] == ["0", "1", "3"]  # type: ignore[union-attr]
    assert records[0].id[:12] in lines[0] and START in story
    assert "Name three rivers of Asia." in story and records[1].meta["operation"] in lines[1]


def test_a_small_model_continues_examples(tmp_path: Path) -> None:
    def script(body: dict[str, Any]) -> Reply:
        if "messages" in body:
            return Reply(LONG)
        prompt = body["prompt"]
        if prompt.endswith("Harder:"):
            assert prompt.count("Question:") == 5
            return Reply(f" {prompt.splitlines()[-2][10:-1]} and the hills beside them, too.\nQuestion: more")
        assert prompt.endswith("Verdict:")
        return Reply(" Different")

    with ModelServer(script) as server:
        words = ("n=null", "task.rounds=2", f"source.items=['{START}']", "model.prompt_form=few_shot")
        run_task(tmp_path, server, "evol_instruct", *words)
    records = fates(tmp_path, "evol_instruct")
    assert [record.kept for record in records] == [True, True, True]
    assert records[2].meta["instruction"].count("hills") == 2


@given(st.text(max_size=80))
def test_checks_take_any_text(text: str) -> None:
    assert same_text(text, text.upper().lower()) or not text.isascii()
    assert (
        tagged(f"x<instruction> {text} </instruction>", "instruction")
        == text.strip().split("</instruction>")[0].strip()
    )
    says_nothing(text), leaked(text, ["a"]), sorry_and_short(text, 80)


# ---- code

TASK = "Write a function `double(x)` that returns twice x."
RIGHT = "```python\ndef {name}(x):\n    return {factor} * x\n```"
TESTS = "```python\nassert {name}(1) == {factor}\nassert {name}(0) == 0\nassert {name}(-4) == {low}\nassert {name}(7) == {high}\n```"


def coding(rounds: list[str], wrong: str = "no such name") -> Script:
    """Solves tasks that name one of three functions; `wrong` is solved badly."""
    factors = {"double": 2, "triple": 3, "fourfold": 4}
    left = list(rounds)

    def script(body: dict[str, Any]) -> Reply:
        text = str(body["messages"][0]["content"])
        if "between <instruction>" in text:
            return Reply(f"<instruction>{left.pop(0)}</instruction>")
        if text.startswith("Compare two"):
            return Reply('{"reason": "", "equal": false}')
        name = next(each for each in factors if f"`{each}(" in text)
        factor = factors[name]
        if text.startswith("Write tests"):
            return Reply(TESTS.format(name=name, factor=factor, low=-4 * factor, high=7 * factor))
        return Reply(RIGHT.format(name=name, factor=factor + (name == wrong)))

    return script


def test_evolved_code_is_run_and_what_fails_has_no_children(tmp_path: Path) -> None:
    rounds = [f"Write a function `{name}(x)` that returns that many times x." for name in ("triple", "fourfold")]
    with ModelServer(coding(rounds, wrong="triple")) as server:
        words = (CHAT, "n=null", "task.rounds=2", "task.repairs=1", f"source.items=['{TASK}']")
        run_task(tmp_path, server, "evol_code", *words)
    seed, triple, fourfold = fates(tmp_path, "evol_code")
    assert [seed.kept, triple.kept, fourfold.kept] == [True, False, True]
    assert triple.reason == "execution: wrong"
    assert [attempt["verdict"]["status"] for attempt in triple.meta["attempts"]] == ["wrong", "wrong"]
    assert fourfold.parents == triple.parents == (seed.id,)
    assert fourfold.scores["execution"].value == 1 and fourfold.scores["test_strength"].value >= 0.6
    assert fourfold.meta["solution"] == "def fourfold(x):\n    return 4 * x"
    assert len(fourfold.meta["tests"]) == 4 and fourfold.meta["hidden_tests"] == 2
    assert fourfold.meta["operation"] in ("constraint", "rarer", "reasoning", "misleading", "bound")
    assert fourfold.messages[1].content.startswith("```python\ndef fourfold")


def test_a_small_model_evolves_mappings(tmp_path: Path) -> None:
    start = "Write a Python function `fruit_taste(fruit)` that maps 'lemon' to 'sour', and anything else to 'sweet'."
    harder = start.replace("'sour',", "'sour', 'nut' to 'dry',")

    def script(body: dict[str, Any]) -> Reply:
        prompt = body["prompt"]
        if prompt.endswith("Harder:"):
            return Reply(f" {harder}\n\nTask: another")
        if prompt.endswith("Verdict:"):
            return Reply(" Different")
        nut = "    if fruit == 'nut':\n        return 'dry'\n" if "'nut'" in prompt.splitlines()[-1] else ""
        test = "assert fruit_taste('nut') == 'dry'\n" if nut else ""
        return Reply(
            f"def fruit_taste(fruit):\n    if fruit == 'lemon':\n        return 'sour'\n{nut}    return 'sweet'\n\n"
            f"# Tests\nassert fruit_taste('lemon') == 'sour'\n{test}assert fruit_taste('plum') == 'sweet'\n"
        )

    with ModelServer(script) as server:
        words = ("n=null", "task.rounds=1", f'source.items=["{start}"]', "model.prompt_form=few_shot")
        run_task(tmp_path, server, "evol_code", *words)
    seed, evolved = fates(tmp_path, "evol_code")
    assert (seed.kept, evolved.kept) == (True, True), (seed.reason, evolved.reason)
    assert evolved.meta["problem"] == harder
    assert evolved.meta["hidden_tests"] == 1, "the case that the text states and the tests do not try"


def test_few_shot_examples_are_of_one_shape_and_differ_from_the_seeds() -> None:
    templates = Templates()
    examples = load_data(templates, "evol_code/few_shot/examples.yaml")
    seeds = load_data(templates, "evol_code/few_shot/seeds.yaml")
    texts = [each[side] for kind in examples.values() for each in kind for side in ("original", "evolved")]
    for text in [*texts, *seeds]:
        assert len(stated_cases(text)) >= 2, text
        assert text not in {example.problem for example in FewShot(templates).examples["mapping"]}
    assert not set(texts) & set(seeds)
    for each in [*examples["constraint"], *examples["reasoning"]]:
        assert len(stated_cases(each["evolved"])) > len(stated_cases(each["original"])), each
    assert all(len(kind) == 4 for kind in load_data(templates, "evol_instruct/few_shot/examples.yaml").values())
