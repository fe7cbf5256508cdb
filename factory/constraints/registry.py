"""Constraints as data: a type's name and its arguments, the form that records and data sets hold."""

from __future__ import annotations

import functools
import random
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from pydantic import Field, ValidationError, model_validator

from factory.constraints import edges, keywords, layout, length
from factory.constraints.base import Kind
from factory.errors import near
from factory.records import Frozen

KINDS: Mapping[str, type[Kind]] = {
    kind.name: kind
    for kind in (
        keywords.Existence, keywords.Frequency, keywords.Forbidden, keywords.Letters,
        length.WordCount, length.WordRange, length.SentenceCount, length.SentenceLength, length.StarParagraphs,
        length.Paragraphs, length.ParagraphFirstWord,
        layout.Bullets, layout.NumberedList, layout.Highlights, layout.Sections, layout.Title, layout.Table,
        layout.Placeholders, layout.Json, layout.JsonKeys, layout.SetAnswer, layout.TwoResponses,
        edges.Start, edges.End, edges.Quoted, edges.QuestionEnd, edges.RepeatPrompt, edges.Postscript,
        edges.Upper, edges.Lower, edges.CapitalWords, edges.NoComma, edges.NoDigits, edges.Exclamations, edges.Language,
    )
}  # fmt: skip


class Constraint(Frozen):
    """A constraint: the name of its type and the arguments. Raises `ValueError` where there is no such type, or where the
    arguments do not fit it; arguments of null count as not given, as in published data."""

    id: str
    kwargs: Mapping[str, Any] = Field(default_factory=dict)

    @model_validator(mode="after")
    def _fits(self) -> Constraint:
        _ = self.kind
        return self

    @functools.cached_property
    def kind(self) -> Kind:
        found = KINDS.get(self.id)
        if found is None:
            raise ValueError(f"no constraint is named {self.id!r}{near(self.id, KINDS)}")
        try:
            return found.model_validate({name: value for name, value in self.kwargs.items() if value is not None})
        except ValidationError as error:
            first = error.errors()[0]
            where = ".".join(str(part) for part in first["loc"]) or "arguments"
            raise ValueError(f"{self.id}: {where}: {first['msg'].removeprefix('Value error, ')}") from error

    @classmethod
    def of(cls, kind: Kind) -> Constraint:
        return cls(id=kind.name, kwargs=kind.model_dump(mode="json"))


class Verdict(Frozen):
    """Whether a text keeps a constraint, and why not."""

    id: str
    kept: bool
    why: str = ""


Constraints = Sequence[Constraint | Mapping[str, Any]]


def parse(constraints: Constraints) -> list[Constraint]:
    """Constraints out of plain data. Raises `ValueError`."""
    return [item if isinstance(item, Constraint) else Constraint.model_validate(item) for item in constraints]


def check(text: str, constraints: Constraints, *, loose: bool = False) -> list[Verdict]:
    """One verdict for each constraint, in order. An empty text keeps none.

    With `loose`, a constraint is kept if the text keeps it as it is, without its first line, its last, or both, or
    without asterisks: IFEval's second measure, which forgives an introduction (Zhou et al. 2023, section 2.2).
    """
    return [_verdict(text, item, loose) for item in parse(constraints)]


def _verdict(text: str, constraint: Constraint, loose: bool) -> Verdict:
    why = ""
    for number, reading in enumerate(_readings(text) if loose else (text,)):
        broken = constraint.kind.broken(reading) if reading.strip() else "empty"
        if not broken:
            return Verdict(id=constraint.id, kept=True)
        why = why if number else broken
    return Verdict(id=constraint.id, kept=False, why=why)


def _readings(text: str) -> Iterator[str]:
    lines = text.split("\n")
    for part in (text, "\n".join(lines[1:]), "\n".join(lines[:-1]), "\n".join(lines[1:-1])):
        yield part.strip() if part is not text else part
        yield re.sub(r"\*", "", part).strip()


def describe(constraint: Constraint | Mapping[str, Any], rng: random.Random | None = None) -> str:
    """A sentence that asks for it: the first wording, or with `rng` any of them."""
    (found,) = parse([constraint])
    wordings = found.kind.wordings()
    return rng.choice(wordings) if rng else wordings[0]
