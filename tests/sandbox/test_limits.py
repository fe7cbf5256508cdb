"""The battery's gluttons: each ends with the right word, in time, and leaves the worker fit for the next job.

Every loop has an end of its own, so that a sandbox that failed would not take the machine with it.
"""

from __future__ import annotations

import os
import time

import pytest

from tests.sandbox.conftest import Bare, Box

RIGHT = "def add(a, b):\n    return a + b\n"
WALL = 1.0


def _still_works(box: Box) -> None:
    assert box.verify(RIGHT, ["assert add(2, 3) == 5"]).status == "pass"


ENDLESS = {
    "inf_loop": "def f():\n    for _ in range(10**11):\n        pass\n",
    "c_loop": "def f():\n    return sum(range(10**12))\n",
    "sleep_forever": "import time\ndef f():\n    time.sleep(60)\n",
    "ignore_signals": """
import signal, time
def f():
    for number in range(1, 64):
        try:
            signal.signal(number, signal.SIG_IGN)
        except (OSError, ValueError):
            pass
    end = time.time() + 60
    while time.time() < end:
        try:
            time.sleep(1)
        except BaseException:
            pass
""",
    "sleep_while_loading": "import time\ntime.sleep(60)\ndef f():\n    return 1\n",
}


@pytest.mark.parametrize("name", ENDLESS)
def test_endless_work_meets_the_wall_clock(name: str, box: Box) -> None:
    began = time.monotonic()
    verdict = box.verify(ENDLESS[name], ["assert f() == 1", "assert f() == 2"], wall=WALL)
    assert verdict.status == "timeout", verdict
    assert verdict.passed == 0
    assert verdict.total == 2
    assert time.monotonic() - began < WALL + 5
    _still_works(box)


BUSY = """
import threading, time
def f(seconds):
    end = time.time() + seconds
    def work():
        while time.time() < end:
            pass
    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return 1
"""


def test_busy_threads_run_out_of_cpu_or_time(box: Box) -> None:
    assert box.verify(BUSY, ["assert f(60) == 1"]).status in ("cpu", "timeout")
    assert box.verify(BUSY, ["assert f(0.05) == 1"]).status == "pass"
    _still_works(box)


def test_cpu_is_told_from_time(box: Box) -> None:
    verdict = box.verify(ENDLESS["inf_loop"], ["assert f() == 1"], wall=60)
    assert verdict.status == "cpu", verdict
    assert "CPU" in verdict.feedback


def test_a_caught_cpu_signal_does_not_buy_time(box: Box) -> None:
    code = "import signal\nsignal.signal(signal.SIGXCPU, signal.SIG_IGN)\n" + ENDLESS["inf_loop"]
    assert box.verify(code, ["assert f() == 1"], wall=60).status == "cpu"


FORKS = """
import os, time
def forks(wanted):
    made = 0
    for _ in range(wanted):
        try:
            pid = os.fork()
        except OSError:
            break
        if pid == 0:
            time.sleep(8)
            os._exit(0)
        made += 1
    return made
"""


def test_fork_bomb(box: Box) -> None:
    made = box.call(FORKS, "forks(100)")
    assert made == 0 if box.backend == "landlock" else 0 < made <= box.config.processes + 2
    _still_works(box)


def test_the_fork_bomb_goes_off_without_isolation(bare: Bare) -> None:
    assert bare.call(FORKS.replace("sleep(8)", "sleep(0.5)"), "forks(100)", "/") == 100


THREADS = """
import threading
def threads(wanted):
    threading.stack_size(65536)
    stop, made = threading.Event(), 0
    for _ in range(wanted):
        try:
            threading.Thread(target=stop.wait, args=(5,), daemon=True).start()
        except RuntimeError:
            break
        made += 1
    stop.set()
    return made
"""


def test_thread_bomb(box: Box) -> None:
    assert 0 < box.call(THREADS, "threads(400)") <= box.config.processes + 2
    _still_works(box)


def test_the_thread_bomb_goes_off_without_isolation(bare: Bare) -> None:
    assert bare.call(THREADS, "threads(400)", "/") == 400


def test_mem_bomb(box: Box) -> None:
    code = "def f():\n    held = []\n    for _ in range(64):\n        held.append(bytearray(16 << 20))\n    return len(held)\n"
    verdict = box.verify(code, ["assert f() == 64"])
    assert verdict.status == "memory", verdict
    _still_works(box)


def test_mem_bomb_shared_out_among_processes(bwrap: Box) -> None:
    code = """
import os, time
def f():
    for _ in range(8):
        if os.fork() == 0:
            held = bytearray(150 << 20)
            for place in range(0, len(held), 4096):
                held[place] = 1
            time.sleep(10)
            os._exit(0)
    time.sleep(10)
    return 1
"""
    verdict = bwrap.verify(code, ["assert f() == 1"])
    assert verdict.status == "memory", verdict
    assert verdict.seconds < 8
    _still_works(bwrap)


def test_recursion(box: Box) -> None:
    verdict = box.verify("def f(n):\n    return f(n + 1)\n", ["assert f(0) == 1"])
    assert verdict.status == "exception"
    assert "RecursionError" in verdict.feedback


def test_recursion_through_the_stack_is_a_crash(box: Box) -> None:
    code = "import sys\nsys.setrecursionlimit(10**9)\ndef f(x):\n    return sorted([x], key=f)\n"
    assert box.verify(code, ["assert f(0) == 1"]).status in ("crash", "memory", "exception")
    _still_works(box)


def test_segfault(box: Box) -> None:
    verdict = box.verify("import ctypes\ndef f():\n    return ctypes.string_at(0)\n", ["assert f() == 1"])
    assert verdict.status == "crash"
    assert "SIGSEGV" in verdict.feedback


def test_stdout_flood(box: Box) -> None:
    verdict = box.verify("def f():\n    for _ in range(10**5):\n        print('x' * 1000)\n", ["assert f() is None"])
    assert verdict.status == "output", verdict
    _still_works(box)


def test_output_below_the_cap_is_no_offence(box: Box) -> None:
    assert box.verify("def f():\n    print('x' * 1000)\n    return 1\n", ["assert f() == 1"]).status == "pass"


def test_huge_int_answer(box: Box) -> None:
    verdict = box.verify("def f(n):\n    return 10 ** n\n", ["assert f(10**6) == 1", "assert f(2000) == 10**2000"])
    assert [outcome.status for outcome in verdict.tests] == ["output", "pass"]


@pytest.mark.parametrize(
    "value",
    ["'x' * 10**8", "[0] * 10**7", "range(10**9) and list(range(10**6))", "nested(10**4)", "endless()", "itself()"],
)
def test_endless_answers(value: str, box: Box) -> None:
    code = f"""
def nested(depth):
    value = []
    for _ in range(depth):
        value = [value]
    return value
def endless():
    class Endless(list):
        def __iter__(self):
            while True:
                yield 1
        def __len__(self):
            return 10**9
    return Endless([1])
def itself():
    value = []
    value.append(value)
    return value
def f():
    return {value}
"""
    verdict = box.verify(code, ["assert f() == 1"])
    assert verdict.status in ("output", "memory", "wrong"), verdict
    assert verdict.passed == 0
    _still_works(box)


def test_huge_file(box: Box) -> None:
    code = """
def f(megabytes):
    written = 0
    try:
        with open("huge", "wb", buffering=0) as file:
            for _ in range(megabytes):
                written += file.write(bytes(1 << 20))
    except OSError:
        pass
    return written >> 20
"""
    assert box.call(code, "f(2)") == 2
    assert box.call(code, "f(64)") <= box.config.disk_mb
    _still_works(box)


FILES = """
import os
def f(wanted):
    made = 0
    try:
        for number in range(wanted):
            open("file%d" % number, "w").close()
            made += 1
    except OSError:
        pass
    return made
"""


def test_many_files_quota(box: Box) -> None:
    made = box.call(FILES, "f(5000)")
    assert box.sandbox.disk_quota == (box.backend == "bwrap")
    assert (made < 5000) == box.sandbox.disk_quota
    assert box.call("import os\ndef f():\n    return os.listdir('.')\n", "f()") == []


def test_big_files_in_number(bwrap: Box) -> None:
    code = """
def f():
    written = 0
    try:
        for number in range(30):
            with open("part%d" % number, "wb") as file:
                written += file.write(bytes(1 << 20))
                file.flush()
    except OSError:
        pass
    return written >> 20
"""
    assert bwrap.call(code, "f()") <= bwrap.config.disk_mb + 1


def test_binary_output(box: Box) -> None:
    done = box.run("import sys\nsys.stdout.buffer.write(bytes(range(256)))\n")
    assert done.status == "pass"
    assert done.stdout.startswith("\0\x01")
    assert "\\xff" in done.stdout
    assert box.verify("def f():\n    return bytes(range(256))\n", ["assert f() == bytes(range(256))"]).status == "pass"


def test_stdin_wait(box: Box) -> None:
    began = time.monotonic()
    verdict = box.verify("def f():\n    return input()\n", ["assert f() == ''"])
    assert verdict.status == "exception"
    assert "EOFError" in verdict.feedback
    assert time.monotonic() - began < 5


def test_limits_are_clamped_to_what_was_inherited(tmp_path: object) -> None:
    import resource
    import subprocess
    import sys

    program = (
        "import asyncio\nfrom factory.sandbox import SandboxConfig, open_sandbox\n"
        "async def main():\n"
        "    async with open_sandbox(SandboxConfig(slots=1, memory_mb=4096, disk_mb=4096)) as sandbox:\n"
        "        print((await sandbox.verify('def f(): return 1', ['assert f() == 1'])).status)\n"
        "asyncio.run(main())\n"
    )

    def lower() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 30, 1 << 30))
        resource.setrlimit(resource.RLIMIT_AS, (4 << 30, 4 << 30))

    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, preexec_fn=lower, check=False, cwd=os.getcwd()
    )
    assert done.stdout.strip() == "pass", done.stderr
