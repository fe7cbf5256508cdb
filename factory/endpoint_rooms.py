"""The models that a run asks beside its own: an engine room each, one budget for all, each charged at its own price."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator, Mapping
from pathlib import Path
from typing import Any

from factory.engine.limits import Budget
from factory.engine_room import EngineRoom
from factory.generators.base import Asked
from factory.journal import Journal
from factory.progress import Display
from factory.settings import Endpoint, GenerateSettings, Price


class EndpointRooms:
    """By name. Nothing is started before somebody asks; what they answer is journaled with the run's own answers."""

    def __init__(self, settings: GenerateSettings, keys: Mapping[str, str], logs: Path, display: Display) -> None:
        self._settings = settings
        self.rooms = {
            name: EngineRoom(place.model, place.engine, keys[name], logs / name, display)
            for name, place in settings.endpoints.items()
        }

    @property
    def identities(self) -> dict[str, str]:
        return {name: room.identity for name, room in self.rooms.items()}

    @property
    def capacity(self) -> int:
        """Requests in flight at most, over all of them."""
        return sum(room.capacity for room in self.rooms.values())

    def budgets(self, journal: Journal) -> dict[str | None, Budget]:
        """One bound for all; None is the run's own model. What was spent before is charged to whom it was asked of."""
        settings = self._settings
        own = Budget(settings.budget, _prices(settings.model.price))
        budgets: dict[str | None, Budget] = {None: own}
        for name, place in settings.endpoints.items():
            budgets[name] = Budget(settings.budget, _prices(place.model.price), own.spent)
        for asked, (requests, prompt_tokens, completion_tokens) in self.spent(journal).items():
            budgets[asked].charge(prompt_tokens, completion_tokens, requests)
        return budgets

    def spent(self, journal: Journal) -> dict[str | None, tuple[int, int, int]]:
        """(requests, prompt tokens, completion tokens) by endpoint; None is the run's own model."""
        sums: dict[str | None, tuple[int, int, int]] = dict.fromkeys([None, *self.rooms], (0, 0, 0))
        for label, requests, prompt_tokens, completion_tokens in journal.spent_by_label():
            _, at, place = label.rpartition("@")  # as `Context.ask` labels what it asks of an endpoint
            name = place if at and place in self.rooms else None
            before = sums[name]
            sums[name] = (before[0] + requests, before[1] + prompt_tokens, before[2] + completion_tokens)
        return sums

    @contextlib.asynccontextmanager
    async def open(self, journal: Journal, budgets: Mapping[str | None, Budget]) -> AsyncIterator[Mapping[str, Asked]]:
        """Whoever may be asked, by name; what was started for them is stopped at the end."""
        async with contextlib.AsyncExitStack() as stack:
            found: dict[str, Asked] = {}
            for name, room in self.rooms.items():
                asker = await stack.enter_async_context(room.open(journal, budgets[name]))
                model = room.settings
                found[name] = Asked(asker, model.sampling, model.chat, model.prompt_form, model.path, model.context)
            yield found

    def described(self, journal: Journal) -> dict[str, dict[str, Any]]:
        """For the manifest: who they are, and what was asked of them over the run's whole life."""
        spent = self.spent(journal)
        return {
            name: _described(room, self._settings.endpoints[name], spent[name]) for name, room in self.rooms.items()
        }


def _prices(price: Price) -> tuple[float, float]:
    return price.input, price.output


def _described(room: EngineRoom, place: Endpoint, spent: tuple[int, int, int]) -> dict[str, Any]:
    requests, prompt_tokens, completion_tokens = spent
    price = place.model.price
    return {
        "name": place.model.name,
        "path": place.model.path,
        "digest": room.digest,
        "engine": place.engine.kind,
        "requests": requests,
        "tokens": {"prompt": prompt_tokens, "completion": completion_tokens},
        "cost": (prompt_tokens * price.input + completion_tokens * price.output) / 1e6,
    }
