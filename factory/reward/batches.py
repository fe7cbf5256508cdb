"""Micro-batches of whatever is waiting: the oldest and its neighbours in length, so that little is padding.

A thread of its own computes, and the event loop stays free. Callers are many, each with one text; nobody waits for a
batch to fill.
"""

from __future__ import annotations

import asyncio
import bisect
import queue
import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Generic, TypeVar

from factory.errors import ScorerError

Values = list[float]
T = TypeVar("T")
Prepare = Callable[
    [Sequence[T]], Sequence[Sequence[int] | ScorerError]
]  # texts -> token ids of each, or why there are none
Forward = Callable[[Sequence[Sequence[int]]], Sequence[Values]]  # token ids of each text -> the head's outputs of each
WAITING = 4096  # texts that may wait; more callers than that wait for a place


class TooLarge(ScorerError):
    """It does not fit into the device's memory; where that is one text, another run on another machine may do it."""

    final = False


@dataclass(slots=True)
class _Waiting(Generic[T]):
    text: T
    loop: asyncio.AbstractEventLoop
    future: asyncio.Future[Values]
    ids: Sequence[int] = ()


def neighbours(lengths: Sequence[int], place: int, budget: int, share: float) -> slice:
    """The run of `lengths` (ascending) around `place` that makes a micro-batch: within `budget` tokens, padding
    included, of which at most a `share` is padding. Grows to the side that costs less padding. One text always fits."""
    first, last, total = place, place, lengths[place]
    while True:
        sides = []
        for low, high, added in ((first - 1, last, first - 1), (first, last + 1, last + 1)):
            if low >= 0 and high < len(lengths):
                size = (high - low + 1) * lengths[high]
                padding = size - total - lengths[added]
                if size <= budget and padding <= share * size:
                    sides.append((padding, low, high, total + lengths[added]))
        if not sides:
            return slice(first, last + 1)
        _, first, last, total = min(sides)


class Batcher(Generic[T]):
    """`await value(text)` gives the outputs of `forward` for one text, as `prepare` encodes it. `close` ends the thread.

    A micro-batch has at most `budget` tokens, of which at most a share `padding` is none of a text's.
    """

    def __init__(self, prepare: Prepare[T], forward: Forward, budget: int, padding: float, name: str) -> None:
        self._prepare, self._forward, self._budget, self._padding = prepare, forward, budget, padding
        self._room = asyncio.Semaphore(WAITING)
        self._arriving: queue.SimpleQueue[_Waiting[T] | None] = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._work, name=f"reward {name}", daemon=True)
        self._thread.start()

    async def value(self, text: T) -> Values:
        async with self._room:
            loop = asyncio.get_running_loop()
            waiting = _Waiting(text, loop, loop.create_future())
            self._arriving.put(waiting)
            return await waiting.future

    async def close(self) -> None:
        """Returns when what is being computed is done; nobody waits for it any more."""
        self._arriving.put(None)
        await asyncio.to_thread(self._thread.join)

    def _work(self) -> None:
        by_length: list[_Waiting[T]] = []  # those that wait, the shortest first; of equal length the oldest first
        by_age: dict[int, _Waiting[T]] = {}
        while True:
            arrived = self._arrived(block=not by_length)
            if arrived is None:
                return
            for waiting in self._encoded(arrived):
                bisect.insort(by_length, waiting, key=_length)
                by_age[id(waiting)] = waiting
            if not by_length:
                continue
            lengths = [len(waiting.ids) for waiting in by_length]
            oldest = next(iter(by_age.values()))
            place = bisect.bisect_left(lengths, len(oldest.ids))
            while by_length[place] is not oldest:
                place += 1
            chosen = neighbours(lengths, place, self._budget, self._padding)
            batch = by_length[chosen]
            del by_length[chosen]
            for waiting in batch:
                del by_age[id(waiting)]
            self._compute([waiting for waiting in batch if not waiting.future.done()])

    def _encoded(self, arrived: list[_Waiting[T]]) -> Iterator[_Waiting[T]]:
        """Those that can be computed; the others are told why not."""
        wanted = [waiting for waiting in arrived if not waiting.future.done()]
        try:
            encoded = self._prepare([waiting.text for waiting in wanted]) if wanted else []
        except Exception as error:
            _settle(wanted, error)
            return
        for waiting, found in zip(wanted, encoded, strict=True):
            if isinstance(found, ScorerError):
                _settle([waiting], found)
            else:
                waiting.ids = found
                yield waiting

    def _arrived(self, *, block: bool) -> list[_Waiting[T]] | None:
        """What has come since the last time; None where the end has."""
        found: list[_Waiting[T]] = []
        while True:
            try:
                waiting = self._arriving.get(block=block and not found)
            except queue.Empty:
                return found
            if waiting is None:
                return None
            found.append(waiting)

    def _compute(self, batch: list[_Waiting[T]]) -> None:
        if not batch:
            return
        try:
            values = self._forward([waiting.ids for waiting in batch])
        except TooLarge as error:
            if len(batch) > 1:  # the budget was too high for this device: from now on a lower one
                self._budget = max(1, min(self._budget, len(batch) * len(batch[-1].ids)) // 2)
                self._compute(batch[: len(batch) // 2])
                self._compute(batch[len(batch) // 2 :])
                return
            _settle(batch, error)
        except Exception as error:
            _settle(batch, error)
        else:
            _settle(batch, values)


def _length(waiting: _Waiting[T]) -> int:
    return len(waiting.ids)


def _settle(batch: list[_Waiting[T]], outcome: Sequence[Values] | Exception) -> None:
    def tell() -> None:
        for place, waiting in enumerate(batch):
            if waiting.future.done():
                continue
            if isinstance(outcome, Exception):
                waiting.future.set_exception(outcome)
            else:
                waiting.future.set_result(outcome[place])

    try:
        batch[0].loop.call_soon_threadsafe(tell)
    except RuntimeError:  # the loop is closed: nobody waits any more
        pass
