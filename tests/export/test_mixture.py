"""Parts of a data set: shares, repetition, budgets, and prompts that are held out."""

from __future__ import annotations

import math
import tempfile
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from factory.errors import UserError
from tests.export.runs import answer, exported, manifest, rows, steps, write_run
from tests.test_tokens import tokenizer_file


@settings(max_examples=40, deadline=None)
@given(
    st.lists(st.integers(1, 12), min_size=2, max_size=3),
    st.lists(st.integers(1, 5), min_size=3, max_size=3),
    st.integers(1, 3),
    st.one_of(st.none(), st.integers(1, 60)),
)
def test_weights_are_reached_within_a_row_or_limited_by_the_cap(
    sizes: list[int], given: list[int], repeats: int, budget: int | None
) -> None:
    weights = {f"t{part}": given[part] for part in range(len(sizes))}
    records = [
        answer(f"p{part}.{n}", task=f"t{part}", reward=n) for part, size in enumerate(sizes) for n in range(size)
    ]
    words = [f"mixture.weights={{{', '.join(f'{name}: {weight}' for name, weight in weights.items())}}}",
             "mixture.by=task", f"mixture.max_repeats={repeats}", f"rows={'null' if budget is None else budget}"]  # fmt: skip
    with tempfile.TemporaryDirectory() as name:
        write_run(Path(name), records)
        try:
            target = exported(Path(name), *words)
        except UserError as error:
            refused = str(error)
        else:
            refused = ""
        if refused:  # a budget of so few rows that a part of the data gets none, or all get none
            assert budget is not None or min(sizes) == 0, refused
            return
        found, told = rows(target), manifest(target)["mixture"]
        steps(target)
    counts = Counter(row["task"] for row in found)
    total = sum(weights.values())
    whole = (
        budget if budget is not None else min(size * repeats * total / weights[f"t{p}"] for p, size in enumerate(sizes))
    )
    for part, size in enumerate(sizes):
        wanted = math.floor(whole + 1e-9) * weights[f"t{part}"] / total
        if wanted <= size * repeats:
            assert abs(counts[f"t{part}"] - wanted) <= 1
        else:
            assert size * repeats - 1 <= counts[f"t{part}"] <= size * repeats
            assert told["parts"][f"t{part}"]["short"] or wanted < size * repeats + 1
        times = Counter(row["id"] for row in found if row["task"] == f"t{part}")
        assert all(count <= repeats for count in times.values())
        if times and len(times) == size:
            assert max(times.values()) - min(times.values()) <= 1, "all rows once before any is there twice"
        best = sorted((row["scores"]["reward"] for row in found if row["task"] == f"t{part}"), reverse=True)
        assert set(best) == set(range(size - len(times), size)), "the best first"
    if budget is not None and not any(part["short"] for part in told["parts"].values()):
        assert len(found) == budget
    if repeats > 1 and "copy" in found[0]:
        assert sorted((row["id"], row["copy"]) for row in found) == [(row["id"], row["copy"]) for row in found]


def test_a_part_that_may_not_be_repeated_enough_is_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_run(tmp_path, [answer(f"p{n}", reward=n) for n in range(10)], run="a")
    write_run(tmp_path, [answer(f"q{n}", reward=n) for n in range(2)], run="b")
    words = ["mixture.weights={a: 1, b: 1}", "rows=10"]
    target = exported(tmp_path, *words, "mixture.max_repeats=2", runs=("a", "b"))
    assert Counter(row["run"] for row in rows(target)) == {"a": 5, "b": 4}
    assert sorted((row["run"], row["copy"]) for row in rows(target))[-4:] == [("b", 0), ("b", 0), ("b", 1), ("b", 1)]
    mixture = manifest(target)["mixture"]
    assert [part["short"] for part in mixture["parts"].values()] == [False, True]
    step = steps(target)["mixture"]
    assert (step["in"], step["out"], step["repeated"]) == (12, 7, 2)
    assert step["reasons"] == {"mixture: beyond the share of run=a": 5}
    from factory.export import export
    from tests.export.runs import settings_of

    folders = f"out=[{tmp_path}/a,{tmp_path}/b]"
    assert "short of what was wanted: b" in export(settings_of(folders, f"to={tmp_path}/to", *words))


def test_parts_without_a_weight_are_left_out(tmp_path: Path) -> None:
    records = [answer(f"p{n}", meta={"topic": topic}) for n, topic in enumerate(["sea", "sea", "sky", None])]
    write_run(tmp_path, records)
    target = exported(tmp_path, "mixture.by=topic", "mixture.weights={sea: 1}")
    assert manifest(target)["mixture"]["without_weight"] == {"none": 1, "sky": 1}
    assert steps(target)["mixture"]["reasons"] == {
        "mixture: no weight for topic=none": 1,
        "mixture: no weight for topic=sky": 1,
    }
    detail = {"topic": {"coarse": "art", "fine": "song"}}
    write_run(tmp_path, [answer(f"p{n}", "Paint.", details=detail, topic=1) for n in range(2)], run="two")
    target = exported(tmp_path, "mixture.by=topic", "mixture.weights={art: 1, sea: 1}", runs=("one", "two"))
    assert Counter(row["run"] for row in rows(target)) == {"one": 2, "two": 2}


@pytest.mark.parametrize("counter", ["bytes", "tokenizer"])
def test_a_budget_of_tokens_takes_the_best_that_fit(tmp_path: Path, counter: str) -> None:
    write_run(tmp_path, [answer("one two", f"{'three ' * (n + 1)}", reward=n) for n in range(8)])
    words = [f"tokenizer={tokenizer_file(tmp_path)}"] if counter == "tokenizer" else []
    target = exported(tmp_path, "tokens=40", *words)
    found, told = rows(target), manifest(target)
    assert 30 < told["tokens"]["total"] <= 40
    assert told["tokens"]["counted_by"].startswith("the tokenizer of" if words else "an estimate: four bytes")
    if not words:
        assert [row["scores"]["reward"] for row in sorted(found, key=lambda row: -row["scores"]["reward"])] == [7, 6, 5]
        assert told["tokens"]["total"] == sum((7 + 6 * (row["scores"]["reward"] + 1) + 3) // 4 for row in found)
    assert set(steps(target)["budget"]["reasons"]) == {"budget: beyond tokens=40"}


@settings(max_examples=25, deadline=None)
@given(st.lists(st.integers(0, 12), min_size=1, max_size=30), st.floats(0.01, 0.99), st.integers(0, 5))
def test_no_prompt_is_on_both_sides(prompts: list[int], share: float, seed: int) -> None:
    """Prompts that differ in case and spaces are one."""
    forms = ["Prompt {}", "prompt  {}", "PROMPT {} "]
    records = [answer(forms[n % 3].format(prompt), f"answer {n}") for n, prompt in enumerate(prompts)]
    with tempfile.TemporaryDirectory() as name:
        write_run(Path(name), records)
        words = (f"held_out={share}", f"seed={seed}")
        if len(set(prompts)) < 2:
            with pytest.raises(UserError, match="two are needed"):
                exported(Path(name), *words)
            return
        target = exported(Path(name), *words)
        train, held_out = rows(target / "train"), rows(target / "held_out")
        step = steps(target)["held_out"]
        more = [*records, *(answer(f"another {n}") for n in range(20))]
        write_run(Path(name), more, run="two")
        grown = {row["id"] for row in rows(exported(Path(name), *words, runs=("two",)) / "held_out")}

    def keys(found: list[dict[str, Any]]) -> set[str]:
        return {" ".join(row["messages"][0]["content"].lower().split()) for row in found}

    assert keys(train).isdisjoint(keys(held_out))
    assert keys(train) | keys(held_out) == {f"prompt {prompt}" for prompt in prompts}
    assert (step["held_out"], step["held_out_prompts"]) == (len(held_out), len(keys(held_out)))
    old, held = {record.id for record in records}, {row["id"] for row in held_out}
    assert grown & old <= held or len(keys(train)) == 1, "a prompt stays on its side when the run grows"


def test_both_splits_are_read_by_the_library(tmp_path: Path) -> None:
    import datasets

    write_run(tmp_path, [answer(f"p{n}", reward=n, kept=n != 3) for n in range(40)])
    target = exported(tmp_path, "held_out=0.2", "rows=10")
    found = datasets.load_dataset(str(target), cache_dir=str(tmp_path / "cache"))
    assert {split: len(found[split]) for split in found} == manifest(target)["splits"]
    assert len(found["train"]) == 10
    assert set(found["train"]["id"]).isdisjoint(found["held_out"]["id"])
    rejected = datasets.load_dataset(str(target), "rejected", split="train", cache_dir=str(tmp_path / "cache"))
    assert len(rejected) + len(found["train"]) + len(found["held_out"]) == 40
    assert "rules: lost" in rejected["reason"]
    plain = exported(tmp_path, f"to={tmp_path}/plain")
    whole = datasets.load_dataset(str(plain), cache_dir=str(tmp_path / "cache"))
    assert {split: len(whole[split]) for split in whole} == {"train": 39}
