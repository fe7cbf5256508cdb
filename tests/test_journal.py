"""The journal: what was written is there again, whatever happened to the process or to the file."""

from __future__ import annotations

import asyncio
import random
import shutil
import sqlite3
import subprocess
import sys
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from factory.engine.request import Request, Response
from factory.errors import Stopped, UserError
from factory.journal import Fate, Journal
from factory.journal_file import Damaged, connect, pack, unpack
from factory.journal_writer import GroupWriter
from factory.records import Message, Record, Score
from factory.run_folder import RunLock

values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**64 - 1)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(),
    lambda inner: st.lists(inner, max_size=5) | st.dictionaries(st.text(max_size=8), inner, max_size=5),
    max_leaves=40,
)


@given(values)
def test_what_is_packed_comes_back(value: Any) -> None:
    assert unpack(pack(value)) == value


@given(st.text(min_size=1), st.integers(0), st.integers(1, 255), st.booleans())
def test_a_changed_byte_is_noticed(text: str, place: int, change: int, long: bool) -> None:
    data = bytearray(pack(text * 3000 if long else text))
    data[place % len(data)] ^= change
    with pytest.raises(Damaged):
        unpack(bytes(data))


def a_record(number: int, sample: int = 0, **fields: Any) -> Record:
    text = Message(role="assistant", content=f"answer {number}.{sample} " + "and so on " * (number % 7 * 60))
    return Record(id=f"{number:030}{sample:02}", task="t", messages=(text,), **{"kept": True, **fields})


async def fill(journal: Journal, count: int, first: int = 0, config: int = 1) -> None:
    for number in range(first, first + count):
        request = Request((Message(role="user", content=f"question {number}"),))
        answer = Response(f"answer {number} " + "long " * (number % 5 * 200), prompt_tokens=10, completion_tokens=2)
        await journal.add_response(request.key("m"), "answer", request, answer)
        journal.add_fates(config, f"d{number}", [Fate(number, 0, a_record(number), {"item": f"d{number}"})], [None])


def make(path: Path, count: int) -> None:
    with Journal(path) as journal:
        assert journal.config_id("key", {"settings": {}}) == 1
        asyncio.run(fill(journal, count))


def answers(journal: Journal, count: int) -> list[str | None]:
    asked = [Request((Message(role="user", content=f"question {number}"),)).key("m") for number in range(count)]
    found = [journal.response(key) for key in asked]
    return [response.text if response else None for response in found]


def test_everything_is_there_again(tmp_path: Path) -> None:
    make(tmp_path / "journal.db", 50)
    with Journal(tmp_path / "journal.db") as journal:
        assert answers(journal, 51)[49:] == [f"answer 49 {'long ' * 800}", None]
        assert [fate.record for fate in journal.fates(1)] == [a_record(number) for number in range(50)]
        assert [seed.index for seed in journal.finished_seeds(1)] == list(range(50))
        assert journal.spent()[:3] == (50, 500, 100)
        assert journal.counts(1) == {"seeds": 50, "records": 50, "kept": 50, "rejected": 0}


def test_an_answer_is_on_disk_when_the_call_returns(tmp_path: Path) -> None:
    """A process that dies at once afterwards, without closing anything, has lost nothing."""
    program = (
        "import asyncio, os, sys; from pathlib import Path; from factory.journal import Journal\n"
        "from tests.test_journal import fill\n"
        "journal = Journal(Path(sys.argv[1])); journal.config_id('key', {})\n"
        "asyncio.run(fill(journal, 20)); journal.flush(); os._exit(9)"
    )
    path = tmp_path / "journal.db"
    root = Path(__file__).parent.parent
    assert subprocess.run([sys.executable, "-c", program, str(path)], cwd=root).returncode == 9
    with Journal(path) as journal:
        assert None not in answers(journal, 20)
        assert journal.counts(1)["records"] == 20


def test_a_seeds_records_are_written_together_or_not_at_all(tmp_path: Path) -> None:
    path, torn = tmp_path / "journal.db", []
    done = threading.Event()

    def watch() -> None:
        reader = sqlite3.connect(path, timeout=30)
        while not done.is_set():
            torn.extend(reader.execute("SELECT seed_index, count(*) c FROM records GROUP BY 1 HAVING c<>40").fetchall())

    async def write(journal: Journal) -> None:
        seeds = [[Fate(number, sample, a_record(number, sample), {}) for sample in range(40)] for number in range(300)]
        for fates in seeds:
            journal.add_fates(1, "d", fates, [None] * 40)
        await asyncio.to_thread(journal.flush)

    with Journal(path) as journal:
        watcher = threading.Thread(target=watch)
        watcher.start()
        asyncio.run(write(journal))
        done.set()
        watcher.join()
    assert torn == []


def test_a_later_fate_of_a_seed_replaces_the_earlier_one(tmp_path: Path) -> None:
    with Journal(tmp_path / "journal.db") as journal:
        lost = a_record(0, kept=False, reason="engine: HTTP 500")
        three = [Fate(0, sample, a_record(0, sample), {}, final=sample != 1) for sample in range(3)]

        async def write() -> None:
            journal.add_fates(1, "d", three, [None] * 3)
            journal.flush()
            assert list(journal.finished_seeds(1)) == [], "one of them failed in passing"
            journal.add_fates(1, "d", [Fate(0, 0, lost, {})], [None])
            journal.flush()

        asyncio.run(write())
        assert [fate.record for fate in journal.fates(1)] == [lost]
        assert [seed.kept for seed in journal.finished_seeds(1)] == [[]]


def test_records_are_found_by_the_beginning_of_their_id(tmp_path: Path) -> None:
    make(tmp_path / "journal.db", 12)
    with Journal(tmp_path / "journal.db") as journal:
        ((config, fate),) = journal.find_record(f"{7:030}")
        assert (config, fate.seed_index) == (1, 7)
        assert journal.find_record("%") == []


# ---- damage


def parts(path: Path) -> list[Path]:
    return sorted(path.parent.glob("journal.d*"))


def reopened(path: Path, count: int) -> tuple[list[str | None], dict[str, int], list[str]]:
    """Answers and counts after the damage, and what was said; the journal must be fit for use again."""
    said: list[str] = []
    with Journal(path, said.append) as journal:
        assert journal.config_id("key", {"settings": {}}) >= 1
        found = answers(journal, count), journal.counts(1), said
        asyncio.run(fill(journal, 3, first=count))
    with Journal(path, said.append) as journal:
        assert None not in answers(journal, count + 3)[count:]
    return found


def agree(found: Sequence[str | None]) -> bool:
    """What is still there is what was written."""
    return all(text in (None, f"answer {number} {'long ' * (number % 5 * 200)}") for number, text in enumerate(found))


@pytest.mark.parametrize("share", [0.3, 0.7, 0.95])
def test_a_truncated_file_gives_what_is_left(tmp_path: Path, share: float) -> None:
    path = tmp_path / "journal.db"
    make(path, 300)
    with open(path, "r+b") as file:
        file.truncate(int(path.stat().st_size * share))
    found, counts, said = reopened(path, 300)
    assert "was damaged" in said[0]
    assert f"{sum(text is not None for text in found)} responses" in said[0]
    assert agree(found)
    if share > 0.5:
        assert sum(text is not None for text in found) > 30
    assert list(tmp_path.glob("journal.damaged-*.db")), "the damaged file is kept"
    assert counts["records"] <= 300


@pytest.mark.parametrize("seed", range(6))
def test_flipped_bytes_never_become_answers(tmp_path: Path, seed: int) -> None:
    path, draw = tmp_path / "journal.db", random.Random(seed)
    make(path, 300)
    data = bytearray(path.read_bytes())
    for _ in range(12):
        data[draw.randrange(200, len(data))] ^= draw.randrange(1, 256)
    path.write_bytes(bytes(data))
    found, counts, said = reopened(path, 300)
    assert len(said) == 1
    assert agree(found)
    assert sum(text is not None for text in found) > 100
    assert counts["records"] > 20 or "0 records" in said[0] or counts["records"] == 0


def test_one_flipped_byte_in_a_text_costs_that_row_alone(tmp_path: Path) -> None:
    path = tmp_path / "journal.db"
    make(path, 100)
    data = path.read_bytes()
    at = data.index(b'"text":"answer 60 ')
    path.write_bytes(data[: at + 9] + b"X" + data[at + 10 :])
    found, counts, said = reopened(path, 100)
    assert found[60] is None
    assert found.count(None) == 1
    assert counts["records"] == 100
    assert "99 responses and 100 records were recovered" in said[0]


def test_a_file_that_is_something_else_is_put_aside(tmp_path: Path) -> None:
    path = tmp_path / "journal.db"
    path.write_bytes(b"this is no database at all, it is a text\n" * 50)
    found, _, said = reopened(path, 5)
    assert found == [None] * 5
    assert "0 responses and 0 records were recovered" in said[0]


@pytest.mark.parametrize("harm", ["truncated", "flipped"])
def test_a_torn_log_costs_its_end_only(tmp_path: Path, harm: str) -> None:
    """The -wal file of a process that was killed: SQLite's own checksums say how far it is good."""
    live = tmp_path / "live"
    live.mkdir()
    with Journal(live / "journal.db") as journal:
        journal.config_id("key", {"settings": {}})
        asyncio.run(fill(journal, 60))
        for part in parts(live / "journal.db"):
            shutil.copy(part, tmp_path)
    log = tmp_path / "journal.db-wal"
    size = log.stat().st_size
    assert size > 100_000
    with open(log, "r+b") as file:
        if harm == "truncated":
            file.truncate(size * 2 // 3 + 17)
        else:
            file.seek(size * 2 // 3)
            file.write(b"\xff" * 64)
    (tmp_path / "journal.db-shm").unlink()
    found, counts, _ = reopened(tmp_path / "journal.db", 60)
    there = sum(text is not None for text in found)
    assert 20 < there < 60
    assert found[:there] == [text for text in found if text is not None], "the first ones, in order"
    assert agree(found)
    assert counts["records"] in (there, there - 1)


def test_records_of_a_lost_configuration_are_nobodys(tmp_path: Path) -> None:
    """Its number will be given again: its records must not be taken for another's."""
    path = tmp_path / "journal.db"
    make(path, 40)
    with sqlite3.connect(path) as raw:
        raw.execute("UPDATE configs SET config=x'00'")
    said: list[str] = []
    with Journal(path, said.append) as journal:
        config = journal.config_id("another key", {})
        assert journal.counts(config)["records"] == 0
        assert None not in answers(journal, 40)
    assert "40 responses and 0 records" in said[0]


def test_damage_met_while_reading_says_what_to_do(tmp_path: Path) -> None:
    """A large file is not checked when it is opened; the next start does it then."""
    path = tmp_path / "journal.db"
    make(path, 20)
    with Journal(path) as journal:
        with sqlite3.connect(path) as raw:
            raw.execute("UPDATE responses SET response=x'00' WHERE rowid=5")
        with pytest.raises(Stopped, match="Give the same command again: it recovers"):
            answers(journal, 20)
    found, _, said = reopened(path, 20)
    assert found.count(None) == 1
    assert "19 responses" in said[0]


def test_another_versions_file_is_left_alone(tmp_path: Path) -> None:
    path = tmp_path / "journal.db"
    make(path, 1)
    with sqlite3.connect(path) as raw:
        raw.execute("PRAGMA user_version=99")
    with pytest.raises(UserError, match="another version"):
        Journal(path)


def test_a_folder_belongs_to_one_process(tmp_path: Path) -> None:
    with RunLock(tmp_path), pytest.raises(UserError, match="is being written by process"), RunLock(tmp_path):
        pass
    with RunLock(tmp_path):
        pass


def test_scores_that_are_no_numbers_do_not_exist() -> None:
    """JSON has no NaN: it would come back as null and make the record unreadable."""
    with pytest.raises(ValueError):
        Score(value=float("nan"))


def test_draws_come_back_and_survive_a_damaged_file(tmp_path: Path) -> None:
    """What was drawn first stays: a second draw under its key is ignored. An older journal has no table of draws."""
    path, key, value = tmp_path / "journal.db", "ab" * 16, [["an instruction", "id"], ["写一首诗", ""]]

    async def draw(what: Any) -> None:
        with Journal(path) as journal:
            await journal.add_draw(key, "demonstrations", what)

    asyncio.run(draw(value))
    asyncio.run(draw("another"))
    with Journal(path) as journal:
        assert journal.draw(key) == value
        assert journal.draw("cd" * 16) is None
    connection = sqlite3.connect(path)
    connection.execute("UPDATE configs SET fate_key='x'")
    connection.execute("INSERT INTO draws VALUES (?,?,?,?)", (b"bad", "demonstrations", 0.0, b"torn value"))
    connection.commit()
    connection.close()
    said: list[str] = []
    with Journal(path, said.append) as journal:
        assert "was damaged" in said[0]
        assert journal.draw(key) == value
    connection = sqlite3.connect(path)
    connection.execute("DROP TABLE draws")
    connection.commit()
    connection.close()
    with Journal(path) as journal:
        assert journal.draw(key) is None


def test_nothing_is_written_behind_a_failure(tmp_path: Path) -> None:
    """Whoever waits is told, also those who come later: a gap that nobody knows of would be worse."""
    connect(tmp_path / "file.db").execute("CREATE TABLE numbers (number INTEGER)")
    writer = GroupWriter(tmp_path / "file.db")
    try:
        writer.write_later([("INSERT INTO numbers VALUES (?)", (1,))])
        writer.flush()
        writer.write_later([("INSERT INTO nowhere VALUES (?)", (2,))])
        with pytest.raises(Stopped, match=r"cannot write .*file\.db: no such table"):
            writer.flush()
        with pytest.raises(Stopped, match="What was written is kept"):
            asyncio.run(writer.write([("INSERT INTO numbers VALUES (?)", (3,))]))
    finally:
        writer.close()
    assert connect(tmp_path / "file.db").execute("SELECT number FROM numbers").fetchall() == [(1,)]
