"""Starting processes from the helper: fork, put the descriptors in place, become harmless, exec."""

from __future__ import annotations

import ctypes
import fcntl
import os
import signal
from collections.abc import Callable, Mapping, Sequence

from factory.sandbox.inside import limits

_IGNORED_BY_PYTHON = (signal.SIGPIPE, signal.SIGXFSZ)  # what is ignored stays so through an exec


class Unable(Exception):
    """The machine would not let us: never the candidate's fault."""


def memory_file(data: bytes) -> int:
    """A descriptor from which `data` can be read once, without a pipe's limit."""
    descriptor = os.memfd_create("job")
    view = memoryview(data)
    while view:
        view = view[os.write(descriptor, view) :]
    os.lseek(descriptor, 0, os.SEEK_SET)
    return descriptor


def spawn(
    libc: ctypes.CDLL,
    argv: Sequence[str],
    environment: Mapping[str, str],
    descriptors: Sequence[int],
    *,
    uid: int | None,
    prepare: Callable[[], None],
) -> int:
    """Start `argv` with `descriptors` as 0, 1, 2, ...; its pid once the exec has succeeded. Raises `Unable`.

    `prepare` runs last before the exec, as the new uid, in a session of its own that dies with this process.
    """
    parent = os.getpid()
    told, tell = os.pipe2(os.O_CLOEXEC)
    pid = os.fork()
    if pid == 0:
        try:
            moved = [fcntl.fcntl(descriptor, fcntl.F_DUPFD_CLOEXEC, 32) for descriptor in (*descriptors, tell)]
            for target, descriptor in enumerate(moved[:-1]):
                os.dup2(descriptor, target)
            os.closerange(len(descriptors), 32)
            tell = moved[-1]
            os.setsid()
            limits.become(uid)
            limits.die_with_parent(libc, parent)
            for number in _IGNORED_BY_PYTHON:
                signal.signal(number, signal.SIG_DFL)
            prepare()
            os.execve(argv[0], list(argv), dict(environment))
        except BaseException as error:
            os.write(tell, f"{type(error).__name__}: {error}"[:500].encode())
        finally:
            os._exit(126)
    os.close(tell)
    complaint = b""
    while piece := os.read(told, 1000):
        complaint += piece
    os.close(told)
    if complaint:
        os.waitpid(pid, 0)
        raise Unable(f"cannot start {argv[0]}: {complaint.decode(errors='replace')}")
    return pid


def end(pid: int) -> None:
    """Kill and reap a child, if it is still there."""
    try:
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
    except (ProcessLookupError, ChildProcessError):
        pass
