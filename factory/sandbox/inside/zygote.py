"""PID 1 of the namespace: a warm interpreter that forks once a job, and cleans up when the job's process has ended.

It holds CAP_SYS_ADMIN inside its own user namespace, to give each job a fresh tmpfs; the job's process gives up every
capability and installs the seccomp filter before the first line of bad code. A job cannot reach this process: PID 1
ignores signals from its namespace, it is not dumpable, and the filter refuses tracing.
"""

from __future__ import annotations

import array
import contextlib
import ctypes
import fcntl
import gc
import marshal
import os
import select
import signal
import socket
from typing import Any

from factory.sandbox.inside import limits, runner, seccomp

WORK = "/box"
CONTROL_FD = 3
_FRESH = 0x20000000 | 0x08000000 | 0x40000000 | 0x04000000  # PID, IPC, network and host name; mounts come by tmpfs
_WARM = [
    "abc",
    "array",
    "ast",
    "base64",
    "bisect",
    "cmath",
    "collections",
    "copy",
    "dataclasses",
    "datetime",
    "decimal",
    "enum",
    "fractions",
    "functools",
    "hashlib",
    "heapq",
    "io",
    "itertools",
    "json",
    "math",
    "operator",
    "random",
    "re",
    "statistics",
    "string",
    "struct",
    "textwrap",
    "time",
    "traceback",
    "typing",
    "types",
    "unicodedata",
]
_libc = limits.load_libc()


class _Job:
    """One job's process and the descriptors that came with it: payload, stdin, stdout, stderr, result and RPC."""

    def __init__(self, descriptors: list[int], config: dict[str, Any], prepared: seccomp.Prepared) -> None:
        self.descriptors, self.config, self.filter = descriptors, config, prepared
        self.fresh = bool(config["fresh"])

    def start(self) -> int:
        """Fork; the pid of the process to wait for."""
        size = f"size={self.config['disk']},nr_inodes={self.config['inodes']},mode=700".encode()
        if _libc.mount(b"tmpfs", WORK.encode(), b"tmpfs", 6, size):
            raise OSError(ctypes.get_errno(), "mount of the work folder")
        pid = _libc.syscall(_CLONE, _FRESH | signal.SIGCHLD, 0, 0, 0, 0) if self.fresh else os.fork()
        if pid < 0:
            raise OSError(ctypes.get_errno(), "clone")
        if pid == 0:
            status = 125
            try:
                status = self.reaper() if self.fresh else self.child()
            finally:
                os._exit(status)
        for descriptor in self.descriptors:
            os.close(descriptor)
        return int(pid)

    def reaper(self) -> int:
        """PID 1 of fresh namespaces: waits for the job and passes its end on; everything left dies with it."""
        os.close(CONTROL_FD)
        pid = os.fork()
        if pid == 0:
            status = 125
            try:
                status = self.child()
            finally:
                os._exit(status)
        for descriptor in self.descriptors:
            os.close(descriptor)
        while True:
            ended, status = os.wait()
            if ended == pid:
                break
        code = os.waitstatus_to_exitcode(status)
        return code if code >= 0 else 128 - code  # as a shell says it

    def child(self) -> int:
        """Become harmless, then run the job."""
        payload, *streams = self.descriptors
        os.setsid()
        body = marshal.loads(os.read(payload, os.fstat(payload).st_size))
        for target, descriptor in enumerate(streams):
            # The descriptors came in above those that they take, so that none is overwritten before its turn.
            os.dup2(descriptor, target)
        os.closerange(len(streams), 256)
        os.chdir(WORK)
        self.config["limits"].apply_cpu()
        limits.drop_capabilities(_libc)
        self.filter.install(_libc)
        signal.signal(signal.SIGINT, signal.default_int_handler)
        return runner.run(body)


_CLONE = seccomp.SYSCALLS["clone"][0 if os.uname().machine == "x86_64" else 1]


def _receive(control: socket.socket) -> tuple[bytes, list[int]]:
    """One command and its descriptors, moved above 16 so that they never collide with a job's standard ones."""
    data, ancillary, _, _ = control.recvmsg(1, socket.CMSG_SPACE(8 * 4))
    numbers = array.array("i")
    for level, kind, content in ancillary:
        if level == socket.SOL_SOCKET and kind == socket.SCM_RIGHTS:
            numbers.frombytes(content[: len(content) - len(content) % numbers.itemsize])
    moved = []
    for number in numbers:
        moved.append(_duplicate(number))
        os.close(number)
    return data, moved


def _duplicate(number: int) -> int:
    return fcntl.fcntl(number, fcntl.F_DUPFD_CLOEXEC, 16)


def _kill_all() -> None:
    with contextlib.suppress(ProcessLookupError):
        os.kill(-1, signal.SIGKILL)


def _reap_all() -> None:
    while True:
        try:
            os.waitpid(-1, 0)
        except ChildProcessError:
            return


def _finish(control: socket.socket, pid: int) -> bool:
    """Wait for the job's end or for the order to end it; False when the keeper has gone."""
    pidfd = os.pidfd_open(pid)
    poller = select.poll()
    poller.register(pidfd, select.POLLIN)
    poller.register(control, select.POLLIN)
    alive = True
    while pidfd not in [number for number, _ in poller.poll()]:
        alive = control.recv(1) == b"K"
        _kill_all()
        if not alive:
            return False
        poller.unregister(control)
    os.close(pidfd)
    _, status, usage = os.wait4(pid, 0)
    _kill_all()
    _reap_all()
    _libc.umount2(WORK.encode(), 2)
    control.send(marshal.dumps((status, usage.ru_utime + usage.ru_stime, usage.ru_maxrss), 4))
    return True


def main(config: dict[str, Any]) -> None:
    """Serve jobs until the keeper closes the control socket."""
    _libc.prctl(limits.PR_SET_DUMPABLE, 0, 0, 0, 0)
    signal.signal(signal.SIGINT, signal.SIG_DFL)  # PID 1 ignores what it has no handler for
    os.environ.clear()
    # Everything that a job inherits is done once, here: a fork is what is fast about all this.
    bounds = limits.Limits(*config["limits"])
    bounds.apply_all_but_cpu()
    config = {**config, "limits": bounds}
    runner.prepare_streams()
    _ = _libc.capset  # looked up once, not in every child
    control = socket.socket(fileno=CONTROL_FD)
    prepared = seccomp.Prepared(seccomp.program(alone=False))
    for name in _WARM:
        __import__(name)
    gc.collect()
    gc.freeze()
    control.send(b"R")
    while True:
        command, descriptors = _receive(control)
        if command == b"K":  # an order that crossed with the end of the job it was meant for
            continue
        if command != b"J":
            return
        if not _finish(control, _Job(descriptors, config, prepared).start()):
            return
