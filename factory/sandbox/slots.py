"""The helper processes, one a slot, seen from the event loop."""

from __future__ import annotations

import asyncio
import json
import os
import socket
import struct
import subprocess
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from factory.sandbox.verdict import SandboxError

# The package's own __init__ is left out: it would bring pydantic into the helper, which must stay small.
_BOOT = """
import sys, types
for name, path in (("factory", {factory!r}), ("factory.sandbox", {sandbox!r})):
    module = types.ModuleType(name); module.__path__ = [path]; sys.modules[name] = module
from factory.sandbox.inside.serve import main
main()
"""
_PATIENCE = 45.0


class _Lost(Exception):
    """The helper ended or said that it was unable: the slot starts anew."""


class Slot:
    """One helper process, started at its first request."""

    def __init__(self, settings: Mapping[str, Any], python: str) -> None:
        self._settings, self._python = settings, python
        self._process: subprocess.Popen[bytes] | None = None
        self._reader: asyncio.StreamReader | None = None
        self._writer: asyncio.StreamWriter | None = None

    async def _start(self) -> None:
        here = Path(__file__).resolve().parent
        boot = _BOOT.format(factory=str(here.parent), sandbox=str(here))
        ours, theirs = socket.socketpair()
        with theirs:
            self._process = subprocess.Popen(
                [self._python, "-I", "-S", "-c", boot],
                stdin=theirs.fileno(),
                stdout=theirs.fileno(),
                start_new_session=True,
                cwd="/",
                env={"TMPDIR": os.environ.get("TMPDIR", "/tmp")},
            )
        self._reader, self._writer = await asyncio.open_unix_connection(sock=ours, limit=1 << 26)
        await self._exchange(self._settings, _PATIENCE)

    async def _exchange(self, message: Mapping[str, Any], seconds: float) -> dict[str, Any]:
        assert self._reader is not None
        assert self._writer is not None
        data = json.dumps(message).encode("ascii")
        try:
            async with asyncio.timeout(seconds):
                self._writer.write(struct.pack(">I", len(data)) + data)
                await self._writer.drain()
                size = struct.unpack(">I", await self._reader.readexactly(4))[0]
                answer: dict[str, Any] = json.loads(await self._reader.readexactly(size))
        except (OSError, EOFError, TimeoutError) as error:
            raise _Lost(f"the helper process was lost ({type(error).__name__})") from None
        if "unable" in answer:
            raise _Lost(answer["unable"])
        return answer

    async def ask(self, message: Mapping[str, Any], seconds: float) -> dict[str, Any]:
        """One request, answered within `seconds` (and what a start takes). On any trouble the helper is ended."""
        try:
            if self._process is None:
                await self._start()
            return await self._exchange(message, seconds + _PATIENCE)
        except BaseException:
            self.kill()
            raise

    def kill(self) -> None:
        """End the helper now; its own children die with it."""
        if self._writer is not None:
            self._writer.close()
        if self._process is not None:
            self._process.terminate()
            try:
                self._process.wait(2)
            except subprocess.TimeoutExpired:
                self._process.kill()
                self._process.wait()
        self._process = self._reader = self._writer = None

    async def close(self) -> None:
        """End the helper in an orderly way: it cleans up after itself when its input closes."""
        if self._writer is not None:
            self._writer.close()
        for _ in range(400):
            if self._process is None or self._process.poll() is not None:
                break
            await asyncio.sleep(0.005)
        self.kill()


class Slots:
    """A pool of slots: each request takes a free one; trouble of the machine is tried again on a fresh one."""

    def __init__(self, settings: Mapping[str, Any], python: str, count: int) -> None:
        self._all = [Slot({**settings, "slot": number}, python) for number in range(count)]
        # Last in, first out: a slot that is warm is used before another one is started.
        self._free: asyncio.LifoQueue[Slot] = asyncio.LifoQueue()
        for slot in reversed(self._all):
            self._free.put_nowait(slot)

    async def ask(self, message: Mapping[str, Any], seconds: float) -> dict[str, Any]:
        """One request's answer. Raises `SandboxError` when the machine fails twice."""
        slot = await self._free.get()
        try:
            try:
                return await slot.ask(message, seconds)
            except _Lost:
                return await slot.ask(message, seconds)
        except _Lost as error:
            raise SandboxError(f"sandbox: infra_error: {error}") from None
        finally:
            self._free.put_nowait(slot)

    async def close(self) -> None:
        """End every helper."""
        await asyncio.gather(*(slot.close() for slot in self._all))
