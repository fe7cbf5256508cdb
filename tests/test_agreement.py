"""Agreement of scorers: the numbers are those of independent implementations, the intervals cover what they should."""

from __future__ import annotations

import itertools
import math
import random
from collections import Counter

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from factory.evaluation.statistics import bootstrap
from factory.report.agreement import (
    Draws,
    agreed,
    auc,
    krippendorff,
    ordered,
    share_of_groups,
    spearman,
    weighted_kappa,
)
from factory.report.measures import wilson

stats = pytest.importorskip("scipy.stats")
metrics = pytest.importorskip("sklearn.metrics")

VALUES = st.lists(
    st.tuples(st.sampled_from([-1.5, 0.0, 0.25, 1.0, 2.0, 7.0]), st.integers(1, 5), st.booleans()),
    min_size=3,
    max_size=60,
)


def same(mine: float, theirs: float) -> bool:
    return (math.isnan(mine) and math.isnan(theirs)) or mine == pytest.approx(theirs, abs=1e-9)


@given(VALUES)
@settings(max_examples=60, deadline=None)
def test_values_are_those_of_scipy_and_sklearn(rows: list[tuple[float, int, bool]]) -> None:
    a, b, passed = ([row[column] for row in rows] for column in range(3))
    draws = Draws(range(len(rows)), resamples=2)
    mine = spearman(a, b, draws).value  # type: ignore[arg-type]
    if len(set(a)) > 1 and len(set(b)) > 1:
        assert same(mine, stats.spearmanr(a, b).statistic)
    else:
        assert math.isnan(mine)
    area = auc(b, passed, draws).value  # type: ignore[arg-type]
    assert math.isnan(area) if len(set(passed)) < 2 else same(area, metrics.roc_auc_score(passed, b))
    high = [value > 0.5 for value in a]
    found = agreed(high, passed, draws)  # type: ignore[arg-type]
    cells = metrics.confusion_matrix(high, passed, labels=[True, False]).ravel().tolist()
    assert [found.both, found.only_first, found.only_second, found.neither] == cells
    if len(set(high) | set(passed)) > 1:
        assert same(found.kappa.value, metrics.cohen_kappa_score(high, passed))
    pairs = Counter(zip(b, (row[1] * 3 % 5 for row in rows), strict=True))
    if len(set(b)) > 1:
        assert same(
            weighted_kappa(pairs),
            metrics.cohen_kappa_score(b, [n * 3 % 5 for n in b], weights="quadratic", labels=range(6)),
        )  # type: ignore[arg-type]


def resampled(rows: list[tuple[float, float]], groups: list[int], seed: int) -> float:
    """Spearman's of one resample of groups, record by record, as the book has it."""
    draw, names = random.Random(seed), sorted(set(groups))
    chosen = [draw.choice(names) for _ in names]
    picked = [row for name in chosen for row, group in zip(rows, groups, strict=True) if group == name]
    return float(stats.spearmanr(*zip(*picked, strict=True)).statistic)


def test_the_interval_is_that_of_a_bootstrap_over_groups() -> None:
    """Copies of a record within its group add no evidence: an interval over records would be half as wide."""
    draw = random.Random(3)
    seeds = [(draw.gauss(0, 1), draw.gauss(0, 1)) for _ in range(40)]
    rows = [(x, 0.6 * x + y) for x, y in seeds for _ in range(4)]
    groups = [number for number in range(40) for _ in range(4)]
    a, b = [row[0] for row in rows], [row[1] for row in rows]
    mine = spearman(a, b, Draws(groups))
    plain = np.quantile([resampled(rows, groups, seed) for seed in range(400)], [0.025, 0.975])
    assert (mine.low, mine.high) == pytest.approx(plain, abs=0.05)
    narrow = spearman(a, b, Draws(range(len(rows))))
    assert narrow.high - narrow.low < 0.7 * (mine.high - mine.low)
    assert (mine.records, mine.groups) == (160, 40)


@pytest.mark.parametrize("measure", ["auc", "kappa"])
def test_other_intervals_match_a_plain_bootstrap(measure: str) -> None:
    draw = random.Random(8)
    passed = [draw.random() < 0.5 for _ in range(150)]
    score = [draw.gauss(0.8 * good, 1) for good in passed]
    high = [value > 0.4 for value in score]
    mine = auc(score, passed, Draws(range(150))) if measure == "auc" else agreed(high, passed, Draws(range(150))).kappa
    theirs = []
    for _ in range(400):
        picked = [draw.randrange(150) for _ in range(150)]
        good = [passed[n] for n in picked]
        theirs.append(metrics.roc_auc_score(good, [score[n] for n in picked]) if measure == "auc"
                      else metrics.cohen_kappa_score(good, [high[n] for n in picked]))  # fmt: skip
    assert (mine.low, mine.high) == pytest.approx(np.quantile(theirs, [0.025, 0.975]), abs=0.03)


def test_intervals_are_not_told_of_few_groups_and_not_of_what_never_differs() -> None:
    few = spearman([1, 2, 3, 4], [1, 3, 2, 4], Draws([0, 0, 1, 1]))
    assert few.value == pytest.approx(0.8) and math.isnan(few.low)
    assert math.isnan(spearman([1, 1, 1], [1, 2, 3], Draws(range(3))).value)
    assert math.isnan(auc([], [], Draws([])).value)
    assert math.isnan(share_of_groups({}).value)
    assert math.isnan(krippendorff({}).value)


# ---- order within groups


@given(st.lists(st.tuples(st.integers(0, 3), st.one_of(st.none(), st.integers(0, 4))), max_size=12))
def test_ordered_pairs_are_those_counted_one_by_one(rows: list[tuple[int, int | None]]) -> None:
    right = pairs = ties = 0
    for (t, s), (u, v) in itertools.permutations(rows, 2):
        if t > u and s is not None and v is not None:  # the first is the better one
            pairs, ties, right = pairs + 1, ties + (s == v), right + (s > v)
    assert ordered([t for t, _ in rows], [s for _, s in rows]) == (right + ties / 2, pairs, ties)


def test_binary_truth_in_one_group_is_the_area_under_the_curve() -> None:
    truth, scores = [0, 1, 1, 0, 1], [0.1, 0.5, 0.1, 0.4, 0.9]
    right, pairs, _ = ordered(truth, scores)
    assert right / pairs == pytest.approx(metrics.roc_auc_score(truth, scores))


def test_the_interval_of_a_share_is_over_groups() -> None:
    draw = random.Random(2)
    groups = [(float(sum(draw.random() < 0.7 for _ in range(pairs))), pairs) for pairs in (1, 3, 4, 6) * 60]
    mine = share_of_groups(Counter(groups))
    low, high = bootstrap(groups, seed=1)
    assert mine.value == pytest.approx(sum(r for r, _ in groups) / sum(n for _, n in groups))
    assert (mine.low, mine.high) == pytest.approx((low, high), abs=0.006)
    assert (mine.records, mine.groups) == (sum(n for _, n in groups), 240)


def test_where_every_group_is_right_the_interval_is_wilsons_of_the_groups() -> None:
    mine = share_of_groups({(6.0, 6): 12})
    assert (mine.value, mine.low, mine.high) == pytest.approx((1.0, *wilson(12, 12)))
    assert math.isnan(share_of_groups({(6.0, 6): 3}).low)


def test_the_interval_covers_the_truth_as_often_as_it_says() -> None:
    draw, covered = random.Random(4), 0
    for seed in range(150):
        groups = Counter[tuple[float, int]]()
        for _ in range(60):
            skill = min(1.0, max(0.0, draw.gauss(0.7, 0.2)))  # prompts differ
            groups[float(sum(draw.random() < skill for _ in range(4))), 4] += 1
        found = share_of_groups(groups, seed)
        covered += found.low <= 0.695 <= found.high  # the clipped normal's mean is 0.695
    assert 0.88 <= covered / 150 <= 1.0


# ---- raters

_ = None
# Krippendorff 2011, "Computing Krippendorff's alpha-reliability", section C: four observers, twelve units.
OBSERVERS = [
    [1, 2, 3, 3, 2, 1, 4, 1, 2, _, _, _],
    [1, 2, 3, 3, 2, 2, 4, 1, 2, 5, _, 3],
    [_, 3, 3, 3, 2, 3, 4, 2, 2, 5, 1, _],
    [1, 2, 3, 3, 2, 4, 4, 1, 2, 5, 1, _],
]


@pytest.mark.parametrize(("level", "published"), [("nominal", 0.743), ("ordinal", 0.815), ("interval", 0.849)])
def test_alpha_is_the_published_one(level: str, published: float) -> None:
    units = Counter(tuple(float(said) for said in unit if said is not None) for unit in zip(*OBSERVERS, strict=True))
    found = krippendorff(units, level)
    assert found.value == pytest.approx(published, abs=0.0006)
    assert found.records == 11, "the unit with one value says nothing"
    assert found.low < found.value <= found.high


@given(st.lists(st.lists(st.integers(1, 4), min_size=2, max_size=4), min_size=2, max_size=15))
def test_alpha_does_not_depend_on_who_said_it_and_is_one_for_agreement(said: list[list[int]]) -> None:
    units = Counter(tuple(map(float, unit)) for unit in said)
    turned = Counter(tuple(map(float, reversed(unit))) for unit in said)
    assert same(krippendorff(units).value, krippendorff(turned).value)
    agree = Counter((float(unit[0]),) * len(unit) for unit in said)
    value = krippendorff(agree).value
    assert (
        math.isnan(value) if len(agree.keys() | set()) and len({unit[0] for unit in agree}) == 1 else same(value, 1.0)
    )
