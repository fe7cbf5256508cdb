"""`report.html` of a loop: what was gained, over what, how surely; what became of the data; and where the time went."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from factory.evaluation.results import p_value
from factory.iterate.compared import gain_of
from factory.iterate.conclusions import (
    TRAINED_ON,
    amount,
    asked,
    by_round,
    figure_of,
    headline,
    last_round,
    rows_of,
    sharpening,
    signed,
)
from factory.iterate.measured import gap_name, widest_pass
from factory.iterate.utilisation import Work
from factory.report.charts import duration, number
from factory.report.frame import document, fact, folded, short
from factory.report.html import Child, Html, h, join
from factory.report.rounds_charts import KINDS, Trend, over_rounds, timeline, whisker

Results = Mapping[str, Any]
Row = Mapping[str, Any]
_TAGS = {"shown": "Shown", "against": "Shown, against", "not shown": "Not shown", "seen": "Seen", "limit": "Limit"}
_FOOTER = "One self-contained file: no network, no tracking. Its numbers are those of results.json beside it."


def render(results: Results, work: Work) -> str:
    """The whole document."""
    found = [
        ("evidence", "What the numbers say", _evidence(results)),
        ("gains", "Gains", _gains(results)),
        ("sharpening", "Better, or only surer?", _sharpening(results)),
        ("data", "The data, round by round", _data(results)),
        ("time", "Where the time went", _time(results, work)),
        ("stages", "Stages", _stages(results)),
    ]
    sections = [(name, title, body) for name, title, body in found if body is not None]
    return document(
        results["run"], "report of rounds", _header(results), sections, skip="gains", footer=_FOOTER, style="rounds.css"
    )


# ---- header


def _header(results: Results) -> Html:
    stages = results["stages"]
    chip = (
        h("span", "Finished", class_="chip good")
        if results["finished"]
        else h("span", f"{number(stages['done'])} of {number(stages['planned'])} stages", class_="chip warn")
    )
    students = ", then ".join(results["students"])
    count = len(results["seeds"])
    lead = [
        "Recipe ", h("b", results["recipe"]), " · first teacher ", h("b", results["teacher"]), " · student ", h("b", students),
        " · ", h("b", number(results["rounds"])), f" round{'s' if results['rounds'] != 1 else ''} · ", h("b", number(count)),
        f" seed{'s' if count != 1 else ''}",
    ]  # fmt: skip
    return h(
        "header",
        h("p", "Rounds", class_="eyebrow"),
        h("div", h("h1", results["run"]), chip, class_="title"),
        h("p", lead, class_="lead"),
        h("dl", list(_facts(results)), class_="facts"),
        [h("p", problem, class_="notice") for problem in results["problems"]],
    )


def _facts(results: Results) -> Iterator[Html]:
    suite = next(
        (suite for suite in results["suites"] if suite["when"] == "always" and headline(results, suite["name"])), None
    )
    row = headline(results, suite["name"]) if suite else None
    last = last_round(row) if row else None
    if row is not None and last is not None:
        yield from _gain_facts(results, row, last)
    told = results["utilisation"]
    if told["wall_seconds"]:
        note = f"of {duration(told['wall_seconds'])} of wall time"
        yield fact("Generating or training", f"{told['share']['working']:.1%}".replace("%", " %"), note)
    if told["gpus"]:
        busy = sum(one["busy"] for one in told["gpus"]) / len(told["gpus"])
        count = len(told["gpus"])
        yield fact(
            "GPU busy",
            f"{busy:.0%}".replace("%", " %"),
            f"as its driver says, mean of {count} GPU{'s' if count > 1 else ''}",
        )


def _gain_facts(results: Results, row: Row, last: int) -> Iterator[Html]:
    final = next(value for value in row["values"] if value["of"] == "round" and value["round"] == last)
    base = next((value for value in row["values"] if value["of"] == "start" and value["name"] == row["base"]), None)
    note = f"{amount(base['mean'], row['share'])} at the start" if base else "the start was not measured"
    yield fact(f"{row['measure']} on {row['suite']}, round {last}", amount(final["mean"], row["share"]), note)
    gain = gain_of(row, {"of": "start", "name": row["base"]}, {"of": "round", "round": last})
    if gain:
        yield fact("Gain over the start", signed(gain["difference"], row["share"]), _ends(gain, row))
    gain = gain_of(row, {"of": "control", "name": row["best_control"]}) if row["best_control"] else None
    if gain:
        yield fact(
            "Over the best control",
            signed(gain["difference"], row["share"]),
            f"{_ends(gain, row)} · {row['best_control']}",
        )


def _ends(gain: Mapping[str, Any], row: Row) -> str:
    if gain["low"] is None:
        return "no interval"
    low, high = (signed(gain[end], row["share"]).removesuffix(" points") for end in ("low", "high"))
    return f"95 % interval {low} to {high}"


# ---- words


def _evidence(results: Results) -> Html:
    said = results["conclusions"]
    if not said:
        return h("p", "Nothing was measured yet.", class_="empty")
    rows, before = [], said[0]["kind"]
    for one in said:
        kind = one["kind"]
        first = (kind == "limit") != (before == "limit")
        tag = h("span", _TAGS[kind], class_="tagged")
        rows.append(h("li", tag, h("p", one["text"]), class_=f"{kind.replace(' ', '-')}{' first' if first else ''}"))
        before = kind
    return h("ul", rows, class_="says")


# ---- gains


def _gains(results: Results) -> Html:
    parts = []
    for suite in results["suites"]:
        row = headline(results, suite["name"])
        if row is None or (suite["when"] == "start" and _is_another_way(results, suite["name"])):
            continue
        parts.append(_suite(results, suite, row))
    return join(parts) if parts else h("p", "No evaluation is finished yet.", class_="empty")


def _is_another_way(results: Results, name: str) -> bool:
    """Whether a suite's start is shown beside another suite's."""
    return any(
        value["of"] == "start" and value["name"] == name and row["suite"] != name
        for row in results["measures"]
        for value in row["values"]
    )


def _suite(results: Results, suite: Mapping[str, Any], row: Row) -> Html:
    others = [other for other in rows_of(results, suite["name"]) if other is not row and _apart(row, other)]
    last = last_round(row)
    says = f"{number(row['items'])} items. Bars are 95 % intervals"
    says += ", rings are single seeds" if any(len(value["seeds"]) > 1 for value in row["values"]) else ""
    says += ", the dashed line is the base line: the better way of asking the start." if row["base"] else "."
    return join(
        [
            h("h3", f"{suite['name']}: {row['measure']}", class_="of"),
            h("p", says, class_="note"),
            _forest(results, row),
            _groups(results, row, last),
            [
                h(
                    "details",
                    h("summary", f"{other['measure']} on {suite['name']}"),
                    _forest(results, other),
                    class_="more",
                )
                for other in others
            ],
        ]
    )


def _apart(row: Row, other: Row) -> bool:
    """Whether a measure says something else than the headline, as pass does not beside pass@1; gaps have their section."""
    if " - pass@" in other["measure"]:
        return False
    return [value["mean"] for value in row["values"]] != [value["mean"] for value in other["values"]]


def _forest(results: Results, row: Row) -> Html:
    """A row a model: its value, and how far the last round is above it."""
    share, last = row["share"], last_round(row)
    highest = max((value["high"] or value["mean"]) for value in row["values"])
    lowest = min(0.0, *((value["low"] or value["mean"]) for value in row["values"]))
    scale = (lowest, min(1.0, 1.05 * highest) if share else 1.05 * highest)
    base = next(
        (value["mean"] for value in row["values"] if value["of"] == "start" and value["name"] == row["base"]), None
    )
    rows = []
    for value in row["values"]:
        name, note = _named(results, row, value)
        low, mean, high = (
            amount(value[key], share) if value[key] is not None else "–" for key in ("low", "mean", "high")
        )
        drawn = whisker(
            value["low"], value["mean"], value["high"], scale=scale, class_=f"w-{value['of']}", base=base,
            seeds=list(value["seeds"].values()) if len(value["seeds"]) > 1 else (), label=f"{name}: {mean}, from {low} to {high}",
        )  # fmt: skip
        gain = _gain_from(row, value, last)
        rows.append(
            h(
                "tr",
                h("th", name, h("small", note) if note else None, scope="row"),
                h("td", drawn, class_="wide"),
                h("td", h("b", mean), class_="n"),
                h("td", f"{low} to {high}", class_="n"),
                _gain_cells(gain, row),
                h("td", _seeds(value, share), class_="n"),
                class_="last" if value["of"] == "round" and value["round"] == last else None,
            )
        )
    above = f"Round {last} less this" if last else "Last round less this"
    names = ("Model", "", "Mean", "95 % interval", above, "95 % interval", "p", "Seeds")
    return _table(names, rows, "forest", plain=(0, 1))


def _named(results: Results, row: Row, value: Mapping[str, Any]) -> tuple[str, str]:
    """A model's name in a table, and what is to be known of it."""
    if value["of"] == "start":
        base = "base line" if value["name"] == row["base"] else ""
        said = asked(results, value["name"]).removeprefix("the starting model").strip()
        return "Start", ", ".join(filter(None, (said, base)))
    if value["of"] == "round":
        wanted = len(results["seeds"])
        return f"Round {value['round']}", "" if len(
            value["seeds"]
        ) == wanted else f"{len(value['seeds'])} of {wanted} seeds"
    data = results["controls"].get(value["name"], {}).get("data")
    best = " · best control" if value["name"] == row["best_control"] and len(results["controls"]) > 1 else ""
    return f"Control {value['name']}", f"{TRAINED_ON.get(data, 'trained otherwise')}{best}"


def _gain_from(row: Row, value: Mapping[str, Any], last: int | None) -> Mapping[str, Any] | None:
    """What the last round (or a control's own round) has over a model."""
    if value["of"] == "round":
        return None
    first = {key: value[key] for key in ("of", "name", "round")}
    return gain_of(row, first, {"of": "round", **({"round": last} if value["of"] == "start" else {})})


def _gain_cells(gain: Mapping[str, Any] | None, row: Row) -> list[Html]:
    if gain is None:
        return [h("td", class_="n") for _ in range(3)]
    share = row["share"]
    ends = _ends(gain, row).removeprefix("95 % interval ")
    unclear = "n none" if gain["shown"] == "neither" else "n"
    cells = (h("b", signed(gain["difference"], share)), ends, p_value(gain["p"]) if gain["p"] is not None else "–")
    return [
        h("td", cell, class_=unclear, title=gain["test"] if place == 2 else None) for place, cell in enumerate(cells)
    ]


def _seeds(value: Mapping[str, Any], share: bool) -> str:
    return ", ".join(amount(one, share).removesuffix(" %") for one in value["seeds"].values())


def _groups(results: Results, row: Row, last: int | None) -> Html | None:
    """The headline measure of each group of items: the gain over the base line, and over the best control."""
    found = []
    for one in results["measures"]:
        if one["suite"] == row["suite"] and one["measure"] == row["measure"] and one["group"] and last is not None:
            gain = gain_of(one, {"of": "start", "name": one["base"]}, {"of": "round", "round": last})
            if gain is not None:
                found.append((one, gain))
    if not found:
        return None
    reach = 1.05 * max(max(abs(gain["low"] or 0), abs(gain["high"] or 0), abs(gain["difference"])) for _, gain in found)
    rows = [_group(one, gain, reach or 1.0, last) for one, gain in found]
    names = ("Group", f"Round {last} less the start", "Start", f"Round {last}", "Gain", "95 % interval", "p",
             "Over the best control", "95 % interval", "Items")  # fmt: skip
    table = _table(names, rows, "forest gains", plain=(0, 1))
    return h("details", h("summary", f"By group of {row['suite']}"), table, class_="more", open=True)


def _group(one: Row, gain: Mapping[str, Any], reach: float, last: int | None) -> Html:
    share = one["share"]
    base, final = (
        next(value["mean"] for value in one["values"] if all(value[key] == side[key] for key in side)) for side in (gain["from"], gain["to"])
    )  # fmt: skip
    label = f"{one['group']}: {signed(gain['difference'], share)}, {_ends(gain, one)}"
    better = (gain["shown"] == "up") == one["higher_is_better"]
    tone = "neither" if gain["shown"] == "neither" else "up" if better else "down"
    drawn = whisker(
        gain["low"], gain["difference"], gain["high"], scale=(-reach, reach), class_=f"w-{tone}", zero=True, label=label,
    )  # fmt: skip
    over = gain_of(one, {"of": "control", "name": one["best_control"]}) if one["best_control"] else None
    control = _gain_cells(over, one)[:2]
    return h(
        "tr", h("th", one["group"], scope="row"), h("td", drawn, class_="wide"),
        [h("td", amount(value, share), class_="n") for value in (base, final)], _gain_cells(gain, one), control,
        h("td", number(gain["items"]), class_="n"),
    )  # fmt: skip


def _table(names: Sequence[str], rows: Sequence[Html], class_: str, plain: tuple[int, ...]) -> Html:
    head = [h("th", name, scope="col", class_=None if place in plain else "n") for place, name in enumerate(names)]
    return h("div", h("table", h("thead", h("tr", head)), h("tbody", rows), class_=class_), class_="scroll", tabindex=0)


# ---- sharpening


def _sharpening(results: Results) -> Html | None:
    parts = [part for suite in results["suites"] if (part := _sharpened(results, suite)) is not None]
    if not parts:
        return None
    says = (
        "pass@1 is how often one answer is right, pass@k how often one of k is. A model that only becomes surer of what it could "
        "answer before gains in pass@1 and not in pass@k: the two come together. A model that learns to answer more gains in both."
    )
    return join([h("p", says, class_="note"), h("div", parts, class_="trends")])


def _sharpened(results: Results, suite: Mapping[str, Any]) -> Html | None:
    rows = {row["measure"]: row for row in rows_of(results, suite["name"])}
    k = widest_pass(list(rows))
    if k is None or suite["when"] == "start":
        return None
    one, many = rows["pass@1"], rows[f"pass@{k}"]
    trends = [_trend(many, f"pass@{k}", "two"), _trend(one, "pass@1", "one")]
    found = sharpening(results, suite["name"])
    says = ""
    if found:
        said = [
            f"{name} {signed(found[key]['difference'], True)} ({_ends(found[key], one).removeprefix('95 % interval ')})"
            for name, key in (("pass@1", "one"), (f"pass@{k}", "many"), (gap_name(k).replace(" - ", " less "), "gap"))
        ]
        says = f"From the base line to round {found['round']}: {'; '.join(said)}."
    return over_rounds(suite["name"], says, trends, results["rounds"], share=True, class_="tall")


def _trend(row: Row, name: str, colour: str) -> Trend:
    points = [
        (value["round"], value["mean"], value["low"], value["high"], value["seeds"])
        for value in row["values"]
        if value["of"] == "round"
    ]
    base = next(
        (value["mean"] for value in row["values"] if value["of"] == "start" and value["name"] == row["base"]), None
    )
    return Trend(name, colour, points, base, f"{name} at the start")


# ---- data


def _data(results: Results) -> Html | None:
    found = results["diversity"]
    if not found:
        return None
    rounds, several = results["rounds"], len(results["seeds"]) > 1

    def drawn(
        title: str, says: str, lines: Sequence[tuple[str, str, Callable[[Row], float | None]]], **kwargs: Any
    ) -> Html | None:
        return over_rounds(title, says, [_data_trend(found, *line) for line in lines], rounds, **kwargs)

    def named(name: str) -> tuple[str, str, Callable[[Row], float | None]]:
        return name, "one", lambda one: figure_of(one, name)

    budget = _common_budget(found)
    figures = [
        drawn("Kept share", "Of all records, those that train.", [named("kept share")], share=True),
        drawn("Distinct answers per prompt", "Of all answers to it; the dashed number of answers is their most.", [
            ("distinct", "one", lambda one: one["distinct_per_prompt"]["all"]),
            ("answers", "three", lambda one: one["answers_per_prompt"]["all"]),
        ]),
        drawn("Distinct prompts", "Asked, and with a kept answer.", [
            ("asked", "one", lambda one: one["prompts"]["all"]), ("kept", "two", lambda one: one["prompts"]["kept"]),
        ]),
        drawn("Distinct n-grams", f"Share of different ones in the first {number(budget or 0)} words of the kept answers.", [
            (f"{n}-grams", colour, lambda one, n=n: one["distinct"].get(str(budget), {}).get(str(n)))
            for n, colour in ((1, "one"), (2, "two"), (3, "three"))
        ], share=True) if budget else None,
        drawn("Compression ratio", "Kept answers before and after deflating: the higher, the more they repeat each other.",
              [named("compression ratio")]),
        drawn("Length", "Mean characters of an answer.", [
            ("all", "one", lambda one: one["length"]["all"]), ("kept", "two", lambda one: one["length"]["kept"]),
        ]),
        *(
            drawn(f"Score {name}", "Mean over the records that have it, and over the kept ones.", [
                ("all", "one", lambda one, name=name: one["scores"].get(name, {}).get("all")),
                ("kept", "two", lambda one, name=name: one["scores"].get(name, {}).get("kept")),
            ], zero=False)
            for name in dict.fromkeys(name for one in found for name in one["scores"])
        ),
    ]  # fmt: skip
    says = "Means over the seeds, each seed's own line behind. " if several else ""
    says += "No intervals: these are counts of the data that there are."
    return join([h("p", says, class_="note"), h("div", figures, class_="trends"), _data_table(found, budget)])


def _data_trend(found: Sequence[Row], name: str, colour: str, value: Callable[[Row], float | None]) -> Trend:
    points = []
    for round_, rows in sorted(by_round(found).items()):
        seeds = {str(row["seed"]): float(known) for row in rows if (known := value(row)) is not None}
        if seeds:
            points.append((round_, sum(seeds.values()) / len(seeds), None, None, seeds))
    return Trend(name, colour, points)


def _common_budget(found: Sequence[Row]) -> int | None:
    """The largest number of words that every round's kept answers have."""
    shared = set.intersection(*({int(budget) for budget in one["distinct"]} for one in found))
    return max(shared, default=None)


def _data_table(found: Sequence[Row], budget: int | None) -> Html:
    rows = []
    for one in found:
        grams = one["distinct"].get(str(budget), {})
        cells: list[str] = [
            number(one["records"]), number(one["kept"]), _known(one["kept_share"], "{:.1%}"), number(one["prompts"]["all"]),
            number(one["prompts"]["kept"]), _known(one["distinct_per_prompt"]["all"], "{:.2f}"),
            *(_known(grams.get(n), "{:.3f}") for n in "123"), _known(one["compression_ratio"], "{:.2f}"),
            _known(one["length"]["all"], "{:,.0f}"), _known(one["length"]["kept"], "{:,.0f}"),
        ]  # fmt: skip
        head = h("th", f"Seed {one['seed']}, round {one['round']}", scope="row")
        rows.append(h("tr", head, [h("td", cell, class_="n") for cell in cells]))
    names = ("Data", "Records", "Kept", "Share", "Prompts", "with a kept answer", "Distinct answers", "distinct-1", "distinct-2",
             "distinct-3", "Compression", "Characters", "kept")  # fmt: skip
    return h("details", h("summary", "All of it as a table"), _table(names, rows, "forest", plain=(0,)), class_="more")


def _known(value: float | None, form: str) -> str:
    return "–" if value is None else form.format(value).replace("%", " %")


# ---- time


def _time(results: Results, work: Work) -> Html | None:
    told = results["utilisation"]
    if not told["wall_seconds"]:
        return None
    seconds, share = told["seconds"], told["share"]
    count = told["invocations"]
    says = (
        f"In {duration(told['wall_seconds'])} of wall time ({number(count)} invocation{'s' if count != 1 else ''}"
        + (f", {duration(told['pauses_seconds'])} between them cut out" if told["pauses_seconds"] >= 1 else "")
        + f") something was generated or trained for {duration(seconds['either'])}, {share['working']:.1%}; stages were running for "
        f"{duration(seconds['stages'])}, {share['stages']:.1%}."
    )
    if seconds["both"]:
        says += f" For {duration(seconds['both'])} of it both went on at the same time."
    legend = [h("span", h("i", class_=f"k-{kind}"), name) for kind, name in KINDS.items()]
    legend.append(h("span", h("i", class_="k-generate pale"), "pale: the stage starts, loads, or writes"))
    legend.append(h("span", h("i", class_="dash"), "a pause") if told["pauses_seconds"] >= 1 else Html())
    return join(
        [h("p", says, class_="note"), timeline(work), h("p", legend, class_="kinds between"), _time_table(told)]
    )


def _time_table(told: Mapping[str, Any]) -> Html:
    whole = told["wall_seconds"]
    named = (("Generating", "generating"), ("Evaluating", "evaluating"), ("Training", "training"), ("Any of them", "either"),
             ("Two of them at once", "both"), ("Some stage running", "stages"), )  # fmt: skip
    rows = [
        h("tr", h("th", name, scope="row"), h("td", duration(told["seconds"][key]), class_="n"),
          h("td", f"{told['seconds'][key] / whole:.1%}".replace("%", " %"), class_="n"))
        for name, key in named
    ]  # fmt: skip
    gpus = [
        h("tr", h("th", f"GPU {one['gpu']}", scope="row"), h("td", f"{one['busy']:.1%}".replace("%", " %"), class_="n"),
          h("td", f"{one['above_zero']:.1%}".replace("%", " %"), class_="n"), h("td", f"{one['most_mib'] / 1024:.1f} GiB", class_="n"),
          h("td", number(one["samples"]), class_="n"))
        for one in told["gpus"]
    ]  # fmt: skip
    tables = [_table(("Time", "", "of the wall time"), rows, "forest", plain=(0,))]
    if gpus:
        names = ("Driver", "Mean busy", "Samples above zero", "Most memory", "Samples")
        tables.append(_table(names, gpus, "forest", plain=(0,)))
    return h("details", h("summary", "In numbers"), h("div", tables, class_="pair"), class_="more")


# ---- stages


def _stages(results: Results) -> Html | None:
    found: dict[str, list[Mapping[str, Any]]] = {}
    for one in results["work"]:
        found.setdefault(one["stage"].partition("/")[0], []).append(one)
    if not found:
        return None
    parts = []
    for name, stages in found.items():
        time = sum(one["seconds"] for one in stages)
        title = f"{name.replace('-', ' ').capitalize()}: {number(len(stages))} stages, {duration(time)}"
        rows = [_stage(one) for one in stages]
        names = ("Stage", "Time", "Records", "Kept", "Steps", "Tokens")
        parts.append(h("details", h("summary", title), _table(names, rows, "stages", plain=(0,)), class_="more"))
    note = "Records: made, asked or exported. Tokens: generated, or seen by the optimiser. Time: over all invocations."
    made: dict[str, Child] = {
        "Next": results["stages"]["next"],
        **{f"Suite {suite['name']}": _flat(suite["settings"] or {}) for suite in results["suites"]},
    }
    return join([h("p", note, class_="note"), *parts, h("div", folded(made, "How it was asked"), class_="more")])


def _stage(one: Mapping[str, Any]) -> Html:
    place = one["stage"].partition("/")[2]
    unfinished = "" if one["done"] else " (not finished)"
    counts = [one["records"], one["kept"], one["steps"]]
    cells = [duration(one["seconds"]), *("–" if count is None else number(count) for count in counts)]
    cells.append("–" if one["tokens"] is None else short(one["tokens"]))
    head = h("th", h("i", class_=f"k-{one['kind'] or 'aside'}"), f"{place}{unfinished}", scope="row")
    return h("tr", head, [h("td", cell, class_="n") for cell in cells])


def _flat(settings: Mapping[str, Any]) -> str:
    return ", ".join(f"{key} {value}" for key, value in settings.items())[:2000]
