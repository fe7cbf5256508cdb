"""One server process behind its launcher, its port and its pulse."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

from factory.errors import UserError

STOP_GRACE = 10.0  # seconds from a polite stop to SIGKILL
POST_SECONDS = 300.0  # for a server to load other weights


class ServerProcess:
    """A command that ends when its owner does (see `server_launcher.py`), writing its output to the end of `log`.

    `grace` is how many seconds it has to end by itself when it is asked to.
    """

    def __init__(self, command: Sequence[str], env: Mapping[str, str], log: Path, grace: float = STOP_GRACE) -> None:
        self._grace = grace
        launcher = str(Path(__file__).with_name("server_launcher.py"))
        argv = [sys.executable, "-I", "-S", launcher, str(os.getpid()), str(grace), *command]
        with log.open("ab") as output:
            self._popen = subprocess.Popen(
                argv, env=dict(env), stdin=subprocess.PIPE, stdout=output, stderr=output, start_new_session=True
            )

    @property
    def pid(self) -> int:
        """The launcher's process id, which is also the process group of the server and its children."""
        return self._popen.pid

    @property
    def status(self) -> int | None:
        """The command's exit status, once `stop` has waited for it."""
        return self._popen.returncode

    def exited(self) -> bool:
        """Whether the launcher has ended. It stays a zombie until `stop`, so that its group's number stays ours."""
        if self._popen.returncode is not None:
            return True
        return os.waitid(os.P_PID, self.pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is not None

    async def stop(self, *, hung: bool = False) -> int | None:
        """End the server and everything below it, politely first; its exit status. Harmless when it has ended.

        A `hung` one gets the launcher's short grace instead of `grace`.

        Cancelled, it lets go: the launcher finishes alone within seconds. None when the launcher needs that too.
        """
        try:
            if not self.exited() and not hung:
                os.kill(self.pid, signal.SIGTERM)
                await self._ends_within(self._grace + 2)
            self._close()
            if not await self._ends_within(5):
                os.killpg(self.pid, signal.SIGKILL)  # the launcher itself is stuck
                await self._ends_within(5)
        finally:
            self.let_go()
        return self._popen.returncode

    async def _ends_within(self, seconds: float) -> bool:
        end = time.monotonic() + seconds
        while not self.exited() and time.monotonic() < end:
            await asyncio.sleep(0.05)
        return self.exited()

    def let_go(self) -> None:
        """Close the pipe, on which a living launcher ends everything below it; after a dead one, kill its group."""
        if self._popen.returncode is not None:
            return
        self._close()
        if self.exited():
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.killpg(self.pid, signal.SIGKILL)  # what a launcher that was itself killed has left
            self._popen.wait()

    def _close(self) -> None:
        assert self._popen.stdin is not None
        with contextlib.suppress(OSError):
            self._popen.stdin.close()


class Port:
    """A free port of 127.0.0.1 that nobody else is dealt while this object holds it.

    It is bound but never listens. Linux lets a server that sets SO_REUSEADDR (vLLM does; 0.26 sets SO_REUSEPORT too)
    bind and listen on it nevertheless, yet never picks it for anybody who asks for any free port, and refuses it to a
    server that sets neither. A restarted server thus keeps its address.
    """

    def __init__(self) -> None:
        self._socket = socket.socket()
        self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        self._socket.bind(("127.0.0.1", 0))
        self.number: int = self._socket.getsockname()[1]

    def release(self) -> None:
        """Give the port back."""
        self._socket.close()


async def get(port: int, path: str, key: str, seconds: float) -> tuple[int, bytes]:
    """Status and body of one HTTP GET on 127.0.0.1; (0, b"") when nothing sensible answers within `seconds`."""
    try:
        async with asyncio.timeout(seconds):
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
            try:
                lines = (
                    f"GET {path} HTTP/1.1\r\nHost: 127.0.0.1\r\nAuthorization: Bearer {key}\r\nConnection: close\r\n"
                )
                writer.write(f"{lines}\r\n".encode())
                answer = await reader.read(-1)
            finally:
                writer.close()
        head, _, body = answer.partition(b"\r\n\r\n")
        return int(head.split(b" ", 2)[1]), body
    except (OSError, TimeoutError, ValueError, IndexError):
        return 0, b""


async def serves(port: int, key: str, model: str, seconds: float) -> bool:
    """Whether the server on `port` is well, is ours (it knows the run's key) and serves `model`."""
    status, _ = await get(port, "/health", key, seconds)
    if status != 200:
        return False
    status, body = await get(port, "/v1/models", key, seconds)
    if status != 200:
        return False
    try:
        return model in [entry["id"] for entry in json.loads(body[body.index(b"{") : body.rindex(b"}") + 1])["data"]]
    except (ValueError, KeyError, TypeError):
        return False


async def post(url: str, key: str, body: object = None) -> None:
    """One HTTP POST of JSON to a server of ours. Raises `UserError` with what it says where that is not success."""
    import aiohttp

    headers, patience = {"Authorization": f"Bearer {key}"}, aiohttp.ClientTimeout(total=POST_SECONDS)
    try:
        async with (
            aiohttp.ClientSession(timeout=patience) as session,
            session.post(url, json=body, headers=headers) as answer,
        ):
            said = await answer.text()
    except (aiohttp.ClientError, TimeoutError) as error:
        raise UserError(f"vllm: {url}: {error or type(error).__name__}") from error
    if answer.status != 200:
        raise UserError(f"vllm: {url}: status {answer.status}: {said[:300]}")
