"""From a command line to checked settings: Hydra composes, pydantic checks, and every problem is told at once."""

from __future__ import annotations

import copy
import importlib
import os
import re
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar, get_args

from hydra import compose, initialize_config_dir
from hydra.core.config_search_path import ConfigSearchPath
from hydra.core.global_hydra import GlobalHydra
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override
from hydra.core.plugins import Plugins
from hydra.errors import HydraException
from hydra.plugins.search_path_plugin import SearchPathPlugin
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException
from pydantic import BaseModel, ValidationError

from factory.errors import ConfigError, near
from factory.prompts import data_dir, search_path

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
}


class UserConf(SearchPathPlugin):
    """Puts the `conf/` beside the user before the package's."""

    def manipulate_search_path(self, search: ConfigSearchPath) -> None:
        own = Path.cwd() / "conf"
        if own.is_dir() and own.resolve() != data_dir("conf").resolve():
            search.prepend(provider="user", path=f"file://{own}")


def register_user_conf() -> None:
    if UserConf not in Plugins.instance().discover(SearchPathPlugin):
        Plugins.instance().register(UserConf)


def options(group: str) -> list[str]:
    """The names in a group of `conf/`: the user's and the package's."""
    found = {file.stem for folder in search_path("conf") for file in (folder / group).glob("*.yaml")}
    return sorted(found)


def groups() -> list[str]:
    return sorted({child.name for folder in search_path("conf") if folder.is_dir() for child in folder.iterdir()
                   if child.is_dir() and any(child.glob("*.yaml"))})  # fmt: skip


def compose_config(command: str, overrides: Sequence[str]) -> tuple[dict[str, Any], list[str]]:
    """The composed configuration of a command and the problems of its overrides.

    A key that `conf/` does not name is taken in all the same: the settings know every key and say what is wrong.
    """
    register_user_conf()
    words, problems = rewrite_overrides(overrides)
    GlobalHydra.instance().clear()
    with initialize_config_dir(config_dir=str(data_dir("conf")), version_base="1.3"):
        try:
            config = compose(command, overrides=words)
        except (HydraException, OmegaConfBaseException):
            config = _compose_what_fits(command, words, problems)
    return resolve(config, problems), problems


def _compose_what_fits(command: str, words: Sequence[str], problems: list[str]) -> DictConfig:
    """Leave out the overrides that do not fit, and tell each."""
    good: list[str] = []
    config = None
    for word in words:
        try:
            config = compose(command, overrides=[*good, word])
            good.append(word)
        except (HydraException, OmegaConfBaseException) as error:
            problems.append(f"{word.removeprefix('++')}: {first_line(error)}")
    return config if config is not None else compose(command)


def resolve(config: DictConfig, problems: Sequence[str]) -> dict[str, Any]:
    """Plain data, interpolations filled in. Raises `ConfigError` where one leads nowhere: nothing can be checked then."""
    try:
        return OmegaConf.to_container(config, resolve=True)  # type: ignore[return-value]
    except OmegaConfBaseException as error:
        raise ConfigError(*problems, f"{error.full_key or 'configuration'}: {first_line(error)}") from error


def first_line(error: Exception) -> str:
    """What Hydra has to say, without its stack of causes."""
    causes = [str(error).strip().splitlines()[0]]
    if error.__cause__ is not None:
        causes.append(str(error.__cause__).strip().splitlines()[0])
    return ": ".join(dict.fromkeys(causes))


def rewrite_overrides(overrides: Sequence[str], *, sweep: bool = False) -> tuple[list[str], list[str]]:
    """(overrides for Hydra, problems): choices of a group's option first; `KEY=VALUE` is taken for new keys, too."""
    parser = OverridesParser.create()
    choices: list[str] = []
    values: list[str] = []
    problems: list[str] = []
    for text in overrides:
        try:
            override: Override | None = parser.parse_overrides([text])[0]
        except HydraException:
            quoted = _as_text(text)
            override = parser.parse_overrides([quoted])[0] if quoted else None
            text = quoted or text
        if override is None:
            problems.append(f"{text!r} is not KEY=VALUE (quote a value with spaces, commas or braces: 'key=\"a, b\"')")
            continue
        group = override.key_or_group
        if not group:
            problems.append(f"{text!r} has no key; write KEY=VALUE")
        elif override.is_sweep_override() and not sweep:
            problems.append(f"{text}: several values need --multirun")
        elif override.is_sweep_override() and group in groups():
            choices.append(text)
        elif group in groups() and _is_choice(override):
            problem = _check_choice(group, override, text, choices, values)
            problems += [problem] if problem else []
        elif override.is_add() or override.is_force_add() or override.is_delete():
            values.append(text)
        else:
            values.append(f"++{text}")
    return [*choices, *values], problems


def _is_choice(override: Override) -> bool:
    """It names an option of a group, where a mapping sets its keys, and `+GROUP@PLACE=NAME` adds an option elsewhere."""
    return not (override.is_delete() or override.package or isinstance(override.value(), dict))


def _check_choice(group: str, override: Override, text: str, choices: list[str], values: list[str]) -> str | None:
    name = override.value()
    if name is None or (name in options(group) and group != "scorer"):
        choices.append(text)
        return None
    if group == "model" and _is_model_name(str(name)):
        # A model of the user's own needs no YAML: its name is enough.
        choices.append("model=custom")
        values.append(f"++model.path={_quoted(str(name))}")
        return None
    if group == "scorer" and name in options(group):
        return f"{text}: scorers.{name}.enabled=true turns it on, '+scorer@scorers.{name}={name}' adds it to a task without"
    own = "; a model of your own: a hub id (owner/name), a folder, a .gguf file or package:NAME"
    there = f"{', '.join(options(group))}{own if group == 'model' else ''}"
    return f"{group}={name}: no such {group}{near(str(name), options(group))} (there is {there})"


def _is_model_name(name: str) -> bool:
    return "/" in name or name.endswith(".gguf") or name.startswith("package:") or Path(name).exists()


def _as_text(text: str) -> str | None:
    """`keep=execution == 1` and the like: what Hydra's grammar does not take as a value is a text."""
    found = re.fullmatch(r"(\+{0,2}[\w.@/-]+)=(.+)", text, re.DOTALL)
    if not found or found.group(2)[0] in "[{":
        return None
    return f"{found.group(1)}={_quoted(found.group(2))}"


def _quoted(text: str) -> str:
    return "'" + text.replace("\\", "\\\\").replace("'", "\\'") + "'"


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
        known = sorted(field.alias or name for name, field in _owner(root, path).model_fields.items())
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


def _owner(root: type[BaseModel], path: Sequence[str]) -> type[BaseModel]:
    """The model that holds the last part of `path`."""
    for part in path[:-1]:
        annotation = root.model_fields[part].annotation if part in root.model_fields else None
        models = [m for m in (annotation, *get_args(annotation)) if isinstance(m, type) and issubclass(m, BaseModel)]
        root = models[0] if models else root
    return root


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
