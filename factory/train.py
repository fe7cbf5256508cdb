"""`train`: from checked settings to the package that trains; this side finds the model, that side knows torch."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from factory.config import options, validated
from factory.engine.models import resolve_model
from factory.errors import EXIT_DONE, EXIT_STOPPED, ConfigError, UserError, near
from factory.outputs import write_config
from factory.run_folder import RunLock, unwritable
from factory.settings import ModelSettings

if TYPE_CHECKING:
    from training.merge import MergeSettings
    from training.settings import TrainSettings

_SOME_STAGE = {"name": "sft"}
# In the place of wrong settings, for finding what else is wrong.
_SOME: Mapping[str, Any] = {
    "stage": _SOME_STAGE, "run": "some", "out": "some", "seed": 0, "data": ["some"], "epochs": 1, "batch": 1,
    "optimizer": {"lr": 1},
}  # fmt: skip
# What is of no use to stage=merge.
_MERGE_KEYS = ("stage", "run", "out")


def train(composed: Mapping[str, Any], problems: list[str], words: Sequence[str], say: Callable[[str], None]) -> int:
    """Check everything that needs no model, then train. Raises `ConfigError` with all that is wrong."""
    _installed(problems)
    data = {key: value for key, value in composed.items() if key != "hydra"}
    stage = data.get("stage")
    if isinstance(stage, Mapping) and stage.get("name") == "merge":
        return _merge(data, stage, problems, words, say)
    settings = train_settings(data, problems)
    if problems or settings is None:
        raise ConfigError(*dict.fromkeys(problems))
    return _run(settings, data, say)


def _installed(problems: Sequence[str]) -> None:
    import importlib.util

    missing = [name for name in ("torch", "trl", "peft", "accelerate") if importlib.util.find_spec(name) is None]
    if missing:
        raise ConfigError(
            *problems,
            f"{', '.join(missing)}: not installed, and needed to train: pip install 'synthesis-factory[train]'",
        )


# ---- settings


def train_settings(data: Mapping[str, Any], problems: list[str]) -> TrainSettings | None:
    """The composed configuration as the training package takes it; the model is named, not looked for yet."""
    from training import settings as shapes

    plain = {key: value for key, value in data.items() if key not in ("model", "chat")}
    stages: dict[str, Any] = {
        "sft": shapes.SftStage, "reward": shapes.RewardStage, "dpo": shapes.DpoStage, "rpo": shapes.RpoStage,
    }  # fmt: skip
    stage = plain.get("stage")
    if isinstance(stage, Mapping) and stage.get("name") in stages:
        # By its own class, so that a wrong key is told against the keys of this stage.
        if validated(stages[stage["name"]], stage, "stage", problems) is None:
            plain["stage"] = _SOME_STAGE
    else:
        name = stage.get("name") if isinstance(stage, Mapping) else stage
        problems.append(
            f"stage={name}: should be one of {', '.join(options('stage'))}{near(str(name), options('stage'))}"
        )
        plain["stage"] = _SOME_STAGE
    model = _model_settings(data.get("model"), problems)
    chat = validated(_chat_class(), data.get("chat") or {}, "chat", problems)
    plain["model"] = {"name": model.name, "path": model.path} if model else {"name": "some", "path": "some"}
    settings = validated(shapes.TrainSettings, plain, "", problems, _SOME)
    if settings is None:
        return None
    _check_data(settings, problems)
    from training.launch import check

    problems += check(settings)
    if chat is not None:
        chosen = {"chat_template": _template(chat.template, problems), "end_token": chat.end_token}
        settings = settings.model_copy(update={"model": settings.model.model_copy(update=chosen)})
    return settings


def _chat_class() -> Any:
    from training.settings import Chat

    return Chat


def _model_settings(data: Any, problems: list[str]) -> ModelSettings | None:
    if not isinstance(data, Mapping):
        problems.append(f"model={data}: name a model, as model=owner/name or model=FOLDER")
        return None
    if data.get("path") is None:
        problems.append("model.path is not set: name a model, as model=owner/name or model=FOLDER")
        data = {**data, "path": "unset", "name": "unset"}
    return validated(ModelSettings, data, "model", problems)


def _template(named: str | None, problems: list[str]) -> str | None:
    """The text of a chat template: one that is shipped, or a file of the user's."""
    if named is None:
        return None
    shipped = {file.stem: file for file in (Path(_training_folder()) / "templates").glob("*.jinja")}
    file = shipped.get(named, Path(named))
    if not file.is_file():
        problems.append(f"chat.template={named}: no such file (shipped are {', '.join(sorted(shipped))})")
        return None
    return file.read_text()


def _training_folder() -> str:
    import training

    return training.__path__[0]


def _check_data(settings: TrainSettings, problems: list[str]) -> None:
    from training.errors import TrainingError
    from training.rows import check_columns, data_files

    sources = [*settings.data, *(source for phase in settings.phases for source in phase.data)]
    if settings.phases:
        sources = sources[len(settings.data) :]  # the phases' own are used in place of it
    for source in dict.fromkeys(sources):
        try:
            for file in data_files(source):
                check_columns(file, settings.stage.name)
        except TrainingError as error:
            problems += error.problems
    if settings.eval.path and not Path(settings.eval.path).exists():
        problems.append(f"eval.path={settings.eval.path}: no such file or folder")
    teacher = getattr(settings.stage, "teacher", None)
    if teacher is not None and teacher.path and teacher.path.startswith(("/", ".")) and not Path(teacher.path).exists():
        problems.append(f"stage.teacher.path={teacher.path}: no such folder")


# ---- running


def _run(settings: TrainSettings, composed: Mapping[str, Any], say: Callable[[str], None]) -> int:
    from training import phases
    from training.errors import TrainingError

    out = Path(settings.out)
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise unwritable(out, error) from error
    model = resolve_model(settings.model.path, on_status=say)
    found = {"path": model.path, "digest": model.digest, "revision": model.revision}
    settings = settings.model_copy(update={"model": settings.model.model_copy(update=found)})
    teacher = getattr(settings.stage, "teacher", None)
    if teacher is not None and teacher.path:
        own = teacher.model_copy(update={"path": resolve_model(teacher.path, on_status=say).path})
        settings = settings.model_copy(update={"stage": settings.stage.model_copy(update={"teacher": own})})
    with _lock(out, settings):
        write_config(out, composed)
        try:
            status = phases.train(settings, say)
        except TrainingError as error:
            raise UserError(*error.problems) from error
        finally:
            if (out / "metrics.jsonl").exists() or (out / "phases").exists():
                _draw(out)
    if status == EXIT_DONE:
        _summary(out)
    return EXIT_STOPPED if status == EXIT_STOPPED else status


def _lock(out: Path, settings: TrainSettings) -> Any:
    """One training at a time in a folder; the nodes of one share it, so only the first takes it."""
    import contextlib

    rank = settings.launch.node_rank if settings.launch.node_rank is not None else os.environ.get("SLURM_NODEID", 0)
    return RunLock(out) if settings.launch.nodes == 1 or int(rank) == 0 else contextlib.nullcontext()


def _draw(out: Path) -> None:
    from factory.report.training import write_training_report

    write_training_report(out)


def _summary(out: Path) -> None:
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    manifest = json.loads((out / "manifest.json").read_text())
    table = Table.grid(padding=(0, 2))
    tokens = sum(entry["tokens"] for entry in manifest["data"])
    table.add_row(
        "trained",
        Text(f"{manifest['steps']:,} steps, {manifest['epochs']:.2g} epochs of {tokens:,} tokens", style="bold"),
    )
    held = {name.removeprefix("eval_"): value for name, value in (manifest.get("held_out") or {}).items()}
    shown = [name for name in ("loss", "accuracy", "margin", "calibration_error") if name in held]
    if shown:
        table.add_row("held out", "  ".join(f"{name} {held[name]:.4g}" for name in shown))
    dropped = {reason: count for entry in manifest["data"] for reason, count in entry["dropped"].items()}
    for reason, count in dropped.items():
        table.add_row("left out", f"{count:,} {reason}")
    table.add_row("time", f"{manifest['seconds']:.1f} s")
    table.add_row("model", Text(f"{out}/model    report {out}/report.html"))
    Console(stderr=True, highlight=False).print(table)


# ---- merging


def _merge(
    data: Mapping[str, Any],
    stage: Mapping[str, Any],
    problems: list[str],
    words: Sequence[str],
    say: Callable[[str], None],
) -> int:
    from training.errors import TrainingError
    from training.merge import MergeSettings, merge

    for word in words:
        key = word.lstrip("+~").partition("=")[0]
        if key.partition(".")[0] not in _MERGE_KEYS:
            problems.append(f"{key}: stage=merge has no use for it (it reads {', '.join(_MERGE_KEYS)})")
    plain = {
        **{key: value for key, value in stage.items() if key != "name"},
        "out": str(Path(str(data["out"])) / "model"),
    }
    settings: MergeSettings | None = validated(MergeSettings, plain, "stage", problems)
    if problems or settings is None:
        raise ConfigError(*dict.fromkeys(problems))
    try:
        print(merge(settings, say))
    except TrainingError as error:
        raise UserError(*error.problems) from error
    return EXIT_DONE
