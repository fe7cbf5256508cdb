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
import jinja2.nodes
import jinja2.sandbox

from factory.errors import GeneratorError, near

_PACKAGE = Path(__file__).parent


def data_dir(name: str) -> Path:
    """The package's own `conf` or `prompts` folder: inside an installed wheel, or at the top of a checkout."""
    installed = _PACKAGE / "_data" / name
    return installed if installed.is_dir() else _PACKAGE.parent / name


def search_path(name: str) -> list[Path]:
    """Where `conf` or `prompts` are looked for, first one first: beside the user, then the package."""
    return list(dict.fromkeys([Path.cwd() / name, data_dir(name)]))


def _not_null(value: Any) -> Any:
    """A row's null is no text: Jinja would print "None" into the prompt."""
    if value is None:
        raise jinja2.UndefinedError("a value that it prints is null")
    return value


class Templates:
    """Renders templates by name (`code/chat/solution.j2`) or from text, and names them all by one digest."""

    def __init__(self, folders: Sequence[Path] | None = None) -> None:
        self.folders = list(folders or search_path("prompts"))
        self.data: dict[str, Any] = {}  # YAML files beside the templates that were read already, by name
        self.environment = jinja2.sandbox.ImmutableSandboxedEnvironment(
            loader=jinja2.FileSystemLoader(self.folders),
            undefined=jinja2.StrictUndefined,
            finalize=_not_null,
            trim_blocks=True,
            lstrip_blocks=True,
            keep_trailing_newline=False,
        )
        # Chance would make another prompt each time, and a resumed run would pay for it again.
        del self.environment.filters["random"], self.environment.globals["lipsum"]
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

    def check(self, name: str, given: set[str] | None = None, within: Sequence[str] = ()) -> list[str]:
        """Problems of a named template: missing, not parsable, or asking for a variable that nobody gives."""
        try:
            source = self._source(name)
        except jinja2.TemplateNotFound:
            where = " or ".join(str(folder) for folder in self.folders)
            known = [other for other in self.environment.list_templates() if other.endswith(".j2")]
            return [f"template {name!r} was not found in {where}{near(name, known)}"]
        except UnicodeDecodeError as error:
            return [f"template {name!r} is no text: {error}"]
        if name.endswith((".yaml", ".yml", ".jsonl")):
            return []  # data beside the templates: braces mean nothing in it
        return self.check_text(source, given, name, within)

    def check_text(
        self, text: str, given: set[str] | None, name: str = "template", within: Sequence[str] = ()
    ) -> list[str]:
        try:
            tree = self.environment.parse(text)
            wanted = jinja2.meta.find_undeclared_variables(tree)
        except jinja2.TemplateSyntaxError as error:
            return [f"{name}, line {error.lineno}: {error.message}"]
        problems = []
        if given is not None:
            known = ", ".join(sorted(given))
            problems = [
                f"{name} uses {{{{ {variable} }}}}, which is not given{near(variable, given)} (there is {known})"
                for variable in sorted(wanted - given - _optional(tree))
            ]
        for other in jinja2.meta.find_referenced_templates(tree):
            if other is None:
                problems.append(f"{name} includes a template by a computed name; write the name in quotes")
            elif other not in (name, *within):
                problems += [f"{name}: {problem}" for problem in self.check(other, None, (name, *within))]
        return problems

    def referenced(self, text: str) -> list[str]:
        """The templates that a text includes or imports; none where it cannot be parsed."""
        try:
            found = jinja2.meta.find_referenced_templates(self.environment.parse(text))
            return sorted({name for name in found if name})
        except jinja2.TemplateSyntaxError:
            return []

    def _source(self, name: str) -> str:
        return self.environment.loader.get_source(self.environment, name)[0]  # type: ignore[union-attr]

    def digest(self, names: Sequence[str]) -> str:
        """One hash over the named templates' texts, those they include or import among them."""
        state = hashlib.blake2b(digest_size=8)
        todo, seen = sorted(names), set()
        while todo:
            name = todo.pop(0)
            if name in seen:
                continue
            seen.add(name)
            source = self._source(name)
            state.update(f"{name}\0{source}\0".encode())
            if name.endswith(".j2"):  # else it is data beside the templates
                todo.extend(self.referenced(source))
        return state.hexdigest()


def _optional(tree: jinja2.nodes.Template) -> set[str]:
    """Variables that the template can do without: `{{ x | default("") }}`, `{% if x is defined %}`."""
    guards = ("default", "d", "defined", "undefined")
    asked = [*tree.find_all(jinja2.nodes.Filter), *tree.find_all(jinja2.nodes.Test)]
    return {node.node.name for node in asked if node.name in guards and isinstance(node.node, jinja2.nodes.Name)}
