"""`RealtimeModelFallbackAdapter`: a conversation moves to another model when its model fails."""

from __future__ import annotations

import asyncio
from types import SimpleNamespace
from typing import Any

import pytest

from fakes.realtime import FakeRealtimeModel, FakeRealtimeSession, RealtimeReply, silence
from livekit.agents import llm
from livekit.agents.llm.realtime_fallback_adapter import _FallbackRealtimeSession

GONE = RuntimeError("socket closed")


class Speaker:
    """What the adapter needs of an `AgentSession`."""

    def __init__(self) -> None:
        self.log: list[str] = []
        self.current_speech: object | None = None
        self.current_agent = SimpleNamespace(chat_ctx=llm.ChatContext.empty())
        self.current_agent.chat_ctx.add_message(role="system", content="be brief")
        self.current_agent.chat_ctx.add_message(role="user", content="hello")
        self.settles = True

    def interrupt(self, *, force: bool) -> asyncio.Future[None]:
        assert force
        self.log.append("interrupt")
        settled: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        if self.settles:
            settled.set_result(None)
        return settled

    def generate_reply(self) -> None:
        self.log.append("generate_reply")


class Bench:
    def __init__(self, count: int = 2, *, attached: bool = True, **options: Any) -> None:
        self.models = [FakeRealtimeModel(model=f"m{i}") for i in range(count)]
        self.adapter = llm.RealtimeModelFallbackAdapter(list(self.models), **options)
        session = self.adapter.session()
        assert isinstance(session, _FallbackRealtimeSession)
        self.session = session
        self.speaker = Speaker()
        if attached:
            speaker: Any = self.speaker
            session._agent_session = speaker
        self.errors: list[llm.RealtimeModelError] = []
        self.events: list[tuple[str, Any]] = []
        self.changes: list[tuple[int, bool]] = []
        session.on("error", self.errors.append)
        for name in ("session_reconnected", "generation_created", "metrics_collected", "custom"):
            session.on(name, lambda *args, name=name: self.events.append((name, args)))
        self.adapter.on(
            "realtime_availability_changed",
            lambda ev: self.changes.append((self.models.index(ev.realtime_model), ev.available)),
        )

    @property
    def child(self) -> FakeRealtimeSession:
        child = self.session._child.session
        assert isinstance(child, FakeRealtimeSession)
        return child

    @property
    def serving(self) -> str:
        return self.child.realtime_model.model

    @property
    def names(self) -> list[str]:
        return [name for name, _ in self.events]

    async def fail(self) -> None:
        self.child.fail(GONE, recoverable=False)
        await asyncio.sleep(0.01)


def now() -> float:
    return asyncio.get_running_loop().time()


def test_models_have_to_agree_on_what_a_session_relies_on() -> None:
    with pytest.raises(ValueError, match="at least one"):
        llm.RealtimeModelFallbackAdapter([])
    for name in ("audio_output", "turn_detection", "supports_overlapping_speech"):
        models = [FakeRealtimeModel(**{name: True}), FakeRealtimeModel(**{name: False})]
        with pytest.raises(ValueError, match=name):
            llm.RealtimeModelFallbackAdapter(list(models))


async def test_it_can_do_what_all_can_and_a_session_what_its_model_can() -> None:
    models = [FakeRealtimeModel(supports_say=True), FakeRealtimeModel()]
    adapter = llm.RealtimeModelFallbackAdapter(list(models))
    assert not adapter.capabilities.supports_say and adapter.capabilities.mutable_tools
    assert (adapter.model, adapter.provider) == ("RealtimeModelFallbackAdapter", "livekit")
    assert adapter.metrics_metadata["model_name"] == "fake-realtime"
    session = adapter.session(turn_detection_disabled=True)
    assert session.capabilities.supports_say and models[0].sessions[0].turn_detection_disabled
    await session.aclose()
    await adapter.aclose()


async def test_the_serving_model_gets_everything() -> None:
    bench = Bench()
    session, child = bench.session, bench.child
    bench.models[0].replies = ["hi"]
    await session.update_instructions("be brief")
    await session.update_tools([])
    await session.update_chat_ctx(bench.speaker.current_agent.chat_ctx)
    session.update_options(tool_choice="none")
    session.push_audio(silence())
    session.commit_audio()
    session.clear_audio()
    session.interrupt()
    session.start_user_activity()
    session.truncate(message_id="x", modalities=["audio"], audio_end_ms=5)
    ev = await session.generate_reply(instructions="x")
    assert ev.user_initiated and bench.names[0] == "generation_created"
    assert bench.events[0][1] == (ev,)
    assert (child.instructions, child.tool_choice, len(child.audio)) == ("be brief", "none", 1)
    assert (child.commits, child.clears, child.interruptions) == (1, 1, 1)
    assert child.truncations[0]["message_id"] == "x" and len(session.chat_ctx.items) == 3
    assert session.tools == llm.ToolContext.empty()
    with pytest.raises(NotImplementedError):
        session.say("x")
    await session.aclose()
    assert child.closed


async def test_a_failure_the_model_deals_with_itself_is_only_reported() -> None:
    bench = Bench()
    bench.child.fail(GONE, recoverable=True)
    assert [error.recoverable for error in bench.errors] == [True]
    assert bench.serving == "m0" and bench.changes == []
    await bench.session.aclose()


async def test_the_next_model_takes_the_conversation_over() -> None:
    bench = Bench()
    bench.speaker.current_speech = object()
    old = bench.child
    await bench.session.update_instructions("be brief")
    bench.session.update_options(tool_choice="required")
    await bench.fail()
    assert bench.serving == "m1" and old.closed
    assert [error.recoverable for error in bench.errors] == [True]
    assert bench.changes == [(0, False)]
    new = bench.child
    assert (new.instructions, new.tool_choice) == ("be brief", "required")
    assert [item.raw_text_content for item in new.chat_ctx.messages()] == ["hello"]
    assert bench.speaker.log == ["interrupt", "generate_reply"]
    assert bench.names == ["session_reconnected"]
    assert bench.adapter.metrics_metadata["model_name"] == "m1"
    await bench.session.aclose()
    assert new.closed


async def test_a_reply_is_only_asked_for_again_if_one_was_cut_off_and_it_is_wished() -> None:
    bench = Bench()
    await bench.fail()
    assert bench.speaker.log == ["interrupt"]
    await bench.session.aclose()

    bench = Bench(regenerate_on_swap=False)
    bench.speaker.current_speech = object()
    await bench.fail()
    assert bench.speaker.log == ["interrupt"]
    await bench.session.aclose()


async def test_without_an_agent_session_the_server_s_conversation_is_carried_over() -> None:
    bench = Bench(attached=False)
    chat_ctx = llm.ChatContext.empty()
    chat_ctx.add_message(role="user", content="from the server")
    await bench.session.update_chat_ctx(chat_ctx)
    await bench.fail()
    assert [m.raw_text_content for m in bench.child.chat_ctx.messages()] == ["from the server"]
    await bench.session.aclose()


async def test_what_comes_from_the_old_session_is_ignored_except_its_last_metrics() -> None:
    bench = Bench()
    old = bench.child
    bench.models[0].close_hangs = True
    await bench.fail()
    old.begin()
    old.fail(GONE, recoverable=False)
    old._report_connection_acquired(1.0)
    assert bench.names == ["session_reconnected", "metrics_collected"]
    assert bench.serving == "m1" and len(bench.errors) == 1
    old.release()
    await bench.session.aclose()


async def test_events_of_one_provider_survive_the_change() -> None:
    bench = Bench()
    bench.child.emit("custom", 1)
    await bench.fail()
    bench.child.emit("custom", 2)
    assert [args for name, args in bench.events if name == "custom"] == [(1,), (2,)]
    await bench.session.aclose()


async def test_with_no_other_model_the_failure_is_final() -> None:
    bench = Bench(1)
    await bench.fail()
    assert [error.recoverable for error in bench.errors] == [False]
    await bench.session.aclose()


async def test_a_model_that_failed_is_used_again_after_a_while() -> None:
    bench = Bench(cooldown=10.0)
    await bench.fail()
    await bench.fail()  # nothing left
    assert [error.recoverable for error in bench.errors] == [True, False]
    await asyncio.sleep(10.0)
    await bench.fail()
    assert bench.serving == "m0"
    assert bench.changes == [(0, False), (1, False), (0, True)]
    await bench.session.aclose()


@pytest.mark.parametrize("how", ["refuses", "update fails", "reports", "hangs"])
async def test_a_model_that_cannot_take_over_is_passed_by(how: str) -> None:
    bench = Bench(3)
    broken = bench.models[1]
    if how == "refuses":
        broken.start_error = GONE
    else:
        start = broken.session

        def session(**options: Any) -> FakeRealtimeSession:
            made = start(**options)

            async def update(**_: Any) -> None:
                if how == "update fails":
                    raise GONE
                if how == "reports":
                    made.fail(GONE, recoverable=False)
                await asyncio.sleep(1000.0)

            made._update_session = update  # type: ignore[method-assign]
            return made

        broken.session = session  # type: ignore[method-assign]
    began = now()
    await bench.fail()
    await asyncio.sleep(11.0)
    assert bench.serving == "m2"
    assert (0, False) in bench.changes and (1, False) in bench.changes
    assert all(made.closed for made in broken.sessions)
    assert bench.names == ["session_reconnected"] and len(bench.errors) == 1
    assert now() - began < 12.0
    await bench.session.aclose()


async def test_if_none_can_take_over_the_failure_is_final() -> None:
    bench = Bench()
    bench.models[1].start_error = GONE
    await bench.fail()
    assert [error.recoverable for error in bench.errors] == [True, False]
    await bench.session.aclose()


async def test_frames_during_a_change_are_dropped() -> None:
    bench = Bench()
    bench.speaker.settles = False
    bench.child.fail(GONE, recoverable=False)
    await asyncio.sleep(1.0)
    old = bench.child
    bench.session.push_audio(silence())
    await bench.session.update_chat_ctx(llm.ChatContext.empty())
    await asyncio.sleep(2.0)  # the speech that does not settle is waited for no longer
    assert bench.serving == "m1" and old.audio == [] and bench.child.audio == []
    bench.session.push_audio(silence())
    assert len(bench.child.audio) == 1
    await bench.session.aclose()


async def test_conversations_can_be_started_anew() -> None:
    bench = Bench()
    first = bench.child
    await bench.adapter.restart_session()
    assert bench.serving == "m0" and bench.child is not first
    await bench.adapter.restart_session(switch_model=True)
    assert bench.serving == "m1" and bench.changes == []
    await bench.session.aclose()
    await bench.adapter.restart_session()  # nothing left to restart
    assert len(bench.models[0].sessions) == 2

    alone = Bench(1)
    await asyncio.gather(
        alone.adapter.restart_session(switch_model=True), alone.adapter.restart_session()
    )
    assert len(alone.models[0].sessions) == 3
    await alone.session.aclose()


async def test_a_model_that_cannot_start_a_session_is_passed_by_from_the_beginning() -> None:
    models = [FakeRealtimeModel(start_error=GONE, model="m0"), FakeRealtimeModel(model="m1")]
    adapter = llm.RealtimeModelFallbackAdapter(list(models))
    session = adapter.session()
    assert adapter.metrics_metadata["model_name"] == "m1"
    await session.aclose()


async def test_closing_in_the_middle_of_a_change_leaves_nothing_open() -> None:
    bench = Bench()
    bench.speaker.settles = False
    bench.child.fail(GONE, recoverable=False)
    await asyncio.sleep(1.0)
    began = now()
    await asyncio.gather(bench.session.aclose(), bench.session.aclose())
    assert now() == began
    assert all(session.closed for model in bench.models for session in model.sessions)
    await asyncio.sleep(20.0)
    assert len(bench.models[1].sessions) == 0 and bench.names == []


async def test_closing_waits_for_the_old_session_too_but_not_for_ever() -> None:
    bench = Bench()
    bench.models[0].close_hangs = True
    old = bench.child
    await bench.fail()
    began = now()
    await bench.session.aclose()
    assert now() - began <= 5.5
    assert bench.child.closed
    old.release()
    await asyncio.sleep(0.1)


async def test_an_open_generation_ends_when_the_model_changes() -> None:
    bench = Bench()
    bench.models[0].replies = [RealtimeReply("hi", audio=0.1, never_ends=True)]
    ev = await bench.session.generate_reply()
    await bench.fail()
    assert [m.message_id async for m in ev.message_stream]
    assert [call async for call in ev.function_stream] == []
    await bench.session.aclose()


async def test_models_are_closed_side_by_side(caplog: pytest.LogCaptureFixture) -> None:
    bench = Bench(3)

    async def hang() -> None:
        while not released.is_set():
            try:
                await released.wait()
            except asyncio.CancelledError:
                pass

    async def fail() -> None:
        raise GONE

    released = asyncio.Event()
    bench.models[0].aclose = hang  # type: ignore[method-assign]
    bench.models[1].aclose = fail  # type: ignore[method-assign]
    await bench.session.aclose()
    began = now()
    await bench.adapter.aclose()
    assert now() - began <= 5.0
    assert bench.models[2].closed and "socket closed" in caplog.text
    released.set()
    await asyncio.sleep(0.1)
