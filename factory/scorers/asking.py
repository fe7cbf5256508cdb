"""What the scorers that ask a model about an instruction have in common."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pydantic import Field

from factory.engine.request import Sampling
from factory.engine.structured import NotJson, parse_json
from factory.errors import ScorerError
from factory.generators.base import Context, chat
from factory.records import Frozen, Record

FORMS = ("chat", "few_shot")
_CUT = "\n[...]\n"


class AskingSettings(Frozen):
    """`endpoint` names who is asked (null: the run's own model). Of a longer instruction `max_chars` are shown: its beginning
    and its end."""

    endpoint: str | None = None
    max_chars: int = Field(6000, ge=100)
    sampling: Sampling = Sampling(temperature=0.0, max_tokens=400)


def instruction_of(record: Record, max_chars: int) -> str:
    """What the user asks for, all turns of it. Raises `ScorerError` where nobody asks."""
    text = "\n\n".join(message.content.strip() for message in record.messages if message.role == "user").strip()
    if not text:
        raise ScorerError("the record holds no instruction")
    if len(text) <= max_chars:
        return text
    half = (max_chars - len(_CUT)) // 2
    return f"{text[:half]}{_CUT}{text[-half:]}"


async def ask_about(
    context: Context, name: str, variables: Mapping[str, Any], schema: Mapping[str, Any], settings: AskingSettings
) -> Any:
    """JSON that fits the schema, by a template in the form that the model asked is used to: `FOLDER/chat/STEP.j2` or
    `FOLDER/few_shot/STEP.j2` for `name` FOLDER/STEP. Raises `RecordError` where the answer cannot be read."""
    folder, step = name.split("/")
    form = context.asked(settings.endpoint).prompt_form
    question = context.render(f"{folder}/{form}/{step}.j2", **variables)
    if form == "chat":
        return await context.ask_json(
            chat(question), schema, label=folder, sampling=settings.sampling, endpoint=settings.endpoint
        )
    # A model that continues examples is not told what was wrong: it would take that for another example.
    answer = await context.ask(
        prompt=question, schema=schema, label=folder, sampling=settings.sampling, endpoint=settings.endpoint
    )
    if answer.truncated:
        raise NotJson(f"{folder}: cut off at the token limit; raise max_tokens")
    try:
        return parse_json(answer.text, schema)
    except NotJson as error:
        raise NotJson(f"{folder}: {error}") from error


def templates_of(name: str) -> tuple[str, ...]:
    folder, step = name.split("/")
    return tuple(f"{folder}/{form}/{step}.j2" for form in FORMS)


def object_schema(**properties: Mapping[str, Any]) -> dict[str, Any]:
    """The JSON schema of an object with just these, in this order."""
    return {
        "type": "object",
        "properties": dict(properties),
        "required": list(properties),
        "additionalProperties": False,
    }
