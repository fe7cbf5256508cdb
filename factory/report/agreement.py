"""How far scorers agree with each other and with what is known to be right. Pure functions of numbers, with intervals.

Answers to one prompt stand or fall together, so every interval (95 %, percentile) resamples whole groups: answers drawn
one by one would make it too narrow.
"""

from __future__ import annotations

import itertools
import math
from collections import Counter
from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from factory.report.measures import wilson

RESAMPLES = 500  # of records; of groups that are alike, which cost nothing, as many as `GROUP_RESAMPLES`
GROUP_RESAMPLES = 2_000
FEW = 5  # groups, below which no interval is told: it would be far too narrow
LEVEL = 0.95
_CHUNK = 4_000_000  # numbers held at once
_VALUES = 32
Floats = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Estimate:
    """A value with its interval (NaN where there is none), and what it was measured on."""

    value: float
    low: float
    high: float
    records: int
    groups: int


@dataclass(frozen=True, slots=True)
class Agreed:
    """Two decisions about the same records: how many both keep, only one of them, and neither; and Cohen's kappa."""

    both: int
    only_first: int
    only_second: int
    neither: int
    kappa: Estimate


# ---- resampling


class Draws:
    """Resamples of records: whole groups, drawn with replacement.

    `weights` says how often each record is in each resample, (resamples, records). Made once for all records of a table;
    `of` takes those of some of them.
    """

    def __init__(self, groups: Sequence[Hashable], seed: int = 0, resamples: int = RESAMPLES) -> None:
        numbers: dict[Hashable, int] = {}
        self.places = np.array([numbers.setdefault(group, len(numbers)) for group in groups], dtype=np.intp)
        count = len(numbers)
        drawn = np.random.default_rng(seed).integers(0, max(count, 1), (resamples, count))
        drawn += np.arange(resamples)[:, None] * count
        times = np.bincount(drawn.ravel(), minlength=resamples * count).reshape(resamples, count)
        self.weights: Floats = times[:, self.places].astype(np.float64)

    def of(self, records: Sequence[int]) -> Draws:
        """The same resamples, of these records alone."""
        part = Draws.__new__(Draws)
        part.places, part.weights = self.places[records], self.weights[:, records]
        return part

    def estimate(self, measure: Callable[[Floats], Floats]) -> Estimate:
        """`measure` gives one value for each row of weights; NaN where a row says nothing."""
        records, groups = len(self.places), len(np.unique(self.places))
        value = float(measure(np.ones((1, records)))[0]) if records else math.nan
        if groups < FEW or math.isnan(value):
            return Estimate(value, math.nan, math.nan, records, groups)
        return Estimate(value, *_percentiles(measure(self.weights)), records, groups)


def _percentiles(values: Floats) -> tuple[float, float]:
    finite = values[~np.isnan(values)]
    if finite.size == 0:
        return math.nan, math.nan
    low, high = np.quantile(finite, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    return float(low), float(high)


# ---- two scores


def spearman(first: Sequence[float], second: Sequence[float], draws: Draws) -> Estimate:
    """Spearman's rank correlation, ties at their mean rank; NaN where either score is the same for all."""
    ranks = [_ranker(np.asarray(values, dtype=np.float64)) for values in (first, second)]

    def measure(drawn: Floats) -> Floats:
        a, b = (rank(drawn) for rank in ranks)
        total = drawn.sum(axis=1, keepdims=True)
        a -= (drawn * a).sum(axis=1, keepdims=True) / total
        b -= (drawn * b).sum(axis=1, keepdims=True) / total
        weighted = drawn * a
        both = np.einsum("rn,rn->r", weighted, b)
        spread = np.einsum("rn,rn->r", weighted, a) * np.einsum("rn,rn,rn->r", drawn, b, b)
        with np.errstate(divide="ignore", invalid="ignore"):
            return np.where(spread > 1e-9 * total[:, 0], both / np.sqrt(spread), np.nan)

    return draws.estimate(measure)


def _ranker(values: Floats) -> Callable[[Floats], Floats]:
    """From weights (R, N) to each record's mid-rank in each resample, (R, N)."""
    order, starts, place = _ties(values)

    def ranks(drawn: Floats) -> Floats:
        ties = np.add.reduceat(drawn[:, order], starts, axis=1)
        middle: Floats = (np.cumsum(ties, axis=1) - ties / 2)[:, place]
        return middle

    return ranks


def _ties(values: Floats) -> tuple[NDArray[np.intp], NDArray[np.intp], NDArray[np.intp]]:
    """The order of the values, where in it each different value starts, and which of these each record has."""
    order = np.argsort(values, kind="stable")
    new = np.diff(values[order], prepend=np.nan) != 0
    place = np.empty(len(values), dtype=np.intp)
    place[order] = np.cumsum(new) - 1
    return order, np.flatnonzero(new), place


def auc(scores: Sequence[float], passed: Sequence[bool], draws: Draws) -> Estimate:
    """Probability that a record that passed is scored above one that failed, ties half (Mann and Whitney's U over n m).

    NaN where all passed or all failed.
    """
    good = np.asarray(passed, dtype=bool)
    order, starts, _ = _ties(np.asarray(scores, dtype=np.float64))

    def measure(drawn: Floats) -> Floats:
        up = np.add.reduceat((drawn * good)[:, order], starts, axis=1)
        down = np.add.reduceat((drawn * ~good)[:, order], starts, axis=1)
        below = np.cumsum(down, axis=1) - down / 2
        pairs = up.sum(axis=1) * down.sum(axis=1)
        with np.errstate(divide="ignore", invalid="ignore"):
            return np.where(pairs > 0, (up * below).sum(axis=1) / pairs, np.nan)

    return draws.estimate(measure)


def agreed(first: Sequence[bool], second: Sequence[bool], draws: Draws) -> Agreed:
    """Two decisions about each record, and Cohen's kappa: NaN where both are the same for all records."""
    a, b = np.asarray(first, dtype=bool), np.asarray(second, dtype=bool)
    cells = np.stack([a & b, a & ~b, ~a & b, ~a & ~b], axis=1).astype(np.float64)

    def measure(drawn: Floats) -> Floats:
        return _kappa(drawn @ cells)

    both, only_first, only_second, neither = cells.sum(axis=0).astype(int).tolist()
    return Agreed(both, only_first, only_second, neither, draws.estimate(measure))


def _kappa(counts: Floats) -> Floats:
    """Of each row (both, only the first, only the second, neither); Cohen 1960."""
    total = counts.sum(axis=1)
    with np.errstate(divide="ignore", invalid="ignore"):
        share = counts / total[:, None]
        first, second = share[:, 0] + share[:, 1], share[:, 0] + share[:, 2]
        chance = first * second + (1 - first) * (1 - second)
        return np.where(chance < 1 - 1e-12, (share[:, 0] + share[:, 3] - chance) / (1 - chance), np.nan)


# ---- order within groups whose truth is known


def ordered(truth: Sequence[float], scores: Sequence[float | None]) -> tuple[float, int, int]:
    """(right, pairs, ties): of the pairs whose truth differs and that have both scores, how many the scores order as
    the truth does. A tie is half right."""
    right = ties = pairs = 0
    known = [(true, score) for true, score in zip(truth, scores, strict=True) if score is not None]
    for (true, score), (other_true, other_score) in itertools.combinations(known, 2):
        if true != other_true:
            pairs += 1
            ties += score == other_score
            right += score != other_score and (score > other_score) == (true > other_true)
    return right + ties / 2, pairs, ties


def share_of_groups(groups: Mapping[tuple[float, int], int], seed: int = 0) -> Estimate:
    """Share of pairs that are right, over `groups`: how many there are of each (right, pairs).

    Groups are drawn with replacement, and their pairs counted (`records` of the estimate are pairs). Where every group is
    right, or every one wrong, no resample differs, and the interval is Wilson's for as many groups.
    """
    kinds = np.array(list(groups), dtype=np.float64).reshape(-1, 2)
    counts = np.array(list(groups.values()), dtype=np.int64)
    count, pairs = int(counts.sum()), int(kinds[:, 1] @ counts)
    if not pairs:
        return Estimate(math.nan, math.nan, math.nan, 0, count)
    value = float(kinds[:, 0] @ counts / pairs)
    if count < FEW:
        return Estimate(value, math.nan, math.nan, pairs, count)
    if value in (0.0, 1.0):
        return Estimate(value, *wilson(value * count, count), pairs, count)
    rng, rows, found = np.random.default_rng(seed), max(1, _CHUNK // len(counts)), list[Floats]()
    for start in range(0, GROUP_RESAMPLES, rows):
        drawn = rng.multinomial(count, counts / count, size=min(rows, GROUP_RESAMPLES - start)) @ kinds
        found.append(drawn[:, 0] / drawn[:, 1])
    return Estimate(value, *_percentiles(np.concatenate(found)), pairs, count)


# ---- several raters


def krippendorff(units: Mapping[tuple[float, ...], int], level: str = "ordinal", seed: int = 0) -> Estimate:
    """Krippendorff's alpha of several raters: 1 is agreement, 0 what chance gives.

    `units` says how many records there are about which the same was said (the raters' values, in any order); those with fewer
    than two values say nothing. `level` is "nominal", "ordinal" or "interval": what a difference between two values means
    (Krippendorff 2011, "Computing Krippendorff's alpha-reliability"). NaN where all values are the same; no interval where
    more than `_VALUES` different ones are told apart.
    """
    useful = {unit: count for unit, count in units.items() if len(unit) > 1}
    values = sorted({value for unit in useful for value in unit})
    place = {value: number for number, value in enumerate(values)}
    counts, total = np.array(list(useful.values()), dtype=np.int64), sum(useful.values())
    matrix = np.zeros((1, len(values), len(values)))
    for unit, count in useful.items():
        matrix[0] += count * _coincidences(unit, place)
    found = float(_alpha(matrix, values, level)[0])
    if math.isnan(found) or total < FEW or len(values) > _VALUES:
        return Estimate(found, math.nan, math.nan, total, total)
    drawn = np.random.default_rng(seed).multinomial(total, counts / total, size=RESAMPLES).astype(np.float64)
    each = np.stack([_coincidences(unit, place).ravel() for unit in useful])
    spread = _alpha((drawn @ each).reshape(-1, len(values), len(values)), values, level)
    return Estimate(found, *_percentiles(spread), total, total)


def _coincidences(unit: Sequence[float], place: Mapping[float, int]) -> Floats:
    """How often each two values meet among the ordered pairs of one unit, over its raters but one."""
    found = np.zeros((len(place), len(place)))
    for first, second in itertools.permutations(unit, 2):
        found[place[first], place[second]] += 1 / (len(unit) - 1)
    return found


def _alpha(coincidences: Floats, values: Sequence[float], level: str) -> Floats:
    """Alpha of each of several coincidence matrices, (R, V, V)."""
    seen = coincidences.sum(axis=2)
    total = seen.sum(axis=1)
    if level == "ordinal":
        middle = np.cumsum(seen, axis=1) - seen / 2  # the values between two, these half
        distance = (middle[:, :, None] - middle[:, None, :]) ** 2
    elif level == "interval":
        distance = np.subtract.outer(np.asarray(values), np.asarray(values))[None] ** 2
    else:
        distance = 1.0 - np.eye(len(values))[None]
    observed = (coincidences * distance).sum(axis=(1, 2))
    chance = (seen[:, :, None] * seen[:, None, :] * distance).sum(axis=(1, 2))
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.where(chance > 0, 1 - (total - 1) * observed / chance, np.nan)


def weighted_kappa(pairs: Mapping[tuple[float, float], int]) -> float:
    """Cohen's kappa of two raters' grades with quadratic weights; `pairs` says how often (first, second) was said."""
    count = sum(pairs.values())
    first, second = Counter[float](), Counter[float]()
    for (a, b), times in pairs.items():
        first[a] += times
        second[b] += times
    seen = sum(times * (a - b) ** 2 for (a, b), times in pairs.items()) / count if count else 0.0
    chance = sum(n * m * (a - b) ** 2 for a, n in first.items() for b, m in second.items()) / count**2 if count else 0.0
    return 1 - seen / chance if chance else math.nan
