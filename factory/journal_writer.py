"""Group commit: a thread of its own writes whatever has gathered while the last transaction was written.

So a row is in the file before anybody goes on with it, and thousands a second cost little. Once a write failed, every later one
fails alike: nothing is written behind a gap.
"""

from __future__ import annotations

import asyncio
import contextlib
import queue
import sqlite3
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from factory.errors import Stopped
from factory.journal_file import connect

Statement = tuple[str, tuple[Any, ...]]
# Statements to be written together, and who waits for them.
_Entry = tuple[Sequence[Statement], asyncio.Future[None] | threading.Event | None]
_GATHER = 0.02  # seconds that rows which nobody waits for stay open for company
_BATCH = 2000


class GroupWriter:
    """Writes to one SQLite file, in the order of the calls."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._queue: queue.SimpleQueue[_Entry | None] = queue.SimpleQueue()
        self._failure: Exception | None = None
        self._thread = threading.Thread(target=self._write_groups, name="journal", daemon=True)
        self._thread.start()

    async def write(self, statements: Sequence[Statement]) -> None:
        """All of the statements or, where the process dies, none; returns once they, and all before them, are in the file.

        Raises `Stopped` where they cannot be.
        """
        future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._queue.put((statements, future))
        try:
            await future
        except (sqlite3.Error, OSError) as error:
            raise cannot_write(self._path, error) from error

    def write_later(self, statements: Sequence[Statement]) -> None:
        """The same, and nobody waits."""
        self._queue.put((statements, None))

    def flush(self) -> None:
        """Returns once all that was given is in the file; raises `Stopped` where it cannot be."""
        done = threading.Event()
        self._queue.put(([], done))
        done.wait()
        if self._failure is not None:
            raise cannot_write(self._path, self._failure) from self._failure

    def close(self) -> None:
        """Write what is waiting, and end the thread."""
        self._queue.put(None)
        self._thread.join()

    def _write_groups(self) -> None:
        connection = connect(self._path)
        closing = False
        while not closing:
            group = self._next_group()
            closing = None in group
            waiting = [item[1] for item in group if item is not None and isinstance(item[1], asyncio.Future)]
            error: Exception | None = self._failure
            if error is None:
                try:
                    with connection:
                        for item in group:
                            for statement, row in item[0] if item is not None else ():
                                connection.execute(statement, row)
                except (sqlite3.Error, OSError) as raised:
                    error = self._failure = raised
            for item in group:
                if item is not None and isinstance(item[1], threading.Event):
                    item[1].set()
            if waiting:
                with contextlib.suppress(RuntimeError):  # the loop is closed: nobody waits any more
                    waiting[0].get_loop().call_soon_threadsafe(_settle, waiting, error)
        connection.close()

    def _next_group(self) -> list[_Entry | None]:
        """What goes into the next transaction: rows that nobody waits for stay open for company, for a moment."""
        group = [self._queue.get()]
        until = time.monotonic() + _GATHER
        with contextlib.suppress(queue.Empty):
            while len(group) < _BATCH:
                alone = group[-1] is not None and group[-1][1] is None
                group.append(
                    self._queue.get(timeout=max(0.0, until - time.monotonic())) if alone else self._queue.get_nowait()
                )
        return group


def _settle(waiting: Sequence[asyncio.Future[None]], error: Exception | None) -> None:
    for future in waiting:
        if not future.done():
            if error is None:
                future.set_result(None)
            else:
                future.set_exception(error)


def cannot_write(path: Path, error: Exception) -> Stopped:
    """What to say where the file cannot be written, with the remedy."""
    return Stopped(
        f"cannot write {path}: {error}. What was written is kept; make room (or mend the disk) and give the same command "
        "again."
    )
