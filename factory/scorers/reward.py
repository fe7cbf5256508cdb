"""Reward models: one, or several combined so that an answer must please all of them (Coste et al. 2023, reward model ensembles).

What a model's head says of a conversation is in the run's journal, so other weights, statistics or combinations compute
nothing again.
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from typing import Annotated, Any, Literal

from pydantic import Field, StringConstraints

from factory.errors import ScorerError
from factory.generators.base import Context
from factory.records import Frozen, Message, Record, Score
from factory.resources import Resources
from factory.reward.calibration import Conversations
from factory.reward.engines import Rewarder, open_rewarder
from factory.reward.model import RewardModel
from factory.reward.settings import Calibration, RewardModelSettings, Statistics

_Name = Annotated[str, StringConstraints(pattern=r"^\w[\w-]*$")]  # also that of a folder for its server's log


class RewardSettings(Frozen):
    """`combine` says how the models' normalised rewards become one; `minimum` lets no model be fooled for all."""

    models: Mapping[_Name, RewardModelSettings] = Field(default_factory=dict)
    combine: Literal["mean", "minimum", "weighted"] = "mean"


class Reward:
    """One score, `reward`; `detail.models` has what each model said: `raw`, `attributes` where it has several outputs,
    and `normalised`."""

    uses_sandbox = False
    Settings = RewardSettings
    names = ("reward",)
    templates: tuple[str, ...] = ()

    def __init__(self, settings: RewardSettings) -> None:
        self.settings = settings
        self._members: Mapping[str, _Member] = {}

    def check(self, where: str) -> list[str]:
        """What is wrong with the settings and with the models on this machine. Must be called before `score`."""
        models, problems = self.settings.models, []
        if not models:
            problems.append(f"{where}.models: names no reward model; as {where}.models.a.path=outputs/reward/model")
        self._members = {
            name: _Member(RewardModel(name, settings, f"{where}.models.{name}")) for name, settings in models.items()
        }
        for name, settings in models.items():
            key = f"{where}.models.{name}"
            problems += self._members[name].check()
            if (settings.weight is not None) != (self.settings.combine == "weighted"):
                wanted = "must be given" if settings.weight is None else "is read only"
                problems.append(f"{key}.weight: {wanted} with {where}.combine=weighted")
            if len(models) > 1 and settings.normalise is None:
                problems.append(
                    f"{key}.normalise: must be given where several models are combined, whose scales differ: held_out, "
                    "{data: FILE}, {mean: ..., sd: ...}, or {mean: 0, sd: 1} to take its rewards as they are"
                )
        return problems

    @property
    def identity(self) -> Mapping[str, str]:
        return {name: member.model.identity for name, member in self._members.items()}

    async def score(self, record: Record, context: Context) -> Mapping[str, Score]:
        members = self._members
        found = await asyncio.gather(*(member.opinion(record.messages, context) for member in members.values()))
        opinions = dict(zip(members, found, strict=True))
        rewards = {name: float(opinion["normalised"]) for name, opinion in opinions.items()}
        combine = self.settings.combine
        if combine == "minimum":
            value = min(rewards.values())
        else:
            weights = {name: self.settings.models[name].weight or 1.0 for name in rewards}
            value = sum(weights[name] * reward for name, reward in rewards.items()) / sum(weights.values())
        return {"reward": Score(value=value, detail={"models": opinions, "combine": combine})}


class _Member:
    """One of the models, and what this run knows of it."""

    def __init__(self, model: RewardModel) -> None:
        self.model = model
        self._statistics: Statistics | None = None
        self._calibrating = asyncio.Lock()

    def check(self) -> list[str]:
        problems = self.model.check()
        normalise = self.model.settings.normalise
        if isinstance(normalise, Calibration):
            problems += Conversations(normalise, f"{self.model.where}.normalise").check()
        return problems

    def ready(self, resources: Resources) -> AbstractAsyncContextManager[Rewarder]:
        return open_rewarder(self.model, resources)

    async def opinion(self, messages: Sequence[Message], context: Context) -> dict[str, Any]:
        """What the model says of a conversation, as `Score.detail` keeps it."""
        values = await self.values(messages, context)
        raw = self.model.reward(values)
        statistics = self._statistics or await self._known_statistics(context)
        names = self.model.outputs
        attributes = {"attributes": dict(zip(names, values, strict=True))} if len(names) > 1 else {}
        return {"raw": raw, "normalised": (raw - statistics.mean) / statistics.sd, **attributes}

    async def values(self, messages: Sequence[Message], context: Context) -> Sequence[float]:
        """The head's outputs, from the journal where they are. Raises `ScorerError` where there are none."""

        async def compute() -> Sequence[float]:
            rewarder: Rewarder = await context.opened(self)
            found = await rewarder(messages)
            if len(found) != len(self.model.outputs) or not all(map(math.isfinite, found)):
                raise ScorerError(f"reward: {self.model.name} gave {found}, not {len(self.model.outputs)} number(s)")
            return found

        text = [(message.role, message.content) for message in messages]
        return await context.once("reward", [self.model.identity, text], compute)

    async def _known_statistics(self, context: Context) -> Statistics:
        async with self._calibrating:
            if self._statistics is None:
                self._statistics = await self._find_statistics(context)
        return self._statistics

    async def _find_statistics(self, context: Context) -> Statistics:
        normalise = self.model.settings.normalise
        if normalise is None:
            return Statistics(mean=0, sd=1)
        if isinstance(normalise, Statistics):
            return normalise
        if normalise == "held_out":
            return self.model.held_out
        conversations = Conversations(normalise, f"{self.model.where}.normalise")

        async def reward(messages: Sequence[Message]) -> float:
            return self.model.reward(await self.values(messages, context))

        async def compute() -> dict[str, float]:
            return (await conversations.statistics(reward)).model_dump()

        key = [self.model.identity, list(self.model.weights), self.model.settings.max_length, conversations.digest()]
        return Statistics.model_validate(await context.once("reward statistics", key, compute))
