"""Every suite, measure and group: what each model was worth, and what the last round gained over all others, with intervals."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from factory.evaluation.suite import Measure
from factory.iterate.measured import ALWAYS, Answers, Measured, SuiteResults, latest
from factory.iterate.resampling import Block, Floats, intervals, p_values


@dataclass(eq=False)
class _Asked:
    """A number to be resampled, and the entry of the results that it goes into."""

    block: Block
    entry: dict[str, Any]


def compared(suites: Sequence[SuiteResults], seed: int = 0) -> list[dict[str, Any]]:
    """A row a suite, measure and group; every number over items, seeds and resamples is in it. See docs/iterate.md."""
    rows, asked = list[dict[str, Any]](), list[_Asked]()
    for suite in suites:
        for measure in suite.measures:
            rows += [row for group in _groups(suite) if (row := _row(suite, measure, group, asked)) is not None]
    _resample(asked, seed)
    for row in rows:
        _judge(row)
    return rows


def _groups(suite: SuiteResults) -> list[str]:
    """All items, then each group where there are several."""
    found = dict.fromkeys(group for one in suite.all for answers in one.by_seed.values() for group in answers.groups)
    return ["", *(sorted(found) if len(found) > 1 else [])]


def _row(suite: SuiteResults, measure: Measure, group: str, asked: list[_Asked]) -> dict[str, Any] | None:
    chosen = [(one, _sides(one, measure.name, group)) for one in suite.all]
    chosen = [(one, sides) for one, sides in chosen if sides]
    if not chosen:
        return None
    values = [_value(one, sides, measure, asked) for one, sides in chosen]
    row: dict[str, Any] = {
        "suite": suite.name, "measure": measure.name, "group": group, "share": measure.share,
        "higher_is_better": measure.higher_is_better, "items": max(entry["items"] for entry in values), "values": values,
    }  # fmt: skip
    sides_of = {id(one): sides for one, sides in chosen}
    starts = [(one, entry) for (one, _), entry in zip(chosen, values, strict=True) if one.kind == "start"]
    base = _best(starts, measure)
    row["base"] = base[1]["name"] if base else None
    pairs = _pairs(suite, base[0] if base else None)
    row["gains"] = [
        gain
        for first, second in pairs
        if id(first) in sides_of and id(second) in sides_of
        if (gain := _gain(first, second, sides_of[id(first)], sides_of[id(second)], measure, asked)) is not None
    ]
    return row


def _best(
    entries: Sequence[tuple[Measured, dict[str, Any]]], measure: Measure
) -> tuple[Measured, dict[str, Any]] | None:
    sign = 1 if measure.higher_is_better else -1
    return max(entries, key=lambda pair: sign * pair[1]["mean"], default=None)


def _pairs(suite: SuiteResults, base: Measured | None) -> Iterator[tuple[Measured, Measured]]:
    """What is set against what: the last round against every start and control, each control and round against the base
    line, each round against the one before."""
    last = latest(suite)
    if last is not None:
        yield from ((start, last) for start in suite.starts)
    for control in suite.controls:
        round_ = next((one for one in suite.rounds if one.round == control.round), None)
        if round_ is not None:
            yield control, round_
        if base is not None:
            yield base, control
    for number, round_ in enumerate(suite.rounds):
        before = suite.rounds[number - 1] if number else base
        if before is not None and not (before in suite.starts and round_ is last):
            yield before, round_


# ---- one entry


Side = dict[str, tuple[float, float]]  # (total, weight) by item


def _sides(one: Measured, name: str, group: str) -> dict[int, Side]:
    """By seed, what each item of the group that has the measure was worth."""
    found = {seed: _side(answers, name, group) for seed, answers in one.by_seed.items()}
    return {seed: side for seed, side in found.items() if side}


def _side(answers: Answers, name: str, group: str) -> Side:
    values = answers.values.get(name)
    if values is None:
        return {}
    return {
        item: (total, weight)
        for item, of, (total, weight) in zip(answers.ids, answers.groups, values.tolist(), strict=True)
        if (not group or of == group) and not math.isnan(total)
    }


def _array(sides: Sequence[Side], items: Sequence[str]) -> Floats:
    """(seeds, items, 2)."""
    return np.array([[side[item] for item in items] for side in sides], dtype=np.float64).reshape(len(sides), -1, 2)


def _common(sides: Sequence[Side]) -> list[str]:
    """The items that all have, in the first one's order."""
    rest = [set(side) for side in sides[1:]]
    return [item for item in sides[0] if all(item in other for other in rest)]


def _value(one: Measured, sides: Mapping[int, Side], measure: Measure, asked: list[_Asked]) -> dict[str, Any]:
    """A model's own value: of each seed over all the items it has, their mean, and its interval over the common ones."""
    log = measure.scale == "log"
    single = {seed: float(Block(_array([side], list(side)), log=log).by_seed()[0]) for seed, side in sides.items()}
    items = _common(list(sides.values()))
    entry: dict[str, Any] = {
        "of": one.kind, "name": one.name, "round": one.round, "items": len(items),
        "mean": float(np.mean(list(single.values()))), "low": math.nan, "high": math.nan,
        "seeds": {} if one.kind == "start" else {str(seed): value for seed, value in single.items()},
    }  # fmt: skip
    if items:
        asked.append(_Asked(Block(_array(list(sides.values()), items), log=log), entry))
    return entry


def _gain(
    first: Measured,
    second: Measured,
    a: Mapping[int, Side],
    b: Mapping[int, Side],
    measure: Measure,
    asked: list[_Asked],
) -> dict[str, Any] | None:
    """`second` less `first`, over the seeds and items that both have; None where there are none."""
    seeds = [seed for seed in b if first.kind == "start" or seed in a]
    if not seeds:
        return None
    sides = [[a[ALWAYS if first.kind == "start" else seed] for seed in seeds], [b[seed] for seed in seeds]]
    items = _common([*sides[0], *sides[1]])
    if not items:
        return None
    block = Block(_array(sides[1], items), _array(sides[0], items), log=measure.scale == "log")
    each = block.by_seed()
    entry = {
        "from": {"of": first.kind, "name": first.name, "round": first.round},
        "to": {"of": second.kind, "name": second.name, "round": second.round},
        "difference": float(each.mean()), "low": math.nan, "high": math.nan, "p": math.nan, "test": "",
        "items": len(items), "seeds": {str(seed): float(value) for seed, value in zip(seeds, each, strict=True)},
    }  # fmt: skip
    asked.append(_Asked(block, entry))
    return entry


def _resample(asked: Sequence[_Asked], seed: int) -> None:
    for one, (low, high) in zip(asked, intervals([one.block for one in asked], seed), strict=True):
        one.entry.update(low=low, high=high)
    pairs = [one for one in asked if one.block.first is not None]
    for one, (p, test) in zip(pairs, p_values([one.block for one in pairs], seed), strict=True):
        one.entry.update(p=p, test=test)


def _judge(row: dict[str, Any]) -> None:
    """Which control is the best one by this measure, and what each interval shows: up, down, or neither."""
    sign = 1 if row["higher_is_better"] else -1
    last = max((gain["to"]["round"] for gain in row["gains"] if gain["from"]["of"] == "control"), default=0)
    controls = [value for value in row["values"] if value["of"] == "control" and value["round"] == last]
    best = max(controls, key=lambda value: sign * value["mean"], default=None)
    row["best_control"] = best["name"] if best else None
    for gain in row["gains"]:
        gain["shown"] = "up" if gain["low"] > 0 else "down" if gain["high"] < 0 else "neither"


def gain_of(
    row: Mapping[str, Any], first: Mapping[str, Any], second: Mapping[str, Any] | None = None
) -> dict[str, Any] | None:
    """The gain of a row from one model (and to another) whose names, kinds or rounds are these."""

    def fits(side: Mapping[str, Any], wanted: Mapping[str, Any] | None) -> bool:
        return wanted is None or all(side[key] == value for key, value in wanted.items())

    return next((gain for gain in row["gains"] if fits(gain["from"], first) and fits(gain["to"], second)), None)
