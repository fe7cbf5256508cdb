"""The key on every route of a vLLM server (`--middleware`): its own guard leaves the routes of the development mode open,
through which anybody on the machine could load other weights. Health may be asked without.
"""

from __future__ import annotations

import os
import secrets
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any

Scope = MutableMapping[str, Any]
App = Callable[[Scope, Callable[[], Awaitable[Any]], Callable[[Any], Awaitable[None]]], Awaitable[None]]


class KeyOnEveryRoute:
    """ASGI middleware: 401 without `Authorization: Bearer` and the key of `VLLM_API_KEY`."""

    def __init__(self, app: App) -> None:
        self._app, self._key = app, os.environ["VLLM_API_KEY"]

    async def __call__(
        self, scope: Scope, receive: Callable[[], Awaitable[Any]], send: Callable[[Any], Awaitable[None]]
    ) -> None:
        if scope["type"] != "http" or scope["path"] == "/health" or self._knows(scope):
            await self._app(scope, receive, send)
            return
        await send({"type": "http.response.start", "status": 401, "headers": [(b"content-type", b"text/plain")]})
        await send({"type": "http.response.body", "body": b"the key is missing or wrong"})

    def _knows(self, scope: Scope) -> bool:
        said = dict(scope["headers"]).get(b"authorization", b"")
        return secrets.compare_digest(said, f"Bearer {self._key}".encode())
