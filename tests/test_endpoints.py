"""Endpoints: models that scorers ask beside the run's own, each with its engine, its price and its place in the journal."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from tests.model_server import ModelServer, Reply, last_text
from tests.runs import command, reasons, table, write_rows

PLUGIN = """
from factory.generators.base import chat
from factory.records import Frozen, Score


class Settings(Frozen):
    endpoint: str | None = None
    panel: tuple[str, ...] = ()


class Opinion:
    Settings, names, templates, uses_sandbox = Settings, ("opinion",), (), False

    def __init__(self, settings):
        self.settings = settings

    async def score(self, record, context):
        schema = {"type": "object", "properties": {"grade": {"type": "integer"}}, "required": ["grade"]}
        question = chat("grade: " + record.messages[-1].content)
        given = await context.ask_json(question, schema, label="opinion", endpoint=self.settings.endpoint)
        return {"opinion": Score(value=given["grade"])}
"""
OPINION = ("scorers.mine.scorer=mine.Opinion", "scorers.mine.endpoint=big", "keep='opinion > 0'")


def endpoint(name: str, url: str, *more: str) -> list[str]:
    place = f"endpoints.{name}"
    chosen = [f"model@{place}.model=custom", f"{place}.model.path={name}", f"engine@{place}.engine=openai"]
    return [*chosen, f"{place}.engine.base_url={url}", *(f"{place}.{word}" for word in more)]


def answer(body: dict[str, Any]) -> Reply:
    return Reply('{"grade": 3}') if "grade: " in last_text(body) else Reply("an answer")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "mine.py").write_text(PLUGIN)
    write_rows(tmp_path, 4)
    return tmp_path


def manifest(folder: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((folder / "run/manifest.json").read_text())
    return found


def test_a_scorer_asks_another_model_which_is_counted_and_priced_apart(folder: Path) -> None:
    with ModelServer(answer) as own, ModelServer(answer) as big:
        words = [
            *OPINION, *endpoint("big", big.url, "model.price={input: 1000000, output: 0}", "model.sampling={temperature: 0.5}"),
            "model.price={input: 1, output: 0}", "task.sampling={temperature: 0.9}",
        ]  # fmt: skip
        status, said = command(folder, own.url, *words)
        assert status == 0, said
        assert [row["scores"]["opinion"]["value"] for row in table(folder)] == [3] * 4
        assert (own.count, big.count) == (4, 4)
        assert {(body["model"], body["temperature"]) for body in big.bodies} == {("big", 0.5)}
        assert {(body["model"], body["temperature"]) for body in own.bodies} == {("m", 0.9)}
        found = manifest(folder)
        (described,) = found["endpoints"].values()
        assert (described["path"], described["engine"], described["requests"]) == ("big", "openai", 4)
        assert described["tokens"]["prompt"] == 40
        assert described["cost"] == 40
        assert found["requests"] == 8
        assert found["cost"] == pytest.approx(40 + 40 / 1e6)
        page = (folder / "run/report.html").read_text()
        assert "big: big, openai, 4 requests, cost 40" in page
        assert "opinion@big" in page

        status, said = command(folder, own.url, *words, "keep='opinion > 1'")
        assert (status, own.count, big.count) == (0, 4, 4), "nobody is asked twice"
        assert manifest(folder)["cost"] == pytest.approx(40 + 40 / 1e6)


def test_one_budget_holds_for_all(folder: Path) -> None:
    with ModelServer(answer) as own, ModelServer(answer) as big:
        words = [*OPINION, *endpoint("big", big.url), "engine.concurrency=1", "in_flight=1"]
        status, said = command(folder, own.url, *words, "budget.requests=5")
        assert status == 3, said
        assert own.count + big.count == 5
        status, said = command(folder, own.url, *words, "budget.requests=5")
        assert (status, own.count + big.count) == (3, 5), "what was spent before counts"


def test_money_is_bounded_over_all_prices_when_a_run_goes_on(folder: Path) -> None:
    with ModelServer(answer) as own, ModelServer(answer) as big:
        words = [*OPINION, *endpoint("big", big.url, "model.price={input: 100000, output: 0}"), "engine.concurrency=1"]
        status, _ = command(folder, own.url, *words, "in_flight=1", "budget.usd=1.5")  # one each for ten tokens read
        assert (status, big.count) == (3, 2)
        status, _ = command(folder, own.url, *words, "in_flight=1", "budget.usd=2.5")
        assert (status, big.count) == (3, 3)


def test_another_model_is_asked_anew_and_the_answers_stay(folder: Path) -> None:
    with ModelServer(answer) as own, ModelServer(answer) as big:
        command(folder, own.url, *OPINION, *endpoint("big", big.url))
        moved = endpoint("big", big.url, "model.path=bigger")
        status, said = command(folder, own.url, *OPINION, *moved)
        assert (status, own.count, big.count) == (0, 4, 8), said
        assert "changed since this run's last time: endpoints.big.model.name, endpoints.big.model.path" in said


def test_what_nobody_asks_is_never_opened(folder: Path) -> None:
    with ModelServer(answer) as own:
        status, said = command(
            folder, own.url, *OPINION, "scorers.mine.endpoint=null", *endpoint("big", "http://127.0.0.1:9/v1")
        )
    assert (status, own.count) == (0, 8), said
    assert manifest(folder)["endpoints"]["big"]["requests"] == 0


def test_an_endpoint_that_does_not_answer_stops_the_run_by_its_address(folder: Path) -> None:
    with ModelServer(answer) as own:
        away = endpoint("big", "http://127.0.0.1:9/v1", "engine.first_patience=0.1", "engine.backoff=0.01")
        status, said = command(folder, own.url, *OPINION, *away)
    assert status == 2
    assert "nothing answers at http://127.0.0.1:9/v1" in said


def test_mistakes_about_endpoints_are_told_together(folder: Path) -> None:
    words = [
        *endpoint("big", "http://127.0.0.1:9/v1"), "model@endpoints.half.model=custom", "scorers.mine.scorer=mine.Opinion",
        "scorers.mine.endpoint=bigg", "scorers.mine.panel=[big,small]", "engine@endpoints.big.engine=opnai",
        "endpoints.big.engine.retrys=3",
    ]  # fmt: skip
    status, said = command(folder, "http://127.0.0.1:9/v1", *words)
    assert status == 2
    for line in (
        "scorers.mine.endpoint=bigg: no such endpoint; did you mean big? (there is big)",
        "scorers.mine.panel=small: no such endpoint (there is big)",
        "endpoints.half.engine: must be given, as engine@endpoints.half.engine=openai",
        "engine@endpoints.big.engine=opnai: no such engine; did you mean openai? (there is openai, vllm)",
        "endpoints.big.engine.retrys: unknown key; did you mean retries?",
    ):
        assert line in said, said


def test_a_task_of_ones_own_may_bring_an_endpoint(folder: Path) -> None:
    (folder / "conf/task").mkdir(parents=True)
    (folder / "conf/task/own.yaml").write_text(
        "# @package _global_\ndefaults:\n  - respond\n  - /model@endpoints.big.model: custom\n"
        "  - /engine@endpoints.big.engine: openai\nendpoints: {big: {model: {path: known}}}\n"
    )
    with ModelServer(answer) as own, ModelServer(answer) as big:
        words = ["task=own", *OPINION, f"endpoints.big.engine.base_url={big.url}"]
        status, said = command(folder, own.url, *words)
        assert (status, big.count, big.bodies[0]["model"]) == (0, 4, "known"), said
        status, said = command(folder, own.url, *words, "model@endpoints.big.model=smollm2", "out=other")
        assert status == 0, said
        found = json.loads((folder / "other/manifest.json").read_text())["endpoints"]["big"]
        assert (found["name"], found["path"]) == ("smollm2", "known"), (
            "the choice replaces the task's, its own keys stay"
        )


def test_an_endpoint_is_kept_where_the_run_is_a_sweep(folder: Path) -> None:
    with ModelServer(answer) as own, ModelServer(answer) as big:
        status, said = command(folder, own.url, *OPINION, *endpoint("big", big.url), "--multirun", "seed=1,2")
        assert status == 0, said
        assert big.count == 8, "another seed, another question"


def test_a_refused_question_costs_its_record_alone(folder: Path) -> None:
    def refuse(body: dict[str, Any]) -> Reply:
        return Reply("too long", status=400) if "number 1" in str(body) else answer(body)

    with ModelServer(lambda body: Reply(last_text(body))) as own, ModelServer(refuse) as big:
        status, said = command(folder, own.url, *OPINION, *endpoint("big", big.url))
        assert status == 0, said
    assert reasons(folder) == {"mine: engine: HTTP 400: too long": 1}
