"""`evaluate compare=[A,B]`: two models on the same items, pair by pair.

For each measure: the difference B - A with its 95% interval from a paired bootstrap over items, and an exact p-value.
Where every item is right or wrong it is McNemar's; else that of the permutation test which exchanges the two models'
results item by item. No correction is made for looking at several measures, and the notes say so.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import orjson
from rich.markup import escape
from rich.table import Table
from rich.text import Text

from factory.errors import ConfigError
from factory.evaluation.results import difference, p_value, read_results, shown
from factory.evaluation.statistics import Values, mcnemar, paired_bootstrap, permutation, ratio
from factory.evaluation.suite import ItemResult, Measure, values_of
from factory.outputs import write_atomically
from factory.run_folder import unwritable
from factory.settings import EvaluateSettings

NOTES = (
    "Difference: B - A over the items that both have, with the 95% interval of a paired bootstrap over items.",
    "p: the two-sided probability of a difference at least this large if the two were exchangeable item by item "
    "(McNemar's exact test where each item is right or wrong, else a permutation test). Each measure is tested by "
    "itself: with several of them, expect small ones by chance.",
)


def compare(settings: EvaluateSettings) -> tuple[dict[str, Any], Path]:
    """Compare two finished evaluations; returns the comparison and the folder that it was written to.

    Raises `ConfigError` where they are not of the same suite, settings and items.
    """
    assert settings.compare is not None
    first, second = (Path(name) for name in settings.compare)
    (a, items_a), (b, items_b) = read_results(first), read_results(second)
    _same_suite(a, b)
    paired_a, paired_b = _paired(items_a, items_b, first, second)
    measures = [Measure(**measure) for measure in a["measures"]]
    rows = [
        _compared(measure, values_of(paired_a, measure.name), values_of(paired_b, measure.name), settings.seed)
        for measure in measures
        if any(measure.name in item.values for item in paired_a)
    ]
    comparison = {
        "suite": a["suite"],
        "a": {"folder": str(first), **a["model"]},
        "b": {"folder": str(second), **b["model"]},
        "items": len(paired_a),
        "differences": rows,
        "finished": a["finished"] and b["finished"],
        "notes": list(NOTES),
    }
    folder = Path(settings.out) if settings.out else Path("outputs/evaluate") / (settings.run or _name(first, second))
    _write(folder, comparison)
    return comparison, folder


def _name(first: Path, second: Path) -> str:
    return f"compare-{first.resolve().name}-{second.resolve().name}"


def _same_suite(a: Mapping[str, Any], b: Mapping[str, Any]) -> None:
    if a["suite"] != b["suite"]:
        raise ConfigError(f"compare: one is of suite={a['suite']}, the other of suite={b['suite']}")
    old, new = a["settings"], b["settings"]
    differ = [key for key in sorted({*old, *new}) if old.get(key) != new.get(key)]
    if a["templates"] != b["templates"]:
        differ.append("a prompt template")
    if differ:
        told = ", ".join(f"{key} ({old[key]} and {new[key]})" if key in old and key in new else key for key in differ)
        raise ConfigError(
            f"compare: they were not measured alike: {told}. Run one of them again with the other's settings"
        )


def _paired(
    a: Sequence[ItemResult], b: Sequence[ItemResult], first: Path, second: Path
) -> tuple[list[ItemResult], list[ItemResult]]:
    """Both sides' items in one order. Raises `ConfigError` where they are not the same ones, measured by the same measures."""
    by_id = {item.id: item for item in b}
    missing = [[item.id for item in a if item.id not in by_id], list({item.id for item in b} - {item.id for item in a})]
    for lacking, names in ((second, missing[0]), (first, missing[1])):
        if names:
            raise ConfigError(
                f"compare: not the same items: {lacking} lacks {len(names)} of them, {names[0]!r} for one. Finish both "
                "with the same source, seed and size"
            )
    unlike = [item.id for item in a if set(item.values) != set(by_id[item.id].values)]
    if unlike:
        raise ConfigError(
            f"compare: {unlike[0]!r} and {len(unlike) - 1} others were measured on one side only; finish both"
        )
    return list(a), [by_id[item.id] for item in a]


def _compared(measure: Measure, a: Values, b: Values, seed: int) -> dict[str, Any]:
    low, high = paired_bootstrap(a, b, measure.transform, seed)
    binary = all(pair in ((0.0, 1.0), (1.0, 1.0)) for pair in (*a, *b))
    p = (
        mcnemar([x == 1 for x, _ in a], [x == 1 for x, _ in b])
        if binary
        else permutation(a, b, measure.transform, seed)
    )
    values = [ratio(side, measure.transform) for side in (a, b)]
    return {
        "name": measure.name,
        "a": values[0],
        "b": values[1],
        "difference": values[1] - values[0],
        "low": low,
        "high": high,
        "p": p,
        "test": "McNemar" if binary else "permutation",
        "items": len(a),
        "better": {True: "b", False: "a"}[(values[1] > values[0]) == measure.higher_is_better]
        if p < 0.05 and values[0] != values[1]
        else None,
        "share": measure.share,
    }


def _write(folder: Path, comparison: Mapping[str, Any]) -> None:
    from factory.evaluation.page import render_comparison

    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise unwritable(folder, error) from error
    write_atomically(folder / "report.html", render_comparison(comparison).encode())
    write_atomically(folder / "results.json", orjson.dumps(comparison, option=orjson.OPT_INDENT_2) + b"\n")


def comparison_table(comparison: Mapping[str, Any]) -> Table:
    table = Table(title=f"{comparison['suite']} · {comparison['items']:,} items", title_justify="left")
    names = [f"{side}: {escape(comparison[side.lower()]['name'])}" for side in ("A", "B")]
    for column in ("metric", *names, "B - A", "95% interval", "p", "test"):
        table.add_column(column, justify="left" if column in ("metric", "test") else "right")
    for row in comparison["differences"]:
        interval = f"{difference(row, 'low')} to {difference(row, 'high')}"
        values = (shown(row[side], row["share"]) for side in ("a", "b"))
        table.add_row(
            Text(row["name"]), *values, difference(row, "difference"), interval, p_value(row["p"]), row["test"]
        )
    return table
