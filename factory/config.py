"""From composed data to checked settings: pydantic's part, with every problem told at once."""

from __future__ import annotations

import copy
import importlib
import os
import sys
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, TypeVar, get_args

from pydantic import BaseModel, ValidationError

from factory.errors import ConfigError, near
from factory.prompts import search_path

Model = TypeVar("Model", bound=BaseModel)
# How pydantic's findings are told, by their type; what is not here is told in its own words.
_SAYINGS = {
    "int_parsing": "should be a whole number",
    "int_type": "should be a whole number",
    "int_from_float": "should be a whole number",
    "float_parsing": "should be a number",
    "float_type": "should be a number",
    "bool_parsing": "should be true or false",
    "bool_type": "should be true or false",
    "string_type": "should be a text; put it in quotes inside quotes, as 'KEY=\"1\"'",
    "tuple_type": "should be a list, as [a, b]",
    "mapping_type": "should hold keys of its own, as {key}.KEY=VALUE",
    "dict_type": "should hold keys of its own, as {key}.KEY=VALUE",
    "model_type": "should hold keys of its own, as {key}.KEY=VALUE",
    "greater_than": "should be more than {gt:g}",
    "greater_than_equal": "should be {ge:g} or more",
    "less_than": "should be less than {lt:g}",
    "less_than_equal": "should be {le:g} or less",
    "literal_error": "should be {expected}",
    "union_tag_invalid": "its kind, {tag}, should be one of {expected_tags}",
}


def options(group: str) -> list[str]:
    """The names in a group of `conf/`: the user's and the package's."""
    found = {file.stem for folder in search_path("conf") for file in (folder / group).glob("*.yaml")}
    return sorted(found)


def validated(
    model: type[Model],
    data: Mapping[str, Any],
    where: str,
    problems: list[str],
    instead: Mapping[str, Any] | None = None,
) -> Model | None:
    """`data` as a `model`, its problems told: key, wrong value, allowed ones, nearest spelling.

    What is wrong is left out (`instead` has values for top-level keys), so that the checks that follow can find what
    else is wrong; None where that cannot be done.
    """
    try:
        return model.model_validate(data)
    except ValidationError as error:
        errors = error.errors(include_url=False)
    told: dict[str, list[str]] = {}
    for problem in errors:
        key, saying = _problem(problem, where, model, data)
        told.setdefault(key, []).append(saying)
    # The branches of a union each say what they want.
    problems += [f"{key}: {' or '.join(dict.fromkeys(sayings))}" for key, sayings in told.items()]
    rest = copy.deepcopy(dict(data))
    for problem in errors:
        _leave_out(rest, _path(problem, data), instead or {})
    try:
        return model.model_validate(rest)
    except ValidationError:
        return None


def _problem(problem: Mapping[str, Any], where: str, root: type[BaseModel], data: Any) -> tuple[str, str]:
    """(key and wrong value, what is wrong with it)."""
    path = _path(problem, data)
    key = ".".join(part for part in (where, *path) if part)
    if problem["type"] == "extra_forbidden":
        known = sorted(field.alias or name for name, field in _owner(root, path, data).model_fields.items())
        there = ", ".join(known)
        return key, f"unknown key{near(path[-1], known) or f' (there is {there})'}"
    if problem["type"] == "missing":
        return key, "must be given"
    saying = _SAYINGS.get(problem["type"])
    message = (
        saying.format(key=key, **problem.get("ctx", {})) if saying else problem["msg"].removeprefix("Value error, ")
    )
    # A check of several keys together says itself which they are; a key in the wrong place is not shown to everybody.
    quiet = isinstance(problem["input"], Mapping) or key.endswith("api_key_env")
    return key if quiet else f"{key}={_shown(problem['input'])}", message


def _path(problem: Mapping[str, Any], data: Any) -> list[str]:
    """The keys of a finding's location, without the marks that pydantic puts in for branches of a union."""
    path: list[str] = []
    for part in problem["loc"]:
        if (isinstance(data, Mapping) and part in data) or (isinstance(data, list | tuple) and isinstance(part, int)):
            path.append(str(part))
            data = data[part]
    return [*path, str(problem["loc"][-1])] if problem["type"] == "missing" else path


def _leave_out(data: dict[str, Any], path: Sequence[str], instead: Mapping[str, Any]) -> None:
    for place, part in enumerate(path):
        inner = data.get(part)
        if place + 1 == len(path) or not isinstance(inner, dict):
            data.pop(part, None)
            if place == 0 and part in instead:
                data[part] = instead[part]
            return
        data = inner


def _owner(root: type[BaseModel], path: Sequence[str], data: Any) -> type[BaseModel]:
    """The model that holds the last part of `path`; of a union's, the one that fits what is there best."""
    for part in path[:-1]:
        data = data.get(part) if isinstance(data, Mapping) else None
        if part in root.model_fields:
            candidates = list(_models(root.model_fields[part].annotation)) or [root]
            root = max(candidates, key=lambda model: _fit(model, data))
    return root


def _models(annotation: Any) -> Iterator[type[BaseModel]]:
    if isinstance(annotation, type) and not get_args(annotation) and issubclass(annotation, BaseModel):
        yield annotation
    for part in get_args(annotation):
        yield from _models(part)


def _fit(model: type[BaseModel], data: Any) -> tuple[bool, int]:
    """Whether the kind is this model's, and how many keys are."""
    if not isinstance(data, Mapping):
        return False, 0
    kinds = get_args(model.model_fields["kind"].annotation) if "kind" in model.model_fields else ()
    return data.get("kind") in kinds, len(data.keys() & model.model_fields.keys())


def _shown(value: Any) -> str:
    text = "null" if value is None else str(value)
    return text if len(text) < 80 else text[:77] + "..."


def imported(name: str, where: str, problems: list[str]) -> Any:
    """The class or function with this dotted name; None, with the problem told, where there is none."""
    module, _, attribute = name.rpartition(".")
    if not module:
        problems.append(f"{where}={name}: must be a dotted name, as package.module.Class")
        return None
    if os.getcwd() not in sys.path:
        sys.path.append(os.getcwd())  # a module of the user's own lies beside conf/ and prompts/
    try:
        found = importlib.import_module(module)
    except ImportError as error:
        problems.append(f"{where}={name}: cannot be imported: {error}")
        return None
    except Exception as error:
        problems.append(f"{where}={name}: {module} fails at import: {type(error).__name__}: {error}")
        return None
    if not hasattr(found, attribute):
        public = [entry for entry in vars(found) if not entry.startswith("_")]
        problems.append(f"{where}={name}: {module} has no {attribute}{near(attribute, public)}")
        return None
    return getattr(found, attribute)


def fail_on(problems: Sequence[str]) -> None:
    """Raise `ConfigError` with all the problems, if there are any."""
    if problems:
        raise ConfigError(*dict.fromkeys(problems))
