"""The client against a real HTTP server that misbehaves as it is told."""

from __future__ import annotations

import asyncio
import collections
import email.utils
import socket
import threading
import time
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import uvloop
from hypothesis import given
from hypothesis import strategies as st

from factory.engine.client import EngineClient, RequestError
from factory.engine.limits import AdaptiveLimit, Budget, BudgetSettings
from factory.engine.request import Request, Response
from factory.engine.settings import Policy
from factory.errors import EXIT_STOPPED, EXIT_USAGE, Stopped, UserError
from factory.records import Message
from tests.model_server import ModelServer, Reply, Script, last_text

SCHEMA = {"type": "object", "properties": {"score": {"type": "integer"}}, "required": ["score"]}


def question(number: int, **fields: Any) -> Request:
    return Request((Message(role="user", content=f"question number {number}"),), **fields)


def in_turn(*replies: Reply | Callable[[dict[str, Any]], Reply]) -> Script:
    """Each request gets the next reply; the last one goes on for ever."""
    left = collections.deque(replies)

    def script(body: dict[str, Any]) -> Reply:
        reply = left.popleft() if len(left) > 1 else left[0]
        return reply(body) if callable(reply) else reply

    return script


def talk(
    urls: str | list[str], use: Callable[[EngineClient], Awaitable[Any]], budget: Budget | None = None, **policy: Any
) -> Any:
    """Run `use` with a client of this policy, its pauses short unless said otherwise."""

    async def main() -> Any:
        settings = Policy(**{"backoff": 0.01, "backoff_max": 0.05, "concurrency": 8, **policy})
        addresses = [urls] if isinstance(urls, str) else urls
        spending = budget or Budget(BudgetSettings())
        async with EngineClient(addresses, model="m", api_key="key", policy=settings, budget=spending) as client:
            return await use(client)

    return uvloop.run(main())


def ask_all(count: int, **fields: Any) -> Callable[[EngineClient], Awaitable[list[Any]]]:
    """So many questions at once; an error is one of the results."""

    async def use(client: EngineClient) -> list[Any]:
        asked = (client.complete(question(number, **fields), number) for number in range(count))
        return await asyncio.gather(*asked, return_exceptions=True)

    return use


@contextmanager
def restarting(script: Script, after: int, away: float) -> Iterator[ModelServer]:
    """A server that dies as it gets its request number `after`, and is back on its port `away` seconds later."""
    died = threading.Event()

    def dying(body: dict[str, Any]) -> Reply:
        if server.count == after:
            died.set()
            return Reply(hang=True)
        return script(body)

    server = ModelServer(dying).__enter__()

    def reaper() -> None:
        died.wait()
        server.__exit__()
        time.sleep(away)
        server.__enter__()

    thread = threading.Thread(target=reaper, daemon=True)
    thread.start()
    try:
        yield server
    finally:
        died.set()
        thread.join()
        server.__exit__()


@pytest.mark.parametrize(
    "fault",
    [
        Reply("slow down", status=429),
        Reply("broken", status=500),
        Reply("bad gateway", status=502),
        Reply("conflict", status=409),
        Reply(drop=True),
        Reply(body=b'{"choices": [{"message": {"content": "cut in the middle', cut=True),
        Reply(body=b'{"choices": [{"message": {"content": "not closed'),
        Reply(body=b"<html>a proxy's page</html>"),
        Reply(body=b'{"choices": []}'),
        Reply(body=b'{"choices": [{"message": {"content": 7}}]}'),
        Reply(body=b'{"error": {"message": "said with status 200"}}'),
        Reply(hang=True),
    ],
    ids=lambda reply: f"{reply.status}-{(reply.text or (reply.body or b'').decode())[:12] or vars(reply)}"[:40],
)
def test_a_passing_fault_is_tried_again(fault: Reply) -> None:
    with ModelServer(in_turn(fault, fault, Reply("at last"))) as server:
        (answer,) = talk(server.url, ask_all(1), deadline=0.3)
    assert answer.text == "at last"
    assert server.count == 3


@pytest.mark.parametrize(
    ("fault", "reason"),
    [
        (Reply("broken", status=500), "engine: HTTP 500: broken (3 tries)"),
        (Reply(hang=True), "engine: no answer within 0.1 s (3 tries)"),
        (Reply(body=b"rubbish"), "engine: malformed answer: 'rubbish' (3 tries)"),
    ],
    ids=["500", "hang", "malformed"],
)
def test_a_fault_that_stays_is_the_requests_own_and_worth_another_run(fault: Reply, reason: str) -> None:
    def script(body: dict[str, Any]) -> Reply:
        return fault if last_text(body) == "question number 1" else Reply("fine")

    with ModelServer(script) as server:
        answers = talk(server.url, ask_all(4), retries=2, deadline=0.1)
    assert isinstance(answers[1], RequestError)
    assert str(answers[1]) == reason
    assert not answers[1].final
    assert [answer.text for answer in answers if isinstance(answer, Response)] == ["fine"] * 3
    assert server.count == 3 + 3


def test_a_permanent_refusal_is_not_tried_again() -> None:
    with ModelServer(in_turn(Reply("too many tokens", status=400))) as server:
        (error,) = talk(server.url, ask_all(1))
    assert str(error) == "engine: HTTP 400: too many tokens"
    assert error.final
    assert server.count == 1


def test_null_content_is_an_empty_answer() -> None:
    with ModelServer(in_turn(Reply(body=b'{"choices": [{"message": {"content": null}}]}'))) as server:
        (answer,) = talk(server.url, ask_all(1))
    assert answer == Response("", seconds=answer.seconds)


@pytest.mark.parametrize("date", [False, True], ids=["seconds", "date"])
def test_retry_after_is_honoured_by_everyone(date: bool) -> None:
    arrivals: list[float] = []

    def script(body: dict[str, Any]) -> Reply:
        arrivals.append(time.time())
        if len(arrivals) > 1:
            return Reply("fine")
        wait = email.utils.formatdate(time.time() + 2, usegmt=True) if date else "0.6"
        return Reply("wait", status=429, headers={"Retry-After": wait})

    async def use(client: EngineClient) -> None:
        first = asyncio.create_task(client.complete(question(0)))
        await asyncio.sleep(0.15)
        await asyncio.gather(first, *(client.complete(question(number)) for number in range(1, 6)))

    with ModelServer(script) as server:
        talk(server.url, use)
    assert len(arrivals) == 7
    # An HTTP date says whole seconds: two from now are at least one away.
    assert min(arrivals[1:]) - arrivals[0] >= (0.95 if date else 0.6)


def test_an_endpoint_that_asks_for_rest_does_not_stop_the_other() -> None:
    busy = in_turn(Reply("wait", status=429, headers={"Retry-After": "30"}))
    with ModelServer(busy) as tired, ModelServer(lambda body: Reply("fine")) as fresh:

        async def use(client: EngineClient) -> list[Any]:
            first = asyncio.create_task(client.complete(question(0)))  # goes to the first endpoint and waits 30 s
            await asyncio.sleep(0.2)
            answers = await asyncio.gather(*(client.complete(question(number)) for number in range(1, 20)))
            first.cancel()
            return answers

        answers = talk([tired.url, fresh.url], use)
    assert len(answers) == 19
    assert (tired.count, fresh.count) == (1, 19)


def test_the_load_is_shared() -> None:
    with (
        ModelServer(lambda body: Reply("x", delay=0.01)) as one,
        ModelServer(lambda body: Reply("x", delay=0.01)) as two,
    ):
        talk([one.url, two.url], ask_all(100), concurrency=4)
    assert min(one.count, two.count) > 30
    assert max(one.peak, two.peak) <= 4


def test_overload_lowers_the_limit_and_success_raises_it_again() -> None:
    seen: list[int] = []
    calm = threading.Event()

    def script(body: dict[str, Any]) -> Reply:
        if not calm.is_set() and server.in_flight > 4:
            return Reply("overload", status=429, delay=0.01)
        return Reply("fine", delay=0.005)

    async def use(client: EngineClient) -> int:
        await ask_all(40)(client)
        seen.append(client.limit)
        calm.set()
        await ask_all(400)(client)
        return client.limit

    with ModelServer(script) as server:
        recovered = talk(server.url, use, concurrency=16, retries=20)
    assert seen[0] < 12
    assert recovered == 16


def test_one_burst_of_refusals_is_one_decrease() -> None:
    limit = AdaptiveLimit(100)
    limit.in_flight = 100
    sent_at = time.monotonic()
    for _ in range(50):
        limit.overloaded(sent_at)
    assert limit.limit == pytest.approx(70)


@given(st.lists(st.booleans(), max_size=300), st.integers(1, 50))
def test_the_limit_stays_between_one_and_its_maximum(refusals: list[bool], maximum: int) -> None:
    limit = AdaptiveLimit(maximum)
    for refused in refusals:
        assert 1 <= limit.limit <= maximum
        limit.overloaded(time.monotonic()) if refused else limit.succeeded()


def test_no_more_in_flight_than_the_concurrency() -> None:
    with ModelServer(lambda body: Reply("x", delay=0.02)) as server:
        talk(server.url, ask_all(60), concurrency=5)
    assert server.peak == 5


def test_earlier_seeds_go_first() -> None:
    order: list[str] = []

    def script(body: dict[str, Any]) -> Reply:
        order.append(last_text(body).split()[-1])
        return Reply("x", delay=0.01)

    async def use(client: EngineClient) -> None:
        await asyncio.gather(*(client.complete(question(number), number) for number in (9, 5, 7, 1, 3)))

    with ModelServer(script) as server:
        talk(server.url, use, concurrency=1)
    assert order == ["9", "1", "3", "5", "7"]  # the first had no rival yet


def test_a_cancelled_request_gives_its_place_back() -> None:
    async def use(client: EngineClient) -> int:
        tasks = [asyncio.create_task(client.complete(question(number))) for number in range(20)]
        await asyncio.sleep(0.1)
        for task in tasks[::2]:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        return client.in_flight

    with ModelServer(lambda body: Reply("x", delay=0.15)) as server:
        assert talk(server.url, use, concurrency=4) == 0
    assert server.count < 20


def test_a_place_given_to_one_who_has_just_gone_is_given_on() -> None:
    async def use(client: EngineClient) -> int:
        async def first() -> None:
            await client.complete(question(0))
            second.cancel()  # it was handed the place in this very moment

        one = asyncio.create_task(first())
        second = asyncio.create_task(client.complete(question(1)))
        await asyncio.gather(one, second, return_exceptions=True)
        return client.in_flight

    with ModelServer(lambda body: Reply("x", delay=0.02)) as server:
        assert talk(server.url, use, concurrency=1) == 0


def test_a_server_that_dies_and_comes_back_loses_nothing() -> None:
    with restarting(lambda body: Reply(last_text(body), delay=0.005), after=30, away=0.8) as server:
        answers = talk(server.url, ask_all(100), retries=1, backoff=0.05, patience=20)
    assert [answer.text for answer in answers] == [f"question number {number}" for number in range(100)]


def test_a_refused_connection_costs_no_budget() -> None:
    budget, port = Budget(BudgetSettings(requests=5)), closed_port()

    async def use(client: EngineClient) -> list[Any]:
        asked = asyncio.create_task(ask_all(5)(client))
        await asyncio.sleep(0.4)
        with ModelServer(lambda body: Reply("x"), port):
            return await asked

    answers = talk(f"http://127.0.0.1:{port}/v1", use, budget, first_patience=20, backoff=0.05)
    assert [answer.text for answer in answers] == ["x"] * 5
    assert budget.spent.requests == 5


def closed_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


@pytest.mark.parametrize("url", ["http://127.0.0.1:{port}/v1", "http://no-such-host.invalid/v1"])
def test_an_address_where_nobody_is_ends_the_run_at_once(url: str) -> None:
    url = url.format(port=closed_port())
    started = time.monotonic()
    answers = talk(url, ask_all(20), first_patience=0.3)
    assert time.monotonic() - started < 5
    assert all(isinstance(answer, UserError) and not isinstance(answer, Stopped) for answer in answers)
    assert answers[0].status == EXIT_USAGE
    assert f"nothing answers at {url}" in str(answers[0])
    assert "engine.base_url=URL" in str(answers[0])


def test_a_host_that_takes_no_connection_is_unreachable_too(monkeypatch: pytest.MonkeyPatch) -> None:
    import openai

    from factory.engine import client

    monkeypatch.setattr(client, "_TIMEOUT", openai.Timeout(None, connect=0.3))
    with socket.socket() as full:
        full.bind(("127.0.0.1", 0))
        full.listen(0)
        crowd = [socket.socket() for _ in range(3)]
        for guest in crowd:
            guest.setblocking(False)
            guest.connect_ex(full.getsockname())
        (error,) = talk(f"http://127.0.0.1:{full.getsockname()[1]}/v1", ask_all(1), first_patience=0.2)
        for guest in crowd:
            guest.close()
    assert isinstance(error, UserError)
    assert "nothing answers" in str(error)


def test_a_server_gone_for_longer_than_patience_stops_the_run() -> None:
    async def use(client: EngineClient) -> list[Any]:
        with ModelServer(lambda body: Reply("x"), port) as server:
            await ask_all(5)(client)
            assert server.count == 5
        return await ask_all(30)(client)

    port = closed_port()
    answers = talk(f"http://127.0.0.1:{port}/v1", use, patience=0.4, backoff=0.05)
    assert all(isinstance(answer, Stopped) for answer in answers)
    assert answers[0].status == EXIT_STOPPED
    assert "nothing answers" in str(answers[0])


def test_patience_begins_when_the_server_is_lost() -> None:
    """However long ago its last answer was: it may have had nothing to do."""
    server = ModelServer(lambda body: Reply("x")).__enter__()

    async def use(client: EngineClient) -> Any:
        await client.complete(question(0))
        await asyncio.sleep(1.0)
        await asyncio.to_thread(server.__exit__)
        late = asyncio.create_task(client.complete(question(1)))
        await asyncio.sleep(0.3)
        await asyncio.to_thread(server.__enter__)
        return await late

    assert talk(server.url, use, patience=0.8, backoff=0.05).text == "x"
    server.__exit__()


def test_one_lost_endpoint_of_two_stops_nobody() -> None:
    with ModelServer(lambda body: Reply("x", delay=0.05)) as server:
        answers = talk([f"http://127.0.0.1:{closed_port()}/v1", server.url], ask_all(60), first_patience=0.1)
    assert [answer.text for answer in answers] == ["x"] * 60


@pytest.mark.parametrize(
    ("reply", "told"),
    [
        (Reply("bad key", status=401), "refused the API key (HTTP 401): bad key"),
        (Reply("not yours", status=403), "refused the API key (HTTP 403): not yours"),
        (Reply("no such model", status=404), "knows no model 'm' or no such path (HTTP 404): no such model"),
        (
            Reply(
                status=429,
                body=b'{"error": {"message": "You exceeded your current quota, please check your plan.", '
                b'"type": "insufficient_quota", "code": "insufficient_quota"}}',
            ),
            "the account has no quota left: You exceeded your current quota",
        ),
    ],
    ids=["401", "403", "404", "quota"],
)
def test_what_no_request_can_pass_stops_them_all(reply: Reply, told: str) -> None:
    with ModelServer(in_turn(reply)) as server:
        answers = talk(server.url, ask_all(50), concurrency=4)
    assert all(isinstance(answer, UserError) and not isinstance(answer, Stopped) for answer in answers)
    assert told in str(answers[0])
    assert server.count <= 4

    with ModelServer(in_turn(Reply("x"), reply)) as server:
        answers = talk(server.url, ask_all(50), concurrency=1)
    assert isinstance(answers[0], Response)
    assert all(isinstance(answer, Stopped) for answer in answers[1:]), "later on, the run was stopped"


def test_the_key_goes_to_the_server_and_the_seed_only_on_demand() -> None:
    with ModelServer(lambda body: Reply("x")) as server:
        talk(server.url, ask_all(1, seed=7))
        talk(server.url, ask_all(1, seed=7), send_seed=True)
    assert b"authorization: bearer key" in server.heads[0].lower()
    assert [body.get("seed") for body in server.bodies] == [None, 7]


def test_a_raw_prompt_goes_to_completions() -> None:
    async def use(client: EngineClient) -> Response:
        return await client.complete(Request(prompt="def f():"))

    with ModelServer(lambda body: Reply(f"after {last_text(body)}")) as server:
        assert talk(server.url, use).text == "after def f():"
    assert b"/v1/completions" in server.heads[0]


# ---- JSON by schema


def refuses_schemas(body: dict[str, Any]) -> Reply:
    if "response_format" in body:
        return Reply("response_format is not supported", status=400, delay=0.05)
    return Reply('{"score": 3}')


def test_a_server_without_schema_mode_is_asked_in_words_by_everyone_in_flight() -> None:
    with ModelServer(refuses_schemas) as server:
        answers = talk(server.url, ask_all(12, schema=SCHEMA), concurrency=6)
    assert [answer.text for answer in answers] == ['{"score": 3}'] * 12
    assert server.count <= 12 + 6, "those in flight when the first refusal came, and no more"
    assert '"score"' in last_text(server.bodies[-1])


def test_words_reach_a_raw_prompt_as_well() -> None:
    async def use(client: EngineClient) -> Response:
        return await client.complete(Request(prompt="Grade this.", schema=SCHEMA))

    with ModelServer(refuses_schemas) as server:
        assert talk(server.url, use).text == '{"score": 3}'


def test_a_server_with_schema_mode_may_still_refuse_one_request() -> None:
    bad = Reply("response_format: this schema is not supported", status=400)
    with ModelServer(in_turn(Reply('{"score": 1}'), bad, Reply('{"score": 2}'))) as server:
        answers = talk(server.url, ask_all(3, schema=SCHEMA), concurrency=1)
    assert isinstance(answers[1], RequestError)
    assert "response_format" in server.bodies[2]


@pytest.mark.parametrize("mode", ["server", "parse"])
def test_the_mode_can_be_insisted_on(mode: str) -> None:
    with ModelServer(refuses_schemas) as server:
        (answer,) = talk(server.url, ask_all(1, schema=SCHEMA), structured=mode)
    assert isinstance(answer, RequestError if mode == "server" else Response)
    assert server.count == 1


# ---- budgets


@pytest.mark.parametrize(
    ("bounds", "sent", "larger"),
    [
        ({"requests": 7}, 7, "budget.requests=14"),
        ({"tokens": 100}, 10, "budget.tokens=200"),  # 10 read, 1 written each: 9 requests make 99
        ({"usd": 0.0001}, 10, "budget.usd=0.0002"),
    ],
    ids=["requests", "tokens", "usd"],
)
def test_a_budget_bounds_what_is_sent(bounds: dict[str, Any], sent: int, larger: str) -> None:
    budget = Budget(BudgetSettings(**bounds), prices=(1.0, 1.0))
    with ModelServer(lambda body: Reply("four")) as server:
        answers = talk(server.url, ask_all(30), budget, concurrency=1)
    assert server.count == sent
    stopped = [answer for answer in answers if isinstance(answer, Stopped)]
    assert len(stopped) == 30 - sent
    assert larger in str(stopped[0])


def test_a_budget_of_minutes() -> None:
    with ModelServer(lambda body: Reply("x", delay=0.05)) as server:
        answers = talk(server.url, ask_all(60), Budget(BudgetSettings(minutes=0.5 / 60)), concurrency=1)
    assert 2 <= server.count < 30
    assert "budget.minutes=0.0166667" in str(answers[-1])
