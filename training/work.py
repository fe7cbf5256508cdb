"""One stage's work from its settings to a model folder: data, plan, resuming, training, saving."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from training.data import Prepared, held_out, prepare
from training.errors import TrainingError
from training.plan import Part, Plan, chunks
from training.rows import content_digest
from training.settings import ModelSource, Source, TrainSettings
from training.template import Template

Say = Callable[[str], None]
# What may change between two invocations of the same training: where and how it runs, not what it computes.
_FREE = (
    "launch",
    "save",
    "log_every",
    "report_to",
    "micro_tokens",
    "compile",
    "attention",
    "checkpointing",
    "eval",
    "out",
    "run",
    "minutes",
)


@dataclass(frozen=True)
class Work:
    """Data and plan of a stage. `held` are the held-out examples' places; they may be in a data set of their own."""

    settings: TrainSettings
    template: Template
    prepared: Sequence[Prepared]
    data: Any
    plan: Plan
    scored: np.ndarray
    held_data: Any
    held_digest: str
    held: np.ndarray

    @property
    def out(self) -> Path:
        return Path(self.settings.out)

    @property
    def digest(self) -> str:
        """Of all data that is trained on."""
        return hashlib.blake2b("".join(part.digest for part in self.prepared).encode(), digest_size=16).hexdigest()

    @property
    def longest(self) -> int:
        return int(self.plan.tokens.max())


def open_work(settings: TrainSettings, say: Say) -> Work:
    """Read and check everything that needs no model. Raises `TrainingError` for what cannot be trained on."""
    from datasets import concatenate_datasets

    template = Template(settings.model)
    prepared = [prepare(settings, source, template, say) for source in settings.data]
    loaded = [part.load() for part in prepared]
    data = concatenate_datasets(loaded)
    columns = data.select_columns(["tokens", "scored", "key"]).with_format("numpy")[:]
    starts = np.concatenate([[0], np.cumsum([len(part) for part in loaded])])
    parts = [
        Part(int(start), int(end), source.weight)
        for start, end, source in zip(starts[:-1], starts[1:], settings.data, strict=True)
    ]
    out = held_out(columns["key"], settings.eval.share)
    if out.all():
        raise TrainingError(f"eval.share={settings.eval.share}: leaves no prompt to train on")
    held_data, held, held_digest = data, np.flatnonzero(out), ""
    if settings.eval.path:
        apart = prepare(settings, Source(path=settings.eval.path), template, say, "eval.path")
        held_data, held_digest = apart.load(), apart.digest
        held = np.arange(len(held_data))
        out = np.isin(columns["key"], held_data.with_format("numpy")["key"])  # a prompt is on one side only
        if out.all():
            raise TrainingError(f"eval.path={settings.eval.path}: every prompt of the training data is in it")
    plan = Plan(
        columns["tokens"], parts, batch=settings.batch, epochs=settings.epochs, steps=settings.steps,
        seed=settings.seed, keep=~out,
    )  # fmt: skip
    return Work(settings, template, prepared, data, plan, columns["scored"], held_data, held_digest, held)


# ---- what was done before


def model_digest(source: ModelSource) -> str:
    """What tells a model's weights from others: its digest where it is known, else what lies in its folder."""
    weights = sorted(Path(source.path).glob("*.safetensors")) if Path(source.path).is_dir() else []
    return source.digest or (content_digest(weights) if weights else f"{source.path}@{source.revision}")


def identity(work: Work) -> dict[str, Any]:
    """What determines the model that comes out. Two invocations with the same one are the same training."""
    settings = work.settings
    plain = settings.model_dump(mode="json")
    kept = {name: value for name, value in plain.items() if name not in _FREE}
    kept["model"] = {"digest": model_digest(settings.model), **{
        name: kept["model"][name] for name in ("chat_template", "end_token")}}  # fmt: skip
    kept["data"] = {"digest": work.digest, "weights": [source.weight for source in settings.data]}
    kept["eval"] = {"share": settings.eval.share, "digest": work.held_digest}
    return kept


def claim(work: Work) -> bool:
    """Take the folder for this training. Returns whether it is done already; raises where another one's is there."""
    file = work.out / "identity.json"
    mine = identity(work)
    if file.exists():
        before = json.loads(file.read_text())
        if before != mine:
            keys = ", ".join(sorted(_changed(before, mine)))
            raise TrainingError(
                f"{work.out} holds a training with another {keys}. Choose another folder with run=NAME, or remove it"
            )
        return done(work.out)
    work.out.mkdir(parents=True, exist_ok=True)
    write_json(file, mine)
    return False


def done(out: Path) -> bool:
    """Whether a training came to its end: its manifest is written last."""
    return (out / "manifest.json").exists()


def _changed(before: Any, now: Any, prefix: str = "") -> set[str]:
    if isinstance(before, Mapping) and isinstance(now, Mapping):
        found = set()
        for key in {*before, *now}:
            found |= _changed(before.get(key), now.get(key), f"{prefix}.{key}" if prefix else str(key))
        return found
    return set() if before == now else {prefix}


def newest_checkpoint(folder: Path) -> Path | None:
    """The newest that was written to its end; those that were not are removed."""
    from training.watch import checkpoints

    whole = checkpoints(folder)
    if int(os.environ.get("RANK", 0)) == 0:
        for checkpoint in set(folder.glob("checkpoint-*")) - set(whole):
            shutil.rmtree(checkpoint, ignore_errors=True)
    return whole[-1] if whole else None


def _same_strategy(checkpoint: Path, strategy: str) -> None:
    """Raises `TrainingError` where the optimiser's state lies in another form, which Trainer would pass over in silence."""
    from training.watch import WHOLE

    before = json.loads((checkpoint / WHOLE).read_text())["strategy"]
    if before != strategy:
        raise TrainingError(
            f"launch.strategy={strategy}: {checkpoint} was written with {before}; go on with that, on as many processes "
            "as you like, or remove the folder's checkpoints"
        )


def write_json(file: Path, value: Any) -> None:
    """Whole or not at all."""
    fresh = file.with_name(f".{file.name}.{os.getpid()}")
    fresh.write_text(json.dumps(value, indent=1) + "\n")
    fresh.replace(file)


# ---- training


def arguments(work: Work, kind: Any, *, skip: int = 0, **extra: Any) -> Any:
    """TRL's arguments for a stage. Batches, saving and evaluation are decided elsewhere; here is the optimiser."""
    import torch

    from training.launch import refine, strategy_arguments
    from training.models import compute_dtype

    settings, optimizer = work.settings, work.settings.optimizer
    steps = work.plan.steps - skip
    # Its own place for it is among the checkpoints, which go once the model is there.
    os.environ["TENSORBOARD_LOGGING_DIR"] = str(work.out / "tensorboard")
    pure = settings.precision == "pure_bf16"
    made = kind(
        output_dir=str(work.out / "checkpoints"),
        max_steps=steps,
        per_device_train_batch_size=1,
        gradient_accumulation_steps=1,
        learning_rate=optimizer.lr,
        lr_scheduler_type=optimizer.schedule,
        warmup_steps=round(optimizer.warmup * steps),
        weight_decay=optimizer.weight_decay,
        adam_beta1=optimizer.betas[0],
        adam_beta2=optimizer.betas[1],
        max_grad_norm=optimizer.clip or 0.0,
        optim="adamw_torch_fused",
        bf16=compute_dtype(settings) == torch.bfloat16 and not pure,
        use_cpu=not torch.cuda.is_available(),
        gradient_checkpointing=False,
        logging_steps=settings.log_every if settings.log_every != "auto" else 1 if steps <= 200 else 10,
        logging_nan_inf_filter=False,
        save_strategy="steps",
        save_steps=10**9,
        save_total_limit=None,  # `watch.py` removes the old ones, once the new one is whole
        report_to=list(settings.report_to) or "none",
        run_name=settings.run,
        seed=settings.seed,
        disable_tqdm=True,
        remove_unused_columns=False,
        ddp_find_unused_parameters=False,
        **strategy_arguments(settings),
        **extra,
    )
    refine(made)
    return made


def fit(
    trainer: Any,
    work: Work,
    say: Say,
    *,
    capacity: int,
    skip: int = 0,
    reference: tuple[np.ndarray, np.ndarray] | None = None,
    held_reference: tuple[np.ndarray, np.ndarray] | None = None,
) -> bool:
    """Train from the newest checkpoint to the end and save the model; False where it was stopped before."""
    import transformers

    from training.batches import Steps, micro_batch, numeric
    from training.trainer import quiet_trl
    from training.watch import Watch

    accelerator, filler = trainer.accelerator, work.template.tokenizer.pad_token_id
    steps = Steps(
        work.data, work.plan, work.scored, rank=accelerator.process_index, processes=accelerator.num_processes,
        capacity=capacity, filler=filler, skip=skip, reference=reference,
    )  # fmt: skip
    held_rows = numeric(work.held_data)
    held_tokens = np.asarray(work.held_data.with_format("numpy")["tokens"])[work.held]
    shares = chunks(held_tokens, accelerator.num_processes, capacity)[accelerator.process_index]
    held = (
        [micro_batch(held_rows, work.held[places], filler, held_reference) for places in shares]
        if len(work.held)
        else []
    )
    trainer.set_steps(steps, held, work.data["where"])
    watch = Watch(work.settings, trainer, say)
    for callback in (transformers.PrinterCallback, transformers.ProgressCallback):
        trainer.remove_callback(callback)
    trainer.add_callback(watch)
    checkpoint = newest_checkpoint(work.out / "checkpoints")
    if checkpoint:
        _same_strategy(checkpoint, work.settings.launch.strategy)
        say(f"going on from {checkpoint}")
    started = time.time()
    try:
        with quiet_trl():
            trainer.train(resume_from_checkpoint=str(checkpoint) if checkpoint else None)
    finally:
        watch.close()
    if watch.stopped:
        return False
    final = {}
    if held:
        final = trainer.evaluate_held_out(trainer.model_wrapped)
        trainer.log(dict(final))
        say("held out: " + "  ".join(f"{name[5:]} {value:.4g}" for name, value in final.items()))
    finish(trainer, work, {"held_out": final, "seconds": round(time.time() - started, 1), "capacity": capacity})
    return True


def finish(trainer: Any, work: Work, facts: Mapping[str, Any]) -> None:
    """Save the model, then say that it is there, then remove what is needed no more."""
    import torch

    from training.card import write_card
    from training.models import save

    accelerator, settings = trainer.accelerator, work.settings
    accelerator.wait_for_everyone()
    state = accelerator.get_state_dict(trainer.model_wrapped)
    if accelerator.is_main_process:
        model, state = merged(accelerator.unwrap_model(trainer.model_wrapped), state, work.out)
        kept = getattr(torch, _own_dtype(settings)) if settings.stage.name != "reward" else torch.float32
        manifest = {
            "stage": settings.stage.name,
            "run": settings.run,
            "model": {"name": settings.model.name, "path": settings.model.path, "digest": settings.model.digest},
            "data": [
                {"path": source.path, "digest": part.digest, "rows": part.rows, "examples": part.examples,
                 "tokens": part.tokens, "dropped": dict(part.dropped), "weight": source.weight}
                for source, part in zip(settings.data, work.prepared, strict=True)
            ],
            "steps": work.plan.steps,
            "epochs": work.plan.epoch(work.plan.steps),
            "processes": accelerator.num_processes,
            "settings": settings.model_dump(mode="json"),
            "versions": _versions(),
            **facts,
        }  # fmt: skip
        extra = trainer.facts() if hasattr(trainer, "facts") else {}
        save(model, state, work.template.tokenizer, work.out / "model", kept)
        write_card(work.out, {**manifest, **extra})
        write_json(work.out / "manifest.json", {**manifest, **extra})  # says that all is there
        shutil.rmtree(work.out / "checkpoints", ignore_errors=True)
    accelerator.wait_for_everyone()


def _own_dtype(settings: TrainSettings) -> str:
    """What the model was published in: half the size of float32, and what servers compute in anyway."""
    from transformers import AutoConfig

    found = AutoConfig.from_pretrained(settings.model.path, revision=settings.model.revision).dtype
    return str(found or "float32").removeprefix("torch.")


def merged(model: Any, state: Mapping[str, Any], out: Path) -> tuple[Any, Mapping[str, Any]]:
    """A model and its weights without adapters; where there are some, they are kept beside it in `adapter/`."""
    import torch
    from peft import PeftModel

    if not isinstance(model, PeftModel):
        return model, state
    model.save_pretrained(out / "adapter", state_dict=dict(state), safe_serialization=True)
    # Whole tensors in the place of FSDP's shards; what is one tensor under two names stays one.
    fresh = {
        id(shard): torch.nn.Parameter(state[name], requires_grad=False) for name, shard in model.named_parameters()
    }
    for name, shard in list(model.named_parameters(remove_duplicate=False)):
        place, _, own = name.rpartition(".")
        model.get_submodule(place)._parameters[own] = fresh[id(shard)]
    whole = model.merge_and_unload()
    return whole, whole.state_dict()


def _versions() -> dict[str, str]:
    import importlib.metadata

    found = {}
    for name in ("torch", "transformers", "trl", "accelerate", "peft"):
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found
