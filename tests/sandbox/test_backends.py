"""Choosing a backend, opening and closing, trouble of the machine."""

from __future__ import annotations

import asyncio
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import pytest

from factory.errors import NoIsolation
from factory.sandbox import SandboxConfig, SandboxError, backends, open_sandbox, probe, runtime
from factory.sandbox.runtime import Runtime
from tests.sandbox.conftest import Box, processes_with


def test_probe_is_quick_and_tells_why() -> None:
    began = time.monotonic()
    found = asyncio.run(probe())
    assert [item.backend for item in found] == ["bwrap", "landlock"]
    assert all(item.why and (item.ok or item.fix) for item in found)
    assert time.monotonic() - began < 6  # under 2 s on a machine that does nothing else


def _verify(config: SandboxConfig) -> tuple[str, str]:
    async def once() -> tuple[str, str]:
        async with open_sandbox(config) as sandbox:
            verdict = await sandbox.verify("def f():\n    return 1\n", ["assert f() == 1"])
            return verdict.status, verdict.backend

    return asyncio.run(once())


@pytest.fixture
def nothing_works(monkeypatch: pytest.MonkeyPatch) -> None:
    async def leaks(slots: object, backend: str) -> str:
        return "" if backend == "unsafe" else "opens sockets"

    monkeypatch.setattr(backends, "self_test", leaks)


@pytest.mark.usefixtures("nothing_works")
def test_no_isolation_is_an_error_that_says_how_to_mend_it() -> None:
    with pytest.raises(NoIsolation) as caught:
        _verify(SandboxConfig(slots=1))
    text = str(caught.value)
    assert "bwrap: opens sockets" in text or "bwrap is not installed" in text
    assert "landlock: opens sockets" in text
    assert "Fix:" in text
    assert "allow_unsafe" in text


@pytest.mark.usefixtures("nothing_works")
def test_unsafe_must_be_asked_for_and_is_recorded() -> None:
    assert _verify(SandboxConfig(slots=1, allow_unsafe=True)) == ("pass", "unsafe")


def test_allow_unsafe_changes_nothing_where_isolation_works(box: Box) -> None:
    assert _verify(SandboxConfig(slots=1, allow_unsafe=True, backend=box.backend)) == ("pass", box.backend)


def test_the_self_test_notices_a_backend_that_isolates_nothing() -> None:
    """The live self-test, pointed at the unsafe backend, finds the leaks that it exists to find."""

    async def found() -> str:
        python = runtime.choose()
        assert python is not None
        config = SandboxConfig(slots=1)
        slots = backends.Slots(backends.settings(config, "unsafe", python), python.python, 1)
        try:
            return await backends.self_test(slots, "unsafe-but-tested")
        finally:
            await slots.close()

    text = asyncio.run(found())
    assert "opens sockets" in text
    assert "reads the machine's files" in text
    assert "writes outside" in text


def test_without_bwrap_the_next_backend_is_taken(
    monkeypatch: pytest.MonkeyPatch, boxes: dict[str, Box], box: Box
) -> None:
    if box.backend != "landlock":
        pytest.skip("about landlock")
    real = shutil.which
    monkeypatch.setattr(backends.shutil, "which", lambda name: None if name == "bwrap" else real(name))
    assert _verify(SandboxConfig(slots=1)) == ("pass", "landlock")


def test_closing_leaves_no_process_and_no_folder(box: Box) -> None:
    before = set(os.listdir(tempfile.gettempdir()))
    mine = _children()
    assert _verify(SandboxConfig(slots=2, backend=box.backend))[0] == "pass"
    assert _children() <= mine
    assert not [name for name in set(os.listdir(tempfile.gettempdir())) - before if name.startswith("sandbox-")]


def _children() -> set[int]:
    return set(map(int, Path(f"/proc/self/task/{os.getpid()}/children").read_text().split()))


ORPHAN = """
import asyncio, sys
from factory.sandbox import SandboxConfig, open_sandbox
async def main():
    async with open_sandbox(SandboxConfig(backend=sys.argv[1], slots=1, wall=60, cpu=60)) as sandbox:
        code = "import time\\ndef f():\\n    time.sleep(50)\\n    return 1\\n"
        job = asyncio.ensure_future(sandbox.verify(code, ["assert f() == 1"]))
        await asyncio.sleep(1)
        print("running", flush=True)
        await job
asyncio.run(main())
"""


def test_nothing_survives_a_supervisor_that_is_killed(box: Box, tmp_path: Path) -> None:
    env = {**os.environ, "TMPDIR": str(tmp_path)}
    tmp_path.chmod(0o755)
    for parent in list(tmp_path.parents)[:3]:
        if parent.owner() == tmp_path.owner():
            parent.chmod(0o755)
    process = subprocess.Popen([sys.executable, "-c", ORPHAN, box.backend], stdout=subprocess.PIPE, env=env)
    assert process.stdout is not None
    assert process.stdout.readline() == b"running\n"
    family = _descendants(process.pid)
    assert len(family) >= 2, "the helper and its job"
    process.send_signal(signal.SIGKILL)
    process.wait()
    process.stdout.close()
    end = time.monotonic() + 8
    while any(map(_alive, family)) and time.monotonic() < end:
        time.sleep(0.05)
    assert not [pid for pid in family if _alive(pid)]
    assert not list(tmp_path.iterdir()), "the helper cleaned up"


def _descendants(pid: int) -> list[int]:
    found, todo = [], [pid]
    while todo:
        children = Path(f"/proc/{todo[0]}/task/{todo.pop(0)}/children").read_text().split()
        found += map(int, children)
        todo += map(int, children)
    return found


def _alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except OSError:
        return False


def test_a_lost_worker_is_replaced_and_the_job_done_again(box: Box) -> None:
    helpers = box.runner.run(_helpers(box))
    for pid in helpers:
        os.kill(pid, signal.SIGKILL)
    assert box.verify("def f():\n    return 1\n", ["assert f() == 1"]).status == "pass"


async def _helpers(box: Box) -> list[int]:
    await box.sandbox.verify("def f():\n    return 1\n", ["assert f() == 1"])
    return [slot._process.pid for slot in box.sandbox._slots._all if slot._process is not None]


def test_a_machine_that_fails_twice_is_an_error_and_no_verdict(monkeypatch: pytest.MonkeyPatch, box: Box) -> None:
    async def broken() -> None:
        async with open_sandbox(SandboxConfig(slots=1, backend=box.backend)) as sandbox:
            for slot in sandbox._slots._all:
                await slot.close()
                slot._settings = {**slot._settings, "python": "/nowhere/python", "bwrap": "/nowhere/bwrap"}
            await sandbox.verify("def f():\n    return 1\n", ["assert f() == 1"])

    with pytest.raises(SandboxError, match="infra_error"):
        asyncio.run(broken())


def test_cancelling_a_job_ends_it_and_frees_its_slot(box: Box) -> None:
    async def cancelled() -> str:
        job = asyncio.ensure_future(box.sandbox.verify("import time\ntime.sleep(60)\n", ["assert f() == 1"]))
        await asyncio.sleep(0.3)
        job.cancel()
        await asyncio.gather(job, return_exceptions=True)
        return (await box.sandbox.verify("def f():\n    return 1\n", ["assert f() == 1"])).status

    assert box.runner.run(cancelled()) == "pass"


@pytest.mark.parametrize("start", ["fresh", "cold"])
def test_other_starts_isolate_as_well(start: str, bwrap: Box) -> None:
    other = Box(backend="bwrap", start=start)
    try:
        assert other.verify("def f(x):\n    return x + 1\n", ["assert f(1) == 2", "assert f(1) == 3"]).passed == 1
        assert other.call("import os\ndef f():\n    return os.getppid() in (0, 1)\n", "f()") is True
        crash = other.verify("import os\ndef f():\n    os.kill(os.getpid(), 11)\n", ["assert f() == 1"])
        assert crash.status == "crash"
        assert "SIGSEGV" in crash.feedback
        assert other.verify("def f():\n    while True: pass\n", ["assert f() == 1"], wall=1).status == "timeout"
        stubborn = "import os, time\ndef f():\n    for _ in range(3): os.fork()\n    time.sleep(1)\n    return os.getpid() > 1\n"
        assert other.verify(stubborn, ["assert f() == True"]).status in ("pass", "protocol")
    finally:
        other.close()


def test_hash_seed_is_fixed_so_that_verdicts_repeat(box: Box) -> None:
    code = "def f():\n    return list({'apple', 'pear', 'plum', 'fig', 'kiwi', 'lime'})\n"
    first = box.call(code, "f()")
    other = Box(backend=box.backend)
    try:
        assert other.call(code, "f()") == first
    finally:
        other.close()


def test_random_numbers_differ_from_job_to_job(box: Box) -> None:
    code = "import random\ndef f():\n    return random.random()\n"
    assert box.call(code, "f()") != box.call(code, "f()")


def test_an_interpreter_under_a_private_home_is_copied(tmp_path: Path) -> None:
    if os.geteuid() != 0:
        pytest.skip("only root runs jobs as another user")
    original = runtime.choose()
    assert original is not None
    home = tmp_path / "home"
    home.mkdir(0o700)
    hidden = Runtime(original.python, original.version, original.readable)
    copy = runtime._stage(hidden)
    try:
        assert runtime.readable_by_others(copy.python)
        assert copy.version == original.version
        assert not runtime.readable_by_others(str(home))
        done = subprocess.run([copy.python, "-I", "-S", "-c", "import json, ctypes; print(json.__file__)"],
                              capture_output=True, text=True, check=True)  # fmt: skip
        assert done.stdout.startswith(copy.staged)
    finally:
        copy.discard()
    assert not Path(copy.staged).exists()


def test_every_key_of_the_configuration_is_told_to_the_helper() -> None:
    python = Runtime("python", (3, 11), ())
    plain = backends.settings(SandboxConfig(), "bwrap", python)
    changed = {"start": "cold", "wall": 9.0, "cpu": 9, "memory_mb": 999, "processes": 9, "output_kb": 9, "disk_mb": 9}
    for key, value in changed.items():
        assert backends.settings(SandboxConfig(**{key: value}), "bwrap", python) != plain, key
    rest = set(SandboxConfig.model_fields) - set(changed)
    assert rest == {"backend", "slots", "allow_unsafe"}, "these are tested above"


def test_no_stray_processes_of_this_package(box: Box) -> None:
    box.verify("def f():\n    return 1\n", ["assert f() == 1"])
    assert processes_with("factory.sandbox.inside.serve"), "the detector sees the helpers"
