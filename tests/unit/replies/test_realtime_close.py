"""A session with a realtime model closes in time, whatever the model is in the middle of."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given, settings, strategies as st

from fakes.hearing import settle
from fakes.realtime import FakeRealtimeModel, RealtimeReply
from fakes.realtime_call import RealtimeCall, calls, realtime_call
from fakes.session import now
from livekit.agents.llm import RealtimeError, RealtimeModelFallbackAdapter, function_tool
from livekit.agents.voice import Agent, CloseReason


class Stuck(Agent):
    """A tool that needs a minute."""

    def __init__(self) -> None:
        super().__init__(instructions="x")

    @function_tool
    async def stare(self) -> str:
        """Looks for long."""
        await asyncio.sleep(60.0)
        return "fog"


def silent(call: RealtimeCall) -> None:
    call.server.updates_hang = True
    call.session.generate_reply(user_input="hello")


SITUATIONS: dict[str, tuple[Callable[[RealtimeCall], Any], list[RealtimeReply]]] = {
    "nothing": (lambda call: None, []),
    "a reply that plays": (
        lambda call: call.session.generate_reply(),
        [RealtimeReply("a long answer", audio=20.0)],
    ),
    "a reply that never begins": (
        lambda call: call.session.generate_reply(),
        [RealtimeReply(never_begins=True)],
    ),
    "a reply that never ends": (
        lambda call: call.session.generate_reply(),
        [RealtimeReply("hello", audio=0.2, never_ends=True)],
    ),
    "a context that is never acknowledged": (silent, [RealtimeReply("late", audio=1.0)]),
    "a tool that runs": (
        lambda call: call.session.generate_reply(),
        [RealtimeReply(tool_calls=[calls("stare")])],
    ),
    "an answer of the server": (lambda call: call.server.answer("hello"), []),
    "a user who speaks": (lambda call: call.server.hear_start(), []),
    "an agent that is updated": (
        lambda call: call.session.update_agent(Agent(instructions="second")),
        [],
    ),
}

MODELS: dict[str, dict[str, Any]] = {
    "closes": {},
    "hangs": {"close_hangs": True},
    "raises": {"close_error": ConnectionError("no close frame")},
}


@pytest.mark.parametrize("closing", MODELS)
@pytest.mark.parametrize("situation", SITUATIONS)
async def test_a_forced_close_is_over_in_time(situation: str, closing: str) -> None:
    begin, replies = SITUATIONS[situation]
    model = FakeRealtimeModel(replies, **MODELS[closing])
    async with realtime_call(model=model, agent=Stuck()) as call:
        server = call.server
        begin(call)
        await asyncio.sleep(0.5)
        began = now()
        await call.session.aclose()
        assert now() - began <= 5.0 + 2.0 * 2 + 0.5
        if situation != "a tool that runs" and closing != "hangs":
            assert now() - began < 1.0
        (close,) = call.recorded.closes
        hung = [s.name for s in close.report.survivors if s.name.endswith(".aclose")]
        assert bool(hung) == (closing == "hangs")
        assert all(session.closed for session in model.sessions) and server.closed
        server.release()
        await settle()


@pytest.mark.parametrize("closing", MODELS)
async def test_a_graceful_close_lets_the_model_finish(closing: str) -> None:
    model = FakeRealtimeModel([RealtimeReply("a farewell", audio=4.0)], **MODELS[closing])
    async with realtime_call(model=model) as call:
        call.session.generate_reply()
        await asyncio.sleep(0.5)
        call.session.shutdown(drain=True)
        await asyncio.sleep(10.0)
        assert call.said == ["assistant: a farewell"]
        (close,) = call.recorded.closes
        assert not close.report.forced and not close.report.cut_off
        call.server.release()
        await settle()


async def test_a_graceful_close_of_a_reply_that_never_begins_ends_with_its_time_limit() -> None:
    async with realtime_call(RealtimeReply(never_begins=True)) as call:
        call.session.generate_reply()
        began = now()
        call.session.shutdown(drain=True)
        await asyncio.sleep(20.0)
        (close,) = call.recorded.closes
        assert not close.report.forced and call.server.closed
        assert now() - began == pytest.approx(20.0)


@settings(max_examples=25, deadline=None)
@given(moment=st.floats(0.0, 5.0), drain=st.booleans())
async def test_a_close_at_any_moment_keeps_what_was_heard(moment: float, drain: bool) -> None:
    asks = RealtimeReply("let me look at it", audio=1.0, delay=0.3, tool_calls=[calls("stare")])
    async with realtime_call(asks, RealtimeReply("fog", audio=1.0), agent=Stuck(), paced=True) as c:
        c.session.generate_reply(user_input="hello")
        await asyncio.sleep(moment)
        if drain:
            c.session.shutdown(drain=True)
        await c.session.aclose()
        assert c.said[0] == "user: hello" and len(c.recorded.closes) == 1
        assert all("let me look at it".startswith(line.split(": ")[1]) for line in c.said[1:])
        assert c.server.closed and c.speaker._pending_playback_count == 0


async def test_a_farewell_is_spoken_by_the_model_before_its_session_closes() -> None:
    class Polite(Agent):
        async def on_exit(self) -> None:
            await self.session.generate_reply(instructions="say goodbye")

    async with realtime_call("goodbye", agent=Polite(instructions="x")) as call:
        await call.session.aclose()
        assert call.said == ["assistant: goodbye"] and call.server.closed


async def test_metrics_that_come_with_the_close_are_still_counted() -> None:
    class Reporting(FakeRealtimeModel):
        def session(self, **options: Any) -> Any:
            made = super().session(**options)
            close = made.aclose

            async def aclose() -> None:
                made._report_connection_acquired(0.5)
                made.fail(RealtimeError("closing noise"), recoverable=False)
                await close()

            made.aclose = aclose  # type: ignore[method-assign]
            return made

    async with realtime_call(model=Reporting()) as call:
        seen: list[Any] = []
        call.session.on("metrics_collected", lambda ev: seen.append(ev.metrics))
        await call.session.aclose()
        assert [metrics.acquire_time for metrics in seen] == [0.5]
        assert [e for e in call.recorded.events if e.type == "error"] == []


# -- errors ----------------------------------------------------------------------------------------


async def test_an_error_that_the_model_cannot_recover_from_closes_the_session() -> None:
    async with realtime_call(paced=True) as call:
        call.server.answer(RealtimeReply("a long answer to that", audio=6.0))
        await asyncio.sleep(1.0)
        call.server.fail(RealtimeError("hiccup"), recoverable=True)
        await asyncio.sleep(1.0)
        assert call.recorded.closes == []
        call.server.fail(RealtimeError("gone"), recoverable=False)
        await asyncio.sleep(5.0)
        (close,) = call.recorded.closes
        assert close.reason is CloseReason.ERROR and str(close.error.error) == "gone"
        assert len(call.said) == 1 and call.said[0].startswith("assistant (interrupted): a ")


async def test_a_model_that_gives_no_session_fails_the_start_and_leaves_nothing() -> None:
    model = FakeRealtimeModel(start_error=ConnectionError("no route"))
    call = RealtimeCall(model)
    with pytest.raises(ConnectionError):
        await call.session.start(Agent(instructions="x"))
    await call.hang_up()


async def test_a_model_that_never_acknowledges_the_start_delays_it_no_longer_than_it_may() -> None:
    class Mute(FakeRealtimeModel):
        def session(self, **options: Any) -> Any:
            made = super().session(**options)
            made.updates_hang = True
            return made

    call = RealtimeCall(Mute(["hello"]))
    began = now()
    await call.session.start(Agent(instructions="x"))
    assert now() - began == pytest.approx(15.0)
    await call.session.generate_reply()
    assert call.said == ["assistant: hello"]
    await call.hang_up()


async def test_closing_while_the_start_waits_for_the_model() -> None:
    class Mute(FakeRealtimeModel):
        def session(self, **options: Any) -> Any:
            made = super().session(**options)
            made.updates_hang = True
            return made

    model = Mute()
    call = RealtimeCall(model)
    starting = asyncio.ensure_future(call.session.start(Agent(instructions="x")))
    await asyncio.sleep(1.0)
    began = now()
    await call.session.aclose()
    assert now() - began <= 5.0
    await asyncio.gather(starting, return_exceptions=True)
    assert model.sessions[0].closed
    await call.hang_up()


async def test_a_session_can_start_again_with_the_same_model() -> None:
    async with realtime_call("one", "two") as call:
        await call.session.generate_reply()
        await call.session.aclose()
        await call.session.start(Agent(instructions="again"))
        await call.session.generate_reply()
        assert len(call.model.sessions) == 2 and call.said[-1] == "assistant: two"  # type: ignore[attr-defined]


async def test_a_model_that_fails_hands_the_conversation_to_the_next_one() -> None:
    first = FakeRealtimeModel([RealtimeReply("a long long answer to that", audio=8.0)])
    second = FakeRealtimeModel(["as I was saying"])
    async with realtime_call(model=RealtimeModelFallbackAdapter([first, second])) as call:
        call.session.generate_reply(user_input="hello")
        await asyncio.sleep(2.0)
        first.sessions[0].fail(ConnectionError("gone"), recoverable=False)
        await asyncio.sleep(5.0)
        assert first.sessions[0].closed and not second.sessions[0].closed
        assert call.recorded.closes == []
        assert call.said == [
            "user: hello",
            "assistant (interrupted): a long long answer to that",
            "assistant: as I was saying",
        ]
        assert [m.text_content for m in second.sessions[0].chat_ctx.messages()][:1] == ["hello"]
    assert second.sessions[0].closed
