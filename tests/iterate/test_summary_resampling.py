"""Intervals over items and seeds, and exchange tests: against slow, plain ways to the same numbers."""

from __future__ import annotations

import itertools
import math
import tracemalloc
from collections.abc import Sequence

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from factory.evaluation.statistics import mcnemar, paired_bootstrap, permutation
from factory.iterate.resampling import Block, Floats, intervals, p_values


def side(values: Sequence[Sequence[float]], weights: float = 1.0) -> Floats:
    """(seeds, items, 2)."""
    totals = np.array(values, dtype=float)
    return np.stack([totals, np.full_like(totals, weights)], axis=-1)


def drawn(seeds: int, items: int, share: float, seed: int) -> Floats:
    return side(np.random.default_rng(seed).binomial(4, share, (seeds, items)) / 4)


def slow(block: Block, resamples: int, seed: int) -> tuple[float, float]:
    """The same bootstrap, a resample at a time, by other random numbers."""
    rng, seeds = np.random.default_rng(seed), len(block.second)
    found = []
    for _ in range(resamples):
        items, chosen = rng.integers(0, block.items, block.items), rng.integers(0, seeds, seeds)
        values = []
        for one in chosen:
            sides = [part[one, items].sum(axis=0) for part in block.sides]
            ratios = [math.exp(t / w) if block.log else t / w for t, w in sides]
            values.append(ratios[0] - (ratios[1] if len(ratios) > 1 else 0.0))
        found.append(sum(values) / seeds)
    low, high = np.quantile(found, [0.025, 0.975])
    return float(low), float(high)


@pytest.mark.parametrize(
    ("seeds", "log", "weighted"), [(1, False, False), (3, False, False), (3, False, True), (2, True, True)]
)
def test_intervals_are_those_of_a_slow_bootstrap(seeds: int, log: bool, weighted: bool) -> None:
    first, second = drawn(seeds, 60, 0.3, 1), drawn(seeds, 60, 0.5, 2)
    if weighted:
        weights = np.random.default_rng(3).integers(1, 9, 60)
        first, second = (part * np.stack([weights, weights], axis=-1) for part in (first, second))
    for block in (Block(second, first, log), Block(second, log=log)):
        (found,) = intervals([block], resamples=20_000)
        wanted = slow(block, 3000, 9)
        spread = wanted[1] - wanted[0]
        assert found == pytest.approx(wanted, abs=0.06 * spread)


def test_one_seed_is_the_paired_bootstrap_of_items() -> None:
    first, second = drawn(1, 300, 0.3, 1), drawn(1, 300, 0.4, 2)
    (found,) = intervals([Block(second, first)])
    wanted = paired_bootstrap(*([(float(t), float(w)) for t, w in part[0]] for part in (first, second)))
    assert found == pytest.approx(wanted, abs=0.004)


def test_seeds_that_differ_widen_the_interval() -> None:
    items = drawn(1, 400, 0.5, 1)[0, :, 0]
    alike = Block(side([items, items, items]))
    apart = Block(side([items - 0.2, items, items + 0.2]))
    (low, high), (wide_low, wide_high) = intervals([alike, apart])
    assert np.mean([wide_low, wide_high]) == pytest.approx(items.mean(), abs=0.02)
    # The spread of a mean of three drawn from three: sqrt(2/3) * 0.2 / sqrt(3).
    assert wide_high - wide_low > 2 * (high - low)
    assert wide_high - wide_low > 2 * 1.5 * 0.2 * math.sqrt(2 / 3) / math.sqrt(3)


def test_the_interval_holds_the_truth_about_as_often_as_it_says() -> None:
    """Items alone: 400 experiments with a known difference."""
    rng, truth, held = np.random.default_rng(5), 0.1, 0
    blocks = []
    for _ in range(400):
        ease = rng.uniform(0.1, 0.7, 150)
        blocks.append(Block(side([rng.random(150) < ease + truth]), side([rng.random(150) < ease])))
    for low, high in intervals(blocks, resamples=1000):
        held += low <= truth <= high
    assert 0.91 <= held / 400 <= 0.98


def test_blocks_do_not_depend_on_each_other_or_on_how_they_are_cut() -> None:
    blocks = [
        Block(drawn(3, items, 0.5, n), drawn(3, items, 0.4, n + 50)) for n, items in enumerate([30, 90, 30, 7] * 3)
    ]
    blocks += [Block(drawn(seeds, 30, 0.5, 7), drawn(seeds, 30, 0.4, 8)) for seeds in (1, 2)]
    for block, together in zip(blocks, intervals(blocks, resamples=500), strict=True):
        assert together == pytest.approx(intervals([block], resamples=500)[0])
    tests = p_values(blocks, resamples=500)
    assert tests == [p_values([block], resamples=500)[0] for block in blocks]


def test_nothing_to_draw_from() -> None:
    empty = Block(np.zeros((2, 0, 2)), np.zeros((2, 0, 2)))
    (found,) = intervals([empty])
    assert math.isnan(found[0]) and math.isnan(found[1])
    weightless = Block(side([[0.0, 0.0]], weights=0.0))
    assert math.isnan(intervals([weightless])[0][0])


def test_memory_is_bounded() -> None:
    blocks = [Block(drawn(3, 2000, 0.5, n), drawn(3, 2000, 0.4, n + 50)) for n in range(40)]
    tracemalloc.start()
    intervals(blocks)
    p_values(blocks)
    _, most = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert most < 150e6


# ---- exchange tests

_GRADES = st.lists(st.sampled_from([0.0, 0.25, 0.5, 1.0]), min_size=7, max_size=7)


@given(st.lists(st.tuples(_GRADES, _GRADES), min_size=1, max_size=3))
@settings(max_examples=60, deadline=None)
def test_few_items_are_exchanged_in_every_way(pairs: list[tuple[list[float], list[float]]]) -> None:
    first, second = side([a for a, _ in pairs]), side([b for _, b in pairs])
    block = Block(second, first)
    ((p, test),) = p_values([block])
    if test == "McNemar":
        return
    gaps = (second - first)[..., 0].mean(axis=0)
    seen, reached = abs(gaps.mean()), 0
    for signs in itertools.product([1, -1], repeat=len(gaps)):
        reached += abs((gaps * signs).mean()) >= seen - 1e-12
    assert p == pytest.approx(reached / 2 ** len(gaps))


@pytest.mark.parametrize("log", [False, True])
def test_one_seed_is_the_permutation_test_of_evaluate(log: bool) -> None:
    first, second = drawn(1, 80, 0.45, 1), drawn(1, 80, 0.5, 2)
    weights = np.random.default_rng(3).integers(1, 9, 80)
    first, second = (part * np.stack([weights, weights], axis=-1) for part in (first, second))
    ((p, test),) = p_values([Block(second, first, log)])
    pairs = [[(float(t), float(w)) for t, w in part[0]] for part in (first, second)]
    assert test == "permutation"
    assert p == pytest.approx(permutation(*pairs, math.exp if log else lambda value: value), abs=0.02)


def test_right_or_wrong_of_one_seed_is_mcnemars() -> None:
    rng = np.random.default_rng(4)
    a, b = rng.random(300) < 0.4, rng.random(300) < 0.5
    ((p, test),) = p_values([Block(side([b]), side([a]))])
    assert (p, test) == (mcnemar(a.tolist(), b.tolist()), "McNemar")


def test_p_is_seldom_small_where_nothing_differs() -> None:
    blocks = [Block(drawn(2, 40, 0.5, n), drawn(2, 40, 0.5, n + 5000)) for n in range(300)]
    small = sum(p < 0.05 for p, _ in p_values(blocks, resamples=999))
    assert small / 300 < 0.09


def test_a_test_needs_two_sides() -> None:
    with pytest.raises(ValueError):
        p_values([Block(drawn(1, 5, 0.5, 1))])
