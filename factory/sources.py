"""Where seed items come from: a file or folder, a Hugging Face dataset, another run, a list, topics drawn for ever, or code
(snippets, functions, files that many others import).

A source streams: it holds one item at a time (a list or a folder's file names apart). An item that cannot be read is an
item all the same, whose row raises `RecordError`: the run counts it as lost, with its reason, and goes on.
"""

from __future__ import annotations

import base64
import codecs
import csv
import datetime
import decimal
import functools
import hashlib
import itertools
import os
import random
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import orjson
from pydantic import Field

from factory.errors import ConfigError, RecordError, Stopped
from factory.records import Frozen
from factory.sources_code import functions, imported_by_many, python_files

Row = Mapping[str, Any]
Kind = Literal["auto", "own", "rows", "texts", "dataset", "list", "snippets", "functions", "repository", "run"]
_ROWS = (".jsonl", ".ndjson", ".json", ".csv", ".tsv", ".parquet", ".yaml", ".yml")
_TEXTS = (".txt", ".md", ".rst")
_UNREADABLE = (OSError, ValueError, KeyError, csv.Error)  # what readers of files raise where one is damaged
csv.field_size_limit(2**31 - 1)  # a cell may hold a book


class SourceSettings(Frozen):
    """Which seeds to use; `own` are those that the task brings along. `repeat` draws them again and again, in a new order each time, until the run has enough."""

    kind: Kind = "auto"
    path: str | None = None
    items: tuple[Any, ...] = ()
    split: str = "train"
    repeat: bool = False
    limit: int | None = Field(None, ge=1)
    suffixes: tuple[str, ...] = (".py",)  # of the files that snippets are taken from
    max_lines: int = Field(15, ge=1)  # of a snippet; OSS-instruct takes 1 to 15 lines
    least_importers: int = Field(5, ge=1)  # of a repository's file; Llama 3.1 removes files that five others import
    lost: bool = False  # of another run, the records that it did not keep, too


@dataclass(frozen=True)
class Item:
    """One seed: its place in the source, a digest of its content, and its row, read when it is wanted."""

    index: int
    digest: str
    load: Callable[[], Row]
    parents: tuple[str, ...] = ()  # ids of the records that it was made from

    @functools.cached_property
    def row(self) -> Row:
        return self.load()


def _digest(data: bytes) -> str:
    return hashlib.blake2b(data, digest_size=8).hexdigest()


class Source:
    """The seed items of one run. `endless` sources never run dry, so the run needs an `n`."""

    def __init__(self, settings: SourceSettings, seed: int, own: Callable[[int], Iterator[Row]] | None = None) -> None:
        """`own(seed)` gives the task's own seeds, without end; None where it has none."""
        self.settings, self.seed, self.own = settings, seed, own
        self.kind = self._kind()
        self.endless = settings.repeat or self.kind in ("own", "snippets")
        self._parquet_columns: set[str] | None = None

    def _kind(self) -> Kind:
        settings = self.settings
        if settings.kind != "auto":
            return settings.kind
        if settings.path is None:
            return "list" if settings.items or self.own is None else "own"
        path = Path(settings.path)
        if os.path.exists(path / "journal.db"):
            return "run"
        if os.path.isdir(path):  # not pathlib's: it raises where one may not look
            saved = (path / "dataset_info.json").exists() or (path / "dataset_dict.json").exists()
            tables = set(_ROWS) - {".yaml", ".yml"}
            rows = any(child.suffix in tables for child in path.iterdir())
            return "dataset" if saved or rows else "texts"
        if path.suffix in _ROWS:
            return "rows"
        return "texts" if path.suffix in _TEXTS or os.path.exists(path) else "dataset"

    @property
    def named(self) -> bool:
        """Whether the user named one, rather than leave the seeds to the task."""
        return self.settings.path is not None or bool(self.settings.items)

    def check(self) -> list[str]:
        """Problems that can be told before anything is asked, each with its remedy."""
        settings = self.settings
        if self.kind == "own":
            return [] if self.own is not None else ["source.kind=own: this task brings no seeds; name a source.path"]
        if self.kind == "list":
            return (
                [] if settings.items else ["source.path is not set: name a file or folder, as source.path=rows.jsonl"]
            )
        if settings.path is None:
            return [f"source.kind={self.kind} needs source.path"]
        path = Path(settings.path)
        if self.kind not in ("own", "list", "dataset") and not os.path.exists(path):
            near = sorted(path.parent.glob(f"*{path.suffix}"))[:4] if os.access(path.parent, os.R_OK | os.X_OK) else []
            there = f"; there is {', '.join(map(str, near))}" if near else ""
            return [f"source.path={settings.path}: no such file or folder{there}"]
        if self.kind == "dataset" and not os.path.exists(path) and settings.path.count("/") != 1:
            return [
                f"source.path={settings.path}: no such file or folder, and no name of a dataset (owner/name) either"
            ]
        if self.kind == "run" and not (path / "data").is_dir():
            return [f"source.path={settings.path}: holds no records of a run; run generate there first"]
        if self.kind == "functions" and next(functions(path), None) is None:
            return [f"source.path={settings.path}: holds no Python function that runs by itself"]
        if self.kind == "repository" and (not path.is_dir() or next(self._loads(), None) is None):
            return [f"source.path={settings.path}: holds no Python file that {settings.least_importers} others import "
                    "(source.least_importers)"]  # fmt: skip
        if self.kind == "snippets" and not self._snippet_files:
            return [f"source.path={settings.path}: holds no file ending in {', '.join(settings.suffixes)}"]
        if self.kind == "texts" and path.is_file() and settings.kind == "auto" and path.suffix not in _TEXTS:
            return [f"source.path={settings.path}: rows are read from {', '.join(_ROWS)}, one text from {', '.join(_TEXTS)}; "
                    "for a text under another name add source.kind=texts"]  # fmt: skip
        if self.kind == "texts" and next(self._texts(), None) is None:
            return [f"source.path={settings.path}: holds no file"]
        if self.kind == "rows":
            return self._check_first_rows()
        return []

    def _check_first_rows(self) -> list[str]:
        """An empty file, or one that is not what its name says: none of its first rows can be read."""
        complaints = []
        try:
            for _, load in itertools.islice(self._rows(), 10):
                try:
                    load()
                    return []
                except RecordError as error:
                    complaints.append(f"cannot be read: {str(error).removeprefix('source: ')}")
        except (OSError, ValueError, KeyError, csv.Error, ImportError) as error:
            complaints.append(f"cannot be read: {error}")
        return [f"source.path={self.settings.path}: {[*complaints, 'is empty; it needs at least one row'][0]}"]

    def columns(self) -> set[str] | None:
        """Names that a row has, told from the first one; None where that is not known beforehand."""
        try:
            first = next(self.items(), None)
            return set(first.row) if first else None
        except RecordError:
            return None

    def items(self) -> Iterator[Item]:
        """Every seed item, in an order that depends on the settings and the seed alone."""
        if self.kind == "own":
            base = self._own()
        elif self.kind == "snippets":
            base = self._snippets()
        else:
            base = self._repeated() if self.settings.repeat else self._loads()
        limit = self.settings.limit
        for index in itertools.count() if limit is None else range(limit):
            try:
                digest, load = next(base)
            except StopIteration:
                return
            except _UNREADABLE as error:
                raise Stopped(
                    f"source.path={self.settings.path}: cannot be read after item {index}: {error}"
                ) from error
            yield Item(index, digest, load, (digest,) if self.kind == "run" else ())

    def _loads(self) -> Iterator[tuple[str, Callable[[], Row]]]:
        if self.kind == "list":
            for value in self.settings.items:
                listed = dict(value) if isinstance(value, Mapping) else {"item": value}
                yield _digest(orjson.dumps(listed, option=orjson.OPT_SORT_KEYS)), functools.partial(dict, listed)
        elif self.kind == "texts":
            yield from self._texts()
        elif self.kind == "dataset":
            yield from map(_plain, self._dataset())
        elif self.kind == "functions":
            yield from map(_plain, functions(Path(str(self.settings.path))))
        elif self.kind == "repository":
            root = Path(str(self.settings.path))
            tree = _tree_digest(root)
            for row in imported_by_many(root, self.settings.least_importers):
                yield _digest(f"{tree}/{row['removed']}".encode()), functools.partial(dict, row)
        elif self.kind == "run":
            yield from self._run()
        else:
            yield from self._rows()

    def _own(self) -> Iterator[tuple[str, Callable[[], Row]]]:
        assert self.own is not None
        for number, row in enumerate(self.own(self.seed)):
            yield _digest(orjson.dumps([number, row], option=orjson.OPT_SORT_KEYS)), functools.partial(dict, row)

    def _repeated(self) -> Iterator[tuple[str, Callable[[], Row]]]:
        seeds = list(self._loads())
        for epoch in range(2**31 if seeds else 0):
            order = random.Random(f"{self.seed}/{epoch}").sample(range(len(seeds)), len(seeds))
            for place in order:
                digest, load = seeds[place]
                yield (digest if epoch == 0 else f"{digest}.{epoch}"), load

    # ---- files

    def _rows(self) -> Iterator[tuple[str, Callable[[], Row]]]:
        path = Path(str(self.settings.path))
        if path.suffix in (".jsonl", ".ndjson"):
            with open(path, "rb") as file:
                for number, line in enumerate(file, 1):
                    if line := line.strip():  # the last line has no end until another follows
                        yield _digest(line), functools.partial(_parse_line, line, path.name, number)
        elif path.suffix == ".json":
            rows = orjson.loads(path.read_bytes().removeprefix(codecs.BOM_UTF8))
            if not isinstance(rows, list):
                raise ValueError("a .json file must hold a list of rows; for one row a line use .jsonl")
            for number, row in enumerate(rows, 1):
                data = orjson.dumps(row)
                yield _digest(data), functools.partial(_parse_line, data, path.name, number)
        elif path.suffix == ".parquet":
            yield from self._parquet(path)
        elif path.suffix in (".yaml", ".yml"):
            yield from map(_plain, _yaml_rows(path))
        else:
            with open(path, newline="", encoding="utf-8-sig") as text:
                for row in csv.DictReader(text, delimiter="\t" if path.suffix == ".tsv" else ","):
                    yield _digest(orjson.dumps(row, option=orjson.OPT_NON_STR_KEYS)), functools.partial(_csv_row, row)

    def _parquet(self, path: Path) -> Iterator[tuple[str, Callable[[], Row]]]:
        import pyarrow.parquet

        for batch in pyarrow.parquet.ParquetFile(path).iter_batches(batch_size=1000):
            yield from map(_plain, batch.to_pylist())

    def _run(self) -> Iterator[tuple[str, Callable[[], Row]]]:
        """Another run's records: `messages`, `instruction` (what the user said first), and what `meta` holds."""
        import pyarrow.parquet

        folders = ("data", "rejected") if self.settings.lost else ("data",)
        for folder in folders:
            for file in sorted(Path(str(self.settings.path), folder).glob("*.parquet")):
                for batch in pyarrow.parquet.ParquetFile(file).iter_batches(500, columns=["id", "messages", "meta"]):
                    for record in batch.to_pylist():
                        yield record["id"], functools.partial(_record_row, record)

    def _texts(self) -> Iterator[tuple[str, Callable[[], Row]]]:
        path = Path(str(self.settings.path))
        files = sorted(child for child in path.rglob("*") if child.is_file()) if path.is_dir() else [path]
        for file in files:
            name = str(file.relative_to(path)) if path.is_dir() else file.name
            stat = file.stat()
            yield (
                _digest(f"{name}/{stat.st_size}/{stat.st_mtime_ns}".encode()),
                functools.partial(_text_row, file, name),
            )

    def _dataset(self) -> Iterator[Row]:
        import datasets

        path = str(self.settings.path)
        try:
            if (Path(path) / "dataset_info.json").exists() or (Path(path) / "dataset_dict.json").exists():
                data = datasets.load_from_disk(path)
                data = data[self.settings.split] if isinstance(data, datasets.DatasetDict) else data
            else:
                # Streamed, since the library's cache knows a folder by its name and card, not by what its files hold now.
                data = datasets.load_dataset(path, split=self.settings.split, streaming=True)
        except (OSError, ValueError, KeyError) as error:
            raise ConfigError(
                f"source.path={path}: cannot be loaded as a dataset (split {self.settings.split}): {error}"
            ) from error
        yield from data

    # ---- snippets of source files, as OSS-instruct takes them

    @functools.cached_property
    def _snippet_files(self) -> list[Path]:
        path = Path(str(self.settings.path))
        if path.is_file():
            return [path]
        return sorted(child for child in path.rglob("*") if child.suffix in self.settings.suffixes and child.is_file())

    def _snippets(self) -> Iterator[tuple[str, Callable[[], Row]]]:
        root = Path(str(self.settings.path))
        for number in range(2**31):
            rng = random.Random(f"{self.seed}/snippet/{number}")
            file = rng.choice(self._snippet_files)
            lines = file.read_text(errors="replace").splitlines()
            length = rng.randint(1, self.settings.max_lines)
            start = rng.randrange(max(1, len(lines) - length + 1))
            snippet = "\n".join(lines[start : start + length]).strip("\n")
            if not snippet.strip():
                continue
            name = str(file.relative_to(root)) if root.is_dir() else file.name
            row = {"snippet": snippet, "path": name, "line": start + 1}
            yield _digest(f"{number}/{snippet}".encode()), functools.partial(dict, row)


async def grown(rows: AsyncIterator[Row], limit: int | None) -> AsyncIterator[Item]:
    """Seed items of rows that are made while the run goes on, `limit` of them at most."""
    index = 0
    async for row in rows:
        if index == limit:
            return
        yield Item(index, _digest(orjson.dumps(row, option=orjson.OPT_SORT_KEYS)), functools.partial(dict, row))
        index += 1


def _plain(row: Row) -> tuple[str, Callable[[], Row]]:
    """Digest and loader of a row as JSON has it: times as text, bytes in base64, and of an image or sound its type."""
    data = orjson.dumps(row, default=_as_text, option=orjson.OPT_SORT_KEYS | orjson.OPT_NON_STR_KEYS)
    return _digest(data), functools.partial(orjson.loads, data)


def _as_text(value: Any) -> str:
    if isinstance(value, bytes):
        return base64.b64encode(value).decode()
    if isinstance(value, decimal.Decimal | datetime.timedelta):
        return str(value)
    return f"<{type(value).__name__}>"


def _yaml_rows(path: Path) -> Iterator[Row]:
    import yaml

    try:
        rows = yaml.safe_load(path.read_text(encoding="utf-8"))
    except yaml.YAMLError as error:
        raise ValueError(f"is not YAML: {error}") from error
    if not isinstance(rows, list):
        raise ValueError("a .yaml file must hold a list of seeds")
    for row in rows:
        yield row if isinstance(row, Mapping) else {"item": row}


def _record_row(record: Mapping[str, Any]) -> Row:
    asked = next((turn["content"] for turn in record["messages"] if turn["role"] == "user"), None)
    return {"messages": record["messages"], "instruction": asked, **orjson.loads(record["meta"])}


def _tree_digest(root: Path) -> str:
    """Changes with any Python file of the tree, without reading them."""
    stats = ((str(file), file.stat()) for file in python_files(root))
    return _digest(orjson.dumps([(name, stat.st_size, stat.st_mtime_ns) for name, stat in stats]))


def _parse_line(line: bytes, name: str, number: int) -> Row:
    try:
        row = orjson.loads(line.removeprefix(codecs.BOM_UTF8))
    except ValueError as error:
        raise RecordError(f"source: {name}, row {number}, is not JSON: {error}") from error
    if not isinstance(row, dict):
        raise RecordError(f"source: {name}, row {number}, is not an object with named columns")
    return row


def _csv_row(row: Mapping[str | None, Any]) -> Row:
    if None in row:
        raise RecordError(f"source: a row has more cells than the header: {row[None]!r}")
    return {str(name): value for name, value in row.items()}


def _text_row(file: Path, name: str) -> Row:
    try:
        return {"text": file.read_text(encoding="utf-8"), "path": name}
    except (OSError, UnicodeDecodeError) as error:
        raise RecordError(f"source: {name} cannot be read as text: {error}") from error
