"""What befalls a run from outside: nothing is lost, and one message says what to do."""

from __future__ import annotations

import contextlib
import json
import os
import re
import resource
import signal
import sqlite3
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from factory.errors import EXIT_DONE, EXIT_INTERRUPTED, EXIT_STOPPED, EXIT_USAGE, UserError
from factory.journal import Journal
from tests.engine.test_client import closed_port, restarting
from tests.model_server import ModelServer, Reply, key_of, last_text, uniform
from tests.runs import Listener, command, kept, reasons, records, run, run_once, start, table, write_rows


def answered(folder: Path) -> int:
    with Journal(folder / "run" / "journal.db") as journal:
        return journal.spent()[0]


def no_traceback(said: str) -> bool:
    return "Traceback" not in said and "Error:" not in said


def echo(body: dict[str, Any]) -> Reply:
    return Reply(f"answer to {last_text(body)}", delay=0.005)


# ---- the server


def moody(body: dict[str, Any]) -> Reply:
    """Every question meets its own fault the first time, and is answered when it is asked again."""
    kind = int(last_text(body).split()[-1]) % 8
    key = key_of(body)
    if key in moody.seen:  # type: ignore[attr-defined]
        return echo(body)
    moody.seen.add(key)  # type: ignore[attr-defined]
    return (
        Reply("slow down", status=429),
        Reply("wait", status=429, headers={"Retry-After": "0.1"}),
        Reply("broken", status=500),
        Reply(drop=True),
        Reply(body=b'{"choices": [{"message": {"content": "cut', cut=True),
        Reply(body=b"{malformed"),
        Reply(hang=True),
        echo(body),
    )[kind]


def test_every_passing_fault_at_once_loses_nothing(tmp_path: Path) -> None:
    moody.seen = set()  # type: ignore[attr-defined]
    write_rows(tmp_path, 80)
    outcome, server = run_once(tmp_path, moody, "engine.deadline=0.5", "engine.concurrency=16")
    assert outcome.status == EXIT_DONE
    assert sorted(answer for _, answer in kept(tmp_path)) == sorted(f"answer to question number {n}" for n in range(80))
    assert 150 <= server.count <= 152  # 70 met a fault; with a hang a second fault of the endpoint's may coincide


def test_permanent_errors_harm_nobody_else(tmp_path: Path) -> None:
    def bad(body: dict[str, Any]) -> bool:
        return uniform(key_of({"text": last_text(body)})) < 0.05

    write_rows(tmp_path, 300)
    outcome, server = run_once(tmp_path, lambda body: Reply("no", status=400) if bad(body) else echo(body))
    lost = reasons(tmp_path)["engine: HTTP 400: no"]
    assert 5 <= lost <= 30
    assert len(kept(tmp_path)) == 300 - lost
    assert server.count == 300
    assert outcome.status == EXIT_DONE
    assert all(row["instruction"].startswith("question") for row in table(tmp_path, "rejected"))


def test_a_failed_engine_adds_no_column(tmp_path: Path) -> None:
    """What is lost has the columns of what is kept, and no others."""
    write_rows(tmp_path, 4)
    run_once(tmp_path, lambda body: Reply("no", status=400) if "number 2" in last_text(body) else echo(body))
    assert set(table(tmp_path)[0]) == set(table(tmp_path, "rejected")[0])
    assert "seed" not in table(tmp_path)[0]


def test_failures_in_passing_are_tried_again_by_the_next_run_and_final_ones_are_not(tmp_path: Path) -> None:
    write_rows(tmp_path, 20)
    well = False

    def script(body: dict[str, Any]) -> Reply:
        number = int(last_text(body).split()[-1])
        if number in (3, 11) and not well:
            return Reply("broken", status=500)
        return Reply("never", status=400) if number == 7 else echo(body)

    with ModelServer(script) as server:
        run(tmp_path, server, "engine.retries=1")
        assert reasons(tmp_path) == {"engine: HTTP 500: broken (2 tries)": 2, "engine: HTTP 400: never": 1}
        assert server.count == 18 + 2 * 2
        well = True
        run(tmp_path, server, "engine.retries=1")
        assert server.count == 18 + 2 * 2 + 2
    assert reasons(tmp_path) == {"engine: HTTP 400: never": 1}
    assert len(kept(tmp_path)) == 19


def test_a_server_that_comes_back_is_waited_for(tmp_path: Path) -> None:
    write_rows(tmp_path, 100)
    with restarting(echo, after=40, away=0.7) as server:
        outcome = run(tmp_path, server, "engine.concurrency=8")
    assert outcome.status == EXIT_DONE
    assert len(kept(tmp_path)) == 100


def test_a_server_that_stays_away_stops_the_run_and_another_day_finishes_it(tmp_path: Path) -> None:
    write_rows(tmp_path, 60)
    port = closed_port()
    with ModelServer(echo, port) as server:
        run(tmp_path, server, "source.limit=25")
        assert server.count == 25
    url = f"http://127.0.0.1:{port}/v1"
    with pytest.raises(UserError, match=f"nothing answers at {url}"):
        run(tmp_path, url, "engine.first_patience=0.2")
    with ModelServer(echo, port) as server:
        run(tmp_path, server)
        assert server.count == 35
    assert len(kept(tmp_path)) == 60


def test_nobody_at_the_address_is_said_at_once(tmp_path: Path) -> None:
    write_rows(tmp_path, 10)
    url = f"http://127.0.0.1:{closed_port()}/v1"
    status, said = command(tmp_path, url, "engine.first_patience=0.5")
    assert status == EXIT_USAGE
    assert f"nothing answers at {url}" in said
    assert "engine.base_url=URL" in said
    assert no_traceback(said)


def test_a_server_that_dies_for_good_stops_the_run_with_what_there_is(tmp_path: Path) -> None:
    write_rows(tmp_path, 200)
    server = ModelServer(lambda body: Reply("x", delay=0.05)).__enter__()
    process = start(tmp_path, server.url, "engine.patience=0.5", "engine.concurrency=4")
    while server.count < 20:
        time.sleep(0.01)
    server.__exit__()
    _, said = process.communicate(timeout=30)
    assert process.returncode == EXIT_STOPPED
    assert "nothing answers" in said
    assert no_traceback(said)
    assert 10 <= len(kept(tmp_path)) < 60


@pytest.mark.parametrize(
    ("reply", "told"),
    [
        (Reply("bad key", status=401), "refused the API key"),
        (Reply("no model m", status=404), "knows no model 'm'"),
        (
            Reply(status=429, body=b'{"error": {"message": "Pay first.", "code": "insufficient_quota"}}'),
            "no quota left: Pay first.",
        ),
    ],
    ids=["401", "404", "quota"],
)
def test_what_every_request_would_meet_is_said_once(tmp_path: Path, reply: Reply, told: str) -> None:
    write_rows(tmp_path, 50)
    with ModelServer(lambda body: reply) as server:
        status, said = command(tmp_path, server.url, "engine.concurrency=4")
    assert status == EXIT_USAGE
    assert said.count(told) == 1
    assert no_traceback(said)
    assert server.count <= 4


# ---- budgets


@pytest.mark.parametrize(
    ("bound", "larger", "sent"),
    [
        ("budget.requests=12", "budget.requests=24", 12),
        ("budget.tokens=120", "budget.tokens=240", 8),  # 10 read and 6 written each
        ("budget.usd=0.0002", "budget.usd=0.0004", 13),
    ],
    ids=["requests", "tokens", "usd"],
)
def test_a_budget_stops_the_run_which_goes_on_with_a_larger_one(
    tmp_path: Path, bound: str, larger: str, sent: int
) -> None:
    write_rows(tmp_path, 20)
    price = ("model.price.input=1", "model.price.output=1")
    with ModelServer(echo) as server:
        outcome = run(tmp_path, server, bound, *price, "engine.concurrency=1")
        assert outcome.status == EXIT_STOPPED
        assert larger in str(outcome.stopped)
        assert server.count == sent == len(kept(tmp_path)) == answered(tmp_path)
        assert outcome.manifest["finished"] is False
        again = run(tmp_path, server, bound, *price, "engine.concurrency=1")
        assert again.status == EXIT_STOPPED
        assert server.count == sent, "the budget counts what the run spent before"
        run(tmp_path, server, *price)
        assert server.count == 20
    assert len(kept(tmp_path)) == 20


def test_a_budget_of_minutes_stops_the_run(tmp_path: Path) -> None:
    write_rows(tmp_path, 100)
    with ModelServer(lambda body: Reply("x", delay=0.05)) as server:
        outcome = run(tmp_path, server, "budget.minutes=0.01", "engine.concurrency=2")
    assert outcome.status == EXIT_STOPPED
    assert "budget.minutes=0.02" in str(outcome.stopped)
    assert server.count == len(kept(tmp_path)) < 60


def test_a_budget_over_many_at_once_is_exact_in_requests(tmp_path: Path) -> None:
    write_rows(tmp_path, 100)
    outcome, server = run_once(tmp_path, echo, "budget.requests=30", "engine.concurrency=16")
    assert (outcome.status, server.count, len(kept(tmp_path))) == (EXIT_STOPPED, 30, 30)


# ---- signals


@pytest.mark.parametrize("name", ["SIGINT", "SIGTERM"])
def test_an_interrupted_run_keeps_what_there_is_and_goes_on(tmp_path: Path, name: str) -> None:
    write_rows(tmp_path, 100)
    with ModelServer(lambda body: Reply(f"answer to {last_text(body)}", delay=0.05)) as server:
        process = start(tmp_path, server.url, "engine.concurrency=4")
        while server.count < 30:
            time.sleep(0.01)
        process.send_signal(getattr(signal, name))
        _, said = process.communicate(timeout=30)
        assert process.returncode == EXIT_INTERRUPTED
        assert no_traceback(said)
        there = answered(tmp_path)
        assert 20 <= there < 60
        assert there - 4 <= len(kept(tmp_path)) <= there
        assert json.loads((tmp_path / "run/manifest.json").read_text())["stopped"] == "interrupted"
        before = server.count
        outcome = run(tmp_path, server)
        assert server.count - before == 100 - there
        assert server.repeated <= 4
    assert outcome.status == EXIT_DONE
    assert len(kept(tmp_path)) == 100


def test_two_processes_never_write_one_run(tmp_path: Path) -> None:
    write_rows(tmp_path, 50)
    with ModelServer(lambda body: Reply("x", delay=0.1)) as server:
        first = start(tmp_path, server.url, "engine.concurrency=2")
        while server.count < 1:
            time.sleep(0.01)
        status, said = command(tmp_path, server.url)
        assert status == EXIT_USAGE
        assert f"is being written by process {first.pid}" in said
        assert "run=NAME" in said
        assert no_traceback(said)
        first.send_signal(signal.SIGKILL)
        first.communicate()
        status, said = command(tmp_path, server.url, "source.limit=10")  # a dead one holds nothing
    assert status == EXIT_DONE


# ---- the disk


@contextlib.contextmanager
def small_disk(folder: Path, megabytes: float) -> Iterator[Path]:
    folder.mkdir()
    size = f"size={int(megabytes * 1024)}k"
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", size, "tmpfs", str(folder)], capture_output=True)
    if mounted.returncode:
        pytest.skip("no right to mount a disk here")
    try:
        yield folder
    finally:
        subprocess.run(["umount", "-l", str(folder)], check=True)


def long_answer(body: dict[str, Any]) -> Reply:
    noise = key_of(body).hex()
    return Reply("".join(key_of({"n": noise, "i": part}).hex() for part in range(300)), delay=0.002)


def test_a_full_disk_stops_the_run_and_room_lets_it_go_on(tmp_path: Path) -> None:
    with small_disk(tmp_path / "disk", 3) as disk, ModelServer(long_answer) as server:
        write_rows(disk, 600)
        status, said = command(disk, server.url, "engine.concurrency=8")
        assert status == EXIT_STOPPED, said
        assert said.count("error: ") == 1
        assert "cannot write" in said
        assert "make room" in said
        assert no_traceback(said)
        there = answered(disk)
        assert 20 < there < 600
        before = server.count
        assert before - there <= 16, "only what was in flight is paid for again"
        subprocess.run(["mount", "-o", "remount,size=100m", str(disk)], check=True)
        outcome = run(disk, server)
        assert outcome.status == EXIT_DONE
        assert server.count - before == 600 - there
        assert len(kept(disk)) == 600


def limited_to(kilobytes: int) -> Callable[[], None]:
    def limit() -> None:
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (kilobytes * 1024, kilobytes * 1024))

    return limit


def test_a_file_that_may_not_grow_stops_the_run(tmp_path: Path) -> None:
    """The same without any right to mount: a limit on the size of files."""
    write_rows(tmp_path, 300)
    with ModelServer(long_answer) as server:
        status, said = command(tmp_path, server.url, "engine.concurrency=8", preexec_fn=limited_to(900))
        assert status == EXIT_STOPPED, said
        assert "cannot write" in said
        assert no_traceback(said)
        there, before = answered(tmp_path), server.count
        assert 10 < there < 300
        assert run(tmp_path, server).status == EXIT_DONE
        assert server.count - before == 300 - there
    assert len(kept(tmp_path)) == 300


def test_a_disk_full_from_the_start_is_said(tmp_path: Path) -> None:
    with small_disk(tmp_path / "disk", 0.2) as disk, ModelServer(echo) as server:
        write_rows(disk, 5)
        with contextlib.suppress(OSError), open(disk / "ballast", "wb", buffering=0) as ballast:
            while ballast.write(b"x" * 4096):
                pass
        status, said = command(disk, server.url)
    assert status in (EXIT_USAGE, EXIT_STOPPED)
    assert "make room" in said
    assert no_traceback(said)
    assert server.count == 0


@contextlib.contextmanager
def nobody() -> Iterator[None]:
    """Without root's right to write everywhere."""
    if os.geteuid() != 0:
        yield
        return
    os.seteuid(65534)
    try:
        yield
    finally:
        os.seteuid(0)


@pytest.fixture
def open_folder() -> Iterator[Path]:
    """Unlike pytest's, everybody may look into it."""
    with tempfile.TemporaryDirectory() as name:
        os.chmod(name, 0o755)
        yield Path(name)


def test_outputs_that_may_not_be_written_are_said(open_folder: Path) -> None:
    tmp_path = open_folder
    write_rows(tmp_path, 3)
    with ModelServer(echo) as server:
        run(tmp_path, server)
        shut = tmp_path / "run"
        for folder in (tmp_path, shut):
            folder.chmod(0o555)
        try:
            with nobody(), pytest.raises(UserError) as told:
                run(tmp_path, server)
            assert str(shut) in str(told.value)
            assert "out=DIR" in str(told.value)
            with nobody(), pytest.raises(UserError, match="Choose a folder of yours"):
                run(tmp_path, server, f"out={tmp_path}/new")
        finally:
            for folder in (tmp_path, shut):
                folder.chmod(0o755)
        assert server.count == 3
    assert len(kept(tmp_path)) == 3


def test_a_disk_that_is_read_only_is_said(tmp_path: Path) -> None:
    with small_disk(tmp_path / "disk", 20) as disk, ModelServer(echo) as server:
        write_rows(disk, 3)
        run(disk, server)
        subprocess.run(["mount", "-o", "remount,ro", str(disk)], check=True)
        status, said = command(disk, server.url)
        assert status == EXIT_USAGE
        assert "Read-only file system" in said
        assert "out=DIR" in said
        assert no_traceback(said)
        assert len(kept(disk)) == 3


@pytest.mark.parametrize("harm", ["truncated", "flipped", "another file"])
def test_a_torn_journal_costs_what_was_lost_and_no_more(tmp_path: Path, harm: str) -> None:
    write_rows(tmp_path, 200)
    path = tmp_path / "run" / "journal.db"
    with ModelServer(echo) as server:
        run(tmp_path, server)
        whole = records(tmp_path)
        data = bytearray(path.read_bytes())
        if harm == "truncated":
            del data[len(data) * 9 // 10 :]
        elif harm == "flipped":
            for _ in range(2):  # the response and the record
                data[data.index(b"answer to question number 77") + 1] ^= 1
        else:
            data[:] = b"something else " * 1000
        path.write_bytes(bytes(data))
        listener = Listener()
        assert run(tmp_path, server, display=listener).status == EXIT_DONE
        (told,) = re.findall(r"was damaged: (\d+) responses and (\d+) records were recovered", listener.said[0])
        paid_again = server.count - 200
        assert paid_again <= 200 - int(told[0]), "a recovered answer is used again"
        assert paid_again == {"truncated": paid_again, "flipped": 1, "another file": 200}[harm]
        assert paid_again < 150 or harm == "another file"
    assert records(tmp_path) == whole


def test_damage_that_sqlite_does_not_see_is_seen(tmp_path: Path) -> None:
    write_rows(tmp_path, 10)
    path = tmp_path / "run" / "journal.db"
    with ModelServer(echo) as server:
        run(tmp_path, server)
        with sqlite3.connect(path) as raw:
            raw.execute("UPDATE records SET record=x'0102' WHERE seed_index=4")
        run(tmp_path, server)
        assert server.count == 10, "the answer was still there"
    assert len(kept(tmp_path)) == 10
