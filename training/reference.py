"""Log-probabilities under the reference model: computed once, kept on disk, keyed by all that determines them."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch

from training.batches import micro_batch, numeric
from training.plan import chunks
from training.trainer import per_document, token_logps

VERSION = 1  # of how they are computed


def preference_logps(logps: torch.Tensor, batch: Any, *, mask_end: bool) -> torch.Tensor:
    """Summed log-probabilities of each document's answer, (D,); `mask_end` leaves the token that ends the turn out."""
    return per_document(logps * batch["preferred"] if mask_end else logps, batch)


def reference_logps(
    trainer: Any,
    model: Any,
    data: Any,
    *,
    identity: dict[str, Any],
    folder: Path,
    capacity: int,
    mask_end: bool,
    say: Callable[[str], None],
) -> tuple[np.ndarray, np.ndarray]:
    """(log-probabilities of all documents, where each example's begin): (D,) float64 and (N+1,).

    `model` is the one that training starts from, before its first step and before any checkpoint is loaded, so that a
    resumed run has the reference that it began with. `identity` names model, data and precision: one file each, so that
    none is ever taken for another.
    """
    key = hashlib.blake2b(
        json.dumps([VERSION, mask_end, identity], sort_keys=True).encode(), digest_size=16
    ).hexdigest()
    counts = np.array([len(lengths) for lengths in data.with_format("numpy")["lengths"]])
    starts = np.concatenate([[0], np.cumsum(counts)])
    file = folder / f"{key}.npy"
    if not file.exists():
        say("computing the reference's log-probabilities, once")
        values = _compute(trainer, model, data, starts, capacity, mask_end=mask_end)
        if trainer.accelerator.is_main_process:
            _write(file, values)
        trainer.accelerator.wait_for_everyone()
        return values, starts
    return np.load(file, allow_pickle=False), starts


def _compute(trainer: Any, model: Any, data: Any, starts: np.ndarray, capacity: int, *, mask_end: bool) -> np.ndarray:
    accelerator = trainer.accelerator
    rows, filler = numeric(data), trainer.processing_class.pad_token_id
    tokens = np.asarray(data.with_format("numpy")["tokens"])
    training = model.training
    model.to(accelerator.device).eval()
    values = torch.zeros(int(starts[-1]), dtype=torch.float64, device=accelerator.device)
    for places in chunks(tokens, accelerator.num_processes, capacity)[accelerator.process_index]:
        batch = trainer._to_device(micro_batch(rows, places, filler))
        with torch.no_grad(), trainer.compute_loss_context_manager(), accelerator.autocast():
            found = preference_logps(token_logps(model, batch), batch, mask_end=mask_end)
        where = np.concatenate([np.arange(starts[place], starts[place + 1]) for place in places] or [np.zeros(0)])
        values[torch.from_numpy(where.astype(np.int64))] = found.double()
    model.train(training)
    summed: np.ndarray = accelerator.reduce(values, reduction="sum").cpu().numpy()
    return summed


def _write(file: Path, values: np.ndarray) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    fresh = file.with_suffix(f".{os.getpid()}.tmp")
    with fresh.open("wb") as opened:
        np.save(opened, values, allow_pickle=False)
    fresh.replace(file)
