"""How much may be asked at once, and how much in all."""

from __future__ import annotations

import time
from dataclasses import dataclass

from pydantic import Field

from factory.errors import Stopped
from factory.records import Frozen


class AdaptiveLimit:
    """Additive increase, multiplicative decrease over the number of requests in flight (as TCP does it).

    Starts at `maximum`: a server of one's own wants a full batch from the first second, and a rate-limited one says so
    within a round trip. Requests sent before the last decrease say nothing new, so they do not decrease it again.
    """

    def __init__(self, maximum: int) -> None:
        self.maximum, self.limit, self.in_flight = float(maximum), float(maximum), 0
        self._decreased_at = 0.0

    def room(self, weight: int = 1) -> bool:
        """Whether `weight` more may be in flight; what weighs more than the limit goes alone."""
        return self.in_flight == 0 or self.in_flight + weight <= int(self.limit)

    def succeeded(self) -> None:
        if self.limit < self.maximum:
            self.limit = min(self.maximum, self.limit + 1.0 / self.limit)

    def overloaded(self, sent_at: float, factor: float = 0.7) -> None:
        """The server refused a request sent at monotonic time `sent_at`."""
        if sent_at >= self._decreased_at:
            self._decreased_at = time.monotonic()
            self.limit = max(1.0, min(self.limit, float(self.in_flight + 1)) * factor)


class BudgetSettings(Frozen):
    """Bounds on a run, the earlier parts of a resumed one included (minutes: of this invocation). `null` is no bound."""

    requests: int | None = Field(None, ge=1)
    tokens: int | None = Field(None, ge=1)
    usd: float | None = Field(None, gt=0)
    minutes: float | None = Field(None, gt=0)


@dataclass
class Spent:
    """What a run has used so far; `usd` follows the model's prices per million tokens."""

    requests: int = 0
    prompt_tokens: int = 0
    completion_tokens: int = 0
    usd: float = 0.0


class Budget:
    """Counts what is spent and refuses the request that would start beyond a bound."""

    def __init__(
        self, settings: BudgetSettings, prices: tuple[float, float] = (0.0, 0.0), spent: Spent | None = None
    ) -> None:
        """`spent` is that of another budget under the same bounds, whose prices differ."""
        self.settings, self.prices, self.started = settings, prices, time.monotonic()
        self.spent = Spent() if spent is None else spent

    def charge(self, prompt_tokens: int, completion_tokens: int, requests: int = 0) -> None:
        """Add tokens, and the requests that were not counted by `admit` (those of an earlier invocation)."""
        spent = self.spent
        spent.requests += requests
        spent.prompt_tokens += prompt_tokens
        spent.completion_tokens += completion_tokens
        spent.usd += (prompt_tokens * self.prices[0] + completion_tokens * self.prices[1]) / 1e6

    def admit(self, requests: int = 1) -> None:
        """Count answers about to be asked for; raise `Stopped`, naming the bound, where there is no budget left for them."""
        settings, spent = self.settings, self.spent
        tokens = spent.prompt_tokens + spent.completion_tokens
        minutes = (time.monotonic() - self.started) / 60
        for name, used, bound in (
            ("requests", spent.requests + requests - 1, settings.requests),
            ("tokens", tokens, settings.tokens),
            ("usd", spent.usd, settings.usd),
            ("minutes", minutes, settings.minutes),
        ):
            if bound is not None and used >= bound:
                more = bound * 2
                raise Stopped(
                    f"budget.{name}={bound:g} is used up ({used:.6g}). What is done is kept; "
                    f"go on with the same command and a larger bound, such as budget.{name}={more:g}."
                )
        spent.requests += requests

    def refund(self, requests: int = 1) -> None:
        """What was admitted never reached a server."""
        self.spent.requests -= requests
