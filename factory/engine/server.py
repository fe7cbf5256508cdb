"""Managed vLLM servers: as many as the machine carries, healthy or restarted, and gone whatever ends the factory.

Each server runs behind a launcher of its own (`server_launcher.py`) that ends it with everything it has started when
the factory leaves the context, is interrupted, fails, or is killed outright. There is therefore nothing to clean up
after a crash, and no server is ever taken over from an earlier run.
"""

from __future__ import annotations

import asyncio
import contextlib
import importlib.util
import os
import secrets
import time
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import Self

from factory.engine.models import ResolvedModel
from factory.engine.server_command import CommandBuilder, VllmSettings, server_environment, vllm_command
from factory.engine.server_plan import GpuInfo, Placement, cpu_build, list_gpus, plan_replicas
from factory.engine.server_process import post
from factory.engine.server_replica import Replica
from factory.errors import UserError

__all__ = ["ManagedServers", "VllmSettings"]

CPU_QUANTISATIONS = {"awq", "gptq", "compressed-tensors", "auto-round"}  # what vLLM 0.32 runs without a GPU


class ManagedServers:
    """The servers of one run, up while the context is entered.

    `async with ManagedServers(model, settings, run / "logs") as servers:` returns once every server answers.
    `on_status` is told, a line at a time, how the start goes and of every restart. Entering raises `UserError` with
    the command, the end of the log (`log_dir/vllm-N.log`) and a remedy when a server does not start.
    `command` builds the command line of one server.
    """

    def __init__(
        self,
        model: ResolvedModel,
        settings: VllmSettings,
        log_dir: Path,
        *,
        on_status: Callable[[str], None] = lambda text: None,
        command: CommandBuilder = vllm_command,
    ) -> None:
        self.api_key = secrets.token_urlsafe(24)  # for this run alone; in memory and the servers' environment only
        self.placements: list[Placement] = []
        self._model, self._settings, self._log_dir = model, settings, log_dir
        self._say, self._command = on_status, command
        self._replicas: list[Replica] = []
        self._keepers: list[asyncio.Task[None]] = []

    def __len__(self) -> int:
        return len(self._replicas)

    def endpoints(self) -> list[str]:
        """Base URLs (`http://127.0.0.1:PORT/v1`) of the servers that are alive now."""
        return [replica.url for replica in self._replicas if replica.alive]

    def url(self, index: int) -> str:
        """The base URL of server `index`. It stays the same over restarts unless its port was lost meanwhile."""
        return self._replicas[index].url

    async def reload(self, model: ResolvedModel) -> None:
        """Put the weights of another model of the same shape into the running servers, which keep their names.

        Needs `reloading` in the settings. Raises `UserError` where a server refuses.
        """
        self._model = model.model_copy(update={"served_name": self._model.served_name})
        weights = {"method": "reload_weights", "kwargs": {"weights_path": model.path}}
        await self._each("/collective_rpc", weights)
        await self._each("/reset_prefix_cache")  # what was cached was computed by the old weights

    async def sleep(self) -> None:
        """Give the GPUs' memory back; the weights are kept in the host's. Needs `reloading` in the settings."""
        await self._each("/sleep?level=1")

    async def wake(self) -> None:
        """Take the memory again."""
        await self._each("/wake_up")

    async def _each(self, path: str, body: object = None) -> None:
        """POST to every server at once. Raises `UserError` with what one that refused says."""
        for replica in self._replicas:
            await replica.wait_alive()
        await asyncio.gather(
            *(post(replica.url.removesuffix("/v1") + path, self.api_key, body) for replica in self._replicas)
        )

    async def wait_alive(self, index: int) -> str:
        """The base URL of server `index` once it is alive. Raises `Stopped` when it was given up."""
        await self._replicas[index].wait_alive()
        return self._replicas[index].url

    async def __aenter__(self) -> Self:
        gpus = [] if cpu_build() else await asyncio.to_thread(list_gpus)
        self._check(gpus)
        settings = self._settings
        self.placements = plan_replicas(
            self._model.param_bytes,
            gpus,
            len(os.sched_getaffinity(0)),
            replicas=settings.replicas,
            tensor_parallel=settings.tensor_parallel,
            gpu_memory=settings.gpu_memory,
        )
        self._log_dir.mkdir(parents=True, exist_ok=True)
        self._replicas = [self._replica(index, place) for index, place in enumerate(self.placements)]
        self._keepers = [asyncio.create_task(replica.keep()) for replica in self._replicas]
        try:
            await self._until_ready()
        except BaseException:
            await self._stop()
            raise
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._stop()

    def _check(self, gpus: list[GpuInfo]) -> None:
        if self._command is vllm_command and importlib.util.find_spec("vllm") is None:
            raise UserError(
                f'engine=vllm: vLLM is not installed: pip install "synthesis-factory[{"vllm" if gpus else "cpu"}]"'
            )
        if not gpus and self._model.quantization and self._model.quantization not in CPU_QUANTISATIONS:
            raise UserError(
                f"model.path: {self._model.path}: its {self._model.quantization} quantisation needs a GPU, and vLLM"
                " sees none here; choose the unquantised model"
            )

    def _replica(self, index: int, place: Placement) -> Replica:
        settings = self._settings
        return Replica(
            index,
            # The model of the day: a server that died after `reload` comes back with what was loaded last.
            lambda port: self._command(self._model, settings, place, port),
            server_environment(self._model, settings, place, self.api_key),
            self._model.served_name,
            self._log_dir / f"vllm-{index}.log",
            start_timeout=settings.start_timeout,
            hang_timeout=settings.hang_timeout,
            restarts=settings.restarts,
            on_status=self._say,
        )

    async def _until_ready(self) -> None:
        """Return once all servers are alive; raise the first failure. Tells how it goes, once a second."""
        began = time.monotonic()
        waits = [asyncio.create_task(replica.wait_alive()) for replica in self._replicas]
        try:
            pending = set(waits)
            while pending:
                done, pending = await asyncio.wait(pending, timeout=1.0, return_when=asyncio.FIRST_EXCEPTION)
                for wait in done:
                    wait.result()
                ready, seconds = len(self.endpoints()), time.monotonic() - began
                slowest = next((replica for replica in self._replicas if not replica.alive), None)
                line = f": {slowest.last_line()}" if slowest else ""
                self._say(f"vllm: {ready} of {len(self)} ready after {seconds:.0f} s{line}")
        finally:
            for wait in waits:
                wait.cancel()

    async def _stop(self) -> None:
        """End every server at once. Cancelled in the middle, it leaves the rest to the launchers."""
        for keeper in self._keepers:
            keeper.cancel()
        try:
            with contextlib.suppress(UserError):
                await asyncio.gather(*self._keepers, return_exceptions=True)
        finally:
            for replica in self._replicas:
                replica.let_go()
