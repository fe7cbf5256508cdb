"""Scripted judges: what they are asked about, and answers in either form, with log-probabilities as servers give them."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from typing import Any

import orjson

from tests.model_server import Reply


def grade(reason: str = "so", finish: str = "stop", **grades: int) -> Reply:
    """A judge's answer in JSON."""
    return Reply(json.dumps({"reason": reason, **grades}), finish_reason=finish)


def logprobs_of(tokens: Sequence[tuple[str, Mapping[str, float]]], *, chat: bool) -> dict[str, Any]:
    """Tokens with what might have stood there and its probability, as the protocol's two forms have them."""
    tops = [{token: math.log(share) for token, share in {said: 1.0, **others}.items()} for said, others in tokens]
    said = [token for token, _ in tokens]
    if not chat:
        own = [top[token] for token, top in zip(said, tops, strict=True)]
        return {"tokens": said, "token_logprobs": own, "top_logprobs": tops, "text_offset": [0] * len(said)}
    entries = [
        {
            "token": token,
            "logprob": top[token],
            "bytes": list(token.encode()),
            "top_logprobs": [{"token": other, "logprob": value, "bytes": None} for other, value in top.items()],
        }
        for token, top in zip(said, tops, strict=True)
    ]
    return {"content": entries}


def reply_with(tokens: Sequence[tuple[str, Mapping[str, float]]], *, chat: bool = True) -> Reply:
    """An answer made of these tokens, with their log-probabilities."""
    text = "".join(token for token, _ in tokens)
    choice: dict[str, Any] = {"index": 0, "finish_reason": "stop", "logprobs": logprobs_of(tokens, chat=chat)}
    choice |= {"message": {"role": "assistant", "content": text}} if chat else {"text": text}
    return Reply(body=orjson.dumps({"choices": [choice], "usage": {"prompt_tokens": 10, "completion_tokens": 5}}))
