"""How the sandbox is configured."""

from __future__ import annotations

import os
from typing import Literal

from pydantic import Field

from factory.records import Frozen

Backend = Literal["bwrap", "landlock"]


class SandboxConfig(Frozen):
    """What isolates, how many jobs at once, and what one job may use.

    `wall` and `cpu` are seconds a job (all the tests of one verification), `cpu` a process; `memory_mb` bounds each
    process's address space and, under bwrap, twice that the whole job; `processes` counts threads too; `output_kb` bounds
    each of stdout, stderr and the results; `disk_mb` the work folder (under landlock: each file). `start` says how
    bwrap runs Python: `warm` forks a warm interpreter, `fresh` also gives each job new PID, IPC, network and host
    name namespaces, `cold` starts a new sandbox each time. `allow_unsafe` runs without isolation when there is none.
    """

    backend: Literal["auto", "bwrap", "landlock"] = "auto"
    start: Literal["warm", "fresh", "cold"] = "warm"
    slots: int = Field(default_factory=lambda: os.cpu_count() or 1, ge=1, le=512)
    wall: float = Field(default=5.0, gt=0)
    cpu: int = Field(default=5, ge=1)
    memory_mb: int = Field(default=512, ge=64)
    processes: int = Field(default=32, ge=1)
    output_kb: int = Field(default=1024, ge=1)
    disk_mb: int = Field(default=64, ge=1)
    allow_unsafe: bool = False
