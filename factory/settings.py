"""The shape of a configuration: what each key may be. The values, with their comments, are in `conf/`."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, field_validator

from factory.engine.limits import BudgetSettings
from factory.engine.request import Sampling
from factory.engine.server import VllmSettings
from factory.engine.settings import OpenAIEngine as OpenAIEngine
from factory.engine.settings import Policy
from factory.records import Frozen
from factory.sandbox import SandboxConfig
from factory.sources import SourceSettings


class Price(Frozen):
    """In money of your choice per million tokens."""

    input: float = Field(0.0, ge=0)
    output: float = Field(0.0, ge=0)


class ModelSettings(Frozen):
    """A model: what it is called, where it is, and how it likes to be asked."""

    name: str
    path: str
    prompt_form: Literal["chat", "few_shot"] = "chat"
    chat: bool = True  # it has a chat template; without one, conversations are sent as plain text
    sampling: Sampling = Sampling()
    context: int | None = Field(None, ge=1)
    price: Price = Price()


class VllmEngine(VllmSettings, Policy):
    """vLLM servers that the factory starts, watches and stops itself."""

    kind: Literal["vllm"] = "vllm"
    concurrency: Annotated[int, Field(ge=1)] | Literal["auto"] = "auto"  # type: ignore[assignment]
    structured: Literal["auto", "server", "parse"] = "server"
    samples: bool = True


def is_folder_name(value: str | None) -> str | None:
    if value is not None and not re.fullmatch(r"[\w=,+@-][\w.=,+@-]*", value):
        raise ValueError("is no name for a folder: use letters, digits and _ - = , + (out=DIR names any folder)")
    return value


class Endpoint(Frozen):
    """A model with an engine of its own, beside the one that a run is about."""

    model: ModelSettings
    engine: Annotated[OpenAIEngine | VllmEngine, Field(discriminator="kind")]


class GenerateSettings(Frozen):
    """`python -m factory generate`."""

    n: Annotated[int, Field(ge=1)] | None
    attempts: Annotated[int, Field(ge=1)] | None
    seed: int
    run: str
    out: str
    in_flight: Annotated[int, Field(ge=1)] | None
    task: Mapping[str, Any]
    source: SourceSettings
    scorers: Mapping[str, Mapping[str, Any]]
    keep: str | None
    model: ModelSettings
    engine: Annotated[OpenAIEngine | VllmEngine, Field(discriminator="kind")]
    endpoints: Mapping[str, Endpoint]
    sandbox: SandboxConfig
    budget: BudgetSettings

    _run_is_name = field_validator("run")(is_folder_name)


class EvaluateSettings(Frozen):
    """`python -m factory evaluate`."""

    seed: int
    run: str | None
    out: str | None
    in_flight: Annotated[int, Field(ge=1)] | None
    compare: tuple[str, ...] | None
    suite: Mapping[str, Any]
    source: SourceSettings
    model: ModelSettings
    engine: Annotated[OpenAIEngine | VllmEngine, Field(discriminator="kind")]
    judge: Endpoint | None
    baseline: Endpoint | None
    sandbox: SandboxConfig
    budget: BudgetSettings

    _run_is_name = field_validator("run")(is_folder_name)

    @field_validator("compare")
    @classmethod
    def _is_pair(cls, value: tuple[str, ...] | None) -> tuple[str, ...] | None:
        if value is not None and len(value) != 2:
            raise ValueError("names two folders, as compare=[outputs/evaluate/A,outputs/evaluate/B]")
        return value

    @property
    def name(self) -> str:
        """The run's name; made of suite and model where none is given."""
        made = f"{self.suite.get('name')}-{self.model.name}"
        return self.run or re.sub(r"[^\w=,+@-]+", "_", made).strip("_")

    @property
    def folder(self) -> Path:
        return Path(self.out) if self.out else Path("outputs/evaluate") / self.name
