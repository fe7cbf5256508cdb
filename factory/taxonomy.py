"""Topics in two levels with examples, from a YAML file among the prompts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import orjson
from pydantic import Field, TypeAdapter, ValidationError

from factory.errors import ConfigError
from factory.generators.few_shot import load_data
from factory.prompts import Templates
from factory.records import Frozen

Taxonomy = Mapping[str, Mapping[str, tuple[str, ...]]]  # coarse -> fine -> examples


class Example(Frozen):
    """One instruction whose topic is known."""

    text: str = Field(min_length=1)
    coarse: str
    fine: str


_TAXONOMY = TypeAdapter(dict[str, dict[str, tuple[str, ...]]])
_EXAMPLES = TypeAdapter(list[Example])


def load_taxonomy(templates: Templates, name: str) -> Taxonomy:
    """Raises `ConfigError` where the file is missing, of another form, or has a topic without an example."""
    try:
        found = _TAXONOMY.validate_python(load_data(templates, name))
    except ValidationError as error:
        raise ConfigError(
            f"prompts/{name}: should be coarse topic -> fine topic -> list of examples; {_first(error)}"
        ) from error
    if len(found) < 2:
        raise ConfigError(f"prompts/{name}: holds {len(found)} coarse topics; there must be two at least")
    empty = [
        f"{coarse}/{fine}" for coarse, topics in found.items() for fine, few in (topics or {"": ()}).items() if not few
    ]
    if empty:
        raise ConfigError(f"prompts/{name}: no example for {', '.join(empty[:5])}")
    return found


def load_examples(templates: Templates, name: str | None, taxonomy: Taxonomy) -> Sequence[Example]:
    """The rows of a YAML or JSONL file, or the taxonomy's own examples. Raises `ConfigError` for a topic that it lacks."""
    if name is None:
        return [
            Example(text=text, coarse=coarse, fine=fine)
            for coarse, topics in taxonomy.items()
            for fine, texts in topics.items()
            for text in texts
        ]
    try:
        rows = _EXAMPLES.validate_python(
            _jsonl(templates, name) if name.endswith(".jsonl") else load_data(templates, name)
        )
    except ValidationError as error:
        raise ConfigError(f"prompts/{name}: should be rows of text, coarse and fine; {_first(error)}") from error
    for row in rows:
        if row.fine not in taxonomy.get(row.coarse, {}):
            raise ConfigError(
                f"prompts/{name}: {row.coarse}/{row.fine} is no topic of the taxonomy (for {row.text[:40]!r})"
            )
    if len({(row.coarse, row.fine) for row in rows}) < 2:
        raise ConfigError(f"prompts/{name}: holds examples of fewer than two topics")
    return rows


def _jsonl(templates: Templates, name: str) -> list[Any]:
    for folder in templates.folders:
        path = Path(folder, name)
        if path.exists():
            try:
                return [orjson.loads(line) for line in path.read_bytes().splitlines() if line.strip()]
            except ValueError as error:
                raise ConfigError(f"{path}: is not JSONL: {error}") from error
    raise ConfigError(f"prompts/{name} was not found in {' or '.join(map(str, templates.folders))}")


def _first(error: ValidationError) -> str:
    problem = error.errors()[0]
    return f"{'/'.join(map(str, problem['loc'])) or 'the file'}: {problem['msg']}"
