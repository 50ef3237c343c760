"""A speech handle: interruption, holds, being cut off, and who may wait for it."""

from __future__ import annotations

import asyncio

import pytest

from livekit.agents.llm import FunctionCall
from livekit.agents.voice import speech_handle as module
from livekit.agents.voice._context import bound, current_function_call, current_speech_handle
from livekit.agents.voice.speech_handle import SpeechHandle


async def test_a_handle_is_interrupted_once_by_the_first_who_asks() -> None:
    handle = SpeechHandle.create()
    handle.interrupt(source="user_turn").interrupt(source="programmatic")
    assert handle.interrupted and handle.interruption_source == "user_turn"
    handle._mark_done()


async def test_what_disallows_interruptions_can_only_be_forced() -> None:
    handle = SpeechHandle.create(allow_interruptions=False)
    with pytest.raises(RuntimeError, match="This generation handle does not allow interruptions"):
        handle.interrupt()
    handle.interrupt(force=True)
    with pytest.raises(RuntimeError, match="interrupted already"):
        handle.allow_interruptions = False
    handle._mark_done()


async def test_holds_are_counted_and_give_back_what_was_there() -> None:
    handle = SpeechHandle.create()
    handle._hold_interruptions()
    handle._hold_interruptions()
    assert not handle.allow_interruptions
    handle._release_interruptions()
    assert not handle.allow_interruptions
    handle._release_interruptions()
    assert handle.allow_interruptions


async def test_exception_is_known_only_once_done_and_never_raised_by_awaiting() -> None:
    handle = SpeechHandle.create()
    with pytest.raises(asyncio.InvalidStateError):
        handle.exception()
    handle._mark_done(ValueError("no voice"))
    assert await handle is handle
    assert isinstance(handle.exception(), ValueError)


async def test_an_interrupted_speech_that_does_not_end_is_cut_off_after_five_seconds(
    caplog: pytest.LogCaptureFixture,
) -> None:
    handle = SpeechHandle.create()
    saved: list[bool] = []
    handle._on_cut_off(lambda: saved.append(handle.done()))
    task = asyncio.ensure_future(asyncio.sleep(3600))
    handle._link(task)
    began = asyncio.get_running_loop().time()
    handle.interrupt()
    await handle
    assert asyncio.get_running_loop().time() - began == module.INTERRUPTION_TIMEOUT
    assert saved == [False], "saved once, and before the handle counted as done"
    assert "speech not done in time after interruption" in caplog.text
    await asyncio.wait([task])
    assert task.cancelled()


async def test_a_failing_settler_stops_neither_the_others_nor_the_end() -> None:
    handle = SpeechHandle.create()
    saved: list[str] = []
    handle._on_cut_off(lambda: 1 / 0)
    handle._on_cut_off(lambda: saved.append("second"))
    handle._cut_off()
    assert saved == ["second"] and handle.done()


async def test_a_step_that_ended_is_not_settled_again() -> None:
    handle = SpeechHandle.create()
    forget = handle._on_cut_off(lambda: pytest.fail("the step is over"))
    forget()
    handle._cut_off()


async def test_a_tool_cannot_wait_for_the_speech_that_waits_for_it() -> None:
    handle = SpeechHandle.create()
    call = FunctionCall(call_id="1", name="lookup", arguments="{}")
    with bound(current_speech_handle, handle), bound(current_function_call, call):
        with pytest.raises(RuntimeError, match="wait_for_playout"):
            await handle
        call.extra["__livekit_agents_tool_non_blocking"] = True
        handle._mark_done()
        await handle


async def test_waiting_with_an_interruption_leaves_the_futures_alone() -> None:
    handle = SpeechHandle.create()
    fut: asyncio.Future[None] = asyncio.get_running_loop().create_future()
    asyncio.get_running_loop().call_later(1.0, handle.interrupt)
    await handle.wait_if_not_interrupted([fut])
    assert not fut.done()
    handle._mark_done()


async def test_a_handle_is_done_when_all_its_tasks_are() -> None:
    handle = SpeechHandle.create()
    for seconds in (1, 3, 2):
        handle._link(asyncio.ensure_future(asyncio.sleep(seconds)))
    await handle
    assert asyncio.get_running_loop().time() == pytest.approx(1003.0)


async def test_done_callbacks_run_also_when_late_and_errors_stay_with_them() -> None:
    handle = SpeechHandle.create()
    seen: list[str] = []
    handle.add_done_callback(lambda _: 1 / 0)
    handle.add_done_callback(lambda h: seen.append(h.id))
    handle._mark_done()
    handle.add_done_callback(lambda h: seen.append("late"))
    await asyncio.sleep(0)
    assert seen == [handle.id, "late"]
