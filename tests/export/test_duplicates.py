"""Rows that are there twice: the best stays, what is alike shares its fate, and each loss says of what it was one."""

from __future__ import annotations

import json
from pathlib import Path

from tests.export.runs import answer, exported, rows, steps, write_run

STORY = "the old harbour wall was built of grey stone and behind it lie the boats of the village"
NEAR = STORY.replace("grey", "grey and heavy")
FAR = "a recipe for bread needs flour water salt and a day of patience in a warm kitchen"
MINHASH = ("duplicates.minhash.enabled=true", "duplicates.minhash.bound=0.5")
SEMANTIC = ("duplicates.semantic.enabled=true", "duplicates.semantic.bound=0.7")


def texts(folder: Path) -> set[str]:
    return {row["messages"][-1]["content"] for row in rows(folder)}


def test_the_better_of_two_near_rows_stays(tmp_path: Path) -> None:
    write_run(tmp_path, [answer("p", STORY, reward=1), answer("p", NEAR, reward=2), answer("q", FAR, reward=0)])
    for words in (MINHASH, SEMANTIC):
        kind = words[0].split(".")[1]
        target = exported(tmp_path, *words)
        assert texts(target) == {NEAR, FAR}
        step = steps(target)[kind]
        assert sum(step["reasons"].values()) == 1
        (lost,) = rows(target / "rejected")
        (stays,) = (row for row in rows(target) if row["messages"][-1]["content"] == NEAR)
        assert (lost["step"], lost["duplicate_of"]) == (kind, stays["id"])
        (told,) = [json.loads(line) for line in (target / "duplicates.jsonl").read_text().splitlines()]
        assert (told["id"], told["kept"], told["kind"]) == (lost["id"], stays["id"], kind)
        assert 0.5 < told["similarity"] < 1
        worse_first = exported(tmp_path, *words, "order=0 - reward")
        assert texts(worse_first) == {STORY, FAR}
    assert texts(exported(tmp_path)) == {STORY, NEAR, FAR}


def test_what_is_the_same_is_for_the_user_to_say(tmp_path: Path) -> None:
    write_run(tmp_path, [answer("p", "Yes"), answer("p", "yes  "), answer("p", "Yes \n")])
    assert len(rows(exported(tmp_path))) == 2
    assert len(rows(exported(tmp_path, "duplicates.exact.ignore=text"))) == 1
    assert len(rows(exported(tmp_path, "duplicates.exact.ignore=none"))) == 3
    assert len(rows(exported(tmp_path, "duplicates.exact.enabled=false"))) == 3


def test_near_prompts_take_all_their_pairs_with_them(tmp_path: Path) -> None:
    records = [answer(prompt, f"{prompt[:3]} {n}", reward=n + bonus)
               for prompt, bonus in ((STORY, 0.5), (NEAR, 0), (FAR, 0)) for n in range(3)]  # fmt: skip
    write_run(tmp_path, records)
    target = exported(tmp_path, "format=preference", "max_pairs=2", *MINHASH)
    assert {row["prompt"][0]["content"] for row in rows(target)} == {STORY, FAR}
    assert len(rows(target)) == 4
    step = steps(target)["minhash"]
    assert (step["in"], step["out"], step["unit"]) == (6, 4, "rows")
    assert len((target / "duplicates.jsonl").read_text().splitlines()) == 2
    answers = exported(tmp_path, "format=preference", "max_pairs=2", *MINHASH, "duplicates.of=answer")
    assert len(rows(answers)) == 6, "the answers are far apart"


def test_the_steps_come_one_after_the_other(tmp_path: Path) -> None:
    write_run(tmp_path, [answer("p", STORY), answer("p", STORY), answer("p", NEAR), answer("q", FAR)])
    target = exported(tmp_path, *MINHASH, *SEMANTIC, "held_out=0.5")
    assert list(steps(target)) == ["keep", "exact", "minhash", "semantic", "held_out"]
    kinds = [json.loads(line)["kind"] for line in (target / "duplicates.jsonl").read_text().splitlines()]
    assert kinds == ["exact", "minhash"]
