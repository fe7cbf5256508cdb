"""Short trainings through the stages' own functions, and what they wrote."""

from __future__ import annotations

import importlib
import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from tests.training.tiny import settings_for
from training.settings import TrainSettings
from training.template import Template
from training.work import Work, open_work

Say = Callable[[str], None]


def quiet(text: str) -> None:
    """Nobody listens."""


def work_for(stage: str, model: Path, folder: Path, say: Say = quiet, /, **changes: Any) -> Work:
    return open_work(TrainSettings.model_validate(settings_for(stage, model, folder, **changes)), say)


def train(work: Work, say: Say = quiet, *, skip: int = 0) -> bool:
    stage = importlib.import_module(f"training.{work.settings.stage.name}")
    done: bool = stage.train(work, say, skip=skip)
    return done


def trained(stage: str, model: Path, folder: Path, /, **changes: Any) -> Path:
    """The folder of a training that was run to its end."""
    work = work_for(stage, model, folder, **changes)
    assert train(work)
    return work.out


def metrics(out: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]


def steps_of(out: Path) -> list[dict[str, Any]]:
    return [entry for entry in metrics(out) if "loss" in entry]


def losses(out: Path) -> list[float]:
    return [entry["loss"] for entry in steps_of(out)]


def manifest(out: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((out / "manifest.json").read_text())
    return found


def weights(folder: Path) -> dict[str, torch.Tensor]:
    from safetensors.torch import load_file

    return load_file(folder / "model.safetensors")


class _Caught(Exception):
    pass


def trainer_of(work: Work, monkeypatch: pytest.MonkeyPatch) -> tuple[Any, dict[str, Any]]:
    """(trainer, what `fit` is told) of a stage at the moment when it would begin to train."""
    found: list[Any] = []

    def catch(trainer: Any, work: Work, say: Say, **told: Any) -> bool:
        found.extend((trainer, told))
        raise _Caught

    for name in ("sft", "dpo", "reward"):
        monkeypatch.setattr(f"training.{name}.fit", catch)
    with pytest.raises(_Caught):
        train(work)
    monkeypatch.undo()
    return found[0], found[1]


def documents(work: Work) -> list[list[dict[str, Any]]]:
    """Each example's documents: `ids`, `mask` and `rewards` of each."""
    found = []
    for row in work.data:
        ends = np.cumsum(row["lengths"])
        found.append(
            [
                {"ids": row["ids"][end - length : end], "mask": row["mask"][end - length : end]}
                for end, length in zip(ends, row["lengths"], strict=True)
            ]
        )
    return found


def plain_logps(model: Any, ids: Sequence[int], mask: Sequence[int], bit: int) -> torch.Tensor:
    """log p of each token of one document that has `bit` in its mask, by transformers' own forward pass."""
    with torch.no_grad():
        logits = model(torch.tensor([list(ids)])).logits[0, :-1].double()
    logps = logits.log_softmax(-1)[torch.arange(len(ids) - 1), torch.tensor(list(ids[1:]))]
    return logps[torch.tensor([bits & bit > 0 for bits in mask[1:]])]


def causal(folder: Path, **options: Any) -> Any:
    from transformers import AutoModelForCausalLM

    return AutoModelForCausalLM.from_pretrained(folder, attn_implementation="eager", **options).eval()


def tokens_of(template: Template, messages: Sequence[Mapping[str, Any]]) -> tuple[list[int], list[int]]:
    return template.encode([(messages, 0)])[0]
