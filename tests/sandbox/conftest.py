"""A sandbox a backend, kept open for the whole session, and what stands outside it for candidates to reach for."""

from __future__ import annotations

import asyncio
import os
import shutil
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from factory.sandbox import Execution, SandboxConfig, Strength, Verdict, open_sandbox, probe

BACKENDS = ("bwrap", "landlock")
LIMITS = {"slots": 1, "wall": 8.0, "cpu": 4, "memory_mb": 256, "processes": 16, "output_kb": 64, "disk_mb": 4}


class Box:
    """A sandbox without `await`: every call runs on the loop that opened it."""

    def __init__(self, **config: Any) -> None:
        self.runner = asyncio.Runner()
        self.config = SandboxConfig(**{**LIMITS, **config})
        self.context = open_sandbox(self.config)
        self.sandbox = self.runner.run(self.context.__aenter__())
        self.backend = self.sandbox.backend

    def verify(self, code: str, tests: Sequence[Any], **options: Any) -> Verdict:
        return self.runner.run(self.sandbox.verify(code, tests, **options))

    def call(self, code: str, call: str, **options: Any) -> Any:
        """The plain value of one call, by way of a test that cannot pass."""
        verdict = self.verify(code, [f"assert {call} == '<never>'"], **options)
        assert verdict.status == "wrong", verdict
        return eval(verdict.tests[0].got)

    def run(self, code: str, **options: Any) -> Execution:
        return self.runner.run(self.sandbox.run(code, **options))

    def strength(self, code: str, tests: Sequence[str], **options: Any) -> Strength:
        return self.runner.run(self.sandbox.strength(code, tests, **options))

    def close(self) -> None:
        self.runner.run(self.context.__aexit__(None, None, None))
        self.runner.close()


@pytest.fixture(scope="session")
def boxes() -> Iterator[dict[str, Box]]:
    opened: dict[str, Box] = {}
    yield opened
    for box in opened.values():
        box.close()


@pytest.fixture(scope="session")
def probes() -> dict[str, Any]:
    return {found.backend: found for found in asyncio.run(probe())}


def _need(found: Any) -> None:
    """Skip where the machine lacks the backend; fail where the backend runs and leaks."""
    if not found.ok:
        leaks = ("opens", "reads", "writes", "sees", "has an environment", "runs as root", "cannot write")
        give_up = pytest.fail if found.why.startswith(leaks) else pytest.skip
        give_up(f"{found.backend}: {found.why}")


@pytest.fixture(params=BACKENDS)
def box(request: pytest.FixtureRequest, boxes: dict[str, Box], probes: dict[str, Any]) -> Box:
    """One backend's sandbox; a machine that cannot run it says so in the skip."""
    name = request.param
    _need(probes[name])
    if name not in boxes:
        boxes[name] = Box(backend=name)
    return boxes[name]


@pytest.fixture
def bwrap(boxes: dict[str, Box], probes: dict[str, Any]) -> Box:
    _need(probes["bwrap"])
    if "bwrap" not in boxes:
        boxes["bwrap"] = Box(backend="bwrap")
    return boxes["bwrap"]


class Bare:
    """The same code at the same uid with no isolation at all: where every detector must fire."""

    def __init__(self, uid: int | None, python: str) -> None:
        self.uid, self.python = uid, python

    def call(self, code: str, call: str, folder: str, timeout: float = 20) -> Any:
        program = f"import os\nos.chdir({folder!r})\n{code}\nprint(repr({call}))"
        drop = {"user": self.uid, "group": self.uid, "extra_groups": []} if self.uid else {}
        done = subprocess.run(
            [self.python, "-I", "-c", program], capture_output=True, text=True, timeout=timeout, check=False,
            env={"SANDBOX_SECRET": "visible"}, cwd="/", **drop,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
        return eval(done.stdout)


@pytest.fixture(scope="session")
def bare() -> Bare:
    from factory.sandbox import runtime

    python = runtime.choose()
    assert python is not None
    assert not python.staged
    return Bare(1_950_000_001 if os.geteuid() == 0 else None, python.python)


class Outside:
    """What candidates reach for: files, sockets and a process, all open to whatever uid they run as."""

    def __init__(self) -> None:
        self.folder = tempfile.mkdtemp(prefix="outside-")
        os.chmod(self.folder, 0o777)
        self.key = self.file("id_ed25519")
        self.victim = self.file("victim")
        self.tcp = socket.create_server(("127.0.0.1", 0))
        self.udp = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self.udp.bind(("127.0.0.1", 0))
        self.abstract = f"sandbox-test-{os.getpid()}"
        self.unix = socket.socket(socket.AF_UNIX)
        self.unix.bind("\0" + self.abstract)
        self.unix.listen()
        self.names = {
            "KEY": self.key, "VICTIM": self.victim, "FOLDER": self.folder, "TCP": self.tcp.getsockname()[1],
            "UDP": self.udp.getsockname()[1], "ABSTRACT": self.abstract, "PID": os.getpid(),
        }  # fmt: skip

    def file(self, name: str) -> str:
        path = Path(self.folder, name)
        path.write_text("PRIVATE KEY")
        path.chmod(0o666)
        return str(path)

    @contextmanager
    def process(self, uid: int | None) -> Iterator[subprocess.Popen[bytes]]:
        """A process that the candidate's uid owns, so that only isolation can keep them apart."""
        drop = {"user": uid, "group": uid, "extra_groups": []} if os.geteuid() == 0 and uid else {}
        process = subprocess.Popen(["/bin/sleep", "60"], cwd="/", **drop)
        try:
            yield process
        finally:
            process.kill()
            process.wait()

    def close(self) -> None:
        for end in (self.tcp, self.udp, self.unix):
            end.close()
        shutil.rmtree(self.folder, ignore_errors=True)


@pytest.fixture
def outside() -> Iterator[Outside]:
    made = Outside()
    yield made
    made.close()


def processes_with(marker: str) -> list[int]:
    """Pids of this machine's processes whose command line holds `marker`."""
    found = []
    for entry in os.listdir("/proc"):
        if entry.isdigit() and int(entry) != os.getpid():
            try:
                if marker.encode() in Path("/proc", entry, "cmdline").read_bytes():
                    found.append(int(entry))
            except OSError:
                continue
    return found


assert sys.platform == "linux"
