"""The numbered traps of the specification (shared algorithms, "Traps"), each by its number.

Trap 13 (SLERP of orthogonal task vectors keeps their norm) is `test_merge.py`'s.
"""

from __future__ import annotations

import math
import os
import signal
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from pydantic import ValidationError

from tests.training import test_merge
from tests.training import tiny as tiny_module
from tests.training.runs import (
    causal,
    documents,
    manifest,
    plain_logps,
    steps_of,
    train,
    trained,
    trainer_of,
    work_for,
)  # fmt: skip
from tests.training.test_data import ATTRIBUTES, changed, graded_rows
from tests.training.tiny import (
    CHATML,
    make_model,
    make_tokenizer,
    pair_rows,
    ranking_rows,
    sft_rows,
    turn,
    write_rows,
)  # fmt: skip
from training.batches import Steps
from training.errors import Diverged, TrainingError
from training.settings import Nll
from training.template import PREFERENCE, SCORED

SHORT: dict[str, Any] = {"steps": 1, "batch": 4}


def first_step(out: Path) -> dict[str, Any]:
    return steps_of(out)[0]


def test_1_a_reference_is_never_taken_for_another_models_datas_or_masks(tiny: Path, tmp_path: Path) -> None:
    """All in one folder; a stale reference would move the first step's margins away from 0."""
    cached = tmp_path / "out" / "reference"
    rows = changed(pair_rows(), 0, chosen="Yes.")
    mine = make_model(tmp_path / "mine", seed=1)
    unknown = {"name": "mine", "path": str(mine)}  # no digest: what lies in the folder counts

    def margin(**changes: Any) -> float:
        value: float = first_step(trained("dpo", tiny, tmp_path, **SHORT, **changes))["margin"]
        (tmp_path / "out" / "metrics.jsonl").unlink()
        return value

    assert margin() == pytest.approx(0, abs=1e-5)
    known = {file.name: file.stat().st_mtime_ns for file in cached.iterdir()}
    assert margin() == pytest.approx(0, abs=1e-5)
    assert {file.name: file.stat().st_mtime_ns for file in cached.iterdir()} == known  # computed once
    changes: list[dict[str, Any]] = [
        {"model": unknown},
        {"data": str(write_rows(tmp_path / "other.jsonl", rows))},
        {"stage": {"mask_end": False}},
        {"precision": "bf16"},
    ]
    for number, change in enumerate(changes, 2):
        assert margin(**change) == pytest.approx(0, abs=1e-5), change
        assert len(list(cached.iterdir())) == number, change
    make_model(mine, seed=2)
    assert margin(model=unknown) == pytest.approx(0, abs=1e-5)


@pytest.mark.parametrize("stage", ["dpo", "rpo"])
@pytest.mark.parametrize("lora", [False, True])
def test_2_margins_are_0_before_the_first_step(stage: str, lora: bool, tiny: Path, tmp_path: Path) -> None:
    out = trained(stage, tiny, tmp_path, **SHORT, lora={"enabled": lora, "dropout": 0.1 * lora})
    found = first_step(out)
    for name in ("margin", "chosen_reward", "rejected_reward"):
        assert found[name] == pytest.approx(0, abs=1e-5), name
    assert found["accuracy"] == pytest.approx(0.5, abs=0.5)
    if stage == "dpo":
        assert found["preference_loss"] == pytest.approx(math.log(2), abs=1e-6)


def stop_after_first_step(text: str) -> None:
    if text.startswith("step 1 "):
        os.kill(os.getpid(), signal.SIGTERM)


def test_3_on_resume_the_reference_is_what_training_began_with(tiny: Path, tmp_path: Path) -> None:
    whole = trained("dpo", tiny, tmp_path / "whole", steps=5)
    work = work_for("dpo", tiny, tmp_path / "cut", steps=5)
    assert not train(work, stop_after_first_step)
    assert [path.name for path in (work.out / "checkpoints").iterdir()] == ["checkpoint-2"]
    for file in (work.out / "reference").iterdir():
        file.unlink()  # so that it must be computed again, with a checkpoint there
    assert train(work_for("dpo", tiny, tmp_path / "cut", steps=5))
    assert [entry["step"] for entry in steps_of(work.out)] == [1, 2, 3, 4, 5]
    for one, other in zip(steps_of(whole), steps_of(work.out), strict=True):
        for name in ("loss", "margin", "chosen_reward"):
            assert one[name] == pytest.approx(other[name], abs=1e-5)
    assert steps_of(work.out)[2]["margin"] > 0.01  # a reference from the checkpoint would make it 0


def test_4_there_is_one_begin_of_text(tmp_path: Path) -> None:
    from tokenizers.processors import TemplateProcessing

    begin = "<|endoftext|>"
    tokenizer = make_tokenizer(tmp_path / "model", "{{ bos_token }}" + CHATML, bos_token=begin)
    bos = tokenizer.bos_token_id
    tokenizer.backend_tokenizer.post_processor = TemplateProcessing(single=f"{begin} $A", special_tokens=[(begin, bos)])
    tokenizer.save_pretrained(tmp_path / "model")
    assert tokenizer("a")["input_ids"][0] == bos  # the tokenizer writes one, too
    for stage in ("sft", "dpo", "reward"):
        work = work_for(stage, tmp_path / "model", tmp_path)
        for row in documents(work):
            for document in row:
                assert document["ids"][0] == bos
                assert document["ids"].count(bos) == 1
    make_tokenizer(tmp_path / "two", "{{ bos_token }}{{ bos_token }}" + CHATML, bos_token=begin)
    with pytest.raises(TrainingError, match="begins with two begin-of-text tokens"):
        work_for("sft", tmp_path / "two", tmp_path)


def test_5_a_pair_that_would_lose_an_end_of_turn_is_dropped_and_counted(tiny: Path, tmp_path: Path) -> None:
    rows = changed(changed(pair_rows(12), 3, rejected="No. " * 60), 7, chosen="Yes. " * 60)
    said: dict[str, Any] = {"data": str(write_rows(tmp_path / "rows.jsonl", rows)), "max_length": 64}
    work = work_for("dpo", tiny, tmp_path, **said)
    assert work.prepared[0].dropped == {"longer than max_length": 2}
    assert list(work.data["where"]) == [f"p{n}" for n in range(12) if n not in (3, 7)]
    end = work.template.tokenizer.eos_token_id
    for row in documents(work):
        for document in row:
            assert document["ids"][-1] == end
            assert document["mask"][-1] == SCORED
    with pytest.raises(ValidationError, match="too_long=cut would take an answer's end away"):
        work_for("dpo", tiny, tmp_path, **said, too_long="cut")


def test_6_every_document_has_something_to_score(tiny: Path, tmp_path: Path) -> None:
    file = write_rows(tmp_path / "rows.jsonl", changed(pair_rows(4), 1, chosen=[turn("assistant", "\n")]))
    with pytest.raises(TrainingError, match="row 1: chosen.*the answer is empty"):
        work_for("dpo", tiny, tmp_path, data=str(file))
    for stage in ("sft", "dpo", "rpo"):
        work = work_for(stage, tiny, tmp_path)
        for row in documents(work):
            assert all(sum(bits & PREFERENCE for bits in document["mask"]) for document in row)
        assert (work.scored > 0).all()
    # Cut to where one token of the answer is left; one less, and it is refused.
    rows = [{"messages": [turn("user", "Why?"), turn("assistant", "So. " * 20)]}] * 4
    data = str(write_rows(tmp_path / "long.jsonl", rows))
    prompt = next(
        place for place, bits in enumerate(documents(work_for("sft", tiny, tmp_path, data=data))[0][0]["mask"]) if bits
    )
    assert work_for("sft", tiny, tmp_path, data=data, max_length=prompt + 1, too_long="cut").scored.tolist() == [1] * 4
    with pytest.raises(TrainingError, match=f"its prompt has {prompt} tokens"):
        work_for("sft", tiny, tmp_path, data=data, max_length=prompt, too_long="cut")


def test_7_the_end_of_a_turn_is_learnt_but_is_no_preference(
    tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    work = work_for("dpo", tiny, tmp_path)
    end = work.template.tokenizer.eos_token_id
    for row in documents(work):
        for document in row:
            scored = [token for token, bits in zip(document["ids"], document["mask"], strict=True) if bits & SCORED]
            preferred = [
                token for token, bits in zip(document["ids"], document["mask"], strict=True) if bits & PREFERENCE
            ]
            assert scored == [*preferred, end]
    model, docs = causal(tiny), documents(work)
    chosen = [docs[place][0] for place in work.plan.examples(0)]
    out = trained("dpo", tiny, tmp_path, steps=1)
    whole = [plain_logps(model, **document, bit=SCORED).mean().item() for document in chosen]
    without = [plain_logps(model, **document, bit=PREFERENCE).sum().item() for document in chosen]
    assert first_step(out)["nll"] == pytest.approx(-np.mean(whole), abs=1e-4)
    assert first_step(out)["chosen_logp"] == pytest.approx(np.mean(without), abs=1e-3)


def test_8_the_prompt_is_a_prefix_where_a_merge_would_cross_the_border(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tiny_module, "TEXTS", [*tiny_module.TEXTS, *["a\n\n\nb"] * 200])
    make_tokenizer(tmp_path / "model")
    rows = [{"messages": [turn("user", "Why?"), turn("assistant", "\n\nBecause.")]}]
    work = work_for("sft", tmp_path / "model", tmp_path, data=str(write_rows(tmp_path / "rows.jsonl", rows)))
    template, messages = work.template, rows[0]["messages"]
    asked = template.tokenizer(template.render(messages[:1], ask=True))["input_ids"]
    at_once = template.tokenizer(template.render(messages, ask=False))["input_ids"]
    assert at_once[: len(asked)] != asked  # the newlines are one token
    document = documents(work)[0][0]
    assert document["ids"][: len(asked)] == asked
    assert [bits > 0 for bits in document["mask"]] == [False] * len(asked) + [True] * (
        len(document["ids"]) - len(asked)
    )
    assert template.tokenizer.decode(document["ids"]) == template.render(messages, ask=False).rstrip("\n")


def test_8_a_template_that_writes_the_prompt_anew_is_refused(tmp_path: Path) -> None:
    hides = CHATML.replace("message['content']", "(message['content'] if loop.last else message['content'][:2])")
    make_tokenizer(tmp_path / "model", hides)
    rows = [
        {"messages": [turn("user", "Why?"), turn("assistant", "So."), turn("user", "Oh?"), turn("assistant", "Yes.")]}
    ]
    with pytest.raises(TrainingError, match="writes earlier turns differently once others follow"):
        work_for("sft", tmp_path / "model", tmp_path, data=str(write_rows(tmp_path / "rows.jsonl", rows)))


def test_9_what_the_likelihoods_weight_weighs_is_named(tiny: Path, tmp_path: Path) -> None:
    with pytest.raises(ValidationError, match="per"):
        Nll.model_validate({"weight": 0.2})
    row = [pair_rows(1)[0]]
    said: dict[str, Any] = {"data": str(write_rows(tmp_path / "rows.jsonl", row)), "steps": 1}
    found = {}
    for per in ("token", "sequence"):
        out = trained("dpo", tiny, tmp_path / per, **said, stage={"nll": {"weight": 0.5, "per": per}})
        found[per] = first_step(out)
        assert found[per]["loss"] == pytest.approx(math.log(2) + 0.5 * found[per]["nll"], rel=1e-5)
    work = work_for("dpo", tiny, tmp_path, **said)
    tokens = sum(bits & SCORED for bits in documents(work)[0][0]["mask"])
    assert found["sequence"]["nll"] == pytest.approx(found["token"]["nll"] * tokens, rel=1e-5)


TERMS: dict[str, tuple[str, Any, dict[str, Any]]] = {
    "sft": ("sft", sft_rows, {}),
    "sft with a teacher": ("sft", sft_rows, {"teacher": {"weight": 0.7, "temperature": 2.0}}),
    "dpo": ("dpo", pair_rows, {"nll": {"weight": 0.0, "per": "token"}}),
    "dpo with nll per token": ("dpo", pair_rows, {"nll": {"weight": 0.5, "per": "token"}}),
    "dpo with nll per sequence, smoothed": (
        "dpo", pair_rows, {"nll": {"weight": 0.1, "per": "sequence"}, "label_smoothing": 0.1}
    ),
    "rpo bwd": ("rpo", pair_rows, {"distance": "bwd"}),
    "rpo fwd": ("rpo", pair_rows, {"distance": "fwd"}),
    "rpo sq": ("rpo", pair_rows, {"distance": "sq", "nll": {"weight": 0.1, "per": "token"}}),
    "rpo of rankings": ("rpo", ranking_rows, {}),
    "rpo sq of rankings": ("rpo", ranking_rows, {"distance": "sq"}),
    "reward of pairs": ("reward", pair_rows, {}),
    "reward of rankings, centred": ("reward", ranking_rows, {"center": 0.1}),
    "reward of attributes": ("reward", graded_rows, {"attributes": ATTRIBUTES}),
}  # fmt: skip


def gradient_of(trainer: Any, steps: Steps) -> tuple[torch.Tensor, float, dict[str, float], int]:
    """(gradient of a whole step, its loss, the sums it logs, in how many micro-batches)."""
    trainer.set_steps(steps, [], steps.data["lengths"])
    trainer.model.zero_grad()
    share = steps[0]
    loss = trainer.training_step(trainer.model, share)
    sums = trainer.tally.take(trainer.accelerator)
    gradients = [p.grad.flatten() for p in trainer.model.parameters() if p.grad is not None]
    return torch.cat(gradients).clone(), loss.item(), sums, len(share["micro"])


@pytest.mark.parametrize("case", TERMS)
def test_10_four_micro_batches_are_one_batch(
    case: str, tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stage, rows, said = TERMS[case]
    if "teacher" in said:
        said = {"teacher": {**said["teacher"], "path": str(make_model(tmp_path / "teacher", seed=5))}}
    data = str(write_rows(tmp_path / "rows.jsonl", rows(12)))
    work = work_for(stage, tiny, tmp_path, data=data, stage=said, batch=12, micro_tokens=16)
    trainer, told = trainer_of(work, monkeypatch)
    assert told["capacity"] == work.longest  # no smaller than the longest example
    if stage in ("dpo", "rpo"):  # at the start all margins are 0: move away from there
        with torch.no_grad():
            for parameter in trainer.model.parameters():
                parameter += 0.02 * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(1))
    found = [
        gradient_of(trainer, Steps(
            work.data, work.plan, work.scored, rank=0, processes=1, capacity=capacity, filler=0,
            reference=told.get("reference")))
        for capacity in (10**6, int(work.plan.tokens.sum() / 3.5))
    ]  # fmt: skip
    assert found[0][3] == 1
    assert found[1][3] >= 4
    assert found[0][0].abs().max() > 1e-4
    torch.testing.assert_close(found[1][0], found[0][0], atol=2e-6, rtol=1e-4)
    assert found[1][1] == pytest.approx(found[0][1], rel=1e-5)
    assert found[1][2] == pytest.approx(found[0][2], rel=1e-4, abs=1e-5)  # term by term


def test_11_the_correlation_of_margin_and_length_is_logged(tiny: Path, tmp_path: Path) -> None:
    rows = [{**row, "rejected": "No." + " Never." * (n * 5 % 9)} for n, row in enumerate(pair_rows(60))]
    said: dict[str, Any] = {"data": str(write_rows(tmp_path / "rows.jsonl", rows)), "eval": {"share": 0.3}}
    out = trained("dpo", tiny, tmp_path, **said, optimizer={"lr": 3e-3})
    work = work_for("dpo", tiny, tmp_path, **said)
    before, after, docs = causal(tiny), causal(out / "model"), documents(work)
    margins, longer = [], []
    for place in work.held:
        ratios = [
            (plain_logps(after, **document, bit=PREFERENCE) - plain_logps(before, **document, bit=PREFERENCE))
            .sum()
            .item()
            for document in docs[int(place)]
        ]
        tokens = [sum(bits & SCORED for bits in document["mask"]) for document in docs[int(place)]]
        margins.append(0.1 * (ratios[0] - ratios[1]))
        longer.append(tokens[0] - tokens[1])
    held = manifest(out)["held_out"]
    assert held["eval_margin"] == pytest.approx(np.mean(margins), abs=1e-3)
    assert held["eval_length_correlation"] == pytest.approx(np.corrcoef(margins, longer)[0, 1], abs=1e-2)
    assert all("length_correlation" in entry for entry in steps_of(out)[1:])


def test_12_missing_rewards_fail_loudly(tiny: Path, tmp_path: Path) -> None:
    for stage, rows, said in (
        ("rpo", changed(pair_rows(4), 2, chosen_reward=None), "row 2: chosen_reward: is missing"),
        (
            "rpo",
            changed(ranking_rows(4), 2, rewards=[1.0, None, 0.0, 0.0][: len(ranking_rows(4)[2]["rewards"])]),
            "row 2: rewards",
        ),
        ("reward", changed(ranking_rows(4), 1, rewards=None), "row 1: ranks"),
    ):
        file = write_rows(tmp_path / "rows.jsonl", rows)
        with pytest.raises(TrainingError, match=said):
            work_for(stage, tiny, tmp_path, data=str(file))
    # NaN, as Parquet can hold it
    import pyarrow as pa
    import pyarrow.parquet as pq

    pq.write_table(pa.Table.from_pylist(changed(pair_rows(4), 1, chosen_reward=math.nan)), tmp_path / "rows.parquet")
    with pytest.raises(TrainingError, match="row 1: chosen_reward: is nan, no finite number"):
        work_for("rpo", tiny, tmp_path, data=str(tmp_path / "rows.parquet"))


def test_13_is_among_the_tests_of_merging() -> None:
    assert any("orthogonal" in name for name in vars(test_merge))


@pytest.mark.parametrize("stage", ["sft", "dpo", "reward"])
@pytest.mark.parametrize("log_every", [1, 4])
def test_14_a_lost_model_stops_the_run_with_step_and_rows(
    stage: str, log_every: int, tiny: Path, tmp_path: Path
) -> None:
    work = work_for(stage, tiny, tmp_path, optimizer={"lr": 1e30, "schedule": "constant", "warmup": 0}, log_every=log_every,
                    save={"every": 1})  # fmt: skip
    with pytest.raises(Diverged, match=r"step [23]: the (loss|gradient's norm) is (nan|inf)\. Its rows: ") as caught:
        train(work)
    step = int(str(caught.value).split()[1].rstrip(":"))
    names = [work.data["where"][int(place)] for place in work.plan.examples(step - 1)]
    said = str(caught.value).partition("Its rows: ")[2].partition(". ")[0]
    assert set(said.split(", ")) == set(names)
    assert not (work.out / "model").exists()
    kept = [int(path.parent.name.rpartition("-")[2]) for path in work.out.glob("checkpoints/*/whole.json")]
    assert kept
    assert max(kept) < step  # of a lost model there is no checkpoint
    if log_every == 1:
        assert [math.isfinite(entry["loss"]) for entry in steps_of(work.out)] == [True] * (step - 1)


def test_14_a_model_that_is_lost_already_stops_at_once(tmp_path: Path) -> None:
    from safetensors.torch import load_file, save_file

    model = make_model(tmp_path / "model")
    weights = load_file(model / "model.safetensors")
    next(value for name, value in weights.items() if "mlp" in name)[0, 0] = math.nan
    save_file(weights, model / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(Diverged, match=r"step 1: the loss is nan\. Its rows: s\d+"):
        trained("sft", model, tmp_path)
