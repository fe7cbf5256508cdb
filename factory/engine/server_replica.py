"""One server kept alive: started, watched, restarted, given up."""

from __future__ import annotations

import asyncio
import shlex
import time
from collections.abc import Callable
from pathlib import Path

from factory.engine.server_failure import PORT_TAKEN, hint, last_lines
from factory.engine.server_process import Port, ServerProcess, serves
from factory.errors import Stopped, UserError

PORT_TRIES = 3
POLL = 0.25  # seconds between looks at the process and, while it starts, at its health
STABLE = 600.0  # seconds of health after which earlier restarts are forgiven
LONGEST_DELAY = 30.0


class Replica:
    """Server number `index`. `command` maps a port to a command line; `env` holds the key, which no message shows."""

    def __init__(
        self,
        index: int,
        command: Callable[[int], list[str]],
        env: dict[str, str],
        model: str,
        log: Path,
        *,
        start_timeout: float,
        hang_timeout: float,
        restarts: int,
        on_status: Callable[[str], None],
    ) -> None:
        self.index = index
        self.failure: UserError | None = None
        self._command, self._env, self._model, self._log = command, env, model, log
        self._start_timeout, self._hang_timeout, self._restarts = start_timeout, hang_timeout, restarts
        self._say = on_status
        self._port = Port()
        self._process: ServerProcess | None = None
        self._settled = asyncio.Event()  # alive, or given up
        self._begin = 0  # where in the log this start's output begins

    @property
    def url(self) -> str:
        """The base URL for an OpenAI client."""
        return f"http://127.0.0.1:{self._port.number}/v1"

    @property
    def alive(self) -> bool:
        """Whether it answered its last health check and its process has not ended since."""
        return self._settled.is_set() and not self.failure and bool(self._process) and not self._gone()

    @property
    def pid(self) -> int | None:
        """The process group of the server and its children, while there is one."""
        return self._process.pid if self._process else None

    async def wait_alive(self) -> None:
        """Return once it serves; raise what it was given up for."""
        while not self.alive:
            if self.failure:
                raise self.failure
            if self._settled.is_set():
                await asyncio.sleep(POLL)  # dead, and its keeper has not looked yet
            else:
                await self._settled.wait()

    async def keep(self) -> None:
        """Start it and keep it alive until cancelled or given up; always ends its processes."""
        try:
            await self._start()
            self._settled.set()
            restarts = 0
            while True:
                began = time.monotonic()
                why = await self._watch()
                self._settled.clear()
                await self._end(hung=True)
                restarts = await self._restart(0 if time.monotonic() - began > STABLE else restarts, why)
                self._settled.set()
        except UserError as error:
            self.failure = error
            self._settled.set()
        finally:
            try:
                await self._end()
            finally:
                self._port.release()
                self.failure = self.failure or Stopped(f"vllm {self.index}: stopped")
                self._settled.set()

    def let_go(self) -> None:
        """End it without waiting (the launcher finishes alone)."""
        if self._process:
            self._process.let_go()

    def last_line(self) -> str:
        """The newest line of this start's log."""
        return (last_lines(self._output(), 1) or [""])[0]

    async def _restart(self, restarts: int, why: str) -> int:
        """Start it again, with growing pauses; how many restarts that makes. Raises `Stopped` after too many."""
        while restarts < self._restarts:
            delay = min(LONGEST_DELAY, 2.0**restarts / 2)
            restarts += 1
            self._say(f"vllm {self.index}: {why}; restart {restarts} of {self._restarts} in {delay:g} s")
            await asyncio.sleep(delay)
            try:
                await self._start()
            except UserError as error:
                why = error.problems[0]
                continue
            self._say(f"vllm {self.index}: back")
            return restarts
        raise Stopped(f"vllm {self.index}: {why}; given up after {restarts} restart(s)", *self._account())

    async def _start(self) -> None:
        """Return once the server answers. A port taken under our feet is changed; raises `UserError` otherwise."""
        for attempt in range(PORT_TRIES):
            if attempt:
                self._port.release()
                self._port = Port()
            command = self._command(self._port.number)
            with self._log.open("a") as log:
                log.write(f"=== {time.strftime('%Y-%m-%d %H:%M:%S')} {shlex.join(command)}\n")
            self._begin = self._log.stat().st_size
            self._process = ServerProcess(command, self._env, self._log)
            why = await self._until_ready()
            if why is None:
                return
            status = await self._end()
            if not PORT_TAKEN.search(self._output()):
                break
        why = why if status in (None, 0) else f"{why} (exit status {status})"
        raise UserError(f"vllm {self.index} did not start: {why}", *self._account())

    async def _until_ready(self) -> str | None:
        """None once it answers, else why it will not."""
        deadline = time.monotonic() + self._start_timeout
        while time.monotonic() < deadline:
            if self._gone():
                return "it ended"
            if await serves(self._port.number, self._env["VLLM_API_KEY"], self._model, seconds=5):
                return None
            await asyncio.sleep(POLL)
        return f"no answer within engine.start_timeout={self._start_timeout:g} s"

    async def _watch(self) -> str:
        """Return why it is no longer well: its process ended, or no answer for `hang_timeout` seconds."""
        answered = time.monotonic()
        pause = min(5.0, self._hang_timeout / 4)
        while True:
            looked = time.monotonic()
            while time.monotonic() < looked + pause:
                if self._gone():
                    return "the server died"
                await asyncio.sleep(POLL)
            if await serves(self._port.number, self._env["VLLM_API_KEY"], self._model, seconds=max(pause, 1.0)):
                answered = time.monotonic()
            elif time.monotonic() - answered > self._hang_timeout:
                return f"no answer for {self._hang_timeout:g} s"

    async def _end(self, *, hung: bool = False) -> int | None:
        return await self._process.stop(hung=hung) if self._process else None

    def _gone(self) -> bool:
        return self._process is None or self._process.exited()

    def _output(self) -> str:
        """The last 64 KiB of what this start wrote."""
        with self._log.open("rb") as file:
            size = file.seek(0, 2)
            file.seek(max(self._begin, size - 2**16))
            text = file.read().decode(errors="replace")
        return text.replace(self._env["VLLM_API_KEY"], "***")

    def _account(self) -> list[str]:
        """The remedy if one is known, the command, where the log is, and its end."""
        output = self._output()
        remedy = hint(output)
        lines = [f"hint: {remedy}"] if remedy else []
        lines += [f"command: {shlex.join(self._command(self._port.number))}", f"log: {self._log}; its end:"]
        return [*lines, *(f"  {line}" for line in last_lines(output))]
