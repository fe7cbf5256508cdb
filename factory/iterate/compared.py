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
        questions = _Questions(suite)
        for measure in suite.measures:
            for group in questions.names:
                row = _row(suite, measure, group, questions, asked)
                rows += [row] if row is not None else []
    _resample(asked, seed)
    for row in rows:
        _judge(row)
    return rows


Sides = Mapping[int, Floats]  # by seed, (questions, 2) of total and weight; NaN where there is none


class _Questions:
    """All items of a suite in one order, and what each evaluation says of them."""

    def __init__(self, suite: SuiteResults) -> None:
        every = [answers for one in suite.all for answers in one.by_seed.values()]
        group_of = {item: group for answers in every for item, group in zip(answers.ids, answers.groups, strict=True)}
        self.place = {item: place for place, item in enumerate(group_of)}
        self.groups = np.array(list(group_of.values()), dtype=object)
        found = sorted(set(group_of.values()))
        self.names = ["", *(found if len(found) > 1 else [])]  # all items, then each group where there are several
        self._at = {id(answers): np.array([self.place[item] for item in answers.ids], dtype=int) for answers in every}

    def sides(self, one: Measured, measure: str, group: str) -> dict[int, Floats]:
        """Of the seeds that have any item of the group with that measure."""
        found = {seed: self._side(answers, measure, group) for seed, answers in one.by_seed.items()}
        return {seed: side for seed, side in found.items() if not np.isnan(side).all()}

    def _side(self, answers: Answers, measure: str, group: str) -> Floats:
        side = np.full((len(self.place), 2), np.nan)
        if measure in answers.values:
            side[self._at[id(answers)]] = answers.values[measure]
        if group:
            side[self.groups != group] = np.nan
        return side


def _common(*sides: Sequence[Floats]) -> list[Floats]:
    """Each argument as (seeds, items, 2), of the items that all of them have."""
    stacks = [np.stack(list(side)) for side in sides]
    known = ~np.isnan(np.concatenate(stacks)).any(axis=(0, 2))
    return [stack[:, known] for stack in stacks]


def _row(
    suite: SuiteResults, measure: Measure, group: str, questions: _Questions, asked: list[_Asked]
) -> dict[str, Any] | None:
    sides = {id(one): questions.sides(one, measure.name, group) for one in suite.all}
    chosen = [one for one in suite.all if sides[id(one)]]
    if not chosen:
        return None
    values = [_value(one, sides[id(one)], measure, asked) for one in chosen]
    last = latest([one for one in chosen if one.kind == "round"])
    base = _best([pair for pair in zip(chosen, values, strict=True) if pair[0].kind == "start"], measure)
    gains = [
        _gain(first, second, sides[id(first)], sides[id(second)], measure, asked)
        for first, second in _pairs(suite, base[0] if base else None, last)
        if sides[id(first)] and sides[id(second)]
    ]
    return {
        "suite": suite.name, "measure": measure.name, "group": group, "share": measure.share,
        "higher_is_better": measure.higher_is_better, "items": max(entry["items"] for entry in values),
        "values": values, "base": base[1]["name"] if base else None,
        "last_round": last.round if last else None, "gains": [gain for gain in gains if gain],
    }  # fmt: skip


def _best(
    entries: Sequence[tuple[Measured, dict[str, Any]]], measure: Measure
) -> tuple[Measured, dict[str, Any]] | None:
    sign = 1 if measure.higher_is_better else -1
    return max(entries, key=lambda pair: sign * pair[1]["mean"], default=None)


def _pairs(suite: SuiteResults, base: Measured | None, last: Measured | None) -> Iterator[tuple[Measured, Measured]]:
    """What is set against what: the last round against every start and control, each control and round against the base
    line, each round against the one before."""
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


def _value(one: Measured, sides: Sides, measure: Measure, asked: list[_Asked]) -> dict[str, Any]:
    """A model's own value: of each seed over all the items it has, their mean, and its interval over the common ones."""
    log = measure.scale == "log"
    single = {seed: float(Block(_common([side])[0], log=log).by_seed()[0]) for seed, side in sides.items()}
    (common,) = _common(list(sides.values()))
    entry: dict[str, Any] = {
        "of": one.kind, "name": one.name, "round": one.round, "items": common.shape[1],
        "mean": float(np.mean(list(single.values()))), "low": math.nan, "high": math.nan,
        "seeds": {} if one.kind == "start" else {str(seed): value for seed, value in single.items()},
    }  # fmt: skip
    asked.append(_Asked(Block(common, log=log), entry))
    return entry


def _gain(
    first: Measured, second: Measured, a: Sides, b: Sides, measure: Measure, asked: list[_Asked]
) -> dict[str, Any] | None:
    """`second` less `first`, over the seeds and items that both have; None where there are none."""
    seeds = [seed for seed in b if first.kind == "start" or seed in a]
    if not seeds:
        return None
    before, after = _common(
        [a[ALWAYS if first.kind == "start" else seed] for seed in seeds], [b[seed] for seed in seeds]
    )
    block = Block(after, before, log=measure.scale == "log")
    if not block.items:
        return None
    each = block.by_seed()
    entry = {
        "from": {"of": first.kind, "name": first.name, "round": first.round},
        "to": {"of": second.kind, "name": second.name, "round": second.round},
        "difference": float(each.mean()), "low": math.nan, "high": math.nan, "p": math.nan, "test": "",
        "items": block.items, "seeds": {str(seed): float(value) for seed, value in zip(seeds, each, strict=True)},
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
    """Which control is the best one by this measure, and what each gain shows: up, down, or neither.

    Both the interval and the test have to say so: with few items a bootstrap's interval is too narrow.
    """
    sign = 1 if row["higher_is_better"] else -1
    last = max((gain["to"]["round"] for gain in row["gains"] if gain["from"]["of"] == "control"), default=0)
    controls = [value for value in row["values"] if value["of"] == "control" and value["round"] == last]
    best = max(controls, key=lambda value: sign * value["mean"], default=None)
    row["best_control"] = best["name"] if best else None
    for gain in row["gains"]:
        told = gain["p"] < 0.05
        gain["shown"] = "up" if told and gain["low"] > 0 else "down" if told and gain["high"] < 0 else "neither"


def gain_of(
    row: Mapping[str, Any], first: Mapping[str, Any], second: Mapping[str, Any] | None = None
) -> dict[str, Any] | None:
    """The gain of a row from one model (and to another) whose names, kinds or rounds are these."""

    def fits(side: Mapping[str, Any], wanted: Mapping[str, Any] | None) -> bool:
        return wanted is None or all(side[key] == value for key, value in wanted.items())

    return next((gain for gain in row["gains"] if fits(gain["from"], first) and fits(gain["to"], second)), None)
