"""How patient the client is; apart from the client, so that reading a configuration imports no HTTP library."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

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
