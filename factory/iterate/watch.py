"""How busy the GPUs are, as their driver says: once a second, into a file."""

from __future__ import annotations

import asyncio
import contextlib
import time
from pathlib import Path
from typing import Self

_QUERY = ("nvidia-smi", "--query-gpu=index,utilization.gpu,memory.used", "--format=csv,noheader,nounits")


class GpuWatch:
    """Appends [seconds since 1970, GPU, busy %, MiB used] a second and GPU to `path`. Without `nvidia-smi` it does nothing."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._task: asyncio.Task[None] | None = None

    async def __aenter__(self) -> Self:
        self._task = asyncio.create_task(self._watch())
        return self

    async def __aexit__(self, *exc: object) -> None:
        assert self._task is not None
        self._task.cancel()
        with contextlib.suppress(asyncio.CancelledError, OSError):
            await self._task

    async def _watch(self) -> None:
        try:
            process = await asyncio.create_subprocess_exec(
                *_QUERY, "-lms", "1000",
                stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.DEVNULL, stdin=asyncio.subprocess.DEVNULL,
            )  # fmt: skip
        except OSError:
            return
        assert process.stdout is not None
        try:
            with self.path.open("a") as file:
                async for line in process.stdout:
                    cells = [cell.strip() for cell in line.decode(errors="replace").split(",")]
                    if len(cells) == 3 and all(cell.isdigit() for cell in cells):
                        file.write(f"[{time.time():.1f}, {', '.join(cells)}]\n")
                        file.flush()
        finally:
            with contextlib.suppress(ProcessLookupError):
                process.kill()
            await process.wait()
