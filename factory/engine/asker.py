"""Between whoever asks and the engine: the journal. What was answered once is never paid for again."""

from __future__ import annotations

import asyncio
import functools
from collections.abc import Awaitable, Callable, Sequence
from typing import TypeVar

from factory.engine.client import EngineClient
from factory.engine.request import Request, Response
from factory.journal import Journal
from factory.records import content_hash

T = TypeVar("T")


MOST_SAMPLES = 64  # in one request
_GREEDY = 1e-5  # below this vLLM takes a temperature for 0


class _Asked:
    """One sample that somebody waits for."""

    def __init__(self, key: str, label: str, request: Request) -> None:
        self.key, self.label, self.request = key, label, request
        self.answer: asyncio.Future[Response] = asyncio.get_running_loop().create_future()


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
        self._same: dict[str, list[_Asked]] = {}
        self._tasks: set[asyncio.Task[None]] = set()

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
        if engine.policy.samples and not engine.policy.send_seed and _drawn(request):
            return key, await self._together(engine, _Asked(key, label, request), priority)
        keep = functools.partial(self.journal.add_response, key, label, request)
        return key, await engine.complete(request, priority, keep)

    async def _together(self, engine: EngineClient, asked: _Asked, priority: int) -> Response:
        """An answer from one request for all who ask the same thing at the same time, each for a sample of their own."""
        same = content_hash(asked.request.as_json() | {"seed": 0})
        others = self._same.setdefault(same, [])
        others.append(asked)
        if len(others) == 1:
            # Whoever asks with this one has done so by the time that the loop comes round.
            asyncio.get_running_loop().call_soon(self._send_all, engine, same, priority)
        elif len(others) == MOST_SAMPLES:
            self._send_all(engine, same, priority)
        return await asked.answer

    def _send_all(self, engine: EngineClient, same: str, priority: int) -> None:
        """Send what has gathered; nobody's request is sent where all who asked have left."""
        asked = [one for one in self._same.pop(same, []) if not one.answer.cancelled()]
        if not asked:
            return
        task = asyncio.ensure_future(self._answer_all(engine, asked, priority))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        for one in asked:
            one.answer.add_done_callback(
                lambda _: task.cancel() if all(other.answer.cancelled() for other in asked) else None
            )

    async def _answer_all(self, engine: EngineClient, asked: Sequence[_Asked], priority: int) -> None:
        async def keep(responses: Sequence[Response]) -> None:
            answered = zip(asked, responses, strict=True)
            await asyncio.gather(
                *(self.journal.add_response(one.key, one.label, one.request, response) for one, response in answered)
            )

        try:
            responses = await engine.complete_samples(asked[0].request, len(asked), priority, keep)
        except BaseException as error:
            for one in asked:
                if not one.answer.done():
                    if isinstance(error, asyncio.CancelledError):
                        one.answer.cancel()
                    else:
                        one.answer.set_exception(error)
            if not isinstance(error, Exception):
                raise
        else:
            for one, response in zip(asked, responses, strict=True):
                if not one.answer.done():
                    one.answer.set_result(response)

    async def draw(self, key: str, label: str, choose: Callable[[], Awaitable[T]]) -> T:
        """What was drawn under this key before, else what `choose` gives, in the journal before this returns."""
        known: T | None = self.journal.draw(key)
        if known is None:
            known = await choose()
            await self.journal.add_draw(key, label, known)
        return known


def _drawn(request: Request) -> bool:
    """Whether answers are drawn at all: a server refuses several answers where the likeliest is asked for."""
    temperature = request.sampling.get("temperature")
    return temperature is None or temperature >= _GREEDY
