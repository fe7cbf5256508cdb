"""Resource limits, the drop to an unprivileged user, and the other things a process does to itself before bad code."""

from __future__ import annotations

import ctypes
import os
import resource
import signal

PR_SET_PDEATHSIG, PR_SET_DUMPABLE, PR_SET_CHILD_SUBREAPER, PR_CAP_AMBIENT = 1, 4, 36, 47
_FIRST_UID, _SMALL_UID = 1_900_000_000, 60_000


def load_libc() -> ctypes.CDLL:
    """The C library of this process, with errno kept for ctypes.get_errno()."""
    return ctypes.CDLL(None, use_errno=True)


class Limits:
    """What one job may use: seconds of CPU, bytes of memory (a process), processes with threads, bytes of a file.

    Clamped, once, to the hard limits that this process has inherited.
    """

    def __init__(self, cpu: int, memory: int, processes: int, file: int) -> None:
        self._cpu = _clamped(resource.RLIMIT_CPU, cpu, cpu + 1)
        self._rest = [
            (which, _clamped(which, value, value))
            for which, value in (
                (resource.RLIMIT_CORE, 0),
                (resource.RLIMIT_AS, memory),
                (resource.RLIMIT_NPROC, processes),
                (resource.RLIMIT_FSIZE, file),
                (resource.RLIMIT_NOFILE, 256),
                (resource.RLIMIT_STACK, 8 << 20),
                (resource.RLIMIT_MEMLOCK, 0),
                (resource.RLIMIT_MSGQUEUE, 0),
                (resource.RLIMIT_SIGPENDING, 256),
            )
        ]

    def apply(self) -> None:
        """Set them on this process."""
        self.apply_all_but_cpu()
        self.apply_cpu()

    def apply_cpu(self) -> None:
        """The CPU clock alone: a fork starts it anew, all else it inherits."""
        resource.setrlimit(resource.RLIMIT_CPU, self._cpu)

    def apply_all_but_cpu(self) -> None:
        """What a long-lived parent may set once for its children."""
        for which, pair in self._rest:
            resource.setrlimit(which, pair)


def _clamped(which: int, soft: int, hard: int) -> tuple[int, int]:
    ceiling = resource.getrlimit(which)[1]
    return (soft, hard) if ceiling == resource.RLIM_INFINITY else (min(soft, ceiling), min(hard, ceiling))


def unprivileged_uid(slot: int) -> int | None:
    """A uid of nobody's own for this slot when we are root and may take it, else None.

    Root is not bound by RLIMIT_NPROC, so root's children need another uid; one a slot keeps the counts apart.
    """
    if os.geteuid() != 0:
        return None
    wanted = _FIRST_UID + (os.getpid() % 65536) * 512 + slot % 512
    small = _SMALL_UID + (os.getpid() * 31 + slot) % 4096
    with open("/proc/self/uid_map", encoding="ascii") as table:
        ranges = [(int(line.split()[0]), int(line.split()[2])) for line in table]
    for uid in (wanted, small):
        if any(first <= uid < first + length for first, length in ranges):
            return uid
    return None


def become(uid: int | None) -> None:
    """Drop to `uid` with no groups; nothing when None."""
    if uid is not None:
        os.setgroups([])
        os.setresgid(uid, uid, uid)
        os.setresuid(uid, uid, uid)


def own_threads() -> int:
    """How many threads this real uid has now: RLIMIT_NPROC counts them all where there is no namespace."""
    total, uid = 0, os.getuid()
    for entry in os.listdir("/proc"):
        if entry.isdigit():
            try:
                if os.stat(f"/proc/{entry}").st_uid == uid:
                    total += len(os.listdir(f"/proc/{entry}/task"))
            except OSError:
                continue
    return total


def die_with_parent(libc: ctypes.CDLL, parent: int) -> None:
    """SIGKILL for this process when its parent goes; at once when it is gone already."""
    libc.prctl(PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    if os.getppid() != parent:
        os._exit(1)


class _CapabilityHeader(ctypes.Structure):
    _fields_ = [("version", ctypes.c_uint32), ("pid", ctypes.c_int)]


# Made once: a zygote's children find them ready.
_HEADER, _NOTHING = _CapabilityHeader(0x20080522, 0), ctypes.create_string_buffer(24)


def drop_capabilities(libc: ctypes.CDLL) -> None:
    """No capability is left, now or after an exec."""
    libc.prctl(PR_CAP_AMBIENT, 4, 0, 0, 0)
    if libc.capset(ctypes.byref(_HEADER), _NOTHING):
        raise OSError(ctypes.get_errno(), "capset")
