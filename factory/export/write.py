"""The files of an export: Parquet of what is left and of what was lost, put in the place of an earlier export at once."""

from __future__ import annotations

import contextlib
import os
import shutil
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import orjson

from factory.errors import ConfigError
from factory.export.load import Loaded
from factory.export.pool import RECORD, Item, Pool
from factory.export.settings import ExportSettings
from factory.outputs import Shards, column_types, read_manifest, turns_type, typed
from factory.run_folder import RunLock, unwritable

if TYPE_CHECKING:
    import pyarrow

TRAIN, HELD_OUT = "train", "held_out"


class Workplace:
    """A folder beside the target, where the export is made before it takes the target's place.

    A killed export leaves the target as it was (its folder of work is cleared by the next one). Raises `ConfigError` where
    the target holds something else than an export.
    """

    def __init__(self, target: Path) -> None:
        self.target = target
        self.folder = target.with_name(f".{target.name}.work")
        self.fresh = self.folder / "fresh"
        self._old = target.with_name(f".{target.name}.old")
        self._lock: RunLock | None = None

    def __enter__(self) -> Workplace:
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise unwritable(self.target.parent, error) from error
        self._lock = RunLock(self.folder, "to=DIR")
        self._lock.__enter__()
        if self._old.exists() and not self.target.exists():  # killed between two renames
            os.rename(self._old, self.target)
        if self.target.exists() and not _is_export(self.target):
            self.__exit__()
            raise ConfigError(f"to={self.target}: holds files that no export wrote; choose another folder")
        shutil.rmtree(self.fresh, ignore_errors=True)
        self.fresh.mkdir()
        return self

    def publish(self) -> None:
        """Put what was made in the target's place."""
        shutil.rmtree(self._old, ignore_errors=True)
        if self.target.exists():
            os.rename(self.target, self._old)
        os.rename(self.fresh, self.target)
        shutil.rmtree(self._old, ignore_errors=True)

    def __exit__(self, *exc: object) -> None:
        shutil.rmtree(self.folder, ignore_errors=True)
        if self._lock is not None:
            self._lock.__exit__()


def _is_export(folder: Path) -> bool:
    if not folder.is_dir():
        return False
    if not any(folder.iterdir()):
        return True
    with contextlib.suppress(OSError, ValueError):
        return "format" in read_manifest(folder)
    return False


@dataclass(frozen=True)
class Written:
    """Rows by split, and the columns as an Arrow schema."""

    rows: Mapping[str, int]
    schema: Any


def write_rows(folder: Path, pool: Pool, loaded: Loaded, settings: ExportSettings) -> Written:
    """Write `*.parquet`, or `train` and `held_out`, and `rejected`. Raises `UserError` where that cannot be."""
    copies = bool(pool.one("SELECT 1 FROM items WHERE copies > 1 LIMIT 1"))
    schema = _schema(loaded, settings, copies)
    rows: dict[str, int] = {}
    try:
        for split in (TRAIN, HELD_OUT) if settings.held_out else (TRAIN,):
            rows[split] = _write(folder / split, schema, _rows(pool, loaded, settings, split == HELD_OUT, copies))
        _write(folder / "rejected", _rejected_schema(schema, loaded, settings), _rejected(pool, loaded, settings))
        if not settings.held_out:
            for file in (folder / TRAIN).iterdir():
                file.rename(folder / file.name)
            (folder / TRAIN).rmdir()
    except OSError as error:
        raise unwritable(folder, error) from error
    return Written(rows, schema)


def _write(folder: Path, schema: pyarrow.Schema, rows: Iterator[dict[str, Any]]) -> int:
    with Shards(folder, schema) as shards:
        for row in rows:
            shards.add(row)
        shards.finish()
        return shards.count


def _rows(
    pool: Pool, loaded: Loaded, settings: ExportSettings, held_out: bool, copies: bool
) -> Iterator[dict[str, Any]]:
    for item, data, times in pool.written(held_out):
        row = _row(item, orjson.loads(data), loaded, settings)
        for copy in range(times):
            yield {**row, "copy": copy} if copies else row


def _rejected(pool: Pool, loaded: Loaded, settings: ExportSettings) -> Iterator[dict[str, Any]]:
    for item, data, step, why, twin in pool.rejected():
        content = orjson.loads(data)
        if item.unit == RECORD and settings.format != "sft":
            row = {**_head(item, loaded), "messages": content["messages"]}
            if scores := _values(item):
                row["scores"] = scores
        else:
            row = _row(item, content, loaded, settings)
        yield {**row, "step": step, "reason": why, "duplicate_of": twin}


def _head(item: Item, loaded: Loaded) -> dict[str, Any]:
    run = loaded.runs[item.run]
    return {"id": item.id, "run": run.name, "task": item.task, "model": run.model}


def _values(item: Item) -> dict[str, float]:
    return {name: value for name, (value, _) in item.scored().items()}


def _row(item: Item, content: dict[str, Any], loaded: Loaded, settings: ExportSettings) -> dict[str, Any]:
    row = _head(item, loaded)
    if settings.format == "sft":
        row["messages"] = content["messages"]
        if scores := _values(item):
            row["scores"] = scores
        if "tags" in loaded.scores:
            row["tags"] = content.get("tags")
        return {**row, **typed(content.get("columns", {}), loaded.columns)}
    if settings.format == "preference":
        rejected = loaded.runs[content["rejected_run"]]
        return {**row, **content, "rejected_run": rejected.name, "rejected_model": rejected.model}
    runs = [loaded.runs[run] for run in content.pop("response_runs")]
    return {**row, **content, "response_models": [run.model for run in runs]}


def _schema(loaded: Loaded, settings: ExportSettings, copies: bool) -> pyarrow.Schema:
    import pyarrow as pa

    text, number = pa.string(), pa.float64()
    scores = [("scores", pa.struct([(name, number) for name in sorted(loaded.scores)]))] if loaded.scores else []
    fields: list[Any] = [(name, text) for name in ("id", "run", "task", "model")]
    if settings.format == "sft":
        fields += [("messages", turns_type()), *scores]
        fields += [("tags", pa.list_(text))] if "tags" in loaded.scores else []
        fields += column_types(loaded.columns)
    elif settings.format == "preference":
        fields += [(name, turns_type()) for name in ("prompt", "chosen", "rejected")]
        fields += [("chosen_reward", number), ("rejected_reward", number), ("source", text)]
        fields += [("level", pa.int64())] if settings.pairs.levels else []
        fields += [(name, text) for name in ("chosen_id", "rejected_id", "rejected_run", "rejected_model")]
        fields += [(f"{side}_{name}", kind) for side in ("chosen", "rejected") for name, kind in scores]
    else:
        fields += [("prompt", turns_type()), ("responses", pa.list_(turns_type())), _worth(loaded, settings)]
        fields += [("source", text), ("response_ids", pa.list_(text)), ("response_models", pa.list_(text))]
    return pa.schema([*fields, *([("copy", pa.int64())] if copies else [])])


def _worth(loaded: Loaded, settings: ExportSettings) -> tuple[str, pyarrow.DataType]:
    import pyarrow as pa

    if settings.ranking.write == "attributes":
        names = settings.ranking.attributes or sorted(loaded.attributes)
        return "attributes", pa.list_(pa.struct([(name, pa.float64()) for name in names]))
    return settings.ranking.write, pa.list_(pa.int64() if settings.ranking.write == "ranks" else pa.float64())


def _rejected_schema(schema: pyarrow.Schema, loaded: Loaded, settings: ExportSettings) -> pyarrow.Schema:
    """The columns of the rows, of the records that came before them, and what became of both."""
    import pyarrow as pa

    more: list[Any] = [(name, pa.string()) for name in ("step", "reason", "duplicate_of")]
    if settings.format != "sft":
        more.append(("messages", turns_type()))
        if loaded.scores:
            more.append(("scores", pa.struct([(name, pa.float64()) for name in sorted(loaded.scores)])))
    return pa.schema([*schema, *(pa.field(name, kind) for name, kind in more)])
