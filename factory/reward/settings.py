"""The settings of reward models, and published weights of their attributes."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import Discriminator, Field, Tag, field_validator, model_validator

from factory.engine.server import VllmSettings
from factory.engine.settings import OpenAIEngine, Policy
from factory.records import Frozen

HELPSTEER2 = ("helpfulness", "correctness", "coherence", "complexity", "verbosity")
# HelpSteer2 (Wang et al. 2024) for its 70B and 340B models; the second set is Nemotron-4 340B's, too.
WEIGHTS: Mapping[str, Mapping[str, float]] = {
    "helpsteer2-70b": dict(zip(HELPSTEER2, (0.65, 0.8, 0.45, 0.55, -0.4), strict=True)),
    "helpsteer2-340b": dict(zip(HELPSTEER2, (0.3, 0.74, 0.46, 0.47, -0.33), strict=True)),
}


class InProcess(Frozen):
    """torch, in the factory's own process. `auto`: the GPU where there is one, in what the model's weights are saved as;
    else the CPU in float32."""

    kind: Literal["torch"] = "torch"
    device: str = "auto"
    dtype: Literal["auto", "float32", "bfloat16", "float16"] = "auto"
    batch_tokens: int | None = Field(None, ge=1)  # of one forward pass, padding included; null: 4,096, on a GPU 16,384

    @field_validator("device")
    @classmethod
    def _is_device(cls, value: str) -> str:
        if value not in ("auto", "cpu") and value.partition(":")[0] not in ("cuda", "mps", "xpu"):
            raise ValueError("should be auto, cpu, cuda or a certain one, as cuda:1")
        return value


class PoolingServers(VllmSettings, Policy):
    """vLLM's pooling servers, started, watched and stopped by the factory; keys as in conf/engine/vllm.yaml. dtype `auto`
    is what the model's weights are saved as."""

    kind: Literal["vllm"]
    dtype: str = "auto"
    concurrency: int = Field(256, ge=1)


class PoolingAddress(OpenAIEngine):
    """A pooling server of yours with vLLM's `/classify`. `served_name` is what it knows the model by; null: its path."""

    served_name: str | None = None


class Statistics(Frozen):
    """A reward r becomes (r - mean) / sd."""

    mean: float = Field(allow_inf_nan=False)
    sd: float = Field(gt=0, allow_inf_nan=False)


class Calibration(Frozen):
    """The statistics are those of this model's rewards of the first `limit` conversations in a file, folder or run."""

    data: str
    limit: int = Field(1000, ge=2)


def _form(value: Any) -> str:
    """Which of its forms a value is meant to have, so that what is wrong with it is told of that one only."""
    if isinstance(value, Calibration) or (isinstance(value, Mapping) and "data" in value):
        return "conversations"
    if isinstance(value, Mapping | Statistics):
        return "keys"
    return "name"


_Normalise = Annotated[
    Annotated[Literal["held_out"], Tag("name")]
    | Annotated[Statistics, Tag("keys")]
    | Annotated[Calibration, Tag("conversations")],
    Discriminator(_form),
]
_Weights = Annotated[
    Annotated[Literal["helpsteer2-70b", "helpsteer2-340b"], Tag("name")] | Annotated[Mapping[str, float], Tag("keys")],
    Discriminator(lambda value: "keys" if isinstance(value, Mapping) else "name"),
]


class RewardModelSettings(Frozen):
    """One reward model. `path` is a hub id, a folder or package:NAME, also where a server runs it: its tokenizer and
    the names of its outputs are read there."""

    path: str
    engine: Annotated[InProcess | PoolingServers | PoolingAddress, Field(discriminator="kind")] = InProcess()
    attributes: tuple[str, ...] | None = None  # names of the outputs, in their order; null: the model's own
    weights: _Weights | None = None  # null: the model's own
    normalise: _Normalise | None = None
    weight: float | None = Field(None, gt=0)  # with combine=weighted
    max_length: int | None = Field(None, ge=1)  # tokens; null: the model's context

    @model_validator(mode="before")
    @classmethod
    def _engine_by_kind(cls, data: Any) -> Any:
        """Keys of the engine in process need no kind."""
        if isinstance(data, Mapping) and isinstance(data.get("engine"), Mapping) and "kind" not in data["engine"]:
            return {**data, "engine": {"kind": "torch", **data["engine"]}}
        return data
