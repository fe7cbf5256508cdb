"""How tests start a run: in this process, or as a user does, in a process of its own that can be killed."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import orjson
import pyarrow.parquet
import uvloop

from factory.compose import compose_config
from factory.generate import Outcome, generate
from factory.journal import Journal
from factory.plan import make_plan
from factory.progress import Display
from tests.model_server import ModelServer, Script

ROOT = Path(__file__).parent.parent
# Faults are met often here and must not take long.
QUICK = ("engine.backoff=0.01", "engine.backoff_max=0.05")


def write_rows(folder: Path, rows: int | Iterable[Mapping[str, Any]]) -> Path:
    """`rows.jsonl` in the folder: the rows, or so many numbered questions."""
    made = ({"instruction": f"question number {number}"} for number in range(rows)) if isinstance(rows, int) else rows
    path = folder / "rows.jsonl"
    path.write_bytes(b"".join(orjson.dumps(row) + b"\n" for row in made))
    return path


def words(folder: Path, url: str, *overrides: str) -> list[str]:
    base = ["task=respond", f"source.path={folder}/rows.jsonl", f"out={folder}/run"]
    return [*base, "engine=openai", f"engine.base_url={url}", "model=custom", "model.path=m", *QUICK, *overrides]


class Listener(Display):
    """Shows nothing and remembers what was said."""

    def __init__(self) -> None:
        super().__init__(quiet=True)
        self.said: list[str] = []

    def say(self, text: str) -> None:
        self.said.append(text)


def run(folder: Path, server: ModelServer | str, *overrides: str, display: Display | None = None) -> Outcome:
    """`generate task=respond` over the folder's rows, in this process."""
    url = server if isinstance(server, str) else server.url
    plan = make_plan(*compose_config("generate", words(folder, url, *overrides)))
    return uvloop.run(generate(plan, display or Listener()))


def run_once(folder: Path, script: Script, *overrides: str) -> tuple[Outcome, ModelServer]:
    """The same against a server of its own, which is given back for its counts."""
    with ModelServer(script) as server:
        return run(folder, server, *overrides), server


def start(folder: Path, url: str, *overrides: str, **options: Any) -> subprocess.Popen[str]:
    """The same as a command, in a process of its own."""
    command = [sys.executable, "-m", "factory", "generate", *words(folder, url, *overrides)]
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    return subprocess.Popen(command, cwd=folder, env=environment, stderr=subprocess.PIPE, text=True, **options)


def command(folder: Path, url: str, *overrides: str, **options: Any) -> tuple[int, str]:
    """Exit status, and what was said."""
    process = start(folder, url, *overrides, **options)
    _, said = process.communicate(timeout=60)
    return process.returncode, said


def table(folder: Path, name: str = "data") -> list[dict[str, Any]]:
    """The rows of a run's kept (`data`) or lost (`rejected`) records."""
    files = sorted((folder / "run" / name).glob("*.parquet"))
    return [row for file in files for row in pyarrow.parquet.read_table(file).to_pylist()]


def records(folder: Path) -> list[tuple[str, bool, str, str]]:
    """What a run made, without what time and chance decide: (id, kept, reason, messages), in the order of the seeds."""
    with Journal(folder / "run" / "journal.db") as journal:
        present = journal.current_config()
        assert present is not None
        fates = [fate.record for fate in journal.fates(present[0])]
    return [(r.id, r.kept, r.reason, json.dumps([m.model_dump() for m in r.messages])) for r in fates]


def kept(folder: Path) -> list[tuple[str, str]]:
    """(id, answer) of the kept records, as they lie in the data."""
    return [(row["id"], row["messages"][-1]["content"]) for row in table(folder)]


def reasons(folder: Path) -> dict[str, int]:
    manifest = json.loads((folder / "run" / "manifest.json").read_text())
    found: dict[str, int] = manifest["reasons"]
    return found
