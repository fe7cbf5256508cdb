"""Nearly the same meaning: cosine of embeddings (SemDeDup: Abbas et al. 2023, arXiv:2303.09540; Deita: Liu et al. 2024,
arXiv:2312.15685, section 2.4, whose bound is 0.9), greedily in the caller's order.

One pass over the vectors in blocks. A block is compared with what stays of the blocks before it, then with itself by halves:
the second half with what stays of the first, then each half likewise. The smallest pieces are compared whole; everything
larger goes by clusters (`clusters.py`), and so does not grow with the square of the number of vectors. Sets up to `whole`
are compared whole all the way: nothing is missed there.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Literal

import numpy as np
from pydantic import Field

from factory.duplicates.clusters import Clusters, find_clusters
from factory.duplicates.disk import Duplicate, Names, Rows, batched
from factory.embedding import Embedder
from factory.errors import ConfigError
from factory.records import Frozen

_ENCODED = 2048  # texts embedded at a time
_LEAF = 2048  # rows that are compared with each other whole
_SIDE = 4096  # rows of either side of a product at a time
_SEEN = 64  # vectors a cluster is found from
_GONE = -1  # in place of the home of one that goes
_ROUNDING = 1e-6  # a copy has a cosine of 1 but for this


class SemanticSettings(Frozen):
    """`bound`: the cosine from which two are the same. `clusters`: null for twice the square root of the number of vectors.
    `recall`: the share of the pairs at the bound that may be counted on to be compared. `block`: vectors in memory at a
    time. `whole`: sets up to this size need no clusters.
    `precision` of the vectors on disk; float16 takes half of the room, more time, and moves a cosine by some 0.00003."""

    bound: float = Field(0.9, gt=0, le=1)
    clusters: int | None = Field(None, ge=1)
    recall: float = Field(0.995, gt=0, lt=1)
    block: int = Field(32768, ge=16)
    whole: int = Field(16384, ge=0)
    precision: Literal["float16", "float32"] = "float32"
    seed: int = 0


class Vectors:
    """(id, vector) pairs on disk, in order of preference. Close it, or use it as a context manager's `closing`."""

    def __init__(self, scratch: Path, dimensions: int, settings: SemanticSettings) -> None:
        self.names = Names(scratch)
        self.rows = Rows(scratch, settings.precision, dimensions)

    def extend(self, names: list[str], vectors: np.ndarray) -> None:
        """N ids and their N x D vectors of unit norm."""
        self.names.extend(names)
        self.rows.append(vectors)

    def close(self) -> None:
        self.names.close()
        self.rows.close()


def semantic(
    rows: Iterable[tuple[str, str]], embedder: Embedder, settings: SemanticSettings, scratch: Path
) -> Iterator[Duplicate]:
    """The (id, text) to be dropped, best first in, with the one that stays and their cosine. See `semantic_vectors`."""
    with closing(Vectors(scratch, embedder.dimensions, settings)) as vectors:
        for batch in batched(rows, _ENCODED):
            vectors.extend([name for name, _ in batch], embedder.encode([text for _, text in batch]))
        yield from semantic_vectors(vectors, settings, scratch)


def semantic_vectors(vectors: Vectors, settings: SemanticSettings, scratch: Path) -> Iterator[Duplicate]:
    """The same for vectors, in their order. Equal for equal settings (on one machine: another may round otherwise).

    Raises `ConfigError` where clusters are needed and scikit-learn is not installed.
    """
    clusters = None if len(vectors.rows) <= settings.whole else _clusters(vectors.rows, settings)
    with closing(Rows(scratch, np.int32)) as kept:
        homes = kept.writable(len(vectors.rows), _GONE)
        for start, raw in vectors.rows.blocks(settings.block):
            block = _Block(_unit(raw, vectors.rows.width), start, clusters, settings.bound)
            block.compare_with_earlier(vectors.rows, homes[:start])
            block.compare_within(0, len(raw))
            homes[start : start + len(raw)] = np.where(block.like < 0, block.homes, _GONE)
            for row in np.nonzero(block.like >= 0)[0]:
                name, of = vectors.names[start + int(row)], vectors.names[int(block.like[row])]
                yield Duplicate(name, of, min(1.0, float(block.similarity[row])))


class _Block:
    """B vectors in memory, and what was found of each so far: `like` is the place of what it is like, -1 for nothing."""

    def __init__(self, vectors: np.ndarray, start: int, clusters: Clusters | None, bound: float) -> None:
        self.vectors, self.start, self.bound = vectors, start, bound - _ROUNDING
        if clusters is None:
            rows = np.arange(len(vectors), dtype=np.int32)
            self.homes, self.cluster, self.row = np.zeros_like(rows), np.zeros_like(rows), rows
        else:
            self.homes, self.cluster, self.row = clusters.assign(vectors)
        self.like = np.full(len(vectors), -1, np.int64)
        self.similarity = np.zeros(len(vectors), np.float32)

    def compare_with_earlier(self, rows: Rows, homes: np.ndarray) -> None:
        """All of the block with what stays of the rows before it; `homes` says of each where it lies, or that it goes."""
        places = np.nonzero(homes != _GONE)[0]
        places = places[np.argsort(homes[places], kind="stable")]
        self._compare(self.cluster, self.row, homes[places], places, lambda which: _unit(rows.take(which), rows.width))

    def compare_within(self, low: int, high: int) -> None:
        """Rows `low` to `high` with each other: the first half, the second with what stays of it, the second half."""
        if high - low <= _LEAF:
            self._compare_all(low, high)
            return
        middle = (low + high) // 2
        self.compare_within(low, middle)
        stay = low + np.nonzero(self.like[low:middle] < 0)[0]
        stay = stay[np.argsort(self.homes[stay], kind="stable")]
        asked = (self.row >= middle) & (self.row < high) & (self.like[self.row] < 0)
        places = stay + self.start
        self._compare(
            self.cluster[asked],
            self.row[asked],
            self.homes[stay],
            places,
            lambda which: self.vectors[which - self.start],
        )
        self.compare_within(middle, high)

    def _compare_all(self, low: int, high: int) -> None:
        rows = low + np.nonzero(self.like[low:high] < 0)[0]
        near = np.triu(self.vectors[rows] @ self.vectors[rows].T, 1)
        hit = near >= self.bound
        for one in np.nonzero(hit.any(1))[0]:
            if self.like[rows[one]] < 0:
                others = np.nonzero(hit[one] & (self.like[rows] < 0))[0]
                self.like[rows[others]] = self.start + rows[one]
                self.similarity[rows[others]] = near[one, others]

    def _compare(
        self,
        cluster: np.ndarray,
        row: np.ndarray,
        homes: np.ndarray,
        places: np.ndarray,
        fetch: Callable[[np.ndarray], np.ndarray],
    ) -> None:
        """Each row with the kept vectors of the clusters that it asks for. Both tables are sorted by cluster."""
        for number in np.intersect1d(cluster, homes):
            asking = row[np.searchsorted(cluster, number) : np.searchsorted(cluster, number, side="right")]
            asked = places[np.searchsorted(homes, number) : np.searchsorted(homes, number, side="right")]
            for first in range(0, len(asked), _SIDE):
                targets = asked[first : first + _SIDE]
                vectors = fetch(targets)
                for some in range(0, len(asking), _SIDE):
                    self._note(asking[some : some + _SIDE], targets, vectors)

    def _note(self, rows: np.ndarray, places: np.ndarray, vectors: np.ndarray) -> None:
        """The nearest of `vectors` to each of `rows`, where it is nearer than what was found, and near enough."""
        near = self.vectors[rows] @ vectors.T
        best = near.argmax(1)
        values = near[np.arange(len(rows)), best]
        better = (values >= self.bound) & (values > self.similarity[rows])
        self.like[rows[better]] = places[best[better]]
        self.similarity[rows[better]] = values[better]


def _clusters(rows: Rows, settings: SemanticSettings) -> Clusters:
    """Found on some of the rows, drawn from all of them, and measured on others."""
    count = min(settings.clusters or round(2 * len(rows) ** 0.5), len(rows) // 2)
    draw = np.random.default_rng(settings.seed)
    batch = max(_SIDE, 2 * count)

    def drawn(size: int) -> np.ndarray:
        return _unit(rows.take(np.sort(draw.integers(0, len(rows), size))), rows.width)

    try:
        found = find_clusters((drawn(batch) for _ in range(-(-_SEEN * count // batch))), count, settings.seed)
    except ImportError as error:
        raise ConfigError(
            'semantic duplicates: need the extra "select": pip install "synthesis-factory[select]"'
        ) from error
    return found.measured(drawn(settings.block), settings.bound, settings.recall, settings.seed)


def _unit(raw: np.ndarray, width: int) -> np.ndarray:
    """Rows as float32; those that were float16 to length 1 again."""
    vectors = raw.reshape(-1, width)
    if vectors.dtype == np.float32:
        return vectors
    vectors = vectors.astype(np.float32)
    return np.asarray(vectors / np.linalg.norm(vectors, axis=1, keepdims=True))
