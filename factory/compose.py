"""From a command line to one composed configuration: Hydra's part, with every problem of the overrides told at once."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

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

from factory.config import options
from factory.errors import ConfigError, near
from factory.prompts import data_dir, search_path


class UserConf(SearchPathPlugin):
    """Puts the `conf/` beside the user before the package's."""

    def manipulate_search_path(self, search: ConfigSearchPath) -> None:
        own = Path.cwd() / "conf"
        if own.is_dir() and own.resolve() != data_dir("conf").resolve():
            search.prepend(provider="user", path=f"file://{own}")


def register_user_conf() -> None:
    if UserConf not in Plugins.instance().discover(SearchPathPlugin):
        Plugins.instance().register(UserConf)


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
            config = compose(command, overrides=[added(word) for word in words])
        except (HydraException, OmegaConfBaseException):
            config = _compose_what_fits(command, words, problems)
    return resolve(config, problems), problems


def _compose_what_fits(command: str, words: Sequence[str], problems: list[str]) -> DictConfig:
    """Leave out the overrides that do not fit, and tell each."""
    good: list[str] = []
    config = None
    for word in words:
        # A new endpoint's part is added; one that the task's own YAML has is replaced.
        for form in dict.fromkeys((added(word), word)):
            try:
                config = compose(command, overrides=[*good, form])
                good.append(form)
                break
            except (HydraException, OmegaConfBaseException) as error:
                said = first_line(error)
        else:
            problems.append(f"{word.removeprefix('++')}: {said}")
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


def added(word: str) -> str:
    """`model@endpoints.NAME.model=...` chooses for a place that no file of `conf/` names, so Hydra wants it added."""
    return f"+{word}" if re.match(r"(model|engine)@endpoints\.", word) else word


def _is_choice(override: Override) -> bool:
    """It names an option of a group (for one place, as `GROUP@PLACE=NAME`); a mapping sets keys, `+` adds an option."""
    added = override.package and (override.is_add() or override.is_force_add())
    return not (override.is_delete() or added or isinstance(override.value(), dict))


def _check_choice(group: str, override: Override, text: str, choices: list[str], values: list[str]) -> str | None:
    name, place = override.value(), override.package or group
    if name is None or (name in options(group) and (group != "scorer" or override.package)):
        choices.append(text)
        return None
    if group == "model" and _is_model_name(str(name)):
        # A model of the user's own needs no YAML: its name is enough.
        choices.append(f"{override.get_key_element()}=custom")
        values.append(f"++{place}.path={quoted(str(name))}")
        return None
    if group == "scorer" and name in options(group):
        return f"{text}: scorers.{name}.enabled=true turns it on, '+scorer@scorers.{name}={name}' adds it to a task without"
    own = "; a model of your own: a hub id (owner/name), a folder, a .gguf file or package:NAME"
    there = f"{', '.join(options(group))}{own if group == 'model' else ''}"
    return f"{override.get_key_element()}={name}: no such {group}{near(str(name), options(group))} (there is {there})"


def _is_model_name(name: str) -> bool:
    return "/" in name or name.endswith(".gguf") or name.startswith("package:") or Path(name).exists()


def _as_text(text: str) -> str | None:
    """`keep=execution == 1` and the like: what Hydra's grammar does not take as a value is a text."""
    found = re.fullmatch(r"(\+{0,2}[\w.@/-]+)=(.+)", text, re.DOTALL)
    if not found or re.match(r"\{(?!\{)", found.group(2)):  # a mapping; "{{ column }}" is Jinja, a text
        return None
    name, value = found.groups()
    if value[0] != "[":
        return f"{name}={quoted(value)}"
    # A list of plain words, some of which hold a sign that the grammar keeps for itself: [runs/seed=1,runs/seed=2].
    inner = value[1:-1]
    if value[-1] != "]" or not inner or re.search(r"[\[\]{}'\"]", inner):
        return None
    return f"{name}=[{','.join(quoted(part.strip()) for part in inner.split(','))}]"


def quoted(text: str) -> str:
    """A text as Hydra's grammar reads it back: quotes are escaped, and of the backslashes those before a quote alone."""
    from hydra.core.override_parser.types import Quote, QuotedString

    return str(QuotedString(text=text, quote=Quote.single).with_quotes())
