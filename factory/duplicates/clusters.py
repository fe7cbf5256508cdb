"""Which clusters a vector must be compared with, so that near ones are found though they lie in another cluster.

Centroids come from MiniBatchKMeans on some of the vectors, scaled to length 1; a vector's home is the nearest one. Let a vector y at the
bound from x have its home in c, and x in h. y is beyond the plane between the two, so x cannot be far from it: its distance
(x.h - x.c) / |h - c| stays below some `reach` in all but few cases. The reach is measured, not guessed: for vectors that
the centroids have not seen, y are made that lie at the bound exactly, in directions in which the data really differ (differences of two members
of a cluster), and the reach is the one that finds `recall` of them and then some.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import numpy as np

_PROBES = 4096  # made pairs that the reach is measured on
_CELLS = 2**22  # similarities of rows with all centroids in memory at a time
_SPARED = 0.25  # of the pairs that may be missed: what was made is not quite what comes


class Clusters:
    """K centroids of length 1 (K x D) and the reach around each plane between two of them."""

    def __init__(self, centroids: np.ndarray, reach: float) -> None:
        self.centroids, self.reach = centroids, reach
        self._products = centroids @ centroids.T

    def assign(self, vectors: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Homes (N), and what to compare with as two columns sorted by cluster: (cluster, row of `vectors`)."""
        homes, clusters, rows = [], [], []
        for start, near in self._near(vectors):
            home = near.argmax(1)
            row, cluster = np.nonzero(self._distances(near, home) <= self.reach)
            homes.append(home)
            clusters.append(cluster.astype(np.int32))
            rows.append((row + start).astype(np.int32))
        cluster, row = np.concatenate(clusters), np.concatenate(rows)
        order = np.argsort(cluster, kind="stable")
        return np.concatenate(homes).astype(np.int32), cluster[order], row[order]

    def _near(self, vectors: np.ndarray) -> Iterator[tuple[int, np.ndarray]]:
        """Cosines with all centroids (rows x K), some rows at a time."""
        step = max(1, _CELLS // len(self.centroids))
        for start in range(0, len(vectors), step):
            yield start, vectors[start : start + step] @ self.centroids.T

    def _distances(self, near: np.ndarray, home: np.ndarray) -> np.ndarray:
        """N x K: how far each row is from the plane between its home and each cluster; 0 for its home."""
        apart = np.sqrt(np.maximum(2 - 2 * self._products, 1e-12)).astype(np.float32)
        gap = near[np.arange(len(near)), home][:, None] - near
        return np.asarray(gap / apart[home])

    def measured(self, sample: np.ndarray, bound: float, recall: float, seed: int) -> Clusters:
        """The same centroids with a reach that finds `recall` of the pairs at `bound`."""
        draw = np.random.default_rng(seed)
        homes = np.concatenate([near.argmax(1) for _, near in self._near(sample)])
        x, y = pairs_at(sample, homes, bound, draw)
        needed = []
        for start, near in self._near(x):
            other = (y[start : start + len(near)] @ self.centroids.T).argmax(1)
            needed.append(self._distances(near, near.argmax(1))[np.arange(len(near)), other])
        return Clusters(self.centroids, float(np.quantile(np.concatenate(needed), 1 - (1 - recall) * _SPARED)))


def find_clusters(batches: Iterable[np.ndarray], count: int, seed: int) -> Clusters:
    """K-means over batches of vectors (M x D, unit norm; the first one of `count` or more), with no reach yet."""
    from sklearn.cluster import MiniBatchKMeans

    # Any spread of centroids will do to begin with, and k-means++ would take longer than all that follows.
    means = MiniBatchKMeans(count, init="random", n_init=1, random_state=seed, compute_labels=False)
    for batch in batches:
        means.partial_fit(batch)
    centroids = means.cluster_centers_.astype(np.float32)
    lengths = np.linalg.norm(centroids, axis=1, keepdims=True)
    kept = centroids[lengths[:, 0] > 1e-6] / lengths[lengths[:, 0] > 1e-6]
    return Clusters(np.unique(kept, axis=0), 0.0)


def pairs_at(
    sample: np.ndarray, homes: np.ndarray, bound: float, draw: np.random.Generator
) -> tuple[np.ndarray, np.ndarray]:
    """Some x of the sample, and for each a y of length 1 with x.y = bound, away from x as two members of its cluster are
    from each other (any two vectors, where the cluster has one member)."""
    rows = draw.permutation(len(sample))[: min(_PROBES, len(sample))]
    order = np.argsort(homes, kind="stable")
    starts = np.searchsorted(homes[order], homes[rows])
    sizes = np.searchsorted(homes[order], homes[rows], side="right") - starts
    one = order[starts + draw.integers(0, sizes)]
    two = order[starts + draw.integers(0, sizes)]
    alone = np.einsum("nd,nd->n", sample[one], sample[two]) > 1 - 1e-4
    two[alone] = draw.integers(0, len(sample), int(alone.sum()))
    x, way = sample[rows], sample[one] - sample[two]
    way = way - np.einsum("nd,nd->n", way, x)[:, None] * x
    lengths = np.linalg.norm(way, axis=1, keepdims=True)
    fine = lengths[:, 0] > 1e-4
    x, way = x[fine], way[fine] / lengths[fine]
    return x, bound * x + np.sqrt(1 - bound**2) * way
