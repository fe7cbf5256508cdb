"""`export`: a run's records in the forms that trainers read, sorted by id, the same bytes every time.

- sft: `messages`, `id`, `task`, `scores`, and the columns carried from the source.
- preference: `prompt`, `chosen`, `rejected` (lists of messages), `chosen_reward`, `rejected_reward`, `source`, `id`. A
  kept answer against failed ones to the same problem; a reward is the share of the tests that the answer passed, or for
  records that are answers to one prompt (`meta.group`) the score named by `reward`.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import orjson

from factory.config import imported
from factory.errors import ConfigError, UserError, near
from factory.export_groups import GroupPairs, best_of_groups
from factory.generators.code_checks import test_share
from factory.journal import Fate, Journal
from factory.outputs import (
    Shards,
    carried,
    carried_columns,
    column_types,
    final_fates,
    no_run,
    plain_turns,
    read_manifest,
    turns_type,
    write_manifest,
)
from factory.records import Record, content_hash
from factory.run_folder import unwritable
from factory.selection import KeepRule
from factory.settings import ExportSettings

if TYPE_CHECKING:
    import pyarrow


def export(settings: ExportSettings) -> str:
    """Write the export and say, in a line, what was written. Raises `ConfigError` where there is nothing to write."""
    folder, target = Path(settings.out), Path(settings.to)
    if not (folder / "journal.db").exists():
        raise no_run(folder)
    with Journal(folder / "journal.db") as journal:
        present = journal.current_config()
        if present is None:
            raise ConfigError(f"{folder} holds no records yet; run generate first")
        config, description = present
        if settings.reward is not None and settings.reward not in (names := _score_names(journal, config)):
            there = ", ".join(sorted(names)) or "none"
            raise ConfigError(
                f"reward={settings.reward}: no such score{near(settings.reward, names)} (there is {there})"
            )
        fates = _selected(journal, config, description, settings)
        if settings.format == "sft":
            columns = carried_columns(journal.fates(config)) if _carries(description) else {}
            scores = sorted(_score_names(journal, config))
            fates = best_of_groups(fates, settings) if settings.per_group else fates
            rows, schema = _sorted(_sft_rows(fates, columns)), _sft_schema(columns, scores)
        else:
            rows, schema = _sorted(_pairs(fates, settings)), _pair_schema()
        count = _write(target, rows, schema)
    if count == 0:
        raise UserError(_nothing(settings))
    write_manifest(
        target,
        {
            "run": settings.run,
            "format": settings.format,
            "rows": count,
            "keep": settings.keep,
            "reward": settings.reward,
            "per_group": settings.per_group,
            "min_gap": settings.min_gap,
            "max_pairs": settings.max_pairs,
            "config": content_hash(description),
        },
    )
    return f"{count} rows of {settings.format} data in {target}"


def _nothing(settings: ExportSettings) -> str:
    if settings.format == "preference":
        return (
            f"run={settings.run} holds no pairs: a pair needs a kept answer and a failed one to the same problem, with "
            f"rewards more than min_gap={settings.min_gap:g} apart. task=code makes them with task.alternatives or "
            "task.repairs above 0, tasks that answer a prompt several times with task.answers above 1."
        )
    return f"run={settings.run} has no kept records under this rule; see {settings.out}/report.html"


def _carries(description: Mapping[str, Any]) -> bool:
    """Whether the run's generator puts the source's columns into `meta`; False where it is no longer there to ask."""
    return getattr(
        imported(description["settings"]["task"]["generator"], "task.generator", []), "carries_columns", False
    )


def _selected(
    journal: Journal, config: int, description: Mapping[str, Any], settings: ExportSettings
) -> Iterator[Fate]:
    """The run's fates, decided again by `keep` where that is given."""
    wanted = (
        read_manifest(Path(settings.out)).get("wanted") if (Path(settings.out) / "manifest.json").exists() else None
    )
    if settings.keep is None:
        yield from final_fates(journal, config, wanted)
        return
    names = _score_names(journal, config)
    try:
        rule = KeepRule(settings.keep, names)
    except ValueError as error:
        raise ConfigError(f"keep: {error}") from error
    for fate in journal.fates(config):
        kept, reason = rule.decide(fate.record.scores) if fate.record.scores else (False, fate.record.reason)
        update = {"kept": bool(kept), "reason": "" if kept else reason or "keep: not scored far enough"}
        yield Fate(
            fate.seed_index, fate.sample, fate.record.model_copy(update=update), fate.story, fate.final, fate.made_at
        )


def _score_names(journal: Journal, config: int) -> set[str]:
    return {name for fate in journal.fates(config) for name in fate.record.scores}


def _sorted(rows: Iterator[dict[str, Any]]) -> Iterator[dict[str, Any]]:
    """By id, then by content, on disk where they are many."""
    with sqlite3.connect("") as store:  # a temporary file of SQLite's own
        store.execute("CREATE TABLE rows (id TEXT, data BLOB)")
        store.executemany("INSERT INTO rows VALUES (?,?)", ((row["id"], orjson.dumps(row)) for row in rows))
        for (data,) in store.execute("SELECT data FROM rows ORDER BY id, data"):
            yield orjson.loads(data)
    store.close()


# ---- sft


def _sft_rows(fates: Iterator[Fate], columns: Mapping[str, str]) -> Iterator[dict[str, Any]]:
    for fate in fates:
        record = fate.record
        if record.kept:
            scores = {name: score.value for name, score in record.scores.items()}
            yield {
                "id": record.id,
                "task": record.task,
                "messages": plain_turns(record.messages),
                **({"scores": scores} if scores else {}),
                **carried(record, columns),
            }


def _sft_schema(columns: Mapping[str, str], scores: Sequence[str]) -> pyarrow.Schema:
    import pyarrow as pa

    fields = [("id", pa.string()), ("task", pa.string()), ("messages", turns_type())]
    if scores:
        fields.append(("scores", pa.struct([(name, pa.float64()) for name in scores])))
    return pa.schema([*fields, *column_types(columns)])


# ---- preference


def _pairs(fates: Iterator[Fate], settings: ExportSettings) -> Iterator[dict[str, Any]]:
    """Pairs of a kept answer and failed ones to the same problem, the narrowest failures last.

    Candidates lie in a temporary table, so memory does not grow with the run.
    """
    with sqlite3.connect("") as store:
        store.execute("CREATE TABLE chosen (problem TEXT, id TEXT, prompt BLOB, answer TEXT)")
        store.execute("CREATE TABLE failed (problem TEXT, answer TEXT, reward REAL, UNIQUE (problem, answer))")
        groups = GroupPairs(settings)
        for fate in fates:
            _add_candidates(store, fate.record)
            groups.add(fate.record)
        yield from groups.rows()
        store.execute("CREATE INDEX by_problem ON failed (problem)")
        for problem, identity, prompt, answer in store.execute("SELECT * FROM chosen ORDER BY id"):
            rivals = store.execute(
                "SELECT answer, reward FROM failed WHERE problem=? AND answer<>? AND reward<? ORDER BY reward, answer LIMIT ?",
                (problem, answer, 1.0 - settings.min_gap, settings.max_pairs),
            )
            for rival, reward in rivals:
                yield {
                    "id": content_hash(identity, rival),
                    "prompt": orjson.loads(prompt),
                    "chosen": [{"role": "assistant", "content": answer}],
                    "rejected": [{"role": "assistant", "content": rival}],
                    "chosen_reward": 1.0,
                    "rejected_reward": reward,
                    "source": "verifier",
                }
    store.close()


def _add_candidates(store: sqlite3.Connection, record: Record) -> None:
    meta = record.meta
    if "problem" not in meta or "solution" not in meta:
        return
    problem, language = content_hash(meta["problem"]), meta["language"]
    fence = f"```{language}\n%s\n```"
    if record.kept:
        prompt = orjson.dumps(plain_turns(record.messages[:-1]))
        store.execute("INSERT INTO chosen VALUES (?,?,?,?)", (problem, record.id, prompt, record.messages[-1].content))
    for attempt in [*meta.get("attempts", ()), *meta.get("alternatives", ())]:
        # Only what ran and failed: an answer that could not be judged is no evidence.
        verdict = attempt.get("verdict")
        if verdict and verdict["status"] not in ("pass", "infra_error"):
            row = (problem, fence % attempt["code"], test_share(attempt))
            store.execute("INSERT OR IGNORE INTO failed VALUES (?,?,?)", row)


def _pair_schema() -> pyarrow.Schema:
    import pyarrow as pa

    turns = [(name, turns_type()) for name in ("prompt", "chosen", "rejected")]
    rewards = [("chosen_reward", pa.float64()), ("rejected_reward", pa.float64())]
    return pa.schema([("id", pa.string()), *turns, *rewards, ("source", pa.string())])


def _write(target: Path, rows: Iterator[dict[str, Any]], schema: pyarrow.Schema) -> int:
    """Write Parquet into `target`, replacing what an earlier export left there."""
    try:
        with Shards(target, schema) as shards:
            for row in rows:
                shards.add(row)
            if shards.count:
                shards.finish()
            return shards.count
    except OSError as error:
        raise unwritable(target, error) from error
