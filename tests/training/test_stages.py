"""Each stage learns, writes a model that transformers reads as the trainer does, and knows when it is done."""

from __future__ import annotations

import json
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from torch.nn.functional import logsigmoid
from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification, AutoTokenizer

from tests.training import tiny as tiny_module
from tests.training.runs import (
    causal,
    documents,
    losses,
    manifest,
    metrics,
    plain_logps,
    quiet,
    steps_of,
    trained,
    trainer_of,
    weights,
    work_for,
)  # fmt: skip
from tests.training.test_data import ATTRIBUTES, changed, graded_rows
from tests.training.tiny import CHATML, make_model, make_tokenizer, pair_rows, ranking_rows, turn, write_rows
from training.__main__ import main
from training.batches import micro_batch, numeric
from training.errors import TrainingError
from training.launch import check
from training.phases import train as train_phases
from training.phases import write_config
from training.settings import TrainSettings
from training.template import SCORED
from training.trainer import token_logps
from training.work import claim


@pytest.fixture(scope="module")
def done(tiny: Path, tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """A training of each stage, two epochs, done once for all tests; a fifth of the prompts is held out."""
    folder, made = tmp_path_factory.mktemp("done"), {}

    def find(stage: str) -> Path:
        if stage not in made:
            more = {"stage": {"nll": {"weight": 0.2, "per": "token"}}} if stage == "rpo" else {}
            made[stage] = trained(stage, tiny, folder / stage, epochs=2, eval={"share": 0.2, "every": 4}, **more)
        return made[stage]

    return find


# ---- learning


@pytest.mark.parametrize("stage", ["sft", "dpo", "rpo", "reward"])
def test_the_loss_falls(stage: str, done: Callable[[str], Path]) -> None:
    found = losses(done(stage))
    assert np.mean(found[-2:]) < 0.8 * found[0]


@pytest.mark.parametrize("stage", ["dpo", "rpo", "reward"])
def test_what_was_held_out_is_told_rightly(stage: str, done: Callable[[str], Path]) -> None:
    out = done(stage)
    assert manifest(out)["held_out"]["eval_accuracy"] > 0.9
    if stage != "reward":
        assert steps_of(out)[-1]["margin"] > steps_of(out)[1]["margin"] > steps_of(out)[0]["margin"] - 1e-6
        assert manifest(out)["held_out"]["eval_margin"] > 0.1


def test_rpo_brings_the_policys_gap_to_the_rewards_gap(tiny: Path, tmp_path: Path) -> None:
    """Where DPO would drive margins on and on."""
    said: dict[str, Any] = {"epochs": 8, "optimizer": {"lr": 5e-3, "schedule": "linear"}}
    out = trained("rpo", tiny, tmp_path, **said, stage={"distance": "sq", "nll": {"weight": 0, "per": "token"}})
    last = steps_of(out)[-1]
    assert last["preference_loss"] < 0.2 * steps_of(out)[0]["preference_loss"]
    assert last["margin"] == pytest.approx(last["reward_gap"], abs=0.3)


def test_rankings_are_learnt(tiny: Path, tmp_path: Path) -> None:
    answers = [[turn("assistant", text)] for text in ("Yes, sure.", "Maybe so.", "Well, no.", "What?")]
    rows = [{**row, "responses": answers[: len(row["rewards"])]} for row in ranking_rows(48)]
    data = str(write_rows(tmp_path / "rows.jsonl", rows))
    for stage in ("rpo", "reward"):
        out = trained(stage, tiny, tmp_path / stage, data=data, epochs=3)
        found = losses(out)
        assert np.mean(found[-3:]) < 0.9 * np.mean(found[:3]), stage
        assert steps_of(out)[-1]["accuracy"] > 0.8


def test_attributes_are_learnt(tiny: Path, tmp_path: Path) -> None:
    data = str(write_rows(tmp_path / "rows.jsonl", graded_rows(40)))
    out = trained("reward", tiny, tmp_path, data=data, epochs=6, eval={"share": 0.2}, stage={"attributes": ATTRIBUTES})
    said = manifest(out)
    assert said["objective"] == "regression"
    assert said["attributes"] == ATTRIBUTES
    assert losses(out)[-1] < 0.5 * losses(out)[0]
    assert said["held_out"]["eval_accuracy"] > 0.9
    config = json.loads((out / "model" / "config.json").read_text())
    assert config["id2label"] == {"0": "helpfulness", "1": "correctness"}
    assert "Reward = 0.65 helpfulness + 0.8 correctness" in (out / "model" / "README.md").read_text()


# ---- the saved model is the trainer's


def held_documents(stage: str, tiny: Path, folder: Path) -> tuple[Any, list[dict[str, Any]]]:
    work = work_for(stage, tiny, folder, epochs=2, eval={"share": 0.2})
    docs = documents(work)
    return work, [document for place in work.held for document in docs[int(place)]]


def test_a_saved_model_gives_the_trainers_log_probabilities(
    tiny: Path, tmp_path: Path, done: Callable[[str], Path]
) -> None:
    """The trainer has told the held-out likelihood of its own model; the saved one has the same."""
    for stage in ("sft", "dpo"):
        out = done(stage)
        _, held = held_documents(stage, tiny, tmp_path / stage)
        model = causal(out / "model")
        if stage == "sft":
            logps = torch.cat([plain_logps(model, **document, bit=SCORED) for document in held])
            expected = -logps.mean().item()
        else:
            expected = -np.mean([plain_logps(model, **document, bit=SCORED).mean() for document in held[::2]])
        assert manifest(out)["held_out"]["eval_nll"] == pytest.approx(expected, abs=1e-4)
        assert model.dtype == torch.float32
        tokenizer = AutoTokenizer.from_pretrained(out / "model")
        assert tokenizer.chat_template == CHATML
        assert model.generation_config.eos_token_id in (tokenizer.eos_token_id, [tokenizer.eos_token_id])


def plain_score(folder: Path, conversations: list[list[dict[str, str]]]) -> torch.Tensor:
    """What a user of transformers computes: the rendered template, tokenised at once, padded, one batch."""
    tokenizer = AutoTokenizer.from_pretrained(folder)
    model = AutoModelForSequenceClassification.from_pretrained(folder).eval()
    texts = [tokenizer.apply_chat_template(conversation, tokenize=False) for conversation in conversations]
    batch = tokenizer(texts, add_special_tokens=False, padding=True, return_tensors="pt")
    with torch.no_grad():
        found: torch.Tensor = model(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"]).logits
    return found


def held_pairs(work: Any, rows: list[dict[str, Any]]) -> list[list[dict[str, str]]]:
    chosen = {work.data["where"][int(place)] for place in work.held}
    mine = [row for row in rows if row["id"] in chosen]
    return [[*row["prompt"], *row[name]] for row in mine for name in ("chosen", "rejected")]


TEMPLATES = {
    "ends with a newline": CHATML,
    "ends with the token that pads": CHATML.replace("'<|im_end|>\n' }}", "'<|im_end|>' }}"),
}


@pytest.mark.parametrize("template", TEMPLATES)
@pytest.mark.parametrize("lora", [False, True])
def test_a_reward_models_score_is_what_plain_transformers_reads(
    template: str, lora: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Newlines that are one token, across the border of prompt and answer, too.
    monkeypatch.setattr(tiny_module, "TEXTS", [*tiny_module.TEXTS, *["a\n\n\nb"] * 200])
    model = make_model(tmp_path / "model")
    make_tokenizer(model, TEMPLATES[template])
    rows = pair_rows(40)
    rows = [
        {**row, "chosen": [turn("assistant", "\n\n" * (n % 2) + row["chosen"][0]["content"])]}
        for n, row in enumerate(rows)
    ]
    said: dict[str, Any] = {"data": str(write_rows(tmp_path / "rows.jsonl", rows)), "eval": {"share": 0.3}}
    out = trained("reward", model, tmp_path, **said, lora={"enabled": lora})
    work = work_for("reward", model, tmp_path, **said)
    scores = plain_score(out / "model", held_pairs(work, rows)).view(-1, 2).double()
    held = manifest(out)["held_out"]
    assert held["eval_loss"] == pytest.approx(-logsigmoid(scores[:, 0] - scores[:, 1]).mean().item(), abs=1e-5)
    assert held["eval_reward_mean"] == pytest.approx(scores.mean().item(), abs=1e-5)
    assert held["eval_reward_std"] == pytest.approx(scores.std(correction=0).item(), abs=1e-4)
    assert scores.std() > 0.01
    assert weights(out / "model")["score.weight"].dtype == torch.float32


# ---- adapters


@pytest.mark.parametrize("stage", ["sft", "dpo", "reward"])
def test_merged_adapters_are_the_base_with_its_adapters(stage: str, tiny: Path, tmp_path: Path) -> None:
    from peft import PeftModel

    out = trained(stage, tiny, tmp_path, lora={"enabled": True, "rank": 4}, optimizer={"lr": 3e-2}, eval={"share": 0.2})
    assert losses(out)[-1] < losses(out)[0]
    ids = torch.tensor([[5, 9, 30, 77, 2, 140]])
    if stage == "reward":
        base = AutoModelForSequenceClassification.from_pretrained(tiny, num_labels=1)
        merged = AutoModelForSequenceClassification.from_pretrained(out / "model").eval()
    else:
        base, merged = causal(tiny), causal(out / "model")
    with torch.no_grad():
        plain = base.eval()(ids).logits
        adapted = PeftModel.from_pretrained(base, out / "adapter").eval()(ids).logits
        found = merged(ids).logits
    torch.testing.assert_close(found, adapted, atol=1e-4, rtol=1e-4)
    assert (found - plain).abs().max() > 1e-3
    start, end = weights(tiny), weights(out / "model")
    assert torch.equal(start["model.embed_tokens.weight"], end["model.embed_tokens.weight"])  # frozen


def test_a_share_of_the_steps_in_full_then_adapters(
    tiny: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from tests.training.tiny import settings_for

    said = settings_for("sft", tiny, tmp_path, lora={"enabled": True, "after": 0.5})
    settings = TrainSettings.model_validate(said)
    assert train_phases(settings, quiet) == 0
    out = Path(settings.out)
    full, adapters = out / "phases" / "full", out / "phases" / "adapters"
    assert [entry["step"] for entry in steps_of(full)] == [1, 2, 3]
    assert [entry["step"] for entry in steps_of(adapters)] == [1, 2, 3]
    assert not (full / "adapter").exists()
    assert (adapters / "adapter" / "adapter_config.json").exists()
    start, middle, end = weights(tiny), weights(full / "model"), weights(out / "model")
    frozen = "model.embed_tokens.weight"
    assert not torch.equal(start[frozen], middle[frozen])
    assert torch.equal(middle[frozen], end[frozen])
    # Between them they take the plan's steps: none twice, none left out.
    first = work_for("sft", tiny, tmp_path / "again")
    shown = steps_of(full)[-1]["epoch"], steps_of(adapters)[-1]["epoch"]
    assert shown == (pytest.approx(first.plan.epoch(3), abs=1e-3), pytest.approx(1.0))
    capsys.readouterr()
    assert train_phases(settings, quiet) == 0
    assert capsys.readouterr().err.count("is there already") == 2


def test_phases_go_on_from_each_others_model(tiny: Path, tmp_path: Path) -> None:
    from tests.training.tiny import settings_for, sft_rows

    code = str(write_rows(tmp_path / "code.jsonl", sft_rows(16)))
    general = str(write_rows(tmp_path / "general.jsonl", sft_rows(48)[16:]))
    mixture = [{"path": general, "weight": 0.75}, {"path": code, "weight": 0.25}]
    phases = [
        {"name": "code", "data": [{"path": code}], "lr": 1e-3, "batch": 4},
        {"name": "general", "data": mixture, "steps": 2},
    ]
    settings = TrainSettings.model_validate(settings_for("sft", tiny, tmp_path, phases=phases))
    assert train_phases(settings, quiet) == 0
    out = Path(settings.out)
    one, two = out / "phases" / "code", out / "phases" / "general"
    assert manifest(one)["steps"] == 4
    assert manifest(two)["model"]["path"] == str(one / "model")
    assert [entry["weight"] for entry in manifest(two)["data"]] == [0.75, 0.25]
    assert manifest(out)["phases"][0]["settings"]["optimizer"]["lr"] == 1e-3
    assert all(torch.equal(value, weights(out / "model")[name]) for name, value in weights(two / "model").items())


# ---- a teacher


def gradient(trainer: Any, work: Any, places: np.ndarray) -> torch.Tensor:
    batch = micro_batch(numeric(work.data), places, 0)
    trainer.set_steps(None, [], work.data["where"])
    trainer.model.zero_grad()
    trainer.step_loss(trainer.model, batch, {"examples": len(places), "scored": len(batch["scored"])}).backward()
    return torch.cat([p.grad.flatten() for p in trainer.model.parameters() if p.grad is not None]).clone()


def test_a_teacher_that_is_the_student_has_nothing_to_say(tiny: Path, tmp_path: Path) -> None:
    out = trained("sft", tiny, tmp_path, stage={"teacher": {"path": str(tiny), "weight": 0.5}})
    first, last = steps_of(out)[0], steps_of(out)[-1]
    assert first["teacher_kl"] == pytest.approx(0, abs=1e-6)
    assert first["loss"] == pytest.approx(0.5 * first["nll"], rel=1e-5)
    assert last["teacher_kl"] > 1e-3  # the text has moved the student away


@pytest.mark.parametrize("temperature", [1.0, 2.0])
def test_the_gradient_leads_to_the_teacher(
    temperature: float, tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Against KL(teacher || student), written out over the logits of plain forward passes."""
    teacher = make_model(tmp_path / "teacher", seed=5)
    said = {"teacher": {"path": str(teacher), "weight": 1.0, "temperature": temperature}}
    work = work_for("sft", tiny, tmp_path, stage=said)
    trainer, _ = trainer_of(work, monkeypatch)
    places = np.array([1, 4])
    found = gradient(trainer, work, places)
    student, known, docs = causal(tiny), causal(teacher), documents(work)
    total, count = torch.zeros(()), 0
    for place in places:
        ids = torch.tensor([docs[place][0]["ids"]])
        scored = torch.tensor(docs[place][0]["mask"][1:]) > 0
        with torch.no_grad():
            target = (known(ids).logits[0, :-1][scored] / temperature).log_softmax(-1)
        guess = (student(ids).logits[0, :-1][scored] / temperature).log_softmax(-1)
        total = total + (target.exp() * (target - guess)).sum()
        count += int(scored.sum())
    (total / count).backward()
    expected = torch.cat([p.grad.flatten() for p in student.parameters() if p.grad is not None])
    torch.testing.assert_close(found, expected, atol=1e-6, rtol=1e-3)


def test_the_student_comes_to_the_teacher(tiny: Path, tmp_path: Path) -> None:
    teacher = make_model(tmp_path / "teacher", seed=5)
    said = {"teacher": {"path": str(teacher), "weight": 1.0}}
    found = [entry["teacher_kl"] for entry in steps_of(trained("sft", tiny, tmp_path, stage=said, epochs=6))]
    assert found[0] > 0.01
    assert found[-1] < 0.7 * found[0]


def test_a_teacher_with_another_vocabulary_is_refused(tiny: Path, tmp_path: Path) -> None:
    other = make_model(tmp_path / "teacher")
    make_tokenizer(other, unk_token="<|none|>")
    with pytest.raises(TrainingError, match=r"stage\.teacher\.path=.*vocabulary"):
        trained("sft", tiny, tmp_path, stage={"teacher": {"path": str(other)}})


# ---- precision


def test_weights_are_float32_where_products_are_bfloat16(
    tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Steps far smaller than bfloat16's spacing move them."""
    small = {"lr": 1e-5, "schedule": "constant", "warmup": 0}
    exact = trained("sft", tiny, tmp_path / "fp32", precision="fp32", optimizer=small)
    half = trained("sft", tiny, tmp_path / "bf16", precision="bf16", optimizer=small)
    assert losses(half) == pytest.approx(losses(exact), abs=0.02)
    assert losses(half) != losses(exact)
    name = "model.layers.0.mlp.up_proj.weight"
    before, after = weights(tiny)[name], weights(half / "model")[name]
    assert after.dtype == torch.float32
    moved = (after - before).abs()
    assert (moved > 0).float().mean() > 0.9
    assert moved.max() < 2e-4
    trainer, _ = trainer_of(work_for("sft", tiny, tmp_path / "pure", precision="pure_bf16"), monkeypatch)
    assert {p.dtype for p in trainer.model.parameters()} == {torch.bfloat16}


# ---- what is written


def test_metrics_say_what_a_reader_needs(tiny: Path, tmp_path: Path, done: Callable[[str], Path]) -> None:
    out = done("dpo")
    work, _ = held_documents("dpo", tiny, tmp_path)
    steps = steps_of(out)
    assert [entry["step"] for entry in steps] == list(range(1, len(steps) + 1))
    for entry in steps:
        for name in ("loss", "preference_loss", "nll", "grad_norm", "learning_rate", "accuracy", "margin", "epoch"):
            assert isinstance(entry[name], float), name
        assert entry["loss"] == pytest.approx(entry["preference_loss"] + 0.2 * entry["nll"], rel=1e-4)
        assert entry["tokens_per_second"] == pytest.approx(entry["tokens"] / entry["seconds"])
    taken = [work.plan.tokens[work.plan.examples(step)].sum() for step in range(work.plan.steps)]
    assert [entry["tokens"] for entry in steps] == taken
    assert all(one["time"] <= two["time"] for one, two in pairwise(steps))
    evaluated = [entry["step"] for entry in metrics(out) if "eval_loss" in entry]
    assert evaluated == [step for step in range(1, len(steps)) if step % 4 == 0] + [len(steps)]


def test_a_window_of_steps_is_their_mean(tiny: Path, tmp_path: Path) -> None:
    each = trained("sft", tiny, tmp_path / "each", steps=4)
    pairs = trained("sft", tiny, tmp_path / "pairs", steps=4, log_every=2)
    one = losses(each)
    assert losses(pairs) == pytest.approx([(one[0] + one[1]) / 2, (one[2] + one[3]) / 2], rel=1e-6)
    tokens = [entry["tokens"] for entry in steps_of(each)]
    assert [entry["tokens"] for entry in steps_of(pairs)] == [tokens[0] + tokens[1], tokens[2] + tokens[3]]


@pytest.mark.parametrize("stage", ["sft", "dpo", "rpo", "reward"])
def test_the_manifest_names_what_the_model_came_from(stage: str, done: Callable[[str], Path], tiny: Path) -> None:
    out = done(stage)
    said = manifest(out)
    assert said["stage"] == stage
    assert said["model"] == {"name": "tiny", "path": str(tiny), "digest": "tiny"}
    assert said["epochs"] == 2
    assert said["steps"] == len(steps_of(out))
    assert said["data"][0]["rows"] == said["data"][0]["examples"] == 48
    assert said["settings"]["optimizer"]["lr"] == 1e-2
    assert {"torch", "transformers", "trl"} <= set(said["versions"])
    card = (out / "model" / "README.md").read_text()
    assert said["data"][0]["digest"][:12] in card
    assert f"{said['held_out']['eval_loss']:.4g}" in card
    assert not (out / "checkpoints").exists()
    if stage == "reward":
        assert sum(entry["pairs"] for entry in said["calibration"]) > 0


def test_calibration_is_of_the_held_out_pairs(done: Callable[[str], Path], tiny: Path, tmp_path: Path) -> None:
    out = done("reward")
    work, _ = held_documents("reward", tiny, tmp_path)
    scores = plain_score(out / "model", held_pairs(work, pair_rows())).view(-1, 2)
    right = torch.sigmoid(scores[:, 0] - scores[:, 1])
    told = manifest(out)["calibration"]
    assert sum(entry["pairs"] for entry in told) == len(right) == len(work.held)
    confidence = torch.maximum(right, 1 - right).sum().item()
    assert sum(entry["pairs"] * entry["confidence"] for entry in told) == pytest.approx(confidence, abs=1e-4)
    assert sum(entry["pairs"] * entry["accuracy"] for entry in told) == pytest.approx((right > 0.5).sum().item())


def test_what_was_left_out_is_in_manifest_and_card(tiny: Path, tmp_path: Path) -> None:
    rows = changed(pair_rows(12), 3, rejected="No. " * 60)
    said: dict[str, Any] = {"data": str(write_rows(tmp_path / "rows.jsonl", rows)), "max_length": 64}
    out = trained("dpo", tiny, tmp_path, **said)
    entry = manifest(out)["data"][0]
    assert (entry["rows"], entry["examples"], entry["dropped"]) == (12, 11, {"longer than max_length": 1})
    assert entry["tokens"] == int(work_for("dpo", tiny, tmp_path, **said).plan.tokens.sum())
    assert "1 longer than max_length" in (out / "model" / "README.md").read_text()


# ---- the same again, and another in the same folder


def settings_in(folder: Path, tiny: Path, **changes: Any) -> TrainSettings:
    from tests.training.tiny import settings_for

    return TrainSettings.model_validate(settings_for("sft", tiny, folder, steps=2, **changes))


def run(settings: TrainSettings) -> int:
    Path(settings.out).mkdir(parents=True, exist_ok=True)
    return main([str(write_config(settings, 0))])


def test_the_same_settings_again_are_done_at_once(
    tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    settings = settings_in(tmp_path, tiny)
    assert run(settings) == 0
    before = (tmp_path / "out" / "model" / "model.safetensors").stat().st_mtime_ns
    monkeypatch.setattr("training.sft.load", lambda *args, **kwargs: pytest.fail("a model is loaded"))
    capsys.readouterr()
    again = settings_in(tmp_path, tiny, micro_tokens=64, log_every=2, save={"keep": 1})  # how, not what
    assert run(again) == 0
    assert "is there already" in capsys.readouterr().err
    assert (tmp_path / "out" / "model" / "model.safetensors").stat().st_mtime_ns == before


CHANGES: dict[str, dict[str, Any]] = {
    "optimizer.lr": {"optimizer": {"lr": 2e-2}},
    "seed": {"seed": 1},
    "stage.turns": {"stage": {"turns": "last"}},
    "model.digest": {"model": {"name": "tiny", "path": "PATH", "digest": "another"}},
    "eval.share": {"eval": {"share": 0.3}},
    "data.weights": {"data": [{"path": "ROWS", "weight": 0.5}]},
}


@pytest.mark.parametrize("key", CHANGES)
def test_another_training_in_the_same_folder_is_refused_with_the_key(
    key: str, tiny: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    claim(work_for("sft", tiny, tmp_path, steps=2))
    said = json.loads(json.dumps(CHANGES[key]).replace("PATH", str(tiny)).replace("ROWS", str(tmp_path / "rows.jsonl")))
    assert run(settings_in(tmp_path, tiny, **said)) == 2
    error = capsys.readouterr().err
    assert f"another {key}" in error or f", {key}" in error
    assert "run=NAME" in error
    assert "Traceback" not in error


def test_a_model_without_its_manifest_is_not_done(tiny: Path, tmp_path: Path) -> None:
    """A kill between the two: the manifest is written last."""
    assert run(settings_in(tmp_path, tiny)) == 0
    (tmp_path / "out" / "manifest.json").unlink()
    assert not claim(work_for("sft", tiny, tmp_path, steps=2))
    assert run(settings_in(tmp_path, tiny)) == 0
    assert manifest(tmp_path / "out")["steps"] == 2


@pytest.mark.parametrize("stage", ["sft", "dpo", "reward"])
def test_checkpointed_activations_change_nothing(stage: str, tiny: Path, tmp_path: Path) -> None:
    plain = trained(stage, tiny, tmp_path / "plain", steps=2)
    twice = trained(stage, tiny, tmp_path / "twice", steps=2, checkpointing=True)
    assert losses(twice) == pytest.approx(losses(plain), rel=1e-6)


def test_documents_attention_trains_as_sdpa_does(tiny: Path, tmp_path: Path) -> None:
    own = trained("sft", tiny, tmp_path / "own", steps=3)
    for name in ("sdpa", "eager"):
        other = trained("sft", tiny, tmp_path / name, steps=3, attention=name)
        assert losses(other) == pytest.approx(losses(own), abs=1e-5), name


def test_packing_leaves_no_trace_in_the_model(tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The trainer's model scores a packed row as the saved one does each document, after training, too."""
    out = trained("sft", tiny, tmp_path, steps=3)
    again = {"name": "tiny", "path": str(out / "model"), "digest": "again"}
    work = work_for("sft", tiny, tmp_path / "next", model=again)
    trainer, _ = trainer_of(work, monkeypatch)
    with torch.no_grad():
        logps = token_logps(trainer.model.eval(), micro_batch(numeric(work.data), np.arange(4), 0))
    model, docs = causal(out / "model"), documents(work)
    expected = torch.cat([plain_logps(model, **docs[place][0], bit=SCORED) for place in range(4)])
    torch.testing.assert_close(logps.double(), expected, atol=2e-5, rtol=1e-5)


def test_a_model_keeps_its_own_dtype_and_its_tied_weights_from_stage_to_stage(tiny: Path, tmp_path: Path) -> None:
    """A bfloat16 model is trained in float32 and saved as bfloat16, said so in its configuration, the head not twice."""
    start = tmp_path / "start"
    AutoModelForCausalLM.from_pretrained(tiny, dtype=torch.bfloat16).save_pretrained(start)
    AutoTokenizer.from_pretrained(tiny).save_pretrained(start)
    for name in ("first", "second"):
        out = trained("sft", start, tmp_path / name, steps=1)
        start = Path(out) / "model"
        tensors = load_file(start / "model.safetensors")
        assert "lm_head.weight" not in tensors
        assert {tensor.dtype for tensor in tensors.values()} == {torch.bfloat16}
        assert json.loads((start / "config.json").read_text())["dtype"] == "bfloat16"


def test_tensorboard_is_written_where_it_is_asked_for(
    tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = trained("sft", tiny, tmp_path, steps=2, report_to=["tensorboard"])
    events = list(out.rglob("events.out.tfevents.*"))
    assert events
    assert b"train/loss" in b"".join(file.read_bytes() for file in events)
    elsewhere = work_for("sft", tiny, tmp_path / "other", report_to=["wandb"]).settings
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    assert check(elsewhere) == ["report_to=wandb: is not installed: pip install wandb"]
