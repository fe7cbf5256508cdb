"""A run's engine: what the model is known by, how much it takes at once, and the servers while somebody needs them."""

from __future__ import annotations

import contextlib
import functools
import os
from collections.abc import AsyncIterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from factory.engine.asker import Asker
from factory.engine.client import EngineClient
from factory.engine.limits import Budget
from factory.journal import Journal
from factory.progress import Display
from factory.records import content_hash
from factory.settings import ModelSettings, OpenAIEngine, VllmEngine

if TYPE_CHECKING:
    from factory.engine.models import ResolvedModel
    from factory.engine.server_plan import Placement


class EngineRoom:
    """One model behind one engine. Nothing is started before the first question that the journal cannot answer."""

    def __init__(
        self, model: ModelSettings, engine: OpenAIEngine | VllmEngine, api_key: str, logs: Path, display: Display
    ) -> None:
        self.settings, self.logs, self.display = model, logs, display
        self.engine = _completed(engine, model)
        self.model = self._resolve()
        self._api_key = api_key

    def _resolve(self) -> ResolvedModel | None:
        if isinstance(self.engine, OpenAIEngine):
            return None
        from factory.engine.models import resolve_model

        return resolve_model(self.settings.path, on_status=self.display.status)

    @functools.cached_property
    def identity(self) -> str:
        """Names model and endpoint in the responses' keys: the same model at the same place gives the same answers."""
        engine = self.engine
        if isinstance(engine, OpenAIEngine):
            return content_hash("openai", engine.identity or engine.urls, self.settings.path)
        assert self.model is not None
        return content_hash("vllm", self.model.digest, engine.dtype)

    @property
    def digest(self) -> str:
        """What the model is, by its content where that is known."""
        return self.model.digest if self.model else self.identity

    @property
    def capacity(self) -> int:
        """Requests in flight at most, over all servers."""
        engine = self.engine
        servers = len(engine.urls) if isinstance(engine, OpenAIEngine) else len(self._placements(engine))
        assert engine.concurrency != "auto"
        return engine.concurrency * servers

    def _placements(self, engine: VllmEngine) -> list[Placement]:
        from factory.engine.server_plan import cpu_build, list_gpus, plan_replicas

        assert self.model is not None
        gpus = [] if cpu_build() else list_gpus()
        return plan_replicas(
            self.model.param_bytes,
            gpus,
            len(os.sched_getaffinity(0)),
            replicas=engine.replicas,
            tensor_parallel=engine.tensor_parallel,
            gpu_memory=engine.gpu_memory,
        )

    @contextlib.asynccontextmanager
    async def open(self, journal: Journal, budget: Budget) -> AsyncIterator[Asker]:
        """Whoever asks; what was started for it is stopped at the end."""
        async with contextlib.AsyncExitStack() as stack:
            asker = Asker(journal, functools.partial(self._start, stack, budget), self.identity)
            self.display.engine = lambda: asker.live
            try:
                yield asker
            finally:
                await asker.stop_starting()

    async def _start(self, stack: contextlib.AsyncExitStack, budget: Budget) -> EngineClient:
        engine = self.engine
        if isinstance(engine, OpenAIEngine):
            name = engine.served_name or self.settings.path
            client = EngineClient(engine.urls, model=name, api_key=self._api_key, policy=engine, budget=budget)
            return await stack.enter_async_context(client)
        assert self.model is not None
        from factory.engine.server import ManagedServers

        servers = await stack.enter_async_context(
            ManagedServers(self.model, engine, self.logs, on_status=self.display.status)
        )
        client = EngineClient(
            servers.endpoints(),
            model=self.model.served_name,
            api_key=servers.api_key,
            policy=engine,
            budget=budget,
            revive=servers.wait_alive,
        )
        return await stack.enter_async_context(client)


def _completed(engine: OpenAIEngine | VllmEngine, model: ModelSettings) -> OpenAIEngine | VllmEngine:
    """The engine's settings with what depends on machine and model filled in."""
    if isinstance(engine, OpenAIEngine):
        return engine
    from factory.engine.server_plan import cpu_build

    found: dict[str, Any] = {}
    if engine.concurrency == "auto":
        found["concurrency"] = 128 if cpu_build() else 256
    if engine.max_model_len is None and model.context is not None:
        found["max_model_len"] = model.context
    return engine.model_copy(update=found)
