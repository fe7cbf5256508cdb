"""Nearly the same words: Jaccard similarity of the sets of word n-grams, candidates by MinHash (Broder 1997) and banding (Leskovec,
Rajaraman, Ullman: Mining of Massive Datasets, section 3.4), each candidate verified on the sets themselves.

With r rows a band and b bands a pair of similarity s shares a band with probability 1 - (1 - s^r)^b. Rows a band are as many
as still find 99.9% of the pairs at the bound. The bands' keys are sorted band by band; what shares no key with anything is
done with then. The rest is gone through in order of preference, each compared with those in its buckets that stay.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator
from contextlib import ExitStack, closing
from pathlib import Path

import numpy as np
from numpy.typing import DTypeLike
from pydantic import Field

from factory.duplicates.buckets import Buckets
from factory.duplicates.disk import Duplicate, Names, Rows, batched
from factory.errors import ConfigError
from factory.generators.novelty import bigrams
from factory.records import Frozen

_BATCH = 4096  # texts at a time
_FOUND = 0.999  # of the pairs at the bound


class MinHashSettings(Frozen):
    """`bound`: the Jaccard similarity from which two are the same; `ngram`: words (or pairs of Chinese characters) a shingle."""

    bound: float = Field(0.7, gt=0.1, le=1)
    ngram: int = Field(3, ge=1)
    permutations: int = Field(128, ge=16, le=1024)
    seed: int = 1


def minhash(rows: Iterable[tuple[str, str]], settings: MinHashSettings, scratch: Path) -> Iterator[Duplicate]:
    """The (id, text) to be dropped, best first in, with the one that stays and their Jaccard similarity.

    Raises `ConfigError` where datasketch is not installed.
    """
    with ExitStack() as stack:
        index = _Index(settings, scratch, stack)
        for batch in batched(rows, _BATCH):
            index.add(batch)
        yield from index.duplicates()


def rows_per_band(permutations: int, bound: float) -> int:
    """The most rows that let a pair at the bound share one of the `permutations // rows` bands in 99.9% of the cases."""
    fitting = [r for r in range(1, permutations + 1) if 1 - (1 - bound**r) ** (permutations // r) >= _FOUND]
    return max(fitting, default=1)


def shingles(text: str, ngram: int) -> np.ndarray:
    """The set of the text's word n-grams as sorted 64-bit hashes; a shorter text is one shingle."""
    words = bigrams(text)
    grams = {" ".join(words[at : at + ngram]) for at in range(max(1, len(words) - ngram + 1))}
    hashes = [hashlib.blake2b(gram.encode("utf-8", "surrogatepass"), digest_size=8).digest() for gram in grams]
    return np.sort(np.frombuffer(b"".join(hashes), np.uint64))


class _Index:
    """Everything on disk, in order: ids, shingles with their ends, and the keys of each band."""

    def __init__(self, settings: MinHashSettings, scratch: Path, stack: ExitStack) -> None:
        try:
            from datasketch import MinHash
        except ImportError as error:
            raise ConfigError(
                'MinHash duplicates: need the extra "select": pip install "synthesis-factory[select]"'
            ) from error
        self.settings = settings
        self._scratch, self._stack = scratch, stack
        self._rows = rows_per_band(settings.permutations, settings.bound)
        # Shingles are hashed already; datasketch permutes 32 bits of that.
        self._signature = MinHash(settings.permutations, seed=settings.seed, hashfunc=int)
        self.names = stack.enter_context(closing(Names(scratch)))
        self._shingles = self._array(np.uint64)
        self._ends = self._array(np.int64)
        self._ends.append(np.zeros(1, np.int64))
        self._bands = [self._array(np.uint64) for _ in range(settings.permutations // self._rows)]

    def _array(self, dtype: DTypeLike) -> Rows:
        return self._stack.enter_context(closing(Rows(self._scratch, dtype)))

    def add(self, batch: list[tuple[str, str]]) -> None:
        sets = [shingles(text, self.settings.ngram) for _, text in batch]
        self.names.extend([name for name, _ in batch])
        self._ends.append(len(self._shingles) + np.cumsum([len(one) for one in sets]))
        self._shingles.append(np.concatenate(sets))
        signatures = np.empty((len(batch), self.settings.permutations), np.uint64)
        for place, one in enumerate(sets):
            self._signature.clear()
            self._signature.update_batch((one & np.uint64(0xFFFFFFFF)).tolist())
            signatures[place] = self._signature.hashvalues
        for number, band in enumerate(self._bands):
            band.append(_keys(signatures[:, number * self._rows : (number + 1) * self._rows]))

    def duplicates(self) -> Iterator[Duplicate]:
        """Each record that shares a bucket, in order, with the kept ones of its buckets."""
        if not len(self.names):
            return
        buckets = Buckets(self._bands, self._scratch, self._stack)
        for place in range(len(self.names)):
            found = self._nearest(place, buckets.kept(place))
            if found is None:
                buckets.keep(place)
            else:
                yield Duplicate(self.names[place], self.names[found[0]], found[1])

    def _nearest(self, place: int, others: np.ndarray) -> tuple[int, float] | None:
        """The most similar of the others, where it is similar enough; the first one of several."""
        if not len(others):
            return None
        own = self._set(place)
        similar = np.array([_jaccard(own, self._set(int(other))) for other in others])
        best = int(similar.argmax())
        return (int(others[best]), float(similar[best])) if similar[best] >= self.settings.bound else None

    def _set(self, place: int) -> np.ndarray:
        low, high = self._ends.take(np.array([place, place + 1])).tolist()
        return self._shingles.take(np.arange(low, high))


def _jaccard(one: np.ndarray, other: np.ndarray) -> float:
    """Of two sorted sets."""
    small, large = sorted((one, other), key=len)
    shared = int((large[np.minimum(np.searchsorted(large, small), len(large) - 1)] == small).sum())
    return shared / (len(one) + len(other) - shared)


def _keys(signatures: np.ndarray) -> np.ndarray:
    """N x r values to N keys: a polynomial in an odd number, its bits mixed. A chance collision costs a comparison."""
    keys = np.zeros(len(signatures), np.uint64)
    for column in signatures.T:
        keys = (keys + column) * np.uint64(0x9E3779B97F4A7C15)
        keys ^= keys >> np.uint64(29)
    return keys
