"""How fast the sandbox is, against the fastest thing that isolates nothing: a bare `python -I -S`, fork and exec.

    python benchmarks/sandbox.py [seconds a measurement, default 2]

Prints executions a second and the ratio to bare in the same run. The kinds take turns, several rounds, and the median
counts, so that other load on the machine falls on all of them alike; it still bends the scaling from one worker to two.
"""

from __future__ import annotations

import asyncio
import os
import statistics
import subprocess
import sys
import time
from contextlib import AsyncExitStack

from factory.sandbox import Sandbox, SandboxConfig, open_sandbox, probe, runtime

CODE, TESTS = "def f(x):\n    return x * 2\n", ["assert f(2) == 4"]
KINDS = {
    "zygote in bwrap": (SandboxConfig(backend="bwrap", slots=1), 2.5),
    "fresh namespaces": (SandboxConfig(backend="bwrap", start="fresh", slots=1), 1.3),
    "landlock cold": (SandboxConfig(backend="landlock", slots=1), 0.75),
    "bwrap cold": (SandboxConfig(backend="bwrap", start="cold", slots=1), 0.45),
}
ROUNDS = 5


# A small process of its own does it: forking this one, with its heap, would flatter us.
_BARE = """
import os, sys, time
began, count = time.perf_counter(), 0
while time.perf_counter() - began < float(sys.argv[1]):
    pid = os.fork()
    if pid == 0:
        os.execv(sys.executable, [sys.executable, "-I", "-S", "-c", "pass"])
    os.waitpid(pid, 0)
    count += 1
print(count / (time.perf_counter() - began))
"""


def bare(seconds: float, python: str) -> float:
    """Bare interpreters a second: fork, exec, wait."""
    command = [python, "-I", "-S", "-c", _BARE, str(seconds)]
    return float(subprocess.run(command, capture_output=True, check=True).stdout)


async def rate(sandbox: Sandbox, seconds: float, workers: int = 1) -> float:
    """Verifications a second with `workers` at once."""
    count, began = 0, time.perf_counter()

    async def work() -> None:
        nonlocal count
        while time.perf_counter() - began < seconds:
            verdict = await sandbox.verify(CODE, TESTS)
            assert verdict.status == "pass", verdict
            count += 1

    await asyncio.gather(*(work() for _ in range(workers)))
    return count / (time.perf_counter() - began)


async def main(seconds: float) -> None:
    """Measure every kind that works here, in turns."""
    python = runtime.choose()
    assert python is not None
    able = {found.backend: found.ok for found in await probe()}
    kinds = {name: kind for name, kind in KINDS.items() if able[kind[0].backend]}
    rates: dict[str, list[float]] = {name: [] for name in kinds}
    ratios: dict[str, list[float]] = {name: [] for name in kinds}
    scaling: list[float] = []
    async with AsyncExitStack() as stack:
        boxes = {name: await stack.enter_async_context(open_sandbox(config)) for name, (config, _) in kinds.items()}
        two = await stack.enter_async_context(open_sandbox(SandboxConfig(slots=2)))
        for box in (*boxes.values(), two):
            await rate(box, 0.2, workers=2)
        for _ in range(ROUNDS):
            for name, box in boxes.items():
                floor = bare(seconds / ROUNDS, python.python)
                rates[name].append(await rate(box, seconds / ROUNDS))
                ratios[name].append(rates[name][-1] / floor)
            one = await rate(two, seconds / ROUNDS)
            scaling.append(await rate(two, seconds / ROUNDS, workers=2) / one)
    print(f"load {os.getloadavg()[0]:.1f} on {os.cpu_count()} cores; medians of {ROUNDS} rounds")
    for name, (_, wanted) in kinds.items():
        ratio = statistics.median(ratios[name])
        print(f"{name:18} {statistics.median(rates[name]):7.1f}/s   {ratio:4.2f} x bare (asked: {wanted})")
    print(f"{'one to two workers':18} {'':9}   {statistics.median(scaling):4.2f} x     (asked: 1.7)")


if __name__ == "__main__":
    asyncio.run(main(float(sys.argv[1]) if len(sys.argv) > 1 else 2.0))
