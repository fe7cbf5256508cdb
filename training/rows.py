"""Reads the rows of a data set: Parquet or JSON lines, one file after the other, a thousand rows in memory at a time."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from training.errors import TrainingError
from training.settings import Source

Row = Mapping[str, Any]
ROWS_AT_ONCE = 1000
_KINDS = (".parquet", ".jsonl", ".json")
# What a stage needs: one of these sets of columns.
NEEDS = {
    "sft": (("messages",), ("prompt", "completion")),
    "dpo": (("prompt", "chosen", "rejected"),),
    "rpo": (("prompt", "chosen", "rejected", "chosen_reward", "rejected_reward"), ("prompt", "responses", "rewards")),
    "reward": (
        ("prompt", "chosen", "rejected"),
        ("prompt", "responses", "rewards"),
        ("prompt", "responses", "ranks"),
        ("prompt", "responses", "attributes"),
    ),
}


def data_files(source: Source) -> list[Path]:
    """The files of a source, in order. Raises `TrainingError` where there are none."""
    path = Path(source.path)
    if path.is_file() and path.suffix in _KINDS:
        return [path]
    if not path.exists():
        raise TrainingError(
            f"data={source.path}: no such file or folder; make one with generate and export, or name yours"
        )
    # A .json beside them is a manifest more often than data; named by itself it is read.
    # An export that holds prompts out is two folders. Beside Parquet, JSON lines are notes: its list of duplicates.
    kinds = [(folder, kind) for kind in _KINDS[:2] for folder in (path, path / "train")]
    files = next((found for folder, kind in kinds if (found := sorted(folder.glob(f"*{kind}")))), [])
    if not files:
        raise TrainingError(f"data={source.path}: holds no .parquet or .jsonl files{_hint(path)}")
    return files


def _hint(path: Path) -> str:
    if (path / "journal.db").exists():
        return f"; this is a run's folder: its conversations are in {path}/data, pairs come from factory export"
    return ""


def check_columns(file: Path, stage: str) -> None:
    """Raises `TrainingError` where a file lacks what the stage needs."""
    there = set(_columns(file))
    if any(there.issuperset(needed) for needed in NEEDS[stage]):
        return
    wanted = " or ".join(", ".join(needed) for needed in NEEDS[stage])
    lacking = min((sorted(set(needed) - there) for needed in NEEDS[stage]), key=len)
    remedy = {
        "sft": "the data folder of a run has it, as does factory export format=sft",
        "dpo": "factory export format=preference writes it",
        "rpo": "factory export format=preference writes it, rewards included",
        "reward": "factory export format=preference or format=reward writes it",
    }[stage]
    raise TrainingError(
        f"{file}: has no column {', '.join(lacking)} (there is {', '.join(sorted(there)) or 'nothing'}); stage={stage} "
        f"needs {wanted}: {remedy}"
    )


def read_rows(file: Path) -> Iterator[list[Row]]:
    """The rows in lists of at most `ROWS_AT_ONCE`. Raises `TrainingError` for a file that cannot be read."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        if file.suffix == ".parquet":
            with pq.ParquetFile(file) as parquet:
                for batch in parquet.iter_batches(ROWS_AT_ONCE):
                    yield batch.to_pylist()
        else:
            yield from _json_rows(file)
    except (pa.ArrowInvalid, OSError) as error:
        raise TrainingError(f"{file}: cannot be read: {str(error).splitlines()[0]}") from error


def _json_rows(file: Path) -> Iterator[list[Row]]:
    import orjson

    rows: list[Row] = []
    with file.open("rb") as lines:
        for number, line in enumerate(lines, 1):
            if not line.strip():
                continue
            try:
                row = orjson.loads(line)
            except orjson.JSONDecodeError as error:
                raise TrainingError(
                    f"{file}, line {number}: is not JSON ({error}); one object a line is read"
                ) from error
            if not isinstance(row, dict):
                raise TrainingError(f"{file}, line {number}: is no JSON object; one object a line is read")
            rows.append(row)
            if len(rows) >= ROWS_AT_ONCE:
                yield rows
                rows = []
    if rows:
        yield rows


def _columns(file: Path) -> Sequence[str]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    if file.suffix == ".parquet":
        try:
            return list(pq.read_schema(file).names)
        except (pa.ArrowInvalid, OSError) as error:
            raise TrainingError(f"{file}: is no Parquet file that can be read: {str(error).splitlines()[0]}") from error
    first = next(read_rows(file), [])
    return list(first[0]) if first else []


def content_digest(files: Sequence[Path]) -> str:
    """One hash of the files' contents, whatever they are called."""
    whole = hashlib.blake2b(digest_size=16)
    for file in files:
        with file.open("rb") as opened:
            whole.update(hashlib.file_digest(opened, lambda: hashlib.blake2b(digest_size=16)).digest())
    return whole.hexdigest()
