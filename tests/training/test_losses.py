"""The loss functions: golden values of the specification, gradients, limits, and plain float64 references."""

from __future__ import annotations

import math
from itertools import combinations
from typing import Any, get_args

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn.functional import logsigmoid

from training.dpo import dpo_loss
from training.preference import chosen_nll
from training.reward import pairwise_loss, regression_loss
from training.rpo import Distance, ranking_loss, rpo_loss
from training.settings import Nll

DISTANCES: tuple[Distance, ...] = get_args(Distance)
# log-probabilities (pi_c, pi_l, ref_c, ref_l), rewards, beta, eta; then what comes out (shared specification, RPO).
GOLDEN = [
    (
        ((-120, -130, -125, -124), (4, 1.5), 0.1, 1.0),
        {"dpo": 0.2873353251154308, "bwd": 0.1022441387931402, "fwd": 0.1411902613439542, "sq": 1.96},
    ),
    (
        ((-80, -75, -70, -72), (2, 1.9), 0.05, 1.0),
        {"dpo": 0.8833821554187771, "bwd": 0.0252261297107291, "fwd": 0.0249924151675925, "sq": 0.2025},
    ),
]
quick = settings(deadline=None, max_examples=60)
logps = st.floats(-60, 0)
rewards = st.floats(-6, 6)


def numbers(*values: float, dtype: torch.dtype = torch.float64) -> list[torch.Tensor]:
    return [torch.tensor([float(value)], dtype=dtype) for value in values]


def loss_at(a: torch.Tensor, b: torch.Tensor, distance: Distance) -> torch.Tensor:
    """The loss where the policy's gap is `a` and the rewards' gap `b`."""
    zero = torch.zeros_like(a)
    return rpo_loss(a, zero, zero, zero, b, zero, beta=1.0, eta=1.0, distance=distance)


@pytest.mark.parametrize(("given_", "expected"), GOLDEN, ids=["first", "second"])
def test_golden_values(given_: Any, expected: dict[str, float]) -> None:
    logs, gained, beta, eta = given_
    assert dpo_loss(*numbers(*logs), beta=beta).item() == pytest.approx(expected["dpo"], abs=1e-14)
    for distance in DISTANCES:
        found = rpo_loss(*numbers(*logs), *numbers(*gained), beta=beta, eta=eta, distance=distance)
        assert found.item() == pytest.approx(expected[distance], abs=1e-14), distance


def test_the_likelihood_term_is_weighted_over_the_whole_sequence() -> None:
    (logs, gained, beta, eta), _ = GOLDEN[0]
    nll = Nll(weight=1e-5, per="sequence")
    full = torch.tensor([-120.0, -130.0], dtype=torch.float64)
    likelihood = chosen_nll(full, torch.tensor([40.0, 50.0]), torch.tensor([0]), nll)
    found = rpo_loss(*numbers(*logs), *numbers(*gained), beta=beta, eta=eta) + nll.weight * likelihood
    assert found.item() == pytest.approx(0.1034441387931402, abs=1e-14)


def gradient(a: float, b: float, distance: Distance, dtype: torch.dtype = torch.float64) -> float:
    point = torch.tensor([a], dtype=dtype, requires_grad=True)
    loss_at(point, torch.tensor([b], dtype=dtype), distance).sum().backward()
    assert point.grad is not None
    return point.grad.item()


@quick
@given(st.floats(-20, 20), st.floats(-20, 20))
def test_gradients_are_those_of_the_table(a: float, b: float) -> None:
    p, q = (1 / (1 + math.exp(-value)) for value in (a, b))
    assert gradient(a, b, "bwd") == pytest.approx(p - q, abs=1e-12)
    assert gradient(a, b, "fwd") == pytest.approx(p * (1 - p) * (a - b), abs=1e-9)
    assert gradient(a, b, "sq") == pytest.approx(2 * (a - b), abs=1e-12)


@pytest.mark.parametrize("distance", DISTANCES)
@pytest.mark.parametrize(("a", "b"), [(0.5, 60.0), (60.0, -60.0), (-60.0, 60.0), (0.0, 200.0), (200.0, 0.0)])
def test_far_apart_gaps_are_finite_in_float32(a: float, b: float, distance: Distance) -> None:
    found = loss_at(*numbers(a, b, dtype=torch.float32), distance).item()
    assert found == pytest.approx(loss_at(*numbers(a, b), distance).item(), rel=1e-5)
    assert math.isfinite(gradient(a, b, distance, torch.float32))
    pair = torch.tensor([[a, 0.0]]), torch.tensor([[b, 0.0]]), torch.ones(1, 2, dtype=torch.bool)
    assert ranking_loss(*pair, beta=1.0, eta=1.0, distance=distance).item() == pytest.approx(found, rel=1e-5)


def test_an_endless_reward_gap_makes_bwd_dpo() -> None:
    (logs, _, beta, _), _ = GOLDEN[0]
    found = rpo_loss(*numbers(*logs), *numbers(1e4, 0), beta=beta, eta=1.0)
    assert found.item() == pytest.approx(dpo_loss(*numbers(*logs), beta=beta).item(), abs=1e-12)


@quick
@given(st.floats(-8, 8), st.floats(0.05, 8))
def test_a_constant_gap_is_dpo_with_smoothed_labels_less_an_entropy(a: float, b: float) -> None:
    q = 1 / (1 + math.exp(-b))
    entropy = -(q * math.log(q) + (1 - q) * math.log(1 - q))
    zero = numbers(0)[0]
    smoothed = dpo_loss(numbers(a)[0], zero, zero, zero, beta=1.0, label_smoothing=1 / (1 + math.exp(b)))
    assert loss_at(*numbers(a, b), "bwd").item() == pytest.approx(smoothed.item() - entropy, abs=1e-12)


@quick
@given(logps, logps, logps, logps, rewards, rewards, st.floats(-50, 50), st.sampled_from(DISTANCES))
def test_shifted_rewards_and_swapped_pairs_change_nothing(
    c: float,
    r: float,
    ref_c: float,
    ref_r: float,
    r_c: float,
    r_l: float,
    shift: float,
    distance: Distance,
) -> None:
    scales: dict[str, Any] = {"beta": 0.1, "eta": 0.7, "distance": distance}
    found = rpo_loss(*numbers(c, r, ref_c, ref_r), *numbers(r_c, r_l), **scales).item()
    moved = rpo_loss(*numbers(c, r, ref_c, ref_r), *numbers(r_c + shift, r_l + shift), **scales).item()
    swapped = rpo_loss(*numbers(r, c, ref_r, ref_c), *numbers(r_l, r_c), **scales).item()
    assert moved == pytest.approx(found, abs=1e-9)
    assert swapped == pytest.approx(found, abs=1e-9)
    assert found >= -1e-12


@pytest.mark.parametrize("missing", [math.nan, math.inf])
def test_a_pair_without_rewards_has_no_loss(missing: float) -> None:
    for distance in DISTANCES:
        with pytest.raises(ValueError, match="two finite rewards"):
            rpo_loss(*numbers(-1, -2, -1, -2), *numbers(missing, 0), beta=0.1, eta=1.0, distance=distance)


# ---- K answers to a prompt

prompts = st.integers(2, 5).flatmap(
    lambda k: st.lists(st.lists(st.tuples(st.floats(-40, 40), rewards), min_size=2, max_size=k), min_size=1, max_size=4)
)


def grid(examples: list[list[tuple[float, float]]]) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """(ratios, rewards, valid); the places without an answer hold what must not count."""
    width = max(len(example) for example in examples)
    padded = [[*example, *[(7.0, -3.0)] * (width - len(example))] for example in examples]
    whole = torch.tensor(padded, dtype=torch.float64)
    valid = torch.tensor([[place < len(example) for place in range(width)] for example in examples])
    return whole[..., 0], whole[..., 1], valid


def reference(example: list[tuple[float, float]], beta: float, eta: float, distance: Distance) -> float:
    scores = np.array([beta * ratio for ratio, _ in example])
    targets = np.array([eta * reward for _, reward in example])
    if distance == "sq":
        pairs = list(combinations(range(len(example)), 2))
        return float(np.mean([((scores[i] - scores[j]) - (targets[i] - targets[j])) ** 2 for i, j in pairs]))
    p, q = (np.exp(values - values.max()) / np.exp(values - values.max()).sum() for values in (scores, targets))
    first, second = (q, p) if distance == "bwd" else (p, q)
    return float((first * np.log(first / second)).sum())


@quick
@given(prompts, st.sampled_from(DISTANCES))
def test_rankings_equal_a_plain_reference(examples: list[list[tuple[float, float]]], distance: Distance) -> None:
    found = ranking_loss(*grid(examples), beta=0.3, eta=0.9, distance=distance)
    expected = [reference(example, 0.3, 0.9, distance) for example in examples]
    assert found.tolist() == pytest.approx(expected, rel=1e-9, abs=1e-11)


@quick
@given(logps, logps, logps, logps, rewards, rewards, st.sampled_from(DISTANCES))
def test_a_ranking_of_two_is_a_pair(
    c: float,
    r: float,
    ref_c: float,
    ref_r: float,
    r_c: float,
    r_l: float,
    distance: Distance,
) -> None:
    pair = rpo_loss(*numbers(c, r, ref_c, ref_r), *numbers(r_c, r_l), beta=0.1, eta=0.7, distance=distance)
    two = grid([[(c - ref_c, r_c), (r - ref_r, r_l)]])
    assert ranking_loss(*two, beta=0.1, eta=0.7, distance=distance).item() == pytest.approx(pair.item(), abs=1e-11)


def test_places_without_an_answer_get_no_gradient() -> None:
    for distance in DISTANCES:
        ratios, gained, valid = grid([[(1.0, 2.0), (-3.0, 0.0), (2.0, 1.0)], [(1.0, 0.0), (0.5, 1.0)]])
        ratios.requires_grad_()
        ranking_loss(ratios, gained, valid, beta=0.3, eta=0.9, distance=distance).sum().backward()
        assert ratios.grad is not None
        assert torch.isfinite(ratios.grad).all(), distance
        assert ratios.grad[~valid].tolist() == [0.0], distance
        assert (ratios.grad[valid] != 0).all(), distance


# ---- reward models


@quick
@given(
    st.lists(st.lists(st.tuples(st.floats(-5, 5), st.integers(0, 3)), min_size=1, max_size=5), min_size=1, max_size=4)
)
def test_pairwise_rewards_equal_brute_force(examples: list[list[tuple[float, int]]]) -> None:
    flat = [(reward, target, place) for place, example in enumerate(examples) for reward, target in example]
    columns = [torch.tensor(values, dtype=torch.float64) for values in zip(*flat, strict=True)]
    losses, right = pairwise_loss(columns[0], columns[1], columns[2].long())
    expected, told = [], []
    for example in examples:
        gaps = [a[0] - b[0] for a in example for b in example if a[1] > b[1]]
        terms = [-logsigmoid(torch.tensor(gap, dtype=torch.float64)).item() for gap in gaps]
        expected.append(float(np.mean(terms)) if terms else 0.0)
        told += [1 / (1 + math.exp(-gap)) for gap in gaps]
    assert losses.tolist() == pytest.approx(expected, abs=1e-10)
    assert sorted(right.tolist()) == pytest.approx(sorted(told), abs=1e-10)


def test_an_ungraded_attribute_counts_for_nothing() -> None:
    values = torch.tensor([[1.0, 2.0, 3.0], [4.0, 0.0, 1.0]], requires_grad=True)
    targets = torch.tensor([[2.0, math.nan, 1.0], [math.nan, math.nan, math.nan]])
    found = regression_loss(values, targets)
    assert found.tolist() == pytest.approx([(1 + 4) / 2, 0.0])
    found.sum().backward()
    assert values.grad is not None
    assert values.grad.tolist() == [[-1.0, 0.0, 2.0], [0.0, 0.0, 0.0]]
