"""What may be said from a sample of items: estimates, intervals and paired tests. Pure functions of numbers.

A measured value is a ratio of sums, `sum(total) / sum(weight)` over the items (weights of 1 give a mean), so that a
token-weighted loss and a pass rate are resampled alike: whole items, never single tokens or samples, since those of one
item are not independent.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterator, Sequence

import numpy as np
from numpy.typing import NDArray

RESAMPLES = 10_000
LEVEL = 0.95
EXACT = 16  # pairs that differ, up to which all 2^n exchanges are counted instead of drawn
_CHUNK = 4_000_000  # numbers drawn at once: bounds memory at 32 MB

Values = Sequence[tuple[float, float]]  # (total, weight) of each item
Transform = Callable[[float], float]


def identity(value: float) -> float:
    return value


def pass_at_k(samples: int, correct: int, k: int) -> float:
    """Probability that one of `k` samples drawn without replacement from `samples` passes, `correct` of which do.

    Chen et al. 2021 (arXiv:2107.03374), equation 1, unbiased: 1 - C(n-c, k) / C(n, k). Raises `ValueError` for k > n.
    """
    if not 0 <= correct <= samples or not 1 <= k <= samples:
        raise ValueError(f"pass@{k} of {correct} correct among {samples} samples")
    return 1.0 - math.comb(samples - correct, k) / math.comb(samples, k)


def ratio(values: Values, transform: Transform = identity) -> float:
    """`transform(sum of totals / sum of weights)`; NaN where nothing has a weight."""
    total, weight = math.fsum(t for t, _ in values), math.fsum(w for _, w in values)
    return transform(total / weight) if weight else math.nan


def bootstrap(values: Values, transform: Transform = identity, seed: int = 0) -> tuple[float, float]:
    """The percentile interval (95%) of `ratio` over items drawn with replacement; the same seed, the same interval."""
    if len(values) == 0:
        return math.nan, math.nan
    data = np.asarray(values, dtype=np.float64)
    sums = np.concatenate([data[draw].sum(axis=1) for draw in _draws(len(data), seed)])
    return _interval(_transformed(sums, transform))


def paired_bootstrap(
    first: Values, second: Values, transform: Transform = identity, seed: int = 0
) -> tuple[float, float]:
    """The interval (95%) of `ratio(second) - ratio(first)`: the same items are drawn for both."""
    if len(first) != len(second):
        raise ValueError("pairs need as many values on either side")
    if len(first) == 0:
        return math.nan, math.nan
    a, b = np.asarray(first, dtype=np.float64), np.asarray(second, dtype=np.float64)
    differences = [
        _transformed(b[draw].sum(axis=1), transform) - _transformed(a[draw].sum(axis=1), transform)
        for draw in _draws(len(a), seed)
    ]
    return _interval(np.concatenate(differences))


def mcnemar(first: Sequence[bool], second: Sequence[bool]) -> float:
    """Two-sided exact p-value that both are right equally often, from the pairs in which just one is.

    McNemar's test in its binomial form: twice the smaller tail of Binomial(n, 1/2), at most 1.
    """
    only_first = sum(a and not b for a, b in zip(first, second, strict=True))
    only_second = sum(b and not a for a, b in zip(first, second, strict=True))
    n = only_first + only_second
    tail = sum(math.comb(n, i) for i in range(min(only_first, only_second) + 1))
    both: float = 2 * tail / (1 << n)
    return min(1.0, both)


def permutation(first: Values, second: Values, transform: Transform = identity, seed: int = 0) -> float:
    """Two-sided p-value that the two are exchangeable item by item: how often an exchange differs as much.

    All exchanges of the pairs that differ are counted where these are few (`EXACT`), else `RESAMPLES` are drawn and the
    one that was seen is counted among them, which keeps the test valid (Phipson and Smyth 2010).
    """
    a, b = np.asarray(first, dtype=np.float64), np.asarray(second, dtype=np.float64)
    differ = np.flatnonzero((a != b).any(axis=1)) if len(a) else np.array([], dtype=int)
    if differ.size == 0:
        return 1.0
    rest_a, rest_b = np.delete(a, differ, axis=0).sum(axis=0), np.delete(b, differ, axis=0).sum(axis=0)
    a, b = a[differ], b[differ]

    def differences(exchanged: NDArray[np.bool_]) -> NDArray[np.float64]:
        """|difference| under each row of exchanges, (rows, pairs)."""
        take = exchanged.astype(np.float64)
        sums_a, sums_b = rest_a + (1 - take) @ a + take @ b, rest_b + (1 - take) @ b + take @ a
        return np.abs(_transformed(sums_b, transform) - _transformed(sums_a, transform))

    seen = float(differences(np.zeros((1, len(a)), dtype=bool))[0]) * (1 - 1e-9) - 1e-12
    if len(a) <= EXACT:
        every = np.array(list(itertools.product([False, True], repeat=len(a))))
        return float(np.mean(differences(every) >= seen))
    rng, reached, left = np.random.default_rng(seed), 0, RESAMPLES
    while left:
        rows = min(left, max(1, _CHUNK // len(a)))
        reached += int(np.sum(differences(rng.random((rows, len(a))) < 0.5) >= seen))
        left -= rows
    return (reached + 1) / (RESAMPLES + 1)


def _draws(items: int, seed: int) -> Iterator[NDArray[np.int64]]:
    """Indices of items, (resamples, items), in parts."""
    rng, rows = np.random.default_rng(seed), max(1, _CHUNK // items)
    parts = [min(rows, RESAMPLES - start) for start in range(0, RESAMPLES, rows)]
    return (rng.integers(0, items, (count, items)) for count in parts)


def _transformed(sums: NDArray[np.float64], transform: Transform) -> NDArray[np.float64]:
    """`transform(total / weight)` for each row of (total, weight); rows without weight are left out by the interval."""
    with np.errstate(divide="ignore", invalid="ignore"):
        means = sums[:, 0] / sums[:, 1]
    if transform is identity:
        return means
    return np.array([transform(float(mean)) for mean in means])


def _interval(values: NDArray[np.float64]) -> tuple[float, float]:
    finite = values[~np.isnan(values)]
    if finite.size == 0:
        return math.nan, math.nan
    low, high = np.quantile(finite, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    return float(low), float(high)
