"""Every finished evaluation of a run, found by its stage, as arrays that can be paired item by item."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np

from factory.errors import UserError
from factory.evaluation.results import read_results
from factory.evaluation.suite import ItemResult, Measure
from factory.iterate.resampling import Floats
from factory.iterate.settings import IterateSettings

ALWAYS = 0  # the seed of what was measured once for all seeds


@dataclass(frozen=True, eq=False)
class Answers:
    """One evaluation: `values` holds, by measure, (items, 2) of total and weight, NaN where an item lacks it."""

    ids: Sequence[str]
    groups: Sequence[str]
    values: Mapping[str, Floats]
    results: Mapping[str, Any]


@dataclass(frozen=True, eq=False)
class Measured:
    """A model, or as many of them as there are seeds, all asked the same items.

    `kind` start: before any round, `name` the suite that asked it (there may be several ways). round: after round
    `round`. control: the control `name` of that round.
    """

    kind: Literal["start", "round", "control"]
    name: str
    round: int
    by_seed: Mapping[int, Answers]


@dataclass(eq=False)
class SuiteResults:
    """What was measured by one suite, `starts` first the suite's own, then other ways to ask the same items."""

    name: str
    when: str
    measures: list[Measure] = field(default_factory=list)
    results: Mapping[str, Any] = field(default_factory=dict)  # of its first evaluation
    starts: list[Measured] = field(default_factory=list)
    rounds: list[Measured] = field(default_factory=list)
    controls: list[Measured] = field(default_factory=list)

    @property
    def all(self) -> list[Measured]:
        return [*self.starts, *self.rounds, *self.controls]


def read_suites(
    root: Path, settings: IterateSettings, stages: Mapping[str, Any], problems: list[str]
) -> list[SuiteResults]:
    """Every enabled suite with what its finished stages found; what cannot be read is told in `problems`."""
    recipe = settings.recipe
    names = [name for name, suite in recipe.evaluate.items() if suite.enabled]
    reader = _Reader(root, stages, problems)
    found = [_read(reader, settings, name) for name in names]
    for one in found:
        one.starts += list(_other_ways(one, found))
    return found


class _Reader:
    def __init__(self, root: Path, stages: Mapping[str, Any], problems: list[str]) -> None:
        self.root, self.stages, self.problems = root, stages, problems

    def __call__(self, key: str) -> Answers | None:
        """The evaluation of a stage, or None where it is not done; every key is its folder's place."""
        if not self.stages.get(key, {}).get("done"):
            return None
        try:
            results, items = read_results(self.root / key)
            return _answers(results, items)
        except (UserError, KeyError, TypeError, ValueError) as error:
            self.problems.append(f"{key}: {error}")
            return None


def _answers(results: Mapping[str, Any], items: Sequence[ItemResult]) -> Answers:
    names = [measure["name"] for measure in results["measures"]]
    nothing = (np.nan, np.nan)
    values = {
        name: np.array([item.values.get(name, nothing) for item in items], dtype=np.float64).reshape(-1, 2)
        for name in names
    }
    widest = widest_pass(names)
    if widest is not None:  # what more samples add: it shrinks where a model only becomes surer of what it knew
        one, more = values["pass@1"], values[f"pass@{widest}"]
        values[gap_name(widest)] = np.stack([more[:, 0] - one[:, 0], one[:, 1]], axis=1)
    return Answers([item.id for item in items], [item.group for item in items], values, results)


def widest_pass(names: Sequence[str]) -> int | None:
    """The largest k above 1 of which there is a pass@k, where there is a pass@1, too."""
    known = [int(name[5:]) for name in names if name.startswith("pass@") and name[5:].isdigit()]
    return max(known) if 1 in known and max(known) > 1 else None


def gap_name(k: int) -> str:
    return f"pass@{k} - pass@1"


def _read(read: _Reader, settings: IterateSettings, name: str) -> SuiteResults:
    suite = SuiteResults(name, settings.recipe.evaluate[name].when)
    start = read(f"start/{name}")
    suite.starts = [Measured("start", name, 0, {ALWAYS: start})] if start else []
    for round_ in range(1, settings.rounds + 1):
        there = _of_seeds(read, settings, round_, f"evaluate-{name}")
        suite.rounds += [Measured("round", "", round_, there)] if there else []
    for control, said in settings.recipe.controls.items():
        for round_ in reversed(range(1, settings.rounds + 1)) if said.enabled else ():
            there = _of_seeds(read, settings, round_, f"control-{control}-{name}")
            if there:  # those of the latest round that has any
                suite.controls.append(Measured("control", control, round_, there))
                break
    first = next((answers for one in suite.all for answers in one.by_seed.values()), None)
    if first is not None:
        suite.measures = [Measure(**measure) for measure in first.results["measures"]]
        widest = widest_pass([measure.name for measure in suite.measures])
        suite.measures += [Measure(gap_name(widest))] if widest is not None else []
        suite.results = first.results
    return suite


def _of_seeds(read: _Reader, settings: IterateSettings, round_: int, place: str) -> dict[int, Answers]:
    found = {seed: read(f"seed-{seed}/round-{round_}/{place}") for seed in settings.seeds}
    return {seed: answers for seed, answers in found.items() if answers is not None}


def _other_ways(suite: SuiteResults, suites: Sequence[SuiteResults]) -> Iterator[Measured]:
    """Starts of suites that only the start was asked, where they are of the same items and measures."""
    if suite.when == "start" or not suite.starts:
        return
    own = suite.starts[0].by_seed[ALWAYS]
    for other in suites:
        if other is suite or other.when != "start" or not other.starts:
            continue
        theirs = other.starts[0].by_seed[ALWAYS]
        both = len(set(own.ids) & set(theirs.ids))
        # A few items may lack an answer on either side.
        if both >= 0.98 * max(len(own.ids), len(theirs.ids)) and set(own.values) & set(theirs.values):
            yield other.starts[0]


def latest(rounds: Sequence[Measured]) -> Measured | None:
    """The latest round that most of the seeds have: with seeds at different rounds, the last one that is fair to all."""
    most = max((len(one.by_seed) for one in rounds), default=0)
    return next((one for one in reversed(rounds) if len(one.by_seed) == most), None)
