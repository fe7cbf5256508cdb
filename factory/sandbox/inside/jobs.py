"""The two kinds of job: one forked by a warm interpreter in its namespace, and one started cold."""

from __future__ import annotations

import marshal
import os
import signal
import socket
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from typing import Any

from factory.sandbox.inside import spawn
from factory.sandbox.inside.spawn import Unable
from factory.sandbox.inside.watch import Job

_START_SECONDS = 20.0
_PAGE = os.sysconf("SC_PAGE_SIZE")


class Streams:
    """The descriptors of one job: ours to read, and the job's (stdin, stdout, stderr, result, and RPC in)."""

    def __init__(self, stdin: bytes, rpc: bool) -> None:
        self.theirs = [spawn.memory_file(stdin) if stdin else os.open("/dev/null", os.O_RDONLY | os.O_CLOEXEC)]
        self.ours: dict[str, int] = {}
        for name in ("stdout", "stderr", "result"):
            self.ours[name], write = os.pipe2(os.O_CLOEXEC)
            self.theirs.append(write)
        self.rpc = -1
        if rpc:
            read, self.rpc = os.pipe2(os.O_CLOEXEC)
            self.theirs.append(read)

    def close_theirs(self) -> None:
        for descriptor in self.theirs:
            os.close(descriptor)
        self.theirs.clear()


def tree_memory(root: int, shared: int) -> int:
    """Resident bytes of all descendants of `root`, less `shared` for each (what a fork shares with the interpreter)."""
    total, todo = 0, [root]
    while todo:
        pid = todo.pop()
        try:
            for task in os.listdir(f"/proc/{pid}/task"):
                with open(f"/proc/{pid}/task/{task}/children", encoding="ascii") as file:
                    todo += [int(child) for child in file.read().split()]
            if pid != root:
                with open(f"/proc/{pid}/statm", encoding="ascii") as file:
                    total += max(0, int(file.read().split()[1]) * _PAGE - shared)
        except (OSError, ValueError, IndexError):
            continue  # gone in between
    return total


class Zygote:
    """The warm interpreter of one slot, in its namespace; started when first needed, again when it has died."""

    def __init__(self, start: Callable[[Sequence[int]], int], config: Mapping[str, Any], modules: bytes) -> None:
        self._start, self._config, self._modules = start, config, modules
        self.pid, self.control = 0, socket.socket()
        self.shared = 0
        self.fresh = bool(config["fresh"])

    def ready(self) -> None:
        """Start it unless it runs. Raises `Unable` with what it said."""
        if self.pid:
            return
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        said, say = os.pipe2(os.O_CLOEXEC)
        boot = spawn.memory_file(marshal.dumps((self._modules, dict(self._config)), 4))
        null = os.open("/dev/null", os.O_RDWR | os.O_CLOEXEC)
        try:
            self.pid = self._start([null, null, say, theirs.fileno(), boot])
            for descriptor in (say, boot):
                os.close(descriptor)
            theirs.close()
            ours.settimeout(_START_SECONDS)
            if ours.recv(1) != b"R":
                raise Unable("the warm interpreter did not start: " + _said(said))
            ours.settimeout(None)
        except OSError as error:
            self.stop()
            raise Unable(f"the warm interpreter did not start: {error}") from None
        except Unable:
            self.stop()
            raise
        finally:
            os.close(said)
            os.close(null)
        self.control = ours
        self.shared = tree_memory(self.pid, 0)

    def submit(self, streams: Streams, body: Mapping[str, Any]) -> WarmJob:
        """Hand a job over; it runs at once."""
        self.ready()
        payload = spawn.memory_file(marshal.dumps(dict(body), 4))
        try:
            socket.send_fds(self.control, [b"J"], [payload, *streams.theirs])
        except OSError as error:
            self.stop()
            raise Unable(f"the warm interpreter has gone: {error}") from None
        finally:
            os.close(payload)
            streams.close_theirs()
        return WarmJob(streams.ours, self)

    def stop(self) -> None:
        """End it and, since it is PID 1, everything in its namespace."""
        if self.pid:
            spawn.end(self.pid)
            self.pid = 0
        self.control.close()


def _said(descriptor: int) -> str:
    os.set_blocking(descriptor, False)
    try:
        return os.read(descriptor, 2000).decode(errors="replace").strip()[-500:]
    except OSError:
        return "it said nothing"


class WarmJob(Job):
    """A job inside a zygote's namespace."""

    def __init__(self, streams: dict[str, int], zygote: Zygote) -> None:
        super().__init__(streams, zygote.control.fileno())
        self.zygote = zygote

    def kill(self) -> None:
        if not self.over:
            with suppress(OSError):  # it has died: `ended` says so
                self.zygote.control.send(b"K")

    def ended(self) -> None:
        try:
            message = self.zygote.control.recv(1000)
        except OSError:
            message = b""
        if not message:
            self.zygote.stop()
            raise Unable("the warm interpreter died during a job")
        status, self.cpu, peak = marshal.loads(message)
        self.status = os.waitstatus_to_exitcode(status)
        if self.zygote.fresh and self.status > 128:
            self.status = 128 - self.status  # the job's own reaper says it as a shell would
        self.peak = peak * 1024

    def memory(self) -> int:
        return max(0, tree_memory(self.zygote.pid, self.zygote.shared))


class ColdJob(Job):
    """A process of its own. With bwrap it is the namespace's outer process: `confirmed` is where bwrap says that the
    program ran, and the exit status is the one that a shell would give.
    """

    def __init__(self, streams: dict[str, int], pid: int, confirmed: int = -1) -> None:
        super().__init__(streams, os.pidfd_open(pid))
        self.pid, self.confirmed, self.killed = pid, confirmed, False

    def kill(self) -> None:
        if not self.over:
            self.killed = True
            os.kill(self.pid, signal.SIGKILL)

    def ended(self) -> None:
        _, status, usage = os.wait4(self.pid, 0)
        os.close(self.end_fd)
        self.status = os.waitstatus_to_exitcode(status)
        self.cpu, self.peak = usage.ru_utime + usage.ru_stime, usage.ru_maxrss * 1024
        if self.confirmed >= 0:
            said = _said(self.confirmed)
            os.close(self.confirmed)
            if not self.killed and "exit-code" not in said:
                raise Unable(
                    f"bwrap did not start the program: {self.output['stderr'].decode(errors='replace')[-300:]}"
                )
            self.status = 128 - self.status if self.status > 128 else self.status

    def memory(self) -> int:
        return tree_memory(self.pid, 0) if self.confirmed >= 0 else 0
