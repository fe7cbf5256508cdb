"""The shape of `iterate`'s configuration. The recipes, with their comments, are in `conf/recipe/`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import Field, ValidationInfo, field_validator

from factory.records import Frozen
from factory.settings import VllmEngine, is_folder_name

TrainStage = Literal["sft", "dpo", "rpo"]


class Step(Frozen):
    """One command of a round: `use` chooses from its groups (task, suite, ...), `options` are its keys and values."""

    enabled: bool = True
    use: Mapping[str, str] = Field(default_factory=dict)
    options: Mapping[str, Any] = Field(default_factory=dict)


class GenerateStep(Step):
    """`first`: options of the first round, whose model was trained on nothing yet, over the others.

    A round that keeps fewer than `at_least` records ends the run.
    """

    first: Mapping[str, Any] = Field(default_factory=dict)
    at_least: int = Field(1, ge=1)


class RewardStep(Step):
    """A reward model from the round's pairs; `scorer` are options of the scorer that then grades the round's records."""

    scorer: Mapping[str, Any] = Field(default_factory=dict)


class SftStep(Step):
    """`until`: the last round that trains a base model anew, on every round's samples. Later rounds go on from the model of the
    round before, with the other stages alone: iterative preference training on what the model itself got right and wrong
    (Pang et al. 2024, arXiv:2404.19733). None: every round."""

    until: Annotated[int, Field(ge=1)] | None = None


class RpoStep(Step):
    """Each iteration starts from the one before, which is also its reference."""

    iterations: int = Field(1, ge=1)


class MergeStep(Step):
    """The average of these stages' models of the round."""

    of: tuple[TrainStage, ...] = ("sft", "dpo")


class SuiteStep(Step):
    """`when`: at the start and in every round; at the start only, as another way of asking it; at the start and the end."""

    when: Literal["always", "start", "ends"] = "always"


class Control(Step):
    """What the last round's model is measured against: a model trained otherwise, for as many optimiser steps.

    `data`: every round's samples as they came (unfiltered), the solved examples that the first round was shown (seeds),
    or the last round's pairs, which start from where its own DPO starts.
    """

    data: Literal["unfiltered", "seeds", "pairs"]


class Recipe(Frozen):
    """`students` are the base models of the rounds, the last one of all further rounds too.

    `asked` are options with which a trained student is asked, as `model.chat=true` for one that was a base model.
    """

    name: str
    students: tuple[str, ...]
    asked: Mapping[str, Any] = Field(default_factory=dict)
    generate: GenerateStep
    samples: Step = Step()
    pairs: Step = Step()
    reward: RewardStep
    sft: SftStep
    dpo: Step
    rpo: RpoStep
    merge: MergeStep
    evaluate: Mapping[str, SuiteStep]
    controls: Mapping[str, Control] = Field(default_factory=dict)

    @field_validator("students")
    @classmethod
    def _someone(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        if not value:
            raise ValueError("names nobody; name a model, as [smollm2]")
        return value

    def student(self, round_: int) -> str:
        """The base model of a round (from 1); of one that goes on from another, that one's."""
        return self.students[min(self.anew(round_), len(self.students)) - 1]

    def anew(self, round_: int) -> int:
        """The round, up to this one, that last trained a base model."""
        return min(round_, self.sft.until or round_) if self.sft.enabled else round_


class IterateSettings(Frozen):
    """`python -m factory iterate`."""

    recipe: Recipe
    run: str
    out: str
    teacher: str
    rounds: int = Field(ge=1, le=15)
    seeds: tuple[Annotated[int, Field(ge=0, le=30)], ...]
    max_minutes: Annotated[float, Field(gt=0)] | None
    overlap: Literal["auto"] | bool
    trainings: int = Field(ge=1)
    train_devices: str | None
    engine_devices: str | None
    engine: VllmEngine

    _run_is_name = field_validator("run")(is_folder_name)

    @field_validator("trainings")
    @classmethod
    def _room(cls, value: int, info: ValidationInfo) -> int:
        if value > 1 and info.data.get("overlap") is False:
            raise ValueError("needs overlap=true, or overlap=auto on a GPU")
        return value

    @field_validator("seeds")
    @classmethod
    def _different(cls, value: tuple[int, ...]) -> tuple[int, ...]:
        if not value or len(set(value)) != len(value):
            raise ValueError("should be different numbers from 0 to 30, as [0, 1, 2]")
        return value
