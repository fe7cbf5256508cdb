"""The growing pool: what an item sees depends on its number, never on who was faster."""

from __future__ import annotations

import asyncio
import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from factory.errors import RecordError, Stopped
from factory.generators.pool import GrowingPool


def seen_by_all(gifts: list[int], lag: int, order: random.Random) -> tuple[list[list[str]], list[str]]:
    """Run an item for each of `gifts` (how many entries it gives), with delays drawn from `order`: what each saw at its
    draw and at its turn, and the pool at the end."""
    taken: list[str] = []
    pool = GrowingPool(lag, taken.append)
    seen: list[list[str]] = [[] for _ in gifts]

    async def item(index: int) -> None:
        with pool.turn(index):
            await pool.reach(pool.before(index))
            drawn = [text for text, _ in pool.entries[: pool.seen(index)]]
            for _ in range(order.randrange(6)):
                await asyncio.sleep(0)
            await pool.reach(index)
            seen[index] = [*drawn, "|", *taken]
            for number in range(gifts[index]):
                pool.give(index, (f"{index}.{number}", ""))

    async def main() -> None:
        tasks = [asyncio.create_task(item(index)) for index in order.sample(range(len(gifts)), len(gifts))]
        await asyncio.wait_for(asyncio.gather(*tasks), 10)

    asyncio.run(main())
    return seen, taken


@given(st.lists(st.integers(0, 3), max_size=30), st.integers(0, 12), st.integers(0, 10**6))
def test_everybody_sees_the_same_whoever_is_faster(gifts: list[int], lag: int, chance: int) -> None:
    one, pool = seen_by_all(gifts, lag, random.Random(chance))
    other, again = seen_by_all(gifts, lag, random.Random(chance + 1))
    assert one == other and pool == again
    for index, seen in enumerate(one):
        bar = seen.index("|")
        givers = [int(text.split(".")[0]) for text in seen[:bar]]
        assert all(giver < max(0, index - lag) and 2 * giver <= index for giver in givers)
        assert seen[bar + 1 :] == [text for text in pool if int(text.split(".")[0]) < index]


def test_an_item_is_not_waited_for_in_vain() -> None:
    async def main() -> list[str]:
        pool = GrowingPool(0, lambda text: None)

        async def fails() -> None:
            with pool.turn(0):
                await asyncio.sleep(0)
                raise RecordError("parse: nothing")

        async def waits() -> str:
            with pool.turn(1):
                await pool.reach(1)
                pool.give(1, ("mine", "id"))
                return "went on"

        failed, went = await asyncio.gather(fails(), waits(), return_exceptions=True)
        assert isinstance(failed, RecordError)
        return [went, *(text for text, _ in pool.entries)]  # type: ignore[list-item]

    assert asyncio.run(main()) == ["went on", "mine"]


def test_who_waits_for_an_item_that_was_stopped_is_stopped_too() -> None:
    """It may give something when the run goes on: nobody may conclude that it gave nothing."""

    async def main() -> list[object]:
        pool = GrowingPool(0, lambda text: None)

        async def item(index: int) -> None:
            with pool.turn(index):
                await asyncio.sleep(0)
                if index == 0:
                    raise Stopped("budget.tokens is spent")
                await pool.reach(index)

        found = await asyncio.gather(*(item(index) for index in range(4)), return_exceptions=True)
        with pytest.raises(Stopped):
            await pool.reach(9)
        return list(found)

    assert [type(each) for each in asyncio.run(main())] == [Stopped] * 4


def test_what_is_handed_in_early_waits_for_its_turn() -> None:
    taken: list[str] = []
    pool = GrowingPool(0, taken.append)
    pool.settle(2, [("c", "3")])
    pool.settle(1, [("b", "2")])
    assert taken == []
    pool.settle(0)
    assert taken == ["b", "c"]
    pool.settle(1, [("late", "")])
    assert taken == ["b", "c"] and pool.settled == 3
