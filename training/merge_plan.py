"""What to merge, and whether it can be: every problem is found here, before anything is written."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict

from training.errors import TrainingError
from training.merge_files import FLOATS, WHOLE, Entry, Weights, and_more, free_bytes, open_weights, sizes

WARP_ETA = 0.3  # the paper's update rate (section 4)
# Fields of config.json that say nothing about what the weights mean; endings, so that `attention_dropout` is among them.
_FREE_FIELDS = (
    *(
        "_name_or_path",
        "_commit_hash",
        "transformers_version",
        "dtype",
        "use_cache",
        "initializer_range",
        "problem_type",
    ),
    *("return_dict", "output_attentions", "output_hidden_states", "chunk_size_feed_forward", "pretraining_tp"),
    *("dropout", "_token_id", "attn_implementation"),
)
_SHOWN = 3  # differences named for a folder; the rest is counted
_RELATED = "only models fine-tuned from one and the same can be merged"


class MergeSettings(BaseModel):
    """What to merge and how; which values go together is checked by `merge`, with everything else."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    models: tuple[Path, ...]  # folders; the first also lends its configuration, tokenizer and chat template
    method: Literal["average", "slerp", "warp"] = "average"
    weights: tuple[float, ...] | None = None  # average: one a model, only their ratios matter; null is uniform
    init: Path | None = None  # slerp and warp: the model that all were fine-tuned from
    l: float | None = None  # slerp and warp of two: 0 is the first model, 1 the second; null is uniform  # noqa: E741
    eta: float | None = None  # warp: how much of the way from `init` is kept, 0..1; null is 0.3
    dtype: Literal["float32", "bfloat16", "float16"] | None = None  # null keeps the first model's, tensor by tensor
    out: Path
    max_shard_gb: float = 5.0  # 1e9 bytes of weights a file at most, unless one tensor is larger


@dataclass(frozen=True)
class Plan:
    """What has been checked: the inputs, and every tensor of the result."""

    settings: MergeSettings
    models: Sequence[Weights]
    init: Weights | None
    entries: Mapping[str, Entry]

    @property
    def inputs(self) -> Sequence[Weights]:
        return [*self.models, *([self.init] if self.init else [])]

    @property
    def eta(self) -> float:
        if self.settings.method == "slerp":
            return 1.0
        return WARP_ETA if self.settings.eta is None else self.settings.eta


def checked(settings: MergeSettings) -> Plan:
    """Open every input and compare it with the first model; raises `TrainingError` with all problems.

    Two things are looked at only when all else is well, as they need models that fit together: the values of tensors of
    whole numbers, and the room that the result needs.
    """
    problems = _wrong_settings(settings)
    opened: dict[Path, Weights] = {}
    configs: dict[Path, Mapping[str, Any]] = {}
    folders = {**dict.fromkeys(settings.models, "models"), **({settings.init: "init"} if settings.init else {})}
    for folder, key in folders.items():
        try:
            opened[folder] = open_weights(folder)
            configs[folder] = _config(folder)
        except TrainingError as error:
            problems += [f"{key}: {problem}" for problem in error.problems]
    for weights in opened.values():
        problems += _wrong_dtypes(weights)
    known = [folder for folder in folders if folder in configs]
    for folder in known[1:]:
        problems += _differences(opened[known[0]], configs[known[0]], opened[folder], configs[folder])
    problems += _wrong_out(settings)
    if problems:
        raise TrainingError(*problems)
    models = [opened[folder] for folder in settings.models]
    plan = Plan(settings, models, opened[settings.init] if settings.init else None, _entries(models[0], settings.dtype))
    problems = [*_unequal(plan), *_too_large(plan)]
    if problems:
        raise TrainingError(*problems)
    return plan


def _wrong_settings(settings: MergeSettings) -> list[str]:
    s, problems = settings, []
    method, spherical, count = s.method, s.method != "average", len(s.models)
    least = 1 if method == "warp" else 2  # WARP of one model only goes back towards init
    if count < least:
        problems.append(f"models: {count} given; method={method} needs {least} or more")
    if spherical and s.init is None:
        problems.append(f"init: missing; method={method} needs the folder of the model that all were fine-tuned from")
    for key, value, used, users in (
        ("init", s.init, spherical, "slerp and warp"),
        ("l", s.l, spherical, "slerp and warp"),
        ("eta", s.eta, method == "warp", "warp"),
        ("weights", s.weights, not spherical, "average"),
    ):
        if value is not None and not used:
            problems.append(f"{key}: nothing reads it with method={method}, it is for {users}; take it away")
    for key, number in (("l", s.l), ("eta", s.eta)):
        if number is not None and not 0 <= number <= 1:
            problems.append(f"{key}: {number:g} is out of range; choose 0 to 1")
    if spherical and s.l is not None and count != 2:
        problems.append(f"l: {s.l:g} is for two models and there {'is' if count == 1 else 'are'} {count}; take it away")
    if s.weights is not None:
        if len(s.weights) != count:
            problems.append(f"weights: {len(s.weights)} given for {count} models; give one for each")
        if not all(0 <= weight < math.inf for weight in s.weights) or not any(s.weights):
            problems.append(f"weights: {list(s.weights)}; give numbers that are not negative, one at least above 0")
    if not s.max_shard_gb > 0:
        problems.append(f"max_shard_gb: {s.max_shard_gb:g}; choose a number above 0")
    return problems


def _config(folder: Path) -> Mapping[str, Any]:
    """The folder's config.json with the defaults of its architecture filled in, so that files of two releases compare."""
    from transformers import AutoConfig

    if not (folder / "config.json").is_file():
        raise TrainingError(f"{folder}: holds no config.json; copy the model again, whole")
    try:
        return AutoConfig.from_pretrained(folder, trust_remote_code=False, local_files_only=True).to_dict()  # type: ignore[no-any-return]
    except Exception as error:  # each architecture has its own ways to refuse a configuration
        first = str(error).strip().partition("\n")[0]
        raise TrainingError(
            f"{folder}: transformers cannot read its config.json ({type(error).__name__}: {first}); mend the file, or"
            " upgrade transformers if it does not know the architecture"
        ) from error


def _wrong_dtypes(weights: Weights) -> list[str]:
    wrong = {name: entry.dtype for name, entry in weights.entries.items() if entry.dtype not in (*FLOATS, *WHOLE)}
    if not wrong:
        return []
    name, dtype = next(iter(wrong.items()))
    return [f"{weights.folder}: {name} is {dtype}{and_more(len(wrong) - 1)}; save the model in bfloat16 or float32"]


def _differences(first: Weights, config: Mapping[str, Any], other: Weights, its: Mapping[str, Any]) -> list[str]:
    """How a model differs from the first one where it must not: configuration, names of tensors, shapes."""
    problems = []
    for key in sorted(config.keys() | its.keys()):
        if not key.endswith(tuple(_FREE_FIELDS)) and config.get(key) != its.get(key):
            problems.append(
                f"{other.folder}: config.json has {key}={its.get(key)!r}, that of {first.folder} {config.get(key)!r};"
                f" {_RELATED}"
            )
    ours, theirs = first.entries, other.entries
    for holder, lacking, setting in ((first, other, its), (other, first, config)):
        lost = [name for name in holder.entries if name not in lacking.entries]
        problems += [_lost(name, holder, lacking, setting) for name in lost[:_SHOWN]]
        if len(lost) > _SHOWN:
            problems.append(f"{lacking.folder}: lacks {len(lost) - _SHOWN} more tensors of {holder.folder}; {_RELATED}")
    odd = [name for name in ours if name in theirs and ours[name].shape != theirs[name].shape]
    for name in odd[:_SHOWN]:
        shapes = f"{list(theirs[name].shape)}, in {first.folder} {list(ours[name].shape)}"
        problems.append(f"{other.folder}: {name} has the shape {shapes}; {_RELATED}")
    if len(odd) > _SHOWN:
        problems.append(f"{other.folder}: {len(odd) - _SHOWN} more tensors differ in shape; {_RELATED}")
    kinds = [n for n in ours if n in theirs and (ours[n].dtype in FLOATS) != (theirs[n].dtype in FLOATS)]
    if kinds:
        problems.append(
            f"{other.folder}: {kinds[0]} is {theirs[kinds[0]].dtype}, in {first.folder} {ours[kinds[0]].dtype}"
            f"{and_more(len(kinds) - 1)}; a quantised model cannot be merged, only the one that it was made from"
        )
    return problems


def _lost(name: str, holder: Weights, lacking: Weights, config: Mapping[str, Any]) -> str:
    """A tensor that one model lacks; where it has the embedding's shape, it is most likely tied to it there."""
    twins = [
        twin
        for twin, entry in lacking.entries.items()
        if "embed" in twin and twin != name and entry.shape == holder.entries[name].shape
    ]
    if not twins or not config.get("tie_word_embeddings"):
        return f"{lacking.folder}: lacks {name}, which {holder.folder} has; {_RELATED}"
    return (
        f"{lacking.folder}: lacks {name}, which {holder.folder} has: it is tied to {twins[0]} in the one"
        " (tie_word_embeddings) and saved on its own in the other; load the other with tie_word_embeddings=True and save"
        " it again if the two are equal there, else untie the first"
    )


def _wrong_out(settings: MergeSettings) -> list[str]:
    """Whether `out` may be written: new, empty, or a former merge and nothing else."""
    out, shown = settings.out.resolve(), settings.out
    inputs = [*settings.models, *([settings.init] if settings.init else [])]
    if inside := [folder for folder in inputs if folder.resolve().is_relative_to(out)]:
        return [f"out: {shown} is or holds the input {inside[0]}, which would be replaced; choose another folder"]
    if out.exists() and not out.is_dir():
        return [f"out: {shown} is a file; choose a folder"]
    if not out.is_dir() or not (there := {str(p.relative_to(out)) for p in out.rglob("*") if not p.is_dir()}):
        return []
    try:
        manifest = json.loads((out / "manifest.json").read_bytes())
        made = {*manifest["files"], "manifest.json", "README.md"} if manifest["stage"] == "merge" else set()
    except (OSError, ValueError, KeyError, TypeError):
        made = set()
    if foreign := sorted(there - made):
        return [
            f"out: {shown} holds {foreign[0]}{and_more(len(foreign) - 1)}, which merge did not write; choose another folder"
        ]
    return []


def _entries(first: Weights, dtype: str | None) -> dict[str, Entry]:
    """The result's tensors: the first model's, with floats in `dtype`."""
    if dtype is None:
        return dict(first.entries)
    cast = {name: short for short, name in FLOATS.items()}[dtype]
    return {name: Entry(cast, e.shape) if e.dtype in FLOATS else e for name, e in first.entries.items()}


def _unequal(plan: Plan) -> Iterator[str]:
    """Tensors of whole numbers (positions, masks) have no mean: they must be the same everywhere."""
    import torch

    first, *others = plan.inputs
    for name in [name for name, entry in first.entries.items() if entry.dtype in WHOLE]:
        value = first.read(name)
        for other in others:
            if not torch.equal(value, other.read(name)):
                yield (
                    f"{other.folder}: {name} ({other.entries[name].dtype}) differs from that in {first.folder} and numbers"
                    f" that are not floats have no mean; {_RELATED}, and not when quantised"
                )


def _too_large(plan: Plan) -> list[str]:
    need, free = sizes(plan.entries.values())[1], free_bytes(plan.settings.out.absolute())
    if need <= free:
        return []
    return [
        f"out: {plan.settings.out} has {free / 1e9:.1f} GB free and the result needs {need / 1e9:.1f} GB; choose another disk"
    ]
