"""Waiting for jobs: the wall clock, the output cap, the memory bound, and the order to stop."""

from __future__ import annotations

import os
import select
import time
from collections.abc import Callable, Sequence
from typing import Any

from factory.sandbox.inside.spawn import Unable

_GRACE = 3.0
_TICK = 0.05


class Job:
    """One running job: output streams by name, a descriptor that becomes readable at its end, and how to kill it.

    `status` is set by `ended`: the exit code, or minus the signal. `cpu` is in seconds, `peak` in bytes.
    """

    def __init__(self, streams: dict[str, int], end_fd: int) -> None:
        self.streams = dict(streams)
        self.output = {name: bytearray() for name in streams}
        self.end_fd = end_fd
        self.over = False
        self.status, self.cpu, self.peak = 0, 0.0, 0

    def kill(self) -> None:
        """Kill everything that belongs to this job; called again, it is harmless."""
        raise NotImplementedError

    def ended(self) -> None:
        """Called once `end_fd` is readable: reap, and set `status`, `cpu` and `peak`. Raises `Unable`."""
        raise NotImplementedError

    def memory(self) -> int:
        """Bytes in use by all its processes now; 0 where one process limit says it all."""
        return 0

    def close(self) -> None:
        for descriptor in self.streams.values():
            os.close(descriptor)
        self.streams.clear()

    def report(self, reason: str, seconds: float) -> dict[str, Any]:
        """What the supervisor is told. Bytes travel as latin-1 text."""
        texts = {name: bytes(data).decode("latin-1") for name, data in self.output.items()}
        return {
            "reason": reason,
            "status": self.status,
            "cpu": self.cpu,
            "peak": self.peak,
            "seconds": seconds,
            **texts,
        }


class Watch:
    """Watches jobs that live and die together."""

    def __init__(self, jobs: Sequence[Job], *, wall: float, cap: int, memory: int, control: int) -> None:
        self.jobs, self.cap, self.memory_cap, self.control = jobs, cap, memory, control
        self.began = time.monotonic()
        self.deadline = self.began + wall
        self.reason = ""
        self.on_data: Callable[[Job, str], None] | None = None
        self.poller = select.poll()

    def stop(self, reason: str) -> None:
        """Kill the jobs; the first reason counts."""
        if not self.reason:
            self.reason = reason
            self.deadline = time.monotonic() + _GRACE
        for job in self.jobs:
            job.kill()

    def run(self) -> float:
        """Until all jobs have ended and their streams are drained; seconds taken. Raises `Unable`."""
        try:
            return self._run()
        except BaseException:
            for job in self.jobs:
                job.kill()
            raise

    def _run(self) -> float:
        owner: dict[int, tuple[Job, str]] = {}
        for job in self.jobs:
            self.poller.register(job.end_fd, select.POLLIN)
            owner[job.end_fd] = (job, "")
            for name, descriptor in job.streams.items():
                self.poller.register(descriptor, select.POLLIN)
                owner[descriptor] = (job, name)
        self.poller.register(self.control, 0)
        while any(not job.over or job.streams for job in self.jobs):
            self._check_clock()
            for descriptor, _ in self.poller.poll(self._patience()):
                if descriptor == self.control:
                    raise SystemExit(0)  # the supervisor has gone
                job, name = owner[descriptor]
                self._read(job, name, descriptor) if name else self._end(job)
            self._check_memory()
        return time.monotonic() - self.began

    def _patience(self) -> float:
        left = max(0.0, self.deadline - time.monotonic())
        tick = _TICK if self.memory_cap and not self.reason else left
        return 1000 * min(left, tick) + 1

    def _check_clock(self) -> None:
        if time.monotonic() >= self.deadline:
            if self.reason:
                raise Unable("a killed job would not go")
            self.stop("timeout")

    def _check_memory(self) -> None:
        due = self.memory_cap and not self.reason and time.monotonic() - self.began > _TICK
        if due and sum(job.memory() for job in self.jobs if not job.over) > self.memory_cap:
            self.stop("memory")

    def _end(self, job: Job) -> None:
        self.poller.unregister(job.end_fd)
        job.ended()
        job.over = True

    def _read(self, job: Job, name: str, descriptor: int) -> None:
        data = os.read(descriptor, 1 << 16)
        if not data:
            self.poller.unregister(descriptor)
            os.close(descriptor)
            del job.streams[name]
        elif len(job.output[name]) + len(data) > self.cap:
            job.output[name] += data[: self.cap - len(job.output[name])]
            self.stop("output")
        elif not self.reason:
            job.output[name] += data
            if self.on_data is not None:
                self.on_data(job, name)
