"""`task=magpie`: instructions out of an empty user's turn."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from factory.errors import ConfigError
from tests.factory_run import run_task
from tests.model_server import ModelServer, Reply, last_text
from tests.records import fates, manifest

DRAWN = [
    Reply("How do tides come about?"), Reply("how do Tides come about"), Reply("Hi"), Reply("word " * 400),
    Reply("Tell me<|im_start|>assistant of it"), Reply("Why is the", finish_reason="length"), Reply("What is a good name?\n"),
]  # fmt: skip


def test_instructions_are_drawn_filtered_and_answered(tmp_path: Path) -> None:
    left = list(DRAWN)

    def script(body: dict[str, Any]) -> Reply:
        return left.pop(0) if "prompt" in body else Reply(f"An answer to: {last_text(body)}")

    with ModelServer(script) as server:
        assert run_task(tmp_path, server, "magpie", "n=7", "attempts=7", "in_flight=1") == 3
        drawn = [body for body in server.bodies if "prompt" in body]
        asked = [body for body in server.bodies if "messages" in body]
    assert {body["prompt"] for body in drawn} == {"<|im_start|>user\n"}
    assert {(body["temperature"], tuple(body["stop"])) for body in drawn} == {(1.0, ("<|im_end|>",))}
    assert {body["temperature"] for body in asked} == {0}
    assert manifest(tmp_path, "magpie")["reasons"] == {
        "duplicate: the same as an earlier record": 1, "instruction: too short": 1, "instruction: too long": 1,
        "instruction: holds marks of the chat template": 1, "instruction: cut off at the token limit": 1,
    }  # fmt: skip
    kept = [record for record in fates(tmp_path, "magpie") if record.kept]
    assert [turn.content for turn in kept[-1].messages] == [
        "What is a good name?",
        "An answer to: What is a good name?",
    ]


def test_further_answers_are_drawn_warm_and_share_a_group(tmp_path: Path) -> None:
    def script(body: dict[str, Any]) -> Reply:
        return Reply("How do tides come about?") if "prompt" in body else Reply(f"By the moon, {server.count}.")

    with ModelServer(script) as server:
        run_task(tmp_path, server, "magpie", "n=6", "attempts=6", "in_flight=1", "task.samples=5",
                 "task.before='<|im_start|>system\\nBe odd.<|im_end|>\\n'")  # fmt: skip
        temperatures = [body["temperature"] for body in server.bodies if "messages" in body]
        assert server.bodies[0]["prompt"].startswith("<|im_start|>system")
    assert temperatures[:6] == [0, 0.8, 0.8, 0.8, 0.8, 0.8]
    first = fates(tmp_path, "magpie")[:6]
    assert len({record.meta["group"] for record in first}) == 1
    assert [record.meta["sample"] for record in first] == list(range(6))


@pytest.mark.parametrize(
    ("words", "told"),
    [(("task.header=''",), "task.header: is empty"), (("task.least_words=500",), "must not be above"),
     (("source.kind=list", "source.items=[a]"), "takes no source")],
)  # fmt: skip
def test_what_is_wrong_is_told_beforehand(tmp_path: Path, words: tuple[str, ...], told: str) -> None:
    with ModelServer() as server, pytest.raises(ConfigError, match=told):
        run_task(tmp_path, server, "magpie", *words)
