"""How varied a round's data are, and how scores and lengths drift: one pass over its Parquet files, in bounded memory.

- distinct-n: the share of n-grams of words that are different (Li et al. 2016, "A Diversity-Promoting Objective Function",
  section 5.2). It falls with the number of words, so it is told for the first so many words of the kept answers: rounds are
  compared at the same number.
- compression ratio: bytes of the kept answers over their deflated bytes; higher is more repetitive (Shaib et al. 2024,
  "Standardizing the Measurement of Text Diversity", section 3).
"""

from __future__ import annotations

import contextlib
import hashlib
import re
import sqlite3
import zlib
from array import array
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import orjson

from factory.errors import UserError
from factory.outputs import write_json

Row = Mapping[str, Any]
BUDGETS = (100, 300, 1_000, 3_000, 10_000, 30_000, 100_000, 300_000)  # words
_VERSION = 1  # of what is measured: another one makes what is stored worthless
# Words, single characters where a script has no spaces, and signs.
_WORDS = re.compile(r"[\u3040-\u30ff\u3400-\u9fff\uac00-\ud7af]|[^\W\u3040-\u30ff\u3400-\u9fff\uac00-\ud7af]+|[^\w\s]")
_BITS = 20  # of a word's number, so that three fit in one integer
_MOST_SCORES = 100


def round_diversity(folder: Path, cache: Path) -> dict[str, Any] | None:
    """What `measure` says of the run in `folder`, kept in `cache` while its manifest is the same; None without a run."""
    try:
        manifest = (folder / "manifest.json").read_bytes()
    except OSError:
        return None
    digest = hashlib.blake2b(manifest, digest_size=16, salt=bytes([_VERSION])).hexdigest()
    with contextlib.suppress(OSError, ValueError, KeyError, TypeError):  # a cut-off cache is made again
        known: dict[str, Any] = orjson.loads(cache.read_bytes())
        if known["manifest"] == digest:
            return known
    found = {"manifest": digest, **measure(folder)}
    write_json(cache, found)
    return found


def measure(folder: Path) -> dict[str, Any]:
    """One pass over the kept records of a run and the others. Raises `UserError` where the files cannot be read."""
    import pyarrow

    tally = _Tally()
    try:
        for name in ("data", "rejected"):  # a run writes both, empty ones too
            if not (folder / name).is_dir():
                raise UserError(f"{folder / name} is not there, so the round's data cannot be told")
            for path in sorted((folder / name).glob("*.parquet")):
                for turns, scores in _rows(path):
                    tally.add(turns, scores, kept=name == "data")
    except (OSError, pyarrow.ArrowException) as error:
        raise UserError(f"{folder}: its records cannot be read: {error}") from error
    return tally.found()


def _rows(path: Path) -> Iterator[tuple[Sequence[Mapping[str, str]], Mapping[str, float]]]:
    """Messages and score values of each record, a row group at a time."""
    import pyarrow.parquet

    with pyarrow.parquet.ParquetFile(path) as file:
        columns = [name for name in ("messages", "scores") if name in file.schema_arrow.names]
        for batch in file.iter_batches(batch_size=1000, columns=columns):
            scores: dict[str, list[float | None]] = {}
            if "scores" in columns:
                whole = batch.column("scores")
                for place, field_ in enumerate(whole.type):
                    scores[field_.name] = whole.field(place).field("value").to_pylist()
            for row, turns in enumerate(batch.column("messages").to_pylist()):
                there = {name: value for name, values in scores.items() if (value := values[row]) is not None}
                yield turns or (), there


@dataclass
class _Mean:
    count: int = 0
    total: float = 0.0

    def add(self, value: float) -> None:
        self.count += 1
        self.total += value

    @property
    def value(self) -> float | None:
        return self.total / self.count if self.count else None


@dataclass
class _Scores:
    """A score over all records that have it, and over the kept ones."""

    all: _Mean = field(default_factory=_Mean)
    kept: _Mean = field(default_factory=_Mean)


class _Tally:
    def __init__(self) -> None:
        self.records = self.kept = 0
        self.length, self.kept_length = _Mean(), _Mean()
        self.scores: dict[str, _Scores] = {}
        self.grams, self.bytes = _Grams(), _Deflated()
        self.pairs = _Pairs()

    def add(self, turns: Sequence[Mapping[str, str]], scores: Mapping[str, float], *, kept: bool) -> None:
        self.records += 1
        self.kept += kept
        for name, value in scores.items():
            if name in self.scores or len(self.scores) < _MOST_SCORES:
                own = self.scores.setdefault(name, _Scores())
                own.all.add(value)
                if kept:
                    own.kept.add(value)
        answer = next((turn["content"] for turn in reversed(turns) if turn["role"] == "assistant"), None)
        if answer is None:
            return
        prompt = next((turn["content"] for turn in turns if turn["role"] == "user"), "")
        self.pairs.add(prompt, answer, kept)
        self.length.add(len(answer))
        if kept:
            self.kept_length.add(len(answer))
            self.grams.add(answer)
            self.bytes.add(answer)

    def found(self) -> dict[str, Any]:
        return {
            "records": self.records,
            "kept": self.kept,
            "kept_share": self.kept / self.records if self.records else None,
            **self.pairs.found(),
            "words": self.grams.words,
            "distinct": self.grams.found(),
            "compression_ratio": self.bytes.ratio(),
            "length": {"all": self.length.value, "kept": self.kept_length.value},
            "scores": {
                name: {"all": scores.all.value, "records": scores.all.count, "kept": scores.kept.value}
                for name, scores in sorted(self.scores.items())
            },
        }


class _Pairs:
    """Different prompts, and different answers to each, in a temporary file of SQLite's own."""

    def __init__(self) -> None:
        self.store = sqlite3.connect("")
        self.store.execute(
            "CREATE TABLE pairs (prompt BLOB, answer BLOB, times INT, kept INT, PRIMARY KEY (prompt, answer)) WITHOUT ROWID"
        )

    def add(self, prompt: str, answer: str, kept: bool) -> None:
        self.store.execute(
            "INSERT INTO pairs VALUES (?,?,1,?) ON CONFLICT DO UPDATE SET times=times+1, kept=kept+excluded.kept",
            (_digest(prompt), _digest(answer), int(kept)),
        )

    def found(self) -> dict[str, Any]:
        """Of all answers and of the kept ones: how many prompts, answers, and different answers a prompt."""
        found: dict[str, Any] = {"prompts": {}, "answers_per_prompt": {}, "distinct_per_prompt": {}}
        for name, where in (("all", ""), ("kept", "WHERE kept>0")):
            count = "times" if name == "all" else "kept"
            prompts, different, answers = self.store.execute(
                f"SELECT count(DISTINCT prompt), count(*), ifnull(sum({count}),0) FROM pairs {where}"
            ).fetchone()
            found["prompts"][name] = prompts
            found["answers_per_prompt"][name] = answers / prompts if prompts else None
            found["distinct_per_prompt"][name] = different / prompts if prompts else None
        self.store.close()
        return found


def _digest(text: str) -> bytes:
    return hashlib.blake2b(text.encode(errors="surrogatepass"), digest_size=12).digest()


class _Deflated:
    """Bytes before and after deflating, with the window of 32 KB that gzip has."""

    def __init__(self) -> None:
        self.deflate, self.plain, self.packed = zlib.compressobj(9), 0, 0

    def add(self, text: str) -> None:
        data = text.encode(errors="surrogatepass") + b"\n"
        self.plain += len(data)
        self.packed += len(self.deflate.compress(data))

    def ratio(self) -> float | None:
        self.packed += len(self.deflate.flush())
        return self.plain / self.packed if self.plain else None


class _Grams:
    """The first words of a stream of answers as numbers; n-grams never go from one answer into the next."""

    def __init__(self) -> None:
        self.numbers: dict[str, int] = {}
        self.stream, self.starts = array("q"), array("q")  # each word's number, and the place where its answer begins
        self.words = 0

    def add(self, text: str) -> None:
        room = BUDGETS[-1] - len(self.stream)
        start = len(self.stream)
        for found in _WORDS.finditer(text):
            self.words += 1
            if room > 0:
                word = found[0].lower()[:200]
                self.stream.append(self.numbers.setdefault(word, len(self.numbers)))
                self.starts.append(start)
                room -= 1

    def found(self) -> dict[str, dict[str, float]]:
        """By number of words, the shares of different 1-, 2- and 3-grams among the first so many."""
        stream, starts = (np.frombuffer(column, dtype=np.int64) for column in (self.stream, self.starts))
        budgets = [*(budget for budget in BUDGETS if budget <= len(stream))]
        return {str(budget): dict(_distinct(stream[:budget], starts[:budget])) for budget in budgets}


def _distinct(stream: Any, starts: Any) -> Iterator[tuple[str, float]]:
    for n in (1, 2, 3):
        grams = np.zeros(max(len(stream) - n + 1, 0), dtype=np.int64)
        for place in range(n):
            grams = (grams << _BITS) | stream[place : place + len(grams)]
        inside = starts[: len(grams)] == starts[n - 1 :]
        grams = grams[inside]
        if len(grams):
            yield str(n), len(np.unique(grams)) / len(grams)


# ---- reading it


def by_round(diversity: Sequence[Row]) -> dict[int, list[Row]]:
    found: dict[int, list[Row]] = {}
    for one in diversity:
        found.setdefault(one["round"], []).append(one)
    return found


def reading(*path: str) -> Callable[[Row], float | None]:
    """Reads what lies there in a round's numbers, or None."""

    def read(one: Row) -> float | None:
        found: Any = one
        for key in path:
            found = found.get(key) if isinstance(found, Mapping) else None
        return None if found is None else float(found)

    return read


def mean_of(rows: Sequence[Row], read: Callable[[Row], float | None]) -> float | None:
    values = [value for row in rows if (value := read(row)) is not None]
    return sum(values) / len(values) if values else None
