"""What all stages do to TRL's trainers: one item of the data loader is one whole optimiser step.

A step's micro-batches differ in number and size, so that a step holds exactly the examples that the plan says and each
forward pass as many tokens as fit. Each micro-batch's loss is its share of the step's: a sum, divided by what the whole
step holds over all processes. Four micro-batches or one, two processes or one: the same gradient.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch.utils.data import DataLoader
from transformers import Trainer

from training.batches import MODEL_KEYS, Batch, Steps
from training.errors import Diverged
from training.flops import Cost, peak_flops
from training.tally import Tally

if TYPE_CHECKING:
    from collections.abc import Sequence


class Stepwise:
    """Comes before a TRL trainer in a class's bases. A stage gives `step_loss` and `summarise`."""

    loss_is_scaled_for_ga = True
    accelerator: Any
    model: Any
    args: Any
    state: Any

    def set_steps(self, steps: Steps, held_out: Sequence[Batch], names: Any) -> None:
        """`held_out` are this process's micro-batches of the held-out examples, `names` (N,) what examples are called."""
        self.steps, self.held_out_batches, self._names = steps, held_out, names
        self.tally, self.cost, self._peak = Tally(), Cost(self.model), peak_flops()
        self._tokens = self._flops = 0.0
        self._window = time.perf_counter()
        self._before: tuple[int, torch.Tensor, list[int]] | None = None

    # ---- what a stage says

    def step_loss(self, model: Any, batch: Batch, whole: Mapping[str, float]) -> torch.Tensor:
        """This micro-batch's share of the step's loss; `whole` has the step's `examples` and `scored` tokens."""
        raise NotImplementedError

    def summarise(self, sums: dict[str, float]) -> dict[str, float]:
        """Metrics from the sums of a window."""
        raise NotImplementedError

    def probe_loss(self, batch: Batch) -> torch.Tensor:
        """Something that costs as much memory as a micro-batch does, to find out how many tokens fit."""
        return token_logps(self.model, batch).mean()

    # ---- what Trainer asks for

    def get_train_dataloader(self) -> DataLoader[Any]:
        here = self.accelerator.device.type
        return DataLoader(
            self.steps,
            batch_size=1,
            collate_fn=_only,
            num_workers=2 if here == "cuda" else 0,
            prefetch_factor=4 if here == "cuda" else None,
            pin_memory=here == "cuda",
        )

    def training_step(self, model: Any, inputs: Mapping[str, Any], num_items_in_batch: Any = None) -> torch.Tensor:
        """Forward and backward over the step's micro-batches. Returns the loss so that its mean over processes is the step's."""
        self.check_last_step()
        model.train()
        processes = self.accelerator.num_processes  # gradients are averaged over them
        total = torch.zeros((), device=self.accelerator.device)
        for place, batch in enumerate(inputs["micro"]):
            last = place + 1 == len(inputs["micro"])
            self._count(batch)
            self.accelerator.gradient_state._set_sync_gradients(last)
            with contextlib.nullcontext() if last else self.accelerator.no_sync(model):
                with self.compute_loss_context_manager():  # type: ignore[attr-defined]
                    loss = self.step_loss(model, self._to_device(batch), inputs) * processes
                self.accelerator.backward(loss)
            total += loss.detach()
        self._tokens += inputs["tokens"]
        indices = [int(index) for batch in inputs["micro"] for index in batch["index"]]
        self._before = (self.state.global_step + 1, total, indices)
        return total

    def check_last_step(self) -> None:
        """Raises `Diverged` where the step before gave no finite loss; asked a step late, so as not to wait for the device."""
        if self._before is None:
            return
        step, loss, indices = self._before
        self._before = None
        if not torch.isfinite(loss):
            rows = ", ".join(self._names[index] for index in indices[:8])
            more = f" and {len(indices) - 8} more" if len(indices) > 8 else ""
            raise Diverged(
                f"step {step}: the loss is {float(loss)}. Its rows: {rows}{more}. Look at them, or lower optimizer.lr; "
                "checkpoints up to there are kept"
            )

    def _count(self, batch: Batch) -> None:
        lengths = np.diff(batch["cu_seq_lens_q"].numpy(force=True))
        if len(batch["index"]):
            self._flops += self.cost.of(lengths, len(batch["scored"]))

    def _to_device(self, batch: Batch) -> Batch:
        device = self.accelerator.device
        return {
            name: value.to(device, non_blocking=True) if isinstance(value, torch.Tensor) else value
            for name, value in batch.items()
        }

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """Adds a training window's own metrics: the stage's, tokens a second over all processes, and MFU of one."""
        if "loss" in logs:
            seconds = time.perf_counter() - self._window
            sums = self.tally.take(self.accelerator)
            logs |= {**self.summarise(sums), "loss": logs["loss"]}  # the mean of its steps' losses, as stepped on
            logs["tokens"] = self._tokens
            logs["seconds"] = seconds
            logs["tokens_per_second"] = self._tokens / seconds
            if self._peak:
                logs["mfu"] = self._flops / seconds / self._peak
            if torch.cuda.is_available():
                logs["memory_gb"] = torch.cuda.max_memory_allocated() / 2**30
            self._tokens = self._flops = 0.0
            self._window = time.perf_counter()
        super().log(logs, start_time)  # type: ignore[misc]

    def _save_checkpoint(self, model: Any, trial: Any) -> None:
        Trainer._save_checkpoint(self, model, trial)  # TRL's writes a model card beside each

    # ---- held-out examples

    def evaluate_held_out(self, model: Any) -> dict[str, float]:
        """Metrics on the held-out examples, the same on every process; `eval_` before each name."""
        window = time.perf_counter()
        model.eval()
        kept, self.tally = self.tally, Tally()
        for batch in self.held_out_batches:
            with torch.no_grad(), self.compute_loss_context_manager():  # type: ignore[attr-defined]
                self.step_loss(model, self._to_device(batch), {"examples": 1, "scored": 1})
        sums = self.tally.take(self.accelerator)
        self.tally = kept
        model.train()
        self._window += time.perf_counter() - window  # no part of training's speed
        return {f"eval_{name}": value for name, value in self.summarise(sums).items()}


def _only(items: list[Any]) -> Any:
    return items[0]


def model_inputs(batch: Batch) -> dict[str, Any]:
    return {name: batch[name] for name in MODEL_KEYS}


def token_logps(model: Any, batch: Batch) -> torch.Tensor:
    """log p of each scored token, (N,) float32. Needs `add_scoring_head` on the model."""
    logps: torch.Tensor = model(**model_inputs(batch), scored=batch["scored"], targets=batch["targets"])["logps"]
    return logps.float()


def per_document(values: torch.Tensor, batch: Batch) -> torch.Tensor:
    """Sums of (N,) values over each document's scored tokens, (D,)."""
    zeros = torch.zeros(len(batch["example"]), device=values.device, dtype=values.dtype)
    return zeros.index_add_(0, batch["document"], values)


@contextlib.contextmanager
def quiet_trl() -> Iterator[None]:
    """TRL and transformers warn of what is meant here: a model that is loaded already, rows that are tokenised."""
    import logging
    import warnings

    loggers = [logging.getLogger(name) for name in ("trl", "transformers", "accelerate", "torch.distributed")]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)
