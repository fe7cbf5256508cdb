"""What the report says about the scorers themselves: who is right, who agrees with whom, and how a judge behaves."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence

from factory.report.agreement import FEW, Agreed, Estimate
from factory.report.charts import around_zero, bar, number, percent
from factory.report.compared import Compared, Orders, PanelSays
from factory.report.html import Child, Html, h, join
from factory.report.measures import wilson
from factory.report.ranking import PREFERRED
from factory.report.rules import cuts
from factory.report.scatter import scatter
from factory.report.scoring import ERRORS

_NAME = 60  # characters of a score's name
_MEANS = {
    "rubbish": "Rubbish: no readable judgement, after asking again.",
    "refusal": "Refusal: the judge would not.",
    "token limit": "Token limit: cut off; raise max_tokens.",
    "engine": "Engine: the server failed; a resumed run tries again.",
    "other": "Other: see what was said.",
}


def clip(text: str, most: int = _NAME) -> str:
    return text if len(text) <= most else text[:most] + "…"


def figures(value: float) -> str:
    """Two digits after the point, with a real minus; a dash where it is not known."""
    return "–" if math.isnan(value) else f"{value:.2f}".replace("-0.00", "0.00").replace("-", "−")


def between(one: Estimate) -> str:
    return "–" if math.isnan(one.low) else f"{figures(one.low)} to {figures(one.high)}"


def table(names: Sequence[str], rows: Sequence[Html], first: int = 1, chart: int | None = None) -> Html:
    """Columns from `first` on hold numbers, but for the one with a chart, which a narrow screen does without."""
    head = [
        h("th", name, scope="col", class_="wide" if place == chart else "n" if place >= first else None)
        for place, name in enumerate(names)
    ]
    grid = h("table", h("thead", h("tr", head)), h("tbody", rows), class_="groups")
    return h("div", grid, class_="scroll", tabindex=0)


def titled(title: str, says: Child, body: Child) -> Html:
    """A part of a section."""
    return h("div", h("h3", title), h("p", says, class_="note"), body, class_="part")


# ---- ranking accuracy


def ranking(found: Compared) -> Html | None:
    """How often each scorer puts two answers to one prompt in the right order, a table for each truth."""
    if not found.ranking:
        return None
    parts = []
    for truth in dict.fromkeys(row.truth for row in found.ranking):
        mine = [row for row in found.ranking if row.truth == truth]
        rows = []
        for row in mine:
            share = row.share
            label = f"{row.scorer}: {figures(share.value)}, from {figures(share.low)} to {figures(share.high)}"
            chart = _around_half(share, label)
            cells = [
                percent(share.value, 1),
                _percents(share),
                number(share.records),
                number(share.groups),
                percent(row.ties, 1),
            ]
            rows.append(
                h("tr", h("th", clip(row.scorer), scope="row"), h("td", chart, class_="wide"),
                  [h("td", text, class_="n") for text in cells])
            )  # fmt: skip
        said = "the data's own preference" if truth == PREFERRED else f"the verifier “{truth}”"
        names = ("Scorer", "Share of pairs in the right order; the line is guessing", "Right", "95 % interval", "Pairs",
                 "Groups", "Ties")  # fmt: skip
        parts.append(h("div", h("h3", f"By {said}"), table(names, rows, 2, 1), class_="part"))
    note = (
        "Two answers to one prompt, of which one is known to be better: how often does a scorer put it first? Ties count half. "
        "Intervals are drawn over whole groups of answers; below "
        f"{FEW} groups none is given. Preferring the longer answer is the baseline to beat."
    )
    return join([h("p", note, class_="note"), parts])


def _around_half(one: Estimate, label: str) -> Html:
    low, high = (one.value if math.isnan(end) else end for end in (one.low, one.high))
    return around_zero(low, one.value, high, label)


def _percents(one: Estimate) -> str:
    return "–" if math.isnan(one.low) else f"{100 * one.low:.0f} to {100 * one.high:.0f} %"


# ---- scatter


def scatters(found: Compared, rule: str | None) -> Html | None:
    """Each two of the main scores against each other."""
    cut = cuts(rule)
    drawn = []
    for (first, second), points in found.scatters():
        rho = found.correlations.get((first, second))
        told = f"Spearman {figures(rho.value)} ({between(rho)})" if rho and not math.isnan(rho.value) else ""
        count = f"{number(len(points))} records"
        names = h("b", f"{clip(first)} (across) and {clip(second)} (up)")
        caption = h("figcaption", names, h("span", count), told and h("span", told))
        bounds = (cut.get(first, []), cut.get(second, []))
        drawn.append(h("figure", caption, scatter(clip(first), clip(second), points, bounds)))
    if not drawn:
        return None
    says = "A disk is as large as there are records; green are kept, orange rejected. Lines are the keep rule's cuts."
    return titled("Two scores of the same records", says, h("div", drawn, class_="grid wider"))


# ---- agreement


def agreement(found: Compared) -> Html | None:
    """The matrix of correlations, verifiers against the rest, and what each score alone would keep."""
    parts = list(filter(None, (_matrix(found), _verified(found), _decisions(found))))
    if not parts:
        return None
    note = f"Measured on {number(len(found.rows))} of {number(found.records)} scored records"
    note += ", a sample of whole seed items." if len(found.rows) < found.records else "."
    note += (
        " Intervals (95 %) are drawn over seed items. A record that was lost early was not scored any further: what is said of a "
        "later score holds among the records that came so far."
    )
    return join([h("p", note, class_="note"), parts])


def _matrix(found: Compared) -> Html | None:
    known = {names: one for names, one in found.correlations.items() if not math.isnan(one.value)}
    names = [name for name in found.matrix if any(name in pair for pair in known)]
    if not known:
        return None
    rows = []
    for place, name in enumerate(names[1:], 1):
        cells = [_cell(known.get((other, name)), other, name) for other in names[:place]]
        rows.append(h("tr", h("th", clip(name, 24), scope="row"), cells, [h("td")] * (len(names) - 1 - place)))
    head = h("tr", h("td"), [h("th", clip(name, 24), scope="col") for name in names[:-1]])
    grid = h("div", h("table", h("thead", head), h("tbody", rows), class_="matrix"), class_="scroll", tabindex=0)
    says = (
        "Spearman's rank correlation: 1 where both order the records alike, 0 where one says nothing about the other."
    )
    return titled("Do scores order records alike?", says, grid)


def _cell(one: Estimate | None, first: str, second: str) -> Html:
    if one is None:
        return h("td", "–", class_="dim", title=f"{first} and {second}: too few records have both")
    tone = ("up" if one.value > 0 else "down") + str(min(5, round(abs(one.value) * 5)))
    return h(
        "td",
        h("b", figures(one.value)),
        h("small", between(one)),
        h("small", f"n = {number(one.records)}"),
        class_=tone,
    )


def _verified(found: Compared) -> Html | None:
    if not found.verified:
        return None
    rows = []
    for (truth, name), one in found.verified.items():
        label = f"{name} tells what passes {truth}: {figures(one.auc.value)}, {between(one.auc)}"
        cells = [h("td", text, class_="n") for text in
                 (figures(one.auc.value), between(one.auc), number(one.passed), number(one.failed))]  # fmt: skip
        chart = h("td", _around_half(one.auc, label), class_="wide")
        rows.append(h("tr", h("th", clip(name), scope="row"), h("td", clip(truth)), chart, cells))
    says = (
        "Probability that a record which passes the verifier (a score of 1) has the higher score than one which fails, over "
        "all prompts. The line is 0.5: knowing nothing."
    )
    names = ("Score", "Verifier", "AUC", "AUC", "95 % interval", "Passed", "Failed")
    return titled("Do scores know what a verifier finds?", says, table(names, rows, 3, 2))


def _decisions(found: Compared) -> Html | None:
    if not found.decisions:
        return None
    rows = [_decision(names, one) for names, one in found.decisions.items()]
    says = (
        "What each score alone would keep, by its part of the keep rule. Kappa is agreement beyond chance: 1 is full, 0 is "
        "chance. Where both keep nearly everything, kappa is low however often they agree."
    )
    legend = h("p", [(h("i", class_=class_), f"{name} ") for class_, name in
                     (("kept", "both"), ("one", "first alone"), ("two", "second alone"), ("rest", "neither"))],
               class_="legend inline")  # fmt: skip
    names = (
        "First",
        "Second",
        "Who would keep",
        "Both",
        "First only",
        "Second only",
        "Neither",
        "Kappa",
        "95 % interval",
    )
    return titled("Would they keep the same records?", says, [legend, table(names, rows, 3, 2)])


def _decision(names: tuple[str, str], one: Agreed) -> Html:
    counts = (one.both, one.only_first, one.only_second, one.neither)
    total, at, parts = sum(counts), 0.0, []
    for class_, count in zip(("kept", "tone-one", "tone-two", "rest"), counts, strict=True):
        parts.append((class_, at, count / total))
        at += count / total
    label = f"both {counts[0]}, only {names[0]} {counts[1]}, only {names[1]} {counts[2]}, neither {counts[3]}"
    cells = [*map(number, counts), figures(one.kappa.value), between(one.kappa)]
    return h(
        "tr",
        h("th", clip(names[0]), scope="row"),
        h("td", clip(names[1])),
        h("td", bar(parts, label), class_="wide"),
        [h("td", text, class_="n") for text in cells],
    )


# ---- how judges behave


def judging(found: Compared, reasons: Mapping[str, Mapping[str, int]]) -> Html | None:
    """`reasons` are the manifest's: how often each scorer, or a member of its panel, said why it gave no score."""
    parts = [_errors(found, reasons)] if reasons or any(found.errors.values()) else []
    parts += [_panel(name, panel) for name, panel in found.panels.items()]
    parts += [_orders(found.orders)] if found.orders else []
    return join(parts) if parts else None


def _errors(found: Compared, reasons: Mapping[str, Mapping[str, int]]) -> Html:
    there = [kind for kind in ERRORS if any(kinds.get(kind) for kinds in found.errors.values())]
    rows = []
    for name, kinds in sorted(found.errors.items()):
        failed, scored = sum(kinds.values()), found.scored.get(name, 0)
        cells = (
            [number(scored), number(failed), percent(failed, failed + scored)] if scored else ["–", number(failed), "–"]
        )
        cells += [number(kinds.get(kind, 0)) for kind in there]
        rows.append(h("tr", h("th", clip(name), scope="row"), [h("td", text, class_="n") for text in cells]))
    names = ("Scorer", "Scored", "No score", "Share", *(kind.capitalize() for kind in there))
    says = (
        "A score that could not be had is an error of its record, never a zero. The keep rule decided without it; where it could "
        "not, the record was lost for this reason. " + " ".join(_MEANS[kind] for kind in there)
    )
    said = [
        h("tr", h("th", clip(name), scope="row"), h("td", clip(why, 200)), h("td", number(count), class_="n"))
        for name, mine in reasons.items()
        for why, count in sorted(mine.items(), key=lambda entry: (-entry[1], entry[0]))
    ]
    words = h("details", h("summary", "What they said"), table(("Scorer", "Why", "Times"), said, 2)) if said else None
    return titled("Scores that could not be had", says, [table(names, rows) if rows else None, words])


def _panel(name: str, panel: PanelSays) -> Html:
    alpha = panel.alpha
    rows = [
        h("tr", h("th", clip(first), scope="row"), h("td", clip(second)),
          [h("td", text, class_="n") for text in (figures(kappa), percent(same, 1), number(count))])
        for (first, second), (kappa, same, count) in panel.kappas.items()
    ]  # fmt: skip
    means = ", ".join(f"{clip(judge)} {figures(mean)}" for judge, (_, mean) in panel.means.items())
    says = (
        f"Krippendorff's alpha (ordinal) is {figures(alpha.value)} ({between(alpha)}) over {number(alpha.records)} records: 1 is "
        f"agreement, 0 is chance; below 0.67 not even tentative conclusions should rest on it. Mean grades: {means}."
    )
    if panel.missed:
        says += f" {number(panel.missed)} records with yet other grades are left out."
    names = ("Judge", "and", "Weighted kappa", "Same grade", "Records")
    return titled(f"The panel of {clip(name)}", says, table(names, rows, 2))


def _orders(orders: Orders) -> Html:
    rows = [h("tr", h("th", name, scope="row"), h("td", _share_bar(part, orders.comparisons), class_="wide"),
              [h("td", text, class_="n") for text in texts])
            for name, part, texts in _order_rows(orders)]  # fmt: skip
    says = (
        f"{number(orders.comparisons)} comparisons, each in both orders. Position bias: the same place won both times, "
        "whichever answer stood there; such a comparison says nothing about the answers."
    )
    names = ("Of the comparisons", "Share with its 95 % interval", "Share", "95 % interval", "Count")
    return titled("Both orders of pairwise", says, table(names, rows, 2, 1))


def _order_rows(orders: Orders) -> Iterator[tuple[str, int, tuple[str, str, str]]]:
    for name, part in (
        ("both orders agree", orders.consistent),
        ("position bias", orders.biased),
        ("… the first place won", orders.first),
        ("… the second place won", orders.second),
        ("a tie in one order only", orders.wavered),
    ):
        low, high = wilson(part, orders.comparisons)
        yield name, part, (percent(part, orders.comparisons), f"{100 * low:.1f} to {100 * high:.1f} %", number(part))


def _share_bar(part: int, whole: int) -> Html:
    low, high = wilson(part, whole)
    return h(
        "svg",
        h("rect", class_="track", width="100%", height="100%"),
        h("rect", class_="kept", width=f"{100 * part / whole:.2f}%", height="100%"),
        h("line", class_="sure", x1=f"{100 * low:.2f}%", x2=f"{100 * high:.2f}%", y1="50%", y2="50%"),
        class_="bar share",
        role="img",
        aria_label=f"between {percent(low, 1)} and {percent(high, 1)}",
    )
