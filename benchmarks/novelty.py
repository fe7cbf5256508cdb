"""How long the novelty check of one more instruction takes: `python -m benchmarks.novelty [pool size]`, 100,000 unless told.

Pools are made, not found: instructions are put together from the words of the seed tasks and a long tail of others, as a
Zipf distribution has them, half of them on a few openings ("Write a short ... about"), which gives the index long lists to
cope with. What is checked is new in one half of the cases and a copy with some words exchanged in the other. Times are of
the processor, one core, so that what else the machine does hardly counts.
"""

from __future__ import annotations

import itertools
import random
import statistics
import sys
import time
from collections.abc import Callable

from factory.generators.novelty import Bm25Novelty, Novelty, RougeNovelty, words
from factory.generators.seed_tasks import load_seed_tasks
from factory.prompts import Templates

CHECKS = 500
_OPENINGS = ("write a short text about the", "explain why the", "give three reasons why the", "find the")


def english(draw: random.Random) -> Callable[[], str]:
    """Instructions of 6 to 30 words."""
    common = [word for task in load_seed_tasks(Templates(), "self_instruct/seeds_en.yaml") for word in words(task.text)]
    vocabulary = [*dict.fromkeys(common), *(f"word{number}" for number in range(30_000))]
    weights = list(itertools.accumulate(1 / (rank + 3) for rank in range(len(vocabulary))))

    def make() -> str:
        rest = " ".join(draw.choices(vocabulary, cum_weights=weights, k=draw.randint(5, 24)))
        return f"{draw.choice(_OPENINGS)} {rest}" if draw.random() < 0.5 else rest

    return make


def chinese(draw: random.Random) -> Callable[[], str]:
    """Instructions of 10 to 60 characters, of 3,000."""
    characters = [chr(0x4E00 + number) for number in range(3000)]
    weights = list(itertools.accumulate(1 / (rank + 20) for rank in range(len(characters))))

    def make() -> str:
        rest = "".join(draw.choices(characters, cum_weights=weights, k=draw.randint(8, 55)))
        return f"请写一段关于{rest}" if draw.random() < 0.5 else rest

    return make


def changed(text: str, draw: random.Random) -> str:
    """A copy in which some words (or characters) are exchanged."""
    parts = text.split() if " " in text else list(text)
    for place in draw.sample(range(len(parts)), len(parts) // 4):
        parts[place] = draw.choice(parts)
    return (" " if " " in text else "").join(parts)


def measure(name: str, index: Novelty, make: Callable[[], str], size: int, draw: random.Random) -> None:
    texts = [make() for _ in range(size)]
    started = time.process_time()
    for text in texts:
        index.add(text)
    added = time.process_time() - started
    times, like = [], 0
    for number in range(CHECKS):
        text = make() if number % 2 else changed(draw.choice(texts), draw)
        started = time.process_time()
        like += index.like(text) is not None
        times.append(1000 * (time.process_time() - started))
    times.sort()
    print(
        f"{name}, {size:,} in the pool: a check takes {statistics.median(times):.2f} ms (median), "
        f"{times[int(0.99 * CHECKS)]:.2f} ms (p99), {times[-1]:.2f} ms (most); {like} of {CHECKS} too like; "
        f"adding one {1e6 * added / size:.0f} us",
        flush=True,
    )


def main(size: int) -> None:
    for part in (size // 10, size):
        draw = random.Random(0)
        measure("ROUGE-L 0.7", RougeNovelty(0.7), english(draw), part, draw)
        measure("BM25 18", Bm25Novelty(18), chinese(draw), part, draw)


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 100_000)
