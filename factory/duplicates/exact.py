"""The same text: equal once what nobody reads is left out."""

from __future__ import annotations

import hashlib
import os
import sqlite3
import tempfile
import unicodedata
from collections.abc import Iterable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Literal

from factory.duplicates.disk import Duplicate
from factory.records import Frozen


class ExactSettings(Frozen):
    """What does not matter. `text`: case, Unicode's compatible forms and white space. `space`: white space at the ends of
    lines and empty lines, as code wants it (indentation and case count). `none`: every byte counts."""

    ignore: Literal["text", "space", "none"] = "text"


def fingerprint(text: str, settings: ExactSettings) -> bytes:
    """16 bytes; equal for texts that are the same but for what is ignored."""
    if settings.ignore == "text":
        text = " ".join(unicodedata.normalize("NFKC", unicodedata.normalize("NFKC", text).casefold()).split())
    elif settings.ignore == "space":
        text = "\n".join(line.rstrip() for line in text.splitlines() if line.strip())
    return hashlib.blake2b(text.encode("utf-8", "surrogatepass"), digest_size=16).digest()


def exact(rows: Iterable[tuple[str, str]], settings: ExactSettings, scratch: Path) -> Iterator[Duplicate]:
    """The (id, text) whose text was there before, each with the first one's id, as they come."""
    with closing(_database(scratch)) as database:
        for name, text in rows:
            print_ = fingerprint(text, settings)
            new = database.execute("INSERT OR IGNORE INTO seen VALUES (?, ?)", (print_, name)).rowcount
            if not new:
                (first,) = database.execute("SELECT id FROM seen WHERE print = ?", (print_,)).fetchone()
                yield Duplicate(name, first, 1.0)


def _database(scratch: Path) -> sqlite3.Connection:
    """A table on disk in a file that has lost its name already, so that nothing can stay behind."""
    handle, path = tempfile.mkstemp(dir=scratch, suffix=".db")
    os.close(handle)
    try:
        database = sqlite3.connect(path, isolation_level=None)
        database.execute("PRAGMA journal_mode=OFF")
        database.execute("PRAGMA synchronous=OFF")
        database.execute("PRAGMA locking_mode=EXCLUSIVE")
        database.execute("CREATE TABLE seen (print BLOB PRIMARY KEY, id TEXT) WITHOUT ROWID")
        database.execute("BEGIN EXCLUSIVE")
    finally:
        os.unlink(path)
    return database
