"""What is asked of a model and what it answers: plain frozen data, hashed for the journal."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from pydantic import Field

from factory.records import Frozen, Message, content_hash

# Part of every response's key: raise it when the meaning of a stored response changes.
PARSER_VERSION = 1


class Sampling(Frozen):
    """How to draw the answer; `None` leaves a value to the server. Field names are the OpenAI protocol's own."""

    temperature: float | None = Field(None, ge=0)
    top_p: float | None = Field(None, gt=0, le=1)
    max_tokens: int | None = Field(None, ge=1)
    presence_penalty: float | None = None
    frequency_penalty: float | None = None
    stop: tuple[str, ...] = ()
    # Whatever else the server understands (top_k, min_p, repetition_penalty, ...), sent as it is.
    extra: Mapping[str, Any] = Field(default_factory=dict)

    def over(self, base: Sampling) -> Sampling:
        """These settings where they say something, `base` elsewhere."""
        return base.model_copy(update=self.model_dump(exclude_unset=True, exclude_none=True))

    def body(self) -> dict[str, Any]:
        """The part of a request's JSON body that this stands for."""
        body = {key: value for key, value in self.model_dump(exclude={"extra", "stop"}).items() if value is not None}
        if self.stop:
            body["stop"] = list(self.stop)
        return body | dict(self.extra)


@dataclass(frozen=True, slots=True)
class Request:
    """One completion: `messages` for a chat, or `prompt` for the raw completions endpoint; `schema` asks for JSON.

    A prompt is a text or, for a server that is known to have this tokenizer, its token ids.
    """

    messages: tuple[Message, ...] = ()
    prompt: str | tuple[int, ...] = ""
    sampling: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    seed: int = 0
    schema: Mapping[str, Any] | None = None

    def as_json(self) -> dict[str, Any]:
        """The request as stored in the journal and shown by `explain`."""
        data: dict[str, Any] = {"sampling": dict(self.sampling), "seed": self.seed}
        if self.messages:
            data["messages"] = [{"role": message.role, "content": message.content} for message in self.messages]
        else:
            data["prompt"] = self.prompt
        if self.schema is not None:
            data["schema"] = dict(self.schema)
        return data

    def key(self, identity: str) -> str:
        """The content address of its answer: everything that determined it, `identity` naming model and endpoint."""
        return content_hash(self.as_json(), identity, PARSER_VERSION)


@dataclass(frozen=True, slots=True)
class Response:
    """One answer. `seconds` is from sending to the last byte; `finish_reason` is "stop", "length" or the server's own."""

    text: str
    finish_reason: str = "stop"
    prompt_tokens: int = 0
    completion_tokens: int = 0
    seconds: float = 0.0
    logprobs: Any = None  # of the prompt's tokens where those were asked for, else of the answer's

    @property
    def truncated(self) -> bool:
        return self.finish_reason == "length"
