"""The helper process of one slot: starts jobs, watches them, and reports. Started early, small, one job at a time.

It speaks length-prefixed JSON on its standard input and output with the supervisor, and ends, with everything that it
started, when that input closes.
"""

from __future__ import annotations
import __future__

import fcntl
import glob
import marshal
import os
import shutil
import tempfile
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from typing import Any

from factory.sandbox.inside import bwrap, landlock, limits, seccomp, spawn
from factory.sandbox.inside.jobs import ColdJob, Streams, Zygote
from factory.sandbox.inside.spawn import Unable
from factory.sandbox.inside.watch import Job, Watch

_COLD_PARTS = {"serve": ("plain", "runner", "remote"), "tester": ("plain", "runner", "tester")}
_WARM_PARTS = ("plain", "runner", "remote", "tester", "seccomp", "limits", "zygote")
_PACKAGE = "factory.sandbox.inside"
_LOAD = """
import sys, marshal
sys.path[:] = [p for p in sys.path if p]
with open({fd}, 'rb') as f: parts, body = marshal.load(f)
package = type(sys)({package!r}); package.__path__ = []; sys.modules[{package!r}] = package
for name, code in marshal.loads(parts):
    m = type(sys)(name); sys.modules[{package!r} + "." + name] = m; setattr(package, name, m); exec(code, m.__dict__)
"""
_WARM_BOOT = _LOAD.format(fd=4, package=_PACKAGE) + "m.main(body)"
_COLD_BOOT = (
    _LOAD.format(fd=5, package=_PACKAGE)
    + """
import os
os.environ.clear()
if body['nproc']:
    import resource
    resource.setrlimit(resource.RLIMIT_NPROC, (body['nproc'],) * 2)
runner = sys.modules['factory.sandbox.inside.runner']
runner.prepare_streams()
os._exit(runner.run(body))
"""
)
_PYTHON_ENVIRONMENT = {"PYTHONHASHSEED": "0"}


def _modules(names: Sequence[str]) -> bytes:
    """The code that goes inside, compiled here, once, by the very interpreter that will run it."""
    here = os.path.dirname(os.path.abspath(__file__))
    parts = []
    for name in names:
        path = os.path.join(here, f"{name}.py")
        with open(path, encoding="utf-8") as file:
            # As a flag, the future import costs a cold start no look into the library.
            source = file.read().replace("from __future__ import annotations\n", "\n", 1)
        parts.append(
            (name, compile(source, f"<{name}>", "exec", __future__.annotations.compiler_flag, dont_inherit=True))
        )
    return marshal.dumps(parts, 4)


def _libraries() -> list[str]:
    """Where shared libraries lie."""
    return ["/usr/lib", "/usr/lib64", "/lib", "/lib64", "/etc/ld.so.cache"]


class Keeper:
    """One slot: its settings (see `SandboxConfig` and `Runtime`), its user, its zygotes and its work folder."""

    def __init__(self, settings: Mapping[str, Any]) -> None:
        self.settings = settings
        self.backend: str = settings["backend"]
        self.libc = limits.load_libc()
        self.uid = limits.unprivileged_uid(settings["slot"])
        self.limits = [settings["cpu"], settings["memory"], settings["processes"] + 2, settings["disk"]]
        self.modules = {mode: _modules(parts) for mode, parts in _COLD_PARTS.items()}
        self.plain_modules = _modules(("plain", "runner"))
        self.zygotes: dict[str, Zygote] = {}
        self.folder = ""
        self.rulesets: dict[str, int] = {}
        if self.backend == "bwrap":
            self.filter = seccomp.program(alone=False)
        else:
            self.filter = seccomp.program(alone=True, truncate=landlock.version(self.libc) >= 3)
            self.folder = tempfile.mkdtemp(prefix="sandbox-")
            os.chmod(self.folder, 0o711)
            if self.backend == "landlock" and not landlock.version(self.libc):
                raise Unable("the kernel has no Landlock (needs 5.13, and landlock among its security modules)")

    def _workplace(self, role: str) -> tuple[str, int]:
        """The work folder of a role, emptied, and the Landlock ruleset for it (-1 without): one a role, since a
        candidate must not reach the tester's folder.
        """
        work = os.path.join(self.folder, role)
        if role not in self.rulesets:
            os.mkdir(work, 0o700)
            if self.uid is not None:
                os.chown(work, self.uid, self.uid)
            self.rulesets[role] = self._ruleset(work) if self.backend == "landlock" else -1
        for entry in os.scandir(work):
            if entry.is_dir(follow_symlinks=False):
                with suppress(OSError):  # an empty one may be closed even to its owner
                    os.rmdir(entry.path)
                shutil.rmtree(entry.path, ignore_errors=True)
            else:
                os.unlink(entry.path)
        return work, self.rulesets[role]

    def _ruleset(self, work: str) -> int:
        """Reading the runtime, running the interpreter, and everything in the work folder."""
        rules = landlock.ruleset(
            self.libc,
            readable=[*self.settings["readable"], *_libraries(), "/etc/localtime", "/usr/share/zoneinfo"],
            programs=[*self.settings["programs"], *glob.glob("/lib*/ld-*.so*")],
            devices=bwrap.DEVICES,
        )
        landlock.allow_all(self.libc, rules, work)
        kept = fcntl.fcntl(rules, fcntl.F_DUPFD_CLOEXEC, 64)  # above what `spawn` shuffles
        os.close(rules)
        return kept

    # Python

    def python(
        self, body: Mapping[str, Any], stdin: bytes, *, role: str = "candidate", rpc: bool = False
    ) -> tuple[Job, int]:
        """Start one Python job; the job, and where to write RPC lines to it (-1 without)."""
        streams = Streams(stdin, rpc)
        if self.backend == "bwrap" and self.settings["start"] != "cold":
            return self._zygote(role).submit(streams, body), streams.rpc
        payload = marshal.dumps(
            (self.modules.get(body["mode"], self.plain_modules), {**body, "nproc": self._inner_processes()}), 4
        )
        while len(streams.theirs) < 5:
            streams.theirs.append(os.open("/dev/null", os.O_RDONLY | os.O_CLOEXEC))
        streams.theirs.append(spawn.memory_file(payload))
        python = self.settings["python"]
        argv = [python, "-s", "-S", "-B", "-c", _COLD_BOOT]
        if self.backend == "bwrap":
            return self.bwrap_job(streams, argv, self.settings["readable"], _PYTHON_ENVIRONMENT), streams.rpc
        return self._alone(streams, argv, role), streams.rpc

    def _inner_processes(self) -> int:
        return self.settings["processes"] + 2 if self.backend == "bwrap" else 0

    def _zygote(self, role: str) -> Zygote:
        if role not in self.zygotes:
            fresh = self.settings["start"] == "fresh"
            config = {
                "fresh": fresh,
                "limits": self.limits,
                "disk": self.settings["disk"],
                "inodes": self.settings["inodes"],
            }
            self.zygotes[role] = Zygote(self._start_zygote, config, _modules(_WARM_PARTS))
        return self.zygotes[role]

    def _start_zygote(self, descriptors: Sequence[int]) -> int:
        python = [self.settings["python"], "-s", "-S", "-B", "-c", _WARM_BOOT]
        paths = [*self.settings["readable"], *self.settings["programs"], *_libraries()]
        extra = ["--as-pid-1", "--cap-add", "CAP_SYS_ADMIN"]
        argv = bwrap.command(
            self.settings["bwrap"], paths, python, work_bytes=None, environment=_PYTHON_ENVIRONMENT, extra=extra
        )
        return spawn.spawn(self.libc, argv, {}, descriptors, uid=self.uid, prepare=lambda: None)

    def bwrap_job(
        self, streams: Streams, argv: Sequence[str], paths: Sequence[str], environment: dict[str, str],
        *, extra: Sequence[str] = (), memory: int = 0, cpu: int = 0,
    ) -> ColdJob:  # fmt: skip
        """A cold start in namespaces of its own; `extra` may name more descriptors, placed from 8 upwards."""
        confirmed, confirm = os.pipe2(os.O_CLOEXEC)
        filter_file = spawn.memory_file(self.filter)
        theirs = streams.theirs + [
            os.open("/dev/null", os.O_RDONLY | os.O_CLOEXEC) for _ in range(6 - len(streams.theirs))
        ]
        streams.theirs = [*theirs[:6], filter_file, confirm, *theirs[6:]]
        command = bwrap.command(
            self.settings["bwrap"], [*paths, *self.settings["programs"], *_libraries()], argv,
            work_bytes=self.settings["disk"], environment=environment,
            extra=["--seccomp", "6", "--json-status-fd", "7", *extra],
        )  # fmt: skip
        bound = limits.Limits(cpu or self.limits[0], memory or self.limits[1], 1 << 20, max(self.limits[3], 1 << 20))
        try:
            pid = spawn.spawn(self.libc, command, {}, streams.theirs, uid=self.uid, prepare=bound.apply)
        finally:
            streams.close_theirs()
        return ColdJob(streams.ours, pid, confirmed)

    def _alone(self, streams: Streams, argv: Sequence[str], role: str) -> ColdJob:
        """A process without namespaces: Landlock, seccomp and limits, or limits only when unsafe was asked for."""
        work, rules = self._workplace(role)
        processes = self.settings["processes"] + (limits.own_threads() if self.uid is None else 0)
        bound = limits.Limits(self.limits[0], self.limits[1], processes, self.limits[3])

        def prepare() -> None:
            os.chdir(work)
            bound.apply()
            if self.backend == "landlock":
                landlock.restrict(self.libc, rules)
                seccomp.Prepared(seccomp.for_pid(self.filter, os.getpid())).install(self.libc)

        try:
            pid = spawn.spawn(self.libc, argv, _PYTHON_ENVIRONMENT, streams.theirs, uid=self.uid, prepare=prepare)
        finally:
            streams.close_theirs()
        return ColdJob(streams.ours, pid)

    def watch(self, jobs: Sequence[Job], wall: float) -> Watch:
        settings = self.settings
        memory = settings["memory"] * 2 if self.backend == "bwrap" else 0
        return Watch(jobs, wall=wall, cap=settings["output"], memory=memory, control=0)

    def close(self) -> None:
        """Leave nothing behind."""
        for zygote in self.zygotes.values():
            zygote.stop()
        for _ in range(200):  # killed jobs take a moment to go, and must not write into what is removed
            try:
                if os.waitpid(-1, os.WNOHANG) == (0, 0):
                    time.sleep(0.005)
            except ChildProcessError:
                break
        if self.folder:
            shutil.rmtree(self.folder, ignore_errors=True)
