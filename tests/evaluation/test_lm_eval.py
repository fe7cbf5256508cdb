"""The hand-over to lm-evaluation-harness, with a stand-in for it on the PATH (`fake_lm_eval.py`): not the harness itself."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest

from factory.compose import compose_config
from factory.errors import ConfigError
from factory.evaluation.plan import make_evaluation
from tests.evaluation.evaluations import run, values, words
from tests.model_server import ModelServer, Reply, last_text
from tests.runs import Listener

TASKS = ["suite=lm_eval", "suite.tasks=[arc_easy,piqa]", "suite.tokenizer=some/tokenizer"]


@pytest.fixture(autouse=True)
def program(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    path = tmp_path / "bin" / "lm_eval"
    path.parent.mkdir()
    path.write_text(f'#!/bin/sh\nexec {sys.executable} {Path(__file__).parent}/fake_lm_eval.py "$@"\n')
    path.chmod(0o755)
    monkeypatch.setenv("PATH", f"{path.parent}:{os.environ['PATH']}")
    return path


def yes_to_even(server: ModelServer) -> None:
    server.script = lambda body: Reply("yes" if int(last_text(body).split()[-1]) % 2 == 0 else "no")


def test_its_documents_become_items_and_its_own_numbers_stand_beside(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "sk-test")
    display = Listener()
    with ModelServer() as server:
        yes_to_even(server)
        found = run(tmp_path, server, *TASKS, "suite.limit=5", "suite.shots=2", display=display)
        assert (found.status, server.count) == (0, 10), found.stopped
        run(tmp_path, server, *TASKS, "suite.limit=5", "suite.shots=2")
        assert server.count == 10, "a finished run of the harness is not repeated"
        assert b"Bearer sk-test" in server.heads[-1]
    assert values(found) == {"acc": 0.6} and values(found, "piqa") == {"acc": 0.6}
    command = next(line for line in display.said if line.startswith("lm_eval: "))
    for part in ("--model local-completions", f"base_url={server.url}/completions", "model=m", "tokenizer=some/tokenizer",
                 "--tasks arc_easy,piqa", "--num_fewshot 2", "--limit 5", "--log_samples", "--seed 0"):  # fmt: skip
        assert part in command
    assert "sk-test" not in command and "sk-test" not in (tmp_path / "run/results.json").read_text()
    assert any("acc,none 0.6" in note for note in found.results["notes"])


def test_the_chat_interface(tmp_path: Path) -> None:
    display = Listener()
    with ModelServer() as server:
        yes_to_even(server)
        found = run(tmp_path, server, "suite=lm_eval", "suite.tasks=[gsm8k]", "suite.interface=chat",
                    "suite.sampling={temperature: 0.5}", display=display)  # fmt: skip
        assert "messages" in server.bodies[0]
    assert values(found) == {"acc": 0.5}
    (command,) = [line for line in display.said if line.startswith("lm_eval: ")]
    for part in (
        "local-chat-completions",
        "/v1/chat/completions",
        "--apply_chat_template",
        "--gen_kwargs temperature=0.5",
    ):
        assert part in command


def test_a_harness_that_fails_is_told_with_its_last_words_and_tried_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FAKE_LM_EVAL", "fail")
    with ModelServer() as server:
        yes_to_even(server)
        found = run(tmp_path, server, *TASKS)
        assert found.status == 3
        assert "ended with status 1: ValueError: Tasks not found: nope" in str(found.stopped)
        monkeypatch.delenv("FAKE_LM_EVAL")
        assert run(tmp_path, server, *TASKS).status == 0


def test_without_the_program_the_remedy_is_told(tmp_path: Path, program: Path) -> None:
    program.unlink()
    options = words(tmp_path, "http://127.0.0.1:9/v1", "suite=lm_eval", "suite.tasks=[]")
    with pytest.raises(ConfigError) as error:
        make_evaluation(*compose_config("evaluate", options))
    for part in (
        "lm_eval is not on the PATH",
        'pip install "lm-eval[api]"',
        "suite.tasks=[]",
        "suite.tokenizer is not set",
    ):
        assert part in str(error.value)
