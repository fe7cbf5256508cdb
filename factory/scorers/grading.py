"""One judge, one answer, one grade: asked in the form that the model likes, read, or an error; never guessed."""

from __future__ import annotations

import functools
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from factory.engine.request import Sampling
from factory.engine.structured import NotJson, answer_json
from factory.errors import RecordError, ScorerError
from factory.generators.base import Context, chat
from factory.records import Message, Record
from factory.scorers.probabilities import expected_grade, grade_probabilities
from factory.scorers.rubric import Rubric, label

CHAT, FEW_SHOT = "judge/chat/rubric.j2", "judge/few_shot/rubric.j2"
CUT_OFF = "cut off at the token limit; raise max_tokens"
REFUSED = "refused to judge"
# How many alternatives to a token are asked for: what the protocol allows, and vLLM's own limit.
_TOP = 20
_STOPS = ("\n=====", "\nRequest:")
_REFUSAL = re.compile(
    r"\W*(?:i(?: am|['’]m) (?:really |very )?sorry|sorry\b|i (?:can(?:not|['’]t)|won['’]t|will not|must decline|am (?:not able|unable))|"
    r"i['’]m (?:not able|unable)|as an ai\b)",
    re.IGNORECASE,
)


@dataclass(frozen=True)
class Grade:
    """What one judge said: a grade for each criterion, why, and where the server tells, how sure it was of their sum."""

    grades: Mapping[str, int]
    says: str
    probabilities: Mapping[int, float] | None = None
    mass: float | None = None

    @property
    def total(self) -> int:
        return sum(self.grades.values())

    @property
    def expected(self) -> float | None:
        return None if self.probabilities is None else expected_grade(self.probabilities)


def refuses(text: str) -> bool:
    """Whether an answer that could not be read begins as a refusal does."""
    return _REFUSAL.match(text) is not None


async def ask_grade(
    rubric: Rubric,
    record: Record,
    context: Context,
    *,
    endpoint: str | None,
    sampling: Sampling,
    logprobs: bool,
    label: str = "judge",
) -> Grade:
    """Raises `ScorerError` where there is no answer to grade or the judge gave none that can be read."""
    if not record.messages or record.messages[-1].role != "assistant":
        raise ScorerError(f"{label}: the record does not end with an answer")
    material = context.templates.render_text(rubric.material, {"meta": record.meta}) if rubric.material else ""
    asked = context.asked(endpoint)
    few_shot = asked.prompt_form == "few_shot"
    if logprobs:
        raw = few_shot or not asked.chat  # the two forms of the protocol ask for them in two ways
        wanted: dict[str, Any] = {"logprobs": _TOP} if raw else {"logprobs": True, "top_logprobs": _TOP}
        sampling = sampling.model_copy(update={"extra": {**asked.sampling.extra, **sampling.extra, **wanted}})
    ask = _continued if few_shot else _answered
    return await ask(rubric, record, context, material, endpoint=endpoint, sampling=sampling, label=label)


async def _answered(
    rubric: Rubric,
    record: Record,
    context: Context,
    material: str,
    *,
    endpoint: str | None,
    sampling: Sampling,
    label: str,
) -> Grade:
    """By JSON, with the server's help where it has a schema mode."""
    conversation = [message.model_dump() for message in record.messages]
    question = context.render(CHAT, conversation=conversation, criteria=rubric.told(), material=material)
    try:
        answer, response = await answer_json(
            context, chat(question), rubric.answer_schema, label=label, sampling=sampling, endpoint=endpoint
        )
    except NotJson as error:
        if refuses(error.text) and not str(error).endswith(CUT_OFF):
            raise ScorerError(f"{label}: {REFUSED}") from error
        raise
    grades = {name: int(answer[name]) for name in rubric.criteria}
    return _sure(rubric, grades, str(answer["reason"]), response.logprobs, _json_places(tuple(rubric.criteria)))


async def _continued(
    rubric: Rubric,
    record: Record,
    context: Context,
    material: str,
    *,
    endpoint: str | None,
    sampling: Sampling,
    label: str,
) -> Grade:
    """By continuing examples: a model without instructions writes a judgement and its grades as they do."""
    prompt = context.render(
        FEW_SHOT,
        criteria=rubric.told(),
        examples=[example.model_dump() for example in rubric.examples],
        request=plain_request(record.messages[:-1]),
        answer=record.messages[-1].content,
        material=material,
    )
    stops = sampling.model_copy(update={"stop": (*sampling.stop, *_STOPS)})
    response = await context.ask(prompt=prompt, label=label, sampling=stops, endpoint=endpoint)
    if response.truncated:
        raise ScorerError(f"{label}: {CUT_OFF}")
    places = _line_places(tuple(rubric.criteria))
    try:
        grades, says = read_lines(response.text, rubric)
    except ScorerError as error:
        raise ScorerError(f"{label}: {REFUSED if refuses(response.text) else error}") from error
    return _sure(rubric, grades, says, response.logprobs, places)


def read_lines(text: str, rubric: Rubric) -> tuple[dict[str, int], str]:
    """(grades, reason) of a judgement in plain lines. Raises `ScorerError` where a grade is missing, twice there, or none of the
    rubric's."""
    grades: dict[str, int] = {}
    first = len(text)
    for name, pattern in _line_places(tuple(rubric.criteria)).items():
        found = list(pattern.finditer(text))
        if len(found) != 1:
            raise ScorerError(f"{'no' if not found else 'more than one'} line '{label(name)}: NUMBER' in the answer")
        grade = int(found[0].group(1))
        if grade not in rubric.criteria[name].grades:
            raise ScorerError(f"{name}: {grade} is no grade of the rubric")
        grades[name], first = grade, min(first, found[0].start())
    return grades, text[:first].strip()


def plain_request(messages: Sequence[Message]) -> str:
    """What was asked, as plain text: one question as it is, more turns with who said them."""
    if len(messages) == 1:
        return messages[0].content
    return "\n\n".join(f"[{message.role}]\n{message.content}" for message in messages)


def _sure(
    rubric: Rubric, grades: dict[str, int], says: str, logprobs: Any, places: Mapping[str, re.Pattern[str]]
) -> Grade:
    allowed = {name: entry.grades for name, entry in rubric.criteria.items()}
    found = grade_probabilities(logprobs, places, grades, allowed) if rubric.one_digit else None
    return Grade(grades, says, *(found or (None, None)))


@functools.lru_cache
def _json_places(names: tuple[str, ...]) -> dict[str, re.Pattern[str]]:
    """Where a grade stands in JSON; the same words quoted in the reason have a backslash before the second quote."""
    return {name: re.compile(rf'"{name}"\s*:\s*(-?\d+)') for name in names}


@functools.lru_cache
def _line_places(names: tuple[str, ...]) -> dict[str, re.Pattern[str]]:
    return {name: re.compile(rf"^{re.escape(label(name))}:[ \t]*(-?\d{{1,9}})[ \t]*$", re.MULTILINE) for name in names}


def about_logprobs(error: RecordError) -> bool:
    """Whether a server refused a request because of the log-probabilities that it asked for."""
    return error.final and "logprob" in str(error).lower()
