"""From a command line to checked settings: Hydra composes, pydantic checks, and every problem is told at once."""

from __future__ import annotations

import importlib
from collections.abc import Mapping, Sequence
from difflib import get_close_matches
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

from factory.errors import ConfigError
from factory.prompts import data_dir, search_path

Model = TypeVar("Model", bound=BaseModel)
_MARKS = ("int", "float", "str", "bool", "none")


class UserConf(SearchPathPlugin):
    """Puts the `conf/` beside the user before the package's."""

    def manipulate_search_path(self, search: ConfigSearchPath) -> None:
        own = Path.cwd() / "conf"
        if own.is_dir() and own.resolve() != data_dir("conf").resolve():
            search.prepend(provider="user", path=f"file://{own}")


def register_user_conf() -> None:
    if UserConf not in Plugins.instance().discover(SearchPathPlugin):
        Plugins.instance().register(UserConf)


def near(word: str, words: Sequence[str]) -> str:
    """ "; did you mean X?" where one of `words` is spelt like `word`."""
    match = get_close_matches(word, words, 1, cutoff=0.6)
    return f"; did you mean {match[0]}?" if match else ""


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
    choices, values, problems = _sort_overrides(overrides)
    GlobalHydra.instance().clear()
    with initialize_config_dir(config_dir=str(data_dir("conf")), version_base="1.3"):
        try:
            config = compose(command, overrides=[*choices, *values])
        except (HydraException, OmegaConfBaseException) as error:
            try:
                config = compose(command, overrides=choices)
            except (HydraException, OmegaConfBaseException):
                config = compose(command)
            problems.append(_first_line(error))
    return resolve(config, problems), problems


def resolve(config: DictConfig, problems: list[str]) -> dict[str, Any]:
    """Plain data, interpolations filled in."""
    try:
        return OmegaConf.to_container(config, resolve=True)  # type: ignore[return-value]
    except OmegaConfBaseException as error:
        problems.append(_first_line(error))
        return OmegaConf.to_container(config, resolve=False)  # type: ignore[return-value]


def _first_line(error: Exception) -> str:
    causes = [str(error).strip().splitlines()[0]]
    if error.__cause__ is not None:
        causes.append(str(error.__cause__).strip().splitlines()[0])
    return ": ".join(dict.fromkeys(causes))


def _sort_overrides(overrides: Sequence[str]) -> tuple[list[str], list[str], list[str]]:
    """(choices of a group's option, values, problems)."""
    parser = OverridesParser.create()
    choices: list[str] = []
    values: list[str] = []
    problems: list[str] = []
    for text in overrides:
        try:
            override = parser.parse_overrides([text])[0]
        except HydraException:
            problems.append(f"{text!r} is not KEY=VALUE (quote a value with spaces, commas or braces: 'key=\"a, b\"')")
            continue
        group = override.key_or_group
        if override.is_sweep_override():
            problems.append(f"{text}: several values need --multirun")
        elif group in groups() and not override.is_delete() and isinstance(override.value(), str | type(None)):
            problem = _check_choice(group, override, text, choices, values)
            problems += [problem] if problem else []
        elif override.is_add() or override.is_force_add() or override.is_delete():
            values.append(text)
        else:
            values.append(f"++{text}")
    return choices, values, problems


def _check_choice(group: str, override: Override, text: str, choices: list[str], values: list[str]) -> str | None:
    name = override.value()
    if name is None or name in options(group):
        choices.append(text)
        return None
    if group == "model" and _is_model_name(str(name)):
        # A model of the user's own needs no YAML: its name is enough.
        choices.append("model=custom")
        values.append(f"++model.path={_quoted(str(name))}")
        return None
    hint = near(str(name), options(group))
    own = (
        ""
        if group != "model"
        else "; a model of your own is a hub id (owner/name), a folder, a .gguf file or package:NAME"
    )
    return f"{group}={name}: there is {', '.join(options(group))}{hint}{own}"


def _is_model_name(name: str) -> bool:
    return "/" in name or name.endswith(".gguf") or name.startswith("package:") or Path(name).exists()


def _quoted(text: str) -> str:
    return "'" + text.replace("\\", "\\\\").replace("'", "\\'") + "'"


def validated(model: type[Model], data: Any, where: str, problems: list[str]) -> Model | None:
    """`data` as a `model`, or None with its problems told: key, wrong value, allowed ones, nearest spelling."""
    try:
        return model.model_validate(data)
    except ValidationError as error:
        problems += [_problem(problem, where, model) for problem in error.errors(include_url=False)]
        return None


def _problem(problem: Mapping[str, Any], where: str, root: type[BaseModel]) -> str:
    # pydantic marks branches of a union ("int", "tuple[str, ...]") in the location: no part of the key.
    path = [str(part) for part in problem["loc"] if not (isinstance(part, str) and (part in _MARKS or "[" in part))]
    key = ".".join(part for part in (where, *path) if part)
    if problem["type"] == "extra_forbidden":
        known = sorted(_owner(root, path).model_fields)
        return f"{key}: unknown key{near(path[-1], known)} (there is {', '.join(known)})"
    if problem["type"] == "missing":
        return f"{key}: must be given"
    message = problem["msg"].removeprefix("Value error, ").removeprefix("Input ")
    return f"{key}={_shown(problem['input'])}: {message}"


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
