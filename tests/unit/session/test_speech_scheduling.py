"""The order of speeches, and a scheduler that always lets go."""

from __future__ import annotations

import asyncio

import pytest
from hypothesis import given, strategies as st

from livekit.agents.voice.scheduling import Gate, SpeechQueue, SpeechScheduler
from livekit.agents.voice.speech_handle import SpeechHandle


class Host:
    def __init__(self, delay: float = 0.0) -> None:
        self.min_consecutive_speech_delay = delay
        self.started: list[str] = []
        self.ended: list[str] = []

    def on_speech_started(self, handle: SpeechHandle) -> None:
        self.started.append(handle.id)

    def on_generation_ended(self, handle: SpeechHandle) -> None:
        self.ended.append(handle.id)


def opened(host: Host | None = None) -> SpeechScheduler:
    scheduler = SpeechScheduler(host or Host(), owner="test")
    scheduler.open()
    return scheduler


async def speak(scheduler: SpeechScheduler, handle: SpeechHandle, seconds: float) -> None:
    """What a reply does: wait for its turn, play, say so."""
    await scheduler.wait_for_authorization(handle)
    if not handle.interrupted:
        await handle.wait_if_not_interrupted([_sleep(seconds)])
    handle._mark_generation_done()


def _sleep(seconds: float) -> asyncio.Future[None]:
    loop = asyncio.get_running_loop()
    fut: asyncio.Future[None] = loop.create_future()
    loop.call_later(seconds, lambda: fut.done() or fut.set_result(None))
    return fut


def start(scheduler: SpeechScheduler, seconds: float = 1.0, **kwargs: bool) -> SpeechHandle:
    handle = SpeechHandle.create(**kwargs)
    scheduler.create_task(speak(scheduler, handle, seconds), speech_handle=handle)
    return handle


@given(st.lists(st.sampled_from([0, 5, 10]), max_size=20))
def test_queue_plays_by_priority_and_then_by_age(priorities: list[int]) -> None:
    async def check() -> None:
        queue = SpeechQueue()
        pushed = []
        for age, priority in enumerate(priorities):
            handle = SpeechHandle.create()
            queue.push(handle, priority)
            pushed.append((-priority, age, handle))
        expected = [handle for *_, handle in sorted(pushed, key=lambda entry: entry[:2])]
        assert queue.in_play_order() == expected
        assert [queue.pop() for _ in pushed] == expected

    asyncio.run(check())


async def test_speeches_play_one_after_another() -> None:
    host = Host()
    scheduler = opened(host)
    first, second = start(scheduler, 2.0), start(scheduler, 1.0)
    scheduler.schedule(first)
    scheduler.schedule(second)
    began = asyncio.get_running_loop().time()
    await second
    assert asyncio.get_running_loop().time() - began == pytest.approx(3.0)
    assert host.started == host.ended == [first.id, second.id]


async def test_a_higher_priority_overtakes_what_is_queued() -> None:
    host = Host()
    scheduler = opened(host)
    playing, low, high = start(scheduler), start(scheduler), start(scheduler)
    scheduler.schedule(playing)
    scheduler.schedule(low, SpeechHandle.SPEECH_PRIORITY_LOW)
    scheduler.schedule(high, SpeechHandle.SPEECH_PRIORITY_HIGH)
    await low
    assert host.started == [playing.id, high.id, low.id]


async def test_a_pause_between_speeches_is_kept_unless_interrupted() -> None:
    scheduler = opened(Host(delay=3.0))
    loop = asyncio.get_running_loop()
    first, second, third = start(scheduler), start(scheduler), start(scheduler)
    for handle in (first, second, third):
        scheduler.schedule(handle)
    await first
    assert loop.time() == pytest.approx(1001.0)
    await second
    assert loop.time() == pytest.approx(1005.0)
    third.interrupt()
    await third
    assert loop.time() == pytest.approx(1005.0)


async def test_a_speech_interrupted_while_queued_lets_the_next_one_play() -> None:
    scheduler = opened()
    playing, skipped, next_one = start(scheduler), start(scheduler), start(scheduler)
    for handle in (playing, skipped, next_one):
        scheduler.schedule(handle)
    skipped.interrupt()
    await next_one
    assert asyncio.get_running_loop().time() == pytest.approx(1002.0)


async def test_interruptible_speech_waits_for_the_user_to_fall_silent() -> None:
    scheduler = opened()
    scheduler.user_silent.close()
    polite, blunt = start(scheduler), start(scheduler, allow_interruptions=False)
    scheduler.schedule(blunt)
    scheduler.schedule(polite)
    await blunt
    await asyncio.sleep(5)
    assert not polite.done()
    scheduler.user_silent.open()
    await polite


async def test_closing_opens_the_gates_for_good() -> None:
    scheduler = opened()
    scheduler.authorization_gate.close()
    scheduler.user_silent.close()
    handle = start(scheduler)
    scheduler.schedule(handle)
    scheduler.prepare_close()
    scheduler.user_silent.close()
    assert scheduler.user_silent.is_open
    await handle


async def test_paused_scheduling_refuses_speech_but_not_tool_replies() -> None:
    scheduler = opened()
    scheduler.pause()
    refused, reply = start(scheduler), start(scheduler)
    with pytest.raises(RuntimeError, match="cannot schedule new speech"):
        scheduler.schedule(refused)
    await asyncio.sleep(0)
    assert refused.interrupted
    scheduler.schedule(reply, force=True)
    await reply
    await refused


async def test_settling_waits_for_everything_but_blocked_tasks() -> None:
    scheduler = opened()
    stuck: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    async def hook() -> None:
        await stuck

    task = scheduler.create_task(hook(), name="hook")
    scheduler.pause()
    settled = asyncio.ensure_future(scheduler.wait_settled())
    await asyncio.sleep(10)
    assert not settled.done()
    unblock = scheduler.block([task])
    await settled
    unblock()
    stuck.set_result(None)
    await task
    await scheduler.wait_settled()


async def test_a_task_of_a_blocked_speech_is_not_waited_for() -> None:
    scheduler = opened()
    handle = start(scheduler, 3600.0)
    scheduler.pause()
    scheduler.block([], handle)
    await asyncio.wait_for(scheduler.wait_settled(), 1.0)
    scheduler.cut_off()
    await scheduler.aclose(1.0)


async def test_cut_off_ends_every_speech_and_every_wait_without_waiting() -> None:
    scheduler = opened()
    saved: list[str] = []
    playing, queued = start(scheduler, 3600.0), start(scheduler, 3600.0)
    playing._on_cut_off(lambda: saved.append("playing"))
    scheduler.schedule(playing)
    scheduler.schedule(queued)
    await asyncio.sleep(1)
    scheduler.pause()
    settled = asyncio.ensure_future(scheduler.wait_settled())
    await asyncio.sleep(0)
    before = asyncio.get_running_loop().time()
    cut = scheduler.cut_off()
    assert {handle.id for handle in cut} == {playing.id, queued.id}
    assert saved == ["playing"]
    assert playing.done() and queued.done()
    await settled
    assert await scheduler.aclose(1.0) == []
    assert asyncio.get_running_loop().time() == before


async def test_a_task_that_ignores_its_end_is_reported_and_left() -> None:
    scheduler = opened()
    free = asyncio.Event()

    async def stubborn() -> None:
        while not free.is_set():
            try:
                await free.wait()
            except asyncio.CancelledError:
                pass

    task = scheduler.create_task(stubborn(), name="stubborn")
    await asyncio.sleep(0)
    scheduler.cut_off()
    survivors = await scheduler.aclose(0.25)
    assert [survivor.name for survivor in survivors] == ["stubborn"]
    free.set()
    await task


async def test_nothing_can_be_scheduled_after_a_cut_off() -> None:
    scheduler = opened()
    scheduler.cut_off()
    handle = SpeechHandle.create()
    scheduler.schedule(handle)
    assert handle.interrupted
    handle._mark_done()
    await scheduler.aclose(0.1)
    with pytest.raises(RuntimeError, match="is closed"):
        scheduler.create_task(asyncio.sleep(0))


async def test_interrupt_changes_nothing_when_the_current_speech_disallows_it() -> None:
    scheduler = opened()
    current = start(scheduler, allow_interruptions=False)
    background = SpeechHandle.create()
    scheduler.background.add(background)
    scheduler.schedule(current)
    with pytest.raises(RuntimeError, match="does not allow interruptions"):
        scheduler.interrupt()
    assert not background.interrupted
    assert scheduler.interrupt(force=True) == [background, current]
    scheduler.background.clear()
    background._mark_done()
    await current


async def test_interrupt_stops_at_the_first_queued_speech_that_disallows_it() -> None:
    scheduler = opened()
    current, polite, blunt, behind = (
        start(scheduler),
        start(scheduler),
        start(scheduler, allow_interruptions=False),
        start(scheduler),
    )
    for handle in (current, polite, blunt, behind):
        scheduler.schedule(handle)
    assert scheduler.interrupt() == [current, polite]
    await behind
    assert not blunt.interrupted and not behind.interrupted


async def test_gate_waiters_share_one_future_that_a_cancelled_waiter_leaves_alone() -> None:
    gate = Gate(is_open=False)
    first = asyncio.ensure_future(gate.wait())
    second = asyncio.ensure_future(gate.wait())
    await asyncio.sleep(0)
    first.cancel()
    await asyncio.wait([first])
    gate.open()
    await second
