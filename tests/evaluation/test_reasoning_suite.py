"""`suite=reasoning` end to end against a scripted server."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

from factory.compose import compose_config
from factory.errors import ConfigError
from factory.evaluation.plan import make_evaluation
from factory.reasoning import Tasks, generate
from tests.evaluation.evaluations import answers, items, run, values, words
from tests.model_server import ModelServer, Reply, last_text

pytest.importorskip("reasoning_gym")
TWO = ["suite=reasoning", "suite.tasks=[{dataset: chain_sum, size: 6},{dataset: spell_backward, size: 4}]"]


def known(seed: int = 0) -> dict[str, str]:
    tasks = [Tasks(dataset="chain_sum", size=6), Tasks(dataset="spell_backward", size=4)]
    return {entry.question: str(entry.answer) for found in generate(tasks, "eval", seed) for entry in found}


def question_of(text: str) -> str:
    return text.partition("\n\nThink it through")[0]


def test_right_wrong_partial_and_missing_answers(tmp_path: Path) -> None:
    answer = known()
    sums = [question for question in answer if "arithmetic" in question]

    def script(body: dict[str, Any]) -> Reply:
        question = question_of(last_text(body))
        if question == sums[0]:
            return Reply("I do not know")
        if question == sums[1]:
            return Reply(f"<answer>{answer[question]} or so</answer>")
        return Reply(f"Well. <answer>0</answer> No: <answer>{answer[question]}</answer>")

    with ModelServer(script) as server:
        found = run(tmp_path, server, *TWO)
        assert (found.status, server.count) == (0, 10)
        assert run(tmp_path, server, *TWO).status == 0 and server.count == 10
    assert values(found)["pass"] == 8 / 10
    assert values(found, "chain_sum")["pass"] == 4 / 6
    assert values(found, "spell_backward") == {"pass": 1.0, "score": 1.0}
    scores = {row["meta"]["answer"]: row["meta"]["score"] for row in answers(tmp_path)}
    assert scores[None] == 0
    assert "1 of 10 had none" in " ".join(found.results["notes"])
    assert len({row["id"] for row in items(tmp_path)}) == 10


def test_another_seed_asks_other_questions(tmp_path: Path) -> None:
    with ModelServer() as server:
        run(tmp_path, server, *TWO)
        run(tmp_path, server, *TWO, "seed=1")
        assert (server.count, server.repeated) == (20, 0)
        asked = {question_of(last_text(body)) for body in server.bodies}
    assert asked == {*known(0), *known(1)}


def test_shots_come_from_the_training_split(tmp_path: Path) -> None:
    with ModelServer() as server:
        run(tmp_path, server, *TWO, "suite.shots=2")
        body = next(body for body in server.bodies if "arithmetic" in last_text(body))
    roles = [message["role"] for message in body["messages"]]
    assert roles == ["user", "assistant", "user", "assistant", "user"]
    shown = [question_of(message["content"]) for message in body["messages"][:-1:2]]
    solved = generate([Tasks(dataset="chain_sum", size=2)], "train", 0)[0]
    assert shown == [entry.question for entry in solved]
    assert re.fullmatch(f"<answer>{solved[0].answer}</answer>", body["messages"][1]["content"])
    assert not set(shown) & set(known())


def test_the_training_split_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"suite.split=train: is what models are trained on"):
        make_evaluation(
            *compose_config("evaluate", words(tmp_path, "http://127.0.0.1:9/v1", *TWO, "suite.split=train"))
        )
    with pytest.raises(ConfigError, match=r"suite.shots=2: rush_hour gives no answers"):
        make_evaluation(*compose_config("evaluate", words(tmp_path, "http://127.0.0.1:9/v1", "suite=reasoning",
                                                          "suite.tasks=[{dataset: rush_hour, size: 2}]", "suite.shots=2")))  # fmt: skip
