"""From a recipe's options to the words of a command line."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import orjson

from factory.compose import quoted


def merged(*options: Mapping[str, Any]) -> dict[str, Any]:
    """Options over one another, the last ones on top, mappings merged."""
    whole: dict[str, Any] = {}
    for layer in options:
        for key, value in layer.items():
            both = isinstance(value, Mapping) and isinstance(whole.get(key), Mapping)
            whole[key] = merged(whole[key], value) if both else value
    return whole


def words(use: Mapping[str, str], options: Mapping[str, Any]) -> list[str]:
    """`group=choice` for each choice, then `key.key=value` for each option."""
    return [f"{group}={choice}" for group, choice in use.items()] + list(_flat(options, ""))


def _flat(options: Mapping[str, Any], prefix: str) -> Iterator[str]:
    for key, value in options.items():
        name = f"{prefix}.{key}" if prefix else key
        if isinstance(value, Mapping) and value:
            yield from _flat(value, name)
        else:
            yield f"{name}={spelt(value)}"


def spelt(value: Any) -> str:
    """A value as Hydra's grammar reads it back; texts are quoted, so that none of their signs is taken for grammar."""
    if value is None:
        return "null"
    if isinstance(value, bool | int | float):
        return orjson.dumps(value).decode()
    if isinstance(value, Mapping):
        return "{" + ",".join(f"{_key(key)}:{spelt(inner)}" for key, inner in value.items()) + "}"
    if isinstance(value, list | tuple):
        return "[" + ",".join(map(spelt, value)) + "]"
    return quoted(str(value))


def _key(key: Any) -> str:
    return str(key)
