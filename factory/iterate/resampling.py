"""How sure a mean over seeds and items is: a bootstrap of both, and an exchange test, for many comparisons in one pass.

Items are drawn with replacement, the same ones for every model and seed, since all were asked the same; where there are
several seeds they are drawn, too, independently of the items (the pigeonhole bootstrap: Owen, "The pigeonhole bootstrap",
Annals of Applied Statistics 2007). Percentile intervals. With few seeds the spread between them is known badly and drawn
too small, by a factor of (seeds - 1) / seeds.
"""

from __future__ import annotations

import functools
import itertools
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from factory.evaluation.statistics import EXACT, LEVEL, RESAMPLES, mcnemar

Floats = NDArray[np.float64]
_CHUNK = 1_000_000  # numbers drawn at once
_COLUMNS = 512  # sums kept of each resample at once: with the chunk, bounds memory near 100 MB


@dataclass(frozen=True, eq=False)
class Block:
    """What is asked: `second` less `first` on the same items; without `first` the value of `second` alone.

    Each is (seeds, items, 2), the last axis (total, weight); a value is the ratio of their sums, and with `log` its
    exponential. What is said is the mean over the seeds.
    """

    second: Floats
    first: Floats | None = None
    log: bool = False

    @property
    def items(self) -> int:
        return int(self.second.shape[1])

    @property
    def sides(self) -> list[Floats]:
        return [self.second] if self.first is None else [self.second, self.first]

    @property
    def plain(self) -> bool:
        """Every item weighs the same: a difference of means is the mean of differences."""
        return not self.log and all(bool((side[..., 1] == 1).all()) for side in self.sides)

    def by_seed(self) -> Floats:
        """The value, or the difference, of each seed."""
        values = [_ratio(side.sum(axis=1), self.log) for side in self.sides]
        return values[0] if self.first is None else values[0] - values[1]


def _ratio(sums: Floats, log: bool) -> Floats:
    """Ratios of (..., 2); NaN where nothing has a weight."""
    with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
        found = sums[..., 0] / sums[..., 1]
        return np.exp(found) if log else found


# ---- intervals


def intervals(blocks: Sequence[Block], seed: int = 0, resamples: int = RESAMPLES) -> list[tuple[float, float]]:
    """The 95% interval of each block's mean over seeds; NaN where it has no items. The same seed, the same intervals.

    Blocks with as many items share the drawn places, which costs them nothing: each is judged by itself.
    """
    found = [(np.nan, np.nan)] * len(blocks)
    for items, places in _alike(blocks):
        columns = [_columns(blocks[place]) for place in places]
        weights = {  # how often each seed is drawn, by other random numbers than the items
            seeds: _counts(np.random.default_rng((seed, seeds)), resamples, seeds) / seeds
            for seeds in {len(blocks[place].second) for place in places}
        }
        for start, part in _parts(columns):
            sums = _products(np.concatenate(part, axis=1), items, resamples, seed, _counts)
            at = 0
            for place, own in zip(places[start : start + len(part)], part, strict=True):
                values = _values(blocks[place], sums[:, at : at + own.shape[1]])
                found[place] = _interval(np.einsum("rs,rs->r", values, weights[values.shape[1]]))
                at += own.shape[1]
    return found


def _alike(blocks: Sequence[Block]) -> Iterator[tuple[int, list[int]]]:
    """Places of the blocks with as many items."""
    order = sorted((place for place, block in enumerate(blocks) if block.items), key=lambda n: blocks[n].items)
    for items, places in itertools.groupby(order, key=lambda n: blocks[n].items):
        yield items, list(places)


def _columns(block: Block) -> Floats:
    """What is summed over a draw: (items, seeds) where it is one number an item, else totals and weights of each side."""
    if block.plain:
        difference = block.second[..., 0] - (0 if block.first is None else block.first[..., 0])
        return np.ascontiguousarray(difference.T) / block.items
    return np.concatenate([side.transpose(1, 0, 2).reshape(block.items, -1) for side in block.sides], axis=1)


def _parts(columns: Sequence[Floats]) -> Iterator[tuple[int, list[Floats]]]:
    """Runs of columns that are few enough for one pass, with the place of the first."""
    start, part, width = 0, list[Floats](), 0
    for place, own in enumerate(columns):
        if part and width + own.shape[1] > _COLUMNS:
            yield start, part
            start, part, width = place, [], 0
        part.append(own)
        width += own.shape[1]
    if part:
        yield start, part


def _products(
    columns: Floats, items: int, rows: int, seed: int, draw: Callable[[np.random.Generator, int, int], Floats]
) -> Floats:
    """(rows, columns): each row of `draw`, (rows, items), times the columns, a chunk at a time."""
    rng, found = np.random.default_rng(seed), np.empty((rows, columns.shape[1]))
    step = max(1, _CHUNK // items)
    for start in range(0, rows, step):
        count = min(step, rows - start)
        found[start : start + count] = draw(rng, count, items) @ columns
    return found


def _counts(rng: np.random.Generator, rows: int, items: int) -> Floats:
    """How often each item is drawn."""
    places = rng.integers(0, items, (rows, items))
    places += np.arange(rows)[:, None] * items
    return np.bincount(places.ravel(), minlength=rows * items).reshape(rows, items).astype(np.float64)


@functools.cache
def _every_sign(items: int) -> Floats:
    """All exchanges of so many items, (2^items, items): at most 8 MB."""
    bits = ((np.arange(1 << items)[:, None] >> np.arange(items)) & 1).astype(np.float64)
    return bits * 2 - 1


def _signs(rng: np.random.Generator, rows: int, items: int) -> Floats:
    signs: Floats = rng.integers(0, 2, (rows, items)).astype(np.float64) * 2 - 1
    return signs


def _values(block: Block, sums: Floats) -> Floats:
    """(resamples, seeds): what each seed would have said."""
    if block.plain:
        return sums
    shaped = sums.reshape(len(sums), len(block.sides), len(block.second), 2)
    values = _ratio(shaped, block.log)
    return values[:, 0] if block.first is None else values[:, 0] - values[:, 1]


def _interval(values: Floats) -> tuple[float, float]:
    finite = values[np.isfinite(values)]
    if finite.size == 0:
        return np.nan, np.nan
    low, high = np.quantile(finite, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    return float(low), float(high)


# ---- exchange tests


def p_values(blocks: Sequence[Block], seed: int = 0, resamples: int = RESAMPLES) -> list[tuple[float, str]]:
    """Of each comparison: how likely a difference as large is if the two models were exchangeable, and the test's name.

    McNemar's exact test for one seed whose items are right or wrong. Else the two models are exchanged item by item, all
    seeds of an item together: all exchanges where few items differ, else drawn ones, the seen one counted among them
    (Phipson and Smyth 2010). Two-sided. Seeds are held as they are: it says nothing of other ones.
    """
    found: list[tuple[float, str]] = [(np.nan, "")] * len(blocks)
    drawn = dict[int, Block]()
    for place, block in enumerate(blocks):
        if block.first is None:
            raise ValueError("a test needs two sides")
        differ = (block.first != block.second).any(axis=(0, 2))
        if _binary(block):
            right = [side[0, :, 0] == 1 for side in (block.first, block.second)]
            found[place] = mcnemar(right[0].tolist(), right[1].tolist()), "McNemar"
        elif int(differ.sum()) <= EXACT:
            sums = _every_sign(int(differ.sum())) @ _halves(block)[differ]
            found[place] = float(np.mean(_reached(block, sums))) if block.items else 1.0, "permutation"
        else:
            drawn[place] = block
    of_drawn = list(drawn.values())
    for items, places in _alike(of_drawn):
        columns = [_halves(of_drawn[place]) for place in places]
        for start, part in _parts(columns):
            sums, at = _products(np.concatenate(part, axis=1), items, resamples, seed, _signs), 0
            for place, own in zip(places[start : start + len(part)], part, strict=True):
                reached = _reached(of_drawn[place], sums[:, at : at + own.shape[1]]).sum()
                found[list(drawn)[place]] = float((reached + 1) / (resamples + 1)), "permutation"
                at += own.shape[1]
    return found


def _binary(block: Block) -> bool:
    return (
        len(block.second) == 1
        and block.plain
        and all(bool(np.isin(side[..., 0], (0, 1)).all()) for side in block.sides)
    )


def _halves(block: Block) -> Floats:
    """What an exchange of an item moves from one side's sums to the other's, halved: (items, seeds * 2), or (items, 1)
    where all items weigh the same and the mean over the seeds is all that is needed."""
    assert block.first is not None
    halves = (block.second - block.first) / 2
    return halves[..., 0].mean(axis=0)[:, None] if block.plain else halves.transpose(1, 0, 2).reshape(block.items, -1)


def _reached(block: Block, moved: Floats) -> NDArray[np.bool_]:
    """Whether exchanges, a row of `_halves` summed under their signs each, differ as much as what was seen."""
    assert block.first is not None
    if block.plain:
        difference = 2 * moved[:, 0] / block.items
    else:
        middle = ((block.second + block.first) / 2).sum(axis=1)
        moved = moved.reshape(len(moved), *middle.shape)
        difference = (_ratio(middle + moved, block.log) - _ratio(middle - moved, block.log)).mean(axis=-1)
    seen = abs(float(block.by_seed().mean()))
    reached: NDArray[np.bool_] = np.abs(difference) >= seen * (1 - 1e-9) - 1e-12
    return reached
