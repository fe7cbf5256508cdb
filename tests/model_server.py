"""A scripted model server: real HTTP on a real socket, the OpenAI protocol, every answer and every fault decided here.

`ModelServer(script)` runs in a thread of the test; `python -m tests.model_server` runs alone, for benchmarks and for
tests that kill things. A script is a function from the request's JSON body to a `Reply`. The server counts what it was
asked, so that a test can say "exactly 2,000 requests, none twice".
"""

from __future__ import annotations

import argparse
import asyncio
import collections
import hashlib
import math
import re
import statistics
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import orjson

Script = Callable[[dict[str, Any]], "Reply"]


@dataclass
class Reply:
    """One answer. `body` replaces the whole JSON; `drop` closes the connection; `hang` never answers."""

    text: str = ""
    status: int = 200
    delay: float = 0.0
    headers: dict[str, str] = field(default_factory=dict)
    finish_reason: str = "stop"
    body: bytes | None = None
    drop: bool = False
    hang: bool = False
    cut: bool = False


def key_of(body: dict[str, Any]) -> bytes:
    """What makes two requests the same: everything in the body."""
    return hashlib.blake2b(orjson.dumps(body, option=orjson.OPT_SORT_KEYS), digest_size=16).digest()


def uniform(key: bytes) -> float:
    """A number in (0, 1) that depends on the request alone."""
    return (int.from_bytes(key[:7], "big") + 0.5) / 2**56


def lognormal(key: bytes, median: float, sigma: float) -> float:
    """A latency in seconds that depends on the request alone."""
    return median * math.exp(sigma * statistics.NormalDist().inv_cdf(uniform(key)))


def last_text(body: dict[str, Any]) -> str:
    """The last message's text, or the raw prompt."""
    return str(body["messages"][-1]["content"] if "messages" in body else body.get("prompt", body.get("input")))


class _Connection(asyncio.Protocol):
    def __init__(self, server: ModelServer) -> None:
        self.server, self.data, self.transport = server, bytearray(), None

    def connection_made(self, transport: Any) -> None:
        self.transport = transport
        self.server.connections.add(transport)

    def connection_lost(self, exc: Exception | None) -> None:
        self.server.connections.discard(self.transport)
        self.transport = None

    def data_received(self, data: bytes) -> None:
        self.data += data
        while (end := self.data.find(b"\r\n\r\n")) >= 0:
            head = bytes(self.data[:end])
            lower = head.lower()
            at = lower.find(b"content-length:")
            length = int(lower[at + 15 :].split(b"\r\n", 1)[0]) if at >= 0 else 0
            if len(self.data) < end + 4 + length:
                return
            payload = bytes(self.data[end + 4 : end + 4 + length])
            del self.data[: end + 4 + length]
            self.handle(head.split(b" ", 2)[1].decode(), head, payload)

    def handle(self, path: str, head: bytes, payload: bytes) -> None:
        server = self.server
        if not path.endswith(("completions", "classify")):
            return self.send(200, server.side_door(path), {})
        body = orjson.loads(payload)
        server.heads.append(head)
        key = key_of(body)
        server.count += 1
        if server.keep_bodies != 0 or server.count_keys:
            server.unique += key not in server.seen
            server.seen[key] += 1
        server.in_flight += 1
        server.peak = max(server.peak, server.in_flight)
        reply = server.script(body)
        if server.keep_bodies != 0:
            server.bodies.append(body)
        elif server.count_keys:
            found = re.search(r"question number (\d+)", last_text(body))
            server.delays.append((found.group(1) if found else "", reply.delay))
        if reply.delay > 0:
            asyncio.get_running_loop().call_later(reply.delay, self.finish, path, body, reply)
        else:
            self.finish(path, body, reply)

    def finish(self, path: str, body: dict[str, Any], reply: Reply) -> None:
        if reply.hang:
            return
        self.server.in_flight -= 1
        if reply.drop:
            if self.transport:
                self.transport.abort()
            return
        if reply.body is not None:
            return self.send(reply.status, reply.body, reply.headers, reply.cut)
        if reply.status != 200:
            error = {"error": {"message": reply.text or "scripted error", "code": reply.status}}
            return self.send(reply.status, orjson.dumps(error), reply.headers)
        chat = "messages" in body
        choices = []
        for index in range(body.get("n", 1)):
            text = reply.text if index == 0 else f"{reply.text} ({index + 1})"
            choice: dict[str, Any] = {"index": index, "finish_reason": reply.finish_reason, "logprobs": None}
            choices.append(choice | ({"message": {"role": "assistant", "content": text}} if chat else {"text": text}))
        answer = {
            "id": "cmpl-1",
            "object": "chat.completion" if chat else "text_completion",
            "created": 1,
            "model": body.get("model", ""),
            "choices": choices,
            "usage": {"prompt_tokens": 10, "completion_tokens": max(1, len(reply.text) // 4), "total_tokens": 20},
        }
        self.send(200, orjson.dumps(answer), reply.headers, reply.cut)

    def send(self, status: int, body: bytes, headers: dict[str, str], cut: bool = False) -> None:
        if self.transport is None:
            return
        extra = "".join(f"{name}: {value}\r\n" for name, value in headers.items())
        head = f"HTTP/1.1 {status} X\r\ncontent-type: application/json\r\ncontent-length: {len(body)}\r\n{extra}\r\n"
        self.transport.write(head.encode() + (body[: len(body) // 2] if cut else body))
        if cut:
            self.transport.close()


class ModelServer:
    """Serves on 127.0.0.1 in a thread of its own: `with ModelServer(script) as server: server.url`."""

    def __init__(
        self, script: Script | None = None, port: int = 0, keep_bodies: int | None = 10_000, count_keys: bool = True
    ) -> None:
        self.script: Script = script or (lambda body: Reply(f"answer to {last_text(body)[:200]}"))
        self.port, self.keep_bodies, self.count_keys = port, keep_bodies, count_keys
        self.count = self.in_flight = self.peak = 0
        self.seen: collections.Counter[bytes] = collections.Counter()
        self.bodies: collections.deque[dict[str, Any]] = collections.deque(maxlen=keep_bodies)
        self.heads: collections.deque[bytes] = collections.deque(maxlen=16)
        self.connections: set[Any] = set()
        self.unique = 0
        self.delays: list[tuple[str, float]] = []
        self._ready = threading.Event()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}/v1"

    @property
    def repeated(self) -> int:
        """How many requests were asked before with the very same body."""
        return sum(count - 1 for count in self.seen.values())

    def side_door(self, path: str) -> bytes:
        if path.endswith("/models"):
            return orjson.dumps({"object": "list", "data": [{"id": "scripted", "object": "model"}]})
        if path.endswith("/delays"):
            return orjson.dumps(self.delays)
        stats = {"count": self.count, "unique": self.unique, "peak": self.peak, "in_flight": self.in_flight}
        return orjson.dumps(stats)

    async def serve(self) -> None:
        loop = asyncio.get_running_loop()
        server = await loop.create_server(lambda: _Connection(self), "127.0.0.1", self.port, backlog=4096)
        self.port = server.sockets[0].getsockname()[1]
        self._loop, self._server, self._stop = loop, server, asyncio.Event()
        self._ready.set()
        await self._stop.wait()
        server.close()
        for transport in list(self.connections):
            transport.abort()

    def __enter__(self) -> ModelServer:
        self._ready.clear()
        self._thread = threading.Thread(target=lambda: asyncio.run(self.serve()), daemon=True)
        self._thread.start()
        self._ready.wait(10)
        return self

    def __exit__(self, *exc: object) -> None:
        self._loop.call_soon_threadsafe(self._stop.set)
        self._thread.join(10)


def scripted_latency(median: float, sigma: float, fail: float, text: str) -> Script:
    """Answers after a lognormal latency; a share `fail` of the requests gets a permanent 400. All by content alone."""

    def script(body: dict[str, Any]) -> Reply:
        key = key_of({"text": last_text(body)})
        if fail and uniform(hashlib.blake2b(key, digest_size=8).digest()) < fail:
            return Reply("scripted permanent error", status=400, delay=lognormal(key, median, sigma))
        if "response_format" in body:
            return Reply('{"reason": "It is right.", "score": 5}', delay=lognormal(key, median, sigma))
        return Reply(text or f"answer to {last_text(body)[:200]}", delay=lognormal(key, median, sigma) if median else 0)

    return script


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--port", type=int, default=0)
    parser.add_argument("--median", type=float, default=0.0)
    parser.add_argument("--sigma", type=float, default=0.0)
    parser.add_argument("--fail", type=float, default=0.0)
    parser.add_argument("--text", default="")
    parser.add_argument("--forget", action="store_true", help="count requests only: for millions of them")
    args = parser.parse_args()
    import uvloop

    server = ModelServer(scripted_latency(args.median, args.sigma, args.fail, args.text), args.port, 0, not args.forget)

    async def run() -> None:
        task = asyncio.create_task(server.serve())
        while not server._ready.is_set():
            await asyncio.sleep(0.01)
        print(server.port, flush=True)
        await task

    uvloop.run(run())


if __name__ == "__main__":
    main()
