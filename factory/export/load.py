"""The runs of an export, read once each: every record becomes an item of the pool."""

from __future__ import annotations

import hashlib
import unicodedata
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import orjson

from factory.config import imported
from factory.errors import ConfigError
from factory.export.pool import RECORD, Item, Pool
from factory.export.settings import ExportSettings
from factory.generators.code_checks import test_share
from factory.journal import Journal
from factory.outputs import RESERVED, join_kinds, no_run, read_manifest
from factory.records import content_hash

PROVENANCE = (
    "run",
    "model",
    "copy",
    "tags",
    "step",
    "duplicate_of",
)  # columns of an export that a source's column gives way to
_COLUMNS_KNOWN = 500  # names told where a column is not found
_NOT_JUDGED = ("pass", "infra_error")  # an attempt that passed, or that could not be judged, is no failed answer
Turns = Sequence[Mapping[str, str]]


@dataclass(frozen=True)
class Run:
    """One run: `config` numbers the configuration that decided its records, `description` is what it says of itself."""

    name: str
    folder: Path
    config: int
    description: Mapping[str, Any]
    wanted: int | None
    carries: bool

    @property
    def model(self) -> str:
        settings = self.description["settings"]
        return str(settings.get("model", {}).get("name", ""))


@dataclass
class Loaded:
    """What the records have: names of scores, and the columns carried from their source with their kinds."""

    runs: list[Run]
    scores: set[str] = field(default_factory=set)
    columns: dict[str, str] = field(default_factory=dict)
    meta: set[str] = field(default_factory=set)
    attributes: set[str] = field(default_factory=set)


def missing_runs(settings: ExportSettings) -> list[str]:
    """A problem for each folder that holds no run."""
    missing = [folder for folder in settings.folders if not (folder / "journal.db").exists()]
    return [problem for folder in missing for problem in no_run(folder).problems]


def load(pool: Pool, settings: ExportSettings) -> Loaded:
    """Raises `ConfigError` where a run has no records."""
    loaded = Loaded([])
    for number, folder in enumerate(settings.folders):
        with Journal(folder / "journal.db") as journal:
            present = journal.current_config()
            if present is None:
                raise ConfigError(f"{folder} holds no records yet; run generate first")
            run = _run(folder, *present)
            loaded.runs.append(run)
            pool.add_all(_items(journal, number, run, loaded, settings))
    names = [run.name for run in loaded.runs]
    if len(set(names)) < len(names):  # of two folders with runs of one name
        loaded.runs = [Run(str(run.folder), *_rest(run)) for run in loaded.runs]
    return loaded


def _rest(run: Run) -> tuple[Any, ...]:
    return run.folder, run.config, run.description, run.wanted, run.carries


def _run(folder: Path, config: int, description: Mapping[str, Any]) -> Run:
    manifest = read_manifest(folder) if (folder / "manifest.json").exists() else {}
    settings = description["settings"]
    # False where the generator is no longer there to ask.
    carries = getattr(imported(settings["task"]["generator"], "task.generator", []), "carries_columns", False)
    name = str(settings.get("run") or folder.name)
    return Run(name, folder, config, description, manifest.get("wanted"), bool(carries))


def _items(
    journal: Journal, number: int, run: Run, loaded: Loaded, settings: ExportSettings
) -> Iterator[tuple[Item, bytes]]:
    part_of = _part_of(settings.mixture.by, run)
    for _, record, mark in journal.plain_records(run.config):
        meta, scores = record["meta"], record["scores"]
        loaded.scores.update(scores)
        if len(loaded.meta) < _COLUMNS_KNOWN:
            loaded.meta.update(meta)
        content: dict[str, Any] = {"messages": record["messages"]}
        if run.carries:
            content["columns"] = _carried(meta, loaded.columns)
        if "tags" in scores:
            content["tags"] = [str(tag) for tag in scores["tags"]["detail"].get("tags", ())]
        item = Item(
            n=0,
            unit=RECORD,
            id=record["id"],
            run=number,
            task=record["task"],
            prompt=prompt_key(record["messages"]),
            kept=record["kept"],
            own_reason=record["reason"],
            scores=orjson.dumps({name: (score["value"], score["reason"]) for name, score in scores.items()}),
            errors=orjson.dumps(errors) if (errors := meta.get("score_errors")) else None,
            mark=mark,
            part=part_of(record),
            tokens=estimated_tokens(record["messages"]),
        )
        if settings.format == "sft":
            item.rival = bytes.fromhex(content_hash("group", meta["group"])) if "group" in meta else None
        else:
            _as_answer(item, content, record, settings)
            loaded.attributes.update(*content.get("attributes", {}).values())
        yield item, orjson.dumps(content, option=orjson.OPT_NON_STR_KEYS)


def _carried(meta: Mapping[str, Any], kinds: dict[str, str]) -> dict[str, Any]:
    columns = {name: value for name, value in meta.items() if name not in (*RESERVED, *PROVENANCE, "score_errors")}
    join_kinds(columns, kinds)
    return columns


def _part_of(by: str, run: Run) -> Callable[[Mapping[str, Any]], str | None]:
    """Which part of the mixture a record belongs to; None where it does not say."""
    if by == "run":
        return lambda record: None  # the run's number is known
    if by == "model":
        return lambda record: run.model
    if by == "task":
        return lambda record: str(record["task"])

    def column(record: Mapping[str, Any]) -> str | None:
        value = record["meta"].get(by)
        if value is None and by in record["scores"]:  # a score that names what it found, as topic does
            value = record["scores"][by]["detail"].get("coarse")
        return None if value is None else value if isinstance(value, str) else orjson.dumps(value).decode()

    return column


def _as_answer(item: Item, content: dict[str, Any], record: Mapping[str, Any], settings: ExportSettings) -> None:
    """What a comparison with other answers needs. No `rival` where there is nothing to compare."""
    meta, scores, messages = record["meta"], record["scores"], record["messages"]
    answers = bool(messages) and messages[-1]["role"] == "assistant"
    verified = [scores[name]["value"] for name in settings.pairs.verifiers if name in scores]
    item.verified = min(verified, default=None)
    if "problem" in meta and "attempts" in meta:
        failed = list(_failed(meta))
        content["failed"] = failed
        # What was lost is among its own attempts, with the share of the tests that it passed.
        if failed or (item.kept and answers):
            item.rival = bytes.fromhex(content_hash("problem", meta["problem"], meta.get("language")))
    elif scores and answers:
        item.rival = bytes.fromhex(content_hash("prompt", messages[:-1]))
    if "pairwise" in scores:
        content["against"] = scores["pairwise"]["detail"].get("against", {})
    found = {name: attributes for name, score in scores.items() if (attributes := _attributes(score["detail"]))}
    if found:
        content["attributes"] = found


def _failed(meta: Mapping[str, Any]) -> Iterator[tuple[str, float]]:
    """(answer, share of the tests that it passed) of every attempt that ran and failed."""
    fence = f"```{meta.get('language', '')}\n%s\n```"
    for attempt in [*meta.get("attempts", ()), *meta.get("alternatives", ())]:
        verdict = attempt.get("verdict")
        if verdict and verdict["status"] not in _NOT_JUDGED:
            yield fence % attempt["code"], test_share(attempt)


def _attributes(detail: Mapping[str, Any]) -> dict[str, float]:
    """The attributes that reward models gave, by name (`MODEL.NAME` where several did)."""
    models = {name: model["attributes"] for name, model in (detail.get("models") or {}).items()
              if isinstance(model, Mapping) and model.get("attributes")}  # fmt: skip
    return {
        name if len(models) == 1 else f"{model}.{name}": float(value)
        for model, attributes in sorted(models.items())
        for name, value in attributes.items()
    }


def prompt_key(messages: Turns) -> bytes:
    """The conversation before the last assistant's turn, the same for texts that differ in case, form or spaces only."""
    last = max((place for place, turn in enumerate(messages) if turn["role"] == "assistant"), default=len(messages))
    whole = hashlib.blake2b(digest_size=16)
    for turn in messages[:last]:
        text = " ".join(unicodedata.normalize("NFKC", turn["content"]).casefold().split())
        whole.update(f"{turn['role']}\x1f{text}\x1e".encode())
    return whole.digest()


def estimated_tokens(messages: Turns) -> int:
    """Tokens of a conversation at four bytes each: an estimate."""
    return (sum(len(turn["content"].encode()) for turn in messages) + 3) // 4
