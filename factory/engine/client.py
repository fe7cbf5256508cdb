"""One client for every server that speaks the OpenAI protocol: when to send, where to, and what to make of failure.

The `openai` client does the talking (through its aiohttp transport, which nearly doubles its rate at hundreds of
concurrent calls); the policy is here: requests wait in one queue ordered by the record's place in the run, each endpoint
takes as many as its adaptive limit allows, a refusal lowers that limit, a passing failure is tried again after a pause
with jitter, and a permanent one is that request's own.
"""

from __future__ import annotations

import asyncio
import heapq
import itertools
import random
import ssl
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import aiohttp
import openai
import orjson

from factory.engine.limits import AdaptiveLimit, Budget
from factory.engine.replies import answers_in, message_of, retry_after, transport_error
from factory.engine.request import Request, Response
from factory.engine.settings import Policy
from factory.errors import EngineGone, EngineLost, RecordError, UserError

Revive = Callable[[int], Awaitable[str]]
Keep = Callable[[Response], Awaitable[None]]
KeepAll = Callable[[Sequence[Response]], Awaitable[None]]
# The deadline of a try is `Policy.deadline`; only a host that does not even take the connection is given up sooner.
_TIMEOUT = openai.Timeout(None, connect=10.0)


class RequestError(RecordError):
    """This request failed for good: refused as it is (`final`), or failed too often (worth trying in another run)."""

    def __init__(self, reason: str, *, final: bool) -> None:
        super().__init__(reason)
        self.final = final


class _Passing(Exception):
    """A try that failed but may be repeated. `pause` is what the server asked for (Retry-After), in seconds."""

    def __init__(self, why: str, *, overload: bool = False, lost: bool = False, pause: float | None = None) -> None:
        super().__init__(why)
        self.overload, self.lost, self.pause = overload, lost, pause


@dataclass
class Endpoint:
    """One server: its client, its limit, until when to leave it alone, and since when it is lost (monotonic time)."""

    url: str
    client: openai.AsyncOpenAI
    limit: AdaptiveLimit
    resume_at: float = 0.0
    lost_since: float | None = None
    failures: int = 0


class Server(NamedTuple):
    """A server that speaks the OpenAI protocol: its address, the name it knows the model by, and the key."""

    url: str
    model: str
    key: str


class EngineClient:
    """Sends requests to one or more endpoints under one policy and one budget.

    `model` is the name the servers know the model by. `revive(index)` is awaited when an endpoint is lost and returns
    its URL once it answers again (the managed servers' restart); without it, a lost endpoint is tried again after a
    pause. Use as an async context manager.
    """

    address_key = "engine.base_url"  # the configuration's, for messages

    def __init__(
        self,
        urls: Sequence[str],
        *,
        model: str,
        api_key: str,
        policy: Policy,
        budget: Budget,
        revive: Revive | None = None,
    ) -> None:
        self.model, self.policy, self.budget, self.revive = model, policy, budget, revive
        self.structured = policy.structured
        self._urls, self._api_key = list(urls), api_key
        self._endpoints: list[Endpoint] = []
        self._waiting: list[tuple[int, int, int, asyncio.Future[Endpoint]]] = []
        self._order = itertools.count()
        self._random = random.Random()
        self._answered = False
        self._fatal: Exception | None = None
        self._revivals: dict[int, asyncio.Task[None]] = {}
        self.retries = 0

    async def __aenter__(self) -> EngineClient:
        self._endpoints = [
            Endpoint(url, self._connect(url), AdaptiveLimit(self.policy.concurrency)) for url in self._urls
        ]
        return self

    async def __aexit__(self, *exc: object) -> None:
        for task in self._revivals.values():
            task.cancel()
        await asyncio.gather(*(endpoint.client.close() for endpoint in self._endpoints), return_exceptions=True)

    def _connect(self, url: str) -> openai.AsyncOpenAI:
        # No limit of the transport's own below ours: waiting there would be counted as the server's time.
        # A plain address needs no certificates, which take long to load; a redirect to TLS would be refused.
        verify = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT) if url.startswith("http://") else True
        connector = openai.DefaultAioHttpClient(timeout=None, limits=_limits(self.policy.concurrency), verify=verify)
        return openai.AsyncOpenAI(api_key=self._api_key, base_url=url, http_client=connector, max_retries=0)

    @property
    def server(self) -> Server:
        """Where the first server is, for a program that asks it itself."""
        return Server(self._endpoints[0].url, self.model, self._api_key)

    @property
    def in_flight(self) -> int:
        return sum(endpoint.limit.in_flight for endpoint in self._endpoints)

    @property
    def limit(self) -> int:
        """How many requests may be in flight now."""
        return sum(int(endpoint.limit.limit) for endpoint in self._endpoints)

    @property
    def capacity(self) -> int:
        """How many requests may ever be in flight."""
        return self.policy.concurrency * len(self._urls)

    async def complete(self, request: Request, priority: int = 0, keep: Keep | None = None) -> Response:
        """Answer `request`; lower `priority` goes first.

        `keep(response)` is awaited before the request counts as no longer in flight: an answer is only had when it is
        written down, and a killed process repeats no more than was in flight.

        Raises `RequestError` where this request failed, `Stopped` or `UserError` where no request can succeed.
        """

        async def keep_one(responses: Sequence[Response]) -> None:
            if keep is not None:
                await keep(responses[0])

        return (await self.complete_samples(request, 1, priority, keep_one))[0]

    async def complete_samples(self, request: Request, count: int, priority: int, keep: KeepAll) -> Sequence[Response]:
        """`count` answers to `request` in one (`n`), which weighs as much as `count` of them; else as `complete`."""
        attempt = 0
        while True:
            endpoint = await self._acquire(priority, count)
            # Now: how JSON is asked for may have changed meanwhile.
            sent_at, body = time.monotonic(), self._body(request) | ({"n": count} if count > 1 else {})
            try:
                self.budget.admit(count)
                responses = await self._send(endpoint, self._path(endpoint, request), body, count)
            except _Passing as error:
                attempt += self._note_failure(endpoint, error, sent_at, count)
                pause = self._pause(attempt, error)
                if attempt > self.policy.retries:
                    raise RequestError(f"engine: {error} ({attempt} tries)", final=False) from error
                self.retries += 1
            except RequestError as error:
                endpoint.lost_since = None
                # Whoever was in flight when the first refusal came is refused, too; "server" is one that took a schema.
                if "response_format" not in body or self.structured == "server" or not _about_schema(error):
                    raise
                if self.policy.structured != "auto":
                    raise
                # The server has no JSON-schema mode: from now on the schema is part of the question.
                self.structured = "parse"
                pause = 0.0
            else:
                if request.schema is not None and self.structured == "auto":
                    self.structured = "server"
                for response in responses:
                    self._note_success(endpoint, response)
                await keep(responses)
                return responses
            finally:
                endpoint.limit.in_flight -= count
                self._wake()
            await asyncio.sleep(pause)

    def _path(self, endpoint: Endpoint, request: Request) -> str:
        return "/chat/completions" if request.messages else "/completions"

    def _body(self, request: Request) -> dict[str, Any]:
        body = {"model": self.model, **request.sampling}
        if request.messages:
            body["messages"] = [{"role": message.role, "content": message.content} for message in request.messages]
        else:
            body["prompt"] = request.prompt
        if self.policy.send_seed:
            body["seed"] = request.seed
        if request.schema is not None and self.structured != "parse":
            schema = {"name": "answer", "schema": dict(request.schema), "strict": True}
            body["response_format"] = {"type": "json_schema", "json_schema": schema}
        elif request.schema is not None:
            wanted = orjson.dumps(dict(request.schema)).decode()
            order = f"\n\nAnswer with JSON only, of this schema: {wanted}"
            if request.messages:
                body["messages"][-1]["content"] += order
            else:
                body["prompt"] += f"{order}\n\n"
        return body

    # ---- where and when to send

    async def _acquire(self, priority: int, weight: int) -> Endpoint:
        if self._fatal:
            raise self._fatal
        if not self._waiting and (endpoint := self._free_endpoint(weight)):
            endpoint.limit.in_flight += weight
            return endpoint
        future: asyncio.Future[Endpoint] = asyncio.get_running_loop().create_future()
        heapq.heappush(self._waiting, (priority, next(self._order), weight, future))
        self._wake()
        try:
            return await future
        except asyncio.CancelledError:
            if future.done() and not future.cancelled() and not future.exception():
                future.result().limit.in_flight -= weight
                self._wake()
            raise

    def _free_endpoint(self, weight: int) -> Endpoint | None:
        now, best, best_load = time.monotonic(), None, float("inf")
        for endpoint in self._endpoints:
            if endpoint.limit.room(weight) and endpoint.resume_at <= now:
                load = endpoint.limit.in_flight / endpoint.limit.limit
                if load < best_load:
                    best, best_load = endpoint, load
        return best

    def _wake(self) -> None:
        while self._waiting:
            _, _, weight, future = self._waiting[0]
            if future.done():
                heapq.heappop(self._waiting)
                continue
            endpoint = self._free_endpoint(weight)
            if endpoint is None:
                return
            endpoint.limit.in_flight += weight
            heapq.heappop(self._waiting)
            future.set_result(endpoint)

    def _pause_endpoint(self, endpoint: Endpoint, seconds: float) -> None:
        endpoint.resume_at = max(endpoint.resume_at, time.monotonic() + seconds)
        asyncio.get_running_loop().call_later(seconds + 0.001, self._wake)

    # ---- one try

    async def _send(self, endpoint: Endpoint, path: str, body: dict[str, Any], count: int) -> Sequence[Response]:
        started = time.monotonic()
        try:
            async with asyncio.timeout(self.policy.deadline):
                text = await endpoint.client.post(path, cast_to=str, body=body, options={"timeout": _TIMEOUT})
        except TimeoutError as error:
            raise _Passing(f"no answer within {self.policy.deadline:g} s") from error
        except openai.APIStatusError as error:
            raise self._refusal(error, endpoint) from error
        except (openai.APIConnectionError, aiohttp.ClientError) as error:
            # The openai client calls every connection that fails a timeout; aiohttp knows better. One that was never
            # made did not carry the request: such a try does not count against it.
            cause = transport_error(error)
            lost = isinstance(cause, (aiohttp.ClientConnectorError, aiohttp.ConnectionTimeoutError))
            raise _Passing(f"connection failed: {cause}", lost=lost) from error
        try:
            responses = self._parse(text, time.monotonic() - started)
            if len(responses) != count:
                raise ValueError(f"{len(responses)} answers where {count} were asked for")
            return responses
        except (ValueError, KeyError, IndexError, TypeError, AttributeError) as error:
            raise _Passing(f"malformed answer: {text[:120]!r}") from error

    @staticmethod
    def _parse(text: str, seconds: float) -> Sequence[Response]:
        """The answers in one reply. Raises what reading something else than answers raises."""
        return answers_in(text, seconds)

    def _refusal(self, error: openai.APIStatusError, endpoint: Endpoint) -> Exception:
        status, message = error.status_code, message_of(error)
        if status == 429 and "insufficient_quota" in (error.code, error.type):
            return self._stop(f"{endpoint.url} says the account has no quota left: {message}")
        if status in (408, 409, 429) or status >= 500:
            overload = status == 429 or status >= 500
            return _Passing(f"HTTP {status}: {message}", overload=overload, pause=retry_after(error))
        if status in (401, 403):
            return self._stop(f"{endpoint.url} refused the API key (HTTP {status}): {message}")
        if status == 404:
            return self._stop(f"{endpoint.url} knows no model {self.model!r} or no such path (HTTP 404): {message}")
        return RequestError(f"engine: HTTP {status}: {message}", final=True)

    def _stop(self, why: str, *, unreachable: bool = False) -> UserError:
        """End the run: no request can succeed. Wrong from the start is wrong usage; later, the run was stopped."""
        error = EngineLost(why) if self._answered else EngineGone(why) if unreachable else UserError(why)
        self._end(error)
        return error

    def _end(self, error: Exception) -> None:
        """Nobody is served any more; those who wait learn why."""
        self._fatal = error
        for _, _, _, future in self._waiting:
            if not future.done():
                future.set_exception(error)

    # ---- what came of it

    def _note_success(self, endpoint: Endpoint, response: Response) -> None:
        endpoint.failures, endpoint.lost_since = 0, None
        endpoint.limit.succeeded()
        self._answered = True
        self.budget.charge(response.prompt_tokens, response.completion_tokens)

    def _note_failure(self, endpoint: Endpoint, error: _Passing, sent_at: float, count: int) -> int:
        """Learn from a failed try; returns 1 where it counts against the request, 0 where the server never saw it."""
        if error.overload:
            endpoint.limit.overloaded(sent_at)
            if error.pause is not None:
                self._pause_endpoint(endpoint, error.pause)
        if not error.lost:
            endpoint.lost_since = None
            return 1
        self.budget.refund(count)
        now, index = time.monotonic(), self._endpoints.index(endpoint)
        if endpoint.lost_since is None:
            endpoint.lost_since, endpoint.failures = now, 0
        patience = self.policy.patience if self._answered else self.policy.first_patience
        if self.revive is not None:
            if index not in self._revivals or self._revivals[index].done():
                self._revivals[index] = asyncio.create_task(self._revive(index))
            endpoint.resume_at = float("inf")
        elif all(other.lost_since is not None and now - other.lost_since > patience for other in self._endpoints):
            raise self._stop(
                f"nothing answers at {', '.join(self._urls)} ({error}). Start the server, or name another one with "
                f"{self.address_key}=URL; then give the same command again.",
                unreachable=True,
            )
        elif sent_at >= endpoint.resume_at:  # those that were sent with the one that failed first say nothing new
            endpoint.failures += 1
            endpoint.limit.overloaded(sent_at, factor=0.5)
            self._pause_endpoint(endpoint, min(5.0, self.policy.backoff * 2 ** min(endpoint.failures, 6)))
        return 0

    async def _revive(self, index: int) -> None:
        endpoint = self._endpoints[index]
        try:
            assert self.revive is not None
            url = await self.revive(index)
        except Exception as error:  # a bug, too, must reach those who wait
            self._end(error)
            return
        if url != endpoint.url:
            await endpoint.client.close()
            endpoint.url, endpoint.client = url, self._connect(url)
        endpoint.resume_at = 0.0
        self._wake()

    def _pause(self, attempt: int, error: _Passing) -> float:
        if error.lost:
            return 0.0
        ceiling = min(self.policy.backoff_max, self.policy.backoff * 2 ** max(0, attempt - 1))
        jittered: float = ceiling * (0.5 + 0.5 * self._random.random())
        return max(jittered, error.pause or 0.0)


def _limits(concurrency: int) -> Any:
    """Connection limits of the HTTP library that this openai release uses (httpx, or its successor)."""
    limits = type(openai.DEFAULT_CONNECTION_LIMITS)
    return limits(max_connections=concurrency + 8, max_keepalive_connections=concurrency + 8)


def _about_schema(error: RequestError) -> bool:
    return any(word in str(error) for word in ("response_format", "json_schema", "guided", "structured"))
