"""Imports go one way, and nothing heavy is loaded before it is needed (design: the packages and their order)."""

from __future__ import annotations

import ast
import importlib.util
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
# Lower may not import higher. What is not named here may import whatever it likes.
LAYERS = [
    {"records", "errors"},
    {
        "constraints",
        "rules",
        "prompts",
        "engine",
        "sandbox",
        "journal",
        "journal_file",
        "journal_writer",
        "run_folder",
        "resources",
        "loading",
        "sources",
        "sources_code",
        "tokens",
    },
    {
        "generators",
        "scorers",
        "reward",
        "selection",
        "reasoning",
        "reasoning_worker",
        "embedding",
        "duplicates",
        "decontamination",
        "likelihood",
        "tags",
        "taxonomy",
    },
    {"scoring", "pipeline", "outputs"},
    {
        "settings",
        "plan",
        "config",
        "compose",
        "generate",
        "export",
        "card",
        "report",
        "explain",
        "progress",
        "train",
        "engine_room",
        "endpoint",
        "endpoint_rooms",
        "evaluation",
        "iterate",
    },
    {"cli", "commands", "doctor"},
]
LEVEL = {part: level for level, parts in enumerate(LAYERS) for part in parts}
HEAVY = (
    "torch",
    "transformers",
    "vllm",
    "datasets",
    "trl",
    "pandas",
    "sklearn",
    "scipy",
    "datasketch",
    "sentence_transformers",
)


def imports(file: Path, *, at_import: bool = False) -> Iterator[str]:
    """Absolute names that a file imports; those under `if TYPE_CHECKING` are no imports."""
    tree = ast.parse(file.read_text())
    unreal = {
        inner
        for node in ast.walk(tree)
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test)
        for inner in ast.walk(node)
    }
    nodes = tree.body if at_import else ast.walk(tree)
    for node in nodes:
        if node in unreal:
            continue
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{file}: imports are written in full"
            yield str(node.module)
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def part_of(name: str) -> str | None:
    package, _, rest = name.partition(".")
    return rest.partition(".")[0] if package == "factory" and rest else None


FILES = sorted((ROOT / "factory").rglob("*.py"))


@pytest.mark.parametrize("file", FILES, ids=lambda file: str(file.relative_to(ROOT)))
def test_imports_go_one_way(file: Path) -> None:
    own = file.relative_to(ROOT / "factory").parts[0].removesuffix(".py")
    if own not in LEVEL:
        assert own in ("__init__", "__main__"), f"{own}: give it a place in LAYERS"
        return
    for name in imports(file):
        other = part_of(name)
        if other in LEVEL and (own, other) not in ALLOWED:
            assert LEVEL[other] <= LEVEL[own], f"{own} imports {name}, which stands above it"


ALLOWED: set[tuple[str, str]] = set()


def test_what_runs_untrusted_code_imports_nothing_of_ours() -> None:
    """The sandbox's inner half is started with `-I` and no path to the package."""
    for file in (ROOT / "factory/sandbox/inside").glob("*.py"):
        assert not [name for name in imports(file) if name.startswith("factory") and ".sandbox.inside" not in name]


@pytest.mark.parametrize("file", FILES, ids=lambda file: str(file.relative_to(ROOT)))
def test_heavy_libraries_are_imported_where_they_are_used(file: Path) -> None:
    assert not [name for name in imports(file, at_import=True) if name.partition(".")[0] in HEAVY]


def test_training_never_imports_factory() -> None:
    for file in (ROOT / "training").rglob("*.py"):
        assert not [name for name in imports(file) if name.partition(".")[0] == "factory"], file


def test_every_module_imports_without_the_heavy_ones() -> None:
    """In a process: what they import in their turn counts, too."""
    names = [".".join(file.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__") for file in FILES]
    names = [name for name in names if not name.endswith("__main__") and ".inside" not in name]
    absent = {"factory.engine.models_convert", *([] if importlib.util.find_spec("pygments") else ["factory.report"])}
    code = (
        f"import importlib, sys\nfor name in {[n for n in names if n not in absent]!r}: importlib.import_module(name)\n"
    )
    code += f"print([name for name in {HEAVY!r} if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120,
                          env={**os.environ, "PYTHONPATH": str(ROOT)})  # fmt: skip
    assert (done.returncode, done.stdout.strip()) == (0, "[]"), done.stderr
