"""The one record type, frozen: a step returns a new one (`record.model_copy(update={...})`)."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from typing import Any, Literal

import orjson
from pydantic import BaseModel, ConfigDict, Field


def content_hash(*parts: Any) -> str:
    """32 hexadecimal digits of the parts' canonical JSON (keys sorted): equal content, equal hash, on every machine."""
    data = orjson.dumps(parts, option=orjson.OPT_SORT_KEYS | orjson.OPT_NON_STR_KEYS)
    return hashlib.blake2b(data, digest_size=16).hexdigest()


class Frozen(BaseModel):
    """A pydantic model that neither changes nor accepts unknown fields."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class Message(Frozen):
    """One turn of a conversation."""

    role: Literal["system", "user", "assistant", "tool"]
    content: str


class Score(Frozen):
    """What one scorer said: a number, why, and whatever else it wants kept (JSON)."""

    value: float = Field(allow_inf_nan=False)
    reason: str = ""
    detail: Mapping[str, Any] = Field(default_factory=dict)


class Usage(Frozen):
    """What a record cost: requests answered, tokens read and written, and seconds of waiting for them."""

    requests: int = 0
    prompt_tokens: int = 0
    completion_tokens: int = 0
    seconds: float = 0.0

    def __add__(self, other: Usage) -> Usage:
        return Usage(
            requests=self.requests + other.requests,
            prompt_tokens=self.prompt_tokens + other.prompt_tokens,
            completion_tokens=self.completion_tokens + other.completion_tokens,
            seconds=self.seconds + other.seconds,
        )


class Record(Frozen):
    """One example on its way from seed to fate.

    `id` is a content hash of the task, the templates' digest, the seed item, the sample index, the model and the
    sampling, so the same work has the same id in every run. `kept` and `reason` are its fate: a record that is not
    kept always says why. `parents` are the ids of records it was made from.
    """

    id: str
    task: str
    messages: tuple[Message, ...] = ()
    meta: Mapping[str, Any] = Field(default_factory=dict)
    scores: Mapping[str, Score] = Field(default_factory=dict)
    kept: bool = False
    reason: str = ""
    parents: tuple[str, ...] = ()
    usage: Usage = Usage()
