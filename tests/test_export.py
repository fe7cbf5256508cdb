"""`export format=sft` of what `respond` made."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from factory.compose import compose_config
from factory.errors import UserError
from factory.export import ExportSettings, export
from factory.outputs import read_manifest
from tests.model_server import ModelServer, Reply, last_text
from tests.runs import kept, run, write_rows


def exported(folder: Path, *overrides: str) -> Path:
    composed, problems = compose_config("export", [f"out={folder}/run", *overrides])
    assert problems == []
    settings = ExportSettings.model_validate({key: value for key, value in composed.items() if key != "hydra"})
    export(settings)
    return settings.target


def content(folder: Path) -> dict[str, bytes]:
    return {str(file.relative_to(folder)): file.read_bytes() for file in sorted(folder.rglob("*")) if file.is_file()}


def script(body: dict[str, Any]) -> Reply:
    if "response_format" in body:
        return Reply(
            '{"reason": "so", "score": 5}' if "number 1" in last_text(body) else '{"reason": "so", "score": 3}'
        )
    return Reply(f"answer to {last_text(body)}", delay=0.001 * (len(last_text(body)) * 7 % 5))


def questions(folder: Path) -> None:
    write_rows(folder, [{"instruction": f"question number {n}", "level": n % 3, "share": n / 4} for n in range(24)])


def test_the_same_bytes_every_time_and_from_every_run(tmp_path: Path) -> None:
    one, two = tmp_path / "one", tmp_path / "two"
    files = []
    for folder, concurrency in ((one, 1), (two, 12)):
        folder.mkdir()
        questions(folder)
        with ModelServer(script) as server:
            # The same place for both, whatever its port, and the same rows.
            run(folder, server, "engine.identity=mock", f"engine.concurrency={concurrency}")
        first = content(exported(folder))
        assert content(exported(folder)) == first
        files.append(first["part-00000.parquet"])
    assert files[0] == files[1]


def test_it_opens_as_a_data_set_with_its_columns(tmp_path: Path) -> None:
    import datasets

    questions(tmp_path)
    with ModelServer(script) as server:
        run(tmp_path, server, "scorers.judge.enabled=true", "scorers.judge.keep='judge >= 3'")
    data = datasets.load_dataset("parquet", data_files=f"{exported(tmp_path)}/*.parquet", split="train")
    assert len(data) == 24
    assert data["id"] == sorted(data["id"])
    assert set(data.column_names) == {
        *("id", "run", "task", "model", "messages", "scores"),
        *("instruction", "level", "share"),
    }
    assert str(data.features["level"].dtype) == "int64"
    assert str(data.features["share"].dtype) == "float64"
    row = next(row for row in data if row["instruction"] == "question number 5")
    assert row["messages"][1] == {"role": "assistant", "content": "answer to question number 5"}
    assert row["scores"] == {"rules": 1.0, "judge": 3.0}
    assert (row["level"], row["share"]) == (2, 1.25)
    assert (row["run"], row["task"], row["model"]) == ("respond", "respond", "m")
    run_data = datasets.load_dataset(str(tmp_path / "run" / "data"), split="train")
    assert len(run_data) == 24


def test_another_rule_selects_without_another_run(tmp_path: Path) -> None:
    questions(tmp_path)
    with ModelServer(script) as server:
        run(tmp_path, server, "scorers.judge.enabled=true")
    assert len(kept(tmp_path)) == 11
    target = exported(tmp_path, "keep='judge == 3'", f"to={tmp_path}/other")
    assert read_manifest(target)["rows"] == 13
    assert read_manifest(exported(tmp_path))["rows"] == 11


def test_only_the_wanted_ones_are_exported(tmp_path: Path) -> None:
    questions(tmp_path)
    with ModelServer(script) as server:
        run(tmp_path, server, "n=5", "engine.concurrency=12")
    assert read_manifest(exported(tmp_path))["rows"] == 5


@pytest.mark.parametrize(
    ("overrides", "told"),
    [
        (("keep='jugde > 1'",), "did you mean"),
        (("keep='rules > 7'",), "no kept records under this rule"),
        (("format=preference",), "holds no pairs"),
        (("out=nowhere",), "holds no run"),
    ],
)
def test_what_cannot_be_exported_is_said(tmp_path: Path, overrides: tuple[str, ...], told: str) -> None:
    questions(tmp_path)
    with ModelServer(lambda body: Reply("x")) as server:
        run(tmp_path, server, "scorers.judge.enabled=false")
    with pytest.raises(UserError) as caught:
        exported(tmp_path, *(word.replace("jugde", "rulse") for word in overrides))
    assert told in str(caught.value)
    assert not Path("nowhere").exists(), "nothing is made for a run that is not there"
