from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import pytest
from hypothesis import given, strategies as st

from livekit.agents.utils.aio import Chan, TaskScope, cancel_and_wait
from livekit.agents.utils.aio.itertools import Tee, tee


class Source:
    """Yields numbers; knows whether it was closed, and whether two readers met in it."""

    def __init__(self, count: int, error: Exception | None = None, delay: float = 0.0) -> None:
        self.items = iter(range(count))
        self.error = error
        self.delay = delay
        self.closed = 0
        self.reads = 0
        self.reading = False

    def __aiter__(self) -> AsyncIterator[int]:
        return self

    async def __anext__(self) -> int:
        assert not self.reading, "two readers at once"
        self.reading = True
        self.reads += 1
        try:
            await asyncio.sleep(self.delay)
        finally:
            self.reading = False
        for item in self.items:
            return item
        if self.error is not None:
            raise self.error
        raise StopAsyncIteration

    async def aclose(self) -> None:
        self.closed += 1


async def collect(iterator: AsyncIterator[int], into: list[int] | None = None) -> list[int]:
    into = [] if into is None else into
    async for item in iterator:
        into.append(item)
    return into


def test_both_names_are_the_same_class() -> None:
    assert tee is Tee


@given(st.lists(st.integers(0, 2), max_size=40))
async def test_every_reader_gets_every_item_in_order(order: list[int]) -> None:
    readers = tee(Source(10), 3)
    seen: list[list[int]] = [[], [], []]
    for reader in order:
        async for item in readers[reader]:
            seen[reader].append(item)
            break
    for reader in range(3):
        seen[reader] += await collect(readers[reader])
    assert seen == [list(range(10))] * 3


async def test_readers_side_by_side_never_meet_in_the_source() -> None:
    source = Source(20, delay=0.01)
    readers = tee(source, 4)
    assert await asyncio.gather(*map(collect, readers)) == [list(range(20))] * 4
    assert source.reads == 21  # each item once, and the end once


async def test_it_is_a_sequence_of_readers() -> None:
    readers = tee(Source(1), 3)
    assert len(readers) == 3
    assert list(readers) == [readers[0], readers[1], readers[2]]
    assert readers[1:] == (readers[1], readers[2])
    await readers.aclose()


async def test_an_error_of_the_source_reaches_every_reader_after_the_items() -> None:
    readers = tee(Source(3, error=OSError("broken")), 2)
    for reader in readers:
        seen: list[int] = []
        with pytest.raises(OSError, match="broken"):
            await collect(reader, into=seen)
        assert seen == [0, 1, 2]


async def test_a_cancellation_reaches_only_the_reader_it_is_meant_for() -> None:
    source = Source(3, delay=1.0)
    first, second = tee(source, 2)
    reading = TaskScope("tests").spawn(collect(first))
    await asyncio.sleep(1.5)
    await cancel_and_wait(reading)
    assert await collect(second) == [0, 1, 2]


async def test_a_reader_that_left_costs_no_memory() -> None:
    readers = tee(Source(100), 2)
    async for _ in readers[0]:
        break
    await readers[0].aclose()  # type: ignore[attr-defined]
    await collect(readers[1])
    assert not readers._buffers


async def test_close_ends_the_readers_and_the_source() -> None:
    source = Source(5)
    async with tee(source, 2) as readers:
        async for _ in readers[0]:
            break
    assert source.closed == 1
    assert await collect(readers[0]) == await collect(readers[1]) == []


async def test_close_works_while_a_reader_waits_elsewhere() -> None:
    chan = Chan[int]()
    readers = tee(chan, 2)
    reading = TaskScope("tests").spawn(collect(readers[0]))
    await asyncio.sleep(1.0)
    await readers.aclose()
    assert not reading.done()
    chan.close()
    assert await reading == []


async def test_a_source_that_fails_to_close_is_tolerated() -> None:
    class Stuck(Source):
        async def aclose(self) -> None:
            raise OSError

    await tee(Stuck(1)).aclose()
