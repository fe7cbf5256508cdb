"""Two numbers of each record against each other: a disk for each place, as large as there are records."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from factory.report.charts import number, plot, thinned
from factory.report.html import Html, h
from factory.report.measures import few_kinds, nice
from factory.report.rules import Cut

_CELLS, _LARGEST, _FEW = 16, 8.0, 11  # places along an axis; the radius in pixels; values with a place each
Point = tuple[float, float, bool]


@dataclass(frozen=True)
class Axis:
    """Places along one axis: one a value, where there are few, else equal steps from `start`."""

    values: Sequence[float]
    start: float
    step: float
    count: int

    def place(self, value: float) -> int:
        if self.values:
            return self.values.index(value)
        return min(max(math.floor((value - self.start) / self.step), 0), self.count - 1)

    def words(self, place: int) -> str:
        if self.values:
            return number(self.values[place])
        low = self.start + place * self.step
        return f"{number(round(low, 9))} to {number(round(low + self.step, 9))}"

    def ticks(self) -> list[tuple[float, str]]:
        if self.values:
            return [((place + 0.5) / self.count, number(value)) for place, value in enumerate(self.values)]
        every = nice(self.count * self.step / 4)
        first, end = math.ceil(self.start / every - 1e-9), self.start + self.count * self.step
        rounds = [n * every for n in range(first, first + 6) if n * every <= end + 1e-9]
        return [((at - self.start) / (end - self.start), number(round(at, 9))) for at in rounds]

    def cut(self, cut: Cut) -> float | None:
        """Where a bound stands, as a share of the axis; None where it parts nothing that is shown."""
        if not math.isfinite(cut.value):
            return None
        if self.values:
            above = sum(one < cut.value or (one == cut.value and cut.sign in (">", "≤")) for one in self.values)
            at = above / self.count
        else:
            at = (cut.value - self.start) / (self.count * self.step)
        shown = cut.sign not in ("=", "≠") or (bool(self.values) and cut.value == self.values[-1])
        return at if shown and 0 < at < 1 else None


def axis(values: Sequence[float]) -> Axis:
    different = sorted(set(values))
    if len(different) <= _FEW and few_kinds(different, len(values)):
        return Axis(different, 0.0, 1.0, len(different))
    step = nice((different[-1] - different[0]) / _CELLS)
    start = math.floor(different[0] / step + 1e-9) * step
    return Axis((), start, step, max(1, math.ceil((different[-1] - start) / step - 1e-9)))


def scatter(
    across: str,
    up: str,
    points: Sequence[Point],
    cuts: tuple[Sequence[Cut], Sequence[Cut]] = ((), ()),
    legend: tuple[str, str] = ("kept", "rejected"),
) -> Html:
    """`points` are (across, up, kept). A disk's area is the number of records, its inner one that of the kept ones."""
    x, y = (axis([point[side] for point in points]) for side in (0, 1))
    cells: dict[tuple[int, int], list[int]] = {}
    for a, b, good in points:
        cells.setdefault((x.place(a), y.place(b)), [0, 0])[not good] += 1
    most = max(map(sum, cells.values()), default=1)
    shapes, hits = list[Html](), list[Html]()
    for (column, row), (kept, lost) in sorted(cells.items()):
        at = {"cx": _share(column + 0.5, x.count), "cy": _share(y.count - row - 0.5, y.count)}
        shapes += [h("circle", class_="lost", r=_radius(kept + lost, most), **at)] if lost else []
        shapes += [h("circle", class_="kept", r=_radius(kept, most), **at)] if kept else []
        counts = f"{number(kept)} {legend[0]}" + (f", {number(lost)} {legend[1]}" if legend[1] else "")
        tip = f"{across} {x.words(column)}, {up} {y.words(row)}: {counts}"
        box = {"x": _share(column, x.count), "y": _share(y.count - row - 1, y.count)}
        hits.append(h("rect", class_="hit", **box, width=_share(1, x.count), height=_share(1, y.count), data_tip=tip))
    for share in _lines(x, cuts[0]):
        shapes.append(h("line", class_="cut", x1=_share(share, 1), x2=_share(share, 1), y1=0, y2="100%"))
    for share in _lines(y, cuts[1]):
        shapes.append(h("line", class_="cut", x1=0, x2="100%", y1=_share(1 - share, 1), y2=_share(1 - share, 1)))
    summary = f"{number(len(points))} records, {across} across against {up} up."
    svg = h("svg", shapes, hits)
    shape = f"scatter{' bands' if y.values else ''}{' tall' if not 0 < len(y.values) < 4 else ''}"
    return plot(svg, summary, _heights(y), thinned(x.ticks()), shape)


def _lines(axis: Axis, cuts: Sequence[Cut]) -> list[float]:
    return sorted({share for cut in cuts if (share := axis.cut(cut)) is not None})


def _heights(y: Axis) -> list[str]:
    """Words on the left, the highest first: one a value, or the two ends and the middle."""
    if y.values:
        return [number(value) for value in reversed(y.values)]
    end = y.start + y.count * y.step
    return [number(round(value, 9)) for value in (end, (y.start + end) / 2, y.start)]


def _share(part: float, whole: float) -> str:
    return f"{100 * part / whole:.2f}%"


def _radius(count: int, most: int) -> str:
    return f"{max(1.6, _LARGEST * math.sqrt(count / most)):.1f}"
