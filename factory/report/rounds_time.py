"""The sections of a loop's report on its time: who worked when, what the GPUs' driver says, and every stage."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from factory.iterate.utilisation import BINS, Span, Stretch, Work, cut, total, union
from factory.iterate.wording import part, some
from factory.report.charts import duration, number, percent
from factory.report.frame import short
from factory.report.html import Html, h, join
from factory.report.measures import nice
from factory.report.rounds_charts import table, tied

_STEPS = (1, 2, 5, 10, 20, 30, 60, 120, 300, 600, 900, 1800, 3600, 7200, 18000, 36000, 86400)  # seconds
_FINE = 1500  # parts of the timeline's width; work that lies closer together is drawn as one
Results = Mapping[str, Any]


def time(results: Results, work: Work) -> Html | None:
    told = results["utilisation"]
    if not told["wall_seconds"]:
        return None
    seconds, share = told["seconds"], told["share"]
    count = told["invocations"]
    says = (
        f"In {duration(told['wall_seconds'])} of wall time ({some(count, 'invocation')}"
        + (f", {duration(told['pauses_seconds'])} between them cut out" if told["pauses_seconds"] >= 1 else "")
        + f") something was generated or trained for {duration(seconds['either'])}, {part(share['working'])} of it; stages were "
        f"running for {duration(seconds['stages'])}, {part(share['stages'])}."
    )
    if seconds["both"]:
        says += f" For {duration(seconds['both'])} of it both went on at the same time."
    legend = [h("span", h("i", class_=f"k-{kind}"), name) for kind, name in KINDS.items()]
    legend.append(h("span", h("i", class_="k-generate pale"), "pale: the stage starts, loads, or writes"))
    legend.append(h("span", h("i", class_="dash"), "a pause") if told["pauses_seconds"] >= 1 else Html())
    return join(
        [h("p", tied(says), class_="note"), timeline(work), h("p", legend, class_="kinds between"), _time_table(told)]
    )


def _time_table(told: Mapping[str, Any]) -> Html:
    whole = told["wall_seconds"]
    named = (("Generating", "generating"), ("Evaluating", "evaluating"), ("Training", "training"), ("Any of them", "either"),
             ("Two of them at once", "both"), ("Some stage running", "stages"), )  # fmt: skip
    rows = [
        h("tr", h("th", name, scope="row"), h("td", duration(told["seconds"][key]), class_="n"),
          h("td", part(told['seconds'][key] / whole), class_="n"))
        for name, key in named
    ]  # fmt: skip
    gpus = [
        h("tr", h("th", f"GPU {one['gpu']}", scope="row"), h("td", part(one["busy"]), class_="n"),
          h("td", part(one["above_zero"]), class_="n"), h("td", f"{one['most_mib'] / 1024:.1f} GiB", class_="n"),
          h("td", number(one["samples"]), class_="n"))
        for one in told["gpus"]
    ]  # fmt: skip
    tables = [table(("Time", "", "of the wall time"), rows, "forest", plain=1)]
    if gpus:
        names = ("Driver", "Mean busy", "Samples above zero", "Most memory", "Samples")
        tables.append(table(names, gpus, "forest", plain=1))
    return h("details", h("summary", "In numbers"), h("div", tables, class_="pair"), class_="more")


# ---- who worked when

KINDS = {"generate": "generating", "evaluate": "evaluating", "train": "training"}


def timeline(work: Work) -> Html:
    """A lane for the engine and one for the training of each seed, on the wall time without its pauses, the driver's line
    below."""
    whole = total(work.wall)
    lanes: dict[tuple[str, int | None], list[Stretch]] = {}
    for one in work.stretches:
        if one.lane in ("engine", "train"):
            lanes.setdefault((one.lane, one.seed), []).append(one)
    places = list(cut(work.wall))
    pauses = [h("line", class_="pause", x1=x, x2=x, y1=0, y2="100%") for x in
              (f"{100 * before / whole:.3f}%" for _, before in places[1:])]  # fmt: skip
    order = sorted(lanes, key=lambda lane: (lane[0], -1 if lane[1] is None else lane[1]))
    rows, before = [], ""
    for lane in order:
        name = f"{'engine' if lane[0] == 'engine' else 'training'}, {'start' if lane[1] is None else f'seed {lane[1]}'}"
        shapes, hits = _lane(work, lanes[lane], places, whole)
        class_ = "lane gap" if before and before != lane[0] else "lane"
        rows.append(
            h("div", h("span", name, title=name), h("svg", shapes, pauses, hits, aria_hidden="true"), class_=class_)
        )
        before = lane[0]
    if work.driver:
        rows.append(
            h(
                "div",
                h("span", "GPU busy, %", title="from 0 to 100 %, as the driver says"),
                _driver(work.driver, pauses),
                class_="lane gap",
            )
        )
    rows.append(h("div", h("span"), _clock(whole), class_="lane"))
    told = work.numbers["seconds"]
    summary = (
        f"Spanline of {duration(whole)}: {duration(told['generating'])} generating, {duration(told['evaluating'])} evaluating, "
        f"{duration(told['training'])} training. Arrow keys read the stages."
    )
    return h("div", rows, class_="canvas lanes", tabindex=0, role="img", aria_label=summary)


def _lane(
    work: Work, stretches: Sequence[Stretch], places: Sequence[tuple[Span, float]], whole: float
) -> tuple[list[Html], list[Html]]:
    """Pale while a stage runs, solid while something is generated or trained in it."""
    shades, solids, hits = list[Html](), list[Html](), list[Html]()
    for one in sorted(stretches, key=lambda one: one.begin):
        spans = [(one.begin, one.end)]
        busy = [span for span in work.busy.get(one.key, ()) if span[0] < one.end and span[1] > one.begin]
        inside = total((max(begin, one.begin), min(end, one.end)) for begin, end in busy)
        tip = f"{one.key}: {duration(one.end - one.begin)}, {percent(inside, one.end - one.begin)} of it {KINDS[one.kind]}"
        shades += _bars(_cut_to(spans, places), whole, f"shade k-{one.kind}")
        solids += _bars(_near(_cut_to(busy, places), whole / _FINE), whole, f"solid k-{one.kind}")
        hits += [
            h("rect", class_="hit", x=f"{100 * begin / whole:.3f}%", width=f"{100 * max(end - begin, whole / 500) / whole:.3f}%",
              height="100%", data_tip=tip)
            for begin, end in _cut_to(spans, places)
        ]  # fmt: skip
    return [*shades, *solids], hits


def _cut_to(spans: Iterable[Span], places: Sequence[tuple[Span, float]]) -> list[Span]:
    """Spans of the clock as spans of the wall time without its pauses."""
    found = []
    for begin, end in spans:
        for (first, last), before in places:
            if begin < last and end > first:
                found.append((before + max(begin, first) - first, before + min(end, last) - first))
    return found


def _near(spans: Sequence[Span], room: float) -> list[Span]:
    """Spans that are closer than `room` as one: nobody could see what lies between."""
    return union([(begin, end + room) for begin, end in spans]) if len(spans) > 1 else list(spans)


def _bars(spans: Iterable[Span], whole: float, class_: str) -> list[Html]:
    return [
        h("rect", class_=class_, x=f"{100 * begin / whole:.3f}%", width=f"{100 * (end - begin) / whole:.3f}%", height="100%")
        for begin, end in spans
    ]  # fmt: skip


def _driver(values: Sequence[float | None], pauses: Sequence[Html]) -> Html:
    """What share of each moment the driver saw work in, as an area; nothing where it said nothing."""
    parts, part = list[list[tuple[int, float]]](), list[tuple[int, float]]()
    for place, value in enumerate([*values, None]):
        if value is not None:
            part.append((place, value))
        elif part:
            parts.append(part)
            part = []
    shapes = []
    for part in parts:
        line = " ".join(f"{x},{100 - 96 * y:.1f} {x + 1},{100 - 96 * y:.1f}" for x, y in part)
        shapes.append(h("polygon", points=f"{part[0][0]},100 {line} {part[-1][0] + 1},100", class_="area"))
        shapes.append(h("polyline", points=line, class_="line"))
    inner = h("svg", shapes, viewBox=f"0 0 {BINS} 100", preserveAspectRatio="none", width="100%", height="100%")
    hits = [
        h("rect", class_="hit", x=f"{100 * place / BINS:.3f}%", width=f"{100 / BINS:.3f}%", height="100%",
          data_tip=f"GPU busy {value:.0%}, as the driver says")
        for place, value in enumerate(values) if value is not None
    ]  # fmt: skip
    return h("svg", inner, pauses, hits, class_="driver", aria_hidden="true")


def _clock(whole: float) -> Html:
    step = next((step for step in _STEPS if whole / step <= 6), nice(whole / 6))
    words = []
    for n in range(int(whole / step) + 1):
        at = n * step / whole
        anchor = "start" if at < 0.04 else "end" if at > 0.96 else "middle"
        words.append(h("text", _at(n * step), x=f"{100 * at:.2f}%", y=13, text_anchor=anchor))
    return h("svg", words, class_="x", aria_hidden="true")


def _at(seconds: float) -> str:
    if not seconds:
        return "0"
    if seconds < 120:
        return f"{seconds:g} s"
    return f"{seconds / 60:g} min" if seconds < 7200 else f"{seconds / 3600:.3g} h"


# ---- stages


def stages(results: Results) -> Html | None:
    found: dict[str, list[Mapping[str, Any]]] = {}
    for one in results["work"]:
        found.setdefault(one["stage"].partition("/")[0], []).append(one)
    if not found:
        return None
    parts = []
    for name, own in found.items():
        title = f"{name.replace('-', ' ').capitalize()}: {some(len(own), 'stage')}, {duration(sum(one['seconds'] for one in own))}"
        rows = [_stage(one) for one in own]
        names = ("Stage", "Time", "Records", "Kept", "Steps", "Tokens")
        parts.append(h("details", h("summary", title), table(names, rows, "stages", plain=1), class_="more"))
    note = "Records: made, asked or exported. Tokens: generated, or seen by the optimiser. Time: over all invocations."
    return join([h("p", note, class_="note"), *parts])


def _stage(one: Mapping[str, Any]) -> Html:
    place = one["stage"].partition("/")[2]
    unfinished = "" if one["done"] else " (not finished)"
    counts = [one["records"], one["kept"], one["steps"]]
    cells = [duration(one["seconds"]), *("–" if count is None else number(count) for count in counts)]
    cells.append("–" if one["tokens"] is None else short(one["tokens"]))
    head = h("th", h("i", class_=f"k-{one['kind'] or 'aside'}"), f"{place}{unfinished}", scope="row")
    return h("tr", head, [h("td", cell, class_="n") for cell in cells])
