"""Run a server so that it cannot outlive its owner: `python -I -S server_launcher.py OWNER_PID GRACE COMMAND...`.

Standard library only, started in a session of its own with a pipe as standard input. It ends the server and all that
descends from it when it gets SIGTERM (GRACE seconds of politeness), when the pipe closes or when the owner is gone
(2 s); a SIGKILLed owner closes the pipe too. As a subreaper it inherits every orphaned descendant, so a grandchild
that made its own session is found as well. The server itself dies with the launcher (parent-death signal), and the
rest of their common process group is the owner's to kill. Exits with the server's status, or 128 + its signal.
"""

from __future__ import annotations

import ctypes
import os
import select
import signal
import sys
import time
from typing import Any

ORPHAN_GRACE = 2.0  # seconds for the server to end by itself once its owner is gone
SETTLE = 1.0  # seconds for helpers (engine processes, resource trackers) to follow a server that ended by itself
SET_PDEATHSIG, SET_CHILD_SUBREAPER = 1, 36  # prctl(2)


def main(owner: int, grace: float, command: list[str]) -> int:
    """Run `command` until it ends or must end; leaves no descendant behind."""
    _prctl(SET_CHILD_SUBREAPER, 1)
    wake, wake_in = os.pipe()
    os.set_blocking(wake_in, False)
    os.set_blocking(wake, False)
    signal.set_wakeup_fd(wake_in)
    stops: list[int] = []
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        signal.signal(number, lambda received, _: stops.append(received))
    signal.signal(signal.SIGCHLD, lambda *_: None)
    server = _start(command)
    status = _watch(server, owner, grace, wake, stops)
    _end_descendants(SETTLE if status is not None else 0.0)
    return 128 + signal.SIGKILL if status is None else _exit_code(status)


def _start(command: list[str]) -> int:
    launcher = os.getpid()
    # Until the child has its own handlers, a stop signal must wait: Python would swallow it between fork and exec.
    stops = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)
    signal.pthread_sigmask(signal.SIG_BLOCK, stops)
    pid = os.fork()
    if pid:
        signal.pthread_sigmask(signal.SIG_UNBLOCK, stops)
        return pid
    try:
        _prctl(SET_PDEATHSIG, signal.SIGKILL)
        if os.getppid() != launcher:
            os._exit(1)  # the launcher died before the line above took effect
        for number in (*stops, signal.SIGCHLD, signal.SIGPIPE):
            signal.signal(number, signal.SIG_DFL)
        signal.set_wakeup_fd(-1)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, stops)
        os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
        os.execvp(command[0], command)
    except OSError as error:
        os.write(2, f"cannot run {command[0]}: {error.strerror}\n".encode())
    os._exit(127)


def _watch(server: int, owner: int, grace: float, wake: int, stops: list[int]) -> int | None:
    """The server's wait status, or None when its time was up."""
    deadline = float("inf")
    orphaned = asked = False
    while True:
        status = _reap(server)
        if status is not None:
            return status
        now = time.monotonic()
        orphaned = orphaned or os.getppid() != owner
        if (orphaned or stops) and not asked:
            asked = True
            os.kill(server, signal.SIGTERM)
            deadline = now + grace
        if orphaned:
            deadline = min(deadline, now + ORPHAN_GRACE)
        if now >= deadline:
            return None
        readable, _, _ = select.select([wake] if orphaned else [wake, 0], [], [], min(0.5, deadline - now))
        if wake in readable:
            os.read(wake, 512)
        if 0 in readable and not os.read(0, 512):
            orphaned = True


def _reap(server: int) -> int | None:
    """Collect every child that ended; the server's status when it is among them."""
    found = None
    while True:
        try:
            pid, status = os.waitpid(-1, os.WNOHANG)
        except ChildProcessError:
            return found
        if pid == 0:
            return found
        if pid == server:
            found = status


def _end_descendants(settle: float) -> None:
    """Wait `settle` seconds for descendants to leave, then SIGKILL them until none is left (at most 10 s)."""
    begin = time.monotonic()
    while time.monotonic() < begin + settle + 10:
        try:
            while os.waitpid(-1, os.WNOHANG)[0]:
                pass
        except ChildProcessError:
            return  # as a subreaper: no child means no descendant
        if time.monotonic() >= begin + settle:
            for pid in _descendants():
                try:
                    os.kill(pid, signal.SIGKILL)
                except ProcessLookupError:
                    pass
        time.sleep(0.02)
    os.killpg(0, signal.SIGKILL)


def _descendants() -> list[int]:
    """Every process below this one, from /proc."""
    children: dict[int, list[int]] = {}
    for entry in os.listdir("/proc") if os.path.isdir("/proc/self") else []:
        if entry.isdigit():
            try:
                with open(f"/proc/{entry}/stat") as file:
                    parent = int(file.read().rpartition(")")[2].split()[1])
            except (OSError, IndexError, ValueError):
                continue  # it ended while being read
            children.setdefault(parent, []).append(int(entry))
    found: list[int] = []
    waiting = [os.getpid()]
    while waiting:
        below = children.get(waiting.pop(), [])
        found += below
        waiting += below
    return found


def _prctl(option: int, value: int) -> None:
    """Linux only; elsewhere the pipe and the process group have to do."""
    if sys.platform == "linux":
        libc: Any = ctypes.CDLL(None)
        libc.prctl(option, value, 0, 0, 0)


def _exit_code(status: int) -> int:
    code = os.waitstatus_to_exitcode(status)
    return 128 - code if code < 0 else code


if __name__ == "__main__":
    sys.exit(main(int(sys.argv[1]), float(sys.argv[2]), sys.argv[3:]))
