"""Bubblewrap's command lines: every namespace unshared, a minimal read-only runtime, one small writable folder."""

from __future__ import annotations

import os
from collections.abc import Sequence

WORK = "/box"
DEVICES = ("/dev/null", "/dev/zero", "/dev/full", "/dev/random", "/dev/urandom")
_TOP = ("/lib", "/lib32", "/lib64", "/libx32", "/bin", "/sbin")


def _mounts(paths: Sequence[str]) -> list[str]:
    """Read-only binds, parents before children; the top-level links of a merged /usr stay links."""
    arguments: list[str] = []
    for path in sorted(set(paths)):
        if os.path.exists(path) and path not in _TOP:
            arguments += ["--ro-bind", path, path]
    for path in _TOP:
        if os.path.islink(path):
            arguments += ["--symlink", os.readlink(path), path]
        elif path in paths and os.path.isdir(path):
            arguments += ["--ro-bind", path, path]
    return arguments


def command(
    program: str,
    paths: Sequence[str],
    argv: Sequence[str],
    *,
    work_bytes: int | None,
    environment: dict[str, str],
    extra: Sequence[str] = (),
) -> list[str]:
    """The whole command line. `work_bytes=None` leaves the work folder empty for the zygote to mount."""
    arguments = [program, "--unshare-all", "--die-with-parent", "--new-session", "--uid", "1000", "--gid", "1000"]
    arguments += ["--hostname", "sandbox", "--clearenv", *_mounts(paths)]
    for device in DEVICES:
        arguments += ["--dev-bind", device, device]
    if work_bytes is None:
        arguments += ["--dir", WORK]
    else:
        arguments += ["--size", str(work_bytes), "--perms", "0700", "--tmpfs", WORK]
    for name, value in environment.items():
        arguments += ["--setenv", name, value]
    arguments += ["--symlink", WORK.lstrip("/"), "/tmp", *extra, "--remount-ro", "/", "--chdir", WORK]
    return [*arguments, "--", *argv]
