"""Two answers to one request, shown to a judge in one order: which one it likes better, and why.

Ask in both orders: a judge that follows the place rather than the answers is told by that (Zheng et al. 2023, section 3.4).
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, cast

from pydantic import ValidationError, field_validator

from factory.engine.request import Sampling
from factory.engine.structured import NotJson, ask_json
from factory.errors import ScorerError
from factory.generators.base import Context, chat
from factory.records import Frozen
from factory.scorers.grading import CUT_OFF, REFUSED, refuses
from factory.scorers.rubric import named_rubric

Better = Literal["first", "second", "tie"]
CHAT, FEW_SHOT = "judge/chat/pairwise.j2", "judge/few_shot/pairwise.j2"
SCHEMA = {
    "type": "object",
    "properties": {"reason": {"type": "string"}, "better": {"type": "string", "enum": ["first", "second", "tie"]}},
    "required": ["reason", "better"],
    "additionalProperties": False,
}
_STOPS = ("\n=====", "\nRequest:")
_BETTER = re.compile(r"^Better:[ \t]*(first|second|tie)\b[ \t.]*$", re.MULTILINE | re.IGNORECASE)


class ComparedExample(Frozen):
    """Shown to a model that continues text rather than follow instructions."""

    question: str
    first: str
    second: str
    reason: str
    better: Better


class PairRubric(Frozen):
    """What decides between two answers."""

    criteria: str
    examples: tuple[ComparedExample, ...] = ()

    @field_validator("criteria")
    @classmethod
    def _some(cls, value: str) -> str:
        if not value.strip():
            raise ValueError("says nothing")
        return value


def load_pair_rubric(given: str | Mapping[str, Any]) -> PairRubric:
    """By its name in `prompts/judge/`, or as the mapping says. Raises `ValueError` with what is wrong."""
    try:
        return PairRubric.model_validate(named_rubric(given, str) if isinstance(given, str) else given)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        where = ".".join(map(str, first["loc"]))
        raise ValueError(f"{where}: {first['msg'].removeprefix('Value error, ')}") from error


@dataclass(frozen=True)
class Verdict:
    """What one judge said of two answers in one order."""

    better: Better
    reason: str


async def compare(
    context: Context,
    question: str,
    first: str,
    second: str,
    *,
    criteria: str,
    template: str = CHAT,
    examples: Sequence[ComparedExample] | None = None,
    label: str = "judge",
    sampling: Sampling | None = None,
    endpoint: str | None = None,
) -> Verdict:
    """Raises `RecordError` where the judge says nothing that can be read.

    With `examples` a model whose `prompt_form` is few_shot is shown these to continue; without, everybody is asked by `template`.
    """
    given = {"question": question, "first": first, "second": second, "criteria": criteria}
    if examples is not None and context.asked(endpoint).prompt_form == "few_shot":
        shown = [example.model_dump() for example in examples]
        return await _continued(context, context.render(FEW_SHOT, **given, examples=shown), label, sampling, endpoint)
    talk = chat(context.render(template, **given))
    try:
        answer = await ask_json(context, talk, SCHEMA, label=label, sampling=sampling, endpoint=endpoint)
    except NotJson as error:
        if refuses(error.text) and not str(error).endswith(CUT_OFF):
            raise ScorerError(f"{label}: {REFUSED}") from error
        raise
    return Verdict(answer["better"], str(answer["reason"]))


async def _continued(
    context: Context, prompt: str, label: str, sampling: Sampling | None, endpoint: str | None
) -> Verdict:
    base = sampling or Sampling()
    stops = base.model_copy(update={"stop": (*base.stop, *_STOPS)})
    response = await context.ask(prompt=prompt, label=label, sampling=stops, endpoint=endpoint)
    if response.truncated:
        raise ScorerError(f"{label}: {CUT_OFF}")
    try:
        return read_verdict(response.text)
    except ScorerError as error:
        raise ScorerError(f"{label}: {REFUSED if refuses(response.text) else error}") from error


def read_verdict(text: str) -> Verdict:
    """A judgement in plain lines. Raises `ScorerError` where it does not say which one is better, or says it twice."""
    found = list(_BETTER.finditer(text))
    if len(found) != 1:
        raise ScorerError(f"{'no' if not found else 'more than one'} line 'Better: first, second or tie' in the answer")
    return Verdict(cast(Better, found[0].group(1).lower()), text[: found[0].start()].strip())


def worth(said: Sequence[str]) -> float:
    """What `said`, of (this, other) and of (other, this), is worth to this one: 1 won in both orders, 0 lost in both, else 0.5."""
    return {("first", "second"): 1.0, ("second", "first"): 0.0}.get((said[0], said[1]), 0.5)
