"""Drawings of a loop's report: values and gains with their intervals, and curves over rounds."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

from factory.report.charts import hit, number, plot
from factory.report.curves import Span, heights, rounded
from factory.report.html import Child, Html, h

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
    return h("figure", _caption(title, says, known), plot(svg, summary, axis, ticks, f"curves {class_}"))


def _caption(title: str, says: str, trends: Sequence[Trend]) -> Html:
    keys: list[Child] = []
    for trend in trends:
        if len(trends) > 1:
            keys.append(h("span", h("i", class_=f"key {trend.colour}"), trend.name, class_="keyed"))
        if trend.base is not None:
            keys.append(h("span", h("i", class_=f"key dashed {trend.colour}"), trend.base_name, class_="keyed"))
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


def _trend(trend: Trend, across: Callable[[float], float], down: Callable[[float], float]) -> Iterable[Html]:
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


# ---- texts and tables


def tied(text: str) -> str:
    """No line ends before a percent sign."""
    return text.replace(" %", "\N{NO-BREAK SPACE}%")


def table(names: Sequence[str], rows: Sequence[Html], class_: str, plain: int) -> Html:
    """A table that scrolls where it is too wide; the first `plain` columns are words, the others numbers."""
    head = [h("th", name, scope="col", class_=None if place < plain else "n") for place, name in enumerate(names)]
    return h("div", h("table", h("thead", h("tr", head)), h("tbody", rows), class_=class_), class_="scroll", tabindex=0)
