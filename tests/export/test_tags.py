"""Tags under few names: in the rows, and in the scores that are counted by them."""

from __future__ import annotations

from pathlib import Path

import pytest

from factory.errors import ConfigError
from tests.export.runs import answer, exported, manifest, rows, write_run

TAGS = [
    ["Sorting Lists", "python"],
    ["sorting list", "Python"],
    ["sorting-list", "python", "one of a kind"],
    ["python"],
]


def test_tags_are_normalised_before_they_are_counted(tmp_path: Path) -> None:
    details = [{"tags": {"tags": tags}} for tags in TAGS]
    records = [answer(f"p{n}", details=detail, tags=len(TAGS[n])) for n, detail in enumerate(details)]
    write_run(tmp_path, [*records, answer("untagged", rules=1)])
    words = ("tags.normalise=true", "tags.min_count=2", "tags.eps=0")
    found = {row["messages"][0]["content"]: row for row in rows(exported(tmp_path, *words, "tags.min_support=9"))}
    assert found["p2"]["tags"] == ["sorting list", "python"]
    assert (found["p2"]["scores"]["tags"], found["p3"]["scores"]["tags"]) == (2, 1)
    assert found["untagged"]["tags"] is None
    target = exported(tmp_path, *words, "keep=tags >= 2")
    assert len(rows(target)) == 3
    assert manifest(target)["tags"]["distinct"] == 2
    plain = {row["messages"][0]["content"]: row for row in rows(exported(tmp_path))}
    assert plain["p2"]["tags"] == TAGS[2]


def test_near_tags_are_merged_by_their_embeddings(tmp_path: Path) -> None:
    details = [{"tags": {"tags": [tag]}} for tag in ("sorting list", "sorting list", "list sorting", "cooking")]
    write_run(tmp_path, [answer(f"p{n}", details=detail, tags=1) for n, detail in enumerate(details)])
    target = exported(tmp_path, "tags.normalise=true", "tags.min_count=1", "tags.eps=0.6")
    assert sorted(tag for row in rows(target) for tag in row["tags"]) == ["cooking", *["sorting list"] * 3]


def test_tags_that_nobody_gave_are_told(tmp_path: Path) -> None:
    write_run(tmp_path, [answer(rules=1)])
    with pytest.raises(ConfigError, match="no record has tags"):
        exported(tmp_path, "tags.normalise=true")
