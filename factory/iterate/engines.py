"""The engine of a whole loop: servers that stay up while the model in them changes, so that no round waits for a start."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import orjson

from factory.engine.models import ResolvedModel, resolve_model
from factory.engine.server import ManagedServers
from factory.engine.server_plan import cpu_build
from factory.engine.settings import Policy
from factory.iterate.words import words
from factory.settings import VllmEngine

KEY_VARIABLE = "FACTORY_ITERATE_KEY"
# What a running server keeps of its first model; another one may take its place where all but these are the same.
_NO_SHAPE = {
    "_name_or_path",
    "_model_name_or_path",
    "transformers_version",
    "dtype",
    "torch_dtype",
    "use_cache",
    "initializer_range",
}
_NO_TOKENIZER = {"version", "truncation", "padding"}


class Engines:
    """At most one set of servers at a time. Use as an async context manager: what runs at its end is stopped."""

    def __init__(self, settings: VllmEngine, logs: Path, say: Callable[[str], None], devices: str | None) -> None:
        self._settings, self._logs, self._say = settings, logs, say
        if devices is not None:
            # Of this process, and of the commands that ask the servers; a training is given its own.
            os.environ |= {"CUDA_DEVICE_ORDER": "PCI_BUS_ID", "CUDA_VISIBLE_DEVICES": devices}
        self._servers: ManagedServers | None = None
        self._stack = contextlib.AsyncExitStack()
        self._model: ResolvedModel | None = None
        self._asleep = False

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.stop()

    async def serve(self, path: str) -> list[str]:
        """Have `path`'s model in the servers; the words that make a command use them."""
        model = resolve_model(path, on_status=self._say)
        servers = self._servers
        if servers is not None and self._model is not None and not self._fits(model):
            await self.stop()
            servers = None
        if servers is None:
            servers = await self._start(model)
        elif self._asleep:
            await servers.wake()
            self._asleep = False
        if self._model is None or model.digest != self._model.digest:
            await servers.reload(model)
            self._model = model
        for index in range(len(servers)):  # one that died since the stage before is on its way back
            await servers.wait_alive(index)
        return self._words(servers, model)

    async def rest(self) -> None:
        """Leave the GPU to somebody else. Without one there is nothing to give."""
        if self._servers is not None and not self._asleep and any(place.gpus for place in self._servers.placements):
            await self._servers.sleep()
            self._asleep = True

    async def stop(self) -> None:
        self._servers, self._model, self._asleep = None, None, False
        await self._stack.aclose()

    def environment(self) -> dict[str, str]:
        """What a command needs to ask the servers."""
        return {KEY_VARIABLE: self._servers.api_key} if self._servers else {}

    def _fits(self, model: ResolvedModel) -> bool:
        assert self._model is not None
        return self._settings.reloading and model.kind != "hub" and _shape(model) == _shape(self._model)

    async def _start(self, model: ResolvedModel) -> ManagedServers:
        servers = ManagedServers(model, self._settings, self._logs, on_status=self._say)
        await self._stack.enter_async_context(servers)
        self._servers, self._model = servers, model
        self._name = model.served_name
        return servers

    def _words(self, servers: ManagedServers, model: ResolvedModel) -> list[str]:
        concurrency = self._settings.concurrency
        if concurrency == "auto":
            concurrency = 128 if cpu_build() else 256
        settings = self._settings
        return words(
            {"engine": "openai"},
            {
                "engine": {
                    "base_url": servers.endpoints(),
                    "api_key_env": KEY_VARIABLE,
                    "identity": model.digest,
                    "served_name": self._name,
                    **{name: getattr(settings, name) for name in Policy.model_fields},
                    "concurrency": concurrency,
                }
            },
        )


def _shape(model: ResolvedModel) -> object:
    """What must be equal for weights to be exchanged: architecture and sizes, tokenizer, chat template."""
    folder = Path(model.path)
    if not folder.is_dir():
        return model.digest
    config = {key: value for key, value in _json(folder / "config.json").items() if key not in _NO_SHAPE}
    tokenizer = {key: value for key, value in _json(folder / "tokenizer.json").items() if key not in _NO_TOKENIZER}
    template = folder / "chat_template.jinja"
    inside = _json(folder / "tokenizer_config.json").get("chat_template")
    return config, tokenizer, template.read_text() if template.exists() else inside


def _json(path: Path) -> dict[str, Any]:
    return dict(orjson.loads(path.read_bytes())) if path.exists() else {}
