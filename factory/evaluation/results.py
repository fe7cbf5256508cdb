"""An evaluation's results on disk and on the screen.

`results.json` holds the metrics and how they came about, `items.jsonl` every item's worth (what a comparison needs),
`data/*.parquet` every answer with its verdict, `report.html` the same in pictures.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import orjson
from rich.markup import escape
from rich.table import Table
from rich.text import Text

from factory.errors import ConfigError, near
from factory.evaluation.suite import ItemResult
from factory.journal import Fate
from factory.outputs import write_atomically, write_data


def write_answers(folder: Path, fates: Iterable[Fate]) -> None:
    """Every answer that was measured in `data/`, the others with their reasons in `rejected/`."""
    write_data(folder, fates, {}, [])


def write_results(folder: Path, results: Mapping[str, Any], items: Sequence[ItemResult]) -> None:
    """Write `items.jsonl`, `report.html` and, last, `results.json`."""
    from factory.evaluation.page import render

    lines = [
        orjson.dumps({"id": item.id, "group": item.group, "values": item.values, "detail": item.detail})
        for item in items
    ]
    write_atomically(folder / "items.jsonl", b"".join(line + b"\n" for line in lines))
    write_atomically(folder / "report.html", render(results, items).encode())
    write_atomically(folder / "results.json", orjson.dumps(results, option=orjson.OPT_INDENT_2) + b"\n")


def read_results(folder: Path) -> tuple[dict[str, Any], list[ItemResult]]:
    """What `write_results` wrote. Raises `ConfigError` where the folder holds no evaluation, or a damaged one."""
    if not (folder / "results.json").is_file() or not (folder / "items.jsonl").is_file():
        there = sorted(str(path.parent) for path in Path("outputs/evaluate").glob("*/results.json"))
        raise ConfigError(
            f"compare: {folder} holds no finished evaluation{near(str(folder), there)} "
            f"(there is {', '.join(there) or 'none in outputs/evaluate yet'})"
        )
    try:
        results = orjson.loads((folder / "results.json").read_bytes())
        rows = [orjson.loads(line) for line in (folder / "items.jsonl").read_bytes().splitlines()]
        items = [
            ItemResult(
                row["id"],
                {name: (float(total), float(weight)) for name, (total, weight) in row["values"].items()},
                row["group"],
                row["detail"],
            )
            for row in rows
        ]
        return {**results, "measures": list(results["measures"])}, items
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise ConfigError(f"compare: {folder} cannot be read: {error}; run that evaluation again") from error


def shown(value: float | None, share: bool) -> str:
    """A number as people read it: a share as a percentage."""
    if value is None or value != value:
        return "n/a"
    return f"{100 * value:.1f} %" if share else f"{value:.4g}"


def difference(row: Mapping[str, Any], key: str) -> str:
    """A difference as people read it: of shares in percentage points."""
    value = row[key]
    if value is None or value != value:
        return "n/a"
    return f"{100 * value:+.1f} points" if row["share"] else f"{value:+.4g}"


def p_value(p: float) -> str:
    return f"{p:.3f}" if p >= 0.001 else f"{p:.1e}"


def results_table(results: Mapping[str, Any]) -> Table:
    """The metrics with their intervals, for the terminal."""
    table = Table(title=escape(f"{results['suite']} · {results['model']['name']}"), title_justify="left")
    for column, justify in (("metric", "left"), ("", "left"), ("value", "right"), ("95% interval", "right"),
                            ("items", "right")):  # fmt: skip
        table.add_column(column, justify=justify)  # type: ignore[arg-type]
    for metric in results["metrics"]:
        interval = " to ".join(shown(metric[end], metric["share"]) for end in ("low", "high"))
        table.add_row(
            Text(metric["name"]),
            Text(metric["group"][:40]),
            Text(shown(metric["value"], metric["share"]), style="bold"),
            interval,
            f"{metric['items']:,}",
        )
    return table
