"""Jinja templates: found in the user's `prompts/` first, then in the package's; strict and sandboxed.

A variable that the template names and nobody gives is an error, never an empty string. Templates come with data sets
and plug-ins, so they run in Jinja's sandbox, where they reach no attribute of the interpreter.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

import jinja2
import jinja2.meta
import jinja2.sandbox

from factory.errors import GeneratorError

_PACKAGE = Path(__file__).parent


def data_dir(name: str) -> Path:
    """The package's own `conf` or `prompts` folder: inside an installed wheel, or at the top of a checkout."""
    installed = _PACKAGE / "_data" / name
    return installed if installed.is_dir() else _PACKAGE.parent / name


def search_path(name: str) -> list[Path]:
    """Where `conf` or `prompts` are looked for, first one first: beside the user, then the package."""
    return list(dict.fromkeys([Path.cwd() / name, data_dir(name)]))


class Templates:
    """Renders templates by name (`code/chat/solution.j2`) or from text, and names them all by one digest."""

    def __init__(self, folders: Sequence[Path] | None = None) -> None:
        self.folders = [folder for folder in (folders or search_path("prompts")) if folder.is_dir()]
        self.environment = jinja2.sandbox.ImmutableSandboxedEnvironment(
            loader=jinja2.FileSystemLoader(self.folders),
            undefined=jinja2.StrictUndefined,
            trim_blocks=True,
            lstrip_blocks=True,
            keep_trailing_newline=False,
        )
        self._from_text = lru_cache(maxsize=256)(self.environment.from_string)

    def render(self, name: str, variables: Mapping[str, Any]) -> str:
        """Raises `GeneratorError`, naming template and variable, where it cannot be rendered."""
        return self._render(self.environment.get_template(name), name, variables)

    def render_text(self, text: str, variables: Mapping[str, Any]) -> str:
        return self._render(self._from_text(text), "template", variables)

    def _render(self, template: jinja2.Template, name: str, variables: Mapping[str, Any]) -> str:
        try:
            return template.render(variables).strip("\n")
        except jinja2.UndefinedError as error:
            known = ", ".join(sorted(variables)) or "none"
            raise GeneratorError(f"{name}: {error.message} (given: {known})") from error
        except jinja2.TemplateError as error:
            raise GeneratorError(f"{name}: {type(error).__name__}: {error.message}") from error

    def check(self, name: str, given: set[str] | None = None) -> list[str]:
        """Problems of a named template: missing, not parsable, or asking for a variable that nobody gives."""
        try:
            source = self.environment.loader.get_source(self.environment, name)[0]  # type: ignore[union-attr]
        except jinja2.TemplateNotFound:
            where = " or ".join(str(folder) for folder in self.folders)
            return [f"template {name!r} was not found in {where}"]
        return self.check_text(source, given, name)

    def check_text(self, text: str, given: set[str] | None, name: str = "template") -> list[str]:
        try:
            wanted = jinja2.meta.find_undeclared_variables(self.environment.parse(text))
        except jinja2.TemplateSyntaxError as error:
            return [f"{name}, line {error.lineno}: {error.message}"]
        missing = sorted(wanted - given) if given is not None else []
        known = ", ".join(sorted(given or ()))
        return [f"{name} uses {{{{ {variable} }}}}, which is not given; there is: {known}" for variable in missing]

    def digest(self, names: Sequence[str]) -> str:
        """One hash over the named templates' texts, those they include or import among them."""
        state = hashlib.blake2b(digest_size=8)
        todo, seen = sorted(names), set()
        while todo:
            name = todo.pop(0)
            if name in seen:
                continue
            seen.add(name)
            source = self.environment.loader.get_source(self.environment, name)[0]  # type: ignore[union-attr]
            state.update(f"{name}\0{source}\0".encode())
            referenced = jinja2.meta.find_referenced_templates(self.environment.parse(source))
            todo.extend(sorted(other for other in referenced if other))
        return state.hexdigest()
