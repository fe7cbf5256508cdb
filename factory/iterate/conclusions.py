"""What the numbers support and what they do not, in sentences made by rules from `results.json` alone.

A gain is called shown where its 95% interval leaves out zero. Everything else is called not shown, which is not the same as
shown to be nothing. Limits are always told.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from factory.iterate.compared import gain_of
from factory.iterate.measured import gap_name, widest_pass

Row = Mapping[str, Any]
TRAINED_ON = {
    "unfiltered": "SFT on the unfiltered samples",
    "seeds": "SFT on the solved examples alone",
    "pairs": "DPO on the same pairs with other options",
}


def conclusions(results: Mapping[str, Any]) -> list[dict[str, str]]:
    """(kind, text): shown, against (shown, and not what was hoped for), not shown, seen (no interval), limit."""
    said = [*_unfinished(results)]
    for suite in results["suites"]:
        row = headline(results, suite["name"])
        if row is None or suite["when"] == "start":
            continue
        said += _gain_over_start(results, row)
        said += _gains_over_controls(results, row)
        said += _by_round(row)
        said += _by_group(results, row)
        said += _sharpening(results, suite["name"])
        said += _losses_elsewhere(results, row)
    said += _data(results)
    said += _time(results)
    said += _limits(results)
    return [{"kind": kind, "text": text} for kind, text in said]


Said = Iterator[tuple[str, str]]


# ---- words for numbers and models


def rows_of(results: Mapping[str, Any], suite: str, group: str = "") -> list[Row]:
    return [row for row in results["measures"] if row["suite"] == suite and row["group"] == group]


def headline(results: Mapping[str, Any], suite: str) -> Row | None:
    """The measure that stands for a suite: pass@1, else its first."""
    rows = rows_of(results, suite)
    return next((row for row in rows if row["measure"] == "pass@1"), rows[0] if rows else None)


def last_round(row: Row) -> int | None:
    """The round that the gains over the start are of."""
    found = [
        gain["to"]["round"] for gain in row["gains"] if gain["from"]["of"] == "start" and gain["to"]["of"] == "round"
    ]
    rounds = [value for value in row["values"] if value["of"] == "round"]
    if not rounds:
        return None
    most = max(len(value["seeds"]) for value in rounds)
    last = [value["round"] for value in rounds if len(value["seeds"]) == most][-1]
    return int(last if last in found or not found else max(found))


def size(value: float, share: bool) -> str:
    """Without its sign: 23.1 points, or 0.42."""
    return f"{100 * abs(value):.1f} points" if share else f"{abs(value):.3g}"


def signed(value: float, share: bool) -> str:
    """+23.1 points, or −0.42."""
    return f"{_number(value, share, '+')}{' points' if share else ''}"


def interval(gain: Mapping[str, Any], share: bool, sign: int = 1) -> str:
    """95% interval 20.9 to 25.3; with `sign` -1 that of the difference turned round."""
    if gain["low"] is None or gain["high"] is None:
        return "no interval"
    low, high = sorted((sign * gain["low"], sign * gain["high"]))
    return f"95% interval {_number(low, share)} to {_number(high, share)}"


def _number(value: float, share: bool, sign: str = "") -> str:
    """No minus before what is rounded to nothing, and a proper one before the rest."""
    text = f"{100 * value:{sign}.1f}" if share else f"{value:{sign}.3g}"
    return text.replace("-", "" if not float(text) else "\N{MINUS SIGN}")


def amount(value: float, share: bool) -> str:
    return f"{100 * value:.1f} %" if share else f"{value:.4g}"


def asked(results: Mapping[str, Any], name: str) -> str:
    """The start as one suite asks it."""
    suite = next((suite for suite in results["suites"] if suite["name"] == name), None)
    shots = (suite or {}).get("settings") or {}
    count = shots.get("shots") if isinstance(shots, Mapping) else None
    if count:
        return f"the starting model asked with {count} solved example{'s' if count != 1 else ''}"
    other = suite is not None and suite["when"] == "start"
    return f"the starting model asked as in {name}" if other else "the starting model"


def _verdict(row: Row, gain: Mapping[str, Any]) -> str:
    """shown, against or not shown."""
    if gain["shown"] == "neither":
        return "not shown"
    return "shown" if (gain["shown"] == "up") == row["higher_is_better"] else "against"


def _beside(row: Row, gain: Mapping[str, Any], what: str, than: str) -> tuple[str, str]:
    """One comparison in one sentence: `what` has the value, `than` is what it is set against."""
    share, verdict = row["share"], _verdict(row, gain)
    lower = "" if row["higher_is_better"] else " (lower is better)"
    if verdict == "not shown":
        return verdict, (
            f"Not shown: a difference between {what}{lower} and {than}: {signed(gain['difference'], share)} ({interval(gain, share)})"
        )
    up = gain["shown"] == "up"
    return verdict, (
        f"{what}{lower} is {size(gain['difference'], share)} ({interval(gain, share, 1 if up else -1)}) {'above' if up else 'below'} {than}"
    )


# ---- what is said


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


def _value_of(row: Row, side: Mapping[str, Any]) -> str:
    found = next(value for value in row["values"] if all(value[key] == side[key] for key in ("of", "name", "round")))
    return amount(found["mean"], row["share"])


def _ways(row: Row) -> int:
    return sum(value["of"] == "start" for value in row["values"])


def _gain_over_start(results: Mapping[str, Any], row: Row) -> Said:
    last = last_round(row)
    gain = gain_of(row, {"of": "start", "name": row["base"]}, {"of": "round", "round": last}) if last else None
    if gain is None:
        return
    ways = _ways(row)
    better = f", the better of {ways} ways of asking it" if ways > 1 else ""
    than = f"{asked(results, row['base'])} ({_value_of(row, gain['from'])}){better}"
    what = f"{row['measure']} on {row['suite']} after round {last} ({_value_of(row, gain['to'])})"
    verdict, text = _beside(row, gain, what, than)
    seeds, items = len(gain["seeds"]), gain["items"]
    yield verdict, f"{text}; {items:,} items, {seeds} seed{'s' if seeds != 1 else ''}."


def _gains_over_controls(results: Mapping[str, Any], row: Row) -> Said:
    """The best control first."""
    found = [gain for gain in row["gains"] if gain["from"]["of"] == "control"]
    found.sort(key=lambda gain: gain["from"]["name"] != row["best_control"])
    for gain in found:
        name = gain["from"]["name"]
        best = "the best control, " if name == row["best_control"] and len(found) > 1 else "the control "
        than = f"{best}{name} ({_value_of(row, gain['from'])}: {trained_on(results, name)})"
        what = f"{row['measure']} on {row['suite']} after round {gain['to']['round']} ({_value_of(row, gain['to'])})"
        verdict, text = _beside(row, gain, what, than)
        yield verdict, f"{text}."


def trained_on(results: Mapping[str, Any], name: str) -> str:
    """A control's data, and whether its optimiser took as many steps as the round's."""
    control = results["controls"].get(name, {})
    data = TRAINED_ON.get(control.get("data"), "trained otherwise")
    own, of = control.get("steps") or {}, control.get("round_steps") or {}
    if not own:
        return data
    if own == of:
        return f"{data}, for as many steps"
    return f"{data}, for {sum(own.values()):,} steps where the rounds took {sum(of.values()):,}"


def _by_round(row: Row) -> Said:
    """What each round added to the one before; the first is set against the base line."""
    told = []
    for gain in row["gains"]:
        first, second = gain["from"], gain["to"]
        if second["of"] != "round" or first["of"] not in ("start", "round"):
            continue
        if first["of"] == "start" and (second["round"] != 1 or first["name"] != row["base"]):
            continue
        unclear = ", not told from none" if gain["shown"] == "neither" else ""
        told.append(
            (
                second["round"],
                f"round {second['round']} {signed(gain['difference'], row['share'])} ({interval(gain, row['share'])}{unclear})",
            )
        )
    if len(told) > 1:
        steps = "; ".join(text for _, text in sorted(told))
        yield "seen", f"{row['measure']} on {row['suite']}, round by round, each over the one before: {steps}."


def _by_group(results: Mapping[str, Any], row: Row) -> Said:
    last = last_round(row)
    if last is None:
        return
    by: dict[str, list[str]] = {"shown": [], "not shown": [], "against": []}
    for one in results["measures"]:
        if one["suite"] != row["suite"] or one["measure"] != row["measure"] or not one["group"]:
            continue
        gain = gain_of(one, {"of": "start", "name": one["base"]}, {"of": "round", "round": last})
        if gain is not None:
            by[_verdict(one, gain)].append(f"{one['group']} ({signed(gain['difference'], one['share'])})")
    what = f"by group of {row['suite']}, over the start{' asked in the better way' if _ways(row) > 1 else ''}"
    if by["shown"]:
        yield "shown", f"A gain in {row['measure']} is shown {what}: {', '.join(by['shown'])}."
    if by["not shown"]:
        yield "not shown", f"Not shown {what}: a gain in {row['measure']} on {', '.join(by['not shown'])}."
    if by["against"]:
        yield "against", f"A loss in {row['measure']} is shown {what}: {', '.join(by['against'])}."


def sharpening(results: Mapping[str, Any], suite: str) -> dict[str, Any] | None:
    """The gains of the last round in pass@1, in pass@k and in what lies between, each over its base line."""
    rows = {row["measure"]: row for row in rows_of(results, suite)}
    k = widest_pass(list(rows))
    if k is None:
        return None
    last = last_round(rows["pass@1"])
    if last is None:
        return None
    bases = {
        "pass@1": rows["pass@1"]["base"],
        f"pass@{k}": rows[f"pass@{k}"]["base"],
        gap_name(k): rows["pass@1"]["base"],
    }
    gains = {
        name: gain_of(rows[name], {"of": "start", "name": base}, {"of": "round", "round": last})
        for name, base in bases.items()
    }
    if any(gain is None for gain in gains.values()):
        return None
    return {"k": k, "round": last, "one": gains["pass@1"], "many": gains[f"pass@{k}"], "gap": gains[gap_name(k)]}


def _sharpening(results: Mapping[str, Any], suite: str) -> Said:
    found = sharpening(results, suite)
    if found is None:
        return
    k, one, many, gap = found["k"], found["one"], found["many"], found["gap"]
    numbers = (
        f"pass@1 {signed(one['difference'], True)} ({interval(one, True)}), pass@{k} {signed(many['difference'], True)} "
        f"({interval(many, True)}), pass@{k} less pass@1 {signed(gap['difference'], True)} ({interval(gap, True)})"
    )
    where = f"on {suite} from the base line to round {found['round']}: {numbers}"
    if one["shown"] != "up":
        yield (
            "seen",
            f"pass@1 and pass@{k} {where}. No gain in pass@1 is shown, so there is none to be told from sharpening.",
        )
    elif many["shown"] == "up":
        nearer = " Part of it is: the two have come closer." if gap["shown"] == "down" else ""
        yield (
            "shown",
            (
                f"pass@{k} rose along with pass@1, {where}. More questions are answered within {k} tries than before, so that up to {k} "
                f"samples the gain is not sharpening alone.{nearer} With many more tries than {k} nothing was measured."
            ),
        )
    elif many["shown"] == "down":
        yield (
            "against",
            (
                f"Sharpening: pass@1 rose while pass@{k} fell, {where}. The model is surer of what it could answer before, and answers "
                f"fewer questions within {k} tries."
            ),
        )
    else:
        yield (
            "not shown",
            (
                f"Not shown: that the gain is more than sharpening. pass@1 rose, but no gain in pass@{k} is shown, {where}."
            ),
        )


def _losses_elsewhere(results: Mapping[str, Any], row: Row) -> Said:
    """Other measures of the suite that became worse."""
    for other in rows_of(results, row["suite"]):
        last = last_round(other)
        if other is row or " - " in other["measure"] or last is None:
            continue
        gain = gain_of(other, {"of": "start", "name": other["base"]}, {"of": "round", "round": last})
        if gain is not None and _verdict(other, gain) == "against" and not other["measure"].startswith("pass@"):
            what = f"{other['measure']} on {row['suite']} after round {last} ({_value_of(other, gain['to'])})"
            verdict, text = _beside(other, gain, what, f"the start ({_value_of(other, gain['from'])})")
            yield verdict, f"{text}."


def _data(results: Mapping[str, Any]) -> Said:
    """First and last round's data, means over the seeds that have both."""
    found = by_round(results["diversity"])
    if len(found) < 2:
        return
    first, last = min(found), max(found)
    told = []
    for name, form in (("kept share", "{:.0%}"), ("distinct answers per prompt", "{:.2f}"), ("compression ratio", "{:.2f}"),
                       ("mean length", "{:,.0f} characters")):  # fmt: skip
        ends = [mean_of(found[round_], name) for round_ in (first, last)]
        if None not in ends:
            told.append(f"{name} {form.format(ends[0])} to {form.format(ends[1])}")
    if told:
        yield (
            "seen",
            f"The data from round {first} to round {last}, means over seeds, without intervals: {'; '.join(told)}.",
        )


def by_round(diversity: Sequence[Row]) -> dict[int, list[Row]]:
    found: dict[int, list[Row]] = {}
    for one in diversity:
        found.setdefault(one["round"], []).append(one)
    return found


def figure_of(one: Row, name: str) -> float | None:
    """One number of a round's data, by the name that people read."""
    value: Any = {
        "kept share": lambda: one["kept_share"],
        "distinct prompts": lambda: one["prompts"]["all"],
        "distinct answers per prompt": lambda: one["distinct_per_prompt"]["all"],
        "compression ratio": lambda: one["compression_ratio"],
        "mean length": lambda: one["length"]["all"],
    }[name]()
    return None if value is None else float(value)


def mean_of(rows: Sequence[Row], name: str) -> float | None:
    values = [value for row in rows if (value := figure_of(row, name)) is not None]
    return sum(values) / len(values) if values else None


def _time(results: Mapping[str, Any]) -> Said:
    told = results["utilisation"]
    share = told["share"]["working"]
    if share is None:
        return
    gpus = told["gpus"]
    driver = ""
    if gpus:
        busy = sum(one["busy"] for one in gpus) / len(gpus)
        driver = f" The driver says that {'the GPU was' if len(gpus) == 1 else f'the {len(gpus)} GPUs were'} busy {busy:.0%} of it."
    yield (
        "seen",
        (
            f"Something was generated or trained in {share:.1%} of the wall time, and stages were running in "
            f"{told['share']['stages']:.1%} of it.{driver}"
        ),
    )


def _limits(results: Mapping[str, Any]) -> Said:
    rows = [row for row in results["measures"] if row["gains"]]
    seeds = max((len(gain["seeds"]) for row in rows for gain in row["gains"]), default=0)
    if seeds == 1:
        yield (
            "limit",
            (
                "With one seed the variation between seeds was not measured: intervals cover the choice of items only, and another "
                "seed may give another result."
            ),
        )
    elif seeds:
        yield (
            "limit",
            (
                f"Intervals resample the items and the {seeds} seeds. The spread between so few seeds is known badly, and the "
                "intervals are, if anything, too narrow; each seed's own value is in the tables."
            ),
        )
    yield from _missing(results)
    for suite in results["suites"]:
        count = max((row["items"] for row in rows if row["suite"] == suite["name"]), default=0)
        if count and suite["when"] != "start":
            yield "limit", f"{suite['name']}: {count:,} items. {_unseen(suite)}"
    if rows and not any(gain["from"]["of"] == "control" for row in rows for gain in row["gains"]):
        yield (
            "limit",
            (
                "No control was measured: whether as many steps of training on something else would have gained as much is not known."
            ),
        )
    comparisons = sum(len(row["gains"]) for row in rows)
    if comparisons:
        yield (
            "limit",
            (
                f"Nothing is corrected for many comparisons. There are {comparisons:,} of them here; where nothing differs, one in "
                "twenty intervals leaves out zero by chance."
            ),
        )


def _missing(results: Mapping[str, Any]) -> Said:
    wanted = len(results["seeds"])
    for suite in results["suites"]:
        row = headline(results, suite["name"])
        last = last_round(row) if row else None
        if row is None or last is None:
            continue
        found = next(
            len(value["seeds"]) for value in row["values"] if value["of"] == "round" and value["round"] == last
        )
        if found < wanted or last < results["rounds"]:
            yield (
                "limit",
                (
                    f"{suite['name']} was measured after round {last} of {results['rounds']} for {found} of {wanted} "
                    f"seed{'s' if wanted != 1 else ''} so far."
                ),
            )


def _unseen(suite: Mapping[str, Any]) -> str:
    settings = suite.get("settings") or {}
    if suite.get("suite") == "reasoning" and settings.get("split", "eval") in ("eval", "hard"):
        return (
            "They are drawn from random seeds that no training data are drawn from; a data set with few possible questions may "
            "still repeat one."
        )
    return "Whether they, or others like them, were in any model's training data was not looked at."
