"""Landlock through ctypes: which files a process and its children may open, and no TCP at all.

Source: the kernel's Documentation/userspace-api/landlock.rst; the version (ABI) decides what can be restricted.
"""

from __future__ import annotations

import ctypes
import os
import struct
from collections.abc import Iterable

_CREATE, _ADD, _RESTRICT = 444, 445, 446
_EXECUTE, _WRITE, _READ_FILE, _READ_DIR = 1 << 0, 1 << 1, 1 << 2, 1 << 3
_REFER, _TRUNCATE, _IOCTL = 1 << 13, 1 << 14, 1 << 15
_FILE_RIGHTS = _EXECUTE | _WRITE | _READ_FILE | _TRUNCATE | _IOCTL
_O_PATH = 0o10000000


def version(libc: ctypes.CDLL) -> int:
    """The kernel's Landlock ABI; 0 when it is absent or switched off."""
    return max(0, int(libc.syscall(_CREATE, None, 0, 1)))


def handled(abi: int) -> int:
    """All file-system rights that this ABI can deny."""
    rights = (1 << 13) - 1
    for since, right in ((2, _REFER), (3, _TRUNCATE), (5, _IOCTL)):
        rights |= right if abi >= since else 0
    return rights


def _check(result: int, what: str) -> int:
    if result < 0:
        code = ctypes.get_errno()
        raise OSError(code, f"landlock {what}: {os.strerror(code)}")
    return result


def ruleset(libc: ctypes.CDLL, *, readable: Iterable[str], programs: Iterable[str], devices: Iterable[str]) -> int:
    """A ruleset's descriptor: `readable` trees may be read, `programs` also executed, `devices` read and written.

    Whatever is not named cannot be opened. Missing paths are skipped. Add the work folder with `allow_all`.
    """
    abi = version(libc)
    attributes = struct.pack("=Q", handled(abi))
    if abi >= 4:
        attributes += struct.pack("=Q", 3)  # TCP bind and connect
    if abi >= 6:
        attributes += struct.pack("=Q", 3)  # abstract unix sockets and signals to processes outside
    descriptor = _check(libc.syscall(_CREATE, attributes, ctypes.c_size_t(len(attributes)), 0), "create")
    os.set_inheritable(descriptor, False)
    for paths, rights in (
        (readable, _READ_FILE | _READ_DIR),
        (programs, _READ_FILE | _EXECUTE),
        (devices, _READ_FILE | _WRITE),
    ):
        for path in paths:
            if os.path.exists(path):
                _allow(libc, descriptor, path, rights)
    return descriptor


def allow_all(libc: ctypes.CDLL, descriptor: int, folder: str) -> None:
    """Everything but execution below `folder`."""
    _allow(libc, descriptor, folder, handled(version(libc)) & ~_EXECUTE)


def _allow(libc: ctypes.CDLL, descriptor: int, path: str, rights: int) -> None:
    if not os.path.isdir(path):
        rights &= _FILE_RIGHTS
    target = os.open(path, _O_PATH | os.O_CLOEXEC)
    try:
        rule = struct.pack("=Qi", rights & handled(version(libc)), target)
        _check(libc.syscall(_ADD, descriptor, 1, rule, 0), f"rule for {path}")
    finally:
        os.close(target)


def restrict(libc: ctypes.CDLL, descriptor: int) -> None:
    """Bind this process to the ruleset for good (needs no-new-privileges)."""
    if libc.prctl(38, 1, 0, 0, 0):
        raise OSError(ctypes.get_errno(), "no_new_privs")
    _check(libc.syscall(_RESTRICT, descriptor, 0), "restrict")
