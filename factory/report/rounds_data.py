"""The section of a loop's report on its data: how varied each round's are, and how scores and lengths drift."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from factory.iterate.diversity import by_round, reading
from factory.iterate.wording import Row
from factory.report.charts import number
from factory.report.html import Html, h, join
from factory.report.rounds_charts import Trend, over_rounds, table

_MOST_SCORES = 12
Reading = Callable[[Row], float | None]
Lines = Sequence[tuple[str, str, Reading]]  # name, colour, and where its number is


def data(results: Mapping[str, Any]) -> Html | None:
    found = results["diversity"]
    if not found:
        return None
    budget = _common_budget(found)
    drawn = [
        over_rounds(title, says, [_trend(found, *line) for line in lines], results["rounds"], share=share, zero=zero)
        for title, says, lines, share, zero in (*_varied(budget), *_drift(found))
    ]
    says = "Means over the seeds, each seed's own line behind. " if len(results["seeds"]) > 1 else ""
    says += "No intervals: these are counts of the data that there are."
    return join([h("p", says, class_="note"), h("div", drawn, class_="trends"), _all(found, budget)])


def _varied(budget: int | None) -> list[tuple[str, str, Lines, bool, bool]]:
    found: list[tuple[str, str, Lines, bool, bool]] = [
        ("Kept share", "Of all records, those that are trained on.", [("kept", "one", reading("kept_share"))], True, True),
        ("Prompts", "Different ones that were asked, and that have a kept answer.",
         [("asked", "one", reading("prompts", "all")), ("with a kept answer", "two", reading("prompts", "kept"))], False, True),
        ("Answers to a prompt", "How many there are, and how many of them are different.",
         [("answers", "three", reading("answers_per_prompt", "all")), ("different", "one", reading("distinct_per_prompt", "all"))], False, True),
        ("Compression ratio", "Kept answers before and after deflating: the higher, the more they repeat each other.",
         [("ratio", "one", reading("compression_ratio"))], False, True),
        ("Length", "Mean characters of an answer.",
         [("all", "one", reading("length", "all")), ("kept", "two", reading("length", "kept"))], False, True),
    ]  # fmt: skip
    if budget is not None:
        lines = [
            (f"{n}-grams", colour, reading("distinct", str(budget), str(n)))
            for n, colour in ((1, "one"), (2, "two"), (3, "three"))
        ]
        says = f"Share of different ones in the first {number(budget)} words of the kept answers."
        found.insert(3, ("Distinct n-grams", says, lines, True, True))
    return found


def _drift(found: Sequence[Row]) -> list[tuple[str, str, Lines, bool, bool]]:
    names = list(dict.fromkeys(name for one in found for name in one["scores"]))
    says = "Mean over the records that have it, and over the kept ones."
    return [
        (f"Score {name}", says, [("all", "one", reading("scores", name, "all")), ("kept", "two", reading("scores", name, "kept"))], False, False)
        for name in names[:_MOST_SCORES]
    ]  # fmt: skip


def _trend(found: Sequence[Row], name: str, colour: str, read: Reading) -> Trend:
    points = []
    for round_, rows in sorted(by_round(found).items()):
        seeds = {str(row["seed"]): known for row in rows if (known := read(row)) is not None}
        if seeds:
            points.append((round_, sum(seeds.values()) / len(seeds), None, None, seeds))
    return Trend(name, colour, points)


def _common_budget(found: Sequence[Row]) -> int | None:
    """The largest number of words that every round's kept answers have."""
    shared = set.intersection(*({int(budget) for budget in one["distinct"]} for one in found))
    return max(shared, default=None)


def _all(found: Sequence[Row], budget: int | None) -> Html:
    columns: list[tuple[str, Reading, str]] = [
        ("Records", reading("records"), "{:,.0f}"), ("Kept", reading("kept"), "{:,.0f}"), ("Share", reading("kept_share"), "{:.1%}"),
        ("Prompts", reading("prompts", "all"), "{:,.0f}"), ("with a kept answer", reading("prompts", "kept"), "{:,.0f}"),
        ("Different answers", reading("distinct_per_prompt", "all"), "{:.2f}"),
        *((f"distinct-{n}", reading("distinct", str(budget), n), "{:.3f}") for n in ("1", "2", "3")),
        ("Compression", reading("compression_ratio"), "{:.2f}"), ("Characters", reading("length", "all"), "{:,.0f}"),
        ("kept", reading("length", "kept"), "{:,.0f}"),
    ]  # fmt: skip
    rows = []
    for one in found:
        cells = [(read(one), form) for _, read, form in columns]
        texts = ("–" if value is None else form.format(value).replace("%", " %") for value, form in cells)
        head = h("th", f"Seed {one['seed']}, round {one['round']}", scope="row")
        rows.append(h("tr", head, [h("td", text, class_="n") for text in texts]))
    shown = table(("Data", *(name for name, _, _ in columns)), rows, "forest", plain=1)
    return h("details", h("summary", "All of it as a table"), shown, class_="more")
