"""Is a text new to a pool of texts? ROUGE-L (Self-Instruct: Wang et al. 2023, arXiv:2212.10560, section 3.1) or BM25 (BELLE, for
Chinese), with an inverted index, so that the cost of a check grows slowly with the pool.

The verdict is that of a comparison with every text of the pool, exactly. The index only leaves out texts that a bound
shows to be unlike enough; what is left is computed in full:

- ROUGE-L: F = 2 LCS / (m + n) for m and n tokens. LCS is at most the number of shared tokens, and at most n. So F > t needs
  more than t m / (2 - t) shared tokens, whatever n is: a like text holds at least one of the m - that + 1 rarest tokens, and
  only these tokens' lists are looked at (the prefix filter of set-similarity joins, Chaudhuri et al. 2006). A token's second
  occurrence counts as a token of its own.
- BM25: a term adds at most idf (k1 + 1) f / (f + k1 (1 - b)) for the largest f that any text has. Terms whose bounds together
  stay within the threshold cannot decide (MaxScore: Turtle and Flood 1995), so that only the lists of the others are read.
"""

from __future__ import annotations

import math
import re
from array import array
from collections import Counter
from collections.abc import Sequence
from typing import Protocol

import numpy as np

K1, B = 1.5, 0.75  # BM25's usual constants
_SLACK = 1e-6  # sums in another order differ by less


class Novelty(Protocol):
    """A pool of texts. `like` is the place of one that a new text is too like, None where there is none."""

    def add(self, text: str) -> None: ...

    def like(self, text: str) -> int | None: ...


def words(text: str) -> list[str]:
    """Tokens of ROUGE: runs of letters and digits, in lower case."""
    return re.findall(r"[^\W_]+", text.lower())


def bigrams(text: str) -> list[str]:
    """Terms of Chinese: every two neighbouring characters, and words of other scripts whole. No dictionary decides."""
    terms: list[str] = []
    for run in re.findall(r"[\u3400-\u9fff]+|[^\W_\u3400-\u9fff]+", text.lower()):
        terms += [run[at : at + 2] for at in range(max(1, len(run) - 1))] if "\u3400" <= run[0] <= "\u9fff" else [run]
    return terms


def rouge_l(one: Sequence[object], other: Sequence[object]) -> float:
    """F-measure of the longest common subsequence of two token sequences; 0 where either is empty."""
    return 2 * lcs(one, other) / (len(one) + len(other)) if one and other else 0.0


def lcs(one: Sequence[object], other: Sequence[object]) -> int:
    """Length of the longest common subsequence, a machine word at a time (Hyyrö 2004)."""
    where: dict[object, int] = {}
    for place, token in enumerate(one):
        where[token] = where.get(token, 0) | 1 << place
    whole = (1 << len(one)) - 1
    state = whole
    for token in other:
        matched = state & where.get(token, 0)
        state = ((state + matched) | (state - matched)) & whole
    return len(one) - state.bit_count()


class RougeNovelty:
    """Too like: ROUGE-L above `threshold` with a text of the pool."""

    def __init__(self, threshold: float) -> None:
        self.threshold = threshold
        self._numbers: dict[tuple[str, int], int] = {}  # token and which occurrence of it -> number
        self._lists: list[array[int]] = []  # by number: the texts that hold it
        self._texts: list[array[int]] = []  # tokens without their occurrence, for the subsequence
        self._plain: dict[str, int] = {}
        self._lengths = array("I")

    def _tokens(self, text: str) -> tuple[list[str], list[tuple[str, int]]]:
        plain, seen = words(text), Counter[str]()
        numbered = []
        for token in plain:
            seen[token] += 1
            numbered.append((token, seen[token]))
        return plain, numbered

    def add(self, text: str) -> None:
        plain, numbered = self._tokens(text)
        place = len(self._texts)
        for token in numbered:
            number = self._numbers.setdefault(token, len(self._lists))
            if number == len(self._lists):
                self._lists.append(array("I"))
            self._lists[number].append(place)
        self._texts.append(array("I", [self._plain.setdefault(token, len(self._plain)) for token in plain]))
        self._lengths.append(len(plain))

    def like(self, text: str) -> int | None:
        plain, numbered = self._tokens(text)
        size, threshold = len(plain), self.threshold
        # The fewest shared tokens that can exceed the threshold; where even all of them cannot, nothing is like.
        needed = math.floor(threshold * size / (2 - threshold)) + 1 if threshold >= 0 else 0
        needed = max(1, needed - 1)  # one to spare for rounding
        if not size or needed > size:
            return None
        known = [self._numbers.get(token) for token in numbered]
        lists = sorted((self._lists[number] for number in known if number is not None), key=len)
        unseen = size - len(lists)  # tokens that no text holds are the rarest
        rarest = lists[: max(0, size - needed + 1 - unseen)]
        if not rarest:
            return None
        found, shared = np.unique(
            np.concatenate([np.frombuffer(each, np.uint32) for each in rarest]), return_counts=True
        )
        lengths = np.frombuffer(self._lengths, np.uint32)[found]
        # Shared tokens are those counted here and at most all that were not looked at.
        bound = np.minimum(np.minimum(shared + (len(lists) - len(rarest)), lengths), size)
        likely = found[2 * bound > threshold * (lengths + size) - _SLACK]
        own = [self._plain.get(token, -1) for token in plain]
        for place in likely:
            if rouge_l(own, self._texts[place]) > threshold:
                return int(place)
        return None


class Bm25Novelty:
    """Too like: a BM25 score above `threshold` against a text of the pool, with the pool's own statistics."""

    def __init__(self, threshold: float) -> None:
        self.threshold = threshold
        self._numbers: dict[str, int] = {}  # of the terms
        self._lists: list[tuple[array[int], array[int]]] = []  # by number: texts that hold it, how often each does
        self._most = array("I")  # by number: how often it occurs in one text at most
        self._texts: list[array[int]] = []  # the numbers of each text's terms
        self._lengths = array("I")
        self._total = 0

    def add(self, text: str) -> None:
        terms = [self._numbers.setdefault(term, len(self._numbers)) for term in bigrams(text)]
        while len(self._lists) < len(self._numbers):
            self._lists.append((array("I"), array("I")))
            self._most.append(0)
        for number, count in Counter(terms).items():
            places, counted = self._lists[number]
            places.append(len(self._texts))
            counted.append(count)
            self._most[number] = max(self._most[number], count)
        self._texts.append(array("I", terms))
        self._lengths.append(len(terms))
        self._total += len(terms)

    def idf(self, term: str) -> float:
        number = self._numbers.get(term)
        holding = 0 if number is None else len(self._lists[number][0])
        return math.log(1 + (len(self._texts) - holding + 0.5) / (holding + 0.5))

    def score(self, terms: Sequence[str], place: int) -> float:
        """BM25 of a query's terms, each as often as it occurs, against one text."""
        norm = K1 * (1 - B + B * self._lengths[place] * len(self._texts) / max(self._total, 1))
        score = 0.0
        for term in terms:
            count = self._texts[place].count(self._numbers[term]) if term in self._numbers else 0
            score += self.idf(term) * count * (K1 + 1) / (count + norm) if count else 0.0
        return score

    def like(self, text: str) -> int | None:
        terms = bigrams(text)
        asked = Counter(term for term in terms if term in self._numbers)
        worth = {term: times * self.idf(term) * (K1 + 1) for term, times in asked.items()}
        most = {term: self._most[self._numbers[term]] for term in asked}
        bounds = {term: value * most[term] / (most[term] + K1 * (1 - B)) for term, value in worth.items()}
        # The terms of most weight first; what is left after each can lift no text by more than `rest`.
        rest, scores, likely = sum(bounds.values()), np.zeros(len(self._texts)), None
        for term in sorted(bounds, key=bounds.__getitem__, reverse=True):
            if likely is None and rest <= self.threshold - _SLACK:
                # A text that holds none of the terms so far stays below the threshold: only those seen can be like.
                likely = np.flatnonzero(scores > self.threshold - rest - _SLACK)
            if likely is not None and not len(likely):
                return None
            places, counted = (np.frombuffer(each, np.uint32) for each in self._lists[self._numbers[term]])
            lengths = np.frombuffer(self._lengths, np.uint32)[places]
            norm = K1 * (1 - B + B * lengths * (len(self._texts) / self._total))
            scores[places] += worth[term] * counted / (counted + norm)
            rest -= bounds[term]
            if likely is not None:
                likely = likely[scores[likely] > self.threshold - rest - _SLACK]
        for place in np.flatnonzero(scores > self.threshold - _SLACK) if likely is None else likely:
            if self.score(terms, int(place)) > self.threshold:
                return int(place)
        return None
