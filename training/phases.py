"""A staged training as what it is: trainings one after the other, each from the model of the one before."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from training.launch import run
from training.rows import content_digest
from training.settings import Lora, TrainSettings
from training.work import open_work, write_json

Say = Callable[[str], None]


def train(settings: TrainSettings, say: Say) -> int:
    """Run a stage, or each of its phases, in as many processes as it wants; returns the exit status.

    A finished part is not run again; `OUT/phases/NAME` holds each, `OUT/model` the last one's model.
    """
    out = Path(settings.out)
    out.mkdir(parents=True, exist_ok=True)
    if not settings.phases and not settings.lora.after:
        return run(settings, write_config(settings, 0), say)
    status, last = 0, out
    for part, skip in parts(settings, say):
        say(f"phase {Path(part.out).name}")
        Path(part.out).mkdir(parents=True, exist_ok=True)
        status, last = run(part, write_config(part, skip), say), Path(part.out)
        if status:
            return status
    _bring_up(last, out)
    return status


def write_config(settings: TrainSettings, skip: int) -> Path:
    """What every process of the training reads."""
    file = Path(settings.out) / "train.json"
    write_json(file, {"settings": settings.model_dump(mode="json"), "skip": skip})
    return file


def parts(settings: TrainSettings, say: Say) -> Iterator[tuple[TrainSettings, int]]:
    """(settings, steps of its plan that an earlier part has taken) of each part; made as the parts before are done."""
    before: Path | None = None
    for part, skip in _phases(settings) if settings.phases else _full_then_adapters(settings, say):
        if before is not None:
            weights = sorted((before / "model").glob("*.safetensors"))
            model = {"path": str(before / "model"), "digest": content_digest(weights), "revision": None}
            part = part.model_copy(update={"model": part.model.model_copy(update=model)})
        yield part, skip
        before = Path(part.out)


def _phases(settings: TrainSettings) -> Iterator[tuple[TrainSettings, int]]:
    for phase in settings.phases:
        said = {name: value for name in ("batch",) if (value := getattr(phase, name)) is not None}
        if phase.lr is not None:
            said["optimizer"] = settings.optimizer.model_copy(update={"lr": phase.lr})
        length = {"epochs": phase.epochs or settings.epochs, "steps": phase.steps}
        yield _part(settings, phase.name, {"data": phase.data, **length, **said}), 0


def _full_then_adapters(settings: TrainSettings, say: Say) -> Iterator[tuple[TrainSettings, int]]:
    """The same order of the data, cut in two: weights in full up to a share of the steps, adapters from there."""
    steps = open_work(settings, say).plan.steps
    first = max(1, min(steps - 1, round(steps * settings.lora.after)))
    yield _part(settings, "full", {"steps": first, "lora": Lora()}), 0
    yield _part(settings, "adapters", {"lora": settings.lora.model_copy(update={"after": 0.0})}), first


def _part(settings: TrainSettings, name: str, said: dict[str, object]) -> TrainSettings:
    own = {"out": str(Path(settings.out) / "phases" / name), "run": f"{settings.run}-{name}", "phases": ()}
    return settings.model_copy(update={**own, **said})


def _bring_up(last: Path, out: Path) -> None:
    """The last part's model under the name that every training's model has, without a second copy of its bytes."""
    fresh = out / ".model.new"
    shutil.rmtree(fresh, ignore_errors=True)
    shutil.copytree(last / "model", fresh, copy_function=_link)
    shutil.rmtree(out / "model", ignore_errors=True)
    fresh.rename(out / "model")
    manifests = [json.loads((part / "manifest.json").read_text()) for part in _made(out)]
    write_json(out / "manifest.json", {**json.loads((last / "manifest.json").read_text()), "phases": manifests})


def _made(out: Path) -> Sequence[Path]:
    return sorted((out / "phases").iterdir(), key=lambda part: (part / "manifest.json").stat().st_mtime)


def _link(source: str, target: str) -> None:
    try:
        os.link(source, target)
    except OSError:  # another file system
        shutil.copy2(source, target)
