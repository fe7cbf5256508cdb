"""Averages of weights, one tensor at a time, in float32: the weighted mean, SLERP, and WARP's return to the start.

Every function takes and gives tensors of one shape. Source of all but the mean: Ramé et al. 2024, "WARP: On the Benefits
of Weight Averaged Rewarded Policies", arXiv 2406.16768 (Gemma 2 was merged this way).
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor

# Below this sine the sphere is flat to float32: linear interpolation differs from SLERP by less than angle^2 / 8, 1.3e-7.
_SMALLEST_SINE = 1e-3
_AT_A_TIME = 2**17  # elements turned into float64 together: 1 MB, which stays in the processor's cache


def average(tensors: Iterable[Tensor], weights: Sequence[float]) -> Tensor:
    """The mean of `tensors` with `weights` (not negative, not all 0; only their ratios matter).

    Computed as a running mean: equal tensors give exactly that tensor, whatever the weights. Holds two tensors at a time
    if `tensors` makes them one by one; the result is written into the first one that has a weight.
    """
    mean, total = None, 0.0
    for tensor, weight in zip(tensors, weights, strict=True):
        total += weight
        if weight == 0:
            continue
        mean = tensor if mean is None else mean.add_(tensor.sub_(mean), alpha=weight / total)
    if mean is None:
        raise ValueError("every weight is 0")
    return mean


@dataclass(frozen=True)
class Arc:
    """SLERP between two vectors as factors of each; `angle` in radians, None where the way is a straight line."""

    first: float
    second: float
    angle: float | None


def slerp_arc(first: Tensor, second: Tensor, l: float) -> Arc:  # noqa: E741 - the paper's lambda
    """Factors sin((1-l)O)/sin(O) and sin(lO)/sin(O), O the angle between the vectors (WARP, equation SLERP).

    `l` is in 0..1: 0 gives `first`, 1 gives `second`. Orthogonal vectors of equal norm keep that norm. It falls to linear
    interpolation, (1-l) and l, where O has no use: a vector is zero, the two are parallel (the same to float32), or they
    are opposite (no arc is shorter than the others). Sums are taken in float64.
    """
    square, product, other_square = _products(first, second)
    if square > 0 and other_square > 0:
        cosine = max(-1.0, min(1.0, product / math.sqrt(square) / math.sqrt(other_square)))
        angle = math.acos(cosine)
        if math.sin(angle) >= _SMALLEST_SINE:
            return Arc(math.sin((1 - l) * angle) / math.sin(angle), math.sin(l * angle) / math.sin(angle), angle)
    return Arc(1 - l, l, None)


def merge_task_vectors(vectors: Iterable[Tensor], l: float | None) -> tuple[Tensor, list[Arc]]:  # noqa: E741
    """SLERP of task vectors, each the model minus the initial model; also the arcs that were taken.

    Two vectors go by `l`. More, or `l` None, go by the paper's iterative rule for a uniform merge (equation 26): the
    merge of the first m-1 is merged with the m-th at l = 1/m. The rule is not associative, so the order of more than two
    matters a little. The result is written into the first vector.
    """
    merged, arcs = None, []
    for count, vector in enumerate(vectors, 1):
        if merged is None:
            merged = vector
            continue
        arc = slerp_arc(merged, vector, 1 / count if l is None else l)
        merged.mul_(arc.first).add_(vector, alpha=arc.second)
        arcs.append(arc)
    if merged is None:
        raise ValueError("no task vectors")
    return merged, arcs


def from_start(start: Tensor, vector: Tensor, eta: float) -> Tensor:
    """(1-eta) start + eta (start + vector): eta 1 is the whole merge, eta 0 the initial model (WARP, equation LITI).

    So the paper's usual 0.3 keeps 30% of the way that training went and goes back 70% of it. Written into `vector`.
    """
    return vector.mul_(eta).add_(start)


def _products(first: Tensor, second: Tensor) -> tuple[float, float, float]:
    """first.first, first.second and second.second, summed in float64 in one pass."""
    square = product = other_square = 0.0
    for some, others in zip(first.reshape(-1).split(_AT_A_TIME), second.reshape(-1).split(_AT_A_TIME), strict=True):
        a, b = some.double(), others.double()
        square, product, other_square = square + float(a @ a), product + float(a @ b), other_square + float(b @ b)
    return square, product, other_square
