"""The answer's tokens with the prompt and without, against a server whose log-probabilities are known."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest

from factory.errors import ConfigError, UserError
from factory.likelihood import encode, load_tokenizer
from tests.factory_run import run_task
from tests.model_server import ModelServer, Reply
from tests.records import fates
from tests.runs import write_rows
from tests.scored_prompts import byte_tokenizer, loss, scoring

TALK = [{"role": "user", "content": "say hello"}, {"role": "assistant", "content": "no"},
        {"role": "user", "content": "please"}, {"role": "assistant", "content": "hello you"}]  # fmt: skip


@pytest.fixture(scope="session")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> Path:
    pytest.importorskip("transformers")
    return byte_tokenizer(tmp_path_factory.mktemp("tokenizer"))


def scored(
    folder: Path, tokenizer: Path, script: Any, *options: str, talk: list[dict[str, str]] = TALK
) -> tuple[Any, ModelServer]:
    write_rows(folder, [{"messages": talk}])
    with ModelServer(script) as server:
        run_task(folder, server, "score", f"source.path={folder}/rows.jsonl", "+scorer@scorers.perplexity=perplexity",
                 f"scorers.perplexity.tokenizer={tokenizer}", *options)  # fmt: skip
    (record,) = fates(folder, "score")
    return record, server


def in_context(body: dict[str, Any]) -> Reply:
    """A server to which a token is likelier the more there is before it: so that with and without differ."""
    prompt = body["prompt"]
    logprobs = [
        None,
        *({str(token): {"logprob": -(loss(token) + 10 / place)}} for place, token in enumerate(prompt) if place),
    ]
    choice = {"index": 0, "text": "x", "finish_reason": "length", "prompt_logprobs": logprobs}
    return Reply(
        body=json.dumps({"choices": [choice], "usage": {"prompt_tokens": len(prompt), "completion_tokens": 1}}).encode()
    )


def answer_ids(tokenizer: Path, text: str = "hello you") -> list[int]:
    return encode(load_tokenizer(str(tokenizer), "key"), text, special=False)[0]


def test_the_words_of_the_last_answer_are_scored(tmp_path: Path, tokenizer: Path) -> None:
    record, server = scored(tmp_path, tokenizer, scoring)
    answer = answer_ids(tokenizer)
    given, alone = sum(map(loss, answer)) / len(answer), sum(map(loss, answer[1:])) / (len(answer) - 1)
    assert record.scores["perplexity"].value == pytest.approx(math.exp(given))
    assert record.scores["perplexity"].detail["tokens"] == len(answer)
    # This server's losses know no context, so the instruction helps nothing, over the tokens that both have.
    assert record.scores["ifd"].value == pytest.approx(1)
    assert record.scores["ifd"].detail["with"] == pytest.approx(alone, abs=1e-6)
    with_prompt, without = (body["prompt"] for body in server.bodies)
    assert with_prompt[-len(answer) :] == answer == without
    assert all(body["prompt_logprobs"] == 0 and body["max_tokens"] == 1 for body in server.bodies)


@pytest.mark.parametrize("ratio", ["perplexity", "loss"])
def test_ifd_is_the_ratio_with_and_without(ratio: str, tmp_path: Path, tokenizer: Path) -> None:
    record, server = scored(tmp_path, tokenizer, in_context, f"scorers.perplexity.ratio={ratio}")
    answer = answer_ids(tokenizer)
    start = len(server.bodies[0]["prompt"]) - len(answer)
    given = [loss(token) + 10 / (start + place) for place, token in enumerate(answer)][1:]
    alone = [loss(token) + 10 / place for place, token in enumerate(answer) if place]
    with_prompt, without = sum(given) / len(given), sum(alone) / len(alone)
    wanted = math.exp(with_prompt) / math.exp(without) if ratio == "perplexity" else with_prompt / without
    assert record.scores["ifd"].value == pytest.approx(wanted)
    assert wanted < 1


def test_without_ifd_half_the_requests(tmp_path: Path, tokenizer: Path) -> None:
    record, server = scored(tmp_path, tokenizer, scoring, "scorers.perplexity.ifd=false")
    assert (set(record.scores), server.count) == ({"rules", "perplexity"}, 1)


def test_an_answer_of_one_token_has_no_ifd(tmp_path: Path, tokenizer: Path) -> None:
    record, _ = scored(tmp_path, tokenizer, scoring, talk=[*TALK[:-1], {"role": "assistant", "content": "x"}])
    assert set(record.scores) == {"rules", "perplexity"}


def test_a_long_prompt_is_scored_in_the_windows_that_hold_the_answer(tmp_path: Path, tokenizer: Path) -> None:
    (tmp_path / "a").mkdir()
    whole, _ = scored(tmp_path / "a", tokenizer, scoring)
    talk = [{"role": "user", "content": "x" * 100}, TALK[-1]]
    (tmp_path / "b").mkdir()
    record, server = scored(
        tmp_path / "b", tokenizer, scoring, "scorers.perplexity.window=20", "scorers.perplexity.stride=10", talk=talk
    )
    assert record.scores["perplexity"].value == pytest.approx(whole.scores["perplexity"].value)
    assert all(len(body["prompt"]) <= 20 for body in server.bodies)
    assert server.count <= 3, "the windows of the prompt alone are not asked about"


def test_a_base_model_sees_plain_text(tmp_path: Path, tokenizer: Path) -> None:
    _, server = scored(tmp_path, tokenizer, scoring, "model.chat=false")
    loaded = load_tokenizer(str(tokenizer), "key")
    assert loaded.decode(server.bodies[0]["prompt"]) == "say hello\n\nno\n\nplease\n\nhello you"


@pytest.mark.parametrize("talk", [TALK[:1], [TALK[0], {"role": "assistant", "content": " "}]])
def test_no_answer_is_no_score(talk: list[dict[str, str]], tmp_path: Path, tokenizer: Path) -> None:
    if len(talk) == 1:
        talk = [*talk, {"role": "user", "content": "and?"}]
    record, server = scored(tmp_path, tokenizer, scoring, talk=talk)
    assert "perplexity" not in record.scores and server.count == 0
    assert "answer" in (record.meta.get("score_errors", {}).get("perplexity") or record.reason)


REFUSED = Reply("Unrecognized request argument supplied: prompt_logprobs", status=400)
NONE = Reply(body=json.dumps({"choices": [{"text": "x", "logprobs": None}]}).encode())


@pytest.mark.parametrize("reply", [NONE, REFUSED])
def test_a_server_without_log_probabilities_stops_the_run_with_one_message(
    reply: Reply, tmp_path: Path, tokenizer: Path
) -> None:
    with pytest.raises(UserError) as error:
        scored(tmp_path, tokenizer, lambda body: reply)
    assert str(error.value).startswith("the perplexity scorer: engine: ")
    assert "engine=vllm" in str(error.value)


def test_what_is_missing_is_told(tmp_path: Path, tokenizer: Path) -> None:
    with pytest.raises(ConfigError, match=r"scorers\.perplexity\.window=4096: must be below the model's context=512"):
        scored(tmp_path, tokenizer, scoring, "model.context=512")
    with pytest.raises(UserError):
        scored(tmp_path, tmp_path / "nowhere", scoring)
