"""A model that is stuck says the same again: in bytes, in lines, in runs of words."""

from __future__ import annotations

import zlib
from collections import Counter

from factory.rules.settings import RulesSettings
from factory.rules.subject import Finding, Subject

_LEAST_CHARS = 200  # below, deflating says little
_LEAST_LINES = 5
_LEAST_RUNS = 20


def compression(subject: Subject, bounds: RulesSettings) -> Finding | None:
    """Length over deflated length, in bytes."""
    if bounds.max_repetition is None or len(subject.text.strip()) <= _LEAST_CHARS:
        return None
    data = subject.text.encode(errors="surrogatepass")
    ratio = round(len(data) / len(zlib.compress(data)), 2)
    return Finding(ratio, "repetitive" if ratio > bounds.max_repetition else "")


def same_line(subject: Subject, bounds: RulesSettings) -> Finding | None:
    """The share of the most frequent line among those that say something (a closing bracket does not)."""
    if bounds.max_line_share is None:
        return None
    lines = [line.strip() for line in subject.text.splitlines() if any(sign.isalnum() for sign in line)]
    if len(lines) < _LEAST_LINES:
        return None
    share = round(max(Counter(lines).values()) / len(lines), 3)
    return Finding(share, "repeats a line" if share > bounds.max_line_share else "")


def ngrams(subject: Subject, bounds: RulesSettings) -> Finding | None:
    """The share of the runs of `ngram` words that were in the prose before (Gopher's filters are of this kind: Rae et
    al. 2021, appendix A.1.1)."""
    words, size = subject.words, bounds.ngram
    runs = len(words) - size + 1
    if bounds.max_ngram_share is None or runs < _LEAST_RUNS:
        return None
    different = len({tuple(words[place : place + size]) for place in range(runs)})
    share = round(1 - different / runs, 3)
    return Finding(share, "repeats phrases" if share > bounds.max_ngram_share else "")
