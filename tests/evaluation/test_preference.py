"""Both orders, wins that agree, position bias, references and baselines."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest

from factory.compose import compose_config
from factory.errors import ConfigError
from factory.evaluation.plan import make_evaluation
from tests.evaluation.evaluations import answers, items, run, values, words
from tests.model_server import ModelServer, Reply, last_text
from tests.runs import write_rows

JUDGE = ("model@judge.model=custom", "judge.model.path=judge", "engine@judge.engine=openai")
OTHER = ("model@baseline.model=custom", "baseline.model.path=other", "engine@baseline.engine=openai")


def setting(folder: Path, url: str, rows: Any = 4) -> list[str]:
    path = write_rows(folder, rows)
    return ["suite=preference", f"source.path={path}", *JUDGE, f"judge.engine.base_url={url}"]


def shown(text: str) -> tuple[str, str]:
    """The two answers in the judge's question, in order."""
    found = re.search(r"the first answer\n(.*?)\n=+ the second answer\n(.*?)\n====", text, re.DOTALL)
    assert found
    return found.group(1), found.group(2)


def judged(better: str, reason: str = "so") -> Reply:
    return Reply(json.dumps({"reason": reason, "better": better}))


def longer_wins(body: dict[str, Any]) -> Reply:
    """Models answer with their name; the judge likes a longer answer, and the second place where both are as long."""
    if body["model"] != "judge":
        number = re.search(r"number (\d+)", last_text(body))
        assert number
        strong = (body["model"] == "m") == (number.group(1) in "01")
        return Reply("a long answer" if strong else "short")
    first, second = shown(last_text(body))
    return judged("first" if len(first) > len(second) else "second")


def test_wins_that_agree_in_both_orders_against_a_baseline(tmp_path: Path) -> None:
    with ModelServer(longer_wins) as server:
        options = [*setting(tmp_path, server.url, 5), *OTHER, f"baseline.engine.base_url={server.url}"]
        found = run(tmp_path, server, *options)
        assert (found.status, server.count) == (0, 5 + 5 + 10)
        asked = [body["model"] for body in server.bodies]
        assert asked == ["m"] * 5 + ["other"] * 5 + ["judge"] * 10, "one engine after another"
        again = run(tmp_path, server, *options)
        assert server.count == 20 and again.results["metrics"] == found.results["metrics"]
    assert values(found) == {
        "win_rate": 0.4, "wins": 0.4, "losses": 0.6, "ties": 0.0, "position_bias": 0.0,
        "length": (2 * 13 + 3 * 5) / 5, "other_length": (2 * 5 + 3 * 13) / 5,
    }  # fmt: skip
    assert found.results["judge"]["path"] == "judge" and found.results["baseline"]["path"] == "other"
    body = next(body for body in server.bodies if body["model"] == "judge")
    assert (body["temperature"], body["response_format"]["type"]) == (0.0, "json_schema")


def test_a_judge_that_likes_a_place_gives_ties_and_is_told(tmp_path: Path) -> None:
    def script(body: dict[str, Any]) -> Reply:
        return judged("first") if body["model"] == "judge" else Reply("mine")

    rows = [{"instruction": f"ask {n}", "response": "theirs"} for n in range(6)]
    with ModelServer(script) as server:
        found = run(tmp_path, server, *setting(tmp_path, server.url, rows), "suite.reference='{{ response }}'")
        assert server.count == 6 + 12
    assert values(found)["position_bias"] == 1.0
    assert (values(found)["win_rate"], values(found)["ties"]) == (0.5, 1.0)
    assert "6 the first, 0 the second" in " ".join(found.results["notes"])
    assert "baseline" not in found.results


def test_the_same_answer_is_a_tie_that_nobody_is_asked_about(tmp_path: Path) -> None:
    rows = [{"instruction": "ask", "response": "same"}, {"instruction": "ask", "response": "other"}]
    with ModelServer(lambda body: judged("tie") if body["model"] == "judge" else Reply("same")) as server:
        found = run(tmp_path, server, *setting(tmp_path, server.url, rows), "suite.reference='{{ response }}'")
    assert sum(body["model"] == "judge" for body in server.bodies) == 2
    assert values(found)["ties"] == 1.0
    assert len({row["id"] for row in items(tmp_path)}) == 2


def test_a_judge_that_cannot_be_read_is_an_error_and_no_tie(tmp_path: Path) -> None:
    def script(body: dict[str, Any]) -> Reply:
        if body["model"] != "judge":
            return Reply("mine to " + last_text(body))
        question = body["messages"][0]["content"]
        if "ask 0" in question:
            return Reply("I like both!")
        return judged("first" if shown(question)[0].startswith("mine") else "second")

    rows = [{"instruction": f"ask {n}", "response": "theirs"} for n in range(3)]
    with ModelServer(script) as server:
        found = run(tmp_path, server, *setting(tmp_path, server.url, rows), "suite.reference='{{ response }}'")
    assert found.status == 3 and "1 of 6 answers could not be measured" in str(found.stopped)
    assert found.results["items"] == 2 and values(found)["wins"] == 1.0
    (lost,) = answers(tmp_path, "rejected")
    assert lost["reason"].startswith("judge")


def test_an_answer_gives_the_judge_no_orders(tmp_path: Path) -> None:
    """Jinja in an answer stays text, and the judge's own words come after it."""
    rows = [{"instruction": "ask", "response": "{{ 7*7 }} {% raw %}"}]
    with ModelServer(lambda body: judged("tie") if body["model"] == "judge" else Reply("say {{ first }}")) as server:
        run(tmp_path, server, *setting(tmp_path, server.url, rows), "suite.reference='{{ response }}'")
        text = last_text(server.bodies[-1])
    assert "{{ 7*7 }}" in text and "say {{ first }}" in text and "49" not in text
    assert text.index("say {{ first }}") < text.index("Answer as JSON")


def test_what_is_missing_is_told_at_once(tmp_path: Path) -> None:
    def told(*options: str) -> str:
        with pytest.raises(ConfigError) as error:
            make_evaluation(
                *compose_config("evaluate", words(tmp_path, "http://127.0.0.1:9/v1", "suite=preference", *options))
            )
        return str(error.value)

    said = told("suite.prompt='{{ nope'", "suite.template=gone.j2")
    for part in (
        "source.path is not set",
        "baseline: ",
        "model@baseline.model=NAME",
        "suite.prompt, line 1",
        "'gone.j2'",
    ):
        assert part in said
    write_rows(tmp_path, 2)
    same = ("model@baseline.model=custom", "baseline.model.path=m", "engine@baseline.engine=openai",
            "baseline.engine.base_url=http://127.0.0.1:9/v1", "baseline.engine.backoff=0.01", "baseline.engine.backoff_max=0.05")  # fmt: skip
    assert "baseline: is the evaluated model itself" in told(f"source.path={tmp_path}/rows.jsonl", *same)
    assert "judge.engine.retrys: unknown key; did you mean retries?" in told("judge.engine.retrys=3")
    assert "model@judge.model=smolm2: no such model; did you mean smollm2?" in told("model@judge.model=smolm2")
    assert "suite.prompt uses {{ nope }}" in told(
        f"source.path={tmp_path}/rows.jsonl", "suite.prompt='{{ nope }}'", *same[:1], "baseline.model.path=x"
    )


def test_jinja_needs_no_second_quotes() -> None:
    composed, problems = compose_config("evaluate", ["suite=preference", "suite.reference={{ response }}"])
    assert (problems, composed["suite"]["reference"]) == ([], "{{ response }}")
    _, problems = compose_config("evaluate", ["suite.sampling={temperature: }}"])
    assert "is not KEY=VALUE" in problems[0]


def test_a_model_of_ones_own_judges_by_its_name_alone() -> None:
    composed, problems = compose_config("evaluate", ["suite=preference", "model@judge.model=owner/name"])
    assert problems == [] and composed["judge"]["model"]["path"] == "owner/name"
    assert composed["model"]["name"] == "smollm2"
