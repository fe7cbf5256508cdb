"""What a server's reply says: its answers, or why there are none."""

from __future__ import annotations

import email.utils
import itertools
import re
import time
from collections.abc import Sequence
from typing import Any

import aiohttp
import openai
import orjson

from factory.engine.request import Response


def answers_in(text: str, seconds: float) -> Sequence[Response]:
    """The answers of one reply that took `seconds`. Raises what reading something else than answers raises."""
    data = orjson.loads(text)
    usage = data.get("usage") or {}
    texts = [_content(choice) for choice in data["choices"]]
    # A server counts the tokens of all answers together, the prompt's once.
    read = shared(int(usage.get("prompt_tokens") or 0), [1] * len(texts))
    written = shared(int(usage.get("completion_tokens") or 0), [len(one) + 1 for one in texts])
    return [
        Response(
            text=one,
            finish_reason=str(choice.get("finish_reason") or "stop"),
            prompt_tokens=prompt_tokens,
            completion_tokens=completion_tokens,
            seconds=seconds,
            logprobs=choice.get("prompt_logprobs") or choice.get("logprobs"),
        )
        for choice, one, prompt_tokens, completion_tokens in zip(data["choices"], texts, read, written, strict=True)
    ]


def _content(choice: dict[str, Any]) -> str:
    """An answer's text, of a chat or of a continuation."""
    message = choice.get("message")
    content = message["content"] if message is not None else choice["text"]
    if content is None and message is not None:
        content = message.get("refusal")  # where JSON was asked for, a refusal stands apart
    if not isinstance(content, str | None):
        raise TypeError("the answer is no text")
    return content or ""


def shared(total: int, weights: Sequence[int]) -> list[int]:
    """`total` in parts that are as the weights are, and together just it."""
    edges = [total * sum(weights[:place]) // max(1, sum(weights)) for place in range(len(weights) + 1)]
    return [high - low for low, high in itertools.pairwise(edges)]


def transport_error(error: BaseException) -> BaseException:
    """aiohttp's error behind the openai client's."""
    while not isinstance(error, aiohttp.ClientError) and error.__cause__ is not None:
        error = error.__cause__
    return error


def message_of(error: openai.APIStatusError) -> str:
    """The server's own words, cut to a line or two."""
    body = error.body
    if isinstance(body, dict):
        return str(body.get("message") or body)[:500]
    return (error.response.text or str(error))[:500]


def retry_after(error: openai.APIStatusError) -> float | None:
    """Seconds that the server asks to be left alone: a number, or an HTTP date."""
    value = error.response.headers.get("retry-after", "").strip()
    if re.fullmatch(r"\d+(\.\d+)?", value):
        return float(value)
    try:
        return max(0.0, email.utils.parsedate_to_datetime(value).timestamp() - time.time())
    except ValueError:
        return None
