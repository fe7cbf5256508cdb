"""`report.html` of a loop: what was gained, over what, how surely; what became of the data; and where the time went."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from factory.iterate.compared import gain_of
from factory.iterate.utilisation import Work
from factory.iterate.wording import Row, amount, headline, interval, over_start, part, signed, some
from factory.report.charts import duration, number
from factory.report.frame import document, fact, folded
from factory.report.html import Child, Html, h, join
from factory.report.rounds_charts import tied
from factory.report.rounds_data import data
from factory.report.rounds_gains import gains, sharpened
from factory.report.rounds_time import stages, time

Results = Mapping[str, Any]
_TAGS = {"shown": "Shown", "against": "Shown, against", "not shown": "Not shown", "seen": "Seen", "limit": "Limit"}
_ABOUT = {"run": "", "data": "Data and time", "time": "Data and time", "limits": "Limits"}
_FOOTER = "One self-contained file: no network, no tracking. Its numbers are those of results.json beside it."


def render(results: Results, work: Work) -> str:
    """The whole document."""
    found = [
        ("evidence", "What the numbers say", _evidence(results)),
        ("gains", "Gains", gains(results)),
        ("sharpening", "Better, or only surer?", sharpened(results)),
        ("data", "The data, round by round", data(results)),
        ("time", "Where the time went", time(results, work)),
        ("stages", "Stages", stages(results)),
    ]
    sections = [(name, title, body) for name, title, body in found if body is not None]
    return document(
        results["run"], "report of rounds", _header(results), sections, skip="gains", footer=_FOOTER, style="rounds.css"
    )


# ---- header


def _header(results: Results) -> Html:
    done, planned = results["stages"]["done"], results["stages"]["planned"]
    chip = ("Finished", "good") if results["finished"] else (f"{number(done)} of {some(planned, 'stage')}", "warn")
    lead = [
        "Recipe ", h("b", results["recipe"]), " · first teacher ", h("b", results["teacher"]), " · student ",
        h("b", ", then ".join(results["students"])), f" · {some(results['rounds'], 'round')} · {some(len(results['seeds']), 'seed')}",
    ]  # fmt: skip
    how: dict[str, Child] = {f"Suite {suite['name']}": _flat(suite["settings"]) for suite in results["suites"]}
    return h(
        "header",
        h("p", "Rounds", class_="eyebrow"),
        h("div", h("h1", results["run"]), h("span", chip[0], class_=f"chip {chip[1]}"), class_="title"),
        h("p", lead, class_="lead"),
        h("dl", list(_facts(results)), class_="facts"),
        [h("p", problem, class_="notice") for problem in results["problems"]],
        folded(how, "How it was asked") if any(how.values()) else None,
    )


def _flat(settings: Mapping[str, Any] | None) -> str:
    return ", ".join(f"{key} {value}" for key, value in (settings or {}).items())[:2000]


def _facts(results: Results) -> Iterator[Html]:
    measured = (headline(results, suite["name"]) for suite in results["suites"] if suite["when"] == "always")
    row = next((row for row in measured if row is not None), None)
    if row is not None and row["last_round"] is not None:
        yield from _gain_facts(row)
    told = results["utilisation"]
    if told["wall_seconds"]:
        note = f"of {duration(told['wall_seconds'])} of wall time"
        yield fact("Generating or training", part(told["share"]["working"]), note)
    if told["gpus"]:
        busy = sum(one["busy"] for one in told["gpus"]) / len(told["gpus"])
        yield fact("GPU busy", part(busy, 0), f"as its driver says, mean of {some(len(told['gpus']), 'GPU')}")


def _gain_facts(row: Row) -> Iterator[Html]:
    last, share = row["last_round"], row["share"]
    final = next(value for value in row["values"] if value["of"] == "round" and value["round"] == last)
    base = next((value for value in row["values"] if value["of"] == "start" and value["name"] == row["base"]), None)
    note = f"{amount(base['mean'], share)} at the start" if base else "the start was not measured"
    yield fact(f"{row['measure']} on {row['suite']}, round {last}", amount(final["mean"], share), note)
    gain = over_start(row)
    if gain is not None:
        yield fact("Gain over the start", signed(gain["difference"], share), interval(gain, share))
    gain = gain_of(row, {"of": "control", "name": row["best_control"]}) if row["best_control"] else None
    if gain is not None:
        note = f"{interval(gain, share)}: {row['best_control']}"
        yield fact("Over the best control", signed(gain["difference"], share), note)


# ---- words


def _evidence(results: Results) -> Html:
    said = results["conclusions"]
    if not said:
        return h("p", "Nothing was measured yet.", class_="empty")
    parts: dict[str, list[Html]] = {}
    for one in said:
        kind = one["kind"]
        tag = h("span", _TAGS[kind], class_="tagged")
        text = one["text"].removeprefix("Not shown: ")
        text = tied(text if text == one["text"] else text[:1].upper() + text[1:])  # the tag says the rest
        shown = h("li", tag, h("p", text), class_=kind.replace(" ", "-"))
        parts.setdefault(_ABOUT.get(one["about"], one["about"]), []).append(shown)
    return join(
        [h("h3", name, class_="of") if name else None, h("ul", rows, class_="says")] for name, rows in parts.items()
    )
