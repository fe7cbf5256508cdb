"""What happens between steps: metrics written down, progress shown, checkpoints timed, a clean stop."""

from __future__ import annotations

import json
import math
import os
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from transformers import TrainerCallback

from training.errors import Diverged
from training.settings import TrainSettings

WHOLE = "whole.json"  # in a checkpoint: all of it was written
_LOOK_EVERY = 5  # steps between looks at the clock, which the processes must take together


class Watch(TrainerCallback):  # type: ignore[misc]
    """Writes `metrics.jsonl` (one process does), decides when to save and when to stop."""

    def __init__(self, settings: TrainSettings, trainer: Any, say: Callable[[str], None]) -> None:
        self.settings, self.trainer, self.say = settings, trainer, say
        self.metrics = Path(settings.out) / "metrics.jsonl"
        self.started = self.saved = time.monotonic()
        self.asked = False  # to stop, by a signal
        self.stopped = False
        self.progress: Any = None
        self._spoke = 0.0
        self._handlers: dict[int, Any] = {}

    # ---- beginning and end

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        for number in (signal.SIGTERM, signal.SIGINT):
            self._handlers[number] = signal.signal(number, self._ask)
        self.started = self.saved = time.monotonic()
        if not state.is_world_process_zero:
            return
        forget_after(self.metrics, state.global_step)
        if sys.stderr.isatty():
            self.progress = _progress_bar()
            self.progress.start()
            self.task = self.progress.add_task("", total=state.max_steps, completed=state.global_step, said="")

    def on_train_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self.close()
        self.trainer.check_last_step()

    def close(self) -> None:
        for number, handler in self._handlers.items():
            signal.signal(number, handler)
        self._handlers = {}
        if self.progress:
            self.progress.stop()
            self.progress = None

    def _ask(self, number: int, frame: Any) -> None:
        if self.asked:  # twice is meant
            raise KeyboardInterrupt
        self.asked = True

    # ---- between steps

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        every = self.settings.eval.every
        if (
            self.trainer.held_out_batches
            and every
            and state.global_step % every == 0 != state.max_steps - state.global_step
        ):
            self.trainer.log(self.trainer.evaluate_held_out(self.trainer.model_wrapped))
        if self.settings.save.every:
            control.should_save = state.global_step % self.settings.save.every == 0
        if state.global_step % _LOOK_EVERY == 0 or self.trainer.accelerator.num_processes == 1:
            self._look(control)
        if state.global_step >= state.max_steps:
            control.should_save = False  # what is saved then is the model

    def _look(self, control: Any) -> None:
        """The first process's clock and any process's signal decide for all."""
        now = time.monotonic()
        due = self.settings.save.every is None and now - self.saved > 60 * self.settings.save.minutes
        late = self.settings.minutes is not None and now - self.started > 60 * self.settings.minutes
        flags = torch.tensor([float(due), float(late or self.asked)], device=self.trainer.accelerator.device)
        if self.trainer.accelerator.num_processes > 1:
            flags = self.trainer.accelerator.reduce(flags, reduction="sum")
        if flags[1] > 0:
            self.stopped = control.should_training_stop = control.should_save = True
        elif flags[0] > 0:
            control.should_save = True

    def on_save(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self.trainer.check_last_step()  # a checkpoint of a lost model is none
        self.trainer.accelerator.wait_for_everyone()
        self.saved = time.monotonic()
        if state.is_world_process_zero:
            folder = Path(args.output_dir) / f"checkpoint-{state.global_step}"
            (folder / WHOLE).write_text(json.dumps({"step": state.global_step}))

    def on_log(self, args: Any, state: Any, control: Any, logs: dict[str, Any] | None = None, **kwargs: Any) -> None:
        logs = logs or {}
        norm = logs.get("grad_norm")
        if norm is not None and not math.isfinite(norm):
            raise Diverged(f"step {state.global_step}: the gradient's norm is {norm}; lower optimizer.lr")
        evaluated = any(name.startswith("eval_") for name in logs)
        if not state.is_world_process_zero or not ("loss" in logs or evaluated):
            return
        epoch = self.trainer.steps.plan.epoch(state.global_step + self.trainer.steps.skip)
        entry = {"step": state.global_step, **logs, "epoch": round(epoch, 4), "time": round(time.time(), 3)}
        with self.metrics.open("a") as file:
            file.write(json.dumps(entry) + "\n")
        self._show(state, entry, always=evaluated)

    def _show(self, state: Any, entry: dict[str, Any], *, always: bool) -> None:
        said = told(entry)
        if self.progress:
            if always:
                self.progress.console.print(f"step {state.global_step}  {said}")
            else:
                self.progress.update(self.task, completed=state.global_step, said=said)
        elif always or time.monotonic() - self._spoke > 10 or state.global_step == state.max_steps:
            self._spoke = time.monotonic()
            self.say(f"step {state.global_step} of {state.max_steps}  {said}")


_SHOWN = {
    "loss": "loss {:.4f}",
    "eval_loss": "held-out loss {:.4f}",
    "accuracy": "accuracy {:.3f}",
    "eval_accuracy": "held-out accuracy {:.3f}",
    "margin": "margin {:.3f}",
    "learning_rate": "lr {:.2e}",
    "tokens_per_second": "{:,.0f} tokens/s",
    "mfu": "MFU {:.2f}",
}


def told(entry: dict[str, Any]) -> str:
    """A line of metrics for people."""
    return "  ".join(text.format(entry[name]) for name, text in _SHOWN.items() if entry.get(name) is not None)


def forget_after(metrics: Path, step: int) -> None:
    """Take the lines beyond `step` out: a run that goes on from a checkpoint does those steps again."""
    if not metrics.exists():
        return
    kept = []
    for line in metrics.read_text().splitlines():
        try:
            if json.loads(line)["step"] <= step:
                kept.append(line)
        except (ValueError, KeyError):  # cut off by a kill
            continue
    fresh = metrics.with_suffix(f".{os.getpid()}.tmp")
    fresh.write_text("".join(f"{line}\n" for line in kept))
    fresh.replace(metrics)


def _progress_bar() -> Any:
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    return Progress(
        MofNCompleteColumn(),
        BarColumn(bar_width=24),
        TimeRemainingColumn(),
        TextColumn("{task.fields[said]}"),
        console=Console(stderr=True, highlight=False),
    )
