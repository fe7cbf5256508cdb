"""Reward models behind pooling servers: what is sent, what is made of the answer, and a real vLLM against transformers."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import Any

import orjson
import pytest

from factory.errors import UserError
from tests.model_server import ModelServer, Reply
from tests.runs import run
from tests.scorers.reward_models import FIVE, bare_outputs, make_reward_model
from tests.scorers.test_reward import ADDED, A, answer, made, opinions, questions, scored, turns, unscored


def values_of(ids: list[int], outputs: int) -> list[float]:
    """What the scripted server says of a text: something that only it has."""
    return [sum(ids) / 1000 + place for place in range(outputs)]


def pooling(outputs: int) -> ModelServer:
    def script(body: dict[str, Any]) -> Reply:
        ids = body["input"]
        data = [{"index": 0, "label": "x", "probs": values_of(ids, outputs), "num_classes": outputs}]
        return Reply(body=orjson.dumps({"data": data, "usage": {"prompt_tokens": len(ids)}}))

    return ModelServer(script)


def words_for(server: ModelServer, folder: Path, *more: str) -> list[str]:
    return [f"{A}.path={folder}", f"{A}.engine.kind=openai", f"{A}.engine.base_url={server.url}",
            f"{A}.engine.backoff=0.01", f"{A}.engine.first_patience=0.1", *more]  # fmt: skip


def template_ids(folder: Path, messages: list[dict[str, str]]) -> list[int]:
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(folder)
    found: list[int] = tokenizer.apply_chat_template(messages, tokenize=True, return_dict=True)["input_ids"]
    return found


def test_a_server_gets_the_template_once_as_token_ids_and_no_activation(tmp_path: Path, graded: Path) -> None:
    with pooling(5) as server:
        more = (f"{A}.engine.served_name=known-as", f"{A}.weights={{helpfulness: 1, verbosity: -2}}")
        found = scored(tmp_path, *words_for(server, graded, *more), count=10)
        assert server.count == 10
    sent = {tuple(body["input"]) for body in server.bodies}
    assert sent == {tuple(template_ids(graded, turns(record))) for record in found}
    assert {(body["model"], body["use_activation"]) for body in server.bodies} == {("known-as", False)}
    assert all(b"POST /classify " in head for head in server.heads)
    for record in found:
        said = values_of(template_ids(graded, turns(record)), 5)
        assert list(opinions(record)["a"]["attributes"].values()) == pytest.approx(said)
        assert record.scores["reward"].value == pytest.approx(said[0] - 2 * said[4])


def test_its_key_is_sent_and_a_missing_one_is_told(
    tmp_path: Path, scalar: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("REWARD_KEY", raising=False)
    away = [f"{A}.path={scalar}", f"{A}.engine.kind=openai", f"{A}.engine.base_url=https://example.org/v1",
            f"{A}.engine.api_key_env=REWARD_KEY"]  # fmt: skip
    questions(tmp_path, 1)
    with pytest.raises(UserError, match=f"^{A}.engine.api_key_env=REWARD_KEY: this variable is not set"):
        run(tmp_path, "http://127.0.0.1:9/v1", *ADDED, *away)
    monkeypatch.setenv("REWARD_KEY", "s3cret")
    with pooling(1) as server:
        scored(tmp_path, *words_for(server, scalar, f"{A}.engine.api_key_env=REWARD_KEY"), count=1)
    assert b"Bearer s3cret" in server.heads[0]
    assert b"s3cret" not in (tmp_path / "run" / "config.yaml").read_bytes()


def test_a_refused_text_is_that_records_error_and_a_failing_server_is_tried_again(tmp_path: Path, scalar: Path) -> None:
    questions(tmp_path, 6)
    tries: dict[tuple[int, ...], int] = {}

    def script(body: dict[str, Any]) -> Reply:
        key = tuple(body["input"])
        tries[key] = tries.get(key, 0) + 1
        if list(tries).index(key) < 2:  # the first two texts
            return Reply("that is not for me", status=400)
        if tries[key] == 1:
            return Reply("busy", status=503)
        return Reply(body=b'{"data": [{"probs": [1.5]}]}')

    with ModelServer(script) as rewards, ModelServer(answer) as server:
        run(tmp_path, server, *ADDED, *words_for(rewards, scalar))
    assert unscored(tmp_path) == {"engine: HTTP 400: that is not for me": 2}
    assert sorted(tries.values()) == [1, 1, 2, 2, 2, 2]
    assert [record.scores["reward"].value for record in made(tmp_path) if "reward" in record.scores] == [1.5] * 4


def test_an_answer_of_the_wrong_shape_is_an_error(tmp_path: Path, scalar: Path) -> None:
    questions(tmp_path, 2)
    with pooling(3) as rewards, ModelServer(answer) as server:
        run(tmp_path, server, *ADDED, *words_for(rewards, scalar))
    said = unscored(tmp_path)
    assert sum(said.values()) == 2
    assert all(why.startswith("a gave [") and "not 1 number(s)" in why for why in said)


def test_another_kind_of_server_stops_the_run(tmp_path: Path, scalar: Path) -> None:
    """One without `/classify`: no text can be scored there."""
    questions(tmp_path, 2)
    elsewhere = ModelServer(lambda body: Reply("Not Found", status=404))
    with elsewhere, ModelServer(answer) as server, pytest.raises(UserError, match="or no such path"):
        run(tmp_path, server, *ADDED, *words_for(elsewhere, scalar))


def test_a_server_that_is_not_there_is_told_with_its_key(tmp_path: Path, scalar: Path) -> None:
    questions(tmp_path, 2)
    with pooling(1) as gone:
        pass
    with ModelServer(answer) as server, pytest.raises(UserError, match=f"nothing answers at .*{A}.engine.base_url=URL"):
        run(tmp_path, server, *ADDED, *words_for(gone, scalar))


@pytest.mark.vllm
@pytest.mark.skipif(importlib.util.find_spec("vllm") is None, reason="vLLM is not installed")
@pytest.mark.timeout(900)
def test_real_vllm_says_what_transformers_says(tmp_path: Path) -> None:
    wide = {"hidden_size": 128, "num_attention_heads": 2, "num_key_value_heads": 2, "head_dim": 64}
    folder = make_reward_model(tmp_path / "model", 5, names=FIVE, initializer_range=0.1, **wide)
    words = (f"{A}.path={folder}", f"{A}.weights=helpsteer2-340b", f"{A}.engine.kind=vllm",
             f"{A}.engine.cpu_kvcache_gb=1", f"{A}.engine.replicas=1")  # fmt: skip
    for record in scored(tmp_path, *words, count=24):
        found = list(opinions(record)["a"]["attributes"].values())
        assert found == pytest.approx(bare_outputs(folder, turns(record)), abs=1e-3)
