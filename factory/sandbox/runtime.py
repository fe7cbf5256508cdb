"""Which interpreter runs inside, and what of the machine it must be able to read."""

from __future__ import annotations

import glob
import json
import os
import shutil
import stat
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

_OLDEST = (3, 10)
_ASK = """
import sys, json, os
print(json.dumps([list(sys.version_info[:2]), sys.base_prefix, sys.base_exec_prefix, os.path.dirname(os.__file__)]))
"""
_IGNORED = shutil.ignore_patterns("site-packages", "dist-packages", "test", "tests", "idlelib", "ensurepip", "config-*")


@dataclass(frozen=True)
class Runtime:
    """An interpreter: its program, the paths that must be readable, and the folder it was copied to, if it was."""

    python: str
    version: tuple[int, int]
    readable: tuple[str, ...]
    staged: str = ""

    def discard(self) -> None:
        """Remove the copy, if there is one."""
        if self.staged:
            shutil.rmtree(self.staged, ignore_errors=True)


@lru_cache
def inspect(python: str) -> Runtime | None:
    """What that interpreter needs, by asking it; None when it cannot be used."""
    command = [python, "-I", "-S", "-c", _ASK]
    try:
        answer = subprocess.run(command, capture_output=True, timeout=10, check=True).stdout
        version, prefix, exec_prefix, library = json.loads(answer)
    except (OSError, subprocess.SubprocessError, ValueError):
        return None
    name = f"python{version[0]}.{version[1]}"
    paths = {library, f"{prefix}/lib/{name}", f"{exec_prefix}/lib/{name}", f"{exec_prefix}/lib64/{name}"}
    paths |= set(glob.glob(f"{exec_prefix}/lib/libpython*"))
    return Runtime(python, (version[0], version[1]), tuple(sorted(path for path in paths if os.path.exists(path))))


def readable_by_others(path: str) -> bool:
    """Whether a uid that owns nothing may read `path`: every folder above must be open to it too.

    Looked up in the modes, since root's own attempts would always succeed.
    """
    for part in (path, *map(str, Path(path).parents)):
        mode = os.stat(part).st_mode
        wanted = stat.S_IXOTH if part != path or stat.S_ISDIR(mode) else stat.S_IROTH
        if not mode & wanted:
            return False
    return True


def interpreters() -> list[str]:
    """Candidates in order: the one that runs us (under its environment), then the system's."""
    own = os.path.realpath(getattr(sys, "_base_executable", sys.executable) or sys.executable)
    system = [path for path in ("/usr/bin/python3", "/usr/local/bin/python3") if os.path.exists(path)]
    return list(dict.fromkeys([own, *map(os.path.realpath, system)]))


def choose(candidates: list[str] | None = None) -> Runtime | None:
    """The first usable interpreter. As root, one that others can read (jobs run as another user), else a copy of one."""
    unreadable: list[Runtime] = []
    for python in candidates if candidates is not None else interpreters():
        runtime = inspect(python)
        if runtime is None or runtime.version < _OLDEST:
            continue
        if os.geteuid() != 0 or all(map(readable_by_others, (runtime.python, *runtime.readable))):
            return runtime
        unreadable.append(runtime)
    return _stage(unreadable[0]) if unreadable else None


def _stage(runtime: Runtime) -> Runtime:
    """A copy of the interpreter and its standard library that everybody can read: it lies under a private home."""
    folder = tempfile.mkdtemp(prefix="sandbox-python-")
    os.chmod(folder, 0o755)
    program = Path(folder, "bin", Path(runtime.python).name)
    program.parent.mkdir()
    shutil.copy2(runtime.python, program)
    (Path(folder) / "lib").mkdir()
    for path in runtime.readable:
        target = Path(folder, "lib", Path(path).name)
        if target.exists():
            continue
        if os.path.isdir(path):
            shutil.copytree(path, target, symlinks=True, ignore=_IGNORED)
        else:
            shutil.copy2(path, target, follow_symlinks=False)
    staged = inspect(str(program))
    if staged is None:
        shutil.rmtree(folder, ignore_errors=True)
        raise OSError(f"a copy of {runtime.python} does not run; install the system's python3")
    return Runtime(staged.python, staged.version, staged.readable, folder)
