"""The languages besides Python: how each is compiled and run, and whether this machine can."""

from __future__ import annotations

import os
import shutil
from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True)
class Recipe:
    """`file` is where the source lies (below /), `compile` makes /box/program of it, `run` runs it or /program.

    `memory` is the least address space in MB with which its runtime starts.
    """

    tool: str
    file: str
    compile: tuple[str, ...]
    run: tuple[str, ...]
    memory: int = 0
    fix: str = ""


_C = ("-O2", "-w", "-o", "/box/program")
RECIPES: Mapping[str, Recipe] = {
    "javascript": Recipe(
        "node", "main.js", (), ("{tool}", "--max-old-space-size={memory}", "/main.js"), 2048, "nodejs"
    ),
    "bash": Recipe("bash", "main.sh", (), ("{tool}", "/main.sh"), 0, "bash"),
    "c": Recipe("gcc", "main.c", ("{tool}", "-std=gnu17", *_C, "/main.c", "-lm"), ("/program",), 0, "gcc libc6-dev"),
    "cpp": Recipe("g++", "main.cpp", ("{tool}", "-std=gnu++20", *_C, "/main.cpp"), ("/program",), 0, "g++"),
}


@dataclass(frozen=True)
class Language:
    """Whether a language can be verified here; `why` says with what, or why not and what would mend it."""

    name: str
    ok: bool
    why: str


def languages(backend: str = "bwrap") -> list[Language]:
    """Every language and whether this machine can run it under `backend`."""
    found = [Language("python", True, backend)]
    for name, recipe in RECIPES.items():
        tool = shutil.which(recipe.tool)
        if backend != "bwrap":
            found.append(Language(name, False, f"needs processes of its own, which only bwrap can hold, not {backend}"))
        elif tool is None:
            found.append(Language(name, False, f"{recipe.tool} is not installed (apt install {recipe.fix})"))
        else:
            found.append(Language(name, True, tool))
    return found


def request(language: str, memory_mb: int) -> dict[str, object]:
    """The part of a helper's request that says how to build and run `language`."""
    recipe = RECIPES[language]
    tool = os.path.realpath(shutil.which(recipe.tool) or recipe.tool)
    fill = {"tool": tool, "memory": str(memory_mb)}
    paths = ["/usr", "/etc/alternatives", "/etc/ld.so.cache", "/bin", "/lib", "/lib64"]
    if not tool.startswith("/usr/"):
        paths.append(os.path.dirname(os.path.dirname(tool)))
    return {
        "language": language,
        "file": recipe.file,
        "compile": [part.format(**fill) for part in recipe.compile],
        "run": [part.format(**fill) for part in recipe.run],
        "memory": recipe.memory << 20,
        "paths": paths,
        "environment": {"PATH": "/usr/bin:/bin", "HOME": "/box", "LANG": "C.UTF-8"},
    }
