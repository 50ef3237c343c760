"""Timers, debouncing, task sets, wait groups, counters, slow callbacks."""

from __future__ import annotations

import asyncio
import gc
import time
from asyncio import events
from collections.abc import Iterator

import pytest

import livekit.agents.utils.aio.debug  # noqa: F401 - takes the real clock when imported
from livekit.agents.utils import aio
from livekit.agents.utils.aio import (
    AsyncAtomicCounter,
    SleepFinished,
    TaskScope,
    TaskSet,
    WaitGroup,
    cancel_and_wait,
    debounce,
    interval,
    sleep,
)


def loop_time() -> float:
    return asyncio.get_running_loop().time()


# --- sleep


async def test_sleep_takes_its_time() -> None:
    began = loop_time()
    await sleep(1.5)
    assert loop_time() - began == 1.5


async def test_a_reset_starts_the_sleep_over() -> None:
    began = loop_time()
    nap = sleep(2.0)
    loop = asyncio.get_running_loop()
    loop.call_later(1.5, nap.reset)
    loop.call_later(3.0, nap.reset, 4.0)
    await nap
    assert loop_time() - began == 7.0


async def test_a_reset_before_the_sleep_only_changes_its_length() -> None:
    began = loop_time()
    nap = sleep(2.0)
    nap.reset(1.0)
    await asyncio.sleep(5.0)
    await nap
    assert loop_time() - began == 6.0


async def test_a_sleep_that_is_over_cannot_be_reset() -> None:
    nap = sleep(1.0)
    await nap
    with pytest.raises(SleepFinished):
        nap.reset()
    await nap  # over at once
    nap.cancel()


@pytest.mark.parametrize("after", [0.0, 1.0])
async def test_a_cancelled_sleep_cancels_the_one_who_waits(after: float) -> None:
    nap = sleep(2.0)
    if after:
        asyncio.get_running_loop().call_later(after, nap.cancel)
    else:
        nap.cancel()
    began = loop_time()
    with pytest.raises(asyncio.CancelledError):
        await nap
    assert loop_time() - began == after
    with pytest.raises(SleepFinished):
        nap.reset()


async def test_a_cancelled_waiter_leaves_no_timer_behind() -> None:
    async def nap_on() -> None:
        await sleep(1000.0)

    task = TaskScope("tests").spawn(nap_on())
    await asyncio.sleep(1.0)
    await cancel_and_wait(task)
    loop = asyncio.get_running_loop()
    assert all(handle.cancelled() for handle in loop._scheduled)  # type: ignore[attr-defined]


# --- interval


async def test_an_interval_ticks_at_once_and_then_at_its_pace() -> None:
    ticker = interval(0.5)
    began = loop_time()
    ticks = [(await ticker.tick(), loop_time() - began) for _ in range(3)]
    assert ticks == [(0, 0.0), (1, 0.5), (2, 1.0)]


async def test_a_late_tick_delays_the_next() -> None:
    ticker = interval(1.0)
    await ticker.tick()
    await asyncio.sleep(3.5)
    began = loop_time()
    assert await ticker.tick() == 1
    assert loop_time() == began
    assert await ticker.tick() == 2
    assert loop_time() - began == 1.0


async def test_a_reset_puts_off_the_tick_that_is_awaited() -> None:
    ticker = interval(1.0)
    ticker.reset()  # before the first tick: no effect
    await ticker.tick()
    began = loop_time()
    asyncio.get_running_loop().call_later(0.7, ticker.reset)
    await ticker.tick()
    assert loop_time() - began == pytest.approx(1.7)


async def test_a_reset_puts_off_the_tick_that_is_due() -> None:
    ticker = interval(1.0)
    await ticker.tick()
    await asyncio.sleep(0.9)
    ticker.reset()
    began = loop_time()
    await ticker.tick()
    assert loop_time() - began == pytest.approx(1.0)


async def test_an_interval_can_be_iterated() -> None:
    began = loop_time()
    async for tick in interval(2.0):
        if tick == 3:
            break
    assert loop_time() - began == 6.0


def test_the_functions_keep_their_names_when_their_modules_are_imported() -> None:
    import livekit.agents.utils.aio.interval
    import livekit.agents.utils.aio.sleep  # noqa: F401

    assert callable(aio.interval) and callable(aio.sleep)


# --- debounce


class Counted:
    def __init__(self) -> None:
        self.runs: list[float] = []

    async def work(self) -> int:
        self.runs.append(loop_time())
        await asyncio.sleep(1.0)
        return len(self.runs)


async def test_requests_in_quick_succession_are_one_run() -> None:
    counted = Counted()
    debounced = debounce.Debounced(counted.work, 0.5)
    began = loop_time()
    for _ in range(5):
        task = debounced.schedule()
        await asyncio.sleep(0.4)
    assert debounced.is_running()
    assert await task == 1
    assert counted.runs == [pytest.approx(began + 4 * 0.4 + 0.5)]
    assert not debounced.is_running()


async def test_run_and_call_do_not_wait_and_replace_the_scheduled_run() -> None:
    counted = Counted()
    debounced = debounce.debounced(0.5)(counted.work)
    scheduled = debounced.schedule()
    began = loop_time()
    assert await debounced.run() == 1
    assert await debounced() == 2
    assert counted.runs == [began, began + 1.0]
    assert scheduled.cancelled()


async def test_a_scheduled_run_can_be_cancelled() -> None:
    counted = Counted()
    debounced = debounce.Debounced(counted.work, 0.5)
    task = debounced.schedule()
    assert debounced.cancel() is task
    assert debounced.cancel() is None
    await asyncio.sleep(1.0)
    assert task.cancelled() and not counted.runs


# --- task set, wait group, counter


async def test_a_task_set_keeps_tasks_until_they_are_done() -> None:
    tasks = TaskSet()
    task = tasks.create_task(asyncio.sleep(1.0, "done"), name="background")
    assert tasks.tasks == {task} and task.get_name() == "background"
    gc.collect()
    assert await task == "done"
    assert tasks.tasks == set()


async def test_a_wait_group_waits_for_all_jobs() -> None:
    group = WaitGroup()
    await group.wait()  # nothing to wait for

    async def job(duration: float) -> None:
        await asyncio.sleep(duration)
        group.done()

    scope = TaskScope("tests")
    group.add(3)
    for duration in (1.0, 3.0, 2.0):
        scope.spawn(job(duration))
    began = loop_time()
    await group.wait()
    assert loop_time() - began == 3.0


def test_a_wait_group_does_not_count_below_zero() -> None:
    group = WaitGroup()
    group.add(1)
    group.done()
    with pytest.raises(ValueError, match="more often"):
        group.done()
    group.add(1)  # unharmed
    group.done()


async def test_the_operations_of_a_counter() -> None:
    counter = AsyncAtomicCounter(initial=5)
    assert await counter.increment() == 6
    assert await counter.increment(4) == 10
    assert await counter.decrement(3) == 7
    assert await counter.get() == counter.get_nowait() == 7
    assert not await counter.compare_and_swap(expected=1, new=2)
    assert await counter.compare_and_swap(7, 8)
    assert await counter.get_and_reset() == 8
    await counter.set(3)
    assert await counter.get_and_reset(reset_value=1) == 3
    assert counter.get_nowait() == 1


# --- slow callbacks


@pytest.fixture
def _unhook() -> Iterator[None]:
    original = events.Handle._run
    yield
    events.Handle._run = original  # type: ignore[method-assign]


@pytest.mark.usefixtures("_unhook")
async def test_callbacks_that_block_the_loop_are_named(caplog: pytest.LogCaptureFixture) -> None:
    aio.debug.hook_slow_callbacks(1000.0)
    aio.debug.hook_slow_callbacks(0.01)

    def blocks_the_loop() -> None:
        time.sleep(0.02)

    asyncio.get_running_loop().call_soon(blocks_the_loop)
    await asyncio.sleep(1.0)
    (record,) = caplog.records
    assert record.getMessage().startswith("Running ")
    assert "blocks_the_loop" in record.getMessage()
    assert "took too long: 0.0" in record.getMessage()
