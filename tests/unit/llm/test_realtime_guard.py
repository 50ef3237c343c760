"""What a realtime session starts comes to an end, whatever its plugin does."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from fakes.realtime import FakeRealtimeModel, FakeRealtimeSession, RealtimeReply
from livekit.agents import llm
from livekit.agents.llm._realtime_guard import RealtimeSessionGuard


def guarded(
    *replies: RealtimeReply | str, **options: Any
) -> tuple[FakeRealtimeSession, RealtimeSessionGuard]:
    session = FakeRealtimeModel(replies, **options).session()
    return session, RealtimeSessionGuard(session)


def now() -> float:
    return asyncio.get_running_loop().time()


async def hear(ev: llm.GenerationCreatedEvent) -> tuple[list[str], int, list[str]]:
    """Texts, number of audio frames and names of calls of a generation, read to the end."""
    texts: list[str] = []
    frames = 0
    async for message in ev.message_stream:
        texts += [text async for text in message.text_stream]
        frames += len([frame async for frame in message.audio_stream])
        await message.modalities
    return texts, frames, [call.name async for call in ev.function_stream]


async def test_a_generation_arrives_unchanged() -> None:
    weather = llm.FunctionCall(call_id="1", name="weather", arguments="{}")
    session, guard = guarded(RealtimeReply(["It ", "rains"], audio=0.1, tool_calls=[weather]))
    ev = await guard.generate_reply(instructions="be brief")
    assert ev.user_initiated and ev.response_id
    assert await hear(ev) == (["It ", "rains"], 5, ["weather"])
    assert session.requests[0].instructions == "be brief"
    await asyncio.sleep(0)
    assert guard._generations == set()  # nothing is kept of what has ended
    assert await guard.aclose() == [] and session.closed


async def test_the_event_and_the_reply_lead_to_the_same_streams() -> None:
    session, guard = guarded("hi")
    seen: list[llm.GenerationCreatedEvent] = []
    session.on("generation_created", lambda ev: seen.append(guard.generation(ev)))
    ev = await guard.generate_reply()
    assert seen == [ev] and seen[0] is ev
    await guard.aclose()


async def test_streams_that_a_plugin_leaves_open_end_with_the_session() -> None:
    _, guard = guarded(RealtimeReply("hi", audio=0.1, never_ends=True))
    hearing = asyncio.ensure_future(hear(await guard.generate_reply()))
    await asyncio.sleep(60.0)
    assert not hearing.done()
    await guard.aclose()
    assert await hearing == (["hi"], 5, [])


async def test_a_generation_that_comes_after_the_close_is_empty() -> None:
    session, guard = guarded()
    await guard.aclose()
    generation = session.begin()
    assert await hear(guard.generation(generation.event)) == ([], 0, [])
    late = guard.generate_reply()
    with pytest.raises(llm.RealtimeError, match="closed"):
        await late


async def test_a_failing_stream_fails_for_the_listener() -> None:
    async def broken() -> Any:
        if False:
            yield
        raise llm.RealtimeError("cut")

    async def nothing() -> Any:
        for nothing in ():
            yield nothing

    _, guard = guarded()
    ev = guard.generation(
        llm.GenerationCreatedEvent(
            message_stream=broken(), function_stream=nothing(), user_initiated=False
        )
    )
    stream = ev.message_stream.__aiter__()
    with pytest.raises(llm.RealtimeError, match="cut"):
        await stream.__anext__()
    await guard.aclose()


async def test_a_reply_that_never_begins_fails_in_time() -> None:
    _, guard = guarded(RealtimeReply(never_begins=True))
    began = now()
    with pytest.raises(llm.RealtimeError, match="did not begin a reply within 15 s"):
        await guard.generate_reply()
    assert now() - began == pytest.approx(15.0)
    await guard.aclose()


async def test_a_pending_reply_fails_when_the_session_closes() -> None:
    _, guard = guarded(RealtimeReply(never_begins=True))
    reply = guard.generate_reply()
    await guard.aclose()
    with pytest.raises(llm.RealtimeError, match="closed"):
        await reply


async def test_giving_up_a_reply_asks_the_plugin_to_drop_it() -> None:
    session, guard = guarded(RealtimeReply("late", delay=5.0))
    reply = guard.generate_reply()
    await asyncio.sleep(1.0)
    reply.cancel()
    await asyncio.sleep(10.0)
    assert session.generations == []
    await guard.aclose()


async def test_a_refused_reply_fails_with_the_refusal() -> None:
    _, guard = guarded(RealtimeReply(error=llm.RealtimeError("no", code="busy")))
    with pytest.raises(llm.RealtimeError, match="no") as raised:
        await guard.generate_reply()
    assert raised.value.code == "busy"
    await guard.aclose()


async def test_a_close_that_hangs_is_left_behind_in_time() -> None:
    session, guard = guarded(close_hangs=True)
    hearing = asyncio.ensure_future(hear(guard.generation(session.begin().event)))
    began = now()
    first, second = await asyncio.gather(guard.aclose(2.0), guard.aclose())
    assert now() - began <= 2.0
    assert [s.name for s in first] == [f"{session.realtime_model.label}.aclose"]
    assert second == first
    assert await hearing == ([], 0, [])
    session.release()
    await asyncio.sleep(0.1)


async def test_cancelling_who_closes_does_not_stop_the_close() -> None:
    session, guard = guarded(close_hangs=True)
    with pytest.raises(asyncio.TimeoutError):
        await asyncio.wait_for(guard.aclose(2.0), 0.5)
    session.release()
    assert await guard.aclose() == []


async def test_a_failing_close_is_logged(caplog: pytest.LogCaptureFixture) -> None:
    session, guard = guarded(close_error=RuntimeError("dead socket"))
    assert await guard.aclose() == []
    assert any("closing the session failed" in record.message for record in caplog.records)
    assert session.closed


async def test_updates_are_applied_in_turn_and_a_refused_one_does_not_stop_the_rest(
    caplog: pytest.LogCaptureFixture,
) -> None:
    session, guard = guarded()
    session.update_error = llm.RealtimeError("too late")
    await session._update_session(instructions="x", chat_ctx=llm.ChatContext.empty(), tools=[])
    assert [r.message.rpartition("the ")[2] for r in caplog.records] == [
        "instructions",
        "chat context",
        "tools",
    ]
    session.update_error = None
    await session._update_session(instructions="be brief")
    assert session.instructions == "be brief"
    await guard.aclose()


async def test_connecting_is_reported_without_usage() -> None:
    session, guard = guarded()
    seen: list[Any] = []
    session.on("metrics_collected", seen.append)
    session._report_connection_acquired(0.25)
    (metrics,) = seen
    assert (metrics.acquire_time, metrics.connection_reused, metrics.request_id) == (
        0.25,
        False,
        "",
    )
    assert metrics.metadata.model_name == "fake-realtime"
    await guard.aclose()


async def test_a_model_that_cannot_say_tells_so() -> None:
    session, guard = guarded()
    with pytest.raises(NotImplementedError, match="TTS"):
        session.say("hello")
    await guard.aclose()
