"""`report.html` of an export: what was selected from which runs, and where the rest was lost.

Made from what lies in the folder alone (`manifest.json`, `duplicates.jsonl`, `map.json` and the Parquet files), so that it can
be drawn again.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from factory.outputs import write_atomically
from factory.report.agreement_sections import clip, table
from factory.report.charts import bar, number, percent
from factory.report.collect import load_manifest
from factory.report.exported import Exported, collect_export
from factory.report.frame import document, fact, folded, short
from factory.report.html import Html, h
from factory.report.map import drawn_map
from factory.report.selected import pictures

_REASONS = 40  # of a step; the rest are summed up
_UNITS = {"records": "records", "rows": "rows"}


def write_selection_report(folder: Path) -> Path:
    """Draw the page of the export in `folder`. Raises `UserError` where its manifest is missing."""
    manifest = load_manifest(folder)
    path = folder / "report.html"
    write_atomically(path, render(manifest, collect_export(folder, manifest), drawn_map(folder)).encode())
    return path


def is_export(folder: Path) -> bool:
    """Whether the folder is what `export` left."""
    return (folder / "manifest.json").is_file() and "funnel" in load_manifest(folder)


def render(manifest: Mapping[str, Any], found: Exported, picture: Html | None) -> str:
    name = " + ".join(manifest["runs"])
    sections = [*_sections(manifest), *pictures(manifest, found, picture)]
    return document(name, "export report", _header(manifest, name), sections, skip="funnel")


def _sections(manifest: Mapping[str, Any]) -> Iterator[tuple[str, str, Html]]:
    """(id, title, content), in the order in which one asks."""
    yield "funnel", "Step by step", _funnel(manifest)
    if manifest["mixture"] is not None:
        yield "mixture", "Mixture", _mixture(manifest["mixture"])


def _header(manifest: Mapping[str, Any], name: str) -> Html:
    rows, records = manifest["rows"], manifest["records"]
    splits = ", ".join(f"{number(count)} {split}" for split, count in manifest["splits"].items())
    lost = sum(sum(step["reasons"].values()) for step in manifest["funnel"])
    facts = [
        fact("Records read", short(records), f"from {len(manifest['runs'])} runs"
             if len(manifest["runs"]) > 1 else "of one run"),
        fact("Rows written", short(rows), splits),
        fact("Left out", short(lost), "each with its reason, in rejected/"),
        fact("Tokens", short(manifest["tokens"]["total"]), manifest["tokens"]["counted_by"]),
    ]  # fmt: skip
    made = {
        "Format": manifest["format"],
        "Runs": ", ".join(manifest["runs"]),
        "Models": ", ".join(manifest["models"]),
        "Keep rule": manifest["keep"] or "as each run decided",
        "Order": manifest["order"] or "by id",
        "Reward": manifest["reward"],
        **{
            f"{key} in {run}": f"{value:g}"
            for run, found in manifest["statistics"].items()
            for key, value in found.items()
        },
    }
    return h(
        "header",
        h("p", "Export report", class_="eyebrow"),
        h("div", h("h1", name), class_="title"),
        h("p", "Selected as ", h("b", manifest["format"]), class_="lead"),
        h("dl", facts, class_="facts"),
        folded(made, "How it was selected"),
    )


def _funnel(manifest: Mapping[str, Any]) -> Html:
    """A row a step. Bars are shares of what came in first; rows that were made of records start anew."""
    rows, unit, whole = [], None, 1
    for step in manifest["funnel"]:
        if step["unit"] != unit:
            unit, whole = step["unit"], max(step["in"], 1)
            rows.append(_end(f"{_UNITS.get(unit, unit).capitalize()}", step["in"], whole, "all"))
        rows.append(_step(step, whole))
    rows.append(_end("Written", manifest["rows"], max(whole, manifest["rows"]), "kept"))
    return h("ol", rows, class_="funnel")


def _end(name: str, count: int, whole: int, class_: str) -> Html:
    cells = [
        h("span", name, class_="name strong"),
        bar([(class_, 0, count / whole)]),
        h("span", number(count), class_="n strong"),
        h("span", percent(count, whole) if class_ == "kept" else "", class_="n dim"),
    ]
    return h("li", h("div", cells, class_="row"), data_count=count)


def _step(step: Mapping[str, Any], whole: int) -> Html:
    lost = step["in"] - step["out"]
    cells = [
        h("span", step["step"], class_="name"),
        bar([("kept", 0, step["out"] / whole), ("lost", step["out"] / whole, lost / whole)]),
        h("span", number(-lost) if lost else "0", class_="n"),
        h("span", percent(lost, step["in"]) if lost > 0 else "", class_="n dim"),
    ]
    reasons = sorted(step["reasons"].items(), key=lambda entry: (-entry[1], entry[0]))
    items = [_reason(why, count) for why, count in reasons[:_REASONS]]
    if rest := reasons[_REASONS:]:
        items.append(_reason(f"{number(len(rest))} other reasons", sum(count for _, count in rest)))
    items += [_reason(_said(key), value) for key, value in step.items() if _said(key) and value]
    return h(
        "li",
        h("details", h("summary", cells, class_="row"), h("ul", items, class_="reasons")),
        data_stage=step["step"],
        data_count=lost,
    )


def _said(key: str) -> str:
    """What a fact of a step is called."""
    return {"held_out": "rows held out", "held_out_prompts": "prompts held out", "repeated": "rows written again"}.get(
        key, ""
    )


def _reason(why: str, count: int) -> Html:
    return h("li", h("span", why[:300], class_="why"), h("span", number(count), class_="n"))


def _mixture(mixture: Mapping[str, Any]) -> Html:
    unit = mixture["unit"]
    most = max((part["share"] for part in mixture["parts"].values()), default=0) or 1
    names = ("Part", f"Share of {unit}", "Share", f"Available ({unit})", f"Taken ({unit})")
    rows = []
    for name, part in mixture["parts"].items():
        short = "short: its rows may not be repeated more often"
        told = h("span", short, class_="tag warn") if part["short"] else None
        drawn = h("td", bar([("kept", 0, part["share"] / most)], percent(part["share"], 1)), class_="wide")
        figures = [percent(part["share"], 1), number(part["available"]), number(part["taken"])]
        cells = [h("td", text, class_="n") for text in figures]
        rows.append(h("tr", h("th", clip(name), told, scope="row"), drawn, cells))
    return table(names, rows, 2, 1)
