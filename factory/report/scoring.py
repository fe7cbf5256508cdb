"""What the scores of a run say about the scorers, gathered in one pass and in bounded memory."""

from __future__ import annotations

import hashlib
import heapq
import itertools
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field

from factory.records import Record, Score
from factory.report.agreement import Estimate, krippendorff, weighted_kappa
from factory.report.ranking import Ranking, comparisons, members, told_by

SAMPLE = 2_000  # records whose scores are compared with each other
_KINDS, _SCORERS = 1_000, 40  # of what a panel says, and of scorers, told apart
ERRORS = ("rubbish", "refusal", "token limit", "engine", "other")


@dataclass(frozen=True, slots=True)
class Row:
    """One record's scores; those of one `group` (a seed item, or answers to one prompt) depend on each other.

    `told` names, by score, the verifiers whose word is part of it.
    """

    group: int
    kept: bool
    values: Mapping[str, float]
    told: Mapping[str, frozenset[str]] = field(default_factory=dict)

    def independent(self, first: str, second: str) -> bool:
        """Whether it has both scores, and neither holds the other's word."""
        both = first in self.values and second in self.values
        return both and second not in self.told.get(first, ()) and first not in self.told.get(second, ())


class Table:
    """The scores of at most `most` records: whole seed items and groups, those with the lowest hashes, the same ones every time."""

    def __init__(self, most: int = SAMPLE) -> None:
        self.most, self.size = most, 0
        self._heap: list[tuple[int, int, list[Row]]] = []
        self._bound, self._open = 1 << 64, list[Row]()
        self._seed = self._cluster = -1
        self._group: object = None

    def add(self, seed_index: int, record: Record) -> None:
        group = record.meta.get("group")
        if seed_index != self._seed and (group is None or group != self._group or not self._open):
            self._close()
            self._cluster = seed_index
        self._seed, self._group = seed_index, group
        if record.scores and len(self._open) < self.most:
            told = {name: found for name, one in record.scores.items() if (found := told_by(one))}
            values = {name: one.value for name, one in record.scores.items()}
            self._open.append(Row(self._cluster, record.kept, values, told))

    def _close(self) -> None:
        rows, self._open = self._open, []
        mark = int.from_bytes(hashlib.blake2b(b"%d" % self._cluster, digest_size=8).digest(), "big")
        if not rows or mark >= self._bound:
            return
        heapq.heappush(self._heap, (-mark, self._cluster, rows))
        self.size += len(rows)
        while self.size > self.most and len(self._heap) > 1:
            highest, _, gone = heapq.heappop(self._heap)
            self._bound, self.size = -highest, self.size - len(gone)

    def rows(self) -> list[Row]:
        self._close()
        return [row for _, _, rows in sorted(self._heap, key=lambda entry: entry[1]) for row in rows]


@dataclass
class Panel:
    """What several judges said of the same records: how often each grades were given together."""

    units: Counter[tuple[float, ...]] = field(default_factory=Counter)
    pairs: dict[tuple[str, str], Counter[tuple[float, float]]] = field(default_factory=dict)
    grades: dict[str, list[float]] = field(default_factory=dict)  # by judge: (how many, their sum)
    missed: int = 0  # records beyond what is told apart

    def add(self, said: Mapping[str, float]) -> None:
        unit = tuple(sorted(said.values()))
        if unit not in self.units and len(self.units) >= _KINDS:
            self.missed += 1
            return
        self.units[unit] += 1
        for name, grade in said.items():
            entry = self.grades.setdefault(name, [0, 0.0])
            entry[0], entry[1] = entry[0] + 1, entry[1] + grade
        for first, second in itertools.combinations(sorted(said), 2):
            if (first, second) in self.pairs or len(self.pairs) < _SCORERS:
                self.pairs.setdefault((first, second), Counter())[said[first], said[second]] += 1

    def alpha(self) -> Estimate:
        return krippendorff(self.units)

    def kappas(self) -> dict[tuple[str, str], tuple[float, float, int]]:
        """(quadratically weighted kappa, share of the very same grade, records) of each two judges."""
        return {
            pair: (weighted_kappa(counts), sum(n for (a, b), n in counts.items() if a == b) / total, total)
            for pair, counts in self.pairs.items()
            if (total := sum(counts.values()))
        }


@dataclass
class Scoring:
    """`said` counts, for `pairwise`, what was answered in the two orders (a pair's own order is arbitrary)."""

    table: Table = field(default_factory=Table)
    ranking: Ranking = field(default_factory=Ranking)
    panels: dict[str, Panel] = field(default_factory=dict)
    said: Counter[tuple[str, str]] = field(default_factory=Counter)
    errors: dict[str, Counter[str]] = field(default_factory=dict)
    scored: Counter[str] = field(default_factory=Counter)
    records: int = 0
    _seed: int = -1
    _open: list[Record] = field(default_factory=list)

    def add(self, seed_index: int, record: Record) -> None:
        """Records come in the order of the seeds."""
        self.table.add(seed_index, record)
        self.ranking.add(seed_index, record)
        self.records += bool(record.scores)
        for name, score in record.scores.items():
            self._note(name, score)
        self._failed(record.meta.get("score_errors"))
        if "pairwise" in record.scores:
            if seed_index != self._seed:
                self._compared()
                self._seed = seed_index
            self._open.append(record)

    def _note(self, name: str, score: Score) -> None:
        if name in self.scored or len(self.scored) < _SCORERS:
            self.scored[name] += 1
        parts = score.detail.get("errors")  # of a panel, some of whose judges said nothing
        self._failed({f"{name} (in part)": why for why in parts.values()} if isinstance(parts, Mapping) else None)
        if "panel" in score.detail and (name in self.panels or len(self.panels) < 4):
            said = dict(members(score.detail))
            if len(said) > 1:
                self.panels.setdefault(name, Panel()).add(said)

    def _failed(self, said: object) -> None:
        for name, reason in said.items() if isinstance(said, Mapping) else ():
            if name in self.errors or len(self.errors) < _SCORERS:
                self.errors.setdefault(str(name), Counter())[error_kind(str(reason))] += 1

    def _compared(self) -> None:
        self.said.update(said for _, _, said in comparisons(self._open))
        self._open = []

    def finish(self) -> None:
        """Nothing more comes."""
        self._compared()


_SIGNS = {  # in what a scorer said; the first that is there decides
    "engine": ("engine:",),
    "token limit": ("token limit", "max_tokens"),
    "refusal": ("refused to judge", "the judge refused", "it refused"),
    "rubbish": ("json", "is not one of", "is not of type", "required property", "the answer", "no grade of", "line '"),
}


def error_kind(reason: str) -> str:
    """One of `ERRORS`: what kept a scorer from saying anything."""
    text = reason.lower()
    return next((kind for kind, signs in _SIGNS.items() if any(sign in text for sign in signs)), "other")
