"""How much of the wall time of a whole loop something was generated or trained, and what the GPUs' driver says of it."""

from __future__ import annotations

import contextlib
import json
import sqlite3
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import orjson

from factory.errors import UserError

Span = tuple[float, float]  # (from, to), seconds since 1970
BINS = 240  # of the driver's line


def union(spans: Iterable[Span]) -> list[Span]:
    """The same time without overlaps, in order."""
    found: list[Span] = []
    for begin, end in sorted(spans):
        if end <= begin:
            continue
        if found and begin <= found[-1][1]:
            found[-1] = (found[-1][0], max(found[-1][1], end))
        else:
            found.append((begin, end))
    return found


def total(spans: Iterable[Span]) -> float:
    return sum(end - begin for begin, end in spans)


def within(spans: Sequence[Span], bounds: Sequence[Span]) -> list[Span]:
    """The parts of `spans` that lie in `bounds`; both are unions."""
    found, place = [], 0
    for begin, end in spans:
        while place and bounds[place - 1][1] > begin:
            place -= 1
        while place < len(bounds) and bounds[place][1] <= begin:
            place += 1
        at = place
        while at < len(bounds) and bounds[at][0] < end:
            found.append((max(begin, bounds[at][0]), min(end, bounds[at][1])))
            at += 1
    return found


@dataclass(frozen=True)
class Stretch:
    """A stage at work: `kind` is its command's, `seed` None for what is of no seed."""

    key: str
    lane: str
    begin: float
    end: float

    @property
    def seed(self) -> int | None:
        head = self.key.partition("/")[0]
        return int(head[5:]) if head.startswith("seed-") and head[5:].isdigit() else None

    @property
    def kind(self) -> str:
        name = self.key.rpartition("/")[2]
        if self.lane == "engine":
            return "generate" if name in ("generate", "graded") else "evaluate"
        return "train" if self.lane == "train" else "aside"

    @property
    def folder(self) -> str:
        """Where the stage works, seen from the run's folder; grading goes on in the folder of what is graded."""
        head, _, name = self.key.rpartition("/")
        return f"{head}/generate" if name == "graded" else self.key


def stretches(state: Mapping[str, Any]) -> tuple[list[Stretch], list[Span]]:
    """The stages' stretches, and the invocations as a union. An invocation that was killed left none of its own: then
    its stages' stretches stand for it."""
    found, invocations = list[Stretch](), list[Span]()
    for entry in state.get("stretches", ()):
        key, lane, begin, end = entry
        if lane == "all":
            invocations.append((float(begin), float(end)))
        else:
            found.append(Stretch(str(key), str(lane), float(begin), float(end)))
    return found, union([*invocations, *((one.begin, one.end) for one in found)])


# ---- who worked when


def generating(journal: Path, most: int = 50_000) -> list[Span]:
    """When any response was waited for, in memory that does not grow with the journal, which is only read: it may be in
    use. Raises `UserError` where it cannot be read."""
    if not journal.is_file():
        return []
    found, part = list[Span](), list[Span]()
    try:
        with contextlib.closing(
            sqlite3.connect(f"{journal.resolve().as_uri()}?mode=ro", uri=True, timeout=30)
        ) as store:
            for made_at, seconds in store.execute("SELECT made_at, seconds FROM responses"):
                part.append((made_at - max(seconds, 0.0), made_at))
                if len(part) >= most:
                    found, part = union([*found, *part]), []
    except sqlite3.Error as error:
        raise UserError(f"{journal} cannot be read: {error}") from error
    return union([*found, *part])


def training(folder: Path, bounds: Sequence[Span]) -> list[Span]:
    """From the beginning of the first step that was logged to the last one, in each of the stage's stretches."""
    times = [entry for path in sorted(folder.glob("**/metrics.jsonl")) for entry in _steps(path)]
    found = []
    for begin, end in bounds:
        inside = [(time - seconds, time) for time, seconds in times if begin <= time <= end]
        if inside:
            found.append((max(begin, min(first for first, _ in inside)), max(last for _, last in inside)))
    return union(found)


def _steps(path: Path) -> Iterator[tuple[float, float]]:
    """(logged at, seconds since the log before) of each step; json, since a loss may be NaN."""
    try:
        lines = path.read_bytes().splitlines()
    except OSError:
        return
    for line in lines:
        try:
            entry = json.loads(line)
            yield float(entry["time"]), max(0.0, float(entry.get("seconds") or 0.0))
        except (ValueError, KeyError, TypeError, RecursionError, OverflowError):
            continue


# ---- all of it


@dataclass(frozen=True, eq=False)
class Work:
    """Everything that the timeline shows: `wall` are the invocations, `busy` is by stage, `driver` by bin of wall time."""

    wall: Sequence[Span]
    stretches: Sequence[Stretch]
    busy: Mapping[str, Sequence[Span]]
    driver: Sequence[float | None]
    numbers: Mapping[str, Any]


def work(root: Path, state: Mapping[str, Any], problems: list[str]) -> Work:
    """Reads the journals, the metrics and the driver's file of a run; what cannot be read is told in `problems`."""
    found, wall = stretches(state)
    busy = {kind: list[Span]() for kind in ("generate", "evaluate", "train")}
    by_stage = dict[str, list[Span]]()
    for key, parts in _by_key(found).items():
        first = parts[0]
        if first.kind == "aside":
            continue
        bounds = union((one.begin, one.end) for one in parts)
        folder = root / first.folder
        try:
            spans = (
                training(folder, bounds) if first.kind == "train" else within(generating(folder / "journal.db"), bounds)
            )
        except UserError as error:
            problems.append(f"{key}: {error}")
            spans = []
        by_stage[key] = spans
        busy[first.kind] += spans
    every = {kind: union(spans) for kind, spans in busy.items()}
    generating_ = union([*every["generate"], *every["evaluate"]])
    either = union([*generating_, *every["train"]])
    both = within(generating_, every["train"])
    driver, gpus = _driver(root / "gpu.jsonl", wall)
    running = union((one.begin, one.end) for one in found if one.lane in ("engine", "train"))
    seconds = total(wall)
    numbers = {
        "wall_seconds": seconds,
        "invocations": sum(lane == "all" for _, lane, *_ in state.get("stretches", ())),
        "pauses_seconds": (wall[-1][1] - wall[0][0] - seconds) if wall else 0.0,
        "seconds": {
            "generating": total(every["generate"]), "evaluating": total(every["evaluate"]), "training": total(every["train"]),
            "either": total(either), "both": total(both), "stages": total(running),
        },
        "share": {
            name: value / seconds if seconds else None
            for name, value in (("working", total(either)), ("stages", total(running)))
        },
        "gpus": gpus,
    }  # fmt: skip
    return Work(wall, found, by_stage, driver, numbers)


def _by_key(found: Iterable[Stretch]) -> dict[str, list[Stretch]]:
    by_key: dict[str, list[Stretch]] = {}
    for one in found:
        by_key.setdefault(one.key, []).append(one)
    return by_key


def cut(wall: Sequence[Span]) -> Iterator[tuple[Span, float]]:
    """Each invocation with the working time before it: pauses are cut out."""
    before = 0.0
    for span in wall:
        yield span, before
        before += span[1] - span[0]


def _driver(path: Path, wall: Sequence[Span]) -> tuple[list[float | None], list[dict[str, Any]]]:
    """The mean busy share by bin of working time over all GPUs, and each GPU's own numbers."""
    length = total(wall)
    if not length or not path.is_file():
        return [], []
    bins, counts = np.zeros(BINS), np.zeros(BINS)
    gpus: dict[int, list[float]] = {}  # samples, sum of busy %, how many were above zero, most MiB
    places = list(cut(wall))
    at = 0
    with path.open("rb") as file:
        for line in file:
            try:
                time, gpu, busy, memory = orjson.loads(line)
                time, busy, memory = float(time), float(busy), float(memory)
            except (ValueError, TypeError):
                continue  # cut off by a kill
            while at + 1 < len(places) and time > places[at][0][1]:
                at += 1
            (begin, end), before = places[at]
            if not begin <= time <= end:
                continue
            place = min(int(BINS * (before + time - begin) / length), BINS - 1)
            bins[place] += busy
            counts[place] += 1
            one = gpus.setdefault(int(gpu), [0, 0.0, 0, 0.0])
            one[0] += 1
            one[1] += busy
            one[2] += busy > 0
            one[3] = max(one[3], memory)
    line_ = [float(sum_ / count / 100) if count else None for sum_, count in zip(bins, counts, strict=True)]
    told = [
        {"gpu": gpu, "samples": int(count), "busy": sum_ / count / 100, "above_zero": above / count, "most_mib": most}
        for gpu, (count, sum_, above, most) in sorted(gpus.items())
    ]
    return line_ if told else [], told
