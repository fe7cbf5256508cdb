"""Answers as JSON: the server's JSON-schema mode where it has one, else a parser that repairs, checks and asks again."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import orjson

from factory.errors import RecordError
from factory.records import Message

if TYPE_CHECKING:
    from factory.engine.request import Response, Sampling
    from factory.generators.base import Context

_FENCE = re.compile(r"```(?:json)?\s*\n(.*?)(?:```|\Z)", re.DOTALL)
REASKS = 2


class NotJson(RecordError):
    """The answer holds no JSON that fits the schema; `text` is that answer, where there was one."""

    def __init__(self, reason: str, text: str = "") -> None:
        super().__init__(reason)
        self.text = text


def parse_json(text: str, schema: Mapping[str, Any]) -> Any:
    """The JSON in a model's answer: as it is, or out of a code fence or running text, repaired, and checked.

    Raises `NotJson` with what is wrong, in words fit to be sent back to the model.
    """
    import jsonschema

    problem = "there is no JSON in the answer"
    try:
        for value in _readings(text):
            try:
                jsonschema.validate(value, schema)
            except jsonschema.ValidationError as error:
                where = "/".join(str(part) for part in error.absolute_path) or "the answer"
                problem = f"{where}: {error.message[:300]}"
            else:
                return value
    except RecursionError:
        problem = "the JSON is nested too deep"
    raise NotJson(problem)


def _readings(text: str) -> Iterator[Any]:
    """What an answer may mean, the likeliest first: it may say "see [1]" before the object that was asked for."""
    import json_repair

    try:
        yield orjson.loads(text)
        return
    except ValueError:
        pass
    fence = _FENCE.search(text)
    candidate = fence.group(1) if fence else text
    for start in sorted(place for place in (candidate.find("{"), candidate.find("[")) if place >= 0):
        yield json_repair.loads(candidate[start:])


async def ask_json(
    context: Context,
    messages: Sequence[Message],
    schema: Mapping[str, Any],
    *,
    label: str,
    sample: int = 0,
    sampling: Sampling | None = None,
    endpoint: str | None = None,
) -> Any:
    """Ask for JSON that fits `schema` (a JSON schema); at most `REASKS` more times, each telling what was wrong.

    Raises `NotJson` at the end, and at once where the answer was cut off at the token limit.
    """
    value, _ = await answer_json(
        context, messages, schema, label=label, sample=sample, sampling=sampling, endpoint=endpoint
    )
    return value


async def answer_json(
    context: Context,
    messages: Sequence[Message],
    schema: Mapping[str, Any],
    *,
    label: str,
    sample: int = 0,
    sampling: Sampling | None = None,
    endpoint: str | None = None,
) -> tuple[Any, Response]:
    """The same, with the answer that held it."""
    talk = list(messages)
    for attempt in range(REASKS + 1):
        number = sample * (REASKS + 1) + attempt
        response = await context.ask(
            talk, label=label, sample=number, schema=schema, sampling=sampling, endpoint=endpoint
        )
        if response.truncated:  # what a repair would make of it may fit the schema and still not be what was meant
            raise NotJson(f"{label}: cut off at the token limit; raise max_tokens", response.text)
        try:
            return parse_json(response.text, schema), response
        except NotJson as error:
            if attempt == REASKS:
                raise NotJson(f"{label}: {error}", response.text) from error
            complaint = f"That does not fit: {error}. Answer again with the corrected JSON only."
            talk = [*talk, Message(role="assistant", content=response.text), Message(role="user", content=complaint)]
    raise AssertionError("the last attempt returns or raises")
