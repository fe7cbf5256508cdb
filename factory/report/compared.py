"""The scorers of a run set against each other, computed once for the page and for `agreement.json`."""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from factory.records import Score
from factory.report.agreement import Agreed, Draws, Estimate, agreed, auc, spearman
from factory.report.measures import wilson
from factory.report.ranking import VERIFIERS, Accuracy
from factory.report.rules import alone
from factory.report.scoring import Row, Scoring

_MAIN = ("reward", "judge", "pairwise", "execution", "answer", "constraints", "fidelity", "test_strength", "perplexity",
         "ifd", "difficulty", "topic")  # fmt: skip
_MATRIX, _SCATTER = 8, 4  # scores in the matrix, and in the pictures of two
Names = tuple[str, str]


@dataclass(frozen=True, slots=True)
class Verified:
    """How well a score tells what passes a verifier (a score of 1) from what does not."""

    passed: int
    failed: int
    auc: Estimate


@dataclass(frozen=True, slots=True)
class PanelSays:
    """Krippendorff's alpha (ordinal) of a panel; by two judges (weighted kappa, share of the same grade, records)."""

    alpha: Estimate
    kappas: Mapping[Names, tuple[float, float, int]]
    means: Mapping[str, tuple[int, float]]
    missed: int


@dataclass(frozen=True, slots=True)
class Orders:
    """Of the comparisons made in both orders: how many agree, and how many followed the place rather than the answer."""

    comparisons: int
    consistent: int
    first: int  # the first place won both times
    second: int  # the second did
    wavered: int  # a tie in one order alone

    @property
    def biased(self) -> int:
        return self.first + self.second


@dataclass(frozen=True)
class Compared:
    """`names` are the scores that differ among the sampled `rows`, the main ones first."""

    rows: Sequence[Row]
    names: Sequence[str]
    records: int
    ranking: Sequence[Accuracy]
    correlations: Mapping[Names, Estimate]
    verified: Mapping[Names, Verified]
    decisions: Mapping[Names, Agreed]
    panels: Mapping[str, PanelSays]
    orders: Orders | None
    errors: Mapping[str, Mapping[str, int]]
    scored: Mapping[str, int]

    @property
    def matrix(self) -> Sequence[str]:
        return self.names[:_MATRIX]

    def scatters(self) -> list[tuple[Names, list[tuple[float, float, bool]]]]:
        """(value of the first, of the second, kept) for each two of the main scores that records have both of."""
        found = []
        for names in itertools.combinations(self.names[:_SCATTER], 2):
            first, second = names
            rows = [self.rows[number] for number in _both(self.rows, first, second)]
            points = [(row.values[first], row.values[second], row.kept) for row in rows]
            if not _same([point[:2] for point in points]):
                found.append((names, points))
        return found


def compare(scoring: Scoring, rule: str | None) -> Compared:
    """Everything that the records fed to `scoring` say; `rule` decides what each score would keep by itself."""
    scoring.finish()
    rows = scoring.table.rows()
    names, draws = _names(rows), Draws([row.group for row in rows])
    panels = {
        name: PanelSays(
            panel.alpha(),
            panel.kappas(),
            {judge: (int(count), total / count) for judge, (count, total) in panel.grades.items()},
            panel.missed,
        )
        for name, panel in scoring.panels.items()
    }
    return Compared(
        rows=rows,
        names=names,
        records=scoring.records,
        ranking=scoring.ranking.result(),
        correlations=_correlations(rows, names[:_MATRIX], draws),
        verified=_verified(rows, names[:_MATRIX], draws),
        decisions=_decisions(rows, names, rule, draws),
        panels=panels,
        orders=_orders(scoring.said),
        errors=scoring.errors,
        scored=scoring.scored,
    )


def _names(rows: Sequence[Row]) -> list[str]:
    """Names of the scores that differ among the records, those first that one asks about first."""
    values: dict[str, set[float]] = {}
    counts = Counter[str]()
    for row in rows:
        counts.update(row.values.keys())
        for name, value in row.values.items():
            found = values.setdefault(name, set())
            if len(found) < 2:
                found.add(value)
    rank = {name: place for place, name in enumerate(_MAIN)}
    names = [name for name, found in values.items() if len(found) > 1]
    return sorted(names, key=lambda name: (rank.get(name, len(rank)), -counts[name], name))


def _both(rows: Sequence[Row], first: str, second: str) -> list[int]:
    return [number for number, row in enumerate(rows) if row.independent(first, second)]


def _same(values: Sequence[Any]) -> bool:
    return len(set(values)) < 2


def _correlations(rows: Sequence[Row], names: Sequence[str], draws: Draws) -> dict[Names, Estimate]:
    """Of each two scores that differ among the records that have both."""
    found = {}
    for first, second in itertools.combinations(names, 2):
        both = _both(rows, first, second)
        a, b = ([rows[number].values[name] for number in both] for name in (first, second))
        if not _same(a) and not _same(b):
            found[first, second] = spearman(a, b, draws.of(both))
    return found


def _verified(rows: Sequence[Row], names: Sequence[str], draws: Draws) -> dict[Names, Verified]:
    found = {}
    for truth, name in itertools.product(VERIFIERS, names):
        both = _both(rows, truth, name) if name != truth else []
        passed = [rows[number].values[truth] >= 1 for number in both]
        scores, count = [rows[number].values[name] for number in both], sum(passed)
        if 0 < count < len(both) and not _same(scores):
            found[truth, name] = Verified(count, len(both) - count, auc(scores, passed, draws.of(both)))
    return found


def _decisions(rows: Sequence[Row], names: Sequence[str], rule: str | None, draws: Draws) -> dict[Names, Agreed]:
    """Of each two scores that the keep rule cuts, and that would not keep or reject all: what either would keep by itself."""
    rules = alone(rule)
    known = [name for name in names if name in rules][:_MATRIX]
    decided = [
        {
            name: bool(rules[name].decide({name: Score(value=row.values[name])})[0])
            for name in known
            if name in row.values
        }
        for row in rows
    ]
    found = {}
    for first, second in itertools.combinations(known, 2):
        both = _both(rows, first, second)
        a, b = ([decided[number][name] for number in both] for name in (first, second))
        if not _same(a) and not _same(b):
            found[first, second] = agreed(a, b, draws.of(both))
    return found


def _orders(said: Counter[Names]) -> Orders | None:
    count = said.total()
    consistent = said["first", "second"] + said["second", "first"] + said["tie", "tie"]
    first, second = said["first", "first"], said["second", "second"]
    return Orders(count, consistent, first, second, count - consistent - first - second) if count else None


def as_json(found: Compared) -> dict[str, Any]:
    """`agreement.json`: the numbers of the page, for a program. Unknown ones are null."""
    return {
        "records": found.records,
        "sampled": len(found.rows),
        "ranking": [
            {"truth": row.truth, "scorer": row.scorer, "accuracy": row.share.value, "low": row.share.low,
             "high": row.share.high, "pairs": row.share.records, "groups": row.share.groups, "ties": row.ties}
            for row in found.ranking
        ],
        "spearman": [{"first": a, "second": b, **_plain(one)} for (a, b), one in found.correlations.items()],
        "auc": [
            {"verifier": truth, "scorer": name, "passed": one.passed, "failed": one.failed, **_plain(one.auc)}
            for (truth, name), one in found.verified.items()
        ],
        "kappa": [
            {"first": a, "second": b, "both": one.both, "only_first": one.only_first, "only_second": one.only_second,
             "neither": one.neither, **_plain(one.kappa)}
            for (a, b), one in found.decisions.items()
        ],
        "panels": {
            name: {
                "alpha": _plain(panel.alpha),
                "judges": {judge: {"records": count, "mean": mean} for judge, (count, mean) in panel.means.items()},
                "pairs": [
                    {"first": a, "second": b, "weighted_kappa": kappa, "same": same, "records": count}
                    for (a, b), (kappa, same, count) in panel.kappas.items()
                ],
            }
            for name, panel in found.panels.items()
        },
        "pairwise": _orders_json(found.orders) if found.orders else None,
        "errors": {name: dict(kinds) for name, kinds in found.errors.items()},
    }  # fmt: skip


def _plain(one: Estimate) -> dict[str, Any]:
    return {"value": one.value, "low": one.low, "high": one.high, "records": one.records, "groups": one.groups}


def _orders_json(orders: Orders) -> dict[str, Any]:
    low, high = wilson(orders.biased, orders.comparisons)
    return {
        "comparisons": orders.comparisons, "consistent": orders.consistent, "first_both_times": orders.first,
        "second_both_times": orders.second, "tie_in_one_order": orders.wavered,
        "position_bias": orders.biased / orders.comparisons, "low": low, "high": high,
    }  # fmt: skip
