"""A training that is killed or stopped goes on, and comes to what it would have come to."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.training.runs import losses, manifest, metrics, steps_of, train, trained, weights, work_for
from tests.training.tiny import settings_for
from training.errors import TrainingError
from training.launch import STOPPED
from training.phases import write_config
from training.settings import TrainSettings
from training.work import newest_checkpoint

ROOT = Path(__file__).parent.parent.parent
STEPS = 12


def start(stage: str, tiny: Path, folder: Path, **changes: Any) -> tuple[subprocess.Popen[str], Path]:
    settings = TrainSettings.model_validate(settings_for(stage, tiny, folder, **changes))
    Path(settings.out).mkdir(parents=True, exist_ok=True)
    words = [sys.executable, "-m", "training", str(write_config(settings, 0))]
    one = {**os.environ, "OMP_NUM_THREADS": "1"}
    return subprocess.Popen(words, cwd=ROOT, env=one, stderr=subprocess.PIPE, text=True), Path(settings.out)


def wait_for_step(process: subprocess.Popen[str], out: Path, step: int) -> None:
    until = time.monotonic() + 120
    while process.poll() is None and time.monotonic() < until:
        if (out / "metrics.jsonl").exists() and (out / "metrics.jsonl").read_text().count("\n") >= step:
            return
        time.sleep(0.005)


def same(out: Path, whole: Path) -> None:
    """Curve, weights and what was held out; the curve has each step once."""
    assert [entry["step"] for entry in steps_of(out)] == list(range(1, STEPS + 1))
    assert losses(out) == pytest.approx(losses(whole), abs=1e-5)
    for one, other in zip(steps_of(out), steps_of(whole), strict=True):
        assert one["learning_rate"] == other["learning_rate"]
        assert one["tokens"] == other["tokens"]
    expected = weights(whole / "model")
    for name, value in weights(out / "model").items():
        torch.testing.assert_close(value, expected[name], atol=1e-5, rtol=1e-4)
    assert manifest(out)["held_out"] == pytest.approx(manifest(whole)["held_out"], abs=1e-4)


SAID: dict[str, Any] = {"steps": STEPS, "save": {"every": 2}, "eval": {"share": 0.2}}


@pytest.mark.parametrize(("stage", "seed"), [("sft", 0), ("sft", 1), ("dpo", 2)])
def test_a_killed_training_comes_to_the_same_end(stage: str, seed: int, tiny: Path, tmp_path: Path) -> None:
    whole = trained(stage, tiny, tmp_path / "whole", **SAID)
    at = random.Random(seed).randint(3, STEPS - 2)
    process, out = start(stage, tiny, tmp_path / "killed", **SAID)
    wait_for_step(process, out, at)
    process.kill()
    assert process.wait() == -signal.SIGKILL
    reached = metrics(out)[-1]["step"] if (out / "metrics.jsonl").read_text().endswith("\n") else at
    assert at <= reached < STEPS
    assert not (out / "manifest.json").exists()
    says: list[str] = []
    assert train(work_for(stage, tiny, tmp_path / "killed", **SAID), says.append)
    assert any("going on from" in said for said in says)
    same(out, whole)


def stopped_after(step: int) -> Any:
    """What `say` does to stop a training in this process after `step`: the line of a step comes once it is done."""

    def say(text: str) -> None:
        if text.startswith(f"step {step} "):
            os.kill(os.getpid(), signal.SIGTERM)

    return say


@pytest.mark.parametrize(
    "change", [{"lora": {"enabled": True, "dropout": 0.1}}, {"stage": {"teacher": {"path": "TINY"}}}]
)
def test_adapters_and_distillation_go_on_too(change: dict[str, Any], tiny: Path, tmp_path: Path) -> None:
    if "stage" in change:
        change = {"stage": {"teacher": {"path": str(tiny)}}}
    said: dict[str, Any] = {**SAID, **change}
    whole = trained("sft", tiny, tmp_path / "whole", **said)
    assert not train(work_for("sft", tiny, tmp_path / "cut", **said), stopped_after(1))
    assert train(work_for("sft", tiny, tmp_path / "cut", **said))
    same(tmp_path / "cut" / "out", whole)


@pytest.mark.parametrize("stage", ["rpo", "reward"])
def test_stopped_stages_go_on_with_other_micro_batches(stage: str, tiny: Path, tmp_path: Path) -> None:
    whole = trained(stage, tiny, tmp_path / "whole", **SAID)
    assert not train(work_for(stage, tiny, tmp_path / "cut", **SAID), stopped_after(1))
    assert train(work_for(stage, tiny, tmp_path / "cut", **SAID, micro_tokens=150))
    same(tmp_path / "cut" / "out", whole)


def test_a_checkpoint_that_was_cut_off_is_passed_over_and_removed(tiny: Path, tmp_path: Path) -> None:
    whole = trained("sft", tiny, tmp_path / "whole", **SAID)
    work = work_for("sft", tiny, tmp_path / "cut", **SAID)
    assert not train(work, stopped_after(1))
    checkpoints = work.out / "checkpoints"
    good = newest_checkpoint(checkpoints)
    assert good is not None
    for name in ("checkpoint-8", "checkpoint-10"):  # cut off by a kill, at two moments
        (checkpoints / name).mkdir()
    (checkpoints / "checkpoint-10" / "model.safetensors").write_bytes(b"half")
    assert newest_checkpoint(checkpoints) == good
    assert [path.name for path in checkpoints.iterdir()] == [good.name]
    (checkpoints / "checkpoint-8").mkdir()
    assert train(work_for("sft", tiny, tmp_path / "cut", **SAID))
    same(work.out, whole)


def test_a_checkpoint_of_another_strategy_is_refused(tiny: Path, tmp_path: Path) -> None:
    """Its optimiser lies in another form; Trainer would begin with a fresh one and say nothing."""
    work = work_for("sft", tiny, tmp_path, **SAID)
    assert not train(work, stopped_after(1))
    mark = work.out / "checkpoints" / "checkpoint-2" / "whole.json"
    mark.write_text(mark.read_text().replace("ddp", "fsdp2"))
    with pytest.raises(TrainingError, match=r"launch\.strategy=ddp: .*checkpoint-2 was written with fsdp2"):
        train(work_for("sft", tiny, tmp_path, **SAID))


def test_a_line_of_metrics_that_was_cut_off_is_taken_out(tiny: Path, tmp_path: Path) -> None:
    work = work_for("sft", tiny, tmp_path, **SAID)
    assert not train(work, stopped_after(1))
    with (work.out / "metrics.jsonl").open("a") as file:
        file.write('{"step": 3, "loss": 1.0}\n{"step": 4, "lo')
    assert train(work_for("sft", tiny, tmp_path, **SAID))
    assert [entry["step"] for entry in steps_of(work.out)] == list(range(1, STEPS + 1))
    assert steps_of(work.out)[2]["loss"] != 1.0


def test_the_newest_whole_checkpoints_are_kept_and_none_after_the_end(
    tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[set[str]] = []
    from training import watch

    forget = watch.Watch._forget_old

    def look(self: Any, folder: Path) -> None:
        seen.append({path.parent.name for path in folder.glob("*/whole.json")})  # a kill here leaves these
        forget(self, folder)
        seen.append({path.name for path in folder.iterdir()})

    monkeypatch.setattr(watch.Watch, "_forget_old", look)
    out = trained("sft", tiny, tmp_path, steps=7, save={"every": 2, "keep": 1})
    assert seen == [
        {"checkpoint-2"}, {"checkpoint-2"}, {"checkpoint-2", "checkpoint-4"}, {"checkpoint-4"},
        {"checkpoint-4", "checkpoint-6"}, {"checkpoint-6"},
    ]  # fmt: skip
    assert not (out / "checkpoints").exists()


def test_a_signal_leaves_a_checkpoint_and_says_so(tiny: Path, tmp_path: Path) -> None:
    said: dict[str, Any] = {"steps": 400}
    process, out = start("sft", tiny, tmp_path, **said)
    wait_for_step(process, out, 3)
    process.terminate()
    _, error = process.communicate(timeout=60)
    assert process.returncode == STOPPED
    assert "a checkpoint is kept" in error
    assert "Traceback" not in error
    checkpoint = newest_checkpoint(out / "checkpoints")
    assert checkpoint is not None
    assert checkpoint.name == f"checkpoint-{steps_of(out)[-1]['step']}"
    assert not (out / "model").exists()


def test_a_signal_in_the_last_step_is_too_late_to_stop(tiny: Path, tmp_path: Path) -> None:
    work = work_for("sft", tiny, tmp_path, steps=2)
    assert train(work, stopped_after(1))
    assert manifest(work.out)["steps"] == 2


def test_minutes_stop_a_training_that_the_same_command_goes_on_with(tiny: Path, tmp_path: Path) -> None:
    from training.__main__ import main

    whole = trained("sft", tiny, tmp_path / "whole", **SAID)
    short = TrainSettings.model_validate(settings_for("sft", tiny, tmp_path / "cut", **SAID, minutes=1e-4))
    out = Path(short.out)
    out.mkdir(parents=True, exist_ok=True)
    turns = 0
    while (status := main([str(write_config(short, 0))])) == STOPPED:
        turns += 1
        assert newest_checkpoint(out / "checkpoints") is not None
        assert turns < STEPS
    assert status == 0
    assert turns > 1
    same(out, whole)


def test_time_asks_for_checkpoints_too(tiny: Path, tmp_path: Path) -> None:
    work = work_for("sft", tiny, tmp_path, steps=4, save={"minutes": 1e-6, "keep": 9})
    seen: list[int] = []

    def say(text: str) -> None:
        seen.append(len(list(work.out.glob("checkpoints/*/whole.json"))))

    assert train(work, say)
    assert max(seen) >= 3
