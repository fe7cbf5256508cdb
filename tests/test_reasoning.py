"""Seeds that cannot meet, answers that are read by one rule, and a scorer that no answer can take over."""

from __future__ import annotations

import asyncio
import inspect
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from factory.reasoning import (
    BLOCK,
    EVALUATES,
    Scorer,
    Split,
    Tasks,
    check_tasks,
    final_answer,
    generate,
    harmless,
    opened,
    seed_of,
)

pytest.importorskip("reasoning_gym")
ROOT = Path(__file__).parent.parent
SPLIT_NAMES: list[Split] = ["train", "eval", "hard"]
SPLITS = st.sampled_from(SPLIT_NAMES)
SEEDS = st.integers(0, 16_383)


@given(SPLITS, SEEDS, SPLITS, SEEDS)
def test_no_two_seeds_share_a_state(a: Split, first: int, b: Split, second: int) -> None:
    """The library's item i of seed s is drawn by the state s + i."""
    if (a, first) != (b, second):
        assert abs(seed_of(a, first) - seed_of(b, second)) >= BLOCK


def test_the_ranges_end_where_they_say() -> None:
    assert seed_of("train", 32_767) + BLOCK == seed_of("eval", 0)
    assert seed_of("eval", 16_383) + BLOCK == seed_of("hard", 0)
    assert seed_of("hard", 16_383) + BLOCK == 2**32
    for split, seed in (("train", 32_768), ("eval", 16_384), ("hard", -1)):
        with pytest.raises(ValueError, match=f"seed={seed}"):
            seed_of(split, seed)


def test_the_library_draws_items_as_is_assumed() -> None:
    """Neighbouring seeds of the library itself hold the same items, shifted; ours do not."""
    import reasoning_gym

    a, b = (reasoning_gym.create_dataset("chain_sum", seed=seed, size=5) for seed in (7, 8))
    assert a[1]["question"] == b[0]["question"]
    task = Tasks(dataset="chain_sum", size=300, config={"min_digits": 5, "max_digits": 9})
    places: list[tuple[Split, int]] = [("train", 0), ("eval", 0), ("eval", 1)]
    sets = [{entry.question for entry in generate([task], split, seed)[0]} for split, seed in places]
    assert len(set.union(*sets)) == 3 * 300


def test_items_are_the_same_in_every_process() -> None:
    """polynomial_multiplication walks over a set: drawn here, its items would depend on this process's hash seed."""
    code = (
        "from factory.reasoning import Tasks, generate\n"
        "print(generate([Tasks(dataset='polynomial_multiplication', size=5), Tasks(dataset='ab', size=2)], 'eval', 0))"
    )
    said = {
        subprocess.run([sys.executable, "-W", "ignore", "-c", code], capture_output=True, text=True, check=True,
                       env={**os.environ, "PYTHONPATH": str(ROOT), "PYTHONHASHSEED": seed}).stdout
        for seed in ("1", "2")
    }  # fmt: skip
    assert len(said) == 1


@pytest.mark.parametrize(
    ("text", "answer"),
    [
        ("so <answer>4</answer>", "4"),
        ("<answer>1</answer> no, <answer> 2\n</answer>.", "2"),
        ("<answer>cut off", "cut off"),
        ("the answer is 4", None),
        ("", None),
        ("<answer></answer>", ""),
    ],
)
def test_the_final_answer(text: str, answer: str | None) -> None:
    assert final_answer(text) == answer


def test_what_is_wrong_with_tasks_is_told() -> None:
    wrong = [Tasks(dataset="chain_sums"), Tasks(dataset="composite"), Tasks(dataset="gcd", config={"numbers": 3}),
             Tasks(dataset="lcm", config={"seed": 3}), Tasks(dataset="ab"), Tasks(dataset="ab")]  # fmt: skip
    told = "\n".join(check_tasks(wrong, "eval", 0, "suite.tasks"))
    for part in (
        "chain_sums: no such data set; did you mean chain_sum?",
        "composite",
        "[2].config",
        "[3].config: seed",
        "ab is named twice",
    ):
        assert part in told
    assert check_tasks([], "eval", 0, "x") and check_tasks([Tasks(dataset="ab")], "eval", 20_000, "x")
    assert check_tasks([Tasks(dataset="ab")], "eval", 0, "x") == []


# ---- scoring


def scored(task: Tasks, answers: list[str], seconds: float = 10) -> list[tuple[float, str]]:
    async def all_of_them() -> list[tuple[float, str]]:
        async with Scorer(seconds) as scorer:
            return [await scorer.score(task, "eval", 0, 0, answer) for answer in answers]

    return asyncio.run(all_of_them())


def test_the_librarys_own_score_partial_credit_included() -> None:
    task = Tasks(dataset="chain_sum")
    entry = {"answer": generate([task], "eval", 0)[0][0].answer}
    right, padded, wrong, nothing = scored(task, [entry["answer"], f"it is {entry['answer']}", "-1", ""])
    assert right == (1.0, "")
    assert padded[0] == opened(task, "eval", 0).score_answer(f"it is {entry['answer']}", entry) < 1
    assert wrong[0] < 1 and nothing[0] == 0


def test_every_data_set_that_evaluates_answers_is_known() -> None:
    """Its scorer (or a function of its module that the scorer may call with the answer) holds eval or sympy's parser."""
    from reasoning_gym.factory import DATASETS

    found = set()
    for name, (cls, _) in DATASETS.items():
        source = inspect.getsource(cls.score_answer)
        handed = re.findall(r"(?<![\w.])eval\((?!entry)|parse_expr\(|sympify\(|parse_latex\(|(?<![\w.])exec\(", source)
        own = "def parse_expr" in Path(inspect.getfile(cls)).read_text()
        if handed and not own:
            found.add(name)
    assert found == set(EVALUATES)


ATTACKS = [
    "__import__('os').system('touch {mark}')",
    "[__import__('pathlib').Path('{mark}').touch()]",
    "exec(chr(105))",
    "open('{mark}', 'w')",
    "(lambda: 1)()",
    "[].__class__.__base__.__subclasses__()",
    "x.diff(x)",
    "x.n(9)",
    "9**9**999",
    "f'{open}'",
    "[x for x in (1).__class__.mro()]",
]


@pytest.mark.parametrize("dataset", EVALUATES)
def test_an_answer_that_would_be_run_never_reaches_the_library(dataset: str, tmp_path: Path) -> None:
    mark = tmp_path / "mark"
    answers = [attack.replace("{mark}", str(mark)) for attack in ATTACKS]
    kind = EVALUATES[dataset]
    for answer in answers:
        assert not harmless(dataset, answer) or (kind == "list" and "(" not in answer), answer
    assert all(score == 0 for score, _ in scored(Tasks(dataset=dataset, size=1), answers))
    assert not mark.exists()


def test_right_answers_are_plain_enough() -> None:
    made = generate([Tasks(dataset=dataset, size=20) for dataset in EVALUATES], "eval", 0)
    for dataset, entries in zip(EVALUATES, made, strict=True):
        refused = [str(entry.answer) for entry in entries if not harmless(dataset, str(entry.answer))]
        # An integral that sympy left standing is no answer to be given.
        assert [answer for answer in refused if "Integral(" not in answer] == [], dataset


@pytest.mark.parametrize("dataset", ["countdown", "n_queens", "simple_integration", "polynomial_multiplication"])
def test_the_process_scores_as_the_library_does(dataset: str) -> None:
    task = Tasks(dataset=dataset, size=1)
    assert scored(task, [str(generate([task], "eval", 0)[0][0].answer)]) == [(1.0, "")]


@given(st.text(max_size=30))
def test_whatever_an_evaluated_answer_is_it_calls_nothing(text: str) -> None:
    """A list holds no parenthesis at all; a formula calls functions of mathematics only and reaches no attribute."""
    if harmless("n_queens", text):
        assert not set("(){}=;:") & set(text)
    if harmless("countdown", text):
        assert not set("[]{}=;:'\"_\\") & set(re.sub(r"\w", "", text))
        assert "__" not in text or all(len(name) == 1 for name in re.findall(r"[^\W\d]\w*", text))


def test_an_answer_on_which_the_library_does_not_end_costs_its_process_only() -> None:
    """A tower of powers that the guard lets through, in a process with a second to live; then one that is well."""
    task = Tasks(dataset="countdown", size=1)
    tower = "9"
    for _ in range(9):
        tower = f"({tower})**99"
    right = str(generate([task], "eval", 0)[0][0].answer)
    (first, why), (second, _) = scored(task, [tower, right], seconds=1.0)
    assert first == 0 and ("no end within" in why or "ended over it" in why or "scorer" in why)
    assert second == 1.0
