"""How near the pipeline comes to what is possible: `python -m benchmarks.pipeline [scenario ...]`.

A mock server with known latencies (they depend on a request's text alone) in a process of its own, the factory in
another, started as a user starts it: imports and the final report are in the wall time. Every floor is computed or
measured in the same run.
"""

from __future__ import annotations

import asyncio
import contextlib
import heapq
import json
import os
import signal
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parent.parent


@dataclass
class Run:
    """One finished command: seconds of wall and CPU, peak memory in MB, exit status, what it said."""

    wall: float
    cpu: float
    peak: float
    status: int
    said: str


@contextlib.contextmanager
def mock_server(*arguments: str) -> Iterator[str]:
    """The address of a mock server that lives as long as the context."""
    command = [sys.executable, "-m", "tests.model_server", *arguments]
    process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    try:
        yield f"http://127.0.0.1:{int(process.stdout.readline())}/v1"
    finally:
        process.kill()
        process.wait()


def ask(url: str, what: str) -> object:
    return json.loads(urllib.request.urlopen(f"{url}/{what}").read())


def rows_file(folder: Path, count: int) -> None:
    with open(folder / "rows.jsonl", "w") as file:
        for number in range(count):
            file.write(json.dumps({"instruction": f"question number {number}"}) + "\n")


def command(url: str, *overrides: str) -> list[str]:
    base = ["generate", "task=respond", "source.path=rows.jsonl", "engine=openai", f"engine.base_url={url}"]
    return [sys.executable, "-m", "factory", *base, "model=custom", "model.path=mock", *overrides]


def environment() -> dict[str, str]:
    """The user's own, with this checkout found first, and compiled modules kept as they are for users."""
    kept = {key: value for key, value in os.environ.items() if key != "PYTHONDONTWRITEBYTECODE"}
    return kept | {"PYTHONPATH": f"{ROOT}:{os.environ.get('PYTHONPATH', '')}"}


def measure(words: Sequence[str], folder: Path) -> Run:
    started = time.perf_counter()
    process = subprocess.Popen(words, cwd=folder, env=environment(), stderr=subprocess.PIPE, text=True)
    assert process.stderr is not None
    said = process.stderr.read()
    _, status, usage = os.wait4(process.pid, 0)
    wall = time.perf_counter() - started
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode not in (0, 3):
        raise SystemExit(f"{' '.join(words)} ended with {process.returncode}:\n{said}")
    return Run(wall, usage.ru_utime + usage.ru_stime, usage.ru_maxrss / 1024, process.returncode, said)


def schedule(durations: Iterable[float], slots: int) -> float:
    """Seconds that `slots` workers without any overhead need, taking the jobs in order."""
    free = [0.0] * slots
    end = 0.0
    for duration in durations:
        done = heapq.heappop(free) + duration
        heapq.heappush(free, done)
        end = max(end, done)
    return end


def by_row(delays: Iterable[Sequence[object]]) -> list[float]:
    """Latency of each row, its steps added up, in the order of the rows."""
    total: dict[int, float] = {}
    for row, delay in delays:
        total[int(str(row))] = total.get(int(str(row)), 0.0) + float(str(delay))
    return [total[row] for row in sorted(total)]


def kept_rows(folder: Path, run: str = "respond") -> int:
    return int(json.loads((folder / "outputs" / run / "manifest.json").read_text())["kept"])


def lognormal_2000(folder: Path) -> str:
    rows_file(folder, 2000)
    with mock_server("--median", "0.2", "--sigma", "0.5") as url:
        run = measure(command(url, "engine.concurrency=64"), folder)
        floor = schedule(by_row(ask(url, "delays")), 64)  # type: ignore[arg-type]
        count = ask(url, "stats")["count"]  # type: ignore[index]
        bare = measure([sys.executable, "-m", "benchmarks.pipeline", "--bare-client", url, "2000", "64"], ROOT)
    return (
        f"2,000 rows, 64 at once, lognormal 200 ms: {run.wall:.2f} s, schedule {floor:.2f} s, ratio {run.wall / floor:.3f} "
        f"(to show: 1.15); {run.cpu / 2:.2f} CPU s per 1,000 (1.5); {count} requests; kept {kept_rows(folder)}; "
        f"peak {run.peak:.0f} MB (200). The openai client with nothing around it, its import included: {bare.wall:.2f} s, "
        f"ratio {bare.wall / floor:.3f}, {bare.cpu / 2:.2f} CPU s per 1,000, {bare.peak:.0f} MB"
    )


def fast_10000(folder: Path) -> str:
    rows_file(folder, 10_000)
    with mock_server("--median", "0.05", "--sigma", "0.0001") as url:
        ours = measure(command(url, "engine.concurrency=256"), folder)
        bare = measure([sys.executable, "-m", "benchmarks.pipeline", "--bare-client", url, "10000", "256"], ROOT)
        rate = float(bare.said.strip().splitlines()[-1])
    reached = 10_000 / ours.wall
    return (
        f"10,000 rows, 256 at once, 50 ms: {reached:.0f} requests/s, start and report included; the openai client alone "
        f"{rate:.0f}/s, ratio {reached / rate:.2f} (to show: 0.9); peak {ours.peak:.0f} MB"
    )


def bare_client(url: str, count: int, at_once: int) -> None:
    """The openai client over aiohttp with nothing around it; prints its requests a second, imports included."""
    started = time.perf_counter()
    import openai

    async def main() -> None:
        limits = type(openai.DEFAULT_CONNECTION_LIMITS)(max_connections=300, max_keepalive_connections=300)
        transport = openai.DefaultAioHttpClient(limits=limits)
        client = openai.AsyncOpenAI(api_key="none", base_url=url, http_client=transport, max_retries=0)
        numbers = iter(range(count))

        async def worker() -> None:
            for number in numbers:
                await client.chat.completions.create(
                    model="mock", messages=[{"role": "user", "content": f"question number {number}"}], temperature=0.7
                )

        await asyncio.gather(*(worker() for _ in range(at_once)))
        await client.close()

    asyncio.run(main())
    print(count / (time.perf_counter() - started), file=sys.stderr)


def permanent_errors(folder: Path) -> str:
    rows_file(folder, 2000)
    with mock_server("--median", "0.2", "--sigma", "0.5", "--fail", "0.01") as url:
        measure(command(url, "engine.concurrency=64"), folder)
        count = ask(url, "stats")["count"]  # type: ignore[index]
    manifest = json.loads((folder / "outputs/respond/manifest.json").read_text())
    return f"1% permanent errors: kept {manifest['kept']} of 2,000, lost {manifest['rejected']} with their reason, {count} requests"


def killed_at_half(folder: Path) -> str:
    rows_file(folder, 2000)
    with mock_server("--median", "0.2", "--sigma", "0.5") as url:
        words = command(url, "engine.concurrency=64")
        process = subprocess.Popen(words, cwd=folder, env=environment(), stderr=subprocess.DEVNULL)
        while ask(url, "stats")["count"] < 1000:  # type: ignore[index]
            time.sleep(0.02)
        process.send_signal(signal.SIGKILL)
        process.wait()
        measure(words, folder)
        stats = ask(url, "stats")
    repeated = stats["count"] - stats["unique"]  # type: ignore[index]
    return f"killed at half and run again: {repeated} requests repeated (to show: 64 at most), kept {kept_rows(folder)}"


def two_stages(folder: Path) -> str:
    rows_file(folder, 1000)
    with mock_server("--median", "0.2", "--sigma", "0.5") as url:
        run = measure(command(url, "engine.concurrency=64", "scorers.judge.enabled=true"), folder)
        floor = schedule(by_row(ask(url, "delays")), 64)  # type: ignore[arg-type]
    return (
        f"two stages, 1,000 rows: {run.wall:.2f} s, schedule {floor:.2f} s, ratio {run.wall / floor:.3f} (to show: 1.15); "
        f"kept {kept_rows(folder)}"
    )


def memory_mb(pid: int) -> float:
    """Resident memory of a process, 0 once it has ended."""
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return next((int(line.split()[1]) / 1024 for line in lines if line.startswith("VmRSS")), 0.0)


def million(folder: Path, rows: int = 1_000_000) -> str:
    """Memory, and the time a record takes at the start and at the end, sampled from the server's count."""
    rows_file(folder, rows)
    with mock_server("--forget") as url:
        words = command(url, "engine.concurrency=256")
        process = subprocess.Popen(words, cwd=folder, env=environment(), stderr=subprocess.DEVNULL)
        marks: list[tuple[int, float, float]] = []
        while process.poll() is None:
            count = ask(url, "stats")["count"]  # type: ignore[index]
            marks.append((count, time.perf_counter(), memory_mb(process.pid)))
            time.sleep(0.2)
    begun = [mark for mark in marks if mark[0] > 0]
    first = next(mark for mark in begun if mark[0] >= 10_000)
    early = (first[1] - begun[0][1]) / (first[0] - begun[0][0])
    done = next(mark for mark in begun if mark[0] >= rows)
    late_start = next(mark for mark in begun if mark[0] >= rows * 0.9)
    late = (done[1] - late_start[1]) / max(1, done[0] - late_start[0])
    peak = max(mark[2] for mark in marks)
    return (
        f"{rows:,} records: {early * 1e6:.0f} us a record in the first 10,000, {late * 1e6:.0f} in the last tenth "
        f"(ratio {late / early:.2f}); writing data and report {marks[-1][1] - done[1]:.0f} s; peak {peak:.0f} MB (300), "
        f"median {statistics.median(mark[2] for mark in begun):.0f} MB; kept {kept_rows(folder)}"
    )


SCENARIOS = {scenario.__name__: scenario for scenario in
             (lognormal_2000, fast_10000, permanent_errors, killed_at_half, two_stages, million)}  # fmt: skip


def main() -> None:
    if sys.argv[1:2] == ["--bare-client"]:
        return bare_client(sys.argv[2], int(sys.argv[3]), int(sys.argv[4]))
    names = sys.argv[1:] or [name for name in SCENARIOS if name != "million"]
    for name in names:
        with tempfile.TemporaryDirectory() as folder:
            print(SCENARIOS[name](Path(folder)), flush=True)


if __name__ == "__main__":
    main()
