"""Which examples a step takes, and how they lie in micro-batches: a pure function of the settings and the lengths.

A step's examples depend on the seed, the step and the batch only, so a run that is resumed, or goes on with another
number of processes or another amount of memory, takes the same ones; the loss is a sum over them divided by what the
whole step holds, so it is the same number too. Within a step, examples are spread over processes and micro-batches so
that each forward pass holds about as many tokens as the others and none more than `capacity`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import ceil

import numpy as np


@dataclass(frozen=True)
class Part:
    """A data set in a mixture: its examples are `start` to `end` of all; `weight` is its share, None for each once."""

    start: int
    end: int
    weight: float | None = None


class Plan:
    """The examples of every step.

    `tokens` (N,) are the examples' lengths, `batch` the examples of a step, `epochs` may be a fraction; `steps`, where
    given, decides in its place. `keep` (N,) bool leaves examples out.
    """

    def __init__(
        self,
        tokens: np.ndarray,
        parts: Sequence[Part],
        *,
        batch: int,
        epochs: float,
        steps: int | None,
        seed: int,
        keep: np.ndarray | None = None,
    ) -> None:
        self.tokens, self.batch, self.seed = tokens, batch, seed
        chosen = np.ones(len(tokens), bool) if keep is None else keep
        self._parts = [
            (np.flatnonzero(chosen[part.start : part.end]) + part.start, part.weight)
            for part in parts
            if chosen[part.start : part.end].any()
        ]
        self._counts = self._epoch_counts()
        self.epoch_size = sum(self._counts)
        self.steps = steps if steps is not None else max(1, ceil(self.epoch_size * epochs / batch - 1e-9))
        self._last = None if steps is not None else round(self.epoch_size * epochs)
        self._epochs: dict[int, np.ndarray] = {}

    def _epoch_counts(self) -> list[int]:
        """Examples of each part in an epoch: one pass over the parts without weight and over the heaviest with one."""
        heaviest = max(((weight, len(indices)) for indices, weight in self._parts if weight is not None), default=None)
        if heaviest is None:
            return [len(indices) for indices, _ in self._parts]
        return [
            len(indices) if weight is None else max(1, round(heaviest[1] * weight / heaviest[0]))
            for indices, weight in self._parts
        ]

    def _order(self, epoch: int) -> np.ndarray:
        """The examples of an epoch in their order: each part's own passes are shuffled, then all together."""
        if epoch not in self._epochs:
            taken = [self._take(place, epoch) for place in range(len(self._parts))]
            order = np.concatenate(taken)
            np.random.default_rng([self.seed, epoch, 0]).shuffle(order)
            self._epochs = {epoch - 1: self._epochs[epoch - 1]} if epoch - 1 in self._epochs else {}
            self._epochs[epoch] = order
        return self._epochs[epoch]

    def _take(self, place: int, epoch: int) -> np.ndarray:
        """What an epoch takes of a part: the next ones of an endless row of shuffled passes over it."""
        indices, count = self._parts[place][0], self._counts[place]
        start, found = epoch * count, []
        for turn in range(start // len(indices), (start + count - 1) // len(indices) + 1):
            order = np.random.default_rng([self.seed, place + 1, turn]).permutation(indices)
            low, high = turn * len(indices), (turn + 1) * len(indices)
            found.append(order[max(start, low) - low : min(start + count, high) - low])
        return np.concatenate(found)

    def examples(self, step: int) -> np.ndarray:
        """The indices of step `step`'s examples (0-based), in order."""
        first, end = step * self.batch, (step + 1) * self.batch
        if self._last is not None:
            end = max(min(end, self._last), first + 1)
        found = []
        for epoch in range(first // self.epoch_size, (end - 1) // self.epoch_size + 1):
            low = epoch * self.epoch_size
            found.append(self._order(epoch)[max(first, low) - low : min(end, low + self.epoch_size) - low])
        return np.concatenate(found)

    def epoch(self, step: int) -> float:
        """Passes over the data after `step` steps."""
        return min(step * self.batch, self._last or step * self.batch) / self.epoch_size


def spread(tokens: np.ndarray, processes: int, capacity: int) -> list[list[np.ndarray]]:
    """Places (0 to len(tokens)-1) for each process and micro-batch; every process has as many micro-batches.

    The fewest micro-batches in which nothing exceeds `capacity` (but for an example that is longer by itself), the
    longest examples first, each into the emptiest one. Some may be empty where examples are few.
    """
    order = np.argsort(-tokens, kind="stable")
    rounds = max(1, ceil(int(tokens.sum()) / (processes * capacity)))
    while True:
        bins = processes * rounds
        loads, places = np.zeros(bins, np.int64), np.empty(len(tokens), np.int64)
        for index in order:
            place = int(loads.argmin())
            loads[place] += tokens[index]
            places[index] = place
        if loads.max(initial=0) <= capacity or rounds >= len(tokens):
            break
        rounds += 1
    # The fullest bins of every round side by side, so that no process waits for another.
    by_load = np.argsort(-loads, kind="stable").reshape(rounds, processes)
    return [[np.flatnonzero(places == by_load[turn, rank]) for turn in range(rounds)] for rank in range(processes)]


def chunks(tokens: np.ndarray, processes: int, capacity: int) -> list[list[np.ndarray]]:
    """Like `spread` for a whole data set: neighbours in length together, in time that grows with its size only."""
    order = np.argsort(-tokens, kind="stable")
    found, start, load = [], 0, 0
    for place, index in enumerate(order):
        if place > start and load + tokens[index] > capacity:
            found.append(order[start:place])
            start, load = place, 0
        load += int(tokens[index])
    found.append(order[start:])
    found += [order[:0]] * (-len(found) % processes)
    return [found[rank::processes] for rank in range(processes)]
