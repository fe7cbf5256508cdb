"""Runs written straight into a journal, and what an export made of them."""

from __future__ import annotations

import functools
import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pyarrow.parquet
from omegaconf import DictConfig, OmegaConf

from factory.compose import compose_config
from factory.export import ExportSettings, export
from factory.journal import Fate, Journal
from factory.records import Message, Record, Score, content_hash

GENERATORS = {
    True: "factory.generators.from_template.FromTemplate",
    False: "factory.generators.rejection_sampling.RejectionSampling",
}


def answer(
    prompt: str = "Why?",
    text: str = "Because.",
    *,
    kept: bool = True,
    reason: str = "",
    meta: Mapping[str, Any] | None = None,
    details: Mapping[str, Mapping[str, Any]] | None = None,
    task: str = "some",
    system: str | None = None,
    **scores: float,
) -> Record:
    """A record of one question and its answer. Its id is a hash of all that is given."""
    turns = [Message(role="system", content=system)] if system is not None else []
    turns += [Message(role="user", content=prompt), Message(role="assistant", content=text)]
    given = {name: Score(value=value, detail=(details or {}).get(name, {})) for name, value in scores.items()}
    identity = content_hash(prompt, text, kept, reason, meta, task, system, scores)
    return Record(
        id=identity, task=task, messages=tuple(turns), meta=meta or {}, scores=given, kept=kept,
        reason=reason or ("" if kept else "rules: lost"),
    )  # fmt: skip


def write_run(
    folder: Path,
    records: Iterable[Record],
    *,
    run: str = "one",
    model: str = "m",
    carries: bool = False,
    fingerprints: Sequence[str | None] | None = None,
    wanted: int | None = None,
) -> Path:
    """`folder/RUN/journal.db`, as `generate` leaves it; returns the run's folder."""
    place = folder / run
    place.mkdir(parents=True, exist_ok=True)
    settings = {"run": run, "task": {"generator": GENERATORS[carries]}, "model": {"name": model}}
    with Journal(place / "journal.db") as journal:
        config = journal.config_id("key", {"settings": settings, "templates": "", "model": {"digest": ""}})
        for index, record in enumerate(records):
            mark = None if fingerprints is None else fingerprints[index]
            journal.add_fates(config, str(index), [Fate(index, 0, record, {"item": str(index)})], [mark])
        journal.flush()
    if wanted is not None:
        (place / "manifest.json").write_text(json.dumps({"wanted": wanted}))
    return place


@functools.cache
def _defaults() -> DictConfig:
    composed, problems = compose_config("export", [])
    assert problems == []
    return OmegaConf.create({key: value for key, value in composed.items() if key != "hydra"})


def settings_of(*words: str) -> ExportSettings:
    """As the command line would make them, without Hydra's fifth of a second."""
    merged = OmegaConf.merge(_defaults(), OmegaConf.from_dotlist(list(words)))
    return ExportSettings.model_validate(OmegaConf.to_container(merged))


def exported(folder: Path, *words: str, runs: Sequence[str] = ("one",)) -> Path:
    """The folder of the export; the runs lie in `folder`."""
    out = f"out={folder / runs[0]}" if len(runs) == 1 else f"out=[{','.join(str(folder / run) for run in runs)}]"
    settings = settings_of(out, f"to={folder}/to", *words)
    export(settings)
    return settings.target


def rows(folder: Path) -> list[dict[str, Any]]:
    """The rows of the Parquet files right in a folder, in order."""
    files = sorted(folder.glob("*.parquet"))
    assert files, f"{folder} holds no data"
    return [row for file in files for row in pyarrow.parquet.read_table(file).to_pylist()]


def manifest(folder: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((folder / "manifest.json").read_text())
    return found


def steps(folder: Path) -> dict[str, dict[str, Any]]:
    """The funnel by its steps, after a look at its sums and at what lies in `rejected`."""
    found = manifest(folder)
    unit, left = None, 0
    for step in found["funnel"]:
        assert step["in"] == step["out"] + sum(step["reasons"].values()), step
        assert step["in"] == left or step["unit"] != unit, step
        unit, left = step["unit"], step["out"]
    lost = rows(folder / "rejected")
    assert all(row["reason"] and row["step"] for row in lost)
    for step in found["funnel"]:
        reasons = [row["reason"] for row in lost if row["step"] == step["step"]]
        assert {why: reasons.count(why) for why in reasons} == step["reasons"]
    assert found["rows"] == left + sum(step.get("repeated", 0) for step in found["funnel"])
    assert found["rows"] == sum(found["splits"].values())
    return {step["step"]: step for step in found["funnel"]}


def content(folder: Path) -> dict[str, bytes]:
    return {str(file.relative_to(folder)): file.read_bytes() for file in sorted(folder.rglob("*")) if file.is_file()}
