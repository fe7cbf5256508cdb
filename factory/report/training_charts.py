"""Which curves a training's report draws, and what each of them tells somebody who sees one for the first time."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from factory.report.charts import number, percent, plot
from factory.report.curves import Points, Series, curves, finite, smooth, span
from factory.report.html import Child, Html, h, join
from factory.report.measures import wilson
from factory.report.training_run import TrainingRun

HELD = "eval_"  # before the name of a metric of the held-out examples


@dataclass(frozen=True)
class Chart:
    """`lines` are (metric, what it is called, colour); `rules` are heights that mean something."""

    title: str
    says: str
    lines: Sequence[tuple[str, str, str]]
    zero: bool = False
    bounds: tuple[float, float] | None = None
    rules: Sequence[float] = ()
    robust: bool = False  # its values have spikes, which would lift a mean


LOSS = Chart(
    "Loss",
    "What training makes smaller. It falls fast, then slowly; the held-out dots show whether it also falls on prompts that "
    "were not trained on.",
    [("loss", "loss", "one")],
)
LEARNED = [
    Chart(
        "Accuracy",
        "Share of pairs in which the better answer gets the higher reward. 0.5 is guessing; 1 on the training data alone "
        "means learning by heart.",
        [("accuracy", "accuracy", "one")],
        bounds=(0, 1),
        rules=[0.5],
    ),
    Chart(
        "Reward margin",
        "How much further the model has moved towards the chosen answer than towards the rejected one. It starts at 0 and "
        "should rise, then level off.",
        [("margin", "margin", "one"), ("reward_gap", "the data's gap, which RPO aims at", "three")],
        rules=[0],
    ),
    Chart(
        "Implicit rewards",
        "How far the model has moved from where it began on each answer. Chosen should end above rejected; best is when "
        "it does not fall.",
        [("chosen_reward", "chosen", "two"), ("rejected_reward", "rejected", "three")],
        rules=[0],
    ),
    Chart(
        "Log-probabilities of the answers",
        "How likely the model finds whole answers, in nats. Rejected should fall; if chosen falls with it, the model is "
        "unlearning good answers, too.",
        [("chosen_logp", "chosen", "two"), ("rejected_logp", "rejected", "three")],
    ),
    Chart(
        "Length correlation",
        "Whether the margin goes with the difference in length. Near 0 is good; beyond ±0.5, length is much of what is learnt.",
        [("length_correlation", "correlation", "one")],
        bounds=(-1, 1),
        rules=[-0.5, 0, 0.5],
    ),
    Chart(
        "Reward",
        "Mean of the rewards over all answers, and one standard deviation around it: it should widen as answers are told "
        "apart.",
        [
            ("reward_mean", "mean", "one"),
            ("reward_high", "one deviation above", "two"),
            ("reward_low", "one below", "three"),
        ],
    ),
    Chart(
        "Calibration error",
        "How far the model's confidence is from how often it is right, on average. 0 is perfect.",
        [("calibration_error", "error", "one")],
        zero=True,
    ),
    Chart(
        "Error of the grades",
        "Mean distance between the grades that are predicted and those of the data.",
        [("absolute_error", "error", "one")],
        zero=True,
    ),
    Chart(
        "Preference loss",
        "The part of the loss that compares the two answers.",
        [("preference_loss", "preference loss", "one")],
        zero=True,
    ),
    Chart(
        "Likelihood loss",
        "The part of the loss that keeps the right answers likely: their negative log-likelihood, before its weight.",
        [("nll", "negative log-likelihood", "one")],
    ),
    Chart(
        "Distance from the teacher",
        "KL divergence per token: how much the teacher's next words differ from the model's. It should fall.",
        [("teacher_kl", "divergence", "one")],
        zero=True,
    ),
]
OPTIMIZER = [
    Chart(
        "Learning rate",
        "The size of a step, as the schedule has it: up in the warm-up, then down.",
        [("learning_rate", "learning rate", "one")],
        zero=True,
    ),
    Chart(
        "Gradient norm",
        "How strongly a step pulls, before clipping. Steady is healthy; growing spikes announce trouble.",
        [("grad_norm", "norm", "one")],
        zero=True,
        robust=True,
    ),
]
SPEED = [
    Chart(
        "Tokens per second",
        "Real tokens over all processes, padding not counted. The first window holds start-up and compilation.",
        [("tokens_per_second", "tokens/s", "one")],
        zero=True,
        robust=True,
    ),
    Chart(
        "MFU",
        "Share of the device's peak arithmetic that the model itself uses.",
        [("mfu", "MFU", "one")],
        zero=True,
        robust=True,
    ),
    Chart(
        "Memory",
        "Highest use of the device's memory so far, in GiB. It should be level after the first steps.",
        [("memory_gb", "GiB", "one")],
        zero=True,
    ),
]


def draw(run: TrainingRun, charts: Sequence[Chart], class_: str = "") -> list[Html]:
    """A figure for each chart whose first metric was logged, in training or on what is held out."""
    return [
        _figure(run, chart, class_)
        for chart in charts
        if any(_points(run, chart.lines[0][0], held) for held in ("", HELD))
    ]


def _points(run: TrainingRun, metric: str, held: str) -> Points:
    """A metric of a run; the edges of the rewards' band are made of two."""
    if metric not in ("reward_high", "reward_low"):
        return run.points(held + metric)
    sign = 1 if metric == "reward_high" else -1
    spread = dict(run.points(f"{held}reward_std"))
    return [(step, mean + sign * spread.get(step, math.nan)) for step, mean in run.points(f"{held}reward_mean")]


def _smoothed(run: TrainingRun, points: Points, robust: bool) -> Points:
    """Each phase by itself: the step from one to the next is a real one."""
    ends = [phase.start + phase.done for phase in run.phases]
    found: list[tuple[float, float]] = []
    for phase, end in zip(run.phases, ends, strict=True):
        found += smooth([point for point in points if phase.start < point[0] <= end], robust=robust)
    return found


def _figure(run: TrainingRun, chart: Chart, class_: str) -> Html:
    shown, keys = list[Series](), list[Child]()
    for metric, name, colour in chart.lines:
        raw, held = _points(run, metric, ""), _points(run, metric, HELD)
        if not raw and not held:
            continue
        smoothed = _smoothed(run, raw, chart.robust)
        if smoothed != list(raw) and metric not in ("learning_rate", "memory_gb"):
            shown += [Series(name, raw, colour, "faint"), Series(f"{name}, smoothed", smoothed, colour)]
        elif raw:
            shown.append(Series(name, raw, colour))
        keys += [h("i", class_=f"key {colour}"), name] if len(chart.lines) > 1 else []
        if held:
            shown.append(Series(f"held-out {name}", held, colour if len(chart.lines) > 1 else "three", "dots"))
    if any(one.form == "dots" for one in shown):
        keys += [h("i", class_="key dots" if len(chart.lines) > 1 else "key dots three"), "held out"]
    seen = span(shown, zero=chart.zero, bounds=chart.bounds)
    low_and_high = [value for one in shown for _, value in finite(one.points)]
    notes = []
    if seen.outside and chart.bounds is None:
        notes.append(
            f"{number(seen.outside)} {'value lies' if seen.outside == 1 else 'values lie'} outside of what is shown "
            f"({number(min(low_and_high))} to {number(max(low_and_high))} in all)."
        )
    marks = [(phase.start + 0.5 if phase.start else 1, phase.name) for phase in run.phases] if run.phases[1:] else []
    body = curves(chart.title, shown, shown=seen, rules=chart.rules, marks=marks, class_=class_)
    return h(
        "figure",
        h("figcaption", h("b", chart.title), h("span", keys, class_="keys-of") if keys else None, h("p", chart.says)),
        body,
        h("p", notes, class_="note") if notes else None,
    )


# ---- calibration


def calibration(bins: Sequence[Mapping[str, Any]]) -> Html:
    """How often the reward model is right at each confidence: a plot with the diagonal, and the same as a table."""
    known = [(one["confidence"], one["accuracy"], one["pairs"]) for one in bins]
    most = max(pairs for *_, pairs in known)
    shapes: list[Html] = [h("line", class_="rule", x1=0, y1="50%", x2="100%", y2=0)]
    hits = list[Html]()
    for confidence, accuracy, pairs in known:
        low, high = wilson(accuracy * pairs, pairs)
        x = f"{200 * (confidence - 0.5):.2f}%"
        said = f"told with {confidence:.2f}: right in {accuracy:.2f} of {number(pairs)} pairs"
        shapes.append(
            h("line", class_="reach", x1=x, x2=x, y1=f"{100 - 100 * low:.2f}%", y2=f"{100 - 100 * high:.2f}%")
        )
        radius = 4 + 6 * math.sqrt(pairs / most)
        shapes.append(h("circle", class_="bin", cx=x, cy=f"{100 - 100 * accuracy:.2f}%", r=f"{radius:.1f}"))
        left = min(int(20 * (confidence - 0.5)), 9) * 10
        hits.append(h("rect", class_="hit", x=f"{left}%", y=0, width="10%", height="100%", data_tip=said))
    words = "; ".join(f"{accuracy:.2f} right at {confidence:.2f}" for confidence, accuracy, _ in known)
    ticks = [(2 * (at - 0.5), f"{at:g}") for at in (0.5, 0.6, 0.7, 0.8, 0.9, 1.0)]
    drawing = plot(h("svg", shapes, hits), f"Accuracy by confidence: {words}.", ("1", "0.5", "0"), ticks, "tall curves")
    caption = h(
        "figcaption",
        h("b", "Calibration on held-out pairs"),
        h(
            "p",
            "Confidence (across) against how often the model is right (up). On the dashed line it is as sure as it should "
            "be; below, it is too sure. Bars are 95 % intervals, larger dots hold more pairs.",
        ),
    )
    return h("div", h("figure", caption, drawing), _bins(known), class_="pair")


def _bins(known: Sequence[tuple[float, float, float]]) -> Html:
    names = ("Confidence", "Right", "95 % interval", "Pairs", "Share")
    total = sum(pairs for *_, pairs in known)
    rows = []
    for confidence, accuracy, pairs in known:
        low, high = wilson(accuracy * pairs, pairs)
        texts = (f"{accuracy:.3f}", f"{low:.2f} to {high:.2f}", number(pairs), percent(pairs, total))
        rows.append(h("tr", h("th", f"{confidence:.3f}", scope="row"), [h("td", text, class_="n") for text in texts]))
    head = h("tr", [h("th", name, scope="col", class_="n" if place else None) for place, name in enumerate(names)])
    return h("div", h("table", h("thead", head), h("tbody", rows)), class_="scroll")


def pair(figures: Sequence[Html]) -> Html:
    return h("div", figures, class_="pair") if figures else join([])
