"""`score`: data that is there already, for scorers alone; no model is asked to generate.

A row is a conversation (`messages`), a `prompt` with its `response` or its `responses` (one group), or a preference pair
(`prompt`, `chosen`, `rejected`: one group, `meta.preferred` says which is which). A prompt is a text or a list of turns; so is
an answer, which may repeat the prompt's turns, as TRL's pairs without a `prompt` do.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

from pydantic import TypeAdapter, ValidationError

from factory.errors import RecordError
from factory.generators.base import Context, GeneratorSettings, chat
from factory.prompts import Templates
from factory.records import Message, Record, content_hash
from factory.sources import Item

Turns = tuple[Message, ...]
_TURNS = TypeAdapter(Turns)
_FORMS = ({"messages"}, {"prompt", "response"}, {"prompt", "responses"}, {"chosen", "rejected"})
# Columns that the conversation holds; all others are carried.
_TAKEN = frozenset({"messages", "prompt", "response", "responses", "chosen", "rejected"})


class Score:
    """One record for each answer, under an id that no model is part of. Every other column is carried into `meta`."""

    Settings: ClassVar[type[GeneratorSettings]] = GeneratorSettings
    uses_sandbox = False
    carries_columns = True
    templates: Sequence[str] = ()

    def __init__(self, settings: GeneratorSettings, templates: Templates, prompt_form: str) -> None:
        self.settings = settings

    def check(self, columns: set[str] | None) -> list[str]:
        if columns is None or any(form <= columns for form in _FORMS):
            return []
        there = ", ".join(sorted(columns))
        return [
            f"source: a row to be scored has messages, prompt and response, prompt and responses, or prompt, chosen and "
            f"rejected (there is {there})"
        ]

    def fingerprint(self, record: Record) -> str | None:
        return None

    async def generate(self, item: Item, context: Context) -> Sequence[Record]:
        row = item.row
        rest = {name: value for name, value in row.items() if name not in _TAKEN}
        if row.get("messages") is not None:
            return [self._record(_turns(row["messages"], "messages"), rest, item, 0, context)]
        if row.get("response") is not None:
            return [self._record(_whole(row, row["response"], "response"), rest, item, 0, context)]
        answers, marks = _answers(row)
        group = content_hash([turn.model_dump() for turn in answers[0][:-1]])
        return [
            self._record(answer, {**rest, "group": group, **mark}, item, number, context)
            for number, (answer, mark) in enumerate(zip(answers, marks, strict=True))
        ]

    def _record(self, messages: Turns, meta: Mapping[str, Any], item: Item, number: int, context: Context) -> Record:
        lost = "" if messages[-1].role == "assistant" else "source: the conversation does not end with an answer"
        record = context.record(messages, meta, sample=number, reason=lost)
        turns = [turn.model_dump() for turn in messages]
        identity = content_hash(self.settings.name, turns, item.digest, item.index, number)
        return record.model_copy(update={"id": identity})


def _answers(row: Mapping[str, Any]) -> tuple[list[Turns], list[dict[str, Any]]]:
    """The whole conversations of a row with several answers, and what tells them apart. Raises `RecordError`."""
    if row.get("chosen") is not None and row.get("rejected") is not None:
        answers = [_whole(row, row[name], name) for name in ("chosen", "rejected")]
        return answers, [{"preferred": True}, {"preferred": False}]
    responses = row.get("responses")
    if not isinstance(responses, list) or not responses:
        raise RecordError("source: the row has no messages, response, list of responses, or chosen and rejected")
    answers = [_whole(row, response, "responses") for response in responses]
    return answers, [{"sample": number} for number in range(len(answers))]


def _whole(row: Mapping[str, Any], answer: Any, column: str) -> Turns:
    """The conversation that this answer ends."""
    prompt = row.get("prompt")
    asked: Turns = ()
    if prompt is not None:
        asked = chat(prompt) if isinstance(prompt, str) else _turns(prompt, "prompt")
    if isinstance(answer, str):
        if not asked:
            raise RecordError(f"source: the row has no prompt, and {column} is no list of role and content")
        return (*asked, Message(role="assistant", content=answer))
    turns = _turns(answer, column)
    if turns[: len(asked)] == asked:
        return turns  # it repeats the prompt
    return (*asked, *turns)


def _turns(value: Any, column: str) -> Turns:
    try:
        turns = _TURNS.validate_python(value)
    except ValidationError as error:
        raise RecordError(f"source: {column} is no list of role and content") from error
    if not turns:
        raise RecordError(f"source: {column} is empty")
    return turns
