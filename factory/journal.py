"""The run's memory: every model response under the hash of what determined it, and every record's fate.

One SQLite file in WAL mode. A response is on disk before it is used (`factory.journal_writer`), and a killed process loses nothing
that was committed.
"""

from __future__ import annotations

import contextlib
import itertools
import sqlite3
import time
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from factory.engine.request import Request, Response
from factory.errors import Stopped, UserError
from factory.journal_file import BLOBS, SCHEMA, SCHEMA_VERSION, Damaged, connect, intact, pack, salvage, torn, unpack
from factory.journal_writer import GroupWriter, Statement, cannot_write
from factory.records import Record

_INSERT_RESPONSE = "INSERT OR IGNORE INTO responses VALUES (?,?,?,?,?,?,?,?)"
_INSERT_DRAW = "INSERT OR IGNORE INTO draws VALUES (?,?,?,?)"
_INSERT_RECORD = "INSERT OR REPLACE INTO records VALUES (?,?,?,?,?,?,?,?,?,?,?,?)"
_DELETE_REST = "DELETE FROM records WHERE config=? AND seed_index=? AND sample>=?"


@dataclass(frozen=True, slots=True)
class Fate:
    """One record as the journal holds it: its place in the run, and the keys of the responses it came from."""

    seed_index: int
    sample: int
    record: Record
    story: Mapping[str, Any]
    final: bool = True
    made_at: float = 0.0


@dataclass(frozen=True, slots=True)
class FinishedSeed:
    """A seed item that needs no more work: its place, its digest, and the fingerprints of its kept records."""

    index: int
    digest: str
    kept: Sequence[str | None]


class Journal:
    """Reads at once, writes in groups. `config` ids number the configurations that decided records' fates."""

    def __init__(self, path: Path, notice: Callable[[str], None] = lambda text: None) -> None:
        self.path = path
        try:
            self._open()
        except sqlite3.DatabaseError as error:
            if not torn(error):
                raise _cannot_open(path, error) from error
            notice(salvage(path))
            self._open()
        self._suspect.unlink(missing_ok=True)
        self._writer = GroupWriter(path)
        self._closed = False

    def _open(self) -> None:
        # Reads happen on the caller's thread, writes on the journal's: one connection each.
        self._reader = connect(self.path)
        self._reader.executescript(SCHEMA)
        version = self._reader.execute("PRAGMA user_version").fetchone()[0]
        if version not in (0, SCHEMA_VERSION):
            raise UserError(f"{self.path} was written by another version of the factory (schema {version}).")
        if version != SCHEMA_VERSION:  # on a full disk what is there can still be read
            self._reader.execute(f"PRAGMA user_version={SCHEMA_VERSION}")
            self._reader.commit()
        past = "SELECT EXISTS (SELECT 1 FROM responses) OR EXISTS (SELECT 1 FROM draws)"
        self._has_past = bool(self._reader.execute(past).fetchone()[0])
        # Checking costs a second or so for each 100 MB; a larger file is checked when reading it met damage.
        if self.path.stat().st_size < 64_000_000 or self._suspect.exists():
            self._check()

    def _check(self) -> None:
        found = self._reader.execute("PRAGMA quick_check(1)").fetchone()[0]
        if found != "ok":
            raise Damaged(f"malformed: {found}")
        self._reader.create_function("intact", 1, intact, deterministic=True)
        for table, blobs in BLOBS.items():
            where = " OR ".join(f"NOT intact({blob})" for blob in blobs)
            if self._reader.execute(f"SELECT 1 FROM {table} WHERE {where} LIMIT 1").fetchone():
                raise Damaged(f"malformed: a row of {table} has a wrong checksum")

    @property
    def _suspect(self) -> Path:
        return self.path.with_name(f"{self.path.name}.suspect")

    @contextlib.contextmanager
    def reported(self) -> Iterator[None]:
        """What SQLite says about this file, said to the user, with the remedy."""
        try:
            yield
        except sqlite3.DatabaseError as error:
            if not torn(error):
                raise cannot_write(self.path, error) from error
            self._suspect.touch()
            raise Stopped(
                f"{self.path} is damaged ({error}). Give the same command again: it recovers what can be read."
            ) from error

    # ---- writing

    async def add_response(self, key: str, label: str, request: Request, response: Response) -> None:
        """Returns once the response is in the file."""
        answer = {"text": response.text, "finish_reason": response.finish_reason}
        if response.logprobs is not None:
            answer["logprobs"] = response.logprobs
        row = (
            bytes.fromhex(key),
            label,
            time.time(),
            response.seconds,
            response.prompt_tokens,
            response.completion_tokens,
            pack(request.as_json()),
            pack(answer),
        )
        await self._writer.write([(_INSERT_RESPONSE, row)])

    async def add_draw(self, key: str, label: str, value: Any) -> None:
        """Returns once what was drawn is in the file."""
        await self._writer.write([(_INSERT_DRAW, (bytes.fromhex(key), label, time.time(), pack(value)))])

    def add_fates(self, config: int, item: str, fates: list[Fate], fingerprints: list[str | None]) -> None:
        """Write what became of one seed item (`item` is its digest); a later fate of the same place replaces it.

        Nobody waits for it: with the responses in the file a fate that was lost is found again for nothing. `flush`
        waits for all of them.
        """
        statements: list[Statement] = [(_DELETE_REST, (config, fates[0].seed_index, len(fates)))]
        for fate, fingerprint in zip(fates, fingerprints, strict=True):
            record = fate.record
            row = (
                config,
                fate.seed_index,
                fate.sample,
                int(fate.final),
                int(record.kept),
                record.id,
                record.reason,
                item,
                fingerprint,
                time.time(),
                pack(record.model_dump(mode="json")),
                pack(fate.story),
            )
            statements.append((_INSERT_RECORD, row))
        self._writer.write_later(statements)

    async def written(self) -> None:
        """Returns once all that was added is in the file; raises `Stopped` where it cannot be."""
        await self._writer.write([])

    def flush(self) -> None:
        """Returns once all that was added is in the file; raises `Stopped` where it cannot be."""
        self._writer.flush()

    def close(self) -> None:
        """Write what is waiting and let go of the file."""
        if not self._closed:
            self._closed = True
            self._writer.close()
            self._reader.close()

    def __enter__(self) -> Journal:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    # ---- reading

    def config_id(self, fate_key: str, config: Mapping[str, Any]) -> int:
        """The number of the configuration whose `fate_key` this is, new or known."""
        row = self._reader.execute("SELECT id FROM configs WHERE fate_key=?", (fate_key,)).fetchone()
        if row is None:
            with self._reader:
                self._reader.execute(
                    "INSERT INTO configs (fate_key, made_at, config) VALUES (?,?,?)",
                    (fate_key, time.time(), pack(config)),
                )
            return self.config_id(fate_key, config)
        # The configuration last asked for is the run's present one, whichever number it has.
        with self._reader:
            self._reader.execute("UPDATE configs SET made_at=? WHERE id=?", (time.time(), row[0]))
        return int(row[0])

    def current_config(self) -> tuple[int, Any] | None:
        """Number and content of the configuration that was run last."""
        row = self._reader.execute("SELECT id, config FROM configs ORDER BY made_at DESC, id DESC LIMIT 1").fetchone()
        return None if row is None else (int(row[0]), unpack(row[1]))

    def response(self, key: str) -> Response | None:
        """The answer that an earlier invocation paid for. (This one asks every key once: nothing of its own is here.)"""
        if not self._has_past:
            return None
        with self.reported():  # plug-in code asks, and would be blamed
            row = self._reader.execute(
                "SELECT response, seconds, prompt_tokens, completion_tokens FROM responses WHERE key=?",
                (bytes.fromhex(key),),
            ).fetchone()
            if row is None:
                return None
            answer = unpack(row[0])
        return Response(answer["text"], answer["finish_reason"], row[2], row[3], row[1], answer.get("logprobs"))

    def draw(self, key: str) -> Any | None:
        """What an earlier invocation drew under this key, or None."""
        if not self._has_past:
            return None
        with self.reported():
            row = self._reader.execute("SELECT value FROM draws WHERE key=?", (bytes.fromhex(key),)).fetchone()
            return None if row is None else unpack(row[0])

    def exchange(self, key: str) -> dict[str, Any] | None:
        """Request and response as they were sent and received, for `explain`."""
        row = self._reader.execute(
            "SELECT label, made_at, seconds, prompt_tokens, completion_tokens, request, response FROM responses WHERE key=?",
            (bytes.fromhex(key),),
        ).fetchone()
        if row is None:
            return None
        names = ("label", "made_at", "seconds", "prompt_tokens", "completion_tokens")
        return dict(zip(names, row[:5], strict=True)) | {"request": unpack(row[5]), "response": unpack(row[6])}

    def finished_seeds(self, config: int) -> Generator[FinishedSeed, None, None]:
        """Every seed item whose fate is final, in order."""
        rows = self._reader.cursor().execute(
            "SELECT seed_index, item, kept, fingerprint, final FROM records WHERE config=? ORDER BY seed_index, sample",
            (config,),
        )
        for (index, item), group in itertools.groupby(rows, key=lambda row: (row[0], row[1])):
            members = list(group)
            if all(final for *_, final in members):
                yield FinishedSeed(index, item, [fingerprint for _, _, kept, fingerprint, _ in members if kept])

    def seed_records(self, config: int, seed_index: int) -> list[Record]:
        """The records that one seed item gave."""
        rows = self._reader.execute(
            "SELECT record FROM records WHERE config=? AND seed_index=? ORDER BY sample", (config, seed_index)
        )
        return [Record.model_validate(unpack(row[0])) for row in rows]

    def fates(self, config: int) -> Generator[Fate, None, None]:
        """Every fate under `config`, in the order of the seeds."""
        for fate, _ in self.fates_with_fingerprints(config):
            yield fate

    def fates_with_fingerprints(self, config: int) -> Generator[tuple[Fate, str | None], None, None]:
        """Every fate, with what makes two records the same one (None: nothing does)."""
        rows = self._reader.cursor().execute(
            "SELECT seed_index, sample, record, story, final, made_at, fingerprint FROM records WHERE config=? "
            "ORDER BY seed_index, sample",
            (config,),
        )
        for seed_index, sample, record, story, final, made_at, fingerprint in rows:
            data = Record.model_validate(unpack(record))
            yield Fate(seed_index, sample, data, unpack(story), bool(final), made_at), fingerprint

    def plain_records(self, config: int) -> Generator[tuple[int, dict[str, Any], str | None], None, None]:
        """(seed, record as plain data, fingerprint) in the order of the seeds. It was checked when it was written."""
        with self.reported():
            rows = self._reader.cursor().execute(
                "SELECT seed_index, record, fingerprint FROM records WHERE config=? ORDER BY seed_index, sample",
                (config,),
            )
            for seed_index, record, fingerprint in rows:
                yield seed_index, unpack(record), fingerprint

    def find_record(self, prefix: str) -> list[tuple[int, Fate]]:
        """Fates whose record id begins with `prefix`, the latest configuration first."""
        rows = self._reader.execute(
            "SELECT r.config, r.seed_index, r.sample, r.record, r.story, r.final, r.made_at FROM records r "
            "JOIN configs c ON c.id=r.config WHERE substr(r.id, 1, ?)=? ORDER BY c.made_at DESC LIMIT 20",
            (len(prefix), prefix),
        )
        return [
            (config, Fate(index, sample, Record.model_validate(unpack(record)), unpack(story), bool(final), made_at))
            for config, index, sample, record, story, final, made_at in rows
        ]

    def counts(self, config: int) -> dict[str, int]:
        """Seeds done, records made, kept and rejected under `config`."""
        row = self._reader.execute(
            "SELECT count(DISTINCT seed_index), count(*), ifnull(sum(kept),0), count(DISTINCT id) FROM records WHERE config=?",
            (config,),
        ).fetchone()
        return {"seeds": row[0], "records": row[1], "kept": row[2], "rejected": row[1] - row[2]}

    def spent(self) -> tuple[int, int, int, float]:
        """Requests answered, prompt tokens, completion tokens and seconds of waiting, over the run's whole life."""
        row = self._reader.execute(
            "SELECT count(*), ifnull(sum(prompt_tokens),0), ifnull(sum(completion_tokens),0), ifnull(sum(seconds),0) "
            "FROM responses"
        ).fetchone()
        return int(row[0]), int(row[1]), int(row[2]), float(row[3])

    def spent_by_label(self) -> list[tuple[str, int, int, int]]:
        """(label, requests answered, prompt tokens, completion tokens), over the run's whole life."""
        return self._reader.execute(
            "SELECT label, count(*), sum(prompt_tokens), sum(completion_tokens) FROM responses GROUP BY label"
        ).fetchall()

    def timeline(self) -> Generator[tuple[float, float, int, int, str], None, None]:
        """(made at, seconds, prompt tokens, completion tokens, label) of every response, in time order."""
        yield from self._reader.execute(
            "SELECT made_at, seconds, prompt_tokens, completion_tokens, label FROM responses ORDER BY rowid"
        )


def _cannot_open(path: Path, error: Exception) -> UserError:
    return UserError(
        f"cannot open {path}: {error}. Choose a folder of yours with out=DIR, or make room and mend its permissions."
    )
