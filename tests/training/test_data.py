"""What is refused before a model is loaded, which tokens are scored, what is held out, what is kept on disk."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest

from tests.training.runs import documents, train, work_for
from tests.training.tiny import CHATML, make_tokenizer, pair_rows, ranking_rows, sft_rows, turn, write_rows
from training.errors import TrainingError
from training.settings import ModelSource
from training.template import PREFERENCE, SCORED, Template
from training.work import Work

ATTRIBUTES = {"helpfulness": 0.65, "correctness": 0.8}


@pytest.fixture(autouse=True)
def _no_model_is_loaded(monkeypatch: pytest.MonkeyPatch) -> None:
    def load(*args: Any, **kwargs: Any) -> None:
        raise AssertionError("a model is loaded before the data are checked")

    monkeypatch.setattr("transformers.PreTrainedModel.from_pretrained", load)


def problems(stage: str, model: Path, folder: Path, /, **changes: Any) -> str:
    with pytest.raises(TrainingError) as caught:
        work_for(stage, model, folder, **changes)
    return str(caught.value)


def changed(rows: Sequence[Mapping[str, Any]], place: int, **columns: Any) -> list[Mapping[str, Any]]:
    return [{**row, **columns} if at == place else row for at, row in enumerate(rows)]


def graded_rows(count: int = 12) -> list[dict[str, Any]]:
    return [
        {
            "id": f"g{n}",
            "prompt": [turn("user", f"What is {n} plus 1?")],
            "responses": [[turn("assistant", f"It is {n + 1}.")], [turn("assistant", f"No idea, {n}.")]],
            "attributes": [{"helpfulness": 4.0, "correctness": 4.0}, {"helpfulness": float(n % 3), "correctness": 0.0}],
        }
        for n in range(count)
    ]


# ---- refusals: file, row, remedy

BAD_ROWS: dict[str, tuple[str, list[Mapping[str, Any]], tuple[str, ...]]] = {
    "an answer is empty": (
        "sft",
        changed(sft_rows(5), 3, messages=[turn("user", "a"), turn("assistant", " ")]),
        ("row 3", "messages[1]: the answer is empty", "take the row out or fill it"),
    ),
    "the question comes last": (
        "sft",
        changed(sft_rows(5), 1, messages=[turn("user", "a")]),
        ("row 1", "the last turn must be the assistant's"),
    ),
    "messages are missing": ("sft", changed(sft_rows(5), 4, messages=None), ("row 4", "prompt: is empty")),
    "a message is none": ("sft", changed(sft_rows(5), 2, messages=["hello"]), ("row 2", "messages[0]: is no message")),
    "the chosen answer is empty": (
        "dpo",
        changed(pair_rows(5), 2, chosen=[turn("assistant", "")]),
        ("row 2", "chosen[0]: the answer is empty"),
    ),
    "the chosen answer is the user's": (
        "dpo",
        changed(pair_rows(5), 2, chosen=[turn("user", "Well?")]),
        ("row 2", "the last turn of every answer must be the assistant's"),
    ),
    "the rejected answer is missing": ("dpo", changed(pair_rows(5), 0, rejected=None), ("row 0", "rejected: is empty")),
    "a reward is missing": (
        "rpo",
        changed(pair_rows(5), 3, rejected_reward=None),
        ("row 3", "rejected_reward: is missing", "factory export fills them"),
    ),
    "a reward is a word": (
        "rpo",
        changed(pair_rows(5), 3, chosen_reward="high"),
        ("row 3", "chosen_reward: is 'high'"),
    ),
    "a reward is true": ("rpo", changed(pair_rows(5), 3, chosen_reward=True), ("row 3", "chosen_reward: is True")),
    "rewards are fewer than answers": (
        "rpo",
        changed(ranking_rows(5), 2, rewards=[1.0]),
        ("row 2", "rewards: one number for each of the"),
    ),
    "a ranking has one answer": (
        "reward",
        changed(ranking_rows(5), 1, responses=[[turn("assistant", "a")]], rewards=[1.0]),
        ("row 1", "two answers to a prompt are needed"),
    ),
    "answers are a text": (
        "reward",
        changed(ranking_rows(5), 1, responses="one and two", rewards=[1.0] * 11),
        ("row 1", "responses: is no list"),
    ),
    "grades are a number": (
        "reward",
        changed(graded_rows(5), 4, attributes=[1.0, 2.0]),
        ("row 4", "attributes[0]: is no mapping"),
    ),
    "nothing is graded": (
        "reward",
        changed(graded_rows(5), 4, attributes=[{}, {}]),
        ("row 4", "none of helpfulness, correctness is graded"),
    ),
}


@pytest.mark.parametrize("case", BAD_ROWS)
def test_a_bad_row_is_told_with_file_and_row_and_remedy(case: str, tiny: Path, tmp_path: Path) -> None:
    stage, rows, expected = BAD_ROWS[case]
    file = write_rows(tmp_path / "bad.jsonl", rows)
    more = {"stage": {"attributes": ATTRIBUTES}} if stage == "reward" else {}
    said = problems(stage, tiny, tmp_path, data=str(file), **more)
    for part in (str(file), *expected):
        assert part in said


def test_many_bad_rows_are_told_at_once_and_counted(tiny: Path, tmp_path: Path) -> None:
    rows = [{**row, "chosen_reward": None} for row in pair_rows(30)]
    said = problems("rpo", tiny, tmp_path, data=str(write_rows(tmp_path / "bad.jsonl", rows)))
    assert said.count("chosen_reward: is missing") == 8
    assert "and 22 more rows like these" in said


@pytest.mark.parametrize(
    ("stage", "lacking", "remedy"),
    [
        ("sft", "messages", "factory export format=sft"),
        ("dpo", "rejected", "format=preference"),
        ("rpo", "rejected_reward", "rewards included"),
        ("reward", "rejected", "format=reward"),
    ],
)
@pytest.mark.parametrize("kind", ["jsonl", "parquet"])
def test_missing_columns_are_named(
    stage: str, lacking: str, remedy: str, kind: str, tiny: Path, tmp_path: Path
) -> None:
    rows = [{name: value for name, value in row.items() if name != lacking} for row in pair_rows(3)]
    rows = [{**row, "prompt": "What?"} for row in rows] if stage != "sft" else [{"text": "a"}]
    file = tmp_path / f"rows.{kind}"
    if kind == "jsonl":
        write_rows(file, rows)
    else:
        import pyarrow as pa
        import pyarrow.parquet as pq

        pq.write_table(pa.Table.from_pylist(rows), file)
    said = problems(stage, tiny, tmp_path, data=str(file))
    assert f"{file}: has no column {lacking}" in said
    assert remedy in said


def test_a_prompt_longer_than_the_limit_is_refused_whatever_is_done_with_long_answers(
    tiny: Path, tmp_path: Path
) -> None:
    rows = changed(sft_rows(4), 2, messages=[turn("user", "Why? " * 80), turn("assistant", "So.")])
    file = write_rows(tmp_path / "long.jsonl", rows)
    for too_long in ("drop", "cut", "refuse"):
        said = problems("sft", tiny, tmp_path, data=str(file), max_length=64, too_long=too_long)
        assert f"{file}, row 2: its prompt has" in said
        assert "max_length is 64: raise it, or take the row out" in said


TEMPLATES = {
    "has no chat template": None,
    "has no generation prompt": CHATML.replace("add_generation_prompt", "false"),
    "does not end an answer": "{% for m in messages %}<|im_start|>{{ m['role'] }}\n{{ m['content'] }}\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}",
    "takes no such conversation": CHATML + "{{ raise_exception('never') }}",
}


@pytest.mark.parametrize("problem", TEMPLATES)
def test_a_template_that_cannot_be_trained_with_is_refused(problem: str, tmp_path: Path) -> None:
    make_tokenizer(tmp_path / "model", TEMPLATES[problem])
    said = problems("sft", tmp_path / "model", tmp_path)
    assert "model=tiny: its" in said or "model=tiny: the" in said
    assert problem in said
    assert "chat." in said


def test_a_tokenizer_without_an_end_token_is_refused(tmp_path: Path) -> None:
    make_tokenizer(tmp_path / "model", eos_token=None, pad_token=None)
    said = problems("sft", tmp_path / "model", tmp_path)
    assert "has no end token" in said
    assert "chat.end_token=TOKEN" in said
    named = {"name": "tiny", "path": str(tmp_path / "model"), "end_token": "<|im_end|>"}
    assert len(work_for("sft", tmp_path / "model", tmp_path, model=named).data) == 48
    named["end_token"] = "<|nothing|>"
    assert "the vocabulary of tiny has no such token" in problems("sft", tmp_path, tmp_path, model=named)


def test_a_row_that_the_template_refuses_is_told_like_any_other(tmp_path: Path) -> None:
    template = "{% if messages[0]['role'] == 'system' %}{{ raise_exception('System role not supported') }}{% endif %}"
    make_tokenizer(tmp_path / "model", template + CHATML)
    rows = changed(sft_rows(4), 1, messages=[turn("system", "Be brief."), turn("user", "a"), turn("assistant", "b")])
    said = problems("sft", tmp_path / "model", tmp_path, data=str(write_rows(tmp_path / "rows.jsonl", rows)))
    assert "row 1" in said
    assert "System role not supported" in said


def test_files_that_cannot_be_read_are_named(tiny: Path, tmp_path: Path) -> None:
    broken = tmp_path / "broken.parquet"
    broken.write_bytes(b"PAR1 and no more")
    assert f"{broken}: is no Parquet file that can be read" in problems("sft", tiny, tmp_path, data=str(broken))
    lines = tmp_path / "lines.jsonl"
    lines.write_text(json.dumps(sft_rows(1)[0]) + '\n\n{"messages": [\n')
    said = problems("sft", tiny, tmp_path, data=str(lines))
    assert f"{lines}, line 3: is not JSON" in said
    assert "one object a line is read" in said
    lines.write_text("[1, 2]\n")
    assert "line 1: is no JSON object" in problems("sft", tiny, tmp_path, data=str(lines))
    lines.write_text("")
    assert "there is nothing" in problems("sft", tiny, tmp_path, data=str(lines))


def test_a_parquet_file_cut_off_is_named(tiny: Path, tmp_path: Path) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    file = tmp_path / "rows.parquet"
    pq.write_table(pa.Table.from_pylist(sft_rows(200)), file, compression="none")
    whole = bytearray(file.read_bytes())
    whole[40:2000] = b"\xff" * 1960  # the pages, not the footer
    file.write_bytes(whole)
    assert f"{file}: cannot be read" in problems("sft", tiny, tmp_path, data=str(file))


def test_folders_that_hold_no_rows_are_told_with_what_to_do(tiny: Path, tmp_path: Path) -> None:
    said = problems("sft", tiny, tmp_path, data=str(tmp_path / "nowhere"))
    assert "no such file or folder; make one with generate and export" in said
    run = tmp_path / "run"
    (run / "data").mkdir(parents=True)
    (run / "journal.db").touch()
    said = problems("sft", tiny, tmp_path, data=str(run))
    assert "holds no .parquet or .jsonl files" in said
    assert f"its conversations are in {run}/data" in said
    assert "factory export" in said


def test_nothing_that_is_left_is_told_with_the_counts(tiny: Path, tmp_path: Path) -> None:
    rows = [{"messages": [turn("user", "Why?"), turn("assistant", "So. " * 60)]}] * 4
    said = problems("sft", tiny, tmp_path, data=str(write_rows(tmp_path / "rows.jsonl", rows)), max_length=32)
    assert "no example is left of 4 rows: 4 longer than max_length" in said
    assert "leaves no prompt to train on" in problems("sft", tiny, tmp_path, eval={"share": 0.999999})


def test_two_kinds_of_rewards_are_not_mixed(tiny: Path, tmp_path: Path) -> None:
    pairs = write_rows(tmp_path / "pairs.jsonl", pair_rows(6))
    grades = write_rows(tmp_path / "grades.jsonl", graded_rows(6))
    work = work_for("reward", tiny, tmp_path, data=[str(pairs), str(grades)], stage={"attributes": ATTRIBUTES})
    with pytest.raises(TrainingError, match="pairs and rankings .*attributes|numbers an answer"):
        train(work)


# ---- which tokens are scored


def spelt(work_template: Template, ids: Sequence[int], mask: Sequence[int], bit: int) -> str:
    tokens = work_template.tokenizer
    return "".join(tokens.decode([token]) if bits & bit else "·" for token, bits in zip(ids, mask, strict=True))


CONVERSATION = [
    turn("system", "Be brief."),
    turn("user", "One?"),
    turn("assistant", "1."),
    turn("user", "Two?"),
    turn("assistant", "2."),
]


def test_the_mask_of_a_conversation_token_by_token(tiny: Path) -> None:
    template = Template(ModelSource(name="tiny", path=str(tiny)))
    ids, mask = template.encode([(CONVERSATION, 0)])[0]
    text = template.tokenizer.decode(ids)
    assert text == (
        "<|im_start|>system\nBe brief.<|im_end|>\n<|im_start|>user\nOne?<|im_end|>\n<|im_start|>assistant\n1.<|im_end|>\n"
        "<|im_start|>user\nTwo?<|im_end|>\n<|im_start|>assistant\n2.<|im_end|>"
    )
    scored = spelt(template, ids, mask, SCORED)
    assert scored.strip("·").replace("·", "") == "1.<|im_end|>2.<|im_end|>"
    assert [run for run in scored.split("·") if run] == ["1.<|im_end|>", "2.<|im_end|>"]
    preferred = spelt(template, ids, mask, PREFERENCE)
    assert [run for run in preferred.split("·") if run] == ["1.", "2."]
    ids_last, mask_last = template.encode([(CONVERSATION, 4)])[0]
    assert ids_last == ids
    assert [run for run in spelt(template, ids, mask_last, SCORED).split("·") if run] == ["2.<|im_end|>"]


def scored_texts(work: Work) -> list[str]:
    return [
        spelt(work.template, **document, bit=SCORED).replace("·", "") for row in documents(work) for document in row
    ]


@pytest.mark.parametrize(("turns", "expected"), [("all", "1.<|im_end|>2.<|im_end|>"), ("last", "2.<|im_end|>")])
def test_all_turns_or_the_last_are_learnt(turns: str, expected: str, tiny: Path, tmp_path: Path) -> None:
    file = write_rows(tmp_path / "rows.jsonl", [{"messages": CONVERSATION}])
    assert scored_texts(work_for("sft", tiny, tmp_path, data=str(file), stage={"turns": turns})) == [expected]


def test_a_prompt_with_earlier_answers_is_not_learnt(tiny: Path, tmp_path: Path) -> None:
    row = {"prompt": CONVERSATION[:4], "completion": [CONVERSATION[4]], "chosen": "2.", "rejected": "3."}
    file = write_rows(tmp_path / "rows.jsonl", [row])
    assert scored_texts(work_for("sft", tiny, tmp_path, data=str(file))) == ["2.<|im_end|>"]
    assert scored_texts(work_for("dpo", tiny, tmp_path, data=str(file))) == ["2.<|im_end|>", "3.<|im_end|>"]


def test_pairs_stay_pairs_where_other_answers_lie_beside_them(tiny: Path, tmp_path: Path) -> None:
    rows = [{**row, "responses": [["a"], ["b"], ["c"]], "rewards": [1, 2, 3]} for row in pair_rows(3)]
    work = work_for("dpo", tiny, tmp_path, data=str(write_rows(tmp_path / "rows.jsonl", rows)))
    assert [len(row) for row in documents(work)] == [2, 2, 2]


# ---- what is too long, equal or without a preference


def test_long_rows_are_dropped_cut_or_refused(tiny: Path, tmp_path: Path) -> None:
    rows = changed(sft_rows(4), 2, messages=[turn("user", "Why?"), turn("assistant", "So. " * 60)])
    file = str(write_rows(tmp_path / "rows.jsonl", rows))
    said: dict[str, Any] = {"data": file, "max_length": 64}
    dropped = work_for("sft", tiny, tmp_path, **said)
    assert dropped.prepared[0].dropped == {"longer than max_length": 1}
    assert len(dropped.data) == 3
    cut = work_for("sft", tiny, tmp_path, **said, too_long="cut")
    assert len(cut.data) == 4
    assert max(len(row[0]["ids"]) for row in documents(cut)) == 64
    assert cut.scored.tolist() == [sum(bits & SCORED for bits in row[0]["mask"]) for row in documents(cut)]
    text = problems("sft", tiny, tmp_path, **said, too_long="refuse")
    assert "row 2: has" in text
    assert "max_length is 64: raise it, or say too_long=drop" in text


def test_rows_that_teach_nothing_are_left_out_and_counted(tiny: Path, tmp_path: Path) -> None:
    same = changed(pair_rows(4), 1, chosen="Yes.", rejected="Yes.")
    work = work_for("dpo", tiny, tmp_path, data=str(write_rows(tmp_path / "rows.jsonl", same)))
    assert work.prepared[0].dropped == {"with equal answers": 1}
    even = changed(ranking_rows(4), 1, rewards=[1.0] * len(ranking_rows(4)[1]["responses"]))
    work = work_for("reward", tiny, tmp_path, data=str(write_rows(tmp_path / "even.jsonl", even)))
    assert work.prepared[0].dropped == {"without a preference": 1}


def test_equal_grades_are_grades(tiny: Path, tmp_path: Path) -> None:
    """A regression learns from an answer whose attributes are all 4, and from one answer alone."""
    all_four = [{"helpfulness": 4.0, "correctness": 4.0}]
    rows = [{**row, "responses": row["responses"][:1], "attributes": all_four} for row in graded_rows(4)]
    file = write_rows(tmp_path / "rows.jsonl", rows)
    work = work_for("reward", tiny, tmp_path, data=str(file), stage={"attributes": ATTRIBUTES})
    assert work.prepared[0].dropped == {}
    assert [row["rewards"] for row in work.data] == [[4.0, 4.0]] * 4


# ---- what is held out


@pytest.mark.parametrize("share", [0.1, 0.5])
def test_a_prompt_is_never_on_both_sides(share: float, tiny: Path, tmp_path: Path) -> None:
    rows = [{**row, "id": f"{row['id']}-{copy}"} for copy in range(3) for row in pair_rows(40)]
    data = str(write_rows(tmp_path / "rows.jsonl", rows))
    work = work_for("dpo", tiny, tmp_path, data=data, eval={"share": share})
    prompts = [name.rpartition("-")[0] for name in work.data["where"]]
    held = {prompts[place] for place in work.held}
    learnt = {prompts[place] for step in range(work.plan.steps) for place in work.plan.examples(step)}
    assert not held & learnt
    assert held | learnt == set(prompts)
    assert abs(len(held) / 40 - share) < 0.2
    again = work_for("sft", tiny, tmp_path / "sft", data=str(write_rows(tmp_path / "sft.jsonl", [
        {"id": row["id"], "prompt": row["prompt"], "completion": row["chosen"]} for row in rows])), eval={"share": share})  # fmt: skip
    assert {again.data["where"][int(place)].rpartition("-")[0] for place in again.held} == held  # in every stage


def test_held_out_data_of_its_own_takes_its_prompts_out_of_the_training(tiny: Path, tmp_path: Path) -> None:
    own = write_rows(tmp_path / "own.jsonl", sft_rows(5))
    work = work_for("sft", tiny, tmp_path, eval={"path": str(own)})
    taken = {work.data["where"][int(place)] for step in range(work.plan.steps) for place in work.plan.examples(step)}
    assert taken == {f"s{n}" for n in range(5, 48)}
    assert sorted(work.held_data["where"]) == [f"s{n}" for n in range(5)]
    assert "every prompt of the training data is in it" in problems(
        "sft", tiny, tmp_path, eval={"path": str(write_rows(tmp_path / "all.jsonl", sft_rows()))}
    )


# ---- what is kept on disk


def without_tokenizer(monkeypatch: pytest.MonkeyPatch) -> None:
    def encode(*args: Any, **kwargs: Any) -> None:
        raise AssertionError("rows are tokenised again")

    monkeypatch.setattr("training.data.Reader._encode", encode)


def test_tokenised_rows_are_read_again_until_something_changes(
    tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = graded_rows()
    file = write_rows(tmp_path / "rows.jsonl", rows)
    said: dict[str, Any] = {"data": str(file), "stage": {"attributes": ATTRIBUTES}}
    first = work_for("reward", tiny, tmp_path, **said)
    with monkeypatch.context() as patch:
        without_tokenizer(patch)
        again = work_for("reward", tiny, tmp_path, **said, seed=3, batch=4)
        assert again.data[:] == first.data[:]
        swapped = {"data": str(file), "stage": {"attributes": dict(reversed(ATTRIBUTES.items()))}}
        changes = ({"max_length": 100}, {"too_long": "refuse"}, swapped)
        for change in changes:
            with pytest.raises(AssertionError, match="tokenised again"):
                work_for("reward", tiny, tmp_path, **{**said, **change})
        write_rows(file, changed(rows, 0, prompt="Another?"))
        with pytest.raises(AssertionError, match="tokenised again"):
            work_for("reward", tiny, tmp_path, **said)
    assert work_for("reward", tiny, tmp_path, **said).digest != first.digest


def test_a_refused_data_set_leaves_nothing_to_be_taken_for_whole(tiny: Path, tmp_path: Path) -> None:
    rows = changed(sft_rows(5), 4, messages=None)
    file = write_rows(tmp_path / "rows.jsonl", rows)
    problems("sft", tiny, tmp_path, data=str(file))
    assert list((tmp_path / "out" / "prepared").iterdir()) == []
    assert "row 4" in problems("sft", tiny, tmp_path, data=str(file))


def test_rows_take_the_first_so_many(tiny: Path, tmp_path: Path) -> None:
    file = write_rows(tmp_path / "many.jsonl", sft_rows(48) * 50)
    work = work_for("sft", tiny, tmp_path, data=[{"path": str(file), "rows": 1100}])
    assert len(work.data) == 1100
    assert work.prepared[0].rows == 1100


def test_parquet_and_json_lines_give_the_same_examples(tiny: Path, tmp_path: Path) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    (tmp_path / "parquet").mkdir()
    for number in range(2):
        half = ranking_rows(24)[12 * number : 12 * (number + 1)]
        pq.write_table(pa.Table.from_pylist(half), tmp_path / "parquet" / f"{number}.parquet")
    lines = work_for("rpo", tiny, tmp_path, data=str(write_rows(tmp_path / "rows.jsonl", ranking_rows(24))))
    parquet = work_for("rpo", tiny, tmp_path, data=str(tmp_path / "parquet"))
    assert parquet.data[:] == lines.data[:]


def test_a_manifest_beside_the_rows_is_no_data(tmp_path: Path) -> None:
    """What `export` leaves in a folder is trained on as it is."""
    from training.rows import data_files
    from training.settings import Source

    (tmp_path / "rows.jsonl").write_text("{}\n")
    (tmp_path / "manifest.json").write_text('{\n "rows": 1\n}\n')
    assert [file.name for file in data_files(Source(path=str(tmp_path)))] == ["rows.jsonl"]
