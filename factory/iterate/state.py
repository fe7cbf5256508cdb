"""What was done and when: `state.json`, written whole after every stage, and the log of who worked when."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import orjson

from factory.errors import ConfigError
from factory.outputs import write_atomically

VERSION = 1


class State:
    """The stages that are done, by key, and every stretch of work there was. Kept in `state.json`."""

    def __init__(self, folder: Path, described: Mapping[str, Any]) -> None:
        """`described`: what must be the same for the folder to go on. Raises `ConfigError` where it is not."""
        self.path = folder / "state.json"
        self.data: dict[str, Any] = {"version": VERSION, "described": described, "stages": {}, "stretches": []}
        if self.path.exists():
            self.data = self._read(described)

    def _read(self, described: Mapping[str, Any]) -> dict[str, Any]:
        try:
            data: dict[str, Any] = orjson.loads(self.path.read_bytes())
            before, _, _ = data["described"], data["stages"], data["stretches"]
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise ConfigError(
                f"{self.path} cannot be read: {error!r}; take it away to begin this run again (finished stages are kept in their folders)"
            ) from error
        changed = sorted(_differences(before, orjson.loads(orjson.dumps(described))))
        if changed:
            raise ConfigError(
                f"out={self.path.parent}: was begun with other settings: {', '.join(changed)}. Give those again, or another "
                "run=NAME; rounds, seeds and max_minutes may change."
            )
        return data

    def done(self, key: str) -> bool:
        return bool(self.data["stages"].get(key, {}).get("done"))

    def facts(self, key: str) -> Mapping[str, Any]:
        """What was noted of a stage that is done."""
        found: Mapping[str, Any] = self.data["stages"][key]
        return found

    def finish(self, key: str, **facts: Any) -> None:
        self.data["stages"][key] = {"done": True, "ended": round(time.time(), 3), **facts}
        self.write()

    def stretch(self, key: str, lane: str, began: float, ended: float) -> None:
        """Somebody worked from `began` to `ended` (seconds since 1970)."""
        self.data["stretches"].append([key, lane, round(began, 3), round(ended, 3)])
        self.write()

    def write(self) -> None:
        write_atomically(self.path, orjson.dumps(self.data, option=orjson.OPT_INDENT_2) + b"\n")


def _differences(before: Any, now: Any, prefix: str = "") -> Iterator[str]:
    if isinstance(before, Mapping) and isinstance(now, Mapping):
        for key in {**before, **now}:
            yield from _differences(before.get(key), now.get(key), f"{prefix}.{key}" if prefix else key)
    elif before != now:
        yield prefix
