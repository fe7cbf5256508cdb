"""`explain` as the terminal shows it."""

from __future__ import annotations

import io
import re
from pathlib import Path

import pytest
from rich.console import Console

from factory.errors import EXIT_DONE, EXIT_USAGE, UserError
from factory.explain import explain
from factory.records import Message, Record, Score, content_hash
from tests.sample_run import records, write_run


def told(prefix: str, *run_dirs: Path, colour: bool = False) -> tuple[int, str]:
    console = Console(file=io.StringIO(), width=160, force_terminal=colour, highlight=True)
    status = explain(prefix, run_dirs, console)
    text = console.file.getvalue()  # type: ignore[attr-defined]
    return status, text


@pytest.fixture(scope="module")
def run_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_run(tmp_path_factory.mktemp("runs") / "code-demo", records(120))


def test_the_whole_story_of_a_rejected_record(run_dir: Path) -> None:
    made = records(120)
    record = next(record for i, record in enumerate(made) if i % 3 == 0 and record.reason == "execution: wrong")
    status, text = told(record.id[:10], run_dir)
    assert status == EXIT_DONE
    assert f"Record {record.id}" in text
    assert "rejected: execution: wrong" in text
    place = made.index(record)
    assert f"number {place}, digest item-{place:05}" in text
    for label in ("problem", "solution", "tests"):
        assert re.search(rf"Asked: {label} · 300 tokens in, \d+ out · [\d.]+ m?s", text)
        assert f"{label} for seed {place}: " in text, "the prompt as it was sent"
    assert "temperature 0.8" in text
    assert "attempt 1: wrong" in text
    assert "attempt 2: wrong" in text
    assert "2 of 4 tests passed." in text
    assert re.search(r"execution +0 +wrong +status wrong, passed 2", text)
    assert "report.html" in text


def test_parents_are_named(run_dir: Path) -> None:
    status, text = told(records(120)[4].id, run_dir)
    assert status == EXIT_DONE
    assert text.count(records(120)[3].id[:12]) >= 2


def test_a_model_speaks_neither_markup_nor_terminal(tmp_path: Path) -> None:
    bad = "[bold red]no[/] [/] \x1b[2J\x1b]0;owned\x07 \u202egnp.exe \r back\x9b31m"
    made = [
        Record(
            id="ab" * 16,
            task=bad,
            messages=(Message(role="user", content=bad),),
            scores={bad: Score(value=float(1), reason=bad, detail={bad: bad})},
            meta={
                "attempts": [{"code": bad, "tests": [bad], "verdict": bad, "feedback": bad}, bad],
                bad: bad,
                "seed": {bad: bad},
            },
            reason=bad,
            parents=(bad,),
        )
    ]
    text = told("abab", write_run(tmp_path / "run", made))[1]
    assert "[bold red]no[/] [/]" in text
    assert "␛[2J" in text
    assert not set("\x1b\x07\x9b\r\u202e") & set(text)
    coloured = told("abab", tmp_path / "run", colour=True)[1]
    assert "\x1b[2J" not in coloured
    assert "\x1b]0;" not in coloured


def test_a_short_prefix_lists_what_it_fits(run_dir: Path) -> None:
    ids = [record.id for record in records(120)]
    prefix = next(id_[:1] for id_ in ids if 1 < sum(other.startswith(id_[:1]) for other in ids) < 20)
    status, text = told(prefix, run_dir)
    fitting = [id_ for id_ in ids if id_.startswith(prefix)]
    assert status == EXIT_USAGE
    assert f"{len(fitting)} records begin with '{prefix}'" in text
    assert all(id_ in text for id_ in fitting)


def test_what_the_whole_run_decided_is_told(tmp_path: Path) -> None:
    made = [record for record in records(60) if record.kept][:6]
    run = write_run(tmp_path / "run", made, wanted=4, kept=4, reasons={"surplus: enough records were there already": 2})
    assert "kept" in told(made[3].id, run)[1]
    assert "rejected: surplus" in told(made[5].id, run)[1]


def test_the_same_record_in_two_runs(run_dir: Path, tmp_path: Path) -> None:
    other = write_run(tmp_path / "other", records(5), exchanges=False)
    status, text = told(records(5)[0].id, run_dir, other)
    assert status == EXIT_DONE
    assert f"Also in {other}" in text


def test_a_record_that_lacks_everything(tmp_path: Path) -> None:
    run = write_run(tmp_path / "run", [Record(id="0f", task="")], exchanges=False)
    status, text = told("0", run)
    assert status == EXIT_DONE
    assert "no reason given" in text


@pytest.mark.parametrize(
    ("prefix", "said"),
    [
        ("ffffffffffff", "no record's id begins with 'ffffffffffff'"),
        ("xyz", "they are hexadecimal"),
        ("", "is no record id"),
    ],
)
def test_nothing_found_names_what_was_searched(run_dir: Path, prefix: str, said: str) -> None:
    with pytest.raises(UserError, match=re.escape(said)) as raised:
        told(prefix, run_dir)
    assert str(run_dir) in str(raised.value)


def test_no_run_at_all(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"no journal\.db was found in"):
        told("abc", tmp_path)
    with pytest.raises(UserError, match="no folder at all"):
        told("abc")
    assert not list(tmp_path.iterdir()), "looking makes no journal"


def test_ids_in_capitals_are_found(run_dir: Path) -> None:
    record = records(120)[0]
    assert record.id == content_hash("code", 0)
    assert told(f" {record.id.upper()} ", run_dir)[0] == EXIT_DONE
