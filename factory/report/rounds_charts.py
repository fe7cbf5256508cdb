"""Drawings of a loop's report: values and gains with their intervals, curves over rounds, and who worked when."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from factory.iterate.utilisation import BINS, Stretch, Work, cut, total, union
from factory.iterate.utilisation import Span as Time
from factory.report.charts import duration, hit, number, percent, plot
from factory.report.curves import Span, heights, rounded
from factory.report.html import Child, Html, h
from factory.report.measures import nice

_STEPS = (1, 2, 5, 10, 20, 30, 60, 120, 300, 600, 900, 1800, 3600, 7200, 18000, 36000, 86400)  # seconds
_FINE = 1500  # parts of the timeline's width; work that lies closer together is drawn as one


# ---- a value with its interval


def whisker(
    low: float | None, value: float, high: float | None, *, scale: tuple[float, float], class_: str, label: str,
    seeds: Sequence[float] = (), base: float | None = None, zero: bool = False,
) -> Html:  # fmt: skip
    """A dot with its interval between the ends of `scale`; rings are single seeds, a dashed line is the base line."""
    start, end = scale

    def at(x: float) -> str:
        return f"{100 * min(max((x - start) / (end - start) if end > start else 0.5, 0.0), 1.0):.2f}%"

    shapes: list[Html] = [h("line", class_="axis", x1=0, x2="100%", y1="50%", y2="50%")]
    if zero:
        shapes.append(h("line", class_="zero", x1=at(0), x2=at(0), y1=0, y2="100%"))
    if base is not None:
        shapes.append(h("line", class_="base", x1=at(base), x2=at(base), y1=0, y2="100%"))
    if low is not None and high is not None:
        shapes.append(h("line", class_="reach", x1=at(low), x2=at(high), y1="50%", y2="50%"))
    shapes += [h("circle", class_="seed", cx=at(one), cy="50%", r=3) for one in seeds]
    shapes.append(h("circle", class_="at", cx=at(value), cy="50%", r=4.5))
    return h("svg", shapes, class_=f"whisker {class_}", role="img", aria_label=label)


# ---- curves over rounds


@dataclass(frozen=True)
class Trend:
    """One line over rounds: (round, value, low, high, each seed's own); `base` is drawn dashed across."""

    name: str
    colour: str
    points: Sequence[tuple[int, float, float | None, float | None, Mapping[str, float]]]
    base: float | None = None
    base_name: str = ""


def over_rounds(
    title: str, says: str, trends: Sequence[Trend], rounds: int, *, share: bool = False, zero: bool = True, class_: str = "small"
) -> Html | None:  # fmt: skip
    """A figure; None where there is nothing to draw. The rounds are places from left to right, all those planned."""
    known = [trend for trend in trends if trend.points]
    if not known:
        return None
    heights_of = [value for trend in known for point in trend.points for value in (*point[1:4], *point[4].values())]
    heights_of += [trend.base for trend in known if trend.base is not None]
    finite = [value for value in heights_of if value is not None and math.isfinite(value)]
    if not finite:
        return None
    ends = (min([0.0] * zero + finite), max([0.0] * zero + finite))
    shown = Span(0.0, 1.0) if share and zero and ends[1] > 0.72 else Span(*rounded(*ends))

    def across(round_: float) -> float:
        return 1000 * (round_ - 0.5) / max(rounds, 1)

    def down(value: float) -> float:
        return min(max(100 - 100 * (value - shown.low) / (shown.high - shown.low), -20.0), 120.0)

    shapes = [shape for trend in known for shape in _trend(trend, across, down)]
    hits = [hit(1000 * (n - 1) / rounds, 1000 / rounds, _tip(known, n, share)) for n in range(1, rounds + 1)]
    svg = h("svg", shapes, hits, viewBox="0 0 1000 100", preserveAspectRatio="none")
    summary = f"{title} by round: " + "; ".join(_tip(known, n, share) for n in _rounds_of(known)) + "."
    axis = tuple(f"{100 * float(text):g} %" for text in heights(shown)) if share else heights(shown)
    step = math.ceil(rounds / 8)
    ticks = [(across(n) / 1000, f"round {n}" if n == 1 else str(n)) for n in range(1, rounds + 1, step)]
    return h("figure", _caption(title, says, known), plot(svg, summary, axis, ticks, f"curves {class_}"))  # type: ignore[arg-type]


def _caption(title: str, says: str, trends: Sequence[Trend]) -> Html:
    keys: list[Child] = []
    for trend in trends:
        if len(trends) > 1:
            keys += [h("i", class_=f"key {trend.colour}"), trend.name]
        if trend.base is not None:
            keys += [h("i", class_=f"key dashed {trend.colour}"), trend.base_name]
    return h(
        "figcaption", h("b", title), h("span", keys, class_="keys-of") if keys else None, h("p", says) if says else None
    )


def _rounds_of(trends: Iterable[Trend]) -> list[int]:
    return sorted({point[0] for trend in trends for point in trend.points})


def _tip(trends: Sequence[Trend], round_: int, share: bool) -> str:
    said = []
    for trend in trends:
        for place, value, low, high, seeds in trend.points:
            if place != round_:
                continue
            text = f"{trend.name} {_said(value, share)}"
            if low is not None and high is not None:
                text += f" ({_said(low, share)} to {_said(high, share)})"
            elif len(seeds) > 1:
                text += f" (seeds {', '.join(_said(one, share) for one in seeds.values())})"
            said.append(text)
    return f"round {round_}: {', '.join(said) or 'not measured'}"


def _said(value: float, share: bool) -> str:
    return f"{100 * value:.1f} %" if share else number(value)


def _trend(trend: Trend, across: object, down: object) -> Iterable[Html]:
    assert callable(across) and callable(down)
    if trend.base is not None:
        y = f"{down(trend.base):.2f}"
        yield h("line", class_=f"baseline {trend.colour}", x1=0, x2=1000, y1=y, y2=y)
    seeds = dict.fromkeys(seed for point in trend.points for seed in point[4])
    for seed in seeds if len(seeds) > 1 else ():
        own = [(across(point[0]), down(point[4][seed])) for point in trend.points if seed in point[4]]
        yield _line(own, f"curve faint {trend.colour}")
    for place, _, low, high, _ in trend.points:
        if low is not None and high is not None:
            x = f"{across(place):.1f}"
            yield h("line", class_=f"span {trend.colour}", x1=x, x2=x, y1=f"{down(low):.2f}", y2=f"{down(high):.2f}")
    means = [(across(point[0]), down(point[1])) for point in trend.points]
    yield _line(means, f"curve line {trend.colour}")
    yield h("path", d="".join(f"M{x:.1f} {y:.2f}h.01" for x, y in means), class_=f"dot {trend.colour}")


def _line(points: Iterable[tuple[float, float]], class_: str) -> Html:
    return h("polyline", points=" ".join(f"{x:.1f},{y:.2f}" for x, y in points), class_=class_)


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
        rows.append(h("div", h("span", "GPU busy"), _driver(work.driver, pauses), class_="lane gap"))
    rows.append(h("div", h("span"), _clock(whole), class_="lane"))
    told = work.numbers["seconds"]
    summary = (
        f"Timeline of {duration(whole)}: {duration(told['generating'])} generating, {duration(told['evaluating'])} evaluating, "
        f"{duration(told['training'])} training. Arrow keys read the stages."
    )
    return h("div", rows, class_="canvas lanes", tabindex=0, role="img", aria_label=summary)


def _lane(
    work: Work, stretches: Sequence[Stretch], places: Sequence[tuple[Time, float]], whole: float
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


def _cut_to(spans: Iterable[Time], places: Sequence[tuple[Time, float]]) -> list[Time]:
    """Spans of the clock as spans of the wall time without its pauses."""
    found = []
    for begin, end in spans:
        for (first, last), before in places:
            if begin < last and end > first:
                found.append((before + max(begin, first) - first, before + min(end, last) - first))
    return found


def _near(spans: Sequence[Time], room: float) -> list[Time]:
    """Spans that are closer than `room` as one: nobody could see what lies between."""
    return union([(begin, end + room) for begin, end in spans]) if len(spans) > 1 else list(spans)


def _bars(spans: Iterable[Time], whole: float, class_: str) -> list[Html]:
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
