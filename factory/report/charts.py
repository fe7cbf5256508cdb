"""The report's charts: SVG for shapes, HTML for words, so that they stretch without bending the text.

No chart library: the reports need a few small forms, and drawn by hand they weigh kilobytes (plotly.js: five megabytes),
follow the page's theme, obey its content security policy and read as text to a screen reader. A shape that has a story
carries it in `data-tip`; the script shows it on hover and on the arrow keys.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence

from factory.report.html import Html, h
from factory.report.measures import Bin, Histogram, Step, Timeline, nice
from factory.report.rules import Cut

_TOPS = (1, 1.2, 1.6, 2, 3, 4, 5, 6, 8)  # of an axis, times a power of ten: both it and its half are short
_STEPS = (1, 2, 5, 10, 20, 30, 60, 120, 300, 600, 900, 1800, 3600, 7200, 18000, 36000, 86400)  # seconds


def number(value: float) -> str:
    """12,345 or 0.25: as many digits as one reads."""
    if not math.isfinite(value):
        return str(value)
    if value == int(value) and abs(value) < 1e15:
        return f"{int(value):,}"
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.3g}"


def percent(part: float, whole: float) -> str:
    """A share; never 100 % or 0 % of what is not all or nothing."""
    if not whole:
        return "n/a"
    share = 100 * part / whole
    if 0 < share < 0.1:
        return "<0.1 %"
    if 99.9 < share < 100:
        return ">99.9 %"
    return f"{share:.1f} %".replace(".0 %", " %")


def duration(seconds: float) -> str:
    """Two units of time: "2 h 05 min", "3 min 12 s", "4.2 s", "85 ms"."""
    if seconds < 1:
        return f"{seconds * 1000:.0f} ms"
    if seconds < 60:
        return f"{seconds:.1f} s".replace(".0 s", " s")
    whole = round(seconds)
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02d} s"
    if whole < 86400:
        return f"{whole // 3600} h {whole % 3600 // 60:02d} min"
    return f"{whole // 86400} d {whole % 86400 // 3600} h"


def bar(parts: Iterable[tuple[str, float, float]], label: str | None = None) -> Html:
    """A horizontal bar of (class, start, length) in shares of the whole width."""
    rects = (
        h("rect", class_=name, x=f"{100 * start:.3f}%", width=f"{100 * length:.3f}%", height="100%")
        for name, start, length in parts
        if length > 0
    )
    return h(
        "svg", rects, class_="bar", role="img" if label else None, aria_label=label, aria_hidden=not label and "true"
    )


def interval(low: float, value: float, high: float, scale: float, label: str) -> Html:
    """A value with its interval as a bar from 0 to `scale`, all at least 0."""
    at = {name: f"{100 * min(max(x / scale, 0.0), 1.0) if scale else 0:.2f}%" for name, x in
          (("low", low), ("value", value), ("high", high))}  # fmt: skip
    return h(
        "svg",
        h("rect", class_="track", width="100%", height="100%"),
        h("rect", class_="kept", width=at["value"], height="100%"),
        h("line", class_="sure", x1=at["low"], x2=at["high"], y1="50%", y2="50%"),
        class_="bar share",
        role="img",
        aria_label=label,
    )


def around_zero(low: float, value: float, high: float, label: str) -> Html:
    """A difference with its interval, at shares of the width; zero is in the middle."""
    x = [f"{100 * min(max(place, 0.0), 1.0):.2f}%" for place in (low, value, high)]
    return h(
        "svg",
        h("rect", class_="track", width="100%", height="100%"),
        h("line", class_="cut", x1="50%", x2="50%", y1=0, y2="100%"),
        h("line", class_="sure", x1=x[0], x2=x[2], y1="50%", y2="50%"),
        h("circle", class_="kept", cx=x[1], cy="50%", r=4),
        class_="bar share",
        role="img",
        aria_label=label,
    )


def plot(
    svg: Html,
    summary: str,
    heights: Sequence[str],
    ticks: Iterable[tuple[float, str]],
    class_: str = "",
    marks: Iterable[tuple[float, str]] = (),
) -> Html:
    """A chart with its axes: `heights` evenly on the left, the highest first; below, `ticks`, each at a share of the width.

    `marks` are words above it, at shares of the width, too.
    """
    return h(
        "div",
        h("svg", _words(named), class_="x marks", aria_hidden="true") if (named := list(marks)) else None,
        h("div", [h("span", text) for text in heights], class_="y", aria_hidden="true"),
        h("div", svg, class_="canvas", tabindex=0, role="img", aria_label=f"{summary} Arrow keys read the values."),
        h("svg", _words(ticks), class_="x", aria_hidden="true"),
        class_=f"plot {class_}".strip(),
    )


def _words(places: Iterable[tuple[float, str]]) -> list[Html]:
    return [
        h(
            "text",
            text,
            x=f"{100 * at:.2f}%",
            y=12,
            text_anchor="start" if at < 0.04 else "end" if at > 0.96 else "middle",
        )
        for at, text in places
        if 0 <= at <= 1
    ]


def _from_zero(high: float) -> tuple[str, str, str]:
    return number(high), number(high / 2), "0"


def over_time(timeline: Timeline, what: str) -> Html:
    """`what` is "tokens" (a second) or "responses" (a minute), over working time."""
    bins = timeline.series()
    unit, each = ("tokens/s", 1.0) if what == "tokens" else ("responses/min", 60.0)
    rates = [each * getattr(bin_, what) / _length(timeline, bins, place) for place, bin_ in enumerate(bins)]
    high = nice(max(rates, default=1.0) or 1.0, _TOPS)
    steps, hits = [], []
    for place, rate in enumerate(rates):
        top = 100 - 100 * rate / high
        steps.append(f"{place},{top:.2f} {place + 1},{top:.2f}")
        start = duration(place * timeline.width)
        hits.append(hit(place, 1, f"{number(rate)} {unit} from {start}"))
    line = " ".join(steps)
    svg = h(
        "svg",
        h("polygon", points=f"0,100 {line} {len(bins)},100", class_="area"),
        h("polyline", points=line, class_="line"),
        hits,
        viewBox=f"0 0 {len(bins)} 100",
        preserveAspectRatio="none",
    )
    average = each * sum(getattr(bin_, what) for bin_ in bins) / max(timeline.active, 1.0)
    summary = (
        f"{unit} over {duration(timeline.active)} of work: {number(average)} on average, {number(max(rates))} at most."
    )
    whole = max(len(bins) * timeline.width, 1.0)
    step = next((step for step in _STEPS if whole / step <= 5), nice(whole / 5))
    ticks = [(place * step / whole, _clock(place * step)) for place in range(int(whole / step) + 1)]
    return plot(svg, summary, _from_zero(high), ticks, what)


def _clock(seconds: float) -> str:
    """A tick of an axis of time: hours, minutes or seconds, without the zeros behind them."""
    if not seconds:
        return "start"
    if seconds < 120:
        return f"{seconds:g} s"
    return f"{seconds / 60:g} min" if seconds < 7200 else f"{seconds / 3600:.3g} h"


def _length(timeline: Timeline, bins: Sequence[Bin], place: int) -> float:
    """Seconds of a slice: the last one is seldom full."""
    if place < len(bins) - 1:
        return timeline.width
    return max(timeline.active - place * timeline.width, timeline.width / 4)


def hit(x: float, width: float, tip: str) -> Html:
    return h("rect", class_="hit", x=f"{x:.4g}", width=f"{width:.4g}", y=0, height=100, data_tip=tip)


def histogram(name: str, found: Histogram, cuts: Sequence[Cut], legend: tuple[str, str] = ("kept", "rejected")) -> Html:
    """Records by their score, of two kinds, with a line where the keep rule cuts."""
    bars = found.bars()
    high = nice(max((kept + lost for _, _, kept, lost in bars), default=1), _TOPS)
    rects, hits = [], []
    for place, (start, end, kept, lost) in enumerate(bars):
        for class_, count, below in (("kept", kept, 0), ("lost", lost, kept)):
            height = 100 * count / high
            y = f"{100 - height - 100 * below / high:.3f}"
            if count:
                rects.append(h("rect", class_=class_, x=f"{place + 0.06:.2f}", width=0.88, y=y, height=f"{height:.3f}"))
        range_ = number(start) if start == end else f"{number(start)} to {number(end)}"
        counts = ", ".join(f"{number(count)} {what}" for count, what in zip((kept, lost), legend, strict=True) if what)
        hits.append(hit(place, 1, f"{name} {range_}: {counts}"))
    lines = [
        h("line", class_="cut", x1=f"{x:.3f}", x2=f"{x:.3f}", y1=0, y2=100)
        for x in sorted({place for cut in cuts for place in cut_places(bars, cut)})
    ]
    svg = h("svg", rects, lines, hits, viewBox=f"0 0 {max(len(bars), 1)} 100", preserveAspectRatio="none")
    summary = (
        f"{name}: {number(found.count)} records, from {number(found.low)} to {number(found.high)}." if bars else name
    )
    return plot(svg, summary, _from_zero(high), ticks_of(bars))


def ticks_of(bars: Sequence[tuple[float, float, int, int]]) -> list[tuple[float, str]]:
    """Where the words below bars stand, as shares of the width: a value a bar, or round numbers; only as many as fit."""
    if not bars:
        return []
    if all(low == high for low, high, *_ in bars):
        return thinned([((place + 0.5) / len(bars), number(start)) for place, (start, *_) in enumerate(bars)])
    start, width = bars[0][0], bars[-1][1] - bars[0][0]
    step = nice(width / 4)
    first = math.ceil(start / step - 1e-9)
    return thinned([((n * step - start) / width, number(round(n * step, 12))) for n in range(first, first + 6)])


def thinned(ticks: Sequence[tuple[float, str]], room: int = 34) -> list[tuple[float, str]]:
    """Every second one, or third, ... where all of them would not fit into `room` characters."""
    step = math.ceil(sum(len(text) + 2 for _, text in ticks) / room) if ticks else 1
    return list(ticks[:: max(step, 1)])


def cut_places(bars: Sequence[tuple[float, float, int, int]], cut: Cut) -> list[float]:
    """Where the lines of a cut stand, counted in bars; none where it parts nothing that is shown."""
    if not bars or not math.isfinite(cut.value):
        return []
    start, end, value = bars[0][0], bars[-1][1], cut.value
    if all(low == high for low, high, *_ in bars):
        below, upto = sum(low < value for low, *_ in bars), sum(low <= value for low, *_ in bars)
        places = {"≥": [below], "<": [below], ">": [upto], "≤": [upto]}.get(cut.sign, [below, upto])
        found = dict.fromkeys(float(place) for place in places if 0 < place < len(bars))
        return list(found) if below != upto or len(places) == 1 else []
    if cut.sign in ("=", "≠"):
        return []
    return [len(bars) * (value - start) / (end - start)] if start < value < end else []


def steps_table(steps: Mapping[str, Step]) -> Html:
    """A row a step: how long its answers took (on one logarithmic scale) and what they cost."""
    found = [(label, step, [step.quantile(share) for share in (0.5, 0.9, 0.99)]) for label, step in steps.items()]
    found.sort(key=lambda row: -row[1].seconds)
    low = math.log(max(min((times[0] for *_, times in found), default=1), 0.0005) / 2)
    high = math.log(max(max((times[2] for *_, times in found), default=1), 0.001) * 1.3)
    rows = []
    for label, step, times in found:
        x50, x90, x99 = (f"{100 * (math.log(max(time, 0.0005)) - low) / (high - low):.2f}%" for time in times)
        dots = h(
            "svg",
            h("line", class_="reach", x1=x50, x2=x99, y1="50%", y2="50%"),
            h("line", class_="most", x1=x50, x2=x90, y1="50%", y2="50%"),
            h("circle", cx=x50, cy="50%", r=5),
            class_="range",
            aria_hidden="true",
        )
        counts = (step.prompt_tokens, step.completion_tokens)
        cells = [h("td", text, class_="n") for text in (*map(duration, times), *map(number, counts))]
        rows.append(
            h(
                "tr",
                h("th", label, scope="row"),
                h("td", number(step.responses), class_="n"),
                h("td", dots, class_="wide"),
                cells,
            )
        )
    names = ("Step", "Responses", "Latency (log scale)", "p50", "p90", "p99", "Tokens in", "Tokens out")
    head = h(
        "tr", [h("th", name, scope="col", class_="n" if 0 != place != 2 else None) for place, name in enumerate(names)]
    )
    return h("div", h("table", h("thead", head), h("tbody", rows), class_="steps"), class_="scroll")
