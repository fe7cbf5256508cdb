"""How tests start an evaluation: in this process, against a scripted server."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pyarrow.parquet
import uvloop

from factory.compose import compose_config
from factory.evaluation.plan import make_evaluation
from factory.evaluation.run import Evaluated, evaluate
from tests.model_server import ModelServer
from tests.runs import QUICK, Listener


def words(folder: Path, url: str, *overrides: str) -> list[str]:
    base = [f"out={folder}/run", "engine=openai", f"engine.base_url={url}", "model=custom", "model.path=m"]
    return [*base, *QUICK, *overrides]


def run(folder: Path, server: ModelServer | str, *overrides: str, display: Listener | None = None) -> Evaluated:
    url = server if isinstance(server, str) else server.url
    plan = make_evaluation(*compose_config("evaluate", words(folder, url, *overrides)))
    return uvloop.run(evaluate(plan, display or Listener()))


def values(found: Evaluated, group: str = "") -> dict[str, float]:
    """The metrics of a group by name."""
    return {metric["name"]: metric["value"] for metric in found.results["metrics"] if metric["group"] == group}


def items(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / "run" / "items.jsonl").read_text().splitlines()]


def answers(folder: Path, name: str = "data") -> list[dict[str, Any]]:
    """The rows of `data/` (or `rejected/`), `meta` taken apart."""
    rows = [
        row
        for path in (folder / "run" / name).glob("*.parquet")
        for row in pyarrow.parquet.read_table(path).to_pylist()
    ]
    return [{**row, "meta": json.loads(row["meta"])} for row in rows]
