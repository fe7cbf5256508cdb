"""A rubric: what a judge grades by, as a YAML file in `prompts/judge/` or a mapping of the same form."""

from __future__ import annotations

import functools
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml
from pydantic import Field, ValidationError, field_validator, model_validator

from factory.errors import near
from factory.prompts import search_path
from factory.records import Frozen

_FOLDER = "judge"


class Criterion(Frozen):
    """What is graded, with a whole number from `low` to `high`."""

    text: str
    low: int = 0
    high: int = 1

    @model_validator(mode="after")
    def _ordered(self) -> Criterion:
        if self.low >= self.high:
            raise ValueError(f"low={self.low} must be below high={self.high}")
        return self

    @property
    def grades(self) -> range:
        return range(self.low, self.high + 1)


class GradedExample(Frozen):
    """Shown to a model that continues text rather than follow instructions."""

    request: str
    answer: str
    reason: str
    grades: Mapping[str, int]


class Rubric(Frozen):
    """A record's grade is the sum over the criteria. `material` is a Jinja text over the record's `meta`: what the answer is graded
    against, if anything."""

    criteria: Mapping[str, Criterion] = Field(min_length=1)
    material: str | None = None
    examples: tuple[GradedExample, ...] = ()

    @field_validator("criteria")
    @classmethod
    def _names(cls, value: Mapping[str, Criterion]) -> Mapping[str, Criterion]:
        for name in value:
            if not name.isidentifier() or name != name.lower() or name == "reason":
                raise ValueError(f"a criterion is named {name!r}: use small letters, digits and _, and not reason")
        return value

    @model_validator(mode="after")
    def _examples_fit(self) -> Rubric:
        for example in self.examples:
            fits = example.grades.keys() == self.criteria.keys()
            if not fits or any(grade not in self.criteria[name].grades for name, grade in example.grades.items()):
                raise ValueError(f"the example {example.request[:40]!r} has no grade of this rubric for each criterion")
        return self

    @functools.cached_property
    def answer_schema(self) -> dict[str, Any]:
        """The judge's answer as JSON: the reason first, so that the grades follow from it."""
        grades = {name: {"type": "integer", "enum": list(entry.grades)} for name, entry in self.criteria.items()}
        return {
            "type": "object",
            "properties": {"reason": {"type": "string"}, **grades},
            "required": ["reason", *grades],
            "additionalProperties": False,
        }

    @property
    def low(self) -> int:
        return sum(entry.low for entry in self.criteria.values())

    @property
    def high(self) -> int:
        return sum(entry.high for entry in self.criteria.values())

    @property
    def one_digit(self) -> bool:
        """Whether every grade is one digit, and so one token."""
        return all(entry.low >= 0 and entry.high <= 9 for entry in self.criteria.values())

    def told(self) -> list[dict[str, Any]]:
        """The criteria as templates get them."""
        return [
            {"name": name, "label": label(name), "text": entry.text, "low": entry.low, "high": entry.high}
            for name, entry in self.criteria.items()
        ]


def label(name: str) -> str:
    """A criterion's name as a line of plain text begins: "Instruction following"."""
    return name.replace("_", " ").capitalize()


def rubric_file(name: str) -> str:
    """A rubric's name among the templates."""
    return f"{_FOLDER}/{name}.yaml"


def load_rubric(given: str | Mapping[str, Any]) -> Rubric:
    """A rubric by its name, or as the mapping says. Raises `ValueError` with what is wrong."""
    if isinstance(given, str):
        given = named_rubric(given, Mapping)
    try:
        return Rubric.model_validate(given)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        where = ".".join(map(str, first["loc"]))
        raise ValueError(f"{where}: {first['msg'].removeprefix('Value error, ')}".removeprefix(": ")) from error


def named_rubric(name: str, kind: type) -> Mapping[str, Any]:
    """A file of `prompts/judge/`, the user's before the package's. Raises `ValueError`.

    The `criteria` of rubrics for one answer are a mapping, of those for comparing two a text: `kind` is which are wanted.
    """
    folders = [folder / _FOLDER for folder in search_path("prompts")]
    file = next((folder / f"{name}.yaml" for folder in folders if (folder / f"{name}.yaml").is_file()), None)
    if file is None or Path(name).name != name:
        files = [path for folder in folders for path in folder.glob("*.yaml")]
        there = sorted({path.stem for path in files if isinstance(_read(path).get("criteria"), kind)})
        raise ValueError(f"no such rubric{near(name, there)} (there is {', '.join(there)}; or a mapping)")
    return _read(file)


def _read(file: Path) -> Mapping[str, Any]:
    try:
        data = yaml.safe_load(file.read_text(encoding="utf-8"))
    except (yaml.YAMLError, OSError, UnicodeDecodeError) as error:
        raise ValueError(f"{file} cannot be read: {str(error).splitlines()[0]}") from error
    if not isinstance(data, Mapping):
        raise ValueError(f"{file} holds no mapping")
    return data
