from __future__ import annotations

import asyncio
import threading
import time
from time import perf_counter  # the real one: virtual time patches the module

import pytest
from hypothesis import given, strategies as st
from virtual_time import START, DeadlockError, LeftoverTasksError, VirtualTimeLoop, run_test


def loop_time() -> float:
    return asyncio.get_running_loop().time()


async def test_tests_run_on_virtual_time_by_default() -> None:
    assert isinstance(asyncio.get_running_loop(), VirtualTimeLoop)
    assert loop_time() == START


@pytest.mark.real_time
async def test_a_mark_asks_for_real_time() -> None:
    assert not isinstance(asyncio.get_running_loop(), VirtualTimeLoop)


async def test_hours_pass_in_no_time_and_exactly() -> None:
    began = perf_counter()
    await asyncio.sleep(3 * 24 * 3600 + 0.1)
    assert loop_time() == START + 3 * 24 * 3600 + 0.1
    assert perf_counter() - began < 1.0


@given(st.lists(st.integers(min_value=0, max_value=10**9), min_size=1, max_size=20))
async def test_timers_fire_in_order_at_their_time(delays_ms: list[int]) -> None:
    fired: list[tuple[float, int]] = []

    async def sleeper(delay_ms: int) -> None:
        await asyncio.sleep(delay_ms / 1000)
        fired.append((loop_time() - START, delay_ms))

    await asyncio.gather(*(sleeper(delay_ms) for delay_ms in delays_ms))
    assert [delay_ms for _, delay_ms in fired] == sorted(delays_ms)
    assert all(at == pytest.approx(delay_ms / 1000, abs=1e-6) for at, delay_ms in fired)


async def test_the_clock_stands_still_while_an_executor_job_runs() -> None:
    job = asyncio.get_running_loop().run_in_executor(None, time.sleep, 0.05)
    timer = asyncio.get_running_loop().call_later(10.0, lambda: None)
    await job
    assert loop_time() == START
    timer.cancel()


async def test_a_wedged_executor_job_does_not_stop_the_clock_for_ever() -> None:
    release = threading.Event()
    job = asyncio.get_running_loop().run_in_executor(None, release.wait)
    began = perf_counter()
    await asyncio.sleep(5.0)
    await asyncio.sleep(5.0)  # patience is spent once, not again for every jump
    assert loop_time() == START + 10.0
    assert 0.5 < perf_counter() - began < 3.0
    release.set()
    assert await job


async def test_a_call_from_a_thread_is_waited_for() -> None:
    loop = asyncio.get_running_loop()
    called: asyncio.Future[float] = loop.create_future()

    def from_thread() -> None:
        time.sleep(0.02)
        loop.call_soon_threadsafe(lambda: called.set_result(loop.time()))

    thread = threading.Thread(target=from_thread)
    thread.start()
    assert await asyncio.wait_for(called, 10.0) == START
    thread.join()


async def test_a_thread_that_never_calls_does_not_stop_the_clock() -> None:
    release = threading.Event()
    thread = threading.Thread(target=release.wait, daemon=True)
    thread.start()
    began = perf_counter()
    for _ in range(50):
        await asyncio.sleep(1.0)
    assert perf_counter() - began < 1.0
    release.set()
    thread.join()


async def test_sockets_of_one_loop_talk_without_time_passing() -> None:
    async def echo(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(await reader.readline())
        writer.close()

    server = await asyncio.start_server(echo, "127.0.0.1", 0)
    reader, writer = await asyncio.open_connection(*server.sockets[0].getsockname())
    writer.write(b"hello\n")
    assert await asyncio.wait_for(reader.readline(), 60.0) == b"hello\n"
    assert loop_time() < START + 60.0
    writer.close()
    server.close()


def test_a_deadlock_names_the_task_and_where_it_waits() -> None:
    async def waits_for_nothing() -> None:
        asyncio.current_task().set_name("the-stuck-one")  # type: ignore[union-attr]
        await asyncio.get_running_loop().create_future()

    with pytest.raises(DeadlockError, match=r"the-stuck-one[\s\S]*waits_for_nothing"):
        run_test(waits_for_nothing())


def test_a_task_left_over_fails_the_test() -> None:
    async def leaves_a_task() -> None:
        task = asyncio.get_running_loop().create_task(asyncio.sleep(1.0), name="orphan")
        task.add_done_callback(lambda _: None)

    with pytest.raises(LeftoverTasksError, match="orphan"):
        run_test(leaves_a_task())


def test_a_task_that_is_about_to_end_is_not_left_over() -> None:
    async def cancels_without_waiting() -> None:
        asyncio.get_running_loop().create_task(asyncio.sleep(1.0)).cancel()

    run_test(cancels_without_waiting())


def test_the_failure_of_a_test_is_what_is_reported() -> None:
    async def fails_and_leaves_a_task() -> None:
        asyncio.get_running_loop().create_task(asyncio.sleep(1.0))
        raise KeyError("the reason")

    with pytest.raises(KeyError, match="the reason"):
        run_test(fails_and_leaves_a_task())


async def test_a_rest_of_a_nanosecond_passes_also_while_others_are_busy() -> None:
    loop = asyncio.get_running_loop()
    ends = loop.time() + 1e-10

    async def wait() -> None:
        while loop.time() < ends:  # noqa: ASYNC110
            await asyncio.sleep(ends - loop.time())

    waiting = asyncio.ensure_future(wait())
    for _ in range(100):
        await asyncio.sleep(0)
    assert waiting.done()
