"""The helper's requests: a Python job, a pair of jobs that talk by RPC, a program in another language."""

from __future__ import annotations

import json
import os
import secrets
import signal
import struct
from collections.abc import Mapping
from typing import Any

from factory.sandbox.inside import limits, spawn
from factory.sandbox.inside.jobs import Streams
from factory.sandbox.inside.keeper import Keeper
from factory.sandbox.inside.spawn import Unable
from factory.sandbox.inside.watch import Job, Watch

_COMPILE_SECONDS, _COMPILE_MEMORY = 30, 1 << 30
_PROGRAM_BYTES = 32 << 20
_MAX_REQUESTS = 100_000
# bash says -u, dash says -p; the number of processes can only be bound from inside the user namespace.
_BOUNDED = 'ulimit -u {n} 2>/dev/null || ulimit -p {n}; exec "$0" "$@"'


def python(keeper: Keeper, request: Mapping[str, Any]) -> dict[str, Any]:
    """One Python job: its report."""
    job, _ = keeper.python(request["body"], request.get("stdin", "").encode("utf-8", "surrogatepass"))
    watch = keeper.watch([job], request["wall"])
    seconds = watch.run()
    return job.report(watch.reason, seconds)


class Relay:
    """Passes the tester's questions to the candidate and the answers back, one at a time, and keeps the verdicts."""

    def __init__(self, watch: Watch, tester: Job, candidate: Job, to_tester: int, to_candidate: int) -> None:
        self.watch, self.tester, self.candidate = watch, tester, candidate
        self.to_tester, self.to_candidate = to_tester, to_candidate
        self.verdicts: list[str] = []
        self.waiting = False  # an answer is due
        self.loaded = False
        self.pending: bytes | None = None  # a question from before the solution was loaded
        self.asked = 0

    def on_data(self, job: Job, name: str) -> None:
        if name != "result":
            return
        buffer = job.output["result"]
        while (end := buffer.find(b"\n")) >= 0:
            line = bytes(buffer[: end + 1])
            del buffer[: end + 1]
            self._from_tester(line) if job is self.tester else self._from_candidate(line)

    def _from_tester(self, line: bytes) -> None:
        if line[:1] == b"Q":
            self.asked += 1
            if self.waiting or self.pending is not None or self.asked > _MAX_REQUESTS:
                self.watch.stop("protocol")
            elif self.loaded:
                self._ask(line[1:])
            else:
                self.pending = line[1:]
        else:
            self.verdicts.append(line[1:].decode("latin-1"))

    def _ask(self, question: bytes) -> None:
        self.waiting = True
        self._write(self.to_candidate, question, self.candidate)

    def _from_candidate(self, line: bytes) -> None:
        if not self.loaded:
            self.loaded = True
            self.candidate.output["loaded"] = bytearray(line)
            if self.pending is not None:
                question, self.pending = self.pending, None
                self._ask(question)
        elif self.waiting:
            self.waiting = False
            self._write(self.to_tester, line, self.tester)
        else:
            self.watch.stop("protocol")  # an answer that nobody asked for

    def _write(self, descriptor: int, data: bytes, job: Job) -> None:
        """Write all, or give the pair up: a reader that does not read is a fail, not a wait."""
        view = memoryview(data)
        while view and descriptor >= 0:
            try:
                view = view[os.write(descriptor, view) :]
            except BlockingIOError:
                if not self._drained(descriptor):
                    self.watch.stop("timeout")
                    return
            except BrokenPipeError:
                return  # its end is reported by itself

    def _drained(self, descriptor: int) -> bool:
        import select
        import time

        poller = select.poll()
        poller.register(descriptor, select.POLLOUT)
        return bool(poller.poll(max(1.0, 1000 * (self.watch.deadline - time.monotonic()))))


class _Pair(Watch):
    """When the candidate ends before the tester, the tester's questions get no answers: it is told by end of file."""

    relay: Relay

    def _end(self, job: Job) -> None:
        super()._end(job)
        if job is self.relay.candidate:
            os.close(self.relay.to_tester)
            self.relay.to_tester = -1
        else:
            for other in self.jobs:
                other.kill()


def rpc(keeper: Keeper, request: Mapping[str, Any]) -> dict[str, Any]:
    """Candidate and tester in sandboxes of their own: both reports, the verdict lines and the nonce they must bear."""
    nonce = secrets.token_hex(16)
    candidate, to_candidate = keeper.python(request["candidate"], b"", rpc=True)
    tester, to_tester = keeper.python({**request["tester"], "nonce": nonce}, b"", role="tester", rpc=True)
    for descriptor in (to_candidate, to_tester):
        os.set_blocking(descriptor, False)
    template = keeper.watch([candidate, tester], request["wall"])
    watch = _Pair(
        template.jobs, wall=request["wall"], cap=template.cap, memory=template.memory_cap, control=template.control
    )
    relay = watch.relay = Relay(watch, tester, candidate, to_tester, to_candidate)
    watch.on_data = relay.on_data
    try:
        seconds = watch.run()
    finally:
        os.close(to_candidate)
        if relay.to_tester >= 0:
            os.close(relay.to_tester)
    return {
        "candidate": candidate.report(watch.reason, seconds),
        "tester": tester.report(watch.reason, seconds),
        "verdicts": relay.verdicts,
        "nonce": nonce,
    }


def program(keeper: Keeper, request: Mapping[str, Any]) -> dict[str, Any]:
    """A source in another language: compiled once inside, if it is compiled, then run once for each input."""
    if keeper.backend != "bwrap":
        raise Unable(f"{request['language']} needs processes of its own, which only bwrap can hold")
    source = request["source"].encode("utf-8", "surrogatepass")
    product = b""
    if request["compile"]:
        report, product = _compile(keeper, request, source)
        if report["status"] != 0 or report["reason"]:
            return {"compiled": report, "runs": []}
    runs = [_run(keeper, request, source, product, run) for run in request["runs"]]
    return {"compiled": None, "runs": runs}


def _shell(keeper: Keeper, argv: list[str]) -> list[str]:
    return ["/bin/sh", "-c", _BOUNDED.format(n=keeper.settings["processes"] + 3), *argv]


def _compile(keeper: Keeper, request: Mapping[str, Any], source: bytes) -> tuple[dict[str, Any], bytes]:
    streams = Streams(b"", False)
    streams.theirs += [os.open("/dev/null", os.O_RDONLY | os.O_CLOEXEC) for _ in range(2)]
    streams.theirs.append(spawn.memory_file(source))
    extra = ["--ro-bind-data", "8", f"/{request['file']}"]
    build = " ".join(request["compile"]) + " && cat /box/program >&3"
    job = keeper.bwrap_job(
        streams, _shell(keeper, ["/bin/sh", "-c", build]), request["paths"], request["environment"],
        extra=extra, memory=_COMPILE_MEMORY, cpu=_COMPILE_SECONDS,
    )  # fmt: skip
    watch = Watch([job], wall=_COMPILE_SECONDS, cap=_PROGRAM_BYTES, memory=2 * _COMPILE_MEMORY, control=0)
    seconds = watch.run()
    product = bytes(job.output.pop("result"))
    job.output["result"] = bytearray()
    return job.report(watch.reason, seconds), product


def _run(
    keeper: Keeper, request: Mapping[str, Any], source: bytes, product: bytes, run: Mapping[str, Any]
) -> dict[str, Any]:
    streams = Streams(run["stdin"].encode("utf-8", "surrogatepass"), False)
    streams.theirs += [os.open("/dev/null", os.O_RDONLY | os.O_CLOEXEC) for _ in range(2)]
    streams.theirs.append(spawn.memory_file(product or source))
    extra = ["--perms", "0555", "--ro-bind-data", "8", f"/{request['file'] if not product else 'program'}"]
    memory = max(keeper.settings["memory"], request["memory"])
    job = keeper.bwrap_job(
        streams, _shell(keeper, [*request["run"], *run["args"]]), request["paths"], request["environment"],
        extra=extra, memory=memory,
    )  # fmt: skip
    watch = keeper.watch([job], request["wall"])
    seconds = watch.run()
    return job.report(watch.reason, seconds)


_OPERATIONS = {"python": python, "rpc": rpc, "program": program}


def _read(size: int) -> bytes:
    data = b""
    while len(data) < size:
        piece = os.read(0, size - len(data))
        if not piece:
            raise SystemExit(0)
        data += piece
    return data


def _write(answer: Mapping[str, Any], descriptor: int) -> None:
    data = json.dumps(answer).encode("ascii")
    view = memoryview(struct.pack(">I", len(data)) + data)
    while view:
        view = view[os.write(descriptor, view) :]


def _leave(*_: object) -> None:
    """End once: a second order must not cut the cleaning up short."""
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    raise SystemExit(0)


def main() -> None:
    """Read the settings, then answer requests until the supervisor closes the line."""
    signal.signal(signal.SIGTERM, _leave)
    limits.load_libc().prctl(limits.PR_SET_PDEATHSIG, signal.SIGTERM, 0, 0, 0)
    answers = os.dup(1)
    os.dup2(2, 1)  # nothing that prints may garble the protocol
    keeper: Keeper | None = None
    try:
        try:
            while True:
                request = json.loads(_read(struct.unpack(">I", _read(4))[0]))
                try:
                    if keeper is None:
                        keeper = Keeper(request)
                        answer: Mapping[str, Any] = {"ready": True, "uid": keeper.uid}
                    else:
                        answer = _OPERATIONS[request["op"]](keeper, request)
                except (Unable, OSError) as error:
                    answer = {"unable": f"{type(error).__name__}: {error}"}
                _write(answer, answers)
        finally:
            signal.signal(signal.SIGTERM, signal.SIG_IGN)
    finally:
        if keeper is not None:
            keeper.close()
