"""Between whoever asks and the engine: the journal. What was answered once is never paid for again."""

from __future__ import annotations

import asyncio
import functools
from collections.abc import Awaitable, Callable
from typing import TypeVar

from factory.engine.client import EngineClient
from factory.engine.request import Request, Response
from factory.journal import Journal

T = TypeVar("T")


class Asker:
    """Answers from the journal, else from the engine, which is started when it is first needed.

    `identity` names model and endpoint in the keys. `sent` and `reused` count what came from where.
    """

    def __init__(self, journal: Journal, start: Callable[[], Awaitable[EngineClient]], identity: str):
        self.journal, self.identity = journal, identity
        self._start = start
        self._engine: EngineClient | None = None
        self._starting: asyncio.Task[EngineClient] | None = None
        self.sent = self.reused = 0

    async def engine(self) -> EngineClient:
        if self._engine is None:
            if self._starting is None:
                self._starting = asyncio.ensure_future(self._start())
            # Shielded: one record's cancellation must not stop the start that others wait for.
            self._engine = await asyncio.shield(self._starting)
        return self._engine

    async def stop_starting(self) -> None:
        """End a start that nobody will use: the run is over."""
        if self._starting is not None and not self._starting.done():
            self._starting.cancel()
            await asyncio.gather(self._starting, return_exceptions=True)

    @property
    def live(self) -> EngineClient | None:
        """The engine, if it has been started."""
        return self._engine

    async def ask(self, request: Request, label: str, priority: int) -> tuple[str, Response]:
        """(key, response). The response is in the journal before this returns."""
        key = request.key(self.identity)
        if (known := self.journal.response(key)) is not None:
            self.reused += 1
            return key, known
        engine = self._engine or await self.engine()
        self.sent += 1
        keep = functools.partial(self.journal.add_response, key, label, request)
        return key, await engine.complete(request, priority, keep)

    async def draw(self, key: str, label: str, choose: Callable[[], Awaitable[T]]) -> T:
        """What was drawn under this key before, else what `choose` gives, in the journal before this returns."""
        known: T | None = self.journal.draw(key)
        if known is None:
            known = await choose()
            await self.journal.add_draw(key, label, known)
        return known
