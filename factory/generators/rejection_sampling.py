"""Rejection sampling: K answers to each prompt, of which scores and rules keep the good ones (Llama 3.1, section 4.2.2:
K is 10 to 30, and the best by a reward model is taken).

A prompt is a row's `instruction`, or its `messages`, a conversation that ends with the user. In later rounds system prompts
steer the style of the answers and are dropped from the training text: `systems` are drawn from, one for each answer.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, ClassVar

from pydantic import Field, TypeAdapter, ValidationError

from factory.errors import RecordError
from factory.generators.base import Context, GeneratorSettings, chat
from factory.generators.from_template import TOO_LONG
from factory.generators.requests import DATA, check_columns, own_requests, request_of
from factory.generators.together import together
from factory.prompts import Templates
from factory.records import Message, Record, content_hash
from factory.sources import Item

_TURNS = TypeAdapter(tuple[Message, ...])


class RejectionSettings(GeneratorSettings):
    """`answers` to each prompt; of `systems` each answer draws one, which its record does not show."""

    answers: int = Field(10, ge=1)
    systems: tuple[str, ...] = ()


class RejectionSampling:
    """One seed gives `answers` records that share `meta.group`, for best-of-n and pairs in export."""

    Settings: ClassVar[type[GeneratorSettings]] = RejectionSettings
    uses_sandbox = False
    carries_columns = False

    def __init__(self, settings: RejectionSettings, templates: Templates, prompt_form: str) -> None:
        self.settings, self._templates = settings, templates
        self.templates: Sequence[str] = (DATA,)

    def check(self, columns: set[str] | None) -> list[str]:
        return check_columns(self.settings.name, columns, "messages")

    def seeds(self, seed: int) -> Iterator[Mapping[str, Any]]:
        return own_requests(self._templates, seed)

    def fingerprint(self, record: Record) -> str | None:
        """The same answer to the same prompt counts once."""
        return content_hash(record.meta["group"], record.messages[-1].content)

    async def generate(self, item: Item, context: Context) -> Sequence[Record]:
        prompt = _prompt(item.row)
        systems = [context.rng.choice(self.settings.systems or ("",)) for _ in range(self.settings.answers)]
        meta = {"group": content_hash([turn.model_dump() for turn in prompt]), "seed": dict(item.row)}
        asked = (self._answer(prompt, meta, systems[number], number, context) for number in range(len(systems)))
        return await together(asked)

    async def _answer(
        self, prompt: tuple[Message, ...], meta: Mapping[str, Any], system: str, number: int, context: Context
    ) -> Record:
        return await sampled((*chat(system=system), *prompt), prompt, {**meta, "system": system}, number, context)


async def sampled(
    asked: Sequence[Message], prompt: tuple[Message, ...], meta: Mapping[str, Any], number: int, context: Context
) -> Record:
    """Answer `number` to what is `asked`, as a record that shows `prompt`; what was cut off or empty is lost, with its reason.

    Raises where the engine failed: the whole seed is tried again then, what was answered comes from the journal.
    """
    meta = {**meta, "sample": number}
    try:
        answer = await context.ask(asked, label="answer", sample=number)
    except RecordError as error:
        if not error.final:
            raise
        return context.record(prompt, meta, sample=number, reason=str(error))
    reason = TOO_LONG if answer.truncated else "" if answer.text.strip() else "answer: empty"
    return context.record((*prompt, *chat(("assistant", answer.text))), meta, sample=number, reason=reason)


def _prompt(row: Mapping[str, Any]) -> tuple[Message, ...]:
    """Raises `RecordError` where the row holds no conversation that waits for an answer."""
    if row.get("messages") is None:
        return chat(request_of(row))
    try:
        turns = _TURNS.validate_python(row["messages"])
    except ValidationError as error:
        raise RecordError("source: messages is no list of role and content") from error
    if turns and turns[-1].role == "assistant":
        turns = turns[:-1]  # a finished conversation: its last answer is asked for anew
    if not turns or turns[-1].role != "user":
        raise RecordError("source: messages holds no turn of the user to answer")
    return turns
