"""A pool that grows while items are made, and still is the same for each item on every run.

Items run side by side and finish in any order, so that "the pool as it is now" would differ from run to run, and a run that
was killed and goes on would end with other records. Here what an item sees depends on its number alone:

- An item hands in what it gives to the pool (`settle`), once and as early as it can. The pool takes it in in the order of
  the items; what comes early waits.
- `reach(n)` returns when every item before `n` has been taken in. A filter that compares with all that came before reaches
  its own number. That is the algorithm's own order and no barrier: an item waits for the first step of those before it,
  while others go on.
- A draw (`before`) sees what the first half of the items before it gave, and never the last `lag`: so it seldom waits, and
  never for an item that was begun just before.
- What was drawn is in the journal (`Context.draw`) before it is used. A run that goes on asks with the same demonstrations
  and finds the same answers, even if a filter that was changed since would let others into the pool.
- Items whose fate is final are not made again when a run goes on; `Remembers.remember` hands in what their records say they
  gave. Memory holds the pool, and what was handed in early (bounded by the pipeline's window).

An item that ends without having handed in anything gives nothing, unless the run is being stopped: then it may give
something when it goes on, so those who wait for it are stopped, too.
"""

from __future__ import annotations

import asyncio
import bisect
import contextlib
import heapq
from array import array
from collections.abc import Callable, Iterator, Sequence

from factory.errors import UserError

# A text of the pool and the id of the record that it is first found in.
Entry = tuple[str, str]


class GrowingPool:
    """Entries in the order of the items that gave them; `take` is told of each one's text when it is taken in."""

    def __init__(self, lag: int, take: Callable[[str], None]) -> None:
        self.lag, self._take = lag, take
        self.entries: list[Entry] = []
        self._givers = array("q")  # of each entry, the number of its item
        self.settled = 0  # items taken in
        self._ahead: dict[int, Sequence[Entry]] = {}
        self._waiting: list[tuple[int, int, asyncio.Future[None]]] = []
        self._asked = 0
        self._stopped: UserError | None = None

    def give(self, index: int, entry: Entry) -> None:
        """Item `index`, which has reached its own number, gives one entry now; `settle` ends its giving."""
        assert index == self.settled, f"item {index} gives while {self.settled} is at its turn"
        self.entries.append(entry)
        self._givers.append(index)
        self._take(entry[0])

    def settle(self, index: int, entries: Sequence[Entry] = ()) -> None:
        """Item `index` gives these and no more; what comes after that is ignored."""
        if index < self.settled or index in self._ahead:
            return
        self._ahead[index] = entries
        while self.settled in self._ahead:
            for entry in self._ahead.pop(self.settled):
                self.give(self.settled, entry)
            self.settled += 1
            while self._waiting and self._waiting[0][0] <= self.settled:
                future = heapq.heappop(self._waiting)[2]
                if not future.done():
                    future.set_result(None)

    async def reach(self, index: int) -> None:
        """Returns when every item before `index` has been taken in. Raises what stopped one of them."""
        if self._stopped is not None:
            raise self._stopped
        if index <= self.settled:
            return
        future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._asked += 1
        heapq.heappush(self._waiting, (index, self._asked, future))
        await future

    def before(self, index: int) -> int:
        """The first item that a draw of item `index` does not see."""
        return max(0, index - max(self.lag, index // 2))

    def seen(self, index: int) -> int:
        """How many entries, the first ones, a draw of item `index` sees. Reach `before(index)` first."""
        return bisect.bisect_left(self._givers, self.before(index))

    @contextlib.contextmanager
    def turn(self, index: int) -> Iterator[None]:
        """Around an item's work: whatever it ends with, nobody waits for it in vain."""
        try:
            yield
        except UserError as error:
            self._stop(error)
            raise
        except Exception:
            self.settle(index)
            raise
        else:
            self.settle(index)

    def _stop(self, error: UserError) -> None:
        self._stopped = self._stopped or error
        for *_, future in self._waiting:
            if not future.done():
                future.set_exception(self._stopped)
        self._waiting.clear()
