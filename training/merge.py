"""`stage=merge`: several models fine-tuned from one become one, tensor by tensor, in float32.

- average: the mean of the weights, uniform or weighted (Llama 3.1 averages so at each stage).
- slerp: init + SLERP of the task vectors (each model minus `init`), which keeps their norm where a mean shrinks it.
- warp: slerp, then back towards `init`: (1-eta) init + eta slerp (WARP, arXiv 2406.16768; Gemma 2).

The settings and all checks are in `merge_plan`, the formulas in `merge_math`, the files in `merge_files`. Safetensors in, safetensors out; memory holds a few tensors at a time,
however large the models. Everything is checked before anything is written; the result is written beside `out` and renamed.
"""

from __future__ import annotations

import json
import math
import os
import shutil
from collections.abc import Callable, Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

from training.errors import TrainingError
from training.merge_files import (
    FLOATS,
    WHOLE,
    Weights,
    content_digest,
    file_digest,
    shard_names,
    sizes,
    write_index,
    write_shard,
)
from training.merge_math import Arc, average, from_start, merge_task_vectors
from training.merge_plan import MergeSettings, Plan, checked

if TYPE_CHECKING:
    import torch

__all__ = ["MergeSettings", "merge"]

# What the first model lends to the result beside its weights.
_COPIED = (
    *("config.json", "generation_config.json", "tokenizer*", "special_tokens_map.json", "added_tokens.json", "vocab.*"),
    *("merges.txt", "*.model", "*.tiktoken", "chat_template*", "additional_chat_templates/*", "LICENSE*", "NOTICE*"),
)


def merge(settings: MergeSettings, say: Callable[[str], None]) -> Path:
    """Merge as `settings` say and return the folder that holds the result, a model as `transformers` loads it.

    Inputs may be float32, bfloat16 or float16, and differ in it; each tensor is turned into float32, merged, and cast
    once. Tensors of whole numbers must be the same in all. `say` is told a line at a time what happens. Raises
    `TrainingError` with every problem found, before anything is written; a value that is not finite, or too large for the
    result's dtype, is found on the way, and then nothing is left behind.
    """
    plan = checked(settings)
    parameters, size = sizes(plan.entries.values())
    say(f"merging {len(plan.models)} models by {settings.method}: {parameters:,} parameters, {size / 1e9:.2f} GB")
    out = settings.out.absolute()
    fresh = out.with_name(f".{out.name}.new")
    try:
        shutil.rmtree(fresh, ignore_errors=True)  # left by a run that was killed
        fresh.mkdir(parents=True)
        arcs: list[Arc] = []
        digests = {
            **_write_weights(plan, fresh, arcs, say),
            **_copy_rest(plan.models[0].folder, fresh, settings.dtype),
        }
        _write_account(plan, fresh, digests, arcs, say)
        _put_in_place(fresh, out)
    except OSError as error:
        raise TrainingError(
            f"out: {out} could not be made ({error}); make room there or choose another folder"
        ) from error
    finally:
        shutil.rmtree(fresh, ignore_errors=True)
    say(f"merged into {settings.out}")
    return settings.out


# ---- the merge


def _write_weights(plan: Plan, folder: Path, arcs: list[Arc], say: Callable[[str], None]) -> dict[str, str]:
    """Write the weight files; adds the arcs that SLERP took to `arcs` and returns each file's digest."""

    def make(name: str) -> torch.Tensor:
        if plan.entries[name].dtype in WHOLE:
            return plan.models[0].read(name)
        tensor, taken = _merged(plan, name)
        arcs.extend(taken)
        return _cast(plan, name, tensor)

    shards = shard_names(plan.entries, plan.settings.max_shard_gb * 1e9)
    digests = {}
    for number, (file, names) in enumerate(shards.items(), 1):
        digests[file] = write_shard(folder / file, names, plan.entries, make)
        say(f"wrote {file} ({number} of {len(shards)})")
    write_index(folder, shards, plan.entries)
    digests |= {path.name: file_digest(path) for path in folder.glob("*.index.json")}
    return digests


def _merged(plan: Plan, name: str) -> tuple[torch.Tensor, list[Arc]]:
    """One tensor of the result in float32. Holds three of its size: the merge, the next model's, and `init`'s."""
    tensors = (model.read_float(name) for model in plan.models)
    if plan.init is None:
        return average(tensors, plan.settings.weights or [1.0] * len(plan.models)), []
    start = plan.init.read_float(name)
    vector, arcs = merge_task_vectors((tensor.sub_(start) for tensor in tensors), plan.settings.l)
    return from_start(start, vector, plan.eta), arcs


def _cast(plan: Plan, name: str, tensor: torch.Tensor) -> torch.Tensor:
    import torch

    dtype = FLOATS[plan.entries[name].dtype]
    cast = tensor.to(getattr(torch, dtype))
    if _finite(cast):
        return cast
    for weights in plan.inputs:
        if not _finite(weights.read(name)):
            raise TrainingError(
                f"{weights.folder}: {name} holds NaN or infinity: the model is broken; leave it out or take an earlier"
                " checkpoint"
            )
    raise TrainingError(f"dtype: {name} has values too large for {dtype}; choose dtype=bfloat16 or float32")


def _finite(tensor: torch.Tensor) -> bool:
    """Whether all values are finite: NaN comes through both extremes, and they cost one pass and no memory."""
    return tensor.numel() == 0 or all(math.isfinite(end) for end in tensor.aminmax())


def _copy_rest(source: Path, folder: Path, dtype: str | None) -> dict[str, str]:
    """Copy configuration, tokenizer and chat template; config.json tells the result's dtype. Returns digests."""
    digests = {}
    for path in _companions(source):
        name = str(path.relative_to(source))
        (folder / name).parent.mkdir(exist_ok=True)
        shutil.copyfile(path, folder / name)
        if name == "config.json" and dtype is not None:
            config = json.loads(path.read_bytes())
            config["torch_dtype" if "torch_dtype" in config else "dtype"] = dtype  # older and newer releases' name
            (folder / name).write_text(json.dumps(config, indent=2) + "\n")
        digests[name] = file_digest(folder / name)
    return digests


def _companions(folder: Path) -> list[Path]:
    return sorted({path for pattern in _COPIED for path in folder.glob(pattern) if path.is_file()})


def _put_in_place(fresh: Path, out: Path) -> None:
    """Rename the finished folder to its name; a former merge there goes once the new one stands."""
    old = out.with_name(f".{out.name}.old")
    shutil.rmtree(old, ignore_errors=True)
    if out.exists():
        os.rename(out, old)
    os.rename(fresh, out)
    shutil.rmtree(old, ignore_errors=True)


# ---- the account of it


def _write_account(
    plan: Plan, folder: Path, digests: Mapping[str, str], arcs: Sequence[Arc], say: Callable[[str], None]
) -> None:
    """Write manifest.json and README.md: what the result was made from, by content, and how."""
    settings, parameters = plan.settings, sizes(plan.entries.values())[0]
    described = {weights.folder: _described(weights) for weights in plan.inputs}
    notes = _notes(settings.models, described)
    for note in notes:
        say(note)
    about: dict[str, Any] = {"shares": _shares(settings)}
    if plan.init is not None:
        angles = [math.degrees(arc.angle) for arc in arcs if arc.angle is not None]
        mean = sum(angles) / len(angles) if angles else None
        linear = sum(arc.angle is None for arc in arcs)
        about = {"eta": plan.eta, "mean_angle_degrees": mean, "linear": linear}
    manifest = {
        "stage": "merge",
        "settings": settings.model_dump(mode="json"),
        "models": [described[model] for model in settings.models],
        "init": described[settings.init] if settings.init else None,
        **about,
        "parameters": parameters,
        "dtypes": sorted({FLOATS[e.dtype] for e in plan.entries.values() if e.dtype in FLOATS}),
        "notes": notes,
        "files": dict(sorted(digests.items())),
        "versions": {name: version(name) for name in ("torch", "safetensors", "transformers")},
    }
    (folder / "manifest.json").write_text(json.dumps(manifest, indent=2) + "\n")
    (folder / "README.md").write_text(_card(manifest))


def _described(weights: Weights) -> dict[str, Any]:
    files = [*weights.files, *_companions(weights.folder)]
    digests = {str(path.relative_to(weights.folder)): file_digest(path) for path in files}
    return {"folder": str(weights.folder), "digest": content_digest(digests), "files": digests}


def _notes(models: Sequence[Path], described: Mapping[Path, Mapping[str, Any]]) -> list[str]:
    """Differences that do not forbid the merge, and that a person would want to know."""
    first, *others = models
    return [
        f"{name} differs between {first} and {other}: the result has that of {first}"
        for other in dict.fromkeys(others)
        for name in ("tokenizer.json", "tokenizer_config.json", "chat_template.jinja")
        if described[first]["files"].get(name) != described[other]["files"].get(name)
    ]


def _shares(settings: MergeSettings) -> list[float]:
    weights = settings.weights or [1.0] * len(settings.models)
    return [weight / sum(weights) for weight in weights]


def _card(manifest: Mapping[str, Any]) -> str:
    settings = manifest["settings"]
    how = {
        "average": "The mean of the models' weights, in the shares below.",
        "slerp": "The initial model plus the spherical interpolation (SLERP) of the task vectors, tensor by tensor.",
        "warp": "The initial model plus eta times the spherical interpolation (SLERP) of the task vectors, tensor by tensor.",
    }[settings["method"]]
    rows = [
        (model["folder"], f"{manifest['shares'][place]:.4g}" if "shares" in manifest else "model", model["digest"])
        for place, model in enumerate(manifest["models"])
    ]
    rows += [(manifest["init"]["folder"], "initial model", manifest["init"]["digest"])] if manifest["init"] else []
    facts = [f"- parameters: {manifest['parameters']:,} in {', '.join(manifest['dtypes'])}, computed in float32"]
    if manifest["init"]:
        uniform = "uniform (1/m for the m-th model)" if settings["l"] is None else settings["l"]
        facts += [f"- l: {uniform}", f"- eta: {manifest['eta']:g} (1 is the whole way from the initial model, 0 none)"]
        angle = manifest["mean_angle_degrees"]
        facts.append(
            f"- task vectors: {'no angle between any' if angle is None else f'{angle:.1f} degrees apart on average'};"
            f" {manifest['linear']} merged linearly (zero, parallel or opposite)"
        )
        facts.append("- source of the method: Ramé et al. 2024, WARP, arXiv 2406.16768")
    facts += [f"- note: {note}" for note in manifest["notes"]]
    table = "\n".join(f"| `{folder}` | {part} | `{digest}` |" for folder, part, digest in rows)
    return (
        "---\nlibrary_name: transformers\ntags:\n- merge\n---\n\n# A merged model\n\n"
        f"{how} Nothing was trained to make it, and nothing was measured on it here: evaluate it before use.\n\n"
        f"| made from | share or part | content digest (BLAKE2b) |\n|---|---|---|\n{table}\n\n"
        + "\n".join(facts)
        + "\n\n"
        "Configuration, tokenizer and chat template are those of the first model. `manifest.json` has the settings and the\n"
        "digest of every file that was read or written.\n"
    )
