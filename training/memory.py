"""How many tokens one forward and backward pass may hold: tried out, not guessed."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch

from training.batches import Batch, collate
from training.settings import TrainSettings
from training.template import PREFERENCE, SCORED

ON_CPU = 2048  # more gains nothing there
MOST = 131_072  # nor here: a GPU is full long before
LEAST = 4096  # below it a GPU is idle most of the time: rather compute activations twice
SHARE = 0.88  # of the memory that nobody else has; the rest is fragmentation's and the communication's


def capacity(trainer: Any, settings: TrainSettings, longest: int, say: Callable[[str], None]) -> int:
    """Tokens a micro-batch, no less than the `longest` example; turns checkpointing on where it must.

    Measures the memory of two small passes and follows the line through them.
    """
    if settings.checkpointing is True:
        checkpoint(trainer.model)
    if settings.micro_tokens != "auto":
        return max(settings.micro_tokens, longest)
    if trainer.accelerator.device.type != "cuda":
        return max(ON_CPU, longest)
    found = _fitting(trainer)
    if found < max(longest, LEAST) and settings.checkpointing == "auto":
        checkpoint(trainer.model)
        say(f"memory for {found:,} tokens only: activations are computed twice (checkpointing)")
        found = _fitting(trainer)
    found = _smallest(trainer, found)
    return max(min(found, MOST), longest)


def _smallest(trainer: Any, found: int) -> int:
    """Over all processes: they cut every step alike."""
    all_found = trainer.accelerator.gather(torch.tensor([found], device=trainer.accelerator.device))
    return int(all_found.min())


def checkpoint(model: Any) -> None:
    model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})


def _fitting(trainer: Any) -> int:
    """Where parameters will be sharded, the whole model is tried: what is found is then less than fits."""
    low, high = 2048, 6144
    home = next(trainer.model.parameters()).device
    try:
        trainer.model.to(trainer.accelerator.device)
        trainer.model.train()
        _peak(trainer, low)  # what is allocated once: work spaces, compiled code
        before = torch.cuda.memory_allocated()
        first, second = _peak(trainer, low), _peak(trainer, high)
    except torch.OutOfMemoryError:
        return low
    finally:
        trainer.model.to(home)
        torch.cuda.empty_cache()
    slope = max((second - first) / (high - low), 1.0)
    trained = sum(p.numel() for p in trainer.model.parameters() if p.requires_grad)
    sharded = trainer.accelerator.num_processes if trainer.args.fsdp or trainer.args.deepspeed else 1
    states = 12 * trained / sharded  # gradient and two moments in float32
    # What others hold on this GPU, such as the servers of `iterate`, is not ours: free on the device, and what torch keeps.
    ours = torch.cuda.mem_get_info()[0] + torch.cuda.memory_reserved()
    free = SHARE * ours - before - states
    return max(0, int((free - (first - slope * low)) / slope) // 256 * 256)


def _peak(trainer: Any, tokens: int) -> int:
    """Bytes that a pass over so many tokens takes beyond what was there, gradients not counted."""
    before = torch.cuda.memory_allocated()
    torch.cuda.reset_peak_memory_stats()
    batch = trainer._to_device(_probe(tokens))
    with trainer.compute_loss_context_manager(), trainer.accelerator.autocast():
        loss = trainer.probe_loss(batch)
    loss.backward()
    peak = torch.cuda.max_memory_allocated() - before
    gradients = sum(p.grad.numel() * p.grad.element_size() for p in trainer.model.parameters() if p.grad is not None)
    trainer.model.zero_grad(set_to_none=True)
    return int(peak - gradients)


def _probe(tokens: int) -> Batch:
    """Two documents, every token of them scored."""
    lengths = np.array([tokens // 2, tokens - tokens // 2])
    ids = np.arange(tokens) % 1000 + 10
    mask = np.full(tokens, SCORED | PREFERENCE)
    return collate([{"ids": ids, "mask": mask, "lengths": lengths, "rewards": np.zeros(0)}], [0], filler=0)
