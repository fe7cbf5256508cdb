"""Windows, masks, bytes and sums, against a server whose log-probabilities are known."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from factory.compose import compose_config
from factory.errors import ConfigError
from factory.evaluation.plan import make_evaluation
from factory.likelihood import cut, encode, load_tokenizer, render_conversation
from tests.evaluation.evaluations import items, run, values, words
from tests.model_server import ModelServer, Reply
from tests.runs import write_rows
from tests.scored_prompts import byte_tokenizer, loss, scoring


@pytest.fixture(scope="session")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> Path:
    pytest.importorskip("transformers")
    return byte_tokenizer(tmp_path_factory.mktemp("tokenizer"))


def setting(folder: Path, tokenizer: Path, rows: list[dict[str, Any]], *options: str) -> list[str]:
    return ["suite=perplexity", f"source.path={write_rows(folder, rows)}", f"suite.tokenizer={tokenizer}", *options]


@given(st.integers(1, 200), st.integers(2, 40).flatmap(lambda w: st.tuples(st.just(w), st.integers(1, w - 1))))
def test_each_token_is_scored_once_with_enough_before_it(tokens: int, sizes: tuple[int, int]) -> None:
    window, stride = sizes
    scored: list[int] = []
    for start, end, first in cut(tokens, window, stride):
        assert end - start <= window and start <= first < end
        if first:
            assert first - start >= min(first, window - stride)
        scored += range(first, end)
    assert scored == list(range(tokens))


def test_texts_are_scored_whole_over_windows(tmp_path: Path, tokenizer: Path) -> None:
    texts = ["hello world, hello again", "Grüße aus Köln: 你好", "a"]
    with ModelServer(scoring) as server:
        found = run(tmp_path, server, *setting(tmp_path, tokenizer, [{"text": text} for text in texts], "suite.window=8",
                                               "suite.stride=5"))  # fmt: skip
        count = server.count
        assert all(len(body["prompt"]) <= 8 and body["max_tokens"] == 1 for body in server.bodies)
    loaded = load_tokenizer(str(tokenizer), "suite.tokenizer")
    ids = [encode(loaded, text, special=True)[0] for text in texts[:2]]
    nats = [sum(loss(token) for token in one[1:]) for one in ids]
    tokens = [len(one) - 1 for one in ids]
    # The first token of either text covers one sign of one byte; "he" is one token of two.
    sizes = [len(texts[0].encode()) - 2, len(texts[1].encode()) - 1]
    assert values(found)["perplexity"] == pytest.approx(math.exp(sum(nats) / sum(tokens)))
    assert values(found)["bits_per_byte"] == pytest.approx(sum(nats) / math.log(2) / sum(sizes))
    assert count == sum(len(list(cut(len(one), 8, 5))) for one in [*ids, [0]]) - 1, "nothing is asked about one token"
    assert found.status == 3 and "holds no token that could be scored" in str(found.stopped)
    low, high = (found.results["metrics"][0][end] for end in ("low", "high"))
    assert low <= values(found)["perplexity"] <= high


def test_of_a_conversation_the_assistants_tokens_alone(tmp_path: Path, tokenizer: Path) -> None:
    talk = [{"role": "user", "content": "say hello"}, {"role": "assistant", "content": "hello"},
            {"role": "user", "content": "more"}, {"role": "assistant", "content": "é!"}]  # fmt: skip
    with ModelServer(scoring) as server:
        found = run(tmp_path, server, *setting(tmp_path, tokenizer, [{"messages": talk}]))
        assert (found.status, server.count) == (0, 1)
        run(tmp_path, server, *setting(tmp_path, tokenizer, [{"messages": talk}]))
        assert server.count == 1
    loaded = load_tokenizer(str(tokenizer), "suite.tokenizer")
    end = loaded.convert_tokens_to_ids("<|im_end|>")
    scored = [token for text in ("hello", "é!") for token in [*encode(loaded, text, special=False)[0], end]]
    (item,) = items(tmp_path)
    assert item["detail"]["tokens"] == len(scored)
    assert item["detail"]["bytes"] == len("helloé!".encode())
    assert values(found)["perplexity"] == pytest.approx(math.exp(sum(map(loss, scored)) / len(scored)))
    assert "1 conversations" in found.results["notes"][0]


def test_the_spans_are_what_the_assistant_says(tokenizer: Path) -> None:
    talk = [
        {"role": "system", "content": "s"},
        {"role": "user", "content": "assistant\nno"},
        {"role": "assistant", "content": "yes "},
    ]
    whole, ((start, words_end, end),) = render_conversation(load_tokenizer(str(tokenizer), "suite.tokenizer"), talk)
    assert (whole[start:words_end], whole[words_end:end]) == ("yes", " <|im_end|>")


@pytest.mark.parametrize(
    ("logprobs", "told"),
    [(None, "gave no log-probabilities"), ([None], "gave no log-probabilities"), ("other", "scored other tokens")],
)
def test_a_server_that_cannot_is_told(logprobs: Any, told: str, tmp_path: Path, tokenizer: Path) -> None:
    def script(body: dict[str, Any]) -> Reply:
        given = [None, *[{"9999": {"logprob": -1}}] * (len(body["prompt"]) - 1)] if logprobs == "other" else logprobs
        return Reply(body=json.dumps({"choices": [{"text": "x", "prompt_logprobs": given}]}).encode())

    with ModelServer(script) as server:
        found = run(tmp_path, server, *setting(tmp_path, tokenizer, [{"text": "hello"}]))
    assert found.status == 3 and told in str(found.stopped)
    assert found.results["metrics"] == []


def test_bad_conversations_are_each_their_own_misfortune(tmp_path: Path, tokenizer: Path) -> None:
    rows = [{"messages": [{"role": "user", "content": "hi"}]}, {"messages": "text"}, {"messages": [{"rolle": "x"}]},
            {"messages": [{"role": "user", "content": "hi"}, {"role": "assistant", "content": "ho"}]}]  # fmt: skip
    with ModelServer(scoring) as server:
        found = run(tmp_path, server, *setting(tmp_path, tokenizer, rows))
    assert found.results["items"] == 1
    assert all(reason.startswith("messages: ") for reason in found.results["errors"])
    assert sum(found.results["errors"].values()) == 3


def test_what_is_missing_is_told(tmp_path: Path) -> None:
    write_rows(tmp_path, [{"words": "x"}])
    options = words(
        tmp_path, "http://127.0.0.1:9/v1", "suite=perplexity", f"source.path={tmp_path}/rows.jsonl", "suite.stride=4096"
    )
    with pytest.raises(ConfigError) as error:
        make_evaluation(*compose_config("evaluate", options))
    assert "stride=4096 must be below window=1024" in str(error.value)
    with pytest.raises(ConfigError) as error:
        make_evaluation(*compose_config("evaluate", [*options[:-1], "model.context=512"]))
    for part in ("suite.tokenizer is not set", "suite.window=1024: must be below model.context=512", "{{ text }}"):
        assert part in str(error.value)
