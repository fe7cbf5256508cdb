"""Curves over steps: how many points are drawn, how they are smoothed, what part of the heights is shown, and the SVG."""

from __future__ import annotations

import math
from bisect import bisect_left, insort
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import accumulate, pairwise
from typing import Literal

from factory.report.charts import hit, number, plot
from factory.report.html import Html, h
from factory.report.measures import nice

Points = Sequence[tuple[float, float]]  # (step, value), in order; a value that is not finite is a gap

_POINTS, _HITS = 600, 150  # a curve's points, and places at which a chart's values can be read
_WIDE, _EDGE = 1000, 8  # the drawing's own units across, and its margins, so that no dot is cut in half


@dataclass(frozen=True)
class Series:
    """One curve. `colour` is a class of the style sheet; "faint" is for what lies behind its smoothed self."""

    name: str
    points: Points
    colour: str
    form: Literal["line", "faint", "dashed", "dots"] = "line"


@dataclass(frozen=True)
class Span:
    """The heights that are shown; `outside` values are higher or lower."""

    low: float
    high: float
    outside: int = 0


# ---- numbers


def finite(points: Points) -> Points:
    return [point for point in points if math.isfinite(point[1])]


def thin(points: Points, most: int = _POINTS) -> Points:
    """About `most` points with the same picture: of each stretch the lowest and the highest, and every gap in between."""
    if len(points) <= most:
        return points
    stretches = max((most - 2) // 2, 1)
    found: list[tuple[float, float]] = [points[0]]
    for place in range(stretches):
        part = points[len(points) * place // stretches : len(points) * (place + 1) // stretches]
        known = finite(part)
        kept = {min(known, key=_value), max(known, key=_value)} if known else set()
        gap = next((point for point in part if not math.isfinite(point[1])), None)
        found += sorted({*kept, *([gap] if gap else [])}, key=_step)
    found.append(points[-1])
    return [point for place, point in enumerate(found) if not place or point[0] != found[place - 1][0]]


def _value(point: tuple[float, float]) -> float:
    return point[1]


def _step(point: tuple[float, float]) -> float:
    return point[0]


def smooth(points: Points, *, robust: bool = False) -> Points:
    """Means over a window around each point, a twentieth of the curve wide; medians where `robust`, for spiky values.

    Centred, so that a turn is shown where it was; narrower at the beginning, where most happens, and looking back at the
    end. Under 30 points nothing is smoothed, and a gap stays one.
    """
    reach = len(points) // 40 if len(points) >= 30 else 0
    if not reach:
        return points
    values = [value for _, value in points]
    middles = (_medians if robust else _means)(values, list(_windows(len(points), reach)))
    return [
        (step, middle if math.isfinite(value) else math.nan)
        for (step, value), middle in zip(points, middles, strict=True)
    ]


def _windows(count: int, reach: int) -> Iterator[tuple[int, int]]:
    """(from, to) around each place; both only grow."""
    for place in range(count):
        back = min(reach, place)
        yield place - back, min(place + back + 1, count)


def _means(values: Sequence[float], windows: Iterable[tuple[int, int]]) -> Iterator[float]:
    known = list(map(math.isfinite, values))
    sums = list(accumulate((value if fine else 0.0 for value, fine in zip(values, known, strict=True)), initial=0.0))
    counts = list(accumulate(known, initial=0))
    for start, end in windows:
        count = counts[end] - counts[start]
        yield (sums[end] - sums[start]) / count if count else math.nan


def _medians(values: Sequence[float], windows: Iterable[tuple[int, int]]) -> Iterator[float]:
    inside: list[float] = []
    first = after = 0
    for start, end in windows:
        for value in filter(math.isfinite, values[after:end]):
            insort(inside, value)
        for value in filter(math.isfinite, values[first:start]):
            del inside[bisect_left(inside, value)]
        first, after = start, end
        yield inside[len(inside) // 2] if inside else math.nan


def span(series: Iterable[Series], *, zero: bool = False, bounds: tuple[float, float] | None = None) -> Span:
    """What heights to show: round numbers around the values, without what lies far off and would flatten the rest.

    Far off is more than one and a half times the range of the middle 96 % away from it, a curve's first twentieth not
    counted: a loss begins high. With `bounds` it is they.
    """
    drawn = [[value for _, value in finite(one.points)] for one in series]
    if bounds is None:
        low, high = _range(drawn)
        if zero:
            low, high = min(low, 0.0), max(high, 0.0)
        bounds = rounded(low, high)
    outside = sum(not bounds[0] <= value <= bounds[1] for values in drawn for value in values)
    return Span(*bounds, outside)


def _range(drawn: Iterable[Sequence[float]]) -> tuple[float, float]:
    low, high = math.inf, -math.inf
    for values in drawn:
        later = sorted(values[len(values) // 20 :])
        if not later:
            continue
        small, large = (later[round(share * (len(later) - 1))] for share in (0.02, 0.98))
        beyond = 1.5 * (large - small)
        low = min(low, max(min(values), small - beyond))
        high = max(high, min(max(values), large + beyond))
    return (low, high) if low <= high else (0.0, 1.0)


def rounded(low: float, high: float) -> tuple[float, float]:
    if high - low <= 1e-9 * max(abs(low), abs(high)):
        room = abs(high) / 10 or 1.0
        low, high = low - room, high + room
    step = nice((high - low) / 8)
    first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
    return first * step, (last + (last - first) % 2) * step  # an even number of steps: the middle is round, too


# ---- drawing


def curves(
    title: str,
    series: Sequence[Series],
    *,
    shown: Span,
    rules: Sequence[float] = (),
    marks: Sequence[tuple[float, str]] = (),
    class_: str = "",
) -> Html:
    """A chart of some curves over the same steps, with lines across at `rules` and lines down, named, at `marks`."""
    steps = sorted({step for one in series for step, _ in one.points})
    first, last = steps[0], steps[-1]

    def across(step: float) -> float:
        return _EDGE + (_WIDE - 2 * _EDGE) * (step - first) / (last - first) if last > first else _WIDE / 2

    def down(value: float) -> float:
        return min(max(100 - 100 * (value - shown.low) / (shown.high - shown.low), -20.0), 120.0)

    lines = [h("line", class_="rule", x1=0, x2=_WIDE, y1=f"{down(y):.2f}", y2=f"{down(y):.2f}") for y in rules]
    lines += [h("line", class_="mark", x1=f"{across(x):.1f}", x2=f"{across(x):.1f}", y1=0, y2=100) for x, _ in marks]
    drawn: list[Html] = []
    for one in series:
        points = [(across(step), down(value) if math.isfinite(value) else None) for step, value in thin(one.points)]
        drawn += _curve(one, points)
    svg = h(
        "svg",
        lines,
        drawn,
        [hit(start, width, tip) for start, width, tip in _readings(series, steps, across)],
        viewBox=f"0 0 {_WIDE} 100",
        preserveAspectRatio="none",
    )
    named = _apart([(across(step) / _WIDE, name) for step, name in marks])
    ticks = [(across(step) / _WIDE, text) for step, text in _ticks(first, last)]
    return plot(svg, _summary(title, series, first, last), heights(shown), ticks, f"curves {class_}".strip(), named)


def _curve(one: Series, points: Sequence[tuple[float, float | None]]) -> Iterator[Html]:
    """A line in as many parts as its gaps make, a dot where a part is one point, a tick at the foot of each gap."""
    part: list[tuple[float, float]] = []
    dots: list[tuple[float, float]] = []
    for x, y in [*points, (0.0, None)]:
        if y is not None:
            part.append((x, y))
            continue
        if len(part) > 1:
            text = " ".join(f"{x:.1f},{y:.2f}" for x, y in part)
            yield h("polyline", points=text, class_=f"curve {one.form} {one.colour}")
        if len(part) == 1 or one.form == "dots":
            dots += part
        part = []
    if dots:  # a line of no length with round ends stays round, however the drawing is stretched
        path = "".join(f"M{x:.1f} {y:.2f}h.01" for x, y in dots)
        yield h("path", d=path, class_=f"dot {one.colour}")
    odd = [x for x, y in points if y is None]
    if odd and one.form != "faint":
        yield h("path", d="".join(f"M{x:.1f} 100v-7" for x in odd), class_="odd")


def _readings(
    series: Sequence[Series], steps: Sequence[float], across: Callable[[float], float]
) -> Iterator[tuple[float, float, str]]:
    """(from, width, what to say) of each strip of a chart: the values at its last step."""
    values = [dict(one.points) for one in series]
    count = min(len(steps), _HITS)
    groups = [steps[len(steps) * n // count : len(steps) * (n + 1) // count] for n in range(count)]
    edges = [0.0, *((across(one[-1]) + across(two[0])) / 2 for one, two in pairwise(groups)), float(_WIDE)]
    for group, (start, end) in zip(groups, pairwise(edges), strict=True):
        said = []
        for one, known in zip(series, values, strict=True):
            value = next((known[step] for step in reversed(group) if step in known), None)
            if value is not None:
                said.append(f"{one.name} {number(value) if math.isfinite(value) else 'not a number'}")
        yield start, end - start, f"step {number(group[-1])}: {', '.join(said)}"


def heights(shown: Span) -> tuple[str, str, str]:
    """Three numbers with as many digits as tell them apart."""
    values = (shown.high, (shown.low + shown.high) / 2, shown.low)
    largest = max(map(abs, values))
    if largest < 0.001 or largest >= 1e7:
        return tuple(f"{value:.3g}" if value else "0" for value in values)  # type: ignore[return-value]
    digits = max(0, 1 - math.floor(math.log10(shown.high - shown.low)))
    texts = [f"{value:,.{digits}f}" for value in values]
    while digits and all(text.endswith("0") for text in texts):
        texts, digits = [text[:-1].rstrip(".") for text in texts], digits - 1
    return tuple("0" if not float(text.replace(",", "")) else text for text in texts)  # type: ignore[return-value]


def _ticks(first: float, last: float) -> list[tuple[float, str]]:
    step = max(nice((last - first) / 5), 1)
    places = (
        [n * step for n in range(math.ceil(first / step), math.floor(last / step) + 1)] if last > first else [first]
    )
    return [(place, f"step {number(place)}" if not n else number(place)) for n, place in enumerate(places)]


def _apart(named: Sequence[tuple[float, str]]) -> list[tuple[float, str]]:
    """Names that have room beside each other; the others are in the text."""
    found: list[tuple[float, str]] = []
    for at, name in named:
        if not found or at - found[-1][0] > 0.012 * (len(name) + len(found[-1][1])):
            found.append((at, name))
    return found


def _summary(title: str, series: Sequence[Series], first: float, last: float) -> str:
    """The chart in words, for who does not see it."""
    said = []
    for one in series:
        known = finite(one.points)
        if known and one.form != "faint":
            said.append(f"{one.name} from {number(known[0][1])} to {number(known[-1][1])}")
    return f"{title}, steps {number(first)} to {number(last)}: {'; '.join(said) or 'no numbers'}."
