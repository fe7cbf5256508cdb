"""What an export costs: `python -m benchmarks.export [records [scenario numbers]]`.

A synthetic run, written by the journal itself, is exported by the command in a process of its own. The bare pass reads and
checks every record of the same journal and does nothing with it: less than that no export can cost.
"""

from __future__ import annotations

import random
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

from benchmarks.pipeline import measure
from factory.journal import Fate, Journal
from factory.records import Message, Record, Score

_ANSWERS = 4  # to each prompt
_FLUSH = 20_000
SCENARIOS = {
    "sft, as the run decided": (),
    "sft, quantiles, best of 4, 1% held out": ("keep=reward >= q25 and rules == max", "per_group=1", "held_out=0.01"),
    "preference, verifier and reward": ("format=preference", "min_gap=0.2"),
    "reward, a ranking a prompt": ("format=reward",),
}


def write_run(folder: Path, records: int) -> None:
    """A journal of `records` answers of some 600 bytes, `_ANSWERS` to each prompt, with three scores."""
    draw = random.Random(0)
    words = ["harbour", "stone", "gull", "boat", "tide", "wall", "village", "summer", "old", "grey", "sails", "leans"]
    settings = {
        "run": folder.name,
        "task": {"generator": "factory.generators.rejection_sampling.RejectionSampling"},
        "model": {"name": "synthetic"},
    }
    folder.mkdir(parents=True)
    with Journal(folder / "journal.db") as journal:
        config = journal.config_id("key", {"settings": settings, "templates": "", "model": {"digest": ""}})
        for index in range(records):
            prompt = f"Question {index // _ANSWERS}: what of the {words[index // _ANSWERS % len(words)]}?"
            kept = draw.random() < 0.8
            text = " ".join(draw.choices(words, k=80))
            scores = {"rules": float(kept), "reward": draw.gauss(0, 1), "difficulty": float(draw.randint(1, 3))}
            record = Record(
                id=f"{draw.getrandbits(128):032x}",
                task="rejection_sampling",
                messages=(Message(role="user", content=prompt), Message(role="assistant", content=text)),
                meta={"group": f"{index // _ANSWERS:032x}", "sample": index % _ANSWERS},
                scores={name: Score(value=value) for name, value in scores.items()},
                kept=kept,
                reason="" if kept else "rules: too short",
            )
            journal.add_fates(config, str(index), [Fate(index, 0, record, {"item": str(index)})], [None])
            if index % _FLUSH == 0:
                journal.flush()
        journal.flush()


def bare_pass(journal: str) -> None:
    """Read and check every record; prints the seconds."""
    with Journal(Path(journal)) as opened:
        present = opened.current_config()
        assert present is not None
        started = time.perf_counter()
        count = sum(1 for _ in opened.fates(present[0]))
        print(count, time.perf_counter() - started, file=sys.stderr)


def scenario(name: str, words: Sequence[str], folder: Path, records: int, bare: float) -> str:
    run = measure([sys.executable, "-m", "factory", "export", "run=bench", *words], folder)
    return (
        f"{name}: {run.wall:.1f} s ({run.cpu:.1f} s of CPU), {records / run.wall:,.0f} records/s, {run.cpu / bare:.1f} times the "
        f"CPU of the bare pass, peak {run.peak:.0f} MB"
    )


def main() -> None:
    if sys.argv[1:2] == ["--bare"]:
        return bare_pass(sys.argv[2])
    records = int(sys.argv[1]) if sys.argv[1:] else 1_000_000
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        started = time.perf_counter()
        write_run(folder / "outputs/bench", records)
        size = (folder / "outputs/bench/journal.db").stat().st_size / 1e6
        print(
            f"{records:,} records, a journal of {size:,.0f} MB, written in {time.perf_counter() - started:.0f} s",
            flush=True,
        )
        command = [sys.executable, "-m", "benchmarks.export", "--bare", str(folder / "outputs/bench/journal.db")]
        read = measure(command, folder)
        seconds = float(read.said.split()[-1])
        print(f"bare pass: {seconds:.1f} s ({read.cpu:.1f} s of CPU), {records / seconds:,.0f} records/s, peak {read.peak:.0f} MB",
              flush=True)  # fmt: skip
        wanted = {int(number) for number in sys.argv[2:]} or set(range(len(SCENARIOS)))
        for number, (title, words) in enumerate(SCENARIOS.items()):
            if number in wanted:
                print(scenario(title, words, folder, records, read.cpu), flush=True)


if __name__ == "__main__":
    main()
