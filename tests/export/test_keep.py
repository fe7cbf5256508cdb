"""Which records an export keeps: rules with statistics, the run's own decision, the best of n."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

import numpy
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from factory.errors import ConfigError, UserError
from tests.export.runs import answer, exported, manifest, rows, steps, write_run

numbers = st.floats(-1e6, 1e6, allow_nan=False).map(lambda number: round(number, 3))


@settings(max_examples=20, deadline=None)
@given(st.lists(st.one_of(st.none(), numbers), min_size=1, max_size=40), st.integers(1, 99))
def test_statistics_are_those_of_numpy_over_the_records_that_have_the_score(
    given: list[float | None], percent: int
) -> None:
    there = [value for value in given if value is not None]
    records = [answer(text=f"answer {place}", **({} if value is None else {"reward": value}), rules=1)
               for place, value in enumerate(given)]  # fmt: skip
    with tempfile.TemporaryDirectory() as name:
        write_run(Path(name), records)
        rule = f"(reward >= q{percent} or reward == max or reward == min or reward > mean) and rules == 1"
        if not there:
            with pytest.raises(ConfigError, match="no score is named 'reward'"):
                exported(Path(name), f"keep={rule}")
            return
        folder = exported(Path(name), f"keep={rule}")
        found = manifest(folder)["statistics"]["one"]
        steps(folder)
        kept = {row["scores"]["reward"] for row in rows(folder)}
    assert found[f"q{percent}(reward)"] == numpy.quantile(there, percent / 100)
    assert (found["max(reward)"], found["min(reward)"]) == (max(there), min(there))
    assert found["mean(reward)"] == pytest.approx(numpy.mean(there), rel=1e-12, abs=1e-9)
    assert kept == {value for value in there if value >= found[f"q{percent}(reward)"] or value in (min(there), max(there))
                    or value > found["mean(reward)"]}  # fmt: skip


def test_the_top_quarter_or_the_judges_best(tmp_path: Path) -> None:
    """Llama 3.1: in the top quartile of the reward model, or with the judge's highest grade."""
    records = [answer(text=f"answer {n}", reward=n, judge=n % 4) for n in range(20)]
    write_run(tmp_path, [*records, answer(text="never scored", kept=False, reason="parse: nothing")])
    folder = exported(tmp_path, "keep=reward >= q75 or judge == max")
    assert {int(row["scores"]["reward"]) for row in rows(folder)} == {3, 7, 11, 15, 16, 17, 18, 19}
    step = steps(folder)["keep"]
    assert (step["in"], step["out"]) == (21, 8)
    assert step["reasons"] == {"not (reward >= q75 or judge == max)": 12, "parse: nothing": 1}


def test_statistics_are_of_each_run_by_itself_and_may_be_part_of_a_sum(tmp_path: Path) -> None:
    write_run(tmp_path, [answer(text=f"a{n}", judge=n) for n in range(5)], run="a")
    write_run(tmp_path, [answer(text=f"b{n}", judge=10 * n) for n in range(5)], run="b")
    folder = exported(tmp_path, "keep=judge >= max - 1", runs=("a", "b"))
    assert sorted((row["run"], row["scores"]["judge"]) for row in rows(folder)) == [("a", 3), ("a", 4), ("b", 40)]
    assert manifest(folder)["statistics"] == {"a": {"max(judge)": 4}, "b": {"max(judge)": 40}}


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (("keep=q75 > 3",), "q75 is the statistic of what is compared with it"),
        (("keep=judge > 1 and max",), "max must be compared with a score"),
        (("keep=judge + q75 > judge",), "is the statistic of what is compared"),
        (("keep=judge <= max <= rules",), "write one score on the other side"),
        (("keep=q75 < q90",), "is the statistic of what is compared"),
        (("keep=jugde >= q75",), "did you mean judge?"),
        (("keep=judge >= q100",), "no score is named 'q100'"),
        (("keep=" + "1+" * 3000 + "judge > 0",), "nested too deep"),
        (("order=judge > 2",), "a number is wanted"),
        (("order=jugde * rules",), "did you mean judge?"),
        (("reward=judge and rules",), "a number is wanted"),
        (("mixture.by=tsak",), "mixture.by=tsak: no such column; did you mean task?"),
        (("mixture.weights={onne: 1}",), "mixture.weights=onne: no such run; did you mean one?"),
        (("format=reward", "ranking.write=attributes", "ranking.attributes=[jugde]"), "did you mean judge?"),
        (("format=reward", "ranking.write=attributes"), "no reward model gave attributes"),
        (("format=preference", "pairs.decide=[]"), "nobody decides"),
        (("format=preference", "per_group=2"), "is for format=sft"),
        (("tokens=5", "tokenizer=nowhere.json"), "tokenizer=nowhere.json: "),
        (("tokenizer=some/model",), "there is none: give tokens=N"),
        (("rows=5", "tokens=5"), "give one of them"),
        (("mixture.max_repeats=3",), "give mixture.weights, rows or tokens"),
        (("push_to_hub=me/mine",), "export HF_TOKEN="),
        (("keep=judge > 7",), "no kept records under this rule"),
    ],
)
def test_what_cannot_be_is_said(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, words: tuple[str, ...], told: str
) -> None:
    monkeypatch.delenv("HF_TOKEN", raising=False)
    write_run(tmp_path, [answer(judge=3, rules=1)])
    with pytest.raises(UserError) as caught:
        exported(tmp_path, *words)
    assert told in str(caught.value)
    assert not (tmp_path / "to").exists()
    assert not list(tmp_path.glob(".to*")), "the folder of work is gone"


def test_every_problem_is_told_at_once(tmp_path: Path) -> None:
    write_run(tmp_path, [answer(judge=3)])
    with pytest.raises(ConfigError) as caught:
        exported(tmp_path, "keep=jugde > 1", "order=rules", "reward=rewrad", "mixture.by=x")
    assert [problem.split("=")[0].split(":")[0] for problem in caught.value.problems] == [
        "keep",
        "reward",
        "order",
        "mixture.by",
    ]


def test_without_a_rule_the_run_decides_with_its_duplicates_and_its_surplus(tmp_path: Path) -> None:
    records = [answer(text=f"answer {n}", judge=n) for n in range(6)]
    records[1] = answer(text="lost", kept=False, reason="judge: poor", judge=0)
    marks = ["x", None, "y", "x", "z\x1fy", "w"]
    write_run(tmp_path, records, fingerprints=marks, wanted=2)
    folder = exported(tmp_path)
    assert sorted(row["messages"][1]["content"] for row in rows(folder)) == ["answer 0", "answer 2"]
    assert steps(folder)["keep"]["reasons"] == {
        "duplicate: the same as an earlier record": 2,
        "judge: poor": 1,
        "surplus: enough records were there already": 1,
    }
    again = exported(tmp_path, "keep=judge >= 0")
    assert steps(again)["keep"]["reasons"] == {"duplicate: the same as an earlier record": 2}, "a rule knows no surplus"


def test_a_score_that_could_not_be_had_is_the_reason(tmp_path: Path) -> None:
    lost = answer(text="b", kept=False, reason="judge: no grade", meta={"score_errors": {"judge": "no grade"}}, rules=1)
    write_run(tmp_path, [answer(text="a", rules=1, judge=4), lost, answer(text="c", rules=1)])
    folder = exported(tmp_path, "keep=rules == 1 and judge >= 3")
    assert steps(folder)["keep"]["reasons"] == {"judge: no grade": 1, "keep: not scored by judge": 1}
    either = exported(tmp_path, "keep=rules == 1 or judge >= 3")
    assert len(rows(either)) == 3, "decided without the missing score"


def test_the_best_of_each_group_by_an_expression(tmp_path: Path) -> None:
    def made(group: str, n: int, **scores: Any) -> Any:
        return answer(f"question {group}", f"answer {n}", meta={"group": group}, **scores)

    records = [made("g", 1, judge=1, rules=1), made("g", 2, judge=3, rules=0), made("g", 3, judge=2, rules=1), made("h", 4, judge=0),
               answer(text="alone", judge=0)]  # fmt: skip
    write_run(tmp_path, records)
    folder = exported(tmp_path, "per_group=1", "reward=judge + 5 * rules")
    assert sorted(row["messages"][1]["content"] for row in rows(folder)) == ["alone", "answer 3", "answer 4"]
    assert steps(folder)["per_group"]["reasons"] == {"per_group: not among the best 1 answers to its prompt": 2}


def test_the_best_of_equal_texts_stays(tmp_path: Path) -> None:
    write_run(
        tmp_path, [answer(reward=-3, difficulty=1), answer(reward=-1, difficulty=3), answer(reward=-1, difficulty=1)]
    )
    folder = exported(tmp_path)
    (row,) = rows(folder)
    assert row["scores"] == {"reward": -1, "difficulty": 3}
    assert manifest(folder)["order"] == "(reward + 3.0) * difficulty"
    assert steps(folder)["exact"]["reasons"] == {"exact: the same text as another row": 2}
    (row,) = rows(exported(tmp_path, "order=0 - difficulty - reward"))
    assert row["scores"] == {"reward": -3, "difficulty": 1}
