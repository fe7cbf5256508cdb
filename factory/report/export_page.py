"""`report.html` of an export: what was selected and what was left out, step by step, and what the rows are like."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from factory.outputs import write_atomically
from factory.report.agreement import Draws, spearman
from factory.report.agreement_sections import between, clip, figures, table, titled
from factory.report.charts import bar, histogram, number, percent
from factory.report.collect import load_manifest
from factory.report.exported import Exported, collect_export, statistics_by_run
from factory.report.frame import document, fact, folded
from factory.report.html import Child, Html, h, join
from factory.report.map import drawn_map
from factory.report.measures import wilson
from factory.report.rules import Cut, cuts
from factory.report.scatter import scatter
from factory.report.sections import cut_note

_REASONS, _PARTS = 40, 30
_LONG = 0.3  # a correlation of margin and length beyond which it is said
_FORMATS = {
    "sft": "Conversations for supervised fine-tuning",
    "preference": "Preference pairs",
    "reward": "Ranked answers for a reward model",
}


def is_export(folder: Path) -> bool:
    """Whether an export was written there (a run's manifest has no `format`)."""
    return (folder / "manifest.json").is_file() and "format" in load_manifest(folder)


def write_export_report(folder: Path) -> Path:
    """Write `report.html` from an export's manifest and rows. Raises `UserError` where these cannot be read."""
    manifest = load_manifest(folder)
    found = collect_export(folder, manifest)
    path = folder / "report.html"
    write_atomically(path, render(manifest, found, drawn_map(folder)).encode())
    return path


def render(manifest: Mapping[str, Any], found: Exported, picture: Html | None) -> str:
    """The whole document."""
    runs = _runs(manifest)
    parts = (
        ("funnel", "Selection, step by step", _funnel(manifest)),
        ("mixture", "Mixture", _mixture(manifest)),
        ("pairs", "How far answers are apart", _pairs(manifest, found)),
        ("scores", "Scores", _scores(manifest, found)),
        ("duplicates", "Duplicates, side by side", _duplicates(found)),
        ("map", "Map", picture),
    )
    sections = [(name, title, body) for name, title, body in parts if body is not None]
    footer = "One self-contained file: no network, no tracking. Texts of models are shown as text, never run."
    return document(" + ".join(runs), "export report", _header(manifest, runs), sections, skip="funnel", footer=footer)


def _runs(manifest: Mapping[str, Any]) -> list[str]:
    found = manifest.get("runs") or manifest.get("run") or "export"
    return [found] if isinstance(found, str) else [str(run) for run in found]


# ---- header


def _header(manifest: Mapping[str, Any], runs: Sequence[str]) -> Html:
    splits, tokens = manifest.get("splits") or {}, manifest.get("tokens") or {}
    rows, records = manifest.get("rows", 0), manifest.get("records", 0)
    facts = [
        fact(
            "Rows",
            number(rows),
            " · ".join(f"{number(count)} in {name}" for name, count in splits.items()) or "in one part",
        ),
        fact("Records", number(records), f"looked at, of {number(len(runs))} run{'s' if len(runs) != 1 else ''}"),
    ]
    if tokens.get("total"):
        facts.append(fact("Tokens", number(tokens["total"]), str(tokens.get("counted_by", ""))))
    asked = {
        name: manifest.get(name) for name in ("keep", "order", "reward", "per_group", "max_pairs", "min_gap", "seed")
    }
    made: dict[str, Child] = {"Runs": ", ".join(runs), "Models": ", ".join(map(str, manifest.get("models") or ()))}
    made |= {name: str(value) for name, value in asked.items() if value is not None}
    for run, values in statistics_by_run(manifest):
        made[f"Statistics of {run}"] = ", ".join(f"{key} = {number(value)}" for key, value in values.items())
    return h(
        "header",
        h("p", "Export report", class_="eyebrow"),
        h("div", h("h1", " + ".join(runs)), h("span", manifest.get("format", ""), class_="chip good"), class_="title"),
        h("p", _FORMATS.get(str(manifest.get("format")), ""), class_="lead"),
        h("dl", facts, class_="facts"),
        folded(made, "How it was selected"),
    )


# ---- funnel and mixture


def _funnel(manifest: Mapping[str, Any]) -> Html | None:
    """A row a step: how many it was given, how many are left, and why the others are not."""
    steps: Sequence[Mapping[str, Any]] = manifest.get("funnel") or ()
    if not steps:
        return None
    most: dict[str, int] = {}
    for step in steps:
        unit = _unit(step)
        most[unit] = max(most.get(unit, 0), step["in"], step["out"])
    start, unit, rows = steps[0], "", list[Html]()
    for step in steps:
        if _unit(step) != unit:
            unit = _unit(step)
            count = step["in"] if step is start or rows else 0
            rows.append(
                h(
                    "li",
                    h("div", _end(f"{unit.capitalize()} in", count, most[unit], "all"), class_="row"),
                    data_stage=unit,
                )
            )
        rows.append(_step(step, most[unit]))
    last = steps[-1]["out"]
    rows.append(
        h("li", h("div", _end("Left", last, most[unit], "kept"), class_="row"), data_stage="left", data_count=last)
    )
    note = "Open a step to see why. A bar is green for what goes on and orange for what a step takes away."
    return join([h("p", note, class_="note"), h("ol", rows, class_="funnel")])


def _unit(step: Mapping[str, Any]) -> str:
    return str(step.get("unit") or "records")


def _end(name: str, count: int, most: int, class_: str) -> list[Html]:
    return [
        h("span", name, class_="name strong"),
        bar([(class_, 0, count / most if most else 0)]),
        h("span", number(count), class_="n strong"),
        h("span", percent(count, most) if class_ == "kept" else "", class_="n dim"),
    ]


def _step(step: Mapping[str, Any], most: int) -> Html:
    given, left = step["in"], step["out"]
    lost, most = given - left, most or 1
    parts = [("kept", 0.0, min(given, left) / most)]
    parts.append(("lost", left / most, lost / most) if lost > 0 else ("all", given / most, -lost / most))
    row = [
        h("span", clip(str(step["step"])), class_="name"),
        bar(parts),
        h("span", number(-lost) if lost else "0", class_="n"),
        h("span", percent(lost, given) if lost > 0 else "", class_="n dim"),
    ]
    reasons = sorted((step.get("reasons") or {}).items(), key=lambda entry: (-entry[1], entry[0]))
    data = {"data_stage": step["step"], "data_count": lost}
    if not reasons:
        return h("li", h("div", row, class_="row plain"), **data)
    items = [
        h("li", h("span", clip(why, 200), class_="why"), h("span", number(count), class_="n"))
        for why, count in reasons[:_REASONS]
    ]
    if rest := reasons[_REASONS:]:
        total = number(sum(count for _, count in rest))
        items.append(h("li", h("span", f"{number(len(rest))} other reasons"), h("span", total, class_="n")))
    return h("li", h("details", h("summary", row, class_="row"), h("ul", items, class_="reasons")), **data)


def _mixture(manifest: Mapping[str, Any]) -> Html | None:
    mixture = manifest.get("mixture")
    if not mixture or not mixture.get("parts"):
        return None
    parts = sorted(mixture["parts"].items(), key=lambda entry: (-entry[1]["rows"], entry[0]))
    shown, rest = parts[:_PARTS], parts[_PARTS:]
    most = max((part["share"] for _, part in parts), default=1) or 1
    rows = []
    for name, part in shown:
        chart = bar([("kept", 0, part["share"] / most)], f"{percent(part['share'], 1)}")
        short = h("span", "short of what was wanted", class_="tag warn") if part.get("short") else None
        cells = [h("td", text, class_="n") for text in (percent(part["share"], 1), number(part["rows"]))]
        rows.append(h("tr", h("th", clip(name), short, scope="row"), h("td", chart, class_="wide"), cells))
    unit = str(mixture.get("unit") or "rows")
    note = f"Shares are of {unit}."
    if rest:
        note += f" {number(len(rest))} smaller parts with {number(sum(part['rows'] for _, part in rest))} rows are not shown."
    return join([h("p", note, class_="note"), table(("Part", f" Share of {unit}", "Share", "Rows"), rows, 2)])


# ---- pairs


def _pairs(manifest: Mapping[str, Any], found: Exported) -> Html | None:
    pairs = found.pairs
    if not pairs.count:
        return None
    gap = manifest.get("min_gap")
    cut = [Cut(">", float(gap))] if isinstance(gap, int | float) and gap > 0 else []
    ranked = found.format == "reward"
    says = "best and worst answer of a prompt" if ranked else "chosen and rejected answer"
    drawn = [
        _figure(
            "Margin",
            f"how far the rewards of {says} are apart",
            histogram("margin", pairs.margins, cut, ("pairs", "")),
            cut,
        ),
        _figure(
            "Length difference",
            "characters that the better answer is longer (green) or shorter (orange)",
            histogram("length difference", pairs.lengths, [], ("better is longer", "better is not longer")),
        ),
    ]
    if ranked and found.answers.count:
        drawn.append(
            _figure(
                "Answers to a prompt",
                "how many each row holds",
                histogram("answers", found.answers, [], ("prompts", "")),
            )
        )
    return join([_pair_facts(found), h("div", drawn, class_="grid wider"), _length_and_margin(found)])


def _figure(title: str, says: str, drawing: Html, cut: Sequence[Cut] = ()) -> Html:
    return h("figure", h("figcaption", h("b", title), h("span", says), cut_note(cut)), drawing)


def _pair_facts(found: Exported) -> Html:
    pairs = found.pairs
    apart = pairs.longer + pairs.shorter
    low, high = wilson(pairs.longer, apart)
    longer = f"The better answer is the longer one in {percent(pairs.longer, apart)} of {number(apart)} pairs"
    longer += f" ({100 * low:.0f} to {100 * high:.0f} %)." if apart else "."
    sources = ", ".join(f"{name} {number(count)}" for name, count in pairs.sources.most_common(8))
    return h("p", f"{longer} Decided by: {sources}.", class_="note")


def _length_and_margin(found: Exported) -> Html | None:
    """Whether the margin goes with the difference in length: a model trained on such pairs learns to write long."""
    points = found.pairs.points()
    lengths, margins = [point[0] for point in points], [point[1] for point in points]
    if len(set(lengths)) < 2 or len(set(margins)) < 2:
        return None
    rho = spearman(lengths, margins, Draws(range(len(points))))
    says = (
        f"Spearman's rank correlation is {figures(rho.value)} ({between(rho)}) over {number(len(points))} pairs. Near 0 is good: "
        "where the margin grows with the length, a model learns to write long."
    )
    warning = h(
        "p",
        "The margin goes with the length. Bound the lengths, or use a reward that is less fond of them.",
        class_="notice",
    )
    drawing = scatter("length difference", "margin", points, legend=("better is longer", "better is not longer"))
    axes = h("p", "across: characters that the better answer is longer · up: margin", class_="note")
    return titled(
        "Does the margin go with the length?", says, [warning if abs(rho.value) > _LONG else None, drawing, axes]
    )


# ---- scores


def _scores(manifest: Mapping[str, Any], found: Exported) -> Html | None:
    if not found.scores:
        return None
    rule = manifest.get("keep")
    bounds = _cuts(rule if isinstance(rule, str) else None, manifest)
    words = ("written", "left out") if found.format == "sft" else ("chosen", "rejected")
    drawn = []
    for name, histogram_ in sorted(found.scores.items())[:24]:
        cut = bounds.get(name, []) if found.format == "sft" else []
        caption = h("figcaption", h("b", clip(name)), h("span", f"{number(histogram_.count)} scored"), cut_note(cut))
        drawn.append(h("figure", caption, histogram(clip(name), histogram_, cut, words)))
    legend = h("p", h("i", class_="kept"), f"{words[0]} ", h("i", class_="lost"), words[1], class_="legend")
    rule_text = h("p", "Keep rule: ", h("code", rule), class_="note") if rule else None
    return join([legend, rule_text or Html(), h("div", drawn, class_="grid")])


def _cuts(rule: str | None, manifest: Mapping[str, Any]) -> dict[str, list[Cut]]:
    """The rule's cuts; a quantile is each run's own, so that several runs may have several lines."""
    found: dict[str, list[Cut]] = {}
    for values in [values for _, values in statistics_by_run(manifest)] or [{}]:
        for name, mine in cuts(rule, values).items():
            known = found.setdefault(name, [])
            known += [cut for cut in mine if cut not in known]
    return found


# ---- duplicates


def _duplicates(found: Exported) -> Html | None:
    if not found.duplicates:
        return None
    counts = ", ".join(f"{number(count)} {kind}" for kind, count in found.kinds.most_common())
    note = f"Listed: {counts}. Shown of each kind are some, from the least alike, where a bound is tight, to the most alike."
    return join([h("p", note, class_="note"), h("div", list(_side_by_side(found)), class_="twins")])


def _side_by_side(found: Exported) -> Iterator[Html]:
    for one in found.duplicates:
        sides = [
            h(
                "div",
                h("b", title),
                h("code", one[key][:16]),
                h("pre", found.texts[one[key]] or "not among the rows", tabindex=0),
            )
            for key, title in (("kept", "Stays"), ("id", "Left out"))
        ]
        summary = h(
            "summary", h("b", clip(one["kind"])), " ", h("span", f"similarity {one['similarity']:.3f}", class_="dim")
        )
        yield h("details", summary, h("div", sides, class_="sides"), open=one is found.duplicates[0])
