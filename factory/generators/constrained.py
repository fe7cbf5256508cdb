"""Requests with verifiable constraints, in the manner of IFEval (Zhou et al. 2023) and of the constraint data of
Nemotron-4 (section 3.2.1): a plain request, constraints drawn so that they go together, and an answer that code checks.

Three variants: the constraints follow the request; they are set first and hold for every answer of a conversation; or
they come later and ask for a revision.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, ClassVar

from pydantic import Field, field_validator, model_validator

from factory.constraints import KINDS, describe, sample
from factory.engine.request import Response
from factory.errors import RecordError, near
from factory.generators.base import Context, GeneratorSettings, chat
from factory.generators.from_template import TOO_LONG
from factory.generators.requests import DATA, check_columns, follow_ups, own_requests, request_of
from factory.prompts import Templates
from factory.records import Frozen, Message, Record, content_hash
from factory.sources import Item

FOLDER = "instructions_with_constraints"
VARIANTS = ("single", "all_turns", "revision")


class Variants(Frozen):
    """How often each variant is drawn, as weights."""

    single: float = Field(4, ge=0)
    all_turns: float = Field(1, ge=0)
    revision: float = Field(1, ge=0)

    @model_validator(mode="after")
    def _some(self) -> Variants:
        if not any(self.model_dump().values()):
            raise ValueError("needs a weight above 0")
        return self


class ConstrainedSettings(GeneratorSettings):
    """`least` to `most` constraints of the types `kinds`; `answers` to each prompt; `later_turns` of `all_turns`."""

    least: int = Field(1, ge=1)
    most: int = Field(3, ge=1)
    kinds: tuple[str, ...] | None = None
    variants: Variants = Variants()
    answers: int = Field(1, ge=1)
    later_turns: int = Field(1, ge=1)

    @field_validator("kinds")
    @classmethod
    def _known(cls, value: tuple[str, ...] | None) -> tuple[str, ...] | None:
        for name in value or ():
            if name not in KINDS:
                raise ValueError(f"no constraint is named {name!r}{near(name, KINDS)}; docs/constraints.md lists them")
        return value

    @model_validator(mode="after")
    def _ordered(self) -> ConstrainedSettings:
        if self.least > self.most:
            raise ValueError(f"task.least={self.least} must not be above task.most={self.most}")
        return self


class Constrained:
    """One seed gives `answers` records of one prompt; `meta.group` says which belong together."""

    Settings: ClassVar[type[GeneratorSettings]] = ConstrainedSettings
    uses_sandbox = False
    carries_columns = False

    def __init__(self, settings: ConstrainedSettings, templates: Templates, prompt_form: str) -> None:
        self.settings, self._templates = settings, templates
        self.templates: Sequence[str] = (DATA, *(f"{FOLDER}/{name}.j2" for name in VARIANTS))

    def check(self, columns: set[str] | None) -> list[str]:
        prompts = [problem for name in self.templates if name != DATA for problem in self._templates.check(name)]
        most = len(follow_ups(self._templates))
        if self.settings.later_turns > most:
            prompts.append(f"task.later_turns={self.settings.later_turns}: prompts/{DATA} has {most} follow_up")
        return prompts + check_columns(self.settings.name, columns)

    def seeds(self, seed: int) -> Iterator[Mapping[str, Any]]:
        return own_requests(self._templates, seed)

    def fingerprint(self, record: Record) -> str | None:
        return content_hash([message.model_dump() for message in record.messages])

    async def generate(self, item: Item, context: Context) -> Sequence[Record]:
        settings, rng, request = self.settings, context.rng, request_of(item.row)
        count = rng.randint(settings.least, settings.most)
        weights = settings.variants
        variant = rng.choices(VARIANTS, (weights.single, weights.all_turns, weights.revision))[0]
        # A rule given before a request cannot ask to repeat it, nor can a revision.
        without = () if variant == "single" else ("combination:repeat_prompt",)
        later = rng.sample(follow_ups(self._templates), settings.later_turns) if variant == "all_turns" else []
        asked = " ".join([request, *later])
        constraints = sample(rng, count, request=asked, kinds=settings.kinds, without=without)
        if not constraints:
            raise RecordError("constraints: none of the types fits the request")
        told = [describe(constraint, rng) for constraint in constraints]
        listed = rng.random() < 0.5
        meta = {
            "request": request,
            "variant": variant,
            "scope": "all" if variant == "all_turns" else "last",
            "constraints": [constraint.model_dump(mode="json") for constraint in constraints],
            "wordings": told,
            "group": content_hash(item.digest, request, told, variant),
            "seed": dict(item.row),
        }
        if variant == "single":
            turns = [context.render(f"{FOLDER}/single.j2", request=request, constraints=told, listed=listed)]
        elif variant == "all_turns":
            turns = [context.render(f"{FOLDER}/all_turns.j2", request=request, constraints=told), *later]
        else:
            turns = [request, context.render(f"{FOLDER}/revision.j2", constraints=told)]
        return [await self._talk(turns, meta, number, context) for number in range(settings.answers)]

    async def _talk(self, turns: Sequence[str], meta: Mapping[str, Any], number: int, context: Context) -> Record:
        """One conversation over the user's turns. What is asked last has the samples; what comes before is shared."""
        talk: tuple[Message, ...] = ()
        for place, turn in enumerate(turns):
            talk = (*talk, *chat(turn))
            last = place + 1 == len(turns)
            answer = await context.ask(talk, label=f"turn {place + 1}", sample=number if last else 0)
            talk = (*talk, *chat(("assistant", answer.text)))
            if reason := _unusable(answer):
                return context.record(talk, {**meta, "sample": number}, sample=number, reason=reason)
        return context.record(talk, {**meta, "sample": number}, sample=number)


def _unusable(answer: Response) -> str:
    return TOO_LONG if answer.truncated else "" if answer.text.strip() else "answer: empty"
