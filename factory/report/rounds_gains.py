"""The sections of a loop's report on what was gained: every model's value, and how far the last round is above it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from factory.evaluation.results import p_value
from factory.iterate.compared import gain_of
from factory.iterate.conclusions import sharpening, verdict
from factory.iterate.measured import gap_name, widest_pass
from factory.iterate.wording import (
    TRAINED_ON,
    Row,
    amount,
    asked,
    ends,
    goes_on,
    headline,
    over_start,
    rows_of,
    signed,
    some,
)
from factory.report.html import Html, h, join
from factory.report.rounds_charts import Trend, over_rounds, table, whisker

Results = Mapping[str, Any]


def gains(results: Results) -> Html:
    parts = []
    for suite in results["suites"]:
        row = headline(results, suite["name"])
        if row is not None and not _is_another_way(results, suite):
            parts.append(_suite(results, row))
    if not parts:
        return h("p", "No evaluation is finished yet.", class_="empty")
    held = ", the seeds held as they are" if len(results["seeds"]) > 1 else ""
    note = (
        "p: how likely a difference as large is if the two models were exchangeable item by item (McNemar's exact test for one seed "
        f"and items that are right or wrong, else a permutation test){held}. Pale: not shown, since the interval has zero in it or p is "
        "0.05 or more. Every comparison is judged by itself."
    )
    return join([*parts, h("p", note, class_="note between")])


def _is_another_way(results: Results, suite: Mapping[str, Any]) -> bool:
    """Whether a suite of the start is shown beside another suite's."""
    name = suite["name"]
    return suite["when"] == "start" and any(
        value["of"] == "start" and value["name"] == name and row["suite"] != name
        for row in results["measures"]
        for value in row["values"]
    )


def _suite(results: Results, row: Row) -> Html:
    name = row["suite"]
    others = [other for other in rows_of(results, name) if other is not row and _says_more(row, other)]
    says = f"{some(row['items'], 'item')}. Bars are 95 % intervals"
    says += ", rings are single seeds" if any(len(value["seeds"]) > 1 for value in row["values"]) else ""
    ways = sum(value["of"] == "start" for value in row["values"])
    if ways:
        says += ", the dashed line is the base line" + (": the better way of asking the start" if ways > 1 else "")
    more = [
        h("details", h("summary", f"{other['measure']} on {name}"), _forest(results, other), class_="more")
        for other in others
    ]
    title = h("h3", f"{name}: {row['measure']}", class_="of")
    return join([title, h("p", f"{says}.", class_="note"), _forest(results, row), _groups(results, row), more])


def _says_more(row: Row, other: Row) -> bool:
    """Whether a measure says something else than the headline, as pass does not beside pass@1; gaps have their section."""
    same = [value["mean"] for value in row["values"]] == [value["mean"] for value in other["values"]]
    return not same and not other["measure"].endswith(" - pass@1")


def _base(row: Row) -> float | None:
    return next(
        (value["mean"] for value in row["values"] if value["of"] == "start" and value["name"] == row["base"]), None
    )


# ---- a row a model


def _forest(results: Results, row: Row) -> Html:
    share, last = row["share"], row["last_round"]
    highest = max(value["mean"] if value["high"] is None else value["high"] for value in row["values"])
    lowest = min(value["mean"] if value["low"] is None else value["low"] for value in row["values"])
    scale = (min(lowest, 0.0), min(1.0, 1.05 * highest) if share else 1.05 * highest)
    rows = [_model(results, row, value, scale) for value in row["values"]]
    less = f"Round {last} less this" if last else "Last round less this"
    names = ("Model", "", "Mean", "95 % interval", less, "95 % interval", "p", "Seeds")
    return table(names, rows, "forest", plain=2)


def _model(results: Results, row: Row, value: Mapping[str, Any], scale: tuple[float, float]) -> Html:
    share = row["share"]
    name, note = _named(results, row, value)
    low, mean, high = (amount(value[key], share) if value[key] is not None else "–" for key in ("low", "mean", "high"))
    seeds = list(value["seeds"].values())
    drawn = whisker(
        value["low"], value["mean"], value["high"], scale=scale, class_=f"w-{value['of']}", base=_base(row),
        seeds=seeds if len(seeds) > 1 else (), label=f"{name}: {mean}, from {low} to {high}",
    )  # fmt: skip
    last = value["of"] == "round" and value["round"] == row["last_round"]
    return h(
        "tr",
        h("th", name, h("small", note) if note else None, scope="row"),
        h("td", drawn, class_="wide"),
        h("td", h("b", mean), class_="n"),
        h("td", f"{low.removesuffix(' %')} to {high}", class_="n"),
        _gain_cells(_last_less(row, value), row),
        h("td", ", ".join(amount(one, share).removesuffix(" %") for one in seeds), class_="n"),
        class_="last" if last else None,
    )


def _named(results: Results, row: Row, value: Mapping[str, Any]) -> tuple[str, str]:
    """A model's name in a table, and what is to be known of it."""
    if value["of"] == "start":
        way = asked(results, value["name"]).removeprefix("the starting model").strip()
        return "Start", ", ".join(filter(None, (way, "base line" if value["name"] == row["base"] else "")))
    if value["of"] == "round":
        wanted, there = len(results["seeds"]), len(value["seeds"])
        missing = f"{there} of {wanted} seeds" if there < wanted else ""
        return f"Round {value['round']}", "; ".join(filter(None, (goes_on(results, value["round"]), missing)))
    data = TRAINED_ON.get(results["controls"].get(value["name"], {}).get("data"), "trained otherwise")
    best = value["name"] == row["best_control"] and len(results["controls"]) > 1
    return f"Control {value['name']}", f"{data}{'; the best control' if best else ''}"


def _last_less(row: Row, value: Mapping[str, Any]) -> Mapping[str, Any] | None:
    """What the last round has over the start, and a control's own round over the control."""
    if value["of"] == "start":
        return gain_of(row, {"of": "start", "name": value["name"]}, {"of": "round", "round": row["last_round"]})
    return gain_of(row, {"of": "control", "name": value["name"]}) if value["of"] == "control" else None


def _gain_cells(gain: Mapping[str, Any] | None, row: Row) -> list[Html]:
    """The difference, its interval and its p-value; pale where nothing is shown."""
    if gain is None:
        return [h("td", class_="n") for _ in range(3)]
    tone = "n none" if gain["shown"] == "neither" else "n"
    p = "–" if gain["p"] is None else "<0.001" if gain["p"] < 0.001 else p_value(gain["p"])
    return [
        h("td", h("b", signed(gain["difference"], row["share"])), class_=tone),
        h("td", ends(gain, row["share"]), class_=tone),
        h("td", p, class_=tone, title=gain["test"] or None),
    ]


# ---- a row a group


def _groups(results: Results, row: Row) -> Html | None:
    """The headline measure of each group of items: the gain over the base line, and over the best control."""
    found = [
        (one, gain)
        for one in results["measures"]
        if one["suite"] == row["suite"] and one["measure"] == row["measure"] and one["group"]
        if (gain := over_start(one)) is not None
    ]
    if not found:
        return None
    reach = max(abs(gain[key] or 0) for _, gain in found for key in ("low", "difference", "high"))
    rows = [_group(one, gain, 1.05 * reach or 1.0) for one, gain in found]
    last = row["last_round"]
    names = ("Group", f"Round {last} less the start", "Start", f"Round {last}", "Gain", "95 % interval", "p",
             "Over best control", "95 % interval", "Items")  # fmt: skip
    shown = table(names, rows, "forest gains", plain=2)
    return h("details", h("summary", f"{row['measure']} by group of {row['suite']}"), shown, class_="more", open=True)


def _group(one: Row, gain: Mapping[str, Any], reach: float) -> Html:
    share = one["share"]
    sides = [
        next(
            value["mean"] for value in one["values"] if all(value[key] == side[key] for key in ("of", "name", "round"))
        )
        for side in (gain["from"], gain["to"])
    ]
    tone = {"not shown": "neither", "shown": "up", "against": "down"}[verdict(one, gain)]
    label = f"{one['group']}: {signed(gain['difference'], share)}, from {ends(gain, share)}"
    drawn = whisker(
        gain["low"], gain["difference"], gain["high"], scale=(-reach, reach), class_=f"w-{tone}", zero=True, label=label
    )
    over = gain_of(one, {"of": "control", "name": one["best_control"]}) if one["best_control"] else None
    return h(
        "tr",
        h("th", one["group"], scope="row"),
        h("td", drawn, class_="wide"),
        [h("td", amount(value, share), class_="n") for value in sides],
        _gain_cells(gain, one),
        _gain_cells(over, one)[:2],
        h("td", f"{gain['items']:,}", class_="n"),
    )


# ---- sharpening


def sharpened(results: Results) -> Html | None:
    """pass@1 beside pass@k over the rounds, suite by suite."""
    parts = [part for suite in results["suites"] if (part := _sharpened(results, suite)) is not None]
    if not parts:
        return None
    says = (
        "pass@1 is how often one answer is right, pass@k how often at least one of k is. A model that only becomes surer of what it "
        "could answer before gains in pass@1 and not in pass@k: the two come together. One that learns to answer more gains in both."
    )
    return join([h("p", says, class_="note"), h("div", parts, class_="trends two-wide")])


def _sharpened(results: Results, suite: Mapping[str, Any]) -> Html | None:
    rows = {row["measure"]: row for row in rows_of(results, suite["name"])}
    k = widest_pass(list(rows))
    if k is None or suite["when"] == "start":
        return None
    one, many = rows["pass@1"], rows[f"pass@{k}"]
    found, says = sharpening(results, suite["name"]), ""
    if found:
        names = (("pass@1", "one"), (f"pass@{k}", "many"), (gap_name(k).replace(" - ", " less "), "gap"))
        said = (f"{name} {signed(found[key]['difference'], True)} ({ends(found[key], True)})" for name, key in names)
        says = f"From the base line to round {found['round']}: {'; '.join(said)}."
    trends: Sequence[Trend] = [_trend(many, f"pass@{k}", "two"), _trend(one, "pass@1", "one")]
    return over_rounds(suite["name"], says, trends, results["rounds"], share=True, class_="tall")


def _trend(row: Row, name: str, colour: str) -> Trend:
    points = [
        (value["round"], value["mean"], value["low"], value["high"], value["seeds"])
        for value in row["values"]
        if value["of"] == "round"
    ]
    return Trend(name, colour, points, _base(row), f"{name} at the start")
