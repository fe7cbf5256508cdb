"""Opens a reward model behind its engine: in this process, a vLLM pooling server of ours, or one of yours."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence

import orjson

from factory.engine.client import EngineClient
from factory.engine.limits import Budget, BudgetSettings
from factory.engine.pooling import PoolingClient
from factory.engine.request import Request
from factory.records import Message
from factory.resources import Resources
from factory.reward.batches import Batcher, Values
from factory.reward.encoding import Encoder
from factory.reward.model import RewardModel
from factory.reward.settings import InProcess, PoolingAddress, PoolingServers

Compute = Callable[[Sequence[int]], Awaitable[Values]]


class Rewarder:
    """`await values(messages)` gives the head's outputs for a conversation. Raises `ScorerError` where it has none."""

    def __init__(self, encoder: Encoder, compute: Compute) -> None:
        self._encoder, self._compute = encoder, compute

    async def values(self, messages: Sequence[Message]) -> Values:
        # In a thread: a long text takes long, and the tokenizer leaves the interpreter to others meanwhile.
        ids = await asyncio.to_thread(self._encoder.encode, messages)
        return await self._compute(ids)


@contextlib.asynccontextmanager
async def open_rewarder(model: RewardModel, resources: Resources) -> AsyncIterator[Rewarder]:
    """The model, ready to be asked. Raises `UserError` with the remedy where it cannot be had."""
    engine = model.settings.engine
    resources.status(f"reward {model.name}: loading {model.settings.path}")
    assert model.weights  # what is wrong with a hub's model is told before its weights are loaded
    encoder = await asyncio.to_thread(Encoder, model)
    async with contextlib.AsyncExitStack() as stack:
        if isinstance(engine, InProcess):
            compute = await stack.enter_async_context(_in_process(model))
        else:
            client = await stack.enter_async_context(_client(model, engine, resources))
            compute = _asking(client)
        yield Rewarder(encoder, compute)


@contextlib.asynccontextmanager
async def _in_process(model: RewardModel) -> AsyncIterator[Compute]:
    from factory.reward.in_process import InProcessModel

    loaded = await asyncio.to_thread(InProcessModel, model)
    batcher = Batcher(loaded.forward, loaded.budget, model.name)
    try:
        yield batcher.value
    finally:
        await batcher.close()


@contextlib.asynccontextmanager
async def _client(
    model: RewardModel, engine: PoolingServers | PoolingAddress, resources: Resources
) -> AsyncIterator[EngineClient]:
    # Scoring is paid for in time only: the run's budget is for what it generates.
    budget = Budget(BudgetSettings())
    if isinstance(engine, PoolingAddress):
        name, key = engine.served_name or model.settings.path, engine.api_key(f"{model.where}.engine", [])
        async with PoolingClient(engine.urls, model=name, api_key=key, policy=engine, budget=budget) as client:
            client.address_key = f"{model.where}.engine.base_url"
            yield client
        return
    from factory.engine.server import ManagedServers

    logs = resources.logs / f"reward-{model.name}"
    # vLLM's own "auto" would narrow float32.
    dtype = model.own_dtype if engine.dtype == "auto" else engine.dtype
    pooling = engine.model_copy(update={"dtype": dtype, "extra_args": ("--runner", "pooling", *engine.extra_args)})
    async with (
        ManagedServers(model.resolved, pooling, logs, on_status=resources.status) as servers,
        PoolingClient(
            servers.endpoints(),
            model=model.resolved.served_name,
            api_key=servers.api_key,
            policy=engine,
            budget=budget,
            revive=servers.wait_alive,
        ) as client,
    ):
        yield client


def _asking(client: EngineClient) -> Compute:
    async def compute(ids: Sequence[int]) -> Values:
        answer = await client.complete(Request(prompt=tuple(ids)))
        values: Values = orjson.loads(answer.text)
        return values

    return compute
