"""A run's folder: one process at a time, and what to say where it cannot be written."""

from __future__ import annotations

import contextlib
import fcntl
import os
from pathlib import Path

from factory.errors import UserError


class RunLock:
    """Keeps a second process out of a run folder; released by the kernel however this process ends.

    `remedy` names the key that chooses another folder.
    """

    def __init__(self, folder: Path, remedy: str = "run=NAME") -> None:
        self.path, self.remedy = folder / ".lock", remedy

    def __enter__(self) -> RunLock:
        try:
            self.file = open(self.path, "a+")
            fcntl.flock(self.file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            self.file.seek(0)
            holder = self.file.read().strip() or "unknown"
            raise UserError(
                f"{self.path.parent} is being written by process {holder}. Wait for it, stop it, or choose another "
                f"folder with {self.remedy}."
            ) from None
        except OSError as error:
            raise unwritable(self.path.parent, error) from error
        with contextlib.suppress(OSError):  # on a full disk the lock holds, without its owner's name
            os.truncate(self.file.fileno(), 0)
            os.write(self.file.fileno(), str(os.getpid()).encode())
        return self

    def __exit__(self, *exc: object) -> None:
        self.file.close()


def unwritable(folder: Path, error: OSError) -> UserError:
    """What to say where the run folder cannot be written."""
    return UserError(
        f"cannot write in {folder}: {error.strerror or error}. Choose a folder of yours with out=DIR, or make room there."
    )
