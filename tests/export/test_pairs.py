"""Pairs and rankings: who decides, by how much, and what is in none."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from factory.errors import UserError
from factory.records import Record
from tests.export.runs import answer, exported, manifest, rows, steps, write_run


def told(row: dict[str, Any]) -> tuple[str, str, float, float, str]:
    return (row["chosen"][0]["content"], row["rejected"][0]["content"], row["chosen_reward"], row["rejected_reward"],
            row["source"])  # fmt: skip


def pairs(folder: Path, *words: str, runs: tuple[str, ...] = ("one",)) -> list[tuple[str, str, float, float, str]]:
    target = exported(folder, "format=preference", *words, runs=runs)
    steps(target)
    return sorted(map(told, rows(target)))


def test_the_verifier_comes_before_the_reward_model(tmp_path: Path) -> None:
    write_run(tmp_path, [
        answer("p", "right", execution=1, reward=0.1),
        answer("p", "right and nicer", execution=1, reward=0.9),
        answer("p", "wrong but nice", kept=False, execution=0, reward=5.0),
        answer("q", "good", reward=2),
        answer("q", "fair", reward=1),
    ])  # fmt: skip
    assert pairs(tmp_path) == [
        ("good", "fair", 2, 1, "reward model"),
        ("right and nicer", "wrong but nice", 1, 0, "verifier"),
    ]
    assert pairs(tmp_path, "max_pairs=2")[1:] == [
        ("right and nicer", "right", 0.9, 0.1, "reward model"),
        ("right and nicer", "wrong but nice", 1, 0, "verifier"),
    ]
    by_reward = pairs(tmp_path, "pairs.decide=[reward]")
    assert ("right and nicer", "right", 0.9, 0.1, "reward model") in by_reward, "the nice one was not kept"
    with pytest.raises(UserError, match="holds no pairs"):
        pairs(tmp_path, "pairs.decide=[pairwise]")


def test_only_what_tells_its_attempts_is_compared_by_them(tmp_path: Path) -> None:
    """A record may hold a problem and a solution without being one of task=code: its wrong answers are records, too."""
    write_run(tmp_path, [
        answer("p", "right", execution=1, meta={"problem": "p", "solution": "right"}),
        answer("p", "wrong", kept=False, execution=0, meta={"problem": "p", "solution": "wrong"}),
    ])  # fmt: skip
    assert pairs(tmp_path) == [("right", "wrong", 1, 0, "verifier")]


def against(*said: str) -> dict[str, Any]:
    return {"said": list(said)}


@pytest.mark.parametrize(
    ("said", "swapped", "chosen"),
    [
        (("first", "second"), None, "a"),
        (("second", "first"), None, "b"),
        (None, ("second", "first"), "a"),
        (None, ("first", "second"), "b"),
        (("first", "first"), None, None),
        (("second", "second"), None, None),
        (("first", "tie"), None, None),
        (("tie", "tie"), None, None),
        (None, None, None),
    ],
)
def test_a_judge_counts_only_where_it_said_the_same_in_both_orders(
    tmp_path: Path, said: tuple[str, str] | None, swapped: tuple[str, str] | None, chosen: str | None
) -> None:
    one, other = answer("p", "a", pairwise=0.5), answer("p", "b", pairwise=0.5)

    def with_detail(record: Record, of: Record, words: tuple[str, str] | None) -> Record:
        detail = {"against": {of.id: against(*words)}} if words else {}
        return record.model_copy(
            update={"scores": {"pairwise": record.scores["pairwise"].model_copy(update={"detail": detail})}}
        )

    write_run(tmp_path, [with_detail(one, other, said), with_detail(other, one, swapped)])
    if chosen is None:
        with pytest.raises(UserError, match="holds no pairs"):
            pairs(tmp_path)
    else:
        assert pairs(tmp_path) == [(chosen, "b" if chosen == "a" else "a", 1, 0, "judge")]


scored = st.tuples(
    st.integers(0, 3),  # the prompt
    st.sampled_from(["yes", "no", "no ", "perhaps", "perhaps not, who knows", "a long answer " * 5]),
    st.booleans(),
    st.one_of(st.none(), st.sampled_from([0.0, 1.0])),
    st.one_of(st.none(), st.floats(-2, 2).map(lambda number: round(number, 1))),
)


@settings(max_examples=40, deadline=None)
@given(
    st.lists(scored, min_size=2, max_size=24),
    st.sampled_from([0.0, 0.3, 1.0, 1.5]),
    st.integers(1, 3),
    st.sampled_from([None, 2.0]),
)
def test_what_holds_of_every_pair(
    given: list[tuple[int, str, bool, float | None, float | None]], gap: float, most: int, ratio: float | None
) -> None:
    records = []
    for prompt, text, kept, verified, reward in given:
        scores = {"execution": verified, "reward": reward, "other": 1.0}
        there = {name: value for name, value in scores.items() if value is not None}
        records.append(answer(f"prompt {prompt}", text, kept=kept, meta={"n": len(records)}, **there))
    with tempfile.TemporaryDirectory() as name:
        write_run(Path(name), records)
        refused, target = "", Path(name)
        try:
            target = exported(
                Path(name), "format=preference", f"min_gap={gap}", f"max_pairs={most}",
                f"pairs.max_length_ratio={'null' if ratio is None else ratio}", "held_out=0.3"
            )  # fmt: skip
        except UserError as error:
            refused = str(error)
        if refused:
            assert "holds no pairs" in refused or "held_out" in refused
            return
        split = {place: rows(target / place) for place in ("train", "held_out")}
        steps(target)
    by_id = {record.id: record for record in records}
    found = [*split["train"], *split["held_out"]]
    assert {row["prompt"][0]["content"] for row in split["train"]}.isdisjoint(
        row["prompt"][0]["content"] for row in split["held_out"]
    )
    for row in found:
        chosen, rejected, *rewards = told(row)[:4]
        assert rewards[0] - rewards[1] > gap
        assert " ".join(chosen.split()) != " ".join(rejected.split())
        assert by_id[row["chosen_id"]].kept
        assert by_id[row["chosen_id"]].messages[0] == by_id[row["rejected_id"]].messages[0]
        assert (by_id[row["chosen_id"]].messages[1].content, by_id[row["rejected_id"]].messages[1].content) == (
            chosen,
            rejected,
        )
        if ratio is not None:
            assert max(len(chosen), len(rejected)) <= ratio * min(len(chosen), len(rejected))
        verified = [by_id[row[side]].scores.get("execution") for side in ("chosen_id", "rejected_id")]
        if None not in verified and verified[0].value != verified[1].value:  # type: ignore[union-attr]
            assert verified[0].value > verified[1].value, "never against the verifier"  # type: ignore[union-attr]
    prompts = [row["prompt"][0]["content"] for row in found]
    assert all(prompts.count(prompt) <= most for prompt in prompts)


def test_answers_of_very_different_length_are_no_pair(tmp_path: Path) -> None:
    write_run(
        tmp_path,
        [answer("p", "ten chars.", reward=3), answer("p", "x" * 21, reward=1), answer("p", "y" * 20, reward=2)],
    )
    assert [found[2:4] for found in pairs(tmp_path)] == [(3, 1)]
    assert [found[2:4] for found in pairs(tmp_path, "pairs.max_length_ratio=2")] == [(3, 2)]
    reasons = steps(tmp_path / "to")["pairs"]["reasons"]
    assert reasons == {"pairs: lengths differ by more than max_length_ratio=2": 1}


def test_the_exports_rule_says_which_answers_were_kept(tmp_path: Path) -> None:
    write_run(
        tmp_path,
        [answer("p", "was kept", kept=True, judge=1, reward=9), answer("p", "was lost", kept=False, judge=5, reward=1)],
    )
    assert [found[0] for found in pairs(tmp_path)] == ["was kept"]
    by_rule = pairs(tmp_path, "keep=judge == max", "pairs.decide=[keep]")
    assert by_rule == [("was lost", "was kept", 1, 0, "verifier")]


def test_levels_say_how_clear_a_preference_is(tmp_path: Path) -> None:
    write_run(tmp_path, [answer("p", f"answer {n}", reward=n) for n in (0, 1, 2, 4)])
    target = exported(tmp_path, "format=preference", "pairs.levels=[2,3]", "max_pairs=9")
    assert sorted((row["rejected_reward"], row["level"]) for row in rows(target)) == [(0, 2), (1, 2), (2, 1)]
    target = exported(tmp_path, "format=preference", "pairs.levels=[2,3]", "pairs.min_level=2", "max_pairs=9")
    assert sorted(row["rejected_reward"] for row in rows(target)) == [0, 1]
    assert steps(target)["pairs"]["reasons"] == {"pairs: below min_level=2": 1}


def test_answers_of_two_models_to_one_prompt_are_compared(tmp_path: Path) -> None:
    write_run(tmp_path, [answer("p", "strong", reward=2)], run="a", model="large")
    write_run(tmp_path, [answer("p", "weak", reward=1), answer("q", "alone", reward=1)], run="b", model="small")
    target = exported(tmp_path, "format=preference", runs=("a", "b"))
    (row,) = rows(target)
    assert (row["run"], row["model"], row["rejected_run"], row["rejected_model"]) == ("a", "large", "b", "small")
    assert (row["chosen_scores"], row["rejected_scores"]) == ({"reward": 2}, {"reward": 1})
    assert steps(target)["pairs"]["reasons"] == {"pairs: no other answer to its prompt": 1}


def test_system_prompts_part_prompts_and_attempts_of_code_are_answers(tmp_path: Path) -> None:
    verdict = {"status": "wrong", "passed": 2, "total": 4}
    broken = {"status": "infra_error", "passed": 0, "total": 4}
    meta = {"problem": "p", "solution": "s", "language": "python",
            "attempts": [{"code": "bad", "verdict": verdict}, {"code": "odd", "verdict": broken}]}  # fmt: skip
    lost = {**meta, "attempts": [{"code": "worse", "verdict": {**verdict, "passed": 1}}]}
    write_run(tmp_path, [
        answer("p", "```python\ns\n```", meta=meta, execution=1),
        answer("p", "```python\nworse\n```", meta=lost, kept=False, execution=0),
        answer("x", "one", system="Be kind", reward=2),
        answer("x", "two", system="Be terse", reward=1),
    ])  # fmt: skip
    assert pairs(tmp_path, "max_pairs=9") == [
        ("```python\ns\n```", "```python\nbad\n```", 1, 0.5, "verifier"),
        ("```python\ns\n```", "```python\nworse\n```", 1, 0.25, "verifier"),
    ]


def test_more_answers_than_can_be_compared_leave_the_best_and_the_worst(tmp_path: Path) -> None:
    write_run(tmp_path, [answer("p", f"answer {n}", reward=n) for n in range(300)])
    target = exported(tmp_path, "format=preference")
    assert [told(row) for row in rows(target)] == [("answer 299", "answer 0", 299, 0, "reward model")]
    assert steps(target)["crowded"]["reasons"] == {
        "crowded: neither among the best nor the worst 128 answers to its prompt": 44
    }


def rankings(folder: Path, *words: str) -> list[dict[str, Any]]:
    target = exported(folder, "format=reward", *words)
    steps(target)
    return rows(target)


def test_rankings_have_one_row_a_prompt(tmp_path: Path) -> None:
    write_run(tmp_path, [
        *(answer("p", f"answer {n}", reward=n, execution=n % 2, judge=n) for n in range(4)),
        answer("q", "alone", reward=1),
        answer("r", "same worth", reward=1), answer("r", "as this", reward=1),
    ])  # fmt: skip
    (row,) = rankings(tmp_path)
    assert row["prompt"] == [{"role": "user", "content": "p"}]
    assert [response[0]["content"] for response in row["responses"]] == ["answer 3", "answer 2", "answer 1", "answer 0"]
    assert (row["rewards"], row["source"]) == ([3, 2, 1, 0], "reward model")
    (row,) = rankings(tmp_path, "ranking.write=ranks")
    assert [response[0]["content"] for response in row["responses"]] == ["answer 3", "answer 1", "answer 2", "answer 0"]
    assert row["ranks"] == [1, 2, 3, 4]
    (row,) = rankings(tmp_path, "min_gap=1", "ranking.max_responses=2")
    assert row["rewards"] == [3, 1]
    (row,) = rankings(tmp_path, "ranking.max_responses=3")
    assert row["rewards"] == [3, 1, 0] or row["rewards"] == [3, 2, 0]
    reasons = steps(tmp_path / "to")["rankings"]["reasons"]
    assert reasons["ranking: no other answer to its prompt"] == 1
    assert reasons["ranking: every answer is worth the same"] == 2
    graded = rankings(tmp_path, "ranking.write=attributes", "ranking.attributes=[judge,execution]")
    assert [row["attributes"] for row in graded] == [
        [{"judge": n, "execution": n % 2} for n in (3, 1, 2, 0)],
    ]


def test_attributes_of_a_reward_model_are_carried(tmp_path: Path) -> None:
    def detail(**grades: float) -> dict[str, dict[str, Any]]:
        return {"reward": {"models": {"rm": {"raw": 1, "attributes": grades}}}}

    write_run(tmp_path, [
        answer("p", "a", reward=2, details=detail(helpful=3.5, verbose=1)),
        answer("p", "b", reward=1, details=detail(helpful=1)),
    ])  # fmt: skip
    (row,) = rankings(tmp_path, "ranking.write=attributes")
    assert row["attributes"] == [{"helpful": 3.5, "verbose": 1}, {"helpful": 1, "verbose": None}]
    assert row["source"] == "reward model"


def test_training_reads_what_was_written(tmp_path: Path) -> None:
    from training.rows import check_columns, data_files, read_rows
    from training.settings import Source

    write_run(tmp_path, [answer(f"p{n}", f"answer {m}", reward=m) for n in range(9) for m in range(2)])
    words = {"sft": ["sft"], "preference": ["dpo", "rpo", "reward"], "reward": ["reward", "rpo"]}
    for form, stages in words.items():
        for more in ((), ("held_out=0.4",)):
            target = exported(tmp_path, f"format={form}", *more)
            (target / "duplicates.jsonl").write_text('{"id": "x"}\n')
            files = data_files(Source(path=str(target)))
            assert files == sorted((target / "train" if more else target).glob("*.parquet"))
            for stage in stages:
                check_columns(files[0], stage)
            assert sum(len(batch) for file in files for batch in read_rows(file)) == manifest(target)["splits"]["train"]
