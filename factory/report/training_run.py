"""What a training run's folder says, read from its files alone: whatever is there, a run in progress included."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from factory.errors import UserError
from factory.report.curves import Points

METRICS, SETTINGS, MANIFEST, PHASES = "metrics.jsonl", "train.json", "manifest.json", "phases"
_HUGE = 1e100  # beyond what any device's numbers hold; no scale is made for it


@dataclass(frozen=True)
class Phase:
    """One training: the only one, or one of several that follow each other.

    `start` is how many steps were done before, `planned` how many it has, where that is known (or `guessed`).
    """

    name: str
    start: int
    settings: Mapping[str, Any]
    manifest: Mapping[str, Any]
    entries: Sequence[Mapping[str, float]]
    broken: int = 0  # lines of the metrics that cannot be read
    planned: int | None = None
    guessed: bool = False

    @cached_property
    def done(self) -> int:
        """Steps, as far as they were logged."""
        return int(max((entry["step"] for entry in self.entries), default=0))

    def points(self, name: str) -> Points:
        """(step of the whole run, value) of a metric; one that begins with `eval_` is of the held-out examples."""
        return self._columns.get(name, [])

    @cached_property
    def _columns(self) -> Mapping[str, Points]:
        found: dict[str, list[tuple[float, float]]] = {}
        for entry in self.entries:
            step = self.start + entry["step"]
            for name, value in entry.items():
                found.setdefault(name, []).append((step, value))
        return found


@dataclass(frozen=True)
class TrainingRun:
    """Phases in order. `problems` are files that could not be read, in words."""

    name: str
    manifest: Mapping[str, Any]
    phases: Sequence[Phase]
    problems: Sequence[str] = ()

    @property
    def finished(self) -> bool:
        return bool(self.manifest)

    @property
    def settings(self) -> Mapping[str, Any]:
        return self.phases[-1].settings

    @property
    def stage(self) -> str:
        stage = self.manifest.get("stage") or mapping(self.settings.get("stage")).get("name")
        return str(stage or "unknown")

    @property
    def done(self) -> int:
        return self.phases[-1].start + self.phases[-1].done

    @property
    def planned(self) -> int | None:
        known = [phase.planned for phase in self.phases]
        return sum(filter(None, known)) if None not in known else None

    def points(self, name: str) -> Points:
        return [point for phase in self.phases for point in phase.points(name)]

    def values(self, name: str) -> list[float]:
        """A metric's finite values."""
        return [value for _, value in self.points(name) if math.isfinite(value)]

    @cached_property
    def odd(self) -> list[tuple[int, str]]:
        """(step, metric) of every value that is not a finite number."""
        names = dict.fromkeys(name for phase in self.phases for entry in phase.entries for name in entry)
        return sorted(
            (int(step), name) for name in names for step, value in self.points(name) if not math.isfinite(value)
        )


def is_training(folder: Path) -> bool:
    """Whether a folder is a training run's."""
    return any((folder / name).exists() for name in (METRICS, SETTINGS, PHASES))


def read_run(folder: Path) -> TrainingRun:
    """Raises `UserError` where the folder is no training run's."""
    if not is_training(folder):
        raise UserError(
            f"{folder} holds no training: neither {METRICS} nor {SETTINGS} is there. Name one with run=NAME."
        )
    problems: list[str] = []
    parts = [part for part in (folder / PHASES).glob("*") if part.is_dir()] or [folder]
    read = sorted((_Part(part, problems) for part in parts), key=lambda part: (part.began, part.folder.name))
    phases, start = list[Phase](), 0
    for part in read:
        phases.append(part.phase(start))
        start += phases[-1].done
    if parts != [folder]:  # each part has its own name; the whole has its folder's
        return TrainingRun(folder.resolve().name, _object(folder / MANIFEST, problems), phases, problems)
    name = read[0].manifest.get("run") or read[0].settings.get("run") or folder.resolve().name
    return TrainingRun(str(name), read[0].manifest, phases, problems)


@dataclass
class _Part:
    """The files of one folder."""

    folder: Path
    problems: list[str]
    settings: Mapping[str, Any] = field(init=False)
    manifest: Mapping[str, Any] = field(init=False)

    def __post_init__(self) -> None:
        said = _object(self.folder / SETTINGS, self.problems)
        self.manifest = _object(self.folder / MANIFEST, self.problems)
        self.settings = mapping(said.get("settings")) or mapping(self.manifest.get("settings"))
        self.skip = whole(said.get("skip")) or 0
        self.entries, self.broken = _metrics(self.folder / METRICS)

    @property
    def began(self) -> float:
        return next((entry["time"] for entry in self.entries if "time" in entry), math.inf)

    def phase(self, start: int) -> Phase:
        planned, guessed = self._planned()
        return Phase(self.folder.name, start, self.settings, self.manifest, self.entries, self.broken, planned, guessed)

    def _planned(self) -> tuple[int | None, bool]:
        """Steps of the plan, less those that a part before has taken; reckoned from the epochs until all is done."""
        steps = whole(self.manifest.get("steps")) or whole(self.settings.get("steps"))
        if steps:
            return steps - self.skip, False
        last = next((entry for entry in reversed(self.entries) if entry.get("epoch", 0) > 1e-9), None)
        epochs = real(self.settings.get("epochs"))
        if last is None or epochs is None:
            return None, False
        return round((last["step"] + self.skip) * epochs / last["epoch"]) - self.skip, True


def mapping(value: Any) -> Mapping[str, Any]:
    return value if isinstance(value, Mapping) else {}


def listed(value: Any) -> list[Mapping[str, Any]]:
    """The objects of a list, whatever else is in it."""
    return [entry for entry in value if isinstance(entry, Mapping)] if isinstance(value, list) else []


def real(value: Any) -> float | None:
    """A number that can be reckoned with."""
    return float(value) if isinstance(value, int | float) and abs(value) < _HUGE else None


def whole(value: Any) -> int | None:
    """A number of steps or rows; None for what is none."""
    found = real(value)
    return None if found is None else int(found)


def _object(file: Path, problems: list[str]) -> Mapping[str, Any]:
    """What a JSON file holds; nothing where there is none, or where it cannot be read."""
    try:
        found = json.loads(file.read_bytes())
    except FileNotFoundError:
        return {}
    except (OSError, ValueError, RecursionError) as error:
        problems.append(f"{file.name} cannot be read and is left out: {error}")
        return {}
    if not isinstance(found, Mapping):
        problems.append(f"{file.name} holds no JSON object and is left out")
        return {}
    return found


def _metrics(file: Path) -> tuple[list[Mapping[str, float]], int]:
    """The numbers of each line that can be read, in the order of their steps, and how many lines cannot.

    json rather than orjson, which refuses the NaN that is to be shown here. A line that a kill cut off is no line.
    """
    entries, broken = list[Mapping[str, float]](), 0
    try:
        lines = file.read_bytes().splitlines()
    except FileNotFoundError:
        return [], 0
    for line in lines:
        try:
            found = json.loads(line)
            numbers = {
                str(name): float(value) if abs(value) < _HUGE else math.nan
                for name, value in found.items()
                if isinstance(value, int | float) and not isinstance(value, bool)
            }
            int(numbers["step"])  # fails where it is no number
        except (ValueError, KeyError, AttributeError, OverflowError, RecursionError):
            broken += bool(line.strip())
            continue
        entries.append(numbers)
    return sorted(entries, key=lambda entry: entry["step"]), broken
