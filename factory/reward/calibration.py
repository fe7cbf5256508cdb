"""The mean and the spread of a model's rewards over conversations that are the same on every run."""

from __future__ import annotations

import asyncio
import itertools
import math
from collections.abc import Awaitable, Callable, Iterator, Sequence

from pydantic import ValidationError

from factory.errors import RecordError, UserError
from factory.records import Message, content_hash
from factory.reward.settings import Calibration, Statistics
from factory.sources import Item, Source, SourceSettings

_AT_ONCE = 256


class Conversations:
    """The first `limit` rows of what `settings.data` names, whose `messages` end with an answer."""

    def __init__(self, settings: Calibration, where: str) -> None:
        self.settings, self.where = settings, where
        self._source = Source(SourceSettings(path=settings.data, limit=settings.limit), seed=0)

    def check(self) -> list[str]:
        problems = [
            f"{self.where}.data={self.settings.data}{found.removeprefix(f'source.path={self.settings.data}')}"
            for found in self._source.check()
        ]
        columns = self._source.columns() if not problems else None
        if columns is not None and "messages" not in columns:
            problems.append(f"{self.where}.data={self.settings.data}: its rows have no messages to be scored")
        return problems

    def digest(self) -> str:
        """Names the conversations by their content."""
        return content_hash([item.digest for item in self._source.items()])

    async def statistics(self, reward: Callable[[Sequence[Message]], Awaitable[float]]) -> Statistics:
        """Those of the rewards; what cannot be scored (too long, no answer) is left out. Raises `UserError` for too few."""
        count, total, squares = 0, 0.0, 0.0
        rows = self._source.items()
        while chunk := list(itertools.islice(rows, _AT_ONCE)):
            found = await asyncio.gather(*map(reward, self._conversations(chunk)), return_exceptions=True)
            for outcome in found:
                if isinstance(outcome, float):
                    count, total, squares = count + 1, total + outcome, squares + outcome**2
                elif not isinstance(outcome, RecordError):
                    raise outcome
        mean = total / max(count, 1)
        variance = max(0.0, squares / max(count, 1) - mean**2)
        if count < 2 or variance <= 1e-12 * (1 + mean**2):
            raise UserError(
                f"{self.where}.data={self.settings.data}: {count} conversation(s) could be scored, with no spread between "
                "them; name more, or give {mean: ..., sd: ...}"
            )
        return Statistics(mean=mean, sd=math.sqrt(variance))

    def _conversations(self, items: Sequence[Item]) -> Iterator[tuple[Message, ...]]:
        for item in items:
            try:
                yield tuple(Message(role=turn["role"], content=turn["content"] or "") for turn in item.row["messages"])
            except (RecordError, ValidationError, KeyError, TypeError):
                continue  # a row that is no conversation says nothing
