"""A reward model by its files: its outputs, their weights, how much it reads. Nothing heavy is loaded for that."""

from __future__ import annotations

import functools
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from factory.engine.models import ResolvedModel, resolve_model
from factory.engine.models_hub import hub_snapshot
from factory.errors import UserError, near
from factory.records import content_hash
from factory.reward.settings import HELPSTEER2, WEIGHTS, InProcess, PoolingServers, RewardModelSettings, Statistics

_HEADED = "ForSequenceClassification"


class RewardModel:
    """What `settings` name; `where` is their key, for messages. Files are read when first needed."""

    def __init__(self, name: str, settings: RewardModelSettings, where: str) -> None:
        self.name, self.settings, self.where = name, settings, where

    def problem(self, text: str, key: str = "path") -> UserError:
        """A message that names the key and its value."""
        value = getattr(self.settings, key)
        shown = f"={value}" if value is None or isinstance(value, str) else ""
        return UserError(f"{self.where}.{key}{shown}: {text}")

    def check(self) -> list[str]:
        """What is wrong with the model, as far as files on this machine tell."""
        problems: list[str] = []
        engine = self.settings.engine
        if not isinstance(engine, InProcess | PoolingServers):
            engine.api_key(f"{self.where}.engine", problems)
        if self._in_a_hub:
            return problems
        try:
            assert self.weights
            if self.settings.normalise == "held_out":
                assert self.held_out
        except UserError as error:
            problems += error.problems
        return problems

    @property
    def _in_a_hub(self) -> bool:
        """Then it is checked when the run begins: asking the hub is no part of a check."""
        path = self.settings.path
        return not (path.startswith(("package:", "/", ".", "~")) or Path(path).exists()) and path.count("/") == 1

    @functools.cached_property
    def resolved(self) -> ResolvedModel:
        try:
            return resolve_model(self.settings.path)
        except UserError as error:
            said = error.problems[0].removeprefix(f"model.path: {self.settings.path}").lstrip(": ")
            raise self.problem(said) from error

    @functools.cached_property
    def identity(self) -> str:
        """Names what a reward depends on beside the text: the model's content, and who computes it in what precision."""
        engine = self.settings.engine
        if isinstance(engine, InProcess | PoolingServers):
            return content_hash(self.resolved.digest, engine.kind, engine.dtype)
        return content_hash(self.resolved.digest, engine.identity or engine.urls, engine.served_name)

    @functools.cached_property
    def folder(self) -> Path | None:
        """Where its files lie; None for a hub model that is not downloaded."""
        found = self.resolved
        return Path(found.path) if found.kind != "hub" else hub_snapshot(found.path, found.revision or "")

    @functools.cached_property
    def config(self) -> Mapping[str, Any]:
        """Its config.json, checked to be a reward model's. Raises `UserError`."""
        folder = self.folder or self._downloaded()
        config: dict[str, Any] = json.loads((folder / "config.json").read_bytes())
        kinds = config.get("architectures") or ["none named"]
        if not str(kinds[0]).endswith(_HEADED):
            raise self.problem(
                f"is no reward model: its architecture is {kinds[0]}, wanted is one that ends in {_HEADED}, as "
                "train stage=reward writes it in outputs/reward/model"
            )
        if config.get("is_encoder_decoder"):
            raise self.problem(f"{kinds[0]} reads with an encoder; wanted is a decoder with a head at the last token")
        return config

    def _downloaded(self) -> Path:
        """The files of a hub model but the weights, which its engine fetches."""
        from huggingface_hub import snapshot_download

        found = self.resolved
        try:
            return Path(
                snapshot_download(found.path, revision=found.revision, allow_patterns=["*.json", "*.jinja", "*.txt"])
            )
        except Exception as error:  # whatever the HTTP library of the day raises when there is no way out
            raise self.problem(f"cannot be downloaded: {str(error).splitlines()[0]}") from error

    @property
    def own_dtype(self) -> str:
        """What its weights are saved as. One that was trained in float32 may lose all it learned in bfloat16, which rounds
        away what a small learning rate changed."""
        return str(self.config.get("dtype") or self.config.get("torch_dtype") or "float32")

    @functools.cached_property
    def outputs(self) -> Sequence[str]:
        """The names of the head's outputs, in their order."""
        labels = self.config.get("id2label") or {"0": "LABEL_0", "1": "LABEL_1"}  # transformers' own default
        own = [str(labels[key]) for key in sorted(labels, key=int)]
        names = self.settings.attributes
        if names is None:
            return own
        if len(names) != len(own):
            raise UserError(
                f"{self.where}.attributes: {len(names)} names for the {len(own)} outputs of {self.settings.path}"
            )
        return names

    @functools.cached_property
    def weights(self) -> Sequence[float]:
        """A weight for each output: the reward is their sum. Those that are said, else the model's own."""
        said, names = self.settings.weights, self.outputs
        if isinstance(said, str):
            unnamed = [f"LABEL_{number}" for number in range(len(HELPSTEER2))]
            if list(names) == unnamed:  # as HelpSteer2's models have them
                names = HELPSTEER2
            return self._of(WEIGHTS[said], names, said)
        if said is not None:
            return self._of(said, names, "")
        if (own := self.own_weights) is not None:
            return self._of(own, names, "the model's own")
        if len(names) == 1:
            return [1.0]
        raise UserError(
            f"{self.where}.weights: must be given: the model has the outputs {', '.join(names)} and does not say what they "
            f"weigh; as {self.where}.weights='{{{names[0]}: 1.0}}' or one of {', '.join(WEIGHTS)}"
        )

    @functools.cached_property
    def own_weights(self) -> Mapping[str, float] | None:
        """What training wrote down: in config.json, or in the manifest beside the model's folder."""
        found = self.config.get("attribute_weights") or self.manifest.get("attributes")
        if self.manifest.get("objective") == "pairwise" or len(self.outputs) == 1:
            return None
        return found or None

    @functools.cached_property
    def manifest(self) -> Mapping[str, Any]:
        """That of `train stage=reward`, which lies beside the model's folder; empty where there is none."""
        file = self.folder.parent / "manifest.json" if self.folder else None
        if file is None or not file.is_file():
            return {}
        found = json.loads(file.read_bytes())
        return found if isinstance(found, dict) and found.get("stage") == "reward" else {}

    def _of(self, weights: Mapping[str, float], names: Sequence[str], source: str) -> Sequence[float]:
        unknown = [name for name in weights if name not in names]
        if unknown:
            shown = f"={source}" if source in WEIGHTS else f" ({source})" if source else ""
            raise UserError(
                f"{self.where}.weights{shown}: the model has no output {unknown[0]}{near(unknown[0], names)} (there is "
                f"{', '.join(names)}; {self.where}.attributes names them)"
            )
        return [float(weights.get(name, 0.0)) for name in names]

    @functools.cached_property
    def held_out(self) -> Statistics:
        """Mean and standard deviation of its rewards of the answers that its training held out."""
        found = self.manifest.get("held_out") or {}
        if "eval_reward_mean" not in found:
            raise self.problem(
                f"there is no manifest.json of train stage=reward with held-out figures beside {self.settings.path}; give "
                "{mean: ..., sd: ...} or {data: FILE}",
                "normalise",
            )
        if self.settings.weights is not None:
            raise self.problem(
                "those figures are of the model's own weights; give {data: FILE}, or no weights", "normalise"
            )
        try:
            return Statistics(mean=found["eval_reward_mean"], sd=found["eval_reward_std"])
        except ValueError as error:
            raise self.problem(
                "the rewards of what was held out are all the same or no numbers", "normalise"
            ) from error

    def reward(self, values: Sequence[float]) -> float:
        """One number from the head's outputs."""
        return sum(weight * value for weight, value in zip(self.weights, values, strict=True))
