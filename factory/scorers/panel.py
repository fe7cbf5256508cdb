"""Several judges for one question: who answered what, how many must, and how far they agree."""

from __future__ import annotations

import itertools
import statistics
from collections import Counter
from collections.abc import Awaitable, Callable, Hashable, Mapping, Sequence
from typing import Literal, TypeVar

from pydantic import Field, model_validator

from factory.engine.request import Sampling
from factory.errors import EngineGone, RecordError, ScorerError
from factory.generators.together import together
from factory.records import Frozen

Vote = TypeVar("Vote")
Said = TypeVar("Said", bound=Hashable)
Combine = Literal["mean", "median", "majority", "min"]


class JudgeAsked(Frozen):
    """Who judges: `endpoint` (null: the run's own model), or a `panel` of endpoints, of which `quorum` must answer (null: all).

    `sampling` is over the judge's own.
    """

    endpoint: str | None = None
    panel: tuple[str, ...] = ()
    quorum: int | None = Field(None, ge=1)
    sampling: Sampling = Sampling()

    @model_validator(mode="after")
    def _one_or_several(self) -> JudgeAsked:
        if self.panel and self.endpoint is not None:
            raise ValueError(
                f"endpoint={self.endpoint} and panel={list(self.panel)} are given; set one of them to null"
            )
        if len(set(self.panel)) < len(self.panel):
            raise ValueError(f"panel={list(self.panel)} names one twice")
        if self.quorum is not None and self.quorum > max(1, len(self.panel)):
            raise ValueError(f"quorum={self.quorum} is more than the {len(self.panel) or 'one'} that are asked")
        return self


class PanelError(ScorerError):
    """Fewer than the quorum answered; not final where an engine's failure cost it."""

    def __init__(self, reason: str, *, final: bool) -> None:
        super().__init__(reason)
        self.final = final


async def poll(
    asked: JudgeAsked, ask: Callable[[str | None], Awaitable[Vote]]
) -> tuple[dict[str | None, Vote], dict[str, str]]:
    """(votes, errors) by endpoint, in the panel's order. Without a panel one judge's error is raised as it is.

    A member whose server is gone is missing like one that failed, as long as the others are enough; where nobody may be
    missing it stops the run. Raises `PanelError`.
    """
    if not asked.panel:
        return {asked.endpoint: await ask(asked.endpoint)}, {}
    quorum = len(asked.panel) if asked.quorum is None else asked.quorum

    votes: dict[str | None, Vote] = {}
    failed: dict[str, RecordError | EngineGone] = {}

    async def one(member: str) -> None:
        try:
            votes[member] = await ask(member)
        except EngineGone as error:
            if quorum == len(asked.panel):
                raise
            failed[member] = error
        except RecordError as error:
            failed[member] = error

    await together(map(one, asked.panel))
    gone = [error for error in failed.values() if isinstance(error, EngineGone)]
    if len(gone) == len(asked.panel):
        raise gone[0]
    errors = {name: _said(failed[name]) for name in asked.panel if name in failed}
    if len(votes) < quorum:
        passing = sum(isinstance(error, EngineGone) or not error.final for error in failed.values())
        said = "; ".join(f"{name}: {why}" for name, why in errors.items())
        raise PanelError(
            f"{len(votes)} of {len(asked.panel)} judges answered, {quorum} must: {said}",
            final=len(votes) + passing < quorum,
        )
    return {name: votes[name] for name in asked.panel if name in votes}, errors


def _said(error: RecordError | EngineGone) -> str:
    return "its server is gone" if isinstance(error, EngineGone) else str(error)


def combined(values: Sequence[float], how: Combine) -> float:
    """One number out of the members'; of equally frequent ones `majority` takes the lowest."""
    if how == "mean":
        return statistics.fmean(values)
    if how == "median":
        return float(statistics.median(values))
    if how == "min":
        return min(values)
    return most_frequent(sorted(values))


def most_frequent(values: Sequence[Said]) -> Said:
    """Of equally frequent ones the first."""
    return Counter(values).most_common(1)[0][0]


def agreement(votes: Mapping[str | None, Hashable]) -> float | None:
    """The share of pairs of members that said the same; None for one alone."""
    pairs = list(itertools.combinations(votes.values(), 2))
    return sum(first == second for first, second in pairs) / len(pairs) if pairs else None
