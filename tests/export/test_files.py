"""What an export leaves: the same bytes every time, whole or not at all, never over somebody else's files."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from factory.cli import main
from factory.errors import ConfigError, UserError
from factory.export.write import Workplace
from factory.records import Record
from tests.export.runs import answer, content, exported, manifest, rows, steps, write_run

ROOT = Path(__file__).parent.parent.parent
EVERYTHING = {
    "sft": ("keep=reward >= q25", "held_out=0.3", "mixture.weights={one: 2, two: 1}", "mixture.max_repeats=2"),
    "preference": ("max_pairs=2", "held_out=0.3", "rows=9", "pairs.levels=[1,2]"),
    "reward": ("ranking.write=ranks", "held_out=0.3"),
}


def several(count: int = 60, name: str = "prompt") -> list[Record]:
    return [
        answer(f"{name} {n // 3}", f"answer {n}", reward=n % 7, execution=n % 2, kept=n % 5 > 0) for n in range(count)
    ]


@pytest.mark.parametrize("form", EVERYTHING)
def test_two_exports_are_the_same_bytes(tmp_path: Path, form: str) -> None:
    write_run(tmp_path, several(), run="one")
    write_run(tmp_path, several(30, "question"), run="two", model="other")
    words = (f"format={form}", *EVERYTHING[form])
    first = content(exported(tmp_path, *words, runs=("one", "two")))
    assert {"manifest.json", "README.md", "report.html", "train/part-00000.parquet", "held_out/part-00000.parquet",
            "rejected/part-00000.parquet"} <= set(first)  # fmt: skip
    assert content(exported(tmp_path, *words, runs=("one", "two"))) == first
    ids = [row["id"] for row in rows(tmp_path / "to" / "train")]
    assert ids == sorted(ids)
    steps(tmp_path / "to")


def test_the_order_of_the_records_decides_nothing(tmp_path: Path) -> None:
    write_run(tmp_path, several(), run="one")
    write_run(tmp_path / "other", reversed(several()), run="one")
    words = ("format=preference", "max_pairs=2")
    first = content(exported(tmp_path, *words))
    assert content(exported(tmp_path / "other", *words)) == first


def test_a_killed_export_leaves_the_former_one_and_the_next_one_is_the_same(tmp_path: Path) -> None:
    write_run(tmp_path, several(5_000))
    first = content(exported(tmp_path, "keep=reward >= q75"))
    command = [
        sys.executable,
        "-m",
        "factory",
        "export",
        f"out={tmp_path}/one",
        f"to={tmp_path}/to",
        "keep=reward >= q25",
    ]
    killed = 0
    for when in ("pool.db", "fresh/rejected"):
        process = subprocess.Popen(command, cwd=tmp_path, env={**os.environ, "PYTHONPATH": str(ROOT)},
                                   stdout=subprocess.DEVNULL)  # fmt: skip
        marks = [tmp_path / ".to.work" / when, tmp_path / ".to.work/fresh/.rejected.new"]
        while process.poll() is None and not any(
            mark.exists() for mark in marks if when in str(mark) or when[0] == "f"
        ):
            time.sleep(0.001)
        process.send_signal(signal.SIGKILL)
        killed += process.wait() == -signal.SIGKILL
        assert content(tmp_path / "to") == first
        assert (tmp_path / ".to.work").exists()
    assert killed == 2, "both were killed in the middle"
    assert content(exported(tmp_path, "keep=reward >= q75")) == first
    assert not list(tmp_path.glob(".to*"))


def test_a_kill_between_the_two_renames_is_mended(tmp_path: Path) -> None:
    write_run(tmp_path, several())
    first = content(exported(tmp_path))
    (tmp_path / "to").rename(tmp_path / ".to.old")
    with Workplace(tmp_path / "to"):
        assert content(tmp_path / "to") == first


def test_only_one_export_writes_a_folder(tmp_path: Path) -> None:
    write_run(tmp_path, several())
    with Workplace(tmp_path / "to"), pytest.raises(UserError, match=r"is being written by process .* with to=DIR"):
        exported(tmp_path)


def test_a_folder_of_somebody_else_is_not_touched(tmp_path: Path) -> None:
    write_run(tmp_path, several())
    (tmp_path / "to").mkdir()
    exported(tmp_path)  # an empty one is taken
    (tmp_path / "to/manifest.json").write_text("{}")
    (tmp_path / "to/thesis.txt").write_text("years of work")
    with pytest.raises(ConfigError, match="holds files that no export wrote"):
        exported(tmp_path)
    assert (tmp_path / "to/thesis.txt").read_text() == "years of work"


def test_a_hostile_text_is_text_everywhere(tmp_path: Path) -> None:
    evil = "<script>alert(1)</script> | `x` \n---\n# y"
    write_run(
        tmp_path,
        [answer(evil, evil, judge=1), answer("p", "b", kept=False, reason=f"judge: {evil}", judge=0)],
        run="one",
    )
    target = exported(tmp_path)
    page, card = (target / "report.html").read_text(), (target / "README.md").read_text()
    assert "<script>alert" not in page
    assert "&lt;script&gt;alert(1)" in page
    assert "<script>" not in card
    assert card.count("\n---\n") == 1


def test_the_page_is_drawn_again_and_shows_every_loss(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_run(tmp_path, several())
    target = exported(tmp_path, "held_out=0.2", "mixture.weights={one: 1}", "rows=20")
    page = (target / "report.html").read_text()
    for step in manifest(target)["funnel"]:
        assert f'data-stage="{step["step"]}"' in page
        assert all(reason.replace(">", "&gt;") in page for reason in step["reasons"])
    assert "prompts held out" in page
    (target / "report.html").unlink()
    with pytest.raises(SystemExit) as ended:
        main(["report", f"out={target}"])
    assert ended.value.code == 0
    assert (target / "report.html").read_text() == page
    assert str(target / "report.html") in capsys.readouterr().out


def test_several_runs_on_the_command_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    write_run(tmp_path / "outputs", several(9), run="a")
    write_run(tmp_path / "outputs", [answer(f"q{n}", str(n)) for n in range(5)], run="b")
    with pytest.raises(SystemExit) as ended:
        main(["export", "run=[a,b]"])
    assert (ended.value.code, capsys.readouterr().out.strip()) == (0, "12 rows of sft data in outputs/a+b/export/sft")
    found = rows(Path("outputs/a+b/export/sft"))
    assert {row["run"] for row in found} == {"a", "b"}
    with pytest.raises(SystemExit) as ended:
        main(["export", "run=[a,c,d]"])
    told = capsys.readouterr().err
    assert (ended.value.code, told.count("holds no run")) == (2, 2)


def test_carried_columns_of_several_runs_stand_side_by_side(tmp_path: Path) -> None:
    write_run(tmp_path, [answer("a", meta={"level": 1, "model": "mine", "topic": "sea"})], run="a", carries=True)
    write_run(tmp_path, [answer("b", meta={"level": 1.5, "note": ["x"]})], run="b", carries=True)
    found = {row["run"]: row for row in rows(exported(tmp_path, runs=("a", "b")))}
    assert (found["a"]["level"], found["a"]["topic"], found["a"]["note"], found["a"]["model"]) == (
        1.0,
        "sea",
        None,
        "m",
    )
    assert (found["b"]["level"], found["b"]["topic"], found["b"]["note"]) == (1.5, None, '["x"]')
