from __future__ import annotations

import asyncio
import gc
import inspect
import logging
from collections.abc import AsyncIterator, Awaitable

import pytest

from livekit.agents.utils.aio import (
    Deadline,
    TaskScope,
    abandoned,
    cancel_and_wait,
    gracefully_cancel,
    run_bounded,
    wait_until,
)
from livekit.agents.utils.aio.task_scope import abandon, await_stack


def loop_time() -> float:
    return asyncio.get_running_loop().time()


async def elapsed(awaitable: Awaitable[object]) -> float:
    began = loop_time()
    await awaitable
    return loop_time() - began


async def turns(count: int = 5) -> None:
    for _ in range(count):
        await asyncio.sleep(0)


class Stubborn:
    """A coroutine that ignores cancellation until it is released."""

    def __init__(self) -> None:
        self.cancellations = 0
        self.error: Exception | None = None
        self._released = asyncio.Event()

    def release(self, error: Exception | None = None) -> None:
        self.error = error
        self._released.set()

    async def run(self) -> None:
        while not self._released.is_set():
            try:
                await self._released.wait()
            except asyncio.CancelledError:
                self.cancellations += 1
        if self.error is not None:
            raise self.error


def errors(caplog: pytest.LogCaptureFixture) -> list[logging.LogRecord]:
    return [record for record in caplog.records if record.levelno >= logging.ERROR]


# --- starting


async def test_a_task_is_owned_until_it_is_done() -> None:
    scope = TaskScope("tests")
    task = scope.spawn(asyncio.sleep(1.0, "result"))
    assert scope.tasks == {task}
    assert await task == "result"
    assert scope.tasks == frozenset()


async def test_a_task_is_kept_alive_by_its_scope() -> None:
    scope = TaskScope("tests")
    done = asyncio.Event()

    async def work() -> None:
        await asyncio.sleep(1.0)
        done.set()

    scope.spawn(work())
    await asyncio.sleep(0)
    gc.collect()
    await asyncio.wait_for(done.wait(), 2.0)


async def test_a_task_is_named_after_its_coroutine_or_as_asked() -> None:
    scope = TaskScope("tests")

    async def transcribe() -> None: ...

    assert scope.spawn(transcribe()).get_name().endswith("transcribe")
    assert scope.spawn(transcribe(), name="stt").get_name() == "stt"
    await scope.join()


async def test_a_closed_scope_starts_nothing() -> None:
    scope = TaskScope("tts stream")
    scope.cancel_soon()
    coro = asyncio.sleep(1.0)
    with pytest.raises(RuntimeError, match=r"tts stream.*closed"):
        scope.spawn(coro)
    assert (
        inspect.getcoroutinestate(coro) == inspect.CORO_CLOSED
    )  # closed: no warning about a coroutine never awaited
    assert scope.closed


def test_without_an_event_loop_nothing_starts() -> None:
    coro = asyncio.sleep(1.0)
    with pytest.raises(RuntimeError):
        TaskScope("tests").spawn(coro)
    assert inspect.getcoroutinestate(coro) == inspect.CORO_CLOSED


# --- failures


async def test_a_failure_is_logged_once_with_owner_and_name(
    caplog: pytest.LogCaptureFixture,
) -> None:
    scope = TaskScope("room input")

    async def fail() -> None:
        raise ValueError("no such track")

    task = scope.spawn(fail(), name="forward audio")
    await asyncio.wait([task])
    await scope.cancel(1.0)
    del task
    gc.collect()
    (record,) = errors(caplog)
    assert "room input" in record.getMessage()
    assert "forward audio" in record.getMessage()
    assert record.exc_info is not None and isinstance(record.exc_info[1], ValueError)


async def test_a_failure_is_left_to_whoever_awaits_the_task(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async def fail() -> None:
        raise ValueError

    task = TaskScope("tests").spawn(fail(), log_errors=False)
    with pytest.raises(ValueError):
        await task
    assert not errors(caplog)


async def test_a_cancellation_is_no_failure(caplog: pytest.LogCaptureFixture) -> None:
    scope = TaskScope("tests")
    scope.spawn(asyncio.sleep(1.0))
    assert await scope.cancel(1.0) == []
    assert not errors(caplog)


async def test_a_failure_while_being_cancelled_is_logged(caplog: pytest.LogCaptureFixture) -> None:
    async def fail_at_cleanup() -> None:
        try:
            await asyncio.sleep(1.0)
        finally:
            raise OSError("socket gone")

    scope = TaskScope("tests")
    scope.spawn(fail_at_cleanup())
    await asyncio.sleep(0)
    assert await scope.cancel(1.0) == []
    assert len(errors(caplog)) == 1


# --- ending


async def test_cancel_takes_no_time_for_tasks_that_obey() -> None:
    scope = TaskScope("tests")
    tasks = [scope.spawn(asyncio.sleep(1000.0)) for _ in range(10)]
    assert await elapsed(scope.cancel(2.0)) == 0
    assert all(task.cancelled() for task in tasks)
    assert scope.closed


async def test_a_task_that_was_never_scheduled_is_cancelled_too() -> None:
    ran = False

    async def work() -> None:
        nonlocal ran
        ran = True

    scope = TaskScope("tests")
    scope.spawn(work())
    assert await scope.cancel(0.0) == []
    assert not ran


async def test_cleanup_may_take_as_long_as_the_bound() -> None:
    async def slow_cleanup() -> str:
        try:
            await asyncio.sleep(1000.0)
        except asyncio.CancelledError:
            await asyncio.sleep(0.9)
        return "cleaned up"

    scope = TaskScope("tests")
    task = scope.spawn(slow_cleanup())
    await asyncio.sleep(0)
    assert await elapsed(scope.cancel(2.0)) == pytest.approx(0.9)
    assert task.result() == "cleaned up"


async def test_a_cleanup_that_hangs_is_cancelled_again_half_way() -> None:
    async def hanging_cleanup() -> None:
        try:
            await asyncio.sleep(1000.0)
        finally:
            await asyncio.sleep(1000.0)

    scope = TaskScope("tests")
    task = scope.spawn(hanging_cleanup())
    await asyncio.sleep(0)
    assert await elapsed(scope.cancel(2.0)) == pytest.approx(1.0)
    assert task.cancelled()


async def test_a_survivor_is_described_and_never_awaited_again() -> None:
    stubborn = Stubborn()
    scope = TaskScope("llm stream")
    task = scope.spawn(stubborn.run(), name="inference")
    await asyncio.sleep(3.0)

    began = loop_time()
    (survivor,) = await scope.cancel(2.0)
    assert loop_time() - began == 2.0
    assert (survivor.name, survivor.owner, survivor.age) == ("inference", "llm stream", 5.0)
    assert "_released.wait()" in survivor.stack
    assert stubborn.cancellations == 2

    assert not task.done()
    assert scope.tasks == frozenset()
    assert abandoned() == {task: survivor}
    assert await elapsed(scope.cancel(2.0)) == 0  # nothing left to wait for
    assert stubborn.cancellations == 2
    stubborn.release()
    await task


@pytest.mark.parametrize("error", [None, RuntimeError("too late")])
async def test_the_late_end_of_a_survivor_is_a_debug_line(
    error: Exception | None, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG, logger="livekit.agents")
    stubborn = Stubborn()
    scope = TaskScope("tests")
    scope.spawn(stubborn.run(), name="inference")
    await asyncio.sleep(0)
    await scope.cancel(1.0)
    caplog.clear()

    stubborn.release(error)
    await turns()
    gc.collect()
    assert [record.levelno for record in caplog.records] == [logging.DEBUG]
    assert "inference" in caplog.text
    assert not abandoned()


async def test_the_task_that_closes_its_own_scope_is_neither_cancelled_nor_waited_for() -> None:
    scope = TaskScope("tests")
    other = scope.spawn(asyncio.sleep(1000.0))

    async def closes() -> str:
        assert await scope.cancel(2.0) == []
        await asyncio.sleep(1.0)
        return "still running"

    closer = scope.spawn(closes())
    assert await closer == "still running"
    assert other.cancelled()


async def test_spared_tasks_go_on_until_a_cancel_that_does_not_spare_them() -> None:
    scope = TaskScope("tests")
    spared = scope.spawn(asyncio.sleep(1000.0))
    other = scope.spawn(asyncio.sleep(1000.0))
    assert await scope.cancel(1.0, spare=[spared]) == []
    assert other.cancelled()
    assert scope.tasks == {spared}
    assert await scope.cancel(1.0) == []
    assert spared.cancelled()


async def test_a_cancelled_closer_stops_waiting_and_the_tasks_are_told() -> None:
    stubborn = Stubborn()
    scope = TaskScope("tests")
    task = scope.spawn(stubborn.run())
    await asyncio.sleep(0)
    closer = TaskScope("closer").spawn(scope.cancel(1000.0))
    await asyncio.sleep(1.0)
    closer.cancel()
    with pytest.raises(asyncio.CancelledError):
        await closer
    assert stubborn.cancellations == 1
    assert scope.closed
    assert scope.tasks == {task}  # not abandoned: the next cancel() waits for it
    assert len(await scope.cancel(1.0)) == 1
    stubborn.release()
    await task


async def test_concurrent_closers_share_the_requests_and_get_the_same_report() -> None:
    stubborn = Stubborn()
    scope = TaskScope("tests")
    task = scope.spawn(stubborn.run())
    await asyncio.sleep(0)
    first, second = await asyncio.gather(scope.cancel(1.0), scope.cancel(2.0))
    assert first == second and len(first) == 1
    assert stubborn.cancellations == 2
    stubborn.release()
    await task


async def test_cancel_soon_asks_once_and_does_not_wait() -> None:
    stubborn = Stubborn()
    scope = TaskScope("tests")
    task = scope.spawn(stubborn.run())
    obedient = scope.spawn(asyncio.sleep(1000.0))
    await asyncio.sleep(0)
    scope.cancel_soon()
    scope.cancel_soon()
    await turns()
    assert stubborn.cancellations == 1
    assert obedient.cancelled()
    stubborn.release()
    await task


async def test_join_waits_for_the_natural_end_of_all_tasks_even_later_ones() -> None:
    scope = TaskScope("tests")

    async def parent() -> None:
        await asyncio.sleep(1.0)
        scope.spawn(asyncio.sleep(2.0))

    scope.spawn(parent())
    assert await elapsed(scope.join()) == 3.0
    assert await scope.join() == []
    assert not scope.closed


async def test_join_returns_what_did_not_end_in_time() -> None:
    scope = TaskScope("tests")
    task = scope.spawn(asyncio.sleep(10.0))
    began = loop_time()
    assert await scope.join(timeout=4.0) == [task]
    assert loop_time() - began == 4.0
    assert not task.cancelled()
    await scope.cancel(1.0)


async def test_join_from_inside_does_not_wait_for_itself() -> None:
    scope = TaskScope("tests")

    async def joins() -> list[asyncio.Task[object]]:
        return await scope.join()

    assert await scope.spawn(joins()) == []


# --- deadlines and bounded waits


async def test_a_deadline_is_shared_time() -> None:
    deadline = Deadline(5.0)
    await asyncio.sleep(2.0)
    assert deadline.remaining() == 3.0
    assert deadline.within(1.0).remaining() == 1.0
    assert deadline.within(10.0).remaining() == 3.0
    assert deadline.within(None).remaining() == 3.0
    await asyncio.sleep(3.5)
    assert deadline.expired and deadline.remaining() == 0.0


async def test_no_deadline_never_expires() -> None:
    deadline = Deadline(None)
    await asyncio.sleep(1e6)
    assert not deadline.expired
    assert deadline.remaining() is None and deadline.at is None
    assert deadline.within(2.0).remaining() == 2.0
    assert deadline.within(None).remaining() is None


async def test_wait_until_returns_the_unfinished_and_touches_nothing() -> None:
    scope = TaskScope("tests")
    quick, slow = scope.spawn(asyncio.sleep(1.0)), scope.spawn(asyncio.sleep(10.0))
    assert await wait_until([quick, slow], Deadline(2.0)) == [slow]
    assert await wait_until(slow, 1.0) == [slow]
    assert not slow.cancelled()
    assert await wait_until(slow, None) == []
    assert await wait_until([], 5.0) == []


async def test_wait_until_wants_owned_tasks() -> None:
    coro = asyncio.sleep(1.0)
    with pytest.raises(TypeError, match="TaskScope"):
        await wait_until([coro], 1.0)  # type: ignore[list-item]
    coro.close()


async def test_run_bounded_passes_on_result_and_error() -> None:
    async def fail() -> None:
        raise OSError("refused")

    assert await run_bounded(asyncio.sleep(1.0, "done"), 2.0, owner="tests") == "done"
    with pytest.raises(OSError, match="refused"):
        await run_bounded(fail(), 2.0, owner="tests")


@pytest.mark.parametrize(("timeout", "asked_at"), [(2.0, 1.75), (0.2, 0.1)])
async def test_run_bounded_cancels_in_time_to_clean_up(timeout: float, asked_at: float) -> None:
    cancelled_at = 0.0

    async def work() -> None:
        nonlocal cancelled_at
        try:
            await asyncio.sleep(1000.0)
        finally:
            cancelled_at = loop_time()

    began = loop_time()
    with pytest.raises(asyncio.TimeoutError):
        await run_bounded(work(), timeout, owner="tests")
    assert cancelled_at - began == pytest.approx(asked_at)
    assert loop_time() == cancelled_at


async def test_run_bounded_abandons_what_ignores_it() -> None:
    stubborn = Stubborn()
    began = loop_time()
    with pytest.raises(asyncio.TimeoutError, match=r"mcp server.*within 2 s"):
        await run_bounded(stubborn.run(), 2.0, owner="mcp server")
    assert loop_time() - began == pytest.approx(2.0)
    assert [survivor.owner for survivor in abandoned().values()] == ["mcp server"]
    stubborn.release()
    await turns()


async def test_run_bounded_ends_with_its_caller(caplog: pytest.LogCaptureFixture) -> None:
    ended: list[str] = []

    async def work() -> None:
        try:
            await asyncio.sleep(1000.0)
        finally:
            ended.append("work")
            raise OSError("nobody is interested")

    caller = TaskScope("caller").spawn(run_bounded(work(), 100.0, owner="tests"))
    await asyncio.sleep(1.0)
    caller.cancel()
    with pytest.raises(asyncio.CancelledError):
        await caller
    await turns()
    gc.collect()
    assert ended == ["work"]
    assert not errors(caplog)


# --- the stack of a task


async def test_the_stack_follows_the_awaits_to_the_innermost_call() -> None:
    async def innermost() -> None:
        await asyncio.sleep(1.0)

    async def outermost() -> None:
        await innermost()

    task = TaskScope("tests").spawn(outermost())
    await asyncio.sleep(0)
    stack = await_stack(task)
    assert stack.index("outermost") < stack.index("in innermost") < stack.index("in sleep")
    assert "awaiting" in stack
    await cancel_and_wait(task)


async def test_the_stack_reaches_through_generators() -> None:
    async def numbers() -> AsyncIterator[int]:
        await asyncio.sleep(1.0)
        yield 1

    async def reader() -> None:
        async for _ in numbers():
            pass

    task = TaskScope("tests").spawn(reader())
    await asyncio.sleep(0)
    assert "in reader" in await_stack(task)
    await cancel_and_wait(task)


async def test_a_plain_future_can_be_abandoned() -> None:
    future = asyncio.get_running_loop().create_future()
    survivor = abandon(future, "tests")
    assert abandon(future, "somebody else") is survivor
    assert survivor.age == 0.0 and "Future" in survivor.name
    future.set_result(None)
    await turns()
    assert not abandoned()


def test_the_tasks_of_a_closed_loop_are_forgotten() -> None:
    loop = asyncio.new_event_loop()
    abandon(loop.create_future(), "tests")
    assert len(abandoned()) == 1
    loop.close()
    assert not abandoned()


# --- cancel_and_wait


def test_both_names_are_the_same_function() -> None:
    assert gracefully_cancel is cancel_and_wait


async def test_cancel_and_wait_without_futures_returns() -> None:
    await cancel_and_wait()


async def test_cancel_and_wait_raises_and_retrieves_nothing() -> None:
    async def fail_at_cleanup() -> None:
        try:
            await asyncio.sleep(1.0)
        finally:
            raise OSError("socket gone")

    scope = TaskScope("tests")
    failing = scope.spawn(fail_at_cleanup(), log_errors=False)
    finished = scope.spawn(asyncio.sleep(0))
    sleeping = scope.spawn(asyncio.sleep(1000.0))
    future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
    await turns()
    assert await elapsed(cancel_and_wait(failing, finished, sleeping, future)) == 0
    assert sleeping.cancelled() and future.cancelled()
    assert isinstance(failing.exception(), OSError)


async def test_cancel_and_wait_waits_for_cleanup_and_asks_once() -> None:
    stubborn = Stubborn()
    task = TaskScope("tests").spawn(stubborn.run())
    await asyncio.sleep(0)
    asyncio.get_running_loop().call_later(20.0, stubborn.release)
    assert await elapsed(cancel_and_wait(task)) == 20.0
    assert stubborn.cancellations == 1


async def test_cancel_and_wait_has_a_ceiling(caplog: pytest.LogCaptureFixture) -> None:
    stubborn = Stubborn()
    task = TaskScope("tests").spawn(stubborn.run(), name="wedged plugin")
    await asyncio.sleep(0)
    assert await elapsed(cancel_and_wait(task)) == 30.0
    (record,) = errors(caplog)
    assert "wedged plugin" in record.getMessage()
    assert task in abandoned()
    stubborn.release()
    await task


async def test_cancel_and_wait_stops_waiting_when_cancelled() -> None:
    stubborn = Stubborn()
    task = TaskScope("tests").spawn(stubborn.run())
    await asyncio.sleep(0)
    caller = TaskScope("caller").spawn(cancel_and_wait(task))
    await asyncio.sleep(1.0)
    caller.cancel()
    with pytest.raises(asyncio.CancelledError):
        await caller
    assert not task.done()
    stubborn.release()
    await task


async def test_cancel_and_wait_leaves_the_caller_alone() -> None:
    async def closes_itself_too(other: asyncio.Task[None]) -> str:
        current = asyncio.current_task()
        assert current is not None
        await cancel_and_wait(current, other)
        await asyncio.sleep(1.0)
        return "went on"

    scope = TaskScope("tests")
    other = scope.spawn(asyncio.sleep(1000.0))
    assert await scope.spawn(closes_itself_too(other)) == "went on"
    assert other.cancelled()
