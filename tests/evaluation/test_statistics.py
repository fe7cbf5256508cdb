"""Statistics against brute force, exact enumeration and known values."""

from __future__ import annotations

import itertools
import math
import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from factory.evaluation import statistics
from factory.evaluation.statistics import bootstrap, mcnemar, paired_bootstrap, pass_at_k, permutation, ratio


@given(st.integers(1, 9).flatmap(lambda n: st.tuples(st.just(n), st.integers(0, n), st.integers(1, n))))
def test_pass_at_k_is_the_share_of_draws_with_a_success(case: tuple[int, int, int]) -> None:
    samples, correct, k = case
    outcomes = [True] * correct + [False] * (samples - correct)
    draws = list(itertools.combinations(outcomes, k))
    assert pass_at_k(samples, correct, k) == pytest.approx(sum(any(draw) for draw in draws) / len(draws))


def test_pass_at_k_is_unbiased() -> None:
    """Averaged over all outcomes of 6 tries at p = 0.3 it is 1 - 0.7^k, which the plug-in estimate is not."""
    for k in (1, 2, 4, 6):
        mean = sum(math.comb(6, c) * 0.3**c * 0.7 ** (6 - c) * pass_at_k(6, c, k) for c in range(7))
        assert mean == pytest.approx(1 - 0.7**k)


def test_pass_at_k_golden_values() -> None:
    assert pass_at_k(16, 1, 1) == 0.0625
    assert pass_at_k(16, 1, 16) == 1.0
    # The product form that the paper gives for its own code.
    assert pass_at_k(200, 10, 10) == pytest.approx(1 - math.prod(1 - 10 / i for i in range(191, 201)), abs=1e-12)
    for wrong in ((3, 1, 4), (3, 4, 1), (3, 1, 0)):
        with pytest.raises(ValueError):
            pass_at_k(*wrong)


def test_ratio_weighs_items_by_their_weight() -> None:
    assert ratio([(2, 1), (1, 9)]) == pytest.approx(0.3)
    assert ratio([(2.0, 1), (1, 2)], math.exp) == pytest.approx(math.e)
    assert math.isnan(ratio([]))


def test_bootstrap_agrees_with_the_normal_interval() -> None:
    draw = random.Random(1)
    values = [(float(draw.random() < 0.3), 1.0) for _ in range(2000)]
    p = ratio(values)
    low, high = bootstrap(values)
    half = 1.96 * math.sqrt(p * (1 - p) / 2000)
    assert (low, high) == pytest.approx((p - half, p + half), abs=0.003)
    assert bootstrap(values) == (low, high), "the same seed, the same interval"
    assert bootstrap([(3.0, 1.0)] * 5) == (3.0, 3.0)


def test_bootstrap_covers_the_truth_as_often_as_it_says() -> None:
    """200 samples of 60 items from an exponential with mean 1: near 95 % of the intervals hold it."""
    draw, held = random.Random(2), 0
    for seed in range(200):
        low, high = bootstrap([(draw.expovariate(1), 1.0) for _ in range(60)], seed=seed)
        held += low <= 1 <= high
    assert 178 <= held <= 199


@given(st.lists(st.tuples(st.booleans(), st.booleans()), max_size=10))
def test_mcnemar_is_the_permutation_test_of_right_and_wrong(pairs: list[tuple[bool, bool]]) -> None:
    first, second = [a for a, _ in pairs], [b for _, b in pairs]
    as_values = [[(float(x), 1.0) for x in side] for side in (first, second)]
    assert mcnemar(first, second) == pytest.approx(permutation(*as_values))


def test_mcnemar_golden_values() -> None:
    """5 against 15 discordant pairs: 2 * P(Binomial(20, 1/2) <= 5)."""
    first = [True] * 5 + [False] * 15 + [True] * 30
    second = [False] * 5 + [True] * 15 + [True] * 30
    assert mcnemar(first, second) == pytest.approx(0.04138946533203125)
    assert mcnemar([True], [True]) == 1.0


values = st.lists(st.tuples(st.floats(0, 5), st.floats(0.5, 5)), min_size=1, max_size=6)


@settings(deadline=None)
@given(values.flatmap(lambda a: st.tuples(st.just(a), st.permutations(a))))
def test_permutation_against_brute_force(case: tuple[list[tuple[float, float]], list[tuple[float, float]]]) -> None:
    first, second = case
    seen = abs(ratio(second) - ratio(first))
    found = []
    for swaps in itertools.product([False, True], repeat=len(first)):
        a = [y if swap else x for x, y, swap in zip(first, second, swaps, strict=True)]
        b = [x if swap else y for x, y, swap in zip(first, second, swaps, strict=True)]
        found.append(abs(ratio(b) - ratio(a)) >= seen * (1 - 1e-9) - 1e-12)
    assert permutation(first, second) == pytest.approx(sum(found) / len(found))


def test_a_drawn_permutation_test_is_near_the_exact_one(monkeypatch: pytest.MonkeyPatch) -> None:
    draw = random.Random(3)
    first = [(draw.random(), 1.0) for _ in range(14)]
    second = [(draw.random() + 0.2, 1.0) for _ in range(14)]
    exact = permutation(first, second)
    monkeypatch.setattr(statistics, "EXACT", 2)
    assert permutation(first, second) == pytest.approx(exact, abs=0.02)


def test_paired_bootstrap_knows_that_the_items_are_the_same() -> None:
    """Hard and easy items, the second better by 0.1 on each: no doubt about the difference, much about either mean."""
    first = [(float(i % 2), 1.0) for i in range(40)]
    second = [(float(i % 2) + 0.1, 1.0) for i in range(40)]
    assert paired_bootstrap(first, second) == pytest.approx((0.1, 0.1))
    low, high = bootstrap(first)
    assert high - low > 0.25
    with pytest.raises(ValueError):
        paired_bootstrap(first, second[1:])
