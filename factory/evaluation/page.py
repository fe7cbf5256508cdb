"""`report.html` of an evaluation: each metric with its interval, how it was measured, and what each item gave."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from factory.evaluation.results import difference, p_value, shown
from factory.evaluation.suite import ItemResult
from factory.report.charts import around_zero, duration, interval, number
from factory.report.html import Html, h, join
from factory.report.page import document, fact, provenance

_ITEMS = 300  # shown in the table; the rest is in items.jsonl


def render(results: Mapping[str, Any], items: Sequence[ItemResult]) -> str:
    """The whole document."""
    sections = [("metrics", "Metrics", _metrics(results["metrics"]))]
    if results["notes"]:
        sections.append(("how", "How it was measured", h("ul", [h("li", note) for note in results["notes"]])))
    if results["errors"]:
        sections.append(("errors", "What could not be measured", _errors(results["errors"])))
    if items:
        sections.append(("items", "Items", _items(items)))
    title = f"{results['suite']} · {results['model']['name']}"
    return document(title, _header(title, results), sections)


def _header(title: str, results: Mapping[str, Any]) -> Html:
    tokens = results["tokens"]
    first = next(iter(results["metrics"]), None)
    facts = [
        first and fact(first["name"], shown(first["value"], first["share"]), "over all items"),
        fact("Items", number(results["items"]), f"{number(results['answers'])} answers"),
        fact("Requests", number(results["requests"]), f"{number(tokens['completion'])} tokens generated"),
        fact("Time", duration(results["seconds"]), "in the last invocation"),
    ]
    chip = ("Finished", "chip good") if results["finished"] else ("Not finished", "chip warn")
    roles = {role: results[role] for role in ("model", "baseline", "judge") if results.get(role)}
    made = {
        **{role.title(): " · ".join(str(value) for value in facts.values() if value) for role, facts in roles.items()},
        "Suite": ", ".join(f"{key} {value}" for key, value in results["settings"].items()),
        "Random seed": results["seed"],
        "Templates": results["templates"],
        "Started": results["started_at"],
        "Ended": results["ended_at"],
        "Versions": " · ".join(f"{name} {version}" for name, version in results["versions"].items()),
    }
    return h(
        "header",
        h("p", "Evaluation", class_="eyebrow"),
        h("div", h("h1", title), h("span", chip[0], class_=chip[1]), class_="title"),
        h("dl", facts, class_="facts"),
        h("p", results["stopped"], class_="notice") if results["stopped"] else None,
        provenance(made),
    )


def _metrics(metrics: Sequence[Mapping[str, Any]]) -> Html:
    """A row a metric and group; intervals of the same metric share one scale."""
    if not metrics:
        return h("p", "Nothing was measured yet.", class_="empty")
    highest = {
        metric["name"]: max(one["high"] or 0 for one in metrics if one["name"] == metric["name"]) for metric in metrics
    }
    rows = []
    for metric in metrics:
        low, value, high = (shown(metric[key], metric["share"]) for key in ("low", "value", "high"))
        scale = 1.0 if metric["share"] else highest[metric["name"]]
        label = f"{metric['name']} {metric['group']}: {value}, from {low} to {high}"
        cells = [h("td", text, class_="n") for text in (value, low, high, number(metric["items"]))]
        drawn = interval(metric["low"], metric["value"], metric["high"], scale, label)
        rows.append(
            h(
                "tr",
                h("th", metric["name"], scope="row"),
                h("td", metric["group"]),
                h("td", drawn, class_="wide"),
                cells,
            )
        )
    names = ("Metric", "", "Value with its 95 % interval", "Value", "Low", "High", "Items")
    head = [h("th", name, scope="col", class_="n" if place > 2 else None) for place, name in enumerate(names)]
    return h("div", h("table", h("thead", h("tr", head)), h("tbody", rows), class_="groups"), class_="scroll")


def _errors(errors: Mapping[str, int]) -> Html:
    return h("ul", [h("li", f"{number(count)} × {reason[:300]}") for reason, count in errors.items()])


def _items(items: Sequence[ItemResult]) -> Html:
    names = list(dict.fromkeys(name for item in items for name in item.values))
    rows = []
    for item in items[:_ITEMS]:
        ratios = [item.values.get(name, (0.0, 0.0)) for name in names]
        cells = [h("td", number(total / weight) if weight else "–", class_="n") for total, weight in ratios]
        told = ", ".join(f"{key} {value}" for key, value in item.detail.items())
        rows.append(h("tr", h("th", item.id[:80], scope="row"), h("td", item.group), cells, h("td", told[:300])))
    head = [
        h("th", name, scope="col", class_="n" if name in names else None) for name in ("Item", "", *names, "Detail")
    ]
    table = h("table", h("thead", h("tr", head)), h("tbody", rows), class_="groups")
    more = len(items) - _ITEMS
    note = h("p", f"{number(more)} more are in items.jsonl.", class_="note") if more > 0 else Html()
    return join([h("div", table, class_="scroll"), note])


def render_comparison(comparison: Mapping[str, Any]) -> str:
    """Two models on the same items: each difference with its interval around zero."""
    rows = []
    reach = {row["name"]: max(abs(row["low"] or 0), abs(row["high"] or 0)) for row in comparison["differences"]}
    for row in comparison["differences"]:
        scale = 2 * reach[row["name"]]
        at = [((row[key] or 0) / scale + 0.5) if scale else 0.5 for key in ("low", "difference", "high")]
        told = [difference(row, key) for key in ("difference", "low", "high")]
        label = f"{row['name']}: B - A is {told[0]}, from {told[1]} to {told[2]}"
        values = [shown(row[side], row["share"]) for side in ("a", "b")]
        cells = [h("td", text, class_="n") for text in (*values, *told, p_value(row["p"]))]
        drawn = around_zero(at[0], at[1], at[2], label)
        rows.append(
            h("tr", h("th", row["name"], scope="row"), h("td", drawn, class_="wide"), cells, h("td", row["test"]))
        )
    names = ("Metric", "Difference around zero", "A", "B", "B - A", "Low", "High", "p", "Test")
    head = [h("th", name, scope="col", class_="n" if 1 < place < 8 else None) for place, name in enumerate(names)]
    table = h("div", h("table", h("thead", h("tr", head)), h("tbody", rows), class_="groups"), class_="scroll")
    title = f"{comparison['suite']}: {comparison['a']['name']} and {comparison['b']['name']}"
    facts = {side.upper(): " · ".join(str(value) for value in comparison[side].values()) for side in ("a", "b")}
    top = h(
        "header",
        h("p", "Comparison", class_="eyebrow"),
        h("div", h("h1", title), class_="title"),
        h("dl", fact("Items", number(comparison["items"]), "the same ones for both"), class_="facts"),
        None if comparison["finished"] else h("p", "One of the two was not finished.", class_="notice"),
        provenance(facts),
    )
    notes = h("ul", [h("li", note) for note in comparison["notes"]])
    return document(title, top, [("differences", "Differences", table), ("how", "How it was measured", notes)])
