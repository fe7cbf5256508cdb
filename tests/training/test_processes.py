"""Two processes on the CPU (gloo) do what one does: the same losses, model and end; resumed by another number."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification

from tests.training.runs import losses, manifest, metrics, quiet, steps_of, train, trained, weights, work_for
from tests.training.test_data import ATTRIBUTES, graded_rows
from tests.training.tiny import ranking_rows, settings_for, write_rows
from training import launch
from training.errors import TrainingError
from training.phases import write_config
from training.settings import Launch, TrainSettings

ROOT = Path(__file__).parent.parent.parent
SAID: dict[str, Any] = {"steps": 4, "eval": {"share": 0.2, "every": 3}, "micro_tokens": 150}


@pytest.fixture(autouse=True)
def _here(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)  # where `python -m training` finds this package
    monkeypatch.setenv("OMP_NUM_THREADS", "1")


def config(stage: str, tiny: Path, folder: Path, /, **changes: Any) -> Path:
    settings = TrainSettings.model_validate(settings_for(stage, tiny, folder, **changes))
    Path(settings.out).mkdir(parents=True, exist_ok=True)
    return write_config(settings, 0)


def together(processes: int, *configs: Path) -> subprocess.CompletedProcess[str]:
    """Several trainings in the same processes, started as `launch.run` starts one."""
    words = launch.command(Launch(), processes, ["tests.training.several", *map(str, configs)])
    return subprocess.run(words, cwd=ROOT, capture_output=True, text=True, timeout=200, check=False)


CASES: dict[str, tuple[str, dict[str, Any]]] = {
    "sft": ("sft", {}),
    "adapters": ("sft", {"lora": {"enabled": True}}),
    "dpo": ("dpo", {}),
    "rpo of rankings": ("rpo", {"data": "RANKINGS", "batch": 3}),
    "reward": ("reward", {"stage": {"center": 0.1}}),
    "attributes": ("reward", {"data": "GRADES", "stage": {"attributes": ATTRIBUTES}}),
    # Fewer examples a step than processes: one of them has nothing to do.
    "one pair a step": ("dpo", {"batch": 1}),
    "one prompt a step": ("reward", {"batch": 1}),
}


def case(name: str, tiny: Path, folder: Path, **more: Any) -> tuple[str, dict[str, Any]]:
    stage, said = CASES[name]
    folder.mkdir(parents=True, exist_ok=True)
    rows = {"RANKINGS": ranking_rows, "GRADES": graded_rows}
    if said.get("data") in rows:
        said = {**said, "data": str(write_rows(folder / "own.jsonl", rows[said["data"]](24)))}
    return stage, {**SAID, **said, **more}


def compare(two: Path, one: Path) -> None:
    assert losses(two) == pytest.approx(losses(one), abs=1e-5)
    for mine, its in zip(metrics(two), metrics(one), strict=True):
        assert mine.keys() == its.keys()
        for key in its.keys() - {"seconds", "tokens_per_second", "time"}:
            assert mine[key] == pytest.approx(its[key], abs=2e-4, rel=1e-3), key
    assert manifest(two)["held_out"] == pytest.approx(manifest(one)["held_out"], abs=2e-4)
    expected = weights(one / "model")
    assert weights(two / "model").keys() == expected.keys()
    for key, value in weights(two / "model").items():
        torch.testing.assert_close(value, expected[key], atol=2e-4, rtol=1e-3, msg=key)


def test_two_processes_are_one(tiny: Path, tmp_path: Path) -> None:
    spread = {"cpu_processes": 2}
    configs = []
    for name in CASES:
        stage, said = case(name, tiny, tmp_path / "two" / name, launch=spread)
        configs.append(config(stage, tiny, tmp_path / "two" / name, **said))
    ended = together(2, *configs)
    assert ended.returncode == 0, ended.stderr[-3000:]
    for name in CASES:
        stage, said = case(name, tiny, tmp_path / "one" / name)
        trained(stage, tiny, tmp_path / "one" / name, **said)
        two, one = tmp_path / "two" / name / "out", tmp_path / "one" / name / "out"
        assert manifest(two)["processes"] == 2
        compare(two, one)


def test_two_processes_stop_in_good_order_and_one_goes_on(tiny: Path, tmp_path: Path) -> None:
    said: dict[str, Any] = {"steps": 9, "eval": {"share": 0.2}}
    whole = trained("dpo", tiny, tmp_path / "whole", **said)
    short = {**said, "minutes": 1e-4, "launch": {"cpu_processes": 2}}
    file = config("dpo", tiny, tmp_path / "cut", **short)
    says: list[str] = []
    settings = TrainSettings.model_validate(settings_for("dpo", tiny, tmp_path / "cut", **short))
    assert launch.run(settings, file, says.append) == launch.STOPPED
    assert any(text.startswith("runs  ") and "--nproc-per-node=2" in text for text in says)
    out = tmp_path / "cut" / "out"
    assert [entry["step"] for entry in steps_of(out)] == [1, 2, 3, 4, 5]
    assert train(work_for("dpo", tiny, tmp_path / "cut", **said), quiet)
    assert losses(out) == pytest.approx(losses(whole), abs=1e-5)
    expected = weights(whole / "model")
    for key, value in weights(out / "model").items():
        torch.testing.assert_close(value, expected[key], atol=2e-4, rtol=1e-3)
    assert launch.run(settings, file, says.append) == 0  # done: nothing is started
    assert says[-1].endswith("is there already")


def test_a_lost_model_ends_both_with_one_status_and_no_traceback(
    tiny: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    wild: dict[str, Any] = {
        "optimizer": {"lr": 1e30, "schedule": "constant", "warmup": 0},
        "launch": {"cpu_processes": 2},
    }
    file = config("sft", tiny, tmp_path, **wild)
    settings = TrainSettings.model_validate(settings_for("sft", tiny, tmp_path, **wild))
    assert launch.run(settings, file, quiet) == 2
    error = capfd.readouterr().err
    assert "Its rows: s" in error
    assert "Traceback" not in error


def test_a_signal_stops_all_processes_with_a_checkpoint(tiny: Path, tmp_path: Path) -> None:
    import signal
    import threading

    said: dict[str, Any] = {"steps": 3000, "launch": {"cpu_processes": 2}}
    file = config("sft", tiny, tmp_path, **said)
    settings = TrainSettings.model_validate(settings_for("sft", tiny, tmp_path, **said))
    out = Path(settings.out)

    def ask() -> None:
        while not (out / "metrics.jsonl").exists():
            threading.Event().wait(0.05)
        os.kill(os.getpid(), signal.SIGTERM)

    thread = threading.Thread(target=ask)
    thread.start()
    assert launch.run(settings, file, quiet) == launch.STOPPED
    thread.join()
    assert list(out.glob("checkpoints/*/whole.json"))
    assert not (out / launch.STOP).exists()


@pytest.mark.skipif(torch.cuda.is_available(), reason="there are GPUs")
def test_what_a_machine_without_gpus_cannot_do_is_told() -> None:
    with pytest.raises(TrainingError, match=r"launch\.gpus=2: this machine has 0; launch\.cpu_processes is for CPUs"):
        launch.processes_here(Launch(gpus=2))
    for strategy in ("fsdp2", "zero3"):  # accelerate would quietly take ddp
        with pytest.raises(TrainingError, match=f"launch.strategy={strategy}: this machine has no GPU"):
            launch.processes_here(Launch(strategy=strategy))  # type: ignore[arg-type]


@pytest.fixture
def one_of_one() -> Iterator[None]:
    """A process group of this process, for what FSDP holds as shards."""
    torch.distributed.init_process_group("gloo", store=torch.distributed.HashStore(), rank=0, world_size=1)
    yield
    torch.distributed.destroy_process_group()


@pytest.mark.usefixtures("one_of_one")
@pytest.mark.parametrize("stage", ["sft", "reward"])
def test_adapters_are_merged_where_fsdp_holds_shards(stage: str, tiny: Path, tmp_path: Path) -> None:
    import torch.distributed.checkpoint.state_dict as checkpointing
    from torch.distributed.fsdp import fully_shard

    from training.models import add_adapters, decoder_layers, load
    from training.work import merged

    work = work_for(stage, tiny, tmp_path, lora={"enabled": True}, precision="fp32")
    model = add_adapters(
        load(work.settings, work.template.tokenizer, labels=1 if stage == "reward" else None), work.settings
    )
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if parameter.requires_grad:
                parameter += 0.1 * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(len(name)))
    ids = torch.tensor([[5, 9, 30, 77, 140]])
    with torch.no_grad():
        expected = model.eval()(input_ids=ids).logits
    for layer in decoder_layers(model):
        fully_shard(layer)
    fully_shard(model)
    options = checkpointing.StateDictOptions(full_state_dict=True, broadcast_from_rank0=True, cpu_offload=True)
    state = checkpointing.get_model_state_dict(model, options=options)  # as accelerate asks for it
    whole, state = merged(model, state, tmp_path)
    assert not any("lora" in name for name in state)
    assert not any(isinstance(value, torch.distributed.tensor.DTensor) for value in state.values())
    whole.save_pretrained(tmp_path / "model", state_dict=state)
    with torch.no_grad():
        kind = AutoModelForCausalLM if stage == "sft" else AutoModelForSequenceClassification
        found = kind.from_pretrained(tmp_path / "model").eval()(input_ids=ids).logits
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-4)
    assert (tmp_path / "adapter" / "adapter_model.safetensors").stat().st_size > 1000
