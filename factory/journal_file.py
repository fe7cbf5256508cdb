"""The journal's file: its tables, how values lie in it, and what can be saved of a damaged one."""

from __future__ import annotations

import sqlite3
import time
import zlib
from pathlib import Path
from typing import Any

import orjson

SCHEMA_VERSION = 1
SCHEMA = """
CREATE TABLE IF NOT EXISTS configs (
  id INTEGER PRIMARY KEY, fate_key TEXT NOT NULL UNIQUE, made_at REAL NOT NULL, config BLOB NOT NULL);
CREATE TABLE IF NOT EXISTS responses (
  key BLOB NOT NULL, label TEXT NOT NULL, made_at REAL NOT NULL, seconds REAL NOT NULL,
  prompt_tokens INTEGER NOT NULL, completion_tokens INTEGER NOT NULL, request BLOB NOT NULL, response BLOB NOT NULL);
CREATE UNIQUE INDEX IF NOT EXISTS response_keys ON responses (key);
CREATE TABLE IF NOT EXISTS records (
  config INTEGER NOT NULL, seed_index INTEGER NOT NULL, sample INTEGER NOT NULL, final INTEGER NOT NULL,
  kept INTEGER NOT NULL, id TEXT NOT NULL, reason TEXT NOT NULL, item TEXT NOT NULL, fingerprint TEXT,
  made_at REAL NOT NULL, record BLOB NOT NULL, story BLOB NOT NULL,
  PRIMARY KEY (config, seed_index, sample)) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS draws (
  key BLOB PRIMARY KEY, label TEXT NOT NULL, made_at REAL NOT NULL, value BLOB NOT NULL) WITHOUT ROWID;
"""
BLOBS = {
    "configs": ("config",),
    "responses": ("request", "response"),
    "records": ("record", "story"),
    "draws": ("value",),
}


class Damaged(sqlite3.DatabaseError):
    """The file holds something else than what was written."""


def pack(value: Any) -> bytes:
    """JSON, deflated where that pays, after its checksum: SQLite would not notice a byte that the disk changed."""
    data = orjson.dumps(value, option=orjson.OPT_NON_STR_KEYS)
    if len(data) > 2000:
        data = zlib.compress(data, 1)
    return zlib.crc32(data).to_bytes(4, "big") + data


def intact(data: Any) -> bool:
    """Whether this is still what `pack` returned."""
    return isinstance(data, bytes) and zlib.crc32(data[4:]).to_bytes(4, "big") == data[:4]


def unpack(data: bytes) -> Any:
    """The value that `pack` was given. Raises `Damaged` where it is lost."""
    if not intact(data):
        raise Damaged("malformed: a row's checksum is wrong")
    return orjson.loads(zlib.decompress(data[4:]) if data[4:5] == b"x" else data[4:])


def connect(path: Path) -> sqlite3.Connection:
    connection = sqlite3.connect(path, timeout=30, check_same_thread=False)
    connection.execute("PRAGMA journal_mode=WAL")
    connection.execute("PRAGMA synchronous=NORMAL")
    connection.execute("PRAGMA cache_size=-32000")
    return connection


def torn(error: sqlite3.DatabaseError) -> bool:
    return not isinstance(error, sqlite3.OperationalError) or "malformed" in str(error)


def salvage(path: Path) -> str:
    """Move a damaged journal aside and copy every row that can still be read into a new one; returns what was done.

    What the new journal lacks is made again when the run goes on: nothing else depends on it.
    """
    aside = path.with_name(f"{path.stem}.damaged-{time.strftime('%Y%m%d-%H%M%S')}{path.suffix}")
    for suffix in ("", "-wal", "-shm"):
        part = path.with_name(path.name + suffix)
        if part.exists():
            part.rename(aside.with_name(aside.name + suffix))
    _lengthen(aside)
    new = connect(path)
    new.executescript(SCHEMA)
    copied = {}
    for table in BLOBS:
        copied[table] = _copy_readable(aside, new, table)
    # Whose configuration is lost, nobody knows what they were decided by; the answers serve all the same.
    new.execute("DELETE FROM records WHERE config NOT IN (SELECT id FROM configs)")
    copied["records"] = new.execute("SELECT count(*) FROM records").fetchone()[0]
    new.execute(f"PRAGMA user_version={SCHEMA_VERSION}")
    new.commit()
    new.close()
    return (
        f"{path} was damaged: {copied['responses']} responses and {copied['records']} records were recovered, the rest "
        f"will be made again. The damaged file is kept as {aside.name}."
    )


def _lengthen(path: Path) -> None:
    """SQLite reads nothing at all from a file that is shorter than its header says; of zeros it says where they are."""
    with open(path, "r+b") as file:
        header = file.read(100)
        size = int.from_bytes(header[16:18], "big") * int.from_bytes(header[28:32], "big")
        if header.startswith(b"SQLite format 3") and path.stat().st_size < size < 2**40:
            file.truncate(size)


def _copy_readable(source: Path, target: sqlite3.Connection, table: str) -> int:
    copied = 0
    for direction in ("ASC", "DESC"):  # from both ends: a bad page in the middle hides neither
        try:
            old = sqlite3.connect(f"file:{source}?mode=ro", uri=True)
            order = "ORDER BY rowid" if table in ("configs", "responses") else "ORDER BY 1, 2"
            cursor = old.execute(f"SELECT * FROM {table} {order} {direction}")
            names = [column[0] for column in cursor.description]
            blobs = [names.index(blob) for blob in BLOBS[table]]
            marks = ",".join("?" * len(names))
            for row in cursor:
                if all(intact(row[blob]) for blob in blobs):
                    copied += target.execute(f"INSERT OR IGNORE INTO {table} VALUES ({marks})", row).rowcount
        except sqlite3.DatabaseError:
            continue
        finally:
            target.commit()
    return copied
