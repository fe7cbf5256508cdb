"""Micro-batches: every text gets its own value, little is padding, and the event loop stays free."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Awaitable, Callable, Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from factory.errors import ScorerError
from factory.reward.batches import Batcher, Forward, TooLarge, neighbours

Lengths = st.lists(st.integers(1, 300), min_size=1, max_size=60).map(sorted)


@given(Lengths, st.data(), st.integers(1, 4000), st.floats(0, 0.5))
def test_a_micro_batch_holds_its_text_within_the_budget_and_hardly_any_padding(
    lengths: list[int], data: st.DataObject, budget: int, share: float
) -> None:
    place = data.draw(st.integers(0, len(lengths) - 1))
    chosen = neighbours(lengths, place, budget, share)
    batch = lengths[chosen]
    size = len(batch) * batch[-1]
    assert chosen.start <= place < chosen.stop
    assert size <= budget or len(batch) == 1
    assert size - sum(batch) <= share * size


@given(st.integers(1, 40), st.integers(1, 50), st.integers(1, 3000))
def test_equal_lengths_fill_the_budget(count: int, length: int, budget: int) -> None:
    chosen = neighbours([length] * count, count // 2, budget, 0.0)
    assert chosen.stop - chosen.start == max(1, min(count, budget // length))


def work(forward: Forward, budget: int, use: Callable[[Batcher[list[int]]], Awaitable[None]]) -> None:
    async def run() -> None:
        batcher = Batcher(list, forward, budget, 0.1, "test")
        try:
            await use(batcher)
        finally:
            await batcher.close()

    asyncio.run(run())


@given(st.lists(st.lists(st.integers(0, 9), min_size=1, max_size=30), max_size=80), st.integers(1, 200))
def test_each_text_gets_its_own_value_and_is_computed_once(texts: list[list[int]], budget: int) -> None:
    seen: list[int] = []

    def forward(batch: Sequence[Sequence[int]]) -> list[list[float]]:
        seen.append(len(batch))
        return [[float(sum(ids)), float(len(ids))] for ids in batch]

    async def use(batcher: Batcher[list[int]]) -> None:
        found = await asyncio.gather(*map(batcher.value, texts))
        assert found == [[sum(ids), len(ids)] for ids in texts]

    work(forward, budget, use)
    assert sum(seen) == len(texts)


def test_the_oldest_is_in_the_next_batch_however_many_come_after_it() -> None:
    begun, goes_on = threading.Event(), threading.Event()
    order: list[int] = []

    def forward(batch: Sequence[Sequence[int]]) -> list[list[float]]:
        begun.set()
        assert goes_on.wait(10)
        order.extend(len(ids) for ids in batch)
        return [[0.0]] * len(batch)

    async def use(batcher: Batcher[list[int]]) -> None:
        asked = [asyncio.create_task(batcher.value([0]))]
        await asyncio.to_thread(begun.wait, 10)
        for length in (50, 8, 9, 8, 9):  # the first of them waits longest, and has no neighbour
            asked.append(asyncio.create_task(batcher.value([0] * length)))
            await asyncio.sleep(0)
        goes_on.set()
        await asyncio.gather(*asked)

    work(forward, 1000, use)
    assert order[:2] == [1, 50]
    assert sorted(order[2:]) == [8, 8, 9, 9]


def test_the_event_loop_is_free_while_a_batch_is_computed() -> None:
    goes_on = threading.Event()

    def forward(batch: Sequence[Sequence[int]]) -> list[list[float]]:
        assert goes_on.wait(10), "only the event loop can let it go on"
        return [[1.0]] * len(batch)

    async def use(batcher: Batcher[list[int]]) -> None:
        asked = asyncio.create_task(batcher.value([1]))
        await asyncio.sleep(0.01)
        goes_on.set()
        assert await asked == [1.0]

    work(forward, 10, use)


def test_what_is_not_wanted_any_more_is_not_computed() -> None:
    begun, goes_on = threading.Event(), threading.Event()
    seen: list[int] = []

    def forward(batch: Sequence[Sequence[int]]) -> list[list[float]]:
        begun.set()
        assert goes_on.wait(10)
        seen.extend(ids[0] for ids in batch)
        return [[0.0]] * len(batch)

    async def use(batcher: Batcher[list[int]]) -> None:
        first = asyncio.create_task(batcher.value([1]))
        await asyncio.to_thread(begun.wait, 10)
        dropped, wanted = (asyncio.create_task(batcher.value([number])) for number in (2, 3))
        await asyncio.sleep(0)
        dropped.cancel()
        await asyncio.gather(dropped, return_exceptions=True)
        goes_on.set()
        await asyncio.gather(first, wanted)

    work(forward, 1, use)
    assert seen == [1, 3]


def test_a_batch_too_large_for_the_device_is_cut_and_one_text_too_large_is_its_own_error() -> None:
    sizes: list[int] = []

    def forward(batch: Sequence[Sequence[int]]) -> list[list[float]]:
        sizes.append(sum(map(len, batch)))
        if sizes[-1] > 40:
            raise TooLarge("no memory")
        return [[float(ids[0])] for ids in batch]

    async def use(batcher: Batcher[list[int]]) -> None:
        texts = [[number] * 10 for number in range(30)]
        found = await asyncio.gather(*map(batcher.value, [*texts, [7] * 60]), return_exceptions=True)
        assert found[:30] == [[float(number)] for number in range(30)]
        assert isinstance(found[30], TooLarge)
        assert not found[30].final, "another machine may have the memory"

    work(forward, 1000, use)
    assert [size for size in sizes if size > 40].count(60) <= 2


def test_an_error_of_the_model_is_that_batchs_and_the_next_is_computed() -> None:
    def forward(batch: Sequence[Sequence[int]]) -> list[list[float]]:
        if batch[0][0] == 13:
            raise ValueError("unlucky")
        return [[1.0]] * len(batch)

    async def use(batcher: Batcher[list[int]]) -> None:
        with pytest.raises(ValueError, match="unlucky"):
            await batcher.value([13])
        assert await batcher.value([1]) == [1.0]

    work(forward, 1, use)


def test_what_cannot_be_encoded_is_its_own_error_and_its_neighbours_are_computed() -> None:
    def prepare(texts: Sequence[str]) -> list[list[int] | ScorerError]:
        return [ScorerError("no such text") if text == "bad" else [len(text)] for text in texts]

    async def use() -> None:
        batcher = Batcher(prepare, lambda batch: [[float(ids[0])] for ids in batch], 10, 0.1, "test")
        found = await asyncio.gather(*map(batcher.value, ("a", "bad", "abc")), return_exceptions=True)
        await batcher.close()
        assert [found[0], found[2]] == [[1.0], [3.0]]
        assert str(found[1]) == "no such text"

    asyncio.run(use())
