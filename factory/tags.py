"""Tags that a model wrote freely, brought to few names over a whole data set (InsTag: Lu et al. 2023, section 3.2).

A model names one intention in many ways. Four steps, each deterministic: rules of spelling; rare tags are dropped; tags that
mean nearly the same are merged, by clusters of their embeddings; tags that always occur together become one.

    mapping, report = normalise_data_set(lambda: (row["tags"] for row in rows()), embedder, TagSettings())
    tags = renamed(row["tags"], mapping)

What is in memory grows with the number of different tags, not with the number of records.
"""

from __future__ import annotations

import re
import unicodedata
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import islice
from typing import Any

import numpy as np
from pydantic import Field

from factory.embedding import Embedder
from factory.errors import ConfigError
from factory.records import Frozen

_BLOCK = 2048  # texts embedded at once
_MIB = 64  # of distances at once
_MOST_LETTERS = 80  # a longer tag is a sentence, and no tag

# "c++", "c#", ".net", "node.js": signs that are part of a name are kept.
_NAME = re.compile(r"\.?[^+#.\s]+(?:\.[^+#.\s]+)*[+#]*")
# Words that end like a plural and are none, beside those in -ics, -ss, -us and -is.
_SINGULAR = frozenset(
    ("news", "series", "species", "lens", "always", "perhaps", "css", "aws", "ios", "js", "sas", "dos", "gps", "corps", "https", "dns",
     "tls", "sms", "alias", "atlas", "bias", "canvas", "chaos", "gas", "christmas", "texas", "kansas", "wales", "paris")
)  # fmt: skip


class TagSettings(Frozen):
    """Defaults are the paper's (20 occurrences; DBSCAN at a cosine distance of 0.05; 40 occurrences together, 0.99)."""

    min_count: int = Field(20, ge=1)  # a rarer tag is dropped
    eps: float = Field(0.05, ge=0, lt=1)  # cosine distance within which tags are one; 0: no clusters
    min_support: int = Field(40, ge=1)  # of occurrences together
    confidence: float = Field(0.99, gt=0.5, le=1)  # the share of either one's occurrences that is together


@dataclass
class TagReport:
    """How many different tags each step left; `merged` holds the largest groups, each name with what it stands for."""

    written: int = 0
    spelt: int = 0
    frequent: int = 0
    distinct: int = 0
    associated: int = 0
    merged: list[tuple[str, list[str]]] = field(default_factory=list)

    def as_json(self) -> dict[str, Any]:
        return {**vars(self), "merged": dict(self.merged)}


def normalise_tags(
    counts: Mapping[str, int], embedder: Embedder | None, settings: TagSettings
) -> dict[str, str | None]:
    """Each tag as it was written, and the name that stands for it; None where it is too rare (or no tag at all).

    `counts` says how often each occurs. Without an embedder nothing is merged by meaning.
    """
    spelt: Counter[str] = Counter()
    names = {tag: spelling(tag) for tag in counts}
    for tag, name in names.items():
        spelt[name] += counts[tag]
    frequent = sorted(name for name, count in spelt.items() if name and count >= settings.min_count)
    standing = _by_meaning(frequent, spelt, embedder, settings.eps) if embedder and settings.eps else {}
    kept = {name: standing.get(name, name) for name in frequent}
    return {tag: kept.get(name) for tag, name in names.items()}


def normalise_data_set(
    read: Callable[[], Iterable[Sequence[str]]], embedder: Embedder | None, settings: TagSettings
) -> tuple[dict[str, str | None], TagReport]:
    """The mapping for a data set, associations among it. `read` gives each record's tags, anew for each of three passes."""
    written: Counter[str] = Counter()
    for tags in read():
        written.update(set(tags))
    mapping = normalise_tags(written, embedder, settings)
    names = {name for name in mapping.values() if name is not None}
    together = associated(lambda: (renamed(tags, mapping) for tags in read()), settings)
    final = {tag: None if name is None else together.get(name, name) for tag, name in mapping.items()}
    spelt: Counter[str] = Counter()
    for tag, count in written.items():
        spelt[spelling(tag)] += count
    report = TagReport(
        written=len(written),
        spelt=len(spelt),
        frequent=sum(bool(name) and count >= settings.min_count for name, count in spelt.items()),
        distinct=len(names),
        associated=len({name for name in final.values() if name is not None}),
        merged=_largest(final),
    )
    return final, report


def renamed(tags: Sequence[str], mapping: Mapping[str, str | None]) -> list[str]:
    """A record's tags by their final names, each once, in their order. A tag that the mapping does not know is dropped."""
    return list(dict.fromkeys(name for tag in tags if (name := mapping.get(tag)) is not None))


# ---- spelling


def spelling(tag: str) -> str:
    """Lower case, words parted by single blanks, in the singular; empty where nothing is left or it is no tag."""
    plain = unicodedata.normalize("NFKC", tag).lower().replace("&", " and ")
    letters = "".join(sign if sign in "+#." or unicodedata.category(sign)[0] in "LMN" else " " for sign in plain)
    name = " ".join(singular(word) for word in _NAME.findall(letters))
    return name if len(name) <= _MOST_LETTERS else ""


def singular(word: str) -> str:
    """An English noun's singular by its ending; other words as they are."""
    if len(word) <= 3 or word in _SINGULAR or not word.isascii() or not word.isalpha():
        return word
    if word.endswith("ies"):
        return word[:-3] + "y" if len(word) > 4 else word[:-1]
    if word.endswith(("sses", "shes", "ches", "xes", "zzes")):
        return word[:-2]
    if word.endswith("s") and not word.endswith(("ss", "us", "is", "ics", "ous")):
        return word[:-1]
    return word


# ---- meaning


def _by_meaning(names: Sequence[str], counts: Mapping[str, int], embedder: Embedder, eps: float) -> dict[str, str]:
    """Of each cluster the most frequent name stands for all of them."""
    if len(names) < 2:
        return {}
    try:
        import sklearn
        from sklearn.cluster import DBSCAN
    except ImportError as error:
        raise ConfigError(
            'tags are merged by scikit-learn, which is missing: pip install "synthesis-factory[select]"'
        ) from error
    blocks = iter(names)
    vectors = [embedder.encode(block) for block in iter(lambda: list(islice(blocks, _BLOCK)), [])]
    with sklearn.config_context(working_memory=_MIB):
        # Every tag is a core point: clusters are what steps of at most eps connect.
        labels = DBSCAN(eps=eps, min_samples=1, metric="cosine", algorithm="brute").fit(np.concatenate(vectors)).labels_
    groups: dict[int, list[str]] = {}
    for name, label in zip(names, labels, strict=True):
        groups.setdefault(int(label), []).append(name)
    return {name: _foremost(group, counts) for group in groups.values() for name in group}


def _foremost(names: Iterable[str], counts: Mapping[str, int]) -> str:
    return min(names, key=lambda name: (-counts[name], len(name), name))


# ---- associations


def associated(read: Callable[[], Iterable[Sequence[str]]], settings: TagSettings) -> dict[str, str]:
    """Tags that always occur together, each with the name that stands for them: `min_support` records hold both, and of
    either one's records a share of `confidence`. Tags that stand for themselves are left out.

    `read` gives each record's tags, anew for each of two passes. A tag that missed more of another one's records than the
    confidence allows is forgotten, so few pairs are ever held; the result is exact all the same.
    """
    counts: Counter[str] = Counter()
    for tags in read():
        counts.update(set(tags))
    wanted = {name for name, count in counts.items() if count >= settings.min_support}
    misses_allowed = {name: count - _share(count, settings.confidence) for name, count in counts.items()}
    seen: Counter[str] = Counter()
    together: dict[str, Counter[str]] = {name: Counter() for name in wanted}
    for tags in read():
        here = wanted.intersection(tags)
        for name in here:
            pairs, allowed, before = together[name], misses_allowed[name], seen[name]
            seen[name] += 1
            for other in here:
                # One that is met for the first time has missed all the records before.
                if other != name and (other in pairs or before <= allowed):
                    pairs[other] += 1
            if len(pairs) > 2 * len(here):
                together[name] = Counter({other: n for other, n in pairs.items() if seen[name] - n <= allowed})
    return _joined(together, counts, settings)


def _share(count: int, confidence: float) -> int:
    """The least whole number that is `confidence` of `count`."""
    return int(np.ceil(count * confidence - 1e-9))


def _joined(together: Mapping[str, Counter[str]], counts: Mapping[str, int], settings: TagSettings) -> dict[str, str]:
    groups = {name: {name} for name in together}

    def holds(name: str, other: str) -> bool:
        both = together[name][other]
        return both >= settings.min_support and both >= _share(counts[name], settings.confidence)

    for name in sorted(together):
        for other in sorted(together[name]):
            if name < other and holds(name, other) and holds(other, name) and groups[name] is not groups[other]:
                joint = groups[name] | groups[other]
                for member in joint:
                    groups[member] = joint
    foremost = {name: _foremost(group, counts) for name, group in groups.items() if len(group) > 1}
    return {name: stands for name, stands in foremost.items() if name != stands}


def _largest(mapping: Mapping[str, str | None], most: int = 20) -> list[tuple[str, list[str]]]:
    groups: dict[str, list[str]] = {}
    for tag, name in mapping.items():
        if name is not None and tag != name:
            groups.setdefault(name, []).append(tag)
    largest = sorted(groups.items(), key=lambda entry: (-len(entry[1]), entry[0]))[:most]
    return [(name, sorted(tags)) for name, tags in largest]
