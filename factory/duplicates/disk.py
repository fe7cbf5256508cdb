"""Arrays and names on disk, in files without a name, so that a process that dies leaves none behind."""

from __future__ import annotations

import mmap
import os
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import DTypeLike

_TAKEN = 1024  # rows read before the pages around them (some 64 KiB each) are given back


class Duplicate(NamedTuple):
    """`id` is to be dropped, since it is like `of`, which stays: by Jaccard or cosine `similarity` (1 for the same text)."""

    id: str
    of: str
    similarity: float


class Rows:
    """A growing array on disk of rows of one shape; rows are read by their places.

    What was read is given back to the system from time to time, so that a process's memory does not become the file's size.
    """

    def __init__(self, scratch: Path, dtype: DTypeLike, width: int = 1) -> None:
        self.dtype, self.width = np.dtype(dtype), width
        self._file = tempfile.TemporaryFile(dir=scratch)  # noqa: SIM115 - closed by close
        self._length = 0
        self._map: mmap.mmap | None = None
        self._view: Any = None
        self._taken = 0

    def __len__(self) -> int:
        return self._length

    @property
    def _row(self) -> int:
        return self.dtype.itemsize * self.width

    def append(self, block: np.ndarray) -> None:
        """M rows, M x width or M. Not after the first read."""
        assert self._map is None, "written, then read"
        data = np.ascontiguousarray(block, self.dtype)
        self._file.write(data.tobytes())
        self._length += data.size // self.width

    def take(self, places: np.ndarray) -> np.ndarray:
        """The rows at `places` (M) as a copy, M x width (or M)."""
        view = self._opened()
        rows = np.empty((len(places), *view.shape[1:]), self.dtype)
        for start in range(0, len(places), _TAKEN):
            which = places[start : start + _TAKEN]
            rows[start : start + _TAKEN] = view[which]
            self._taken += len(which)
            if self._taken >= _TAKEN:
                self._release()
        return rows

    def blocks(self, size: int) -> Iterator[tuple[int, np.ndarray]]:
        """(place of the first row, rows) in order, `size` at a time."""
        for start in range(0, self._length, size):
            yield start, self.slice(start, start + size)

    def slice(self, start: int, end: int) -> np.ndarray:
        """Rows from `start` to `end`, as a copy; a read, so that no page stays mapped."""
        count = max(0, min(end, self._length) - start)
        self._file.flush()
        raw = bytearray(count * self._row)
        view, done = memoryview(raw), 0
        while done < len(raw):
            data = os.pread(self._file.fileno(), len(raw) - done, start * self._row + done)
            view[done : done + len(data)] = data
            done += len(data)
        rows = np.frombuffer(raw, self.dtype)
        return rows.reshape(count, self.width) if self.width > 1 else rows

    def writable(self, length: int, fill: int) -> np.ndarray:
        """The whole as an array to write to, `length` rows of `fill` to begin with. Kept by the system, not by the heap."""
        block = np.full(min(length, 2**16) * self.width, fill, self.dtype)
        for start in range(0, length, 2**16):
            self.append(block[: min(length - start, 2**16) * self.width])
        return np.asarray(self._opened())

    def close(self) -> None:
        self._view = None
        self._map = None  # closed with its last view
        self._file.close()

    def _opened(self) -> Any:
        if self._map is None:
            self._file.flush()
            if not self._length:
                return np.empty((0, self.width) if self.width > 1 else 0, self.dtype)
            self._map = mmap.mmap(self._file.fileno(), 0)
            rows = np.frombuffer(self._map, self.dtype)
            self._view = rows.reshape(-1, self.width) if self.width > 1 else rows
        return self._view

    def _release(self) -> None:
        self._taken = 0
        if self._map is not None and hasattr(mmap, "MADV_DONTNEED"):
            self._map.madvise(mmap.MADV_DONTNEED)


class Names:
    """Ids on disk, in order."""

    def __init__(self, scratch: Path) -> None:
        self._text = tempfile.TemporaryFile(dir=scratch)  # noqa: SIM115 - closed by close
        self._ends = Rows(scratch, np.uint64)
        self._end = 0

    def extend(self, names: Sequence[str]) -> None:
        ends = []
        for name in names:
            data = name.encode("utf-8", "surrogatepass")
            self._text.write(data)
            self._end += len(data)
            ends.append(self._end)
        self._ends.append(np.array(ends, np.uint64))

    def __len__(self) -> int:
        return len(self._ends)

    def __getitem__(self, place: int) -> str:
        self._text.flush()
        bounds = self._ends.slice(max(0, place - 1), place + 1)
        start, end = (0 if place == 0 else int(bounds[0])), int(bounds[-1])
        return os.pread(self._text.fileno(), end - start, start).decode("utf-8", "surrogatepass")

    def close(self) -> None:
        self._text.close()
        self._ends.close()


def batched(items: Iterable[Any], size: int) -> Iterator[list[Any]]:
    """Lists of `size`, the last one shorter."""
    batch: list[Any] = []
    for item in items:
        batch.append(item)
        if len(batch) == size:
            yield batch
            batch = []
    if batch:
        yield batch
