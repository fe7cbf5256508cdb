"""What the numbers support and what they do not, in sentences made by rules from `results.json` alone.

A difference is called shown where its 95 % interval leaves out zero and its p is below 0.05. All else is called not shown,
which is not the same as shown to be nothing. Limits are always told.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Literal

from factory.evaluation.results import p_value
from factory.iterate.compared import gain_of
from factory.iterate.diversity import by_round, mean_of, reading
from factory.iterate.measured import gap_name, widest_pass
from factory.iterate.wording import (
    Row,
    amount,
    asked,
    goes_on,
    headline,
    interval,
    over_start,
    part,
    rows_of,
    signed,
    size,
    some,
    trained_on,
)

# against: shown, and not what was hoped for; seen: told without a verdict.
Kind = Literal["shown", "against", "not shown", "seen", "limit"]
Said = Iterator[tuple[Kind, str]]


def conclusions(results: Mapping[str, Any]) -> list[dict[str, str]]:
    """(about, kind, text): `about` is a suite's name, or run, data, time, limits."""
    said = [("run", one) for one in _unfinished(results)]
    for suite in results["suites"]:
        row = headline(results, suite["name"])
        if row is None or suite["when"] == "start":
            continue
        for sentences in (
            _gain_over_start(results, row), _gains_over_controls(results, row), _by_round(row), _by_group(results, row),
            _sharpening(results, suite["name"]), _losses_elsewhere(results, row),
        ):  # fmt: skip
            said += [(suite["name"], one) for one in sentences]
    said += [("data", one) for one in _data(results)]
    said += [("time", one) for one in _time(results)]
    said += [("limits", one) for one in _limits(results)]
    return [{"about": about, "kind": kind, "text": text} for about, (kind, text) in said]


def _unfinished(results: Mapping[str, Any]) -> Said:
    stages = results["stages"]
    if not results["finished"]:
        yield (
            "limit",
            (
                f"The run is not finished: {stages['done']} of {stages['planned']} stages are done, and the next is {stages['next']}. "
                "All that follows is of those."
            ),
        )


# ---- one comparison


def verdict(row: Row, gain: Mapping[str, Any]) -> Kind:
    """shown, against or not shown."""
    if gain["shown"] == "neither":
        return "not shown"
    return "shown" if (gain["shown"] == "up") == row["higher_is_better"] else "against"


def _beside(row: Row, gain: Mapping[str, Any], than: str) -> tuple[Kind, str]:
    """A round's value beside another one's, in one sentence without its end."""
    share, up, found = row["share"], gain["shown"] == "up", verdict(row, gain)
    lower = "" if row["higher_is_better"] else " (lower is better)"
    what = f"{row['measure']}{lower} on {row['suite']} after round {gain['to']['round']} ({_value(row, gain['to'])})"
    if found == "not shown":
        outside = gain["low"] is not None and (gain["low"] > 0 or gain["high"] < 0)
        sure = interval(gain, share) + (f", but p {p_value(gain['p'])}" if outside else "")
        return found, f"Not shown: a difference between {what} and {than}: {signed(gain['difference'], share)} ({sure})"
    by = f"{size(gain['difference'], share)} ({interval(gain, share, 1 if up else -1)})"
    return found, f"{what} is {by} {'above' if up else 'below'} {than}"


def _value(row: Row, side: Mapping[str, Any]) -> str:
    found = next(value for value in row["values"] if all(value[key] == side[key] for key in ("of", "name", "round")))
    return amount(found["mean"], row["share"])


def _ways(row: Row) -> int:
    return sum(value["of"] == "start" for value in row["values"])


# ---- a suite


def _gain_over_start(results: Mapping[str, Any], row: Row) -> Said:
    gain = over_start(row)
    if gain is not None:
        better = f", the better of {_ways(row)} ways of asking it" if _ways(row) > 1 else ""
        kind, text = _beside(row, gain, f"{asked(results, row['base'])} ({_value(row, gain['from'])}){better}")
        yield kind, f"{text}; {some(gain['items'], 'item')}, {some(len(gain['seeds']), 'seed')}."


def _gains_over_controls(results: Mapping[str, Any], row: Row) -> Said:
    """The best control first."""
    found = [gain for gain in row["gains"] if gain["from"]["of"] == "control"]
    for gain in sorted(found, key=lambda gain: gain["from"]["name"] != row["best_control"]):
        name = gain["from"]["name"]
        best = "the best control, " if name == row["best_control"] and len(found) > 1 else "the control "
        kind, text = _beside(row, gain, f"{best}{name} ({_value(row, gain['from'])}: {trained_on(results, name)})")
        yield kind, f"{text}."


def _by_round(row: Row) -> Said:
    """What each round added to the one before; the first is set against the base line."""
    told = []
    for gain in row["gains"]:
        first, second = gain["from"], gain["to"]
        after = first["of"] == "round" or (
            first["of"] == "start" and first["name"] == row["base"] and second["round"] == 1
        )
        if second["of"] == "round" and after:
            unclear = ", not told from none" if gain["shown"] == "neither" else ""
            text = f"{signed(gain['difference'], row['share'])} ({interval(gain, row['share'])}{unclear})"
            told.append((second["round"], f"round {second['round']} {text}"))
    if len(told) > 1:
        steps = "; ".join(text for _, text in sorted(told))
        yield "seen", f"{row['measure']} on {row['suite']}, round by round, each over the one before: {steps}."


def _by_group(results: Mapping[str, Any], row: Row) -> Said:
    by: dict[Kind, list[str]] = {"shown": [], "not shown": [], "against": []}
    for one in results["measures"]:
        if one["suite"] == row["suite"] and one["measure"] == row["measure"] and one["group"]:
            gain = over_start(one)
            if gain is not None:
                by[verdict(one, gain)].append(f"{one['group']} ({signed(gain['difference'], one['share'])})")
    where = (
        f"on these groups of {row['suite']}, each over the start{' asked in its better way' if _ways(row) > 1 else ''}"
    )
    if by["shown"]:
        yield "shown", f"A gain in {row['measure']} {where}: {', '.join(by['shown'])}."
    if by["not shown"]:
        yield "not shown", f"Not shown: a gain in {row['measure']} {where}: {', '.join(by['not shown'])}."
    if by["against"]:
        yield "against", f"A loss in {row['measure']} {where}: {', '.join(by['against'])}."


def sharpening(results: Mapping[str, Any], suite: str) -> dict[str, Any] | None:
    """The gains of the last round in pass@1, in pass@k and in what lies between, each over the base line; None where any
    of them is not there."""
    rows = {row["measure"]: row for row in rows_of(results, suite)}
    k = widest_pass(list(rows))
    if k is None:
        return None
    one, many, gap = rows["pass@1"], rows[f"pass@{k}"], rows[gap_name(k)]
    start, to = {"of": "start", "name": one["base"]}, {"of": "round", "round": one["last_round"]}
    gains = {"one": over_start(one), "many": gain_of(many, start, to), "gap": gain_of(gap, start, to)}  # over one start
    return None if None in gains.values() else {"k": k, "round": one["last_round"], **gains}


def _sharpening(results: Mapping[str, Any], suite: str) -> Said:
    found = sharpening(results, suite)
    if found is None:
        return
    k, one, many, gap = found["k"], found["one"], found["many"], found["gap"]
    numbers = "; ".join(
        f"{name} {signed(gain['difference'], True)} ({interval(gain, True)})"
        for name, gain in (("pass@1", one), (f"pass@{k}", many), (f"pass@{k} less pass@1", gap))
    )
    where = f"on {suite} from the base line to round {found['round']} ({numbers})"
    if one["shown"] != "up":
        yield "seen", f"No gain in pass@1 is shown {where}, so there is none to be told from sharpening."
    elif many["shown"] == "up":
        nearer = " Part of it is: the two have come closer." if gap["shown"] == "down" else ""
        yield (
            "shown",
            (
                f"pass@{k} rose along with pass@1 {where}. More questions are answered within {k} tries than before, so that up to {k} "
                f"tries the gain is not sharpening alone.{nearer} With more tries than {k} nothing was measured."
            ),
        )
    elif many["shown"] == "down":
        yield (
            "against",
            (
                f"Sharpening: pass@1 rose while pass@{k} fell {where}. The model is surer of what it could answer before, and answers "
                f"fewer questions within {k} tries."
            ),
        )
    else:
        yield (
            "not shown",
            f"Not shown: that the gain is more than sharpening. pass@1 rose, but no gain in pass@{k} is shown {where}.",
        )


def _losses_elsewhere(results: Mapping[str, Any], row: Row) -> Said:
    """Other measures of the suite that became worse; pass@k has its own sentence."""
    for other in rows_of(results, row["suite"]):
        gain = over_start(other)
        if other is not row and gain is not None and not other["measure"].startswith("pass@"):
            kind, text = _beside(other, gain, f"the start ({_value(other, gain['from'])})")
            if kind == "against":
                yield kind, f"{text}."


# ---- data and time


def _data(results: Mapping[str, Any]) -> Said:
    """Which rounds went on from others; first and last round's data, means over the seeds that have them."""
    on = [f"Round {one['round']} {how}" for one in results["trained"] if (how := goes_on(results, one["round"]))]
    if on:
        yield "seen", f"{'. '.join(on)}. The other rounds trained a base model anew."
    found = by_round(results["diversity"])
    if len(found) < 2:
        return
    first, last = min(found), max(found)
    told = []
    for name, path, form in (
        ("kept share", ("kept_share",), "{:.1%}"),
        ("different answers to a prompt", ("distinct_per_prompt", "all"), "{:.2f}"),
        ("compression ratio", ("compression_ratio",), "{:.2f}"),
        ("mean length in characters", ("length", "all"), "{:,.0f}"),
    ):
        ends = [mean_of(found[round_], reading(*path)) for round_ in (first, last)]
        if None not in ends:
            told.append(f"{name} {form.format(ends[0])} to {form.format(ends[1])}".replace("%", " %"))
    if told:
        yield (
            "seen",
            f"The data from round {first} to round {last}, means over seeds, without intervals: {'; '.join(told)}.",
        )


def _time(results: Mapping[str, Any]) -> Said:
    told = results["utilisation"]
    share = told["share"]
    said = []
    if share["working"] is not None:
        said.append(f"Something was generated or trained in {part(share['working'])} of the wall time.")
    if share["stages"] is not None:
        said.append(f"Stages were running in {part(share['stages'])} of it.")
    gpus = told["gpus"]
    if gpus:
        busy = sum(one["busy"] for one in gpus) / len(gpus)
        who = "the GPU was" if len(gpus) == 1 else f"the {len(gpus)} GPUs were"
        said.append(f"The driver says that {who} busy {part(busy, 0)} of it.")
    if said:
        yield (
            "seen",
            " ".join(said).replace("of it", "of the wall time", 1) if share["working"] is None else " ".join(said),
        )


# ---- limits


def _limits(results: Mapping[str, Any]) -> Said:
    rows = [row for row in results["measures"] if row["gains"]]
    gains: Sequence[Mapping[str, Any]] = [gain for row in rows for gain in row["gains"]]
    if not gains:
        return
    yield from _seeds(max(len(gain["seeds"]) for gain in gains))
    yield from _missing(results)
    for suite in results["suites"]:
        count = max((row["items"] for row in rows if row["suite"] == suite["name"]), default=0)
        if count and suite["when"] != "start":
            yield "limit", f"{suite['name']}: {some(count, 'item')}. {_unseen(suite, results)}"
            row = headline(results, suite["name"])
            if row is not None and _ways(row) == 1 and not (suite.get("settings") or {}).get("shots"):
                yield (
                    "limit",
                    (
                        f"{suite['name']}: the start was asked in one way only, without solved examples. Part of what is gained over it may "
                        "be the form of an answer, which examples would have shown it."
                    ),
                )
    if not any(gain["from"]["of"] == "control" for gain in gains):
        yield (
            "limit",
            (
                "No control was measured: whether as many steps of training on something else would have gained as much is not known."
            ),
        )
    yield (
        "limit",
        (
            f"Nothing is corrected for many comparisons. There are {len(gains):,} of them in the tables; where nothing differs, one in "
            "twenty intervals leaves out zero by chance."
        ),
    )


def _seeds(seeds: int) -> Said:
    if seeds == 1:
        yield (
            "limit",
            (
                "With one seed the variation between seeds was not measured: intervals cover the choice of items only, and another "
                "seed may give another result."
            ),
        )
    else:
        yield (
            "limit",
            (
                f"Intervals resample the items and the {seeds} seeds. The spread between so few seeds is known badly, and the "
                "intervals are, if anything, too narrow; each seed's own value is in the tables."
            ),
        )


def _missing(results: Mapping[str, Any]) -> Said:
    wanted = len(results["seeds"])
    for suite in results["suites"]:
        row = headline(results, suite["name"])
        if row is None or row["last_round"] is None:
            continue
        last = row["last_round"]
        found = next(
            len(value["seeds"]) for value in row["values"] if value["of"] == "round" and value["round"] == last
        )
        if found < wanted or last < results["rounds"]:
            yield (
                "limit",
                (
                    f"{suite['name']} was measured after round {last} of {results['rounds']} for {found} of {some(wanted, 'seed')} so far."
                ),
            )


def _unseen(suite: Mapping[str, Any], results: Mapping[str, Any]) -> str:
    settings, cleaned = suite.get("settings") or {}, results.get("decontamination") or {}
    if suite.get("suite") == "reasoning" and settings.get("split", "eval") in ("eval", "hard"):
        return (
            "They are drawn from random seeds that no training data are drawn from; a data set with few possible questions may "
            "still repeat one."
        )
    if suite.get("suite") in cleaned.get("sets", ()):
        asked = cleaned["not_asked"]
        problems = f"{some(asked, 'problem')} doing what an evaluation problem asks for, and " if asked else ""
        return (
            f"Kept out of what was made here: {problems}{some(cleaned['samples'], 'sample')} resembling one. "
            "What the base model had seen before is not known."
        )
    return "Whether they, or others like them, were in any model's training data was not looked at."
