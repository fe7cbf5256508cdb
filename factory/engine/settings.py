"""How patient the client is and where it asks; apart from the client, so that reading a configuration imports no HTTP library."""

from __future__ import annotations

import os
import re
from typing import Literal

from pydantic import Field, field_validator

from factory.records import Frozen


class Policy(Frozen):
    """Seconds, unless named otherwise."""

    concurrency: int = Field(64, ge=1)  # requests in flight per server, at most
    retries: int = Field(5, ge=0)  # further tries of a request that failed in passing
    deadline: float = Field(600.0, gt=0)  # for one try, from sending to the last byte
    backoff: float = Field(0.5, gt=0)  # pause before the second try; doubles, with jitter
    backoff_max: float = Field(30.0, gt=0)
    patience: float = Field(120.0, ge=0)  # how long no server may be reached before the run stops
    first_patience: float = Field(5.0, ge=0)  # the same before the first answer: a wrong address is told at once
    send_seed: bool = False  # per-request seeds; vLLM samples such requests one by one, so off unless wanted
    structured: Literal["auto", "server", "parse"] = "auto"  # how JSON is asked for; auto: as the server can
    samples: bool = False  # several answers to one question in one request, where the server takes `n`


class OpenAIEngine(Policy):
    """Any server that speaks the OpenAI protocol; several addresses share the load."""

    kind: Literal["openai"]
    base_url: str | tuple[str, ...]
    api_key_env: str | None = "OPENAI_API_KEY"
    identity: str | None = None  # names the endpoint in the journal's keys, so that a server may move
    served_name: str | None = None  # what requests call the model, where that is not `model.path`

    @field_validator("base_url")
    @classmethod
    def _is_url(cls, value: str | tuple[str, ...]) -> str | tuple[str, ...]:
        urls = (value,) if isinstance(value, str) else value
        if not urls or not all(re.match(r"https?://[^/\s]+", url) for url in urls):
            raise ValueError("is no address; it should look like http://127.0.0.1:8000/v1")
        return value

    @field_validator("api_key_env")
    @classmethod
    def _is_variable(cls, value: str | None) -> str | None:
        if value is not None and not re.fullmatch(r"[A-Za-z_]\w*", value):
            raise ValueError("should be the name of an environment variable, never the key itself")
        return value

    @property
    def urls(self) -> tuple[str, ...]:
        return (self.base_url,) if isinstance(self.base_url, str) else tuple(self.base_url)

    def api_key(self, where: str, problems: list[str]) -> str:
        """The key, which goes nowhere but into the client; tells where there is none. `where` is the engine's key."""
        local = all(re.match(r"https?://(localhost|127\.\d+\.\d+\.\d+|\[::1\])([:/]|$)", url) for url in self.urls)
        key = os.environ.get(self.api_key_env, "") if self.api_key_env else "none"
        if not key and not local:
            problems.append(
                f"{where}.api_key_env={self.api_key_env}: this variable is not set; export "
                f"{self.api_key_env}=..., or give {where}.api_key_env=null for a server that needs no key"
            )
        return key or "none"
