"""What an export's rows are like: how far answers are apart, their scores, what was taken for a duplicate, a map."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from factory.report.agreement import Draws, spearman
from factory.report.agreement_sections import between, clip, figures, titled
from factory.report.charts import histogram, number, percent
from factory.report.exported import Exported, Pairs, statistics_by_run
from factory.report.html import Html, h, join
from factory.report.measures import wilson
from factory.report.rules import Cut, cuts
from factory.report.scatter import scatter
from factory.report.sections import cut_note

_LONG, _ENOUGH = 0.3, 20  # a correlation of margin and length beyond which it is said, of so many pairs


def pictures(manifest: Mapping[str, Any], found: Exported, drawn_map: Html | None) -> list[tuple[str, str, Html]]:
    """(id, title, content) of each section that has something to show."""
    parts = (
        ("pairs", "How far answers are apart", _pairs(manifest, found)),
        ("scores", "Scores", _scores(manifest, found)),
        ("duplicates", "Duplicates, side by side", _duplicates(found)),
        ("map", "Map", drawn_map),
    )
    return [(name, title, body) for name, title, body in parts if body is not None]


# ---- pairs


def _pairs(manifest: Mapping[str, Any], found: Exported) -> Html | None:
    if not found.lengths.count:
        return None
    gap = manifest.get("min_gap")
    cut = [Cut(">", float(gap))] if isinstance(gap, int | float) and gap > 0 else []
    says = "best and worst answer of a prompt" if found.format == "reward" else "chosen and rejected answer"
    ranked = sorted(found.pairs.items(), key=lambda entry: (-entry[1].margins.count, entry[0]))
    drawn = [
        _figure(f"Margin, decided by {source}", f"{number(pairs.margins.count)} · rewards of {says}",
                histogram("margin", pairs.margins, cut, ("pairs", "")), cut)
        for source, pairs in ranked if pairs.margins.count
    ]  # fmt: skip
    lengths = histogram("length difference", found.lengths, [], ("better is longer", "better is not longer"))
    drawn.append(
        _figure("Length difference", "characters that the better answer is longer (green) or shorter (orange)", lengths)
    )
    if found.answers.count:
        drawn.append(
            _figure(
                "Answers to a prompt",
                "how many each row holds",
                histogram("answers", found.answers, [], ("prompts", "")),
            )
        )
    return join([_longer(found), h("div", drawn, class_="grid wider"), _length_and_margin(ranked)])


def _figure(title: str, says: str, drawing: Html, cut: Sequence[Cut] = ()) -> Html:
    return h("figure", h("figcaption", h("b", title), h("span", says), cut_note(cut)), drawing)


def _longer(found: Exported) -> Html:
    apart = found.longer + found.shorter
    low, high = wilson(found.longer, apart)
    longer = f"The better answer is the longer one in {percent(found.longer, apart)} of {number(apart)} pairs that differ in length"
    longer += f" ({100 * low:.0f} to {100 * high:.0f} %)." if apart else "."
    return h("p", longer, " Margins of different deciders are on different scales, and shown apart.", class_="note")


def _length_and_margin(ranked: Sequence[tuple[str, Pairs]]) -> Html | None:
    """Whether margins go with the difference in length: a model trained on such pairs learns to write long."""
    drawn, warnings = list[Html](), list[Html]()
    for source, pairs in ranked:
        points = pairs.points()
        lengths, margins = [point[0] for point in points], [point[1] for point in points]
        if len(set(lengths)) < 2 or len(set(margins)) < 2:
            continue
        rho = spearman(lengths, margins, Draws(range(len(points))))
        told = f"Spearman {figures(rho.value)} ({between(rho)}), {number(len(points))} pairs"
        drawing = scatter("length difference", "margin", points, legend=("better is longer", "better is not longer"))
        drawn.append(_figure(f"Decided by {source}", told, drawing))
        if abs(rho.value) > _LONG and len(points) >= _ENOUGH:
            said = f"Where {source} decided, the margin goes with the length. Bound the lengths, or use a reward less fond of them."
            warnings.append(h("p", said, class_="notice"))
    if not drawn:
        return None
    says = (
        "Across: characters that the better answer is longer; up: the margin. A correlation near 0 is good: where the margin grows "
        "with the length, a model learns to write long."
    )
    return titled("Does the margin go with the length?", says, [warnings, h("div", drawn, class_="grid wider")])


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
