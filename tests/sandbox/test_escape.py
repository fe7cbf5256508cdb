"""The battery's escapes: a right solution still passes, nothing leaks, and each detector fires without isolation."""

from __future__ import annotations

import os
import time

import pytest

from tests.sandbox.conftest import Bare, Box, Outside, processes_with

RIGHT = "def add(a, b):\n    return a + b\n"
# Each `leaks()` tells whether it got out. Names in capitals are what stands outside (see `Outside`).
DETECTORS = {
    "net_tcp": """
import socket
def leaks():
    try:
        socket.create_connection(("127.0.0.1", TCP), 2).close()
        return True
    except OSError:
        return False
""",
    "net_udp_dns": """
import socket
def leaks():
    try:
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as out:
            return out.sendto(b"query", ("127.0.0.1", UDP)) > 0
    except OSError:
        return False
""",
    "net_abstract_unix": """
import socket
def leaks():
    try:
        with socket.socket(socket.AF_UNIX) as out:
            out.connect("\\0" + ABSTRACT)
        return True
    except OSError:
        return False
""",
    "net_unix_datagram_pair": """
import socket
def leaks():
    try:
        first, second = socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)
        return True
    except OSError:
        return False
""",
    "read_ssh_key": """
def leaks():
    try:
        return open(KEY).read() == "PRIVATE KEY"
    except OSError:
        return False
""",
    "read_env": """
import os
def leaks():
    try:
        whole = open("/proc/self/environ").read()
    except OSError:
        whole = ""
    return "SANDBOX_SECRET" in os.environ or "visible" in whole
""",
    "read_etc_passwd": """
def leaks():
    try:
        return "root" in open("/etc/passwd").read()
    except OSError:
        return False
""",
    "see_host_procs": """
import os
def leaks():
    try:
        return len(open("/proc/%d/status" % PID).read()) > 0
    except OSError:
        return False
""",
    "dev_access": """
import os
def leaks():
    for path, mode in (("/dev/shm/leak%d" % PID, "w"), ("/dev/tty", "w"), ("/dev/kmsg", "r"), ("/dev/mem", "r")):
        try:
            open(path, mode).close()
            if mode == "w" and "shm" in path:
                os.remove(path)
            return True
        except OSError:
            pass
    return False
""",
    "write_outside": """
import os
def leaks():
    try:
        open(os.path.join(FOLDER, "written"), "w").close()
        return True
    except OSError:
        return False
""",
    "symlink_escape": """
import os
def leaks():
    try:
        os.symlink(KEY, "link%d" % os.getpid())
        return open("link%d" % os.getpid()).read() == "PRIVATE KEY"
    except OSError:
        return False
""",
    "hardlink_escape": """
import os
def leaks():
    try:
        os.link(KEY, "hard%d" % os.getpid())
        return open("hard%d" % os.getpid()).read() == "PRIVATE KEY"
    except OSError:
        return False
""",
    "delete_interpreter": """
import os, sys
def leaks():
    done = False
    for path in (sys.executable, os.__file__, VICTIM):
        try:
            os.remove(path)
            done = True
        except OSError:
            pass
    return done
""",
    "userns_mount": """
import ctypes
def leaks():
    libc = ctypes.CDLL(None)
    return libc.unshare(0x10000000 | 0x20000) == 0
""",
    "setuid_bin": """
import ctypes
def leaks():
    return ctypes.CDLL(None).prctl(39, 0, 0, 0, 0) == 0  # without no_new_privs a set-uid program would gain
""",
    "change_metadata": """
import os
def leaks():
    try:
        os.utime(VICTIM)
        return True
    except OSError:
        return False
""",
    "system_v_memory": """
import ctypes
def leaks():
    libc = ctypes.CDLL(None)
    got = libc.shmget(0, 4096, 0o1600)
    if got >= 0:
        libc.shmctl(got, 0, None)
    return got >= 0
""",
    "memfd": """
import os
def leaks():
    try:
        os.close(os.memfd_create("unbounded"))
        return True
    except OSError:
        return False
""",
    "limit_parent": """
import os, resource
def leaks():
    try:
        resource.prlimit(os.getppid(), resource.RLIMIT_NOFILE)
        return True
    except OSError:
        return False
""",
}


def _with_names(code: str, outside: Outside) -> str:
    return "".join(f"{name} = {value!r}\n" for name, value in outside.names.items()) + RIGHT + code


@pytest.mark.parametrize("name", DETECTORS)
def test_nothing_leaks_and_a_right_solution_passes(name: str, box: Box, outside: Outside) -> None:
    verdict = box.verify(_with_names(DETECTORS[name], outside), ["assert leaks() is False", "assert add(2, 3) == 5"])
    assert verdict.status == "pass", verdict
    assert box.verify(RIGHT, ["assert add(2, 3) == 5"]).status == "pass", "the worker was harmed"


@pytest.mark.parametrize("name", [name for name in DETECTORS if name != "limit_parent"])
def test_the_detector_fires_without_isolation(name: str, bare: Bare, outside: Outside) -> None:
    work = os.path.join(outside.folder, "work")
    os.mkdir(work)
    os.chmod(work, 0o777)
    assert bare.call(_with_names(DETECTORS[name], outside), "leaks()", work) is True


# TARGETS are processes: inside, the parent too; in the control only the one outside, which is the same uid's.
KILL = """
import os
def leaks():
    done = False
    for pid in TARGETS:
        try:
            os.kill(pid, 9)
            done = done or pid == TARGETS[-1]
        except OSError:
            pass
    return done
"""
PTRACE = """
import ctypes
def leaks():
    libc = ctypes.CDLL(None)
    return any([libc.ptrace(16, pid, 0, 0) == 0 for pid in TARGETS])
"""
MEMORY = """
def leaks():
    for pid in TARGETS:
        try:
            open("/proc/%d/mem" % pid, "r+b").close()
            return True
        except OSError:
            pass
    return False
"""
REACH = pytest.mark.parametrize("code", [KILL, PTRACE, MEMORY], ids=["kill_parent", "ptrace_parent", "parent_memory"])


@REACH
def test_no_other_process_is_touched(code: str, box: Box, outside: Outside) -> None:
    uid = box.call("import os\ndef who():\n    return os.getuid()", "who()")
    with outside.process(uid) as victim:
        source = f"import os\nTARGETS = [os.getppid(), 1, {victim.pid}]\n{RIGHT}{code}"
        verdict = box.verify(source, ["assert leaks() is False", "assert add(1, 1) == 2"])
        assert verdict.status == "pass", verdict
        assert victim.poll() is None
    assert box.verify(RIGHT, ["assert add(2, 3) == 5"]).status == "pass"


@REACH
def test_a_process_can_be_touched_without_isolation(code: str, bare: Bare, outside: Outside) -> None:
    with outside.process(bare.uid) as victim:
        time.sleep(0.2)  # until it has become sleep: before the exec it is not ours to trace
        assert bare.call(f"TARGETS = [{victim.pid}]\n{code}", "leaks()", outside.folder) is True


HUNT = """
import gc, sys
def hunt():
    seen = []
    frame = sys._getframe()
    while frame:
        seen += list(frame.f_locals.values())
        frame = frame.f_back
    stack = seen + gc.get_objects()
    for thing in stack:
        things = list(thing.values()) if type(thing) is dict else thing if type(thing) in (list, tuple) else [thing]
        for part in things:
            if type(part) is str and "expected-" in part and "gc.get" not in part:
                return part
    return "nothing"
"""


def test_read_tests_what_is_expected_is_nowhere_inside(box: Box) -> None:
    verdict = box.verify(HUNT, ["assert 'expected-1234' not in hunt()", "assert hunt() != 'expected-5678'"])
    assert verdict.status == "pass", verdict
    assert verdict.trust == "supervisor"


def test_read_tests_the_hunt_finds_what_shares_its_process(box: Box) -> None:
    test = "spare = lambda: 0\nassert (lambda _: hunt())(identity(spare)) == 'expected-1234'"
    code = HUNT + "\ndef identity(x):\n    return x\n"
    verdict = box.verify(code, [test], allow_in_process=True)
    assert verdict.trust == "in_process"
    hunted = box.verify(
        code, ["spare = lambda: 0\nidentity(spare)\nassert 'expected-1234' in hunt()"], allow_in_process=True
    )
    assert hunted.status == "pass"


def test_exec_subprocess_stays_inside_or_is_refused(box: Box, outside: Outside) -> None:
    code = f"""
import subprocess, sys
def child(source):
    done = subprocess.run([sys.executable, "-S", "-c", source], capture_output=True, text=True)
    return done.stdout.strip()
{RIGHT}"""
    if box.backend == "landlock":
        verdict = box.verify(code, ["assert child('print(6 * 7)') == '42'", "assert add(1, 2) == 3"])
        assert [outcome.status for outcome in verdict.tests] == ["exception", "pass"]
        assert "Operation not permitted" in verdict.tests[0].error
    else:
        peek = f"print(open({outside.key!r}).read())"
        tests = ["assert child('print(6 * 7)') == '42'", f"assert child({peek!r}) == ''"]
        assert box.verify(code, tests).status == "pass"


DAEMON = """
import os, sys
def start(seconds):
    if os.fork() == 0:
        os.setsid()
        if os.fork() == 0:
            os.execv(sys.executable, [sys.executable, "-S", "-c", "import time; time.sleep(300)  # MARKER"])
        os._exit(0)
    import time
    time.sleep(seconds)
    return 1
"""


def test_daemon_does_not_survive(bwrap: Box) -> None:
    marker = f"daemon-{os.getpid()}-{time.monotonic_ns()}"
    code = DAEMON.replace("MARKER", marker)

    async def during() -> tuple[list[int], str]:
        import asyncio

        job = asyncio.ensure_future(bwrap.sandbox.verify(code, ["assert start(1.5) == 1"]))
        seen: list[int] = []
        while not job.done() and not seen:
            seen = processes_with(marker)
            await asyncio.sleep(0.05)
        return seen, (await job).status

    seen, status = bwrap.runner.run(during())
    assert seen, "the detector never saw the daemon alive"
    assert status == "pass"
    assert processes_with(marker) == []


def test_daemon_cannot_even_start_under_landlock(boxes: dict[str, Box], box: Box) -> None:
    if box.backend == "landlock":
        assert box.verify(DAEMON, ["assert start(0) == 1"]).status == "exception"
    else:
        assert box.verify(DAEMON, ["assert start(0) == 1"]).status == "pass"


STATE = """
import builtins, os, sys, json
def soil():
    for path in ("left", "/tmp/left", "/dev/shm/left", "/box/left"):
        try:
            open(path, "w").close()
        except OSError:
            pass
    os.environ["LEFT"] = "1"
    builtins.left = 1
    sys.modules["left"] = sys
    json.dumps = None
    sys.setrecursionlimit(77)
    return traces()
def traces():
    found = [name for name in ("left", "/tmp/left", "/dev/shm/left", "/box/left") if os.path.exists(name)]
    found += [name for name in ("LEFT",) if name in os.environ]
    found += ["builtins"] if hasattr(builtins, "left") else []
    found += ["modules"] if "left" in sys.modules else []
    found += ["json"] if json.dumps is None else []
    found += ["limit"] if sys.getrecursionlimit() == 77 else []
    return found
"""


def test_state_leak(box: Box) -> None:
    assert len(box.call(STATE, "soil()")) >= 5, "the detector must see its own traces"
    assert box.verify(STATE, ["assert traces() == []"]).status == "pass"


def test_descriptors_are_new_for_each_job(box: Box) -> None:
    nonblocking = "import os\ndef f():\n    [os.set_blocking(fd, False) for fd in (1, 2, 3)]\n    return 1"
    assert box.verify(nonblocking, ["assert f() == 1"]).status == "pass"
    blocking = "import os\ndef f():\n    return [os.get_blocking(fd) for fd in (1, 2, 3)]"
    assert box.verify(blocking, ["assert f() == [True, True, True]"]).status == "pass"
