"""Which records share a band's key, on disk: only those are ever compared."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, closing
from pathlib import Path

import numpy as np

from factory.duplicates.disk import Rows

_SORTED = 2**22  # keys sorted in memory at a time
_BLOCK = 2**18


class Buckets:
    """Built from the bands' keys (one `Rows` of N keys a band). A bucket is a key that two records or more have.

    `kept(place)` are the records in this one's buckets that were kept so far; `keep(place)` adds it to them. To be asked in
    the order of the places.
    """

    def __init__(self, bands: Sequence[Rows], scratch: Path, stack: ExitStack) -> None:
        def array(dtype: type) -> Rows:
            return stack.enter_context(closing(Rows(scratch, dtype)))

        total = len(bands[0])
        places, numbers, bucket_starts = array(np.int32), array(np.int32), array(np.int64)
        pieces = []
        for band in bands:
            for shared, lengths in _shared(band):
                starts = len(places) + np.cumsum(lengths) - lengths
                numbers.append(len(bucket_starts) + np.repeat(np.arange(len(lengths)), lengths))
                bucket_starts.append(starts)
                places.append(shared)
                pieces.append(len(places))
        self._starts = array(np.int64).writable(total + 1, 0)  # of each record's own buckets among `_own`
        self._own = array(np.int32).writable(len(places), 0)
        for low, high in zip([0, *pieces], pieces, strict=False):  # a piece names a record once at most
            self._starts[places.slice(low, high) + 1] += 1
        _accumulate(self._starts)
        for low, high in zip([0, *pieces], pieces, strict=False):
            which = places.slice(low, high)
            # Where the record's next bucket goes: kept, for now, as the end that moves on.
            self._own[self._starts[which]] = numbers.slice(low, high)
            self._starts[which] += 1
        # Every start has moved to its end now, which is the next one's start.
        for high in range(total, 0, -_BLOCK):
            low = max(0, high - _BLOCK)
            self._starts[low + 1 : high + 1] = self._starts[low:high].copy()
        self._starts[0] = 0
        self._first = bucket_starts
        self._members = array(np.int32).writable(len(places), 0)  # of a bucket: the kept ones, from its first place on
        self._counts = array(np.int32).writable(len(bucket_starts), 0)

    def kept(self, place: int) -> np.ndarray:
        """Places, each once, in order."""
        own = self._of(place)
        if not len(own):
            return own
        spans = zip(self._first.take(own).tolist(), self._counts[own].tolist(), strict=True)
        return np.unique(np.concatenate([self._members[start : start + count] for start, count in spans]))

    def keep(self, place: int) -> None:
        own = self._of(place)
        self._members[self._first.take(own) + self._counts[own]] = place
        self._counts[own] += 1

    def _of(self, place: int) -> np.ndarray:
        return self._own[self._starts[place] : self._starts[place + 1]]


def _shared(keys: Rows) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """The places whose key another has too, by key and then in order, and how many there are of each key."""
    parts = -(-len(keys) // _SORTED)
    for part in range(parts):
        found = []
        for start, block in keys.blocks(_BLOCK):
            which = np.nonzero(block % np.uint64(parts) == part)[0]
            found.append((which + start, block[which]))
        places, own = (np.concatenate(column) for column in zip(*found, strict=True))
        order = np.argsort(own, kind="stable")
        starts = np.flatnonzero(np.diff(own[order], prepend=~own[order[:1]]))
        lengths = np.diff(starts, append=len(own))
        yield places[order[np.repeat(lengths > 1, lengths)]].astype(np.int32), lengths[lengths > 1]


def _accumulate(counts: np.ndarray) -> None:
    """Running sums, in place."""
    before = 0
    for start in range(0, len(counts), _BLOCK):
        sums = before + np.cumsum(counts[start : start + _BLOCK])
        counts[start : start + _BLOCK] = sums
        before = int(sums[-1])
