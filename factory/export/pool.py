"""The candidates of an export on their way through its steps, on disk: memory does not grow with their number.

A temporary SQLite file holds small facts (`items`) apart from contents, so that a step touches the former only. An item
is a record, or a row that was made of records (a pair, a ranking). A step loses items, each with a reason; the funnel
counts what came in, what went out and why the rest did not.
"""

from __future__ import annotations

import contextlib
import sqlite3
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import orjson

Scores = dict[str, Sequence[Any]]  # value, and the scorer's reason
REASONS = 200  # told apart in the funnel; the rest are summed up
_OTHERS = "other reasons"
_USED = "used"  # the step of a record that is in a row now: neither lost nor written
RECORD, ROW = "records", "rows"


@dataclass(slots=True)
class Item:
    """What the steps need to know of a candidate.

    `prompt` is the key of its prompt (equal prompts, equal keys), `rival` of what other answers it may be compared
    with, `mark` what its generator knows an equal record by, `part` its part of the mixture. `place` orders: the highest
    first. `errors` holds the scores it could not get, with what was said.
    """

    n: int
    unit: str
    id: str
    run: int
    task: str
    prompt: bytes
    rival: bytes | None = None
    kept: bool = False
    own_reason: str = ""
    scores: bytes = b"{}"
    errors: bytes | None = None
    mark: str | None = None
    part: str | None = None
    tokens: int = 0
    verified: float | None = None
    reward: float | None = None
    place: float | None = None

    def scored(self) -> Scores:
        found: Scores = orjson.loads(self.scores)
        return found


_COLUMNS = [field.name for field in fields(Item)]
_NAMES = ", ".join(_COLUMNS)
_SCHEMA = """
CREATE TABLE items (n INTEGER PRIMARY KEY, unit TEXT, id TEXT, run INTEGER, task TEXT, prompt BLOB, rival BLOB, kept INTEGER,
  own_reason TEXT, scores BLOB, errors BLOB, mark TEXT, part TEXT, tokens INTEGER, verified REAL, reward REAL, place REAL,
  step TEXT, why TEXT, held_out INTEGER DEFAULT 0, copies INTEGER DEFAULT 1);
CREATE TABLE contents (n INTEGER PRIMARY KEY, data BLOB);
CREATE TABLE lost (n INTEGER PRIMARY KEY, why TEXT);
CREATE TABLE seen (key BLOB PRIMARY KEY) WITHOUT ROWID;
CREATE TABLE twins (n INTEGER PRIMARY KEY, twin INTEGER, similarity REAL, kind TEXT);
CREATE TABLE alike (n INTEGER PRIMARY KEY, first INTEGER);
CREATE TABLE texts (key BLOB PRIMARY KEY, n INTEGER) WITHOUT ROWID;
"""
# Best first; ids are hashes, so that equals come in an order that nothing but their content decides.
BEST_FIRST = "place DESC NULLS LAST, id, run, n"


class Pool:
    """A temporary database in `folder`. Use as a context."""

    def __init__(self, folder: Path) -> None:
        self.path = folder / "pool.db"
        self.path.unlink(missing_ok=True)
        self.db = sqlite3.connect(self.path, isolation_level=None)
        # Nothing of it outlives this process, so nothing is written twice.
        for pragma in ("journal_mode=OFF", "synchronous=OFF", "locking_mode=EXCLUSIVE", "cache_size=-32000"):
            self.db.execute(f"PRAGMA {pragma}")
        self.db.executescript(_SCHEMA)
        self.db.execute("BEGIN")
        self.unit = RECORD
        self.funnel: list[dict[str, Any]] = []
        self._count = 0

    def __enter__(self) -> Pool:
        return self

    def __exit__(self, *exc: object) -> None:
        with contextlib.suppress(sqlite3.Error):
            self.db.close()
        self.path.unlink(missing_ok=True)

    # ---- filling

    def add_all(self, items: Iterable[tuple[Item, bytes]]) -> None:
        """Their `n` are given here, in order."""
        marks = ",".join("?" * len(_COLUMNS))
        insert, content = f"INSERT INTO items ({_NAMES}) VALUES ({marks})", "INSERT INTO contents VALUES (?,?)"
        for batch in _batches(items, 2000):
            rows, contents = [], []
            for item, data in batch:
                self._count += 1
                item.n = self._count
                rows.append([getattr(item, name) for name in _COLUMNS])
                contents.append((item.n, data))
            self.db.executemany(insert, rows)
            self.db.executemany(content, contents)

    def new(self, key: bytes) -> bool:
        """Whether this key was not seen before; it was then."""
        return self.db.execute("INSERT OR IGNORE INTO seen VALUES (?)", (key,)).rowcount > 0

    def knows(self, key: bytes) -> bool:
        return self.db.execute("SELECT 1 FROM seen WHERE key=?", (key,)).fetchone() is not None

    # ---- reading

    def left(self, order: str = "n", where: str = "1", contents: bool = False) -> Iterator[tuple[Item, bytes]]:
        """The items that no step has lost so far, with their contents where those are asked for."""
        source = "items JOIN contents USING (n)" if contents else "items"
        data = "contents.data" if contents else "x''"
        names = ", ".join(f"items.{name}" for name in _COLUMNS)
        query = f"SELECT {names}, {data} FROM {source} WHERE step IS NULL AND unit=? AND ({where}) ORDER BY {order}"
        for row in self.db.execute(query, (self.unit,)):
            yield Item(*row[:-1]), row[-1]

    def count(self) -> int:
        found: int = self.db.execute(
            "SELECT count(*) FROM items WHERE step IS NULL AND unit=?", (self.unit,)
        ).fetchone()[0]
        return found

    def one(self, query: str, *values: Any) -> Any:
        """The first column of the first row."""
        row = self.db.execute(query, values).fetchone()
        return None if row is None else row[0]

    # ---- steps

    def step(self, name: str, losses: Iterable[tuple[int, str]], **facts: Any) -> None:
        """Lose items, each with its reason. `facts` are kept in the funnel beside the counts."""
        before = self.count()
        self._gather(losses)
        self._lose(name, before, facts)

    def assemble(self, name: str, found: Iterable[tuple[Item, bytes] | tuple[int, str]]) -> None:
        """From records to rows. `found` holds rows, and records that are in none, with the reason; the others are used up."""
        before = self.count()
        self.db.execute("DELETE FROM lost")
        for batch in _batches(found, 2000):
            self.add_all(entry for entry in batch if isinstance(entry[0], Item))
            losses = [entry for entry in batch if not isinstance(entry[0], Item)]
            self.db.executemany("INSERT INTO lost VALUES (?,?)", losses)
        self._lose(name, before, {})
        self.db.execute("UPDATE items SET step=? WHERE step IS NULL AND unit=?", (_USED, RECORD))
        self.unit = ROW

    def mark(self, losses: Iterable[tuple[int, str]]) -> None:
        """Note which items were not kept and why, and lose none: what failed is still an answer to compare with."""
        self._gather(losses)
        self.db.execute(
            "UPDATE items SET kept=n NOT IN (SELECT n FROM lost), own_reason=ifnull((SELECT why FROM lost WHERE "
            "lost.n=items.n), '') WHERE step IS NULL AND unit=?",
            (self.unit,),
        )

    def fill(self, column: str, values: Iterable[tuple[int, float | int | None]]) -> None:
        """Set one column of some items."""
        self.db.execute("CREATE TABLE IF NOT EXISTS filling (n INTEGER PRIMARY KEY, value)")
        self.db.execute("DELETE FROM filling")
        for batch in _batches(values, 5000):
            self.db.executemany("INSERT INTO filling VALUES (?,?)", batch)
        self.db.execute(
            f"UPDATE items SET {column}=(SELECT value FROM filling WHERE filling.n=items.n) "
            "WHERE n IN (SELECT n FROM filling)"
        )

    def rewrite(self, changed: Iterable[tuple[int, bytes, bytes]]) -> None:
        """Give some items other contents and scores."""
        self.db.execute("CREATE TABLE rewritten (n INTEGER PRIMARY KEY, data BLOB, scores BLOB)")
        for batch in _batches(changed, 2000):
            self.db.executemany("INSERT INTO rewritten VALUES (?,?,?)", batch)
        for table, column in (("contents", "data"), ("items", "scores")):
            self.db.execute(
                f"UPDATE {table} SET {column}=(SELECT {column} FROM rewritten WHERE rewritten.n={table}.n) "
                "WHERE n IN (SELECT n FROM rewritten)"
            )
        self.db.execute("DROP TABLE rewritten")

    def _gather(self, losses: Iterable[tuple[int, str]]) -> None:
        """Into a table first: a step reads what it is about to change."""
        self.db.execute("DELETE FROM lost")
        for batch in _batches(losses, 5000):
            self.db.executemany("INSERT INTO lost VALUES (?,?)", batch)

    def _lose(self, name: str, before: int, facts: Mapping[str, Any]) -> None:
        self.db.execute(
            "UPDATE items SET step=?, why=(SELECT why FROM lost WHERE lost.n=items.n) WHERE n IN (SELECT n FROM lost)",
            (name,),
        )
        self._note(name, before, self.count(), facts)

    def _note(self, name: str, before: int, after: int, facts: Mapping[str, Any]) -> None:
        reasons: dict[str, int] = {}
        others = 0
        counted = self.db.execute(
            "SELECT why, count(*) AS times FROM items WHERE step=? GROUP BY why ORDER BY times DESC, why", (name,)
        )
        for why, times in counted:
            if len(reasons) < REASONS:
                reasons[why] = times
            else:
                others += times
        if others:
            reasons[_OTHERS] = others
        if before != after + sum(reasons.values()):
            raise RuntimeError(
                f"{name}: {before} items came in, {after} went out and {sum(reasons.values())} were lost"
            )
        self.funnel.append({"step": name, "unit": self.unit, "in": before, "out": after, "reasons": reasons, **facts})

    # ---- the end

    def written(self, held_out: bool) -> Iterator[tuple[Item, bytes, int]]:
        """What is to be written, by id, with how often each."""
        names = ", ".join(f"items.{name}" for name in _COLUMNS)
        query = (
            f"SELECT {names}, data, copies FROM items JOIN contents USING (n) WHERE step IS NULL AND unit=? AND held_out=? "
            "ORDER BY id, run, data"
        )
        for row in self.db.execute(query, (self.unit, held_out)):
            yield Item(*row[:-2]), row[-2], row[-1]

    def rejected(self) -> Iterator[tuple[Item, bytes, str, str, str | None]]:
        """What was lost, by id, with the step, the reason, and the id of the row that it was a duplicate of."""
        names = ", ".join(f"items.{name}" for name in _COLUMNS)
        query = (
            f"SELECT {names}, data, items.step, items.why, other.id FROM items JOIN contents USING (n) LEFT JOIN twins "
            "USING (n) LEFT JOIN items other ON other.n=twin WHERE items.step<>? ORDER BY items.id, items.run, data"
        )
        for row in self.db.execute(query, (_USED,)):
            yield Item(*row[:-4]), *row[-4:]


def _batches(things: Iterable[Any], size: int) -> Iterator[list[Any]]:
    batch: list[Any] = []
    for thing in things:
        batch.append(thing)
        if len(batch) == size:
            yield batch
            batch = []
    if batch:
        yield batch
