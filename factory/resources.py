"""What plug-ins open for a run: a reward model, an embedder. Opened when first needed, once, and closed with the run."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, Self

from factory.errors import UserError


@dataclass(frozen=True)
class Resources:
    """`logs` is a folder for what servers write; `status` is told, a line at a time, what takes long, `say` what stays."""

    logs: Path
    status: Callable[[str], None] = lambda text: None
    say: Callable[[str], None] = lambda text: None


class Opens(Protocol):
    """A plug-in that scores (or the like) with something that must be opened: what entering gives is shared by all records."""

    def ready(self, resources: Resources) -> AbstractAsyncContextManager[Any]: ...


class Opener:
    """Opens each plug-in's own, and closes all of them in the end. Use as an async context manager."""

    def __init__(self, resources: Resources) -> None:
        self.resources = resources
        self._stack = contextlib.AsyncExitStack()
        self._opening: dict[Opens, asyncio.Task[Any]] = {}

    async def get(self, plug_in: Opens) -> Any:
        """What the plug-in's `ready` gives. Raises `UserError` where it fails: no record can do without."""
        if plug_in not in self._opening:
            self._opening[plug_in] = asyncio.ensure_future(self._open(plug_in))
        # Shielded: one record's cancellation must not stop the opening that others wait for.
        return await asyncio.shield(self._opening[plug_in])

    async def _open(self, plug_in: Opens) -> Any:
        try:
            return await self._stack.enter_async_context(plug_in.ready(self.resources))
        except UserError:
            raise
        except Exception as error:
            raise UserError(f"{type(plug_in).__name__} cannot be opened: {type(error).__name__}: {error}") from error

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *exc: object) -> None:
        for task in self._opening.values():
            task.cancel()  # those that nobody waits for any more; harmless to the others
        await asyncio.gather(*self._opening.values(), return_exceptions=True)
        await self._stack.aclose()
