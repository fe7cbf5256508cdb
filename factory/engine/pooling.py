"""The client of a pooling server: token ids in, the numbers of a model's head out (vLLM's `/classify`)."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

import orjson

from factory.engine.client import Endpoint, EngineClient
from factory.engine.request import Request, Response


class PoolingClient(EngineClient):
    """Sends a request's prompt, token ids, and answers with a text that is the head's outputs as a JSON list.

    Ids, so that the chat template is applied once, here, and nothing is added to it. The outputs are as the head gives
    them: no softmax or sigmoid over them.
    """

    def _path(self, endpoint: Endpoint, request: Request) -> str:
        return (
            re.sub(r"/v1/?$", "", endpoint.url).rstrip("/") + "/classify"
        )  # beside the OpenAI protocol, not part of it

    def _body(self, request: Request) -> dict[str, Any]:
        return {"model": self.model, "input": list(request.prompt), "use_activation": False}

    @staticmethod
    def _parse(text: str, seconds: float) -> Sequence[Response]:
        data = orjson.loads(text)
        (found,) = data["data"]
        values = orjson.dumps([float(value) for value in found["probs"]]).decode()
        usage = data.get("usage") or {}
        return [Response(values, prompt_tokens=int(usage.get("prompt_tokens") or 0), seconds=seconds)]
