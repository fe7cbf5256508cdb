"""One pass over an export's Parquet files, in bounded memory: everything that its report shows, as numbers."""

from __future__ import annotations

import hashlib
import heapq
import itertools
import math
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import orjson

from factory.errors import UserError
from factory.report.measures import Histogram

Row = Mapping[str, Any]
Turn = Mapping[str, str]
PAIRS = 2_000  # pairs whose margin and lengths are set against each other
DUPLICATES = 24  # shown side by side, over all kinds
_SOURCES = 4  # who decided about pairs, told apart
_SCORES, _TEXT = 60, 1_600  # scores told apart; characters shown of a duplicate's text
_BATCH, _LISTED = 500, 20_000  # rows read at once; duplicates that are looked at


@dataclass
class Pairs:
    """What lies between better and worse answers, where one kind of source decided: rewards of different ones differ in scale.

    `sample` holds (mark, length difference, margin).
    """

    margins: Histogram = field(default_factory=Histogram)
    sample: list[tuple[int, float, float]] = field(default_factory=list)

    def add(self, name: str, margin: float, difference: int) -> None:
        self.margins.add(margin, True)
        if math.isfinite(margin):
            mark = int.from_bytes(hashlib.blake2b(name.encode(), digest_size=7).digest(), "big")
            heapq.heappush(self.sample, (-mark, float(difference), margin))
            if len(self.sample) > PAIRS:
                heapq.heappop(self.sample)

    def points(self) -> list[tuple[float, float, bool]]:
        """(length difference, margin, whether the better answer is longer), in an order that is always the same."""
        return [(difference, margin, difference > 0) for _, difference, margin in sorted(self.sample)]


@dataclass
class Exported:
    """What an export folder holds. `scores` are, for pairs, those of the better (kept) and the worse (lost) answers."""

    format: str
    scores: dict[str, Histogram] = field(default_factory=dict)
    pairs: dict[str, Pairs] = field(default_factory=dict)  # by who decided
    lengths: Histogram = field(default_factory=Histogram)  # kept: the better answer is the longer one
    longer: int = 0
    shorter: int = 0
    answers: Histogram = field(default_factory=Histogram)  # how many a prompt has, of rankings
    duplicates: list[dict[str, Any]] = field(default_factory=list)
    kinds: Counter[str] = field(default_factory=Counter)
    texts: dict[str, str] = field(default_factory=dict)

    def add(self, row: Row, written: bool) -> None:
        self._keep_text(row)
        if self.format == "sft":
            self._score(row.get("scores"), written)
        elif written and self.format == "preference":
            self._score(row.get("chosen_scores"), True)
            self._score(row.get("rejected_scores"), False)
            margin = (row.get("chosen_reward") or 0.0) - (row.get("rejected_reward") or 0.0)
            self._pair(row, margin, row.get("chosen") or (), row.get("rejected") or ())
        elif written:
            self._ranking(row)

    def _ranking(self, row: Row) -> None:
        """Of a prompt's answers, in the order that is written (the best first), the best against the worst."""
        responses, rewards = row.get("responses") or [], row.get("rewards") or row.get("ranks") or []
        self.answers.add(len(responses), True)
        if len(responses) > 1 and len(rewards) == len(responses):
            self._pair(row, abs(rewards[0] - rewards[-1]), responses[0], responses[-1])

    def _pair(self, row: Row, margin: float, better: Sequence[Turn], worse: Sequence[Turn]) -> None:
        difference, source = _length(better) - _length(worse), str(row.get("source") or "unknown")[:60]
        self.longer, self.shorter = self.longer + (difference > 0), self.shorter + (difference < 0)
        self.lengths.add(difference, difference > 0)
        known = source if source in self.pairs or len(self.pairs) < _SOURCES else "others"
        self.pairs.setdefault(known, Pairs()).add(str(row["id"]), margin, difference)

    def _score(self, scores: Mapping[str, float | None] | None, kept: bool) -> None:
        for name, value in (scores or {}).items():
            if value is not None and (name in self.scores or len(self.scores) < _SCORES):
                self.scores.setdefault(name, Histogram()).add(value, kept)

    def _keep_text(self, row: Row) -> None:
        for key, answer in (("id", "chosen"), ("chosen_id", "chosen"), ("rejected_id", "rejected")):
            if row.get(key) in self.texts and not self.texts[row[key]]:
                turns = row.get("messages") or [*(row.get("prompt") or ()), *(row.get(answer) or ())]
                told = "\n\n".join(f"{turn['role']}: {turn['content']}" for turn in turns)
                self.texts[row[key]] = told if len(told) <= _TEXT else told[:_TEXT] + "…"


def _length(turns: Sequence[Turn]) -> int:
    return len(turns[-1]["content"]) if turns else 0


def collect_export(folder: Path, manifest: Mapping[str, Any]) -> Exported:
    """Read the rows of an export once. Raises `UserError` where a file cannot be read."""
    found = Exported(str(manifest.get("format")))
    found.duplicates, found.kinds = load_duplicates(folder)
    found.texts = {one[key]: "" for one in found.duplicates for key in ("id", "kept")}
    for row, written in rows(folder):
        found.add(row, written)
    return found


def rows(folder: Path) -> Iterator[tuple[Row, bool]]:
    """Every row, with whether it is of the data (else of what was left out). Raises `UserError` for a damaged file."""
    import pyarrow
    import pyarrow.parquet

    data = [
        *sorted(folder.glob("*.parquet")),
        *sorted(folder.glob("train/*.parquet")),
        *sorted(folder.glob("held_out/*.parquet")),
    ]
    for path, written in [
        *((path, True) for path in data),
        *((path, False) for path in sorted(folder.glob("rejected/*.parquet"))),
    ]:
        try:
            with pyarrow.parquet.ParquetFile(path) as file:
                for batch in file.iter_batches(_BATCH):
                    yield from ((row, written) for row in batch.to_pylist())
        except (OSError, pyarrow.ArrowException) as error:
            raise UserError(f"cannot read {path}: {error}. The `export` command writes it anew.") from error


def load_duplicates(folder: Path) -> tuple[list[dict[str, Any]], Counter[str]]:
    """Of `duplicates.jsonl` those that are shown, of each kind from the least alike to the most; and how many it lists."""
    path, kinds = folder / "duplicates.jsonl", dict[str, list[dict[str, Any]]]()
    if not path.is_file():
        return [], Counter()
    try:
        with path.open("rb") as lines:
            for line in itertools.islice(lines, _LISTED):
                one = orjson.loads(line)
                row = {"id": str(one["id"]), "kept": str(one["kept"]), "similarity": float(one["similarity"])}
                kind = str(one["kind"])
                kinds.setdefault(kind, []).append(row | {"kind": kind})
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UserError(f"cannot read {path}: {error}. The `export` command writes it anew.") from error
    shown = list[dict[str, Any]]()
    for found in kinds.values():
        ranked = sorted(found, key=lambda one: (one["similarity"], one["id"]))
        most = max(1, DUPLICATES // len(kinds))
        shown += [ranked[place * len(ranked) // most] for place in range(most)] if len(ranked) > most else ranked
    return shown, Counter({kind: len(found) for kind, found in kinds.items()})


def statistics_by_run(manifest: Mapping[str, Any]) -> Iterator[tuple[str, Mapping[str, float]]]:
    """The rule's statistics of each run that has any."""
    found = manifest.get("statistics")
    for run, values in found.items() if isinstance(found, Mapping) else ():
        if values:
            yield str(run), values
