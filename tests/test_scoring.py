"""Scorers in turn: what one cannot say costs its score alone, groups are scored together, sealed records not at all."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest

from tests.factory_run import run_task
from tests.model_server import ModelServer, Reply, last_text
from tests.runs import command, reasons, run, table, write_rows

# Scorers of a user's own, told what to do by the question that a record answers.
PLUGINS = """
from factory.errors import RecordError, ScorerError
from factory.generators.rejection_sampling import RejectionSampling
from factory.records import Frozen, Score


class Settings(Frozen):
    name: str = "first"
    log: str | None = None


class Own:
    templates = ()
    uses_sandbox = False
    Settings = Settings

    def __init__(self, settings):
        self.settings, self.names = settings, (settings.name,)

    def told(self, record):
        if self.settings.log:
            scores = " ".join(sorted(record.scores))
            with open(self.settings.log, "a") as file:
                file.write(f"{self.settings.name} {record.messages[-1].content} {scores}\\n")


class Single(Own):
    async def score(self, record, context):
        self.told(record)
        text = record.messages[-1].content
        if f"{self.settings.name} says" in text:
            raise RecordError(f"{self.settings.name}: too sweet")
        if f"{self.settings.name} raises" in text:
            raise ValueError("seven is no colour")
        if f"{self.settings.name} engine" in text:
            error = RecordError("engine: away")
            error.final = False
            raise error
        return {self.settings.name: Score(value=0 if f"{self.settings.name} zero" in text else 1)}


class Together(Own):
    async def score_group(self, records, context):
        for record in records:
            self.told(record)
        texts = [record.messages[-1].content for record in records]
        if any("group raises" in text for text in texts):
            raise ValueError("no order")
        if any("group short" in text for text in texts):
            return []
        return [
            ScorerError("odd one out") if "odd" in text else {self.settings.name: Score(value=len(texts))}
            for text in texts
        ]
"""


def single(place: str, kind: str = "Single", **options: str) -> list[str]:
    given = {"name": place, **options}
    words = [f"scorers.{place}.scorer=mine.{kind}"]
    return [*words, *(f"scorers.{place}.{key}='{value}'" for key, value in given.items())]


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mine.py").write_text(PLUGINS)
    return tmp_path


@pytest.fixture(autouse=True)
def forget_the_plugin(monkeypatch: pytest.MonkeyPatch) -> Any:
    import sys

    yield
    sys.modules.pop("mine", None)
    sys.path[:] = [entry for entry in sys.path if "pytest" not in entry or entry.endswith("bin")]


def manifest(folder: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((folder / "run/manifest.json").read_text())
    return found


def echo(body: dict[str, Any]) -> Reply:
    return Reply(last_text(body))


def test_a_score_that_could_not_be_had_does_not_end_the_record(folder: Path) -> None:
    write_rows(folder, [{"instruction": text} for text in ("first says", "first raises", "good")])
    with ModelServer(echo) as server:
        status, said = command(
            folder, server.url, *single("first"), *single("second"), "keep='first == 1 or second == 1'"
        )
    assert status == 0, said
    rows = {row["messages"][-1]["content"]: row for row in table(folder)}
    assert set(rows) == {"first says", "first raises", "good"}, "the second score decides"
    errors = {text: json.loads(row["meta"]).get("score_errors") for text, row in rows.items()}
    assert errors == {
        "first says": {"first": "too sweet"},
        "first raises": {"first": "ValueError: seven is no colour"},
        "good": None,
    }
    assert rows["first says"]["scores"]["first"] is None
    assert rows["first says"]["scores"]["second"]["value"] == 1
    assert "score_errors" not in rows["good"], "it is no column of the source"
    assert manifest(folder)["score_errors"] == {"first": {"too sweet": 1, "ValueError: seven is no colour": 1}}
    page = (folder / "run/report.html").read_text()
    assert re.search(r"Scores that could not be had.*too sweet", page, re.DOTALL)


def test_a_record_that_cannot_be_decided_is_lost_with_what_the_scorer_said(folder: Path) -> None:
    texts = ("first says", "first says second zero", "first says second raises", "extra says second says", "good")
    write_rows(folder, [{"instruction": text} for text in texts])
    with ModelServer(echo) as server:
        run(folder, server, *single("extra"), *single("first"), *single("second"), "keep='first == 1 and second == 1'")
    assert [row["messages"][-1]["content"] for row in table(folder)] == ["good"]
    lost = {row["messages"][-1]["content"]: row["reason"] for row in table(folder, "rejected")}
    assert lost == {
        "first says": "first: too sweet",
        "first says second zero": "not (second == 1)",
        "first says second raises": "first: too sweet",
        "extra says second says": "second: too sweet",
    }
    assert manifest(folder)["score_errors"]["second"] == {"ValueError: seven is no colour": 1, "too sweet": 1}
    assert "Scores that could not be had" in (folder / "run/report.html").read_text()


def test_an_error_that_the_rule_does_not_ask_about_costs_nothing(folder: Path) -> None:
    write_rows(folder, [{"instruction": "second says"}])
    with ModelServer(echo) as server:
        run(folder, server, *single("first"), *single("second"), "keep='first == 1'")
    (row,) = table(folder)
    assert json.loads(row["meta"])["score_errors"] == {"second": "too sweet"}


def test_an_engines_failure_is_tried_again_when_the_run_goes_on(folder: Path) -> None:
    write_rows(folder, [{"instruction": "first engine"}, {"instruction": "good"}])
    words = [*single("first", log=f"{folder}/log"), *single("second", log=f"{folder}/log"), "keep=null"]
    with ModelServer(echo) as server:
        run(folder, server, *words)
        assert reasons(folder) == {"engine: away": 1}
        assert manifest(folder)["score_errors"] == {}
        assert seen(folder) == ["first first engine rules", "first good rules", "second good first rules"]
        run(folder, server, *words)
    assert seen(folder).count("first first engine rules") == 2
    assert len(seen(folder)) == 4, "what failed is not scored further, what is final is not scored again"
    assert server.count == 2, "the answers come from the journal"


# ---- groups: three answers to each prompt


def grouped(folder: Path, answers: dict[str, list[str]], *words: str) -> None:
    """`task=rejection_sampling` with three answers to each prompt, told by `answers`."""
    path = write_rows(folder, [{"instruction": prompt} for prompt in answers])
    left = {prompt: list(texts) for prompt, texts in answers.items()}
    options = [f"source.path={path}", "task.answers=3", "scorers.rules.enabled=false", "run=run", *words]
    with ModelServer(lambda body: Reply(left[last_text(body)].pop(0))) as server:
        assert run_task(folder, server, "rejection_sampling", *options) == 0
    (folder / "run").symlink_to(folder / "outputs/run")


def seen(folder: Path) -> list[str]:
    return sorted((folder / "log").read_text().splitlines())


def test_a_group_scorer_gets_the_answers_to_one_prompt(folder: Path) -> None:
    words = [*single("group", "Together", log=f"{folder}/log"), "keep='group > 0'"]
    grouped(folder, {"one": ["a", "b", "c"], "two": ["d", "e", "f"]}, *words)
    assert {row["messages"][-1]["content"]: row["scores"]["group"]["value"] for row in table(folder)} == dict.fromkeys(
        "abcdef", 3
    )


def test_a_group_scorer_is_not_shown_what_is_lost_already(folder: Path) -> None:
    words = [*single("first"), *single("group", "Together", log=f"{folder}/log"), *single("last", log=f"{folder}/log")]
    answers = {"one": ["a", "first zero", "c"], "two": ["first zero 2", "", "first zero 3"]}
    grouped(folder, answers, *words, "keep='first == 1 and group < 3 and last == 1'")
    assert seen(folder) == ["group a first", "group c first", "last a first group", "last c first group"]
    assert {row["messages"][-1]["content"]: row["scores"]["group"]["value"] for row in table(folder)} == {
        "a": 2,
        "c": 2,
    }


def test_one_answers_error_and_a_whole_groups(folder: Path) -> None:
    answers = {"one": ["a", "odd", "c"], "two": ["group raises", "e", "f"], "three": ["group short", "h", "i"]}
    grouped(folder, answers, *single("group", "Together"), "keep='group > 0'")
    assert sorted(row["messages"][-1]["content"] for row in table(folder)) == ["a", "c"]
    lost = {row["messages"][-1]["content"]: row["reason"] for row in table(folder, "rejected")}
    assert lost["odd"] == "group: odd one out"
    assert lost["e"] == lost["group raises"] == "group: ValueError: no order"
    assert lost["i"] == "group: gave 0 results for 3 records"
    assert manifest(folder)["score_errors"]["group"]["ValueError: no order"] == 3


def test_a_class_that_scores_neither_way_is_told(folder: Path) -> None:
    (folder / "mine.py").write_text("class Nothing:\n    Settings = None\n")
    write_rows(folder, 1)
    status, said = command(folder, "http://127.0.0.1:9/v1", "scorers.a.scorer=mine.Nothing")
    assert (status, "scorers.a.scorer=mine.Nothing: has no score; see docs/plugging-in.md" in said) == (2, True), said
