"""What each section of the report says: losses, acceptance by topic, time, scores and the browser of records."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from factory.report import charts
from factory.report.agreement_sections import scatters
from factory.report.charts import bar, duration, number, percent
from factory.report.collect import Findings
from factory.report.compared import Compared
from factory.report.html import Html, h, join
from factory.report.measures import wilson
from factory.report.rules import Cut, cuts
from factory.report.samples import group_of

_STAGES, _REASONS, _VALUES = 12, 40, 24  # rows shown before the rest is summed up


def funnel(manifest: Mapping[str, Any], findings: Findings) -> Html:
    """From the records made to those kept, a row a stage of loss, in the order in which records come to them."""
    made, kept = manifest["records"], manifest["kept"]
    if not made:
        return h("p", "No record was made yet.", class_="empty")
    stages = _stages(manifest.get("reasons") or {}, findings)
    rows, left = [], made
    for stage, reasons in stages:
        lost = sum(count for _, count in reasons)
        left -= lost
        rows.append(_loss(stage, reasons, lost, left, made))
    return h(
        "ol",
        h("li", h("div", _end("Records made", made, made, "all"), class_="row"), data_count=made, data_stage="records"),
        rows,
        h("li", h("div", _end("Kept", kept, made, "kept"), class_="row"), data_count=kept, data_stage="kept"),
        class_="funnel",
    )


def _end(name: str, count: int, made: int, class_: str) -> list[Html]:
    return [
        h("span", name, class_="name strong"),
        bar([(class_, 0, count / made)]),
        h("span", number(count), class_="n strong"),
        h("span", percent(count, made) if class_ == "kept" else "", class_="n dim"),
    ]


def _loss(stage: str, reasons: list[tuple[str, int]], lost: int, left: int, made: int) -> Html:
    summary = h(
        "summary",
        h("span", stage, class_="name"),
        bar([("rest", 0, left / made), ("lost", max(left, 0) / made, lost / made)]),
        h("span", number(-lost), class_="n"),
        h("span", percent(lost, made), class_="n dim"),
        class_="row",
    )
    shown, rest = reasons[:_REASONS], reasons[_REASONS:]
    items = [
        h(
            "li",
            h("span", _clip(reason) or "no reason given", class_="why"),
            h("span", number(count), class_="n"),
            h("button", "show", type="button", data_reason=reason, aria_label=f"Show records lost to {_clip(reason)}"),
            data_count=count,
            data_why=reason,
        )
        for reason, count in shown
    ]
    if rest:
        total = sum(count for _, count in rest)
        items.append(
            h(
                "li",
                h("span", f"{number(len(rest))} other reasons"),
                h("span", number(total), class_="n"),
                data_count=total,
            )
        )
    return h("li", h("details", summary, h("ul", items, class_="reasons")), data_stage=stage, data_count=lost)


def _stages(reasons: Mapping[str, int], findings: Findings) -> list[tuple[str, list[tuple[str, int]]]]:
    """Losses by who named them, the earliest first: by the mean number of scores that their records had."""
    stages: dict[str, list[tuple[str, int]]] = {}
    for reason, count in sorted(reasons.items(), key=lambda item: (-item[1], item[0])):
        stages.setdefault(group_of(reason), []).append((reason, count))
    largest = sorted(stages, key=lambda stage: -sum(count for _, count in stages[stage]))
    small = [pair for stage in largest[_STAGES:] for pair in stages.pop(stage)]

    def when(stage: str) -> tuple[int, float, int]:
        records, scored = findings.depth.get(stage, [0, 0])
        last = {"duplicate": 1, "surplus": 2}.get(stage, 0)
        return last, scored / records if records else 0.0, -sum(count for _, count in stages[stage])

    ordered = [(stage, stages[stage]) for stage in sorted(stages, key=when)]
    return [*ordered, ("other reasons", sorted(small, key=lambda pair: -pair[1]))] if small else ordered


def _clip(text: str, most: int = 200) -> str:
    return text if len(text) <= most else text[:most] + "…"


def groups(findings: Findings) -> tuple[str, Html | None]:
    """Acceptance by topic, or by whatever short key the records carry: the share and how sure it is."""
    best = findings.breakdown.best()
    if best is None:
        return "Acceptance", None
    key, values = best
    ranked = sorted(values.items(), key=lambda item: (-sum(item[1]), item[0]))
    shown, rest = ranked[:_VALUES], ranked[_VALUES:]
    rows = [_group(name, *pair) for name, pair in sorted(shown, key=lambda item: -item[1][0] / max(sum(item[1]), 1))]
    if rest:
        rows.append(
            _group(f"{number(len(rest))} more", sum(pair[0] for _, pair in rest), sum(pair[1] for _, pair in rest))
        )
    names = (_clip(key, 40), "Accepted, with its 95 % interval", "Share", "Kept", "Made")
    head = [h("th", name, scope="col", class_="n" if place > 1 else None) for place, name in enumerate(names)]
    table = h("table", h("thead", h("tr", head)), h("tbody", rows), class_="groups")
    return f"Acceptance by {_clip(key, 40)}", h("div", table, class_="scroll")


def _group(name: str, kept: int, lost: int) -> Html:
    made = kept + lost
    low, high = wilson(kept, made)
    chart = h(
        "svg",
        h("rect", class_="track", width="100%", height="100%"),
        h("rect", class_="kept", width=f"{100 * kept / made:.2f}%", height="100%"),
        h("line", class_="sure", x1=f"{100 * low:.2f}%", x2=f"{100 * high:.2f}%", y1="50%", y2="50%"),
        class_="bar share",
        role="img",
        aria_label=f"between {percent(low, 1)} and {percent(high, 1)}",
    )
    cells = [h("td", text, class_="n") for text in (percent(kept, made), number(kept), number(made))]
    return h("tr", h("th", _clip(name, 80), scope="row"), h("td", chart, class_="wide"), cells)


def time(findings: Findings) -> Html:
    timeline = findings.timeline
    if timeline.started is None:
        return h("p", "No response is in the journal.", class_="empty")
    note = f"Working time, in slices of {duration(timeline.width)}."
    if timeline.pauses:
        count = f"{timeline.pauses} pause{'s' if timeline.pauses > 1 else ''}"
        note += f" {count} longer than {duration(timeline.pause)} left out ({duration(timeline.paused)} in all)."
    plots = [
        h("figure", h("figcaption", title), charts.over_time(timeline, what))
        for what, title in (("tokens", "Generated tokens per second"), ("responses", "Responses per minute"))
    ]
    return join([h("div", plots, class_="pair"), h("p", note, class_="note"), charts.steps_table(findings.steps)])


def scores(manifest: Mapping[str, Any], findings: Findings, compared: Compared) -> Html | None:
    if not findings.scores:
        return None
    rule = cuts(manifest.get("keep"))
    figures = []
    for name, found in sorted(findings.scores.items())[:24]:
        cut = rule.get(name, [])
        note = [f"{number(found.count)} scored", f" · {found.odd} not a number" if found.odd else ""]
        caption = h(
            "figcaption",
            h("b", _clip(name, 60)),
            h("span", note),
            cut_note(cut),
        )
        figures.append(h("figure", caption, charts.histogram(_clip(name, 60), found, cut)))
    legend = h("p", h("i", class_="kept"), "kept ", h("i", class_="lost"), "rejected", class_="legend")
    rule_text = h("p", "Keep rule: ", h("code", manifest["keep"]), class_="note") if manifest.get("keep") else None
    pictures = scatters(compared, manifest.get("keep"))
    return join([legend, rule_text or Html(), h("div", figures, class_="grid"), pictures or Html()])


def cut_note(cut: Sequence[Cut]) -> Html | None:
    """What must be, and what is one way in among several."""
    needed, ways = (", ".join(str(one) for one in cut if one.needed is kind) for kind in (True, False))
    said = [f"keep if {needed}" if needed else "", f"one way in: {ways}" if ways else ""]
    return h("span", " · ".join(filter(None, said)), class_="cutnote") if cut else None


def browser(manifest: Mapping[str, Any], findings: Findings) -> Html:
    """The frame that the script fills from the embedded records."""
    if not findings.samples:
        return h("p", "No record is embedded in this report.", class_="empty")
    sample = findings.samples
    note = f"Showing {number(len(sample))} of {number(findings.records)} records"
    note += (
        ": kept and rejected ones, an even share of every reason."
        if len(sample) < findings.records
        else ": all of them."
    )
    fates = [
        h("label", h("input", type="radio", name="fate", value=value, checked=not value), h("span", text))
        for value, text in (("", "All"), ("kept", "Kept"), ("lost", "Rejected"))
    ]
    controls = h(
        "div",
        h("fieldset", h("legend", "Fate", class_="hide"), fates, class_="fates"),
        h("label", h("span", "Reason", class_="hide"), h("select", h("option", "Any reason", value=""), id="reason")),
        h(
            "label",
            h("span", "Search", class_="hide"),
            h("input", id="search", type="search", placeholder="Search texts, ids, topics"),
        ),
        h("span", id="found", role="status"),
        h(
            "span",
            h("button", "←", type="button", id="prev", aria_label="Previous record"),
            h("button", "→", type="button", id="next", aria_label="Next record"),
            class_="step",
        ),
        class_="controls",
    )
    hint = h(
        "p",
        note,
        " ",
        h(
            "span",
            "Keys: ",
            h("kbd", "j"),
            " ",
            h("kbd", "k"),
            " next and previous, ",
            h("kbd", "/"),
            " search.",
            class_="keys",
        ),
        class_="note",
        id="showing",
    )
    panes = h(
        "div",
        h("ul", id="list", role="listbox", aria_label="Records", tabindex=0),
        h("article", id="record", tabindex=-1, aria_live="off"),
        class_="panes",
    )
    return join(
        [hint, h("noscript", h("p", "The browser of records needs JavaScript.", class_="notice")), controls, panes]
    )
