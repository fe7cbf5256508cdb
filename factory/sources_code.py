"""Seeds out of Python source: its functions, and the modules that many others import.

Only the syntax is read, file by file; nothing of a tree is imported or run. A file that does not parse is passed over.
"""

from __future__ import annotations

import ast
import builtins
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

_BUILTINS = frozenset(dir(builtins))
MAX_FILE = 2_000_000  # bytes; generated tables are no source to learn from


def python_files(root: Path) -> list[Path]:
    """The Python files of a tree, or the one file, in order. Hidden folders and symbolic links are left out."""
    if root.is_file():
        return [root]
    found = (path for path in root.rglob("*.py") if not path.is_symlink() and path.is_file())
    return sorted(path for path in found if not any(part.startswith(".") for part in path.relative_to(root).parts))


def parsed(file: Path) -> tuple[str, ast.Module] | None:
    """(text, tree); None where it cannot be read as Python."""
    try:
        if file.stat().st_size > MAX_FILE:
            return None
        text = file.read_text(encoding="utf-8")
        return text, ast.parse(text)
    except (OSError, ValueError, SyntaxError, RecursionError, MemoryError):
        return None


def functions(root: Path) -> Iterator[dict[str, Any]]:
    """Functions at the top of modules that need nothing else of their module but what it imports.

    Each comes with those imports in front, so that it runs by itself where they are of the standard library.
    """
    for file in python_files(root):
        if (found := parsed(file)) is None:
            continue
        text, tree = found
        imports = [node for node in tree.body if isinstance(node, ast.Import | ast.ImportFrom)]
        for node in tree.body:
            if isinstance(node, ast.FunctionDef) and (needed := _needed_imports(node, imports)) is not None:
                lines = [ast.unparse(item) for item in needed]
                code = ast.get_source_segment(text, node) or ""
                code = "\n".join([*(f"@{ast.unparse(mark)}" for mark in node.decorator_list), code])
                whole = "\n".join(lines) + "\n\n\n" + code if lines else code
                name = str(file.relative_to(root)) if root.is_dir() else file.name
                yield {"code": whole, "name": node.name, "path": name, "line": node.lineno}


def _needed_imports(node: ast.FunctionDef, imports: list[ast.Import | ast.ImportFrom]) -> list[ast.stmt] | None:
    """The imports that a function uses; None where it uses more of its module than those, or other packages."""
    bound = {item.id for item in ast.walk(node) if isinstance(item, ast.Name) and not isinstance(item.ctx, ast.Load)}
    bound |= {item.arg for item in ast.walk(node) if isinstance(item, ast.arg)} | {node.name}
    for item in ast.walk(node):
        if isinstance(item, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef | ast.ExceptHandler):
            bound.add(item.name or "")
        elif isinstance(item, ast.Import | ast.ImportFrom):
            bound |= {(alias.asname or alias.name).split(".")[0] for alias in item.names}
    used = {item.id for item in ast.walk(node) if isinstance(item, ast.Name)} - bound - _BUILTINS
    needed: list[ast.stmt] = []
    for statement in imports:
        aliases = [alias for alias in statement.names if (alias.asname or alias.name).split(".")[0] in used]
        if not aliases:
            continue
        modules = [alias.name for alias in aliases] if isinstance(statement, ast.Import) else [statement.module or ""]
        outside = any(module.split(".")[0] not in sys.stdlib_module_names for module in modules)
        if outside or (isinstance(statement, ast.ImportFrom) and statement.level):
            return None
        used -= {(alias.asname or alias.name).split(".")[0] for alias in aliases}
        kept = (
            ast.Import(aliases) if isinstance(statement, ast.Import) else ast.ImportFrom(statement.module, aliases, 0)
        )
        needed.append(kept)
    return None if used else needed


# ---- who imports whom


def module_name(file: Path, root: Path) -> str:
    parts = file.relative_to(root).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def importers(root: Path) -> dict[str, list[str]]:
    """For each file of a tree (by its path in it) the other files that import it, in order.

    A module is looked for under its name from the tree's top and from every folder on the way (a tree of `src/package`
    imports `package`); `from package import name` imports `package.name` where that is a module, else `package`.
    Memory holds names only, never a file's text.
    """
    files = python_files(root)
    known: dict[str, str] = {}
    for file in files:
        path, name = str(file.relative_to(root)), module_name(file, root)
        known[name] = path
        parts = name.split(".")
        if parts[0] in ("src", "lib", "python"):
            known.setdefault(".".join(parts[1:]), path)
        known.setdefault(f"{root.name}.{name}" if name else root.name, path)
    found: dict[str, set[str]] = {str(file.relative_to(root)): set() for file in files}
    for file in files:
        if (read := parsed(file)) is None:
            continue
        path = str(file.relative_to(root))
        for name in _imported(read[1], module_name(file, root), file.name == "__init__.py", known):
            if known[name] != path:
                found[known[name]].add(path)
    return {path: sorted(others) for path, others in found.items()}


def _imported(tree: ast.Module, module: str, package: bool, known: dict[str, str]) -> Iterator[str]:
    """Names of the tree's own modules that a module imports, at whatever depth of its code."""
    here = module.split(".") if package else module.split(".")[:-1]
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield from _longest(alias.name, known)
        elif isinstance(node, ast.ImportFrom):
            base = here[: len(here) - node.level + 1] if node.level else []
            start = ".".join([*base, *(node.module.split(".") if node.module else [])])
            for alias in node.names:
                yield from _longest(f"{start}.{alias.name}" if start else alias.name, known)


def _longest(name: str, known: dict[str, str]) -> Iterator[str]:
    """The module that a dotted name leads to: itself, or the longest part of it that is one."""
    parts = name.split(".")
    for end in range(len(parts), 0, -1):
        if (part := ".".join(parts[:end])) in known:
            yield part
            return


def imported_by_many(root: Path, least: int) -> Iterator[dict[str, Any]]:
    """Files that at least `least` others of the tree import: where each is, and which files those are."""
    for path, others in importers(root).items():
        if len(others) >= least and (root / path).stat().st_size:
            yield {"repository": str(root), "removed": path, "dependents": others}
