"""Taking a model's answer apart: tagged blocks, JSON, a regular expression, fenced code."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, Literal

from pydantic import Field, field_validator, model_validator

from factory.engine.structured import NotJson, parse_json
from factory.errors import RecordError
from factory.records import Frozen

_FENCE = re.compile(r"^[ \t]*```[ \t]*([\w+#.-]*)[^\n]*\n(.*?)(?:^[ \t]*```|\Z)", re.DOTALL | re.MULTILINE)


class ParseSettings(Frozen):
    """How an answer is read. `blocks`: <name>...</name> for each of `names`; `json`: fits `schema`; `regex`: its named groups."""

    kind: Literal["text", "blocks", "json", "regex"] = "text"
    names: tuple[str, ...] = ()
    json_schema: Mapping[str, Any] | None = Field(None, alias="schema")
    pattern: str | None = None

    @model_validator(mode="after")
    def _complete(self) -> ParseSettings:
        if self.kind == "blocks" and not self.names:
            raise ValueError("kind=blocks needs names, the tags to look for")
        if self.kind == "json" and self.json_schema is None:
            raise ValueError("kind=json needs schema, a JSON schema")
        if self.kind == "regex" and self.pattern is None:
            raise ValueError("kind=regex needs pattern, a regular expression with named groups")
        return self

    @field_validator("pattern")
    @classmethod
    def _compiles(cls, value: str | None) -> str | None:
        if value is not None:
            _compiled(value)
        return value

    @field_validator("json_schema")
    @classmethod
    def _is_schema(cls, value: Mapping[str, Any] | None) -> Mapping[str, Any] | None:
        import jsonschema

        try:
            schema = dict(value or {})
            jsonschema.validators.validator_for(schema).check_schema(schema)
        except jsonschema.SchemaError as error:
            raise ValueError(f"is no JSON schema: {error.message}") from error
        return value


def _compiled(pattern: str) -> re.Pattern[str]:
    try:
        compiled = re.compile(pattern, re.DOTALL | re.MULTILINE)
    except re.error as error:
        raise ValueError(f"is no regular expression: {error}") from error
    if not compiled.groupindex:
        raise ValueError("has no named group; write (?P<answer>...) around what to keep")
    return compiled


def parse_answer(text: str, settings: ParseSettings) -> dict[str, Any]:
    """The named parts of an answer (`text` always among them). Raises `RecordError` with what was not found."""
    parts: dict[str, Any] = {"text": text}
    if settings.kind == "blocks":
        for name in settings.names:
            found = re.search(rf"<{re.escape(name)}>(.*?)</{re.escape(name)}>", text, re.DOTALL)
            if not found:
                raise RecordError(f"parse: no <{name}> block")
            parts[name] = found.group(1).strip()
    elif settings.kind == "json":
        try:
            value = parse_json(text, settings.json_schema or {})
        except NotJson as error:
            raise RecordError(f"parse: {error}") from error
        parts |= value if isinstance(value, dict) else {"value": value}
    elif settings.kind == "regex":
        found = _compiled(settings.pattern or "").search(text)
        if not found:
            raise RecordError("parse: the pattern does not match")
        parts |= found.groupdict()
    return parts


def fenced_code(text: str, languages: tuple[str, ...] = ()) -> str | None:
    """The first fenced block in one of the languages, else the first one that names none, else None."""
    blocks = [(match.group(1).lower(), match.group(2).strip("\n")) for match in _FENCE.finditer(text)]
    for name, code in blocks:
        if name in languages:
            return code
    return next((code for name, code in blocks if not name or not languages), None)
