"""Which backend isolates here: the first one whose live self-test passes."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from factory.errors import NoIsolation
from factory.sandbox import runtime
from factory.sandbox.config import SandboxConfig
from factory.sandbox.results import read_results
from factory.sandbox.runtime import Runtime
from factory.sandbox.slots import Slots
from factory.sandbox.verdict import SandboxError

BACKENDS = ("bwrap", "landlock")
_FIXES = {
    "bwrap": "install bubblewrap (apt install bubblewrap) and allow unprivileged user namespaces "
    "(sysctl user.max_user_namespaces, kernel.apparmor_restrict_unprivileged_userns=0); "
    "in a container, run it with --security-opt seccomp=unconfined or use a host that allows namespaces",
    "landlock": "use a kernel of 5.13 or newer with landlock among its security modules (boot with lsm=landlock,...), "
    "and a container runtime whose seccomp profile lets landlock's calls through",
}
# Tries what isolation must prevent, from where a candidate stands, and says what worked.
_SELF_TEST = """
import os
def leaks(canary, folder):
    found = []
    def attempt(name, action):
        try:
            action()
        except Exception:
            return
        found.append(name)
    def network():
        import _socket
        _socket.socket(_socket.AF_INET, _socket.SOCK_STREAM)
    attempt("opens sockets", network)
    attempt("reads the machine's files", lambda: open(canary).read())
    attempt("writes outside its folder", lambda: open(os.path.join(folder, "x"), "w"))
    attempt("sees the machine's processes", lambda: os.listdir("/proc/%d" % os.getppid()))
    attempt("has an environment", lambda: next(iter(os.environ)))
    if os.getuid() == 0:
        found.append("runs as root")
    try:
        with open("probe", "w") as file:
            file.write("x")
    except OSError as error:
        found.append("cannot write in its own folder: %s" % error)
    return found
"""


@dataclass(frozen=True)
class Probe:
    """One backend's self-test: whether it holds here, why not, and what would mend it."""

    backend: str
    ok: bool
    why: str
    fix: str = ""


def settings(config: SandboxConfig, backend: str, python: Runtime) -> dict[str, Any]:
    """What a helper process is told: sizes in bytes, times in seconds."""
    return {
        "backend": backend,
        "start": config.start,
        "wall": config.wall,
        "cpu": config.cpu,
        "memory": config.memory_mb << 20,
        "processes": config.processes,
        "output": config.output_kb << 10,
        "disk": config.disk_mb << 20,
        "inodes": 256 + 64 * config.disk_mb,
        "python": python.python,
        "readable": list(python.readable),
        "programs": [python.python],
        "bwrap": shutil.which("bwrap") or "",
    }


async def self_test(slots: Slots, backend: str) -> str:
    """What leaks, as text; empty when the backend holds. Raises `SandboxError` when it does not even start."""
    folder = tempfile.mkdtemp(prefix="sandbox-canary-")
    try:
        os.chmod(folder, 0o777)
        canary = Path(folder, "canary")
        canary.write_text("visible")
        body = {
            "mode": "calls",
            "code": _SELF_TEST,
            "calls": [f"leaks({str(canary)!r}, {folder!r})", "6 * 7"],
            "entry": None,
            "limit": 10_000,
        }
        report = await slots.ask({"op": "python", "body": body, "wall": 10.0}, 10.0)
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    _, (found, answer) = read_results(report["result"], 2)
    if found.kind != "value" or answer.value != 42:
        return f"the self-test did not run: {found.text or found.kind} {report['stderr'][-300:]}".strip()
    return ", ".join(map(str, found.value)) if backend != "unsafe" else ""


async def _open(config: SandboxConfig, backend: str, python: Runtime, count: int) -> Slots | Probe:
    if backend == "bwrap" and shutil.which("bwrap") is None:
        return Probe(backend, False, "bwrap is not installed", _FIXES[backend])
    slots = Slots(settings(config, backend, python), python.python, count)
    try:
        why = await self_test(slots, backend)
    except SandboxError as error:
        why = str(error).removeprefix("sandbox: infra_error: ")
    except BaseException:
        await slots.close()
        raise
    if not why:
        return slots
    await slots.close()
    return Probe(backend, False, why, _FIXES.get(backend, ""))


@asynccontextmanager
async def opened(config: SandboxConfig) -> AsyncIterator[tuple[Slots, dict[str, Any]]]:
    """The slots of the first backend that holds and their settings. Raises `NoIsolation` with every backend's story."""
    python = runtime.choose()
    if python is None:
        raise NoIsolation("sandbox: no Python of 3.10 or newer was found to run code in (apt install python3)")
    try:
        wanted = list(BACKENDS if config.backend == "auto" else (config.backend,))
        failed: list[Probe] = []
        for backend in [*wanted, *(["unsafe"] if config.allow_unsafe else [])]:
            result = await _open(config, backend, python, config.slots)
            if isinstance(result, Slots):
                try:
                    yield result, settings(config, backend, python)
                finally:
                    await result.close()
                return
            failed.append(result)
        raise NoIsolation(*_story(failed))
    finally:
        python.discard()


def _story(failed: list[Probe]) -> list[str]:
    lines = ["sandbox: nothing here can isolate untrusted code:"]
    lines += [f"  {probe.backend}: {probe.why}. Fix: {probe.fix}" for probe in failed]
    return [*lines, "  or set sandbox.allow_unsafe=true to run it with resource limits only (every result will say so)"]


async def probe(config: SandboxConfig | None = None) -> list[Probe]:
    """Every backend's live self-test, for `doctor`; takes well under two seconds."""
    config = config or SandboxConfig()
    python = runtime.choose()
    if python is None:
        return [Probe(name, False, "no Python of 3.10 or newer", "apt install python3") for name in BACKENDS]
    found = []
    try:
        for backend in BACKENDS:
            result = await _open(config, backend, python, 1)
            if isinstance(result, Slots):
                await result.close()
                quota = "" if backend == "bwrap" else " (Python only, no disk quota)"
                result = Probe(
                    backend, True, f"self-test passed{quota}, Python {python.version[0]}.{python.version[1]}"
                )
            found.append(result)
    finally:
        python.discard()
    return found
