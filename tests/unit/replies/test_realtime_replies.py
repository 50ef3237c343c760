"""A realtime model in a session: what it is asked, what is played of it, and what is kept."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import pytest
from livekit import rtc

from fakes.hearing import settle
from fakes.realtime import FakeMessage, FakeRealtimeModel, RealtimeReply, silence
from fakes.realtime_call import realtime_call
from fakes.session import now
from fakes.tts import FakeTTS
from livekit.agents.llm import (
    ChatContext,
    ChatMessage,
    GenerationCreatedEvent,
    MessageGeneration,
    RealtimeError,
    function_tool,
)
from livekit.agents.llm.chat_context import Instructions
from livekit.agents.voice import Agent, ModelSettings

# -- replies that are asked for --------------------------------------------------------------------


async def test_a_reply_is_asked_for_played_and_kept() -> None:
    async with realtime_call(RealtimeReply("nice to meet you", audio=2.0)) as call:
        handle = call.session.generate_reply(user_input="I am Ann", instructions="greet her")
        began = now()
        await handle
        assert now() - began == pytest.approx(2.0, abs=0.1)
        assert call.said == ["user: I am Ann", "assistant: nice to meet you"]
        assert handle.exception() is None and len(handle.chat_items) == 1
        assert call.server.requests[0].instructions == "greet her"
        assert next(i.text_content for i in call.server.chat_ctx.messages()) == "I am Ann"
        assert call.story == [
            "handoff None → default_agent",
            "agent → listening",
            "speech_created",
            "user: I am Ann",
            "agent → speaking",
            "assistant: nice to meet you",
            "agent → listening",
        ]


async def test_what_was_measured_is_with_the_message() -> None:
    async with realtime_call(RealtimeReply("hello", audio=1.0, delay=0.4)) as call:
        await call.session.generate_reply()
        (message,) = call.session.history.messages()
        metrics = message.metrics
        assert metrics["stopped_speaking_at"] - metrics["started_speaking_at"] == pytest.approx(1.0)
        assert message.created_at == metrics["started_speaking_at"]
        assert metrics["llm_metadata"]["model_name"] == "fake-realtime"
        assert metrics["provider_request_ids"][0].startswith("response_")
        assert "e2e_latency" not in metrics


@pytest.mark.parametrize("error", [RealtimeError("busy"), ValueError("bug in the plugin")])
async def test_a_refused_reply_fails_with_the_refusal(error: Exception) -> None:
    async with realtime_call(RealtimeReply(error=error), "and now") as call:
        handle = call.session.generate_reply(user_input="hello")
        await handle
        assert handle.exception() is error
        assert call.session.agent_state == "listening" and call.said == ["user: hello"]
        await call.session.generate_reply()
        assert call.said[-1] == "assistant: and now"


async def test_a_reply_that_never_begins_fails_in_time_and_the_next_one_plays() -> None:
    async with realtime_call(RealtimeReply(never_begins=True), "here I am") as call:
        handle = call.session.generate_reply()
        began = now()
        await handle
        assert isinstance(handle.exception(), RealtimeError)
        assert now() - began == pytest.approx(15.0)
        assert call.session.agent_state == "listening"
        await call.session.generate_reply()
        assert call.said == ["assistant: here I am"]


async def test_interrupted_before_the_response_begins_nothing_is_played() -> None:
    async with realtime_call(RealtimeReply("too late", audio=1.0, delay=2.0)) as call:
        handle = call.session.generate_reply(user_input="hello")
        await asyncio.sleep(1.0)
        await call.session.interrupt()
        assert handle.done() and call.session.agent_state == "listening"
        await asyncio.sleep(5.0)
        assert call.server.generations == [] and call.said == ["user: hello"]


async def test_words_typed_before_their_turn_are_kept_when_the_turn_never_comes() -> None:
    async with realtime_call("a long announcement") as call:
        call.session.generate_reply()
        handle = call.session.generate_reply(user_input="I am Ann")
        await asyncio.sleep(0.5)
        await call.session.interrupt()
        assert handle.done() and "user: I am Ann" in call.said
        await settle()
        assert "I am Ann" in [i.text_content for i in call.server.chat_ctx.messages()]


async def test_a_context_that_is_not_acknowledged_delays_the_reply_no_longer_than_it_may() -> None:
    async with realtime_call("hello", "again") as call:
        call.server.updates_hang = True
        began = now()
        await call.session.generate_reply(user_input="hi")
        assert call.said == ["user: hi", "assistant: hello"]
        assert now() - began == pytest.approx(16.0, abs=0.1)
        handle = call.session.generate_reply(user_input="hi again")
        await asyncio.sleep(1.0)
        began = now()
        await call.session.interrupt()
        assert handle.done() and now() - began < 0.1


async def test_a_context_that_is_refused_fails_the_reply_only_if_it_is_no_refusal_of_the_server() -> (
    None
):
    async with realtime_call("hello") as call:
        call.server.update_error = RealtimeError("not acknowledged")
        handle = call.session.generate_reply(user_input="hi")
        await handle
        assert handle.exception() is None and call.said == ["user: hi", "assistant: hello"]
        call.server.update_error = KeyError("bug in the plugin")
        handle = call.session.generate_reply(user_input="hi")
        await handle
        assert isinstance(handle.exception(), KeyError)
        assert call.session.agent_state == "listening"


class Tooled(Agent):
    @function_tool
    async def look(self) -> str:
        """Looks."""
        return "seen"

    @function_tool
    async def listen(self) -> str:
        """Listens."""
        return "heard"


async def test_what_counts_for_one_reply_goes_with_the_request_where_the_model_can() -> None:
    agent = Tooled(instructions="x")
    async with realtime_call(
        "a", agent=agent, capabilities={"per_response_tool_choice": True}
    ) as call:
        await call.session.generate_reply(tool_choice="required", tools=["look"])
        (request,) = call.server.requests
        assert request.tool_choice == "required"
        assert [tool.id for tool in request.tools] == ["look"]  # type: ignore[union-attr]
        assert call.server.tool_choice is None and len(call.server.tools.function_tools) == 2


@pytest.mark.parametrize("fails", [False, True])
async def test_what_counts_for_one_reply_is_set_and_restored_elsewhere(fails: bool) -> None:
    reply = RealtimeReply("a", delay=1.0, error=RealtimeError("no") if fails else None)
    async with realtime_call(reply, agent=Tooled(instructions="x")) as call:
        handle = call.session.generate_reply(tool_choice="required", tools=["look"])
        await asyncio.sleep(0.5)
        assert call.server.tool_choice == "required"
        assert list(call.server.tools.function_tools) == ["look"]
        await handle
        await settle()
        assert call.server.tool_choice is None and len(call.server.tools.function_tools) == 2


# -- answers of the server -------------------------------------------------------------------------


async def test_the_server_hears_the_user_and_answers() -> None:
    async with realtime_call() as call:
        server = call.server
        assert not server.turn_detection_disabled
        call.session._activity.push_audio(silence())  # type: ignore[union-attr]
        assert len(server.audio) == 1
        server.hear_start()
        await asyncio.sleep(1.0)
        server.hear_stop()
        server.add_item(ChatMessage(id="u1", role="user", content=[]))
        server.answer(RealtimeReply("it rains", audio=1.0))
        await asyncio.sleep(0.5)
        server.transcribe("what is the weather", "u1")
        await asyncio.sleep(2.0)
        assert call.said == ["user: what is the weather", "assistant: it rains"]
        assert next(i.id for i in call.session.current_agent.chat_ctx.messages()) == "u1"
        assert [line for line in call.story if "→" in line][2:] == [
            "user → speaking",
            "user → listening",
            "agent → speaking",
            "agent → listening",
        ]
        assistant = call.session.history.messages()[1]
        assert assistant.metrics["e2e_latency"] == pytest.approx(0.0, abs=0.1)
        created = next(e for e in call.recorded.events if e.type == "speech_created")
        assert not created.user_initiated


async def test_words_that_the_server_understood_bring_the_user_back() -> None:
    async with realtime_call(user_away_timeout=10.0) as call:
        await asyncio.sleep(9.0)
        call.server.transcribe("I am still here", "u1")
        await asyncio.sleep(9.0)
        assert call.session.user_state == "listening"
        await asyncio.sleep(2.0)
        assert call.session.user_state == "away"
        call.server.transcribe("and back again", "u2")
        assert call.session.user_state == "listening"


async def test_an_empty_transcript_adds_nothing() -> None:
    async with realtime_call() as call:
        call.server.transcribe("", "u1")
        call.server.transcribe("he", "u2", final=False)
        assert call.said == []


async def test_the_user_interrupts_the_model_and_it_learns_what_was_heard() -> None:
    async with realtime_call(paced=True) as call:
        server = call.server
        text = "this answer goes on and on until somebody has heard enough of it"
        server.answer(RealtimeReply(text, audio=6.0))
        await asyncio.sleep(2.0)
        server.hear_start()
        await asyncio.sleep(0.5)
        (message,) = call.session.history.messages()
        heard = message.text_content or ""
        assert message.interrupted and text.startswith(heard) and 0 < len(heard) < len(text)
        (truncation,) = server.truncations
        assert truncation["message_id"] == message.id
        assert truncation["audio_end_ms"] == pytest.approx(2000, abs=50)
        assert truncation["audio_transcript"] == heard
        assert truncation["modalities"] == ["audio", "text"]
        assert call.speaker.log == ["cleared"]
        server.hear_stop()
        server.answer("sorry")
        await asyncio.sleep(3.0)
        assert call.said[-1] == "assistant: sorry"


async def test_a_model_that_cannot_truncate_is_not_asked_to() -> None:
    async with realtime_call(capabilities={"message_truncation": False}) as call:
        call.server.answer(RealtimeReply("a long answer", audio=6.0))
        await asyncio.sleep(2.0)
        await call.session.interrupt()
        assert call.server.truncations == [] and len(call.said) == 1


async def test_several_messages_play_one_after_another_and_unheard_ones_are_forgotten() -> None:
    async with realtime_call() as call:
        server = call.server
        generation = server.begin()
        for message_id in ("m1", "m2", "m3"):
            message = generation.open_message(message_id)
            server.add_item(ChatMessage(id=message_id, role="assistant", content=[]))
            message.modalities.set_result(["audio", "text"])
            message.text.send_nowait(f"text of {message_id}")
            for _ in range(50):
                message.audio.send_nowait(silence())
            message.text.close()
            message.audio.close()
        await asyncio.sleep(1.5)
        await call.session.interrupt()
        await settle()
        kept = [(m.id, m.interrupted) for m in call.session.history.messages()]
        assert kept == [("m1", False), ("m2", True)]
        assert [i.id for i in server.chat_ctx.items] == ["m1", "m2"]
        assert [i.id for i in call.session.current_agent.chat_ctx.messages()] == ["m1", "m2"]
        first, second = call.session.history.messages()
        assert second.created_at - first.created_at == pytest.approx(1.0, abs=0.1)


async def test_an_answer_in_the_user_s_speech_waits_unless_the_model_listens_while_it_speaks() -> (
    None
):
    for overlapping in (False, True):
        async with realtime_call(capabilities={"supports_overlapping_speech": overlapping}) as call:
            call.server.hear_start()
            call.server.answer("yes?")
            await asyncio.sleep(2.0)
            assert bool(call.said) == overlapping
            call.server.hear_stop()
            await asyncio.sleep(2.0)
            assert call.said == ["assistant: yes?"]


async def test_a_reconnect_in_the_user_s_speech_ends_it() -> None:
    async with realtime_call() as call:
        call.server.hear_start()
        assert call.session.user_state == "speaking"
        call.server.reconnect()
        assert call.session.user_state == "listening"
        call.server.answer("where were we")
        await asyncio.sleep(2.0)
        assert call.said == ["assistant: where were we"]


async def test_the_place_of_a_message_is_kept_until_its_words_are_known() -> None:
    async with realtime_call() as call:
        server = call.server
        server.add_item(ChatMessage(id="u1", role="user", content=[]))
        await asyncio.sleep(1.0)
        server.add_item(ChatMessage(id="u2", role="user", content=[]))
        agent = call.session.current_agent
        assert [m.id for m in agent.chat_ctx.messages()] == ["u1", "u2"]
        assert call.said == []
        await asyncio.sleep(1.0)
        server.transcribe("second", "u2")
        server.transcribe("first", "u1")
        assert [m.text_content for m in agent.chat_ctx.messages()] == ["first", "second"]
        assert call.said == ["user: first", "user: second"]


# -- turns found here ------------------------------------------------------------------------------


async def test_turns_that_the_user_code_finds() -> None:
    async with realtime_call("answer one", turn_detection="manual") as call:
        server = call.server
        assert server.turn_detection_disabled
        assert await call.session.commit_user_turn() == ""
        await asyncio.sleep(2.0)
        assert server.commits == 1 and call.said == ["assistant: answer one"]
        call.session.clear_user_turn()
        assert server.clears == 1
        await call.session.commit_user_turn(skip_reply=True)
        await asyncio.sleep(2.0)
        assert server.commits == 2 and len(server.requests) == 1


async def test_a_model_is_not_told_what_it_cannot_do() -> None:
    class Old(FakeRealtimeModel):
        def session(self) -> Any:  # type: ignore[override]
            return super().session()

    model = Old(can_disable_turn_detection=False, turn_detection=False)
    async with realtime_call(model=model) as call:
        assert not call.server.turn_detection_disabled


# -- say, text, nodes ------------------------------------------------------------------------------


async def test_a_model_that_can_says_a_text_itself(caplog: pytest.LogCaptureFixture) -> None:
    async with realtime_call(capabilities={"supports_say": True}) as call:
        handle = call.session.say("welcome", add_to_chat_ctx=False)
        await handle
        assert call.server.said == ["welcome"] and call.said == ["assistant: welcome"]
        assert "add_to_chat_ctx=False is ignored" in caplog.text


async def test_a_model_that_refuses_to_say_fails_the_speech() -> None:
    class Mute(FakeRealtimeModel):
        def session(self, **options: Any) -> Any:
            made = super().session(**options)
            made.say = lambda text: made._answer(RealtimeReply(error=RealtimeError("no")))  # type: ignore[method-assign]
            return made

    async with realtime_call(model=Mute(supports_say=True)) as call:
        handle = call.session.say("welcome")
        await handle
        assert isinstance(handle.exception(), RealtimeError) and call.said == []


async def test_the_model_learns_what_a_tts_has_said_for_it() -> None:
    async with realtime_call(tts=FakeTTS()) as call:
        await call.session.say("welcome")
        await settle()
        assert [m.text_content for m in call.server.chat_ctx.messages()] == ["welcome"]


async def test_a_model_that_only_writes_is_spoken_by_a_tts() -> None:
    tts = FakeTTS()
    async with realtime_call(
        RealtimeReply("**written** words"), tts=tts, capabilities={"audio_output": False}
    ) as call:
        began = now()
        await call.session.generate_reply()
        assert call.said == ["assistant: **written** words"]
        assert now() - began > 0.5 and call.speaker.captured_playout_segments == 1


async def test_a_text_answer_without_a_tts_is_shown_and_complained_of(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async with realtime_call(RealtimeReply("written")) as call:
        await call.session.generate_reply()
        assert call.said == ["assistant: written"]
        assert "there is no TTS to speak it" in caplog.text


async def test_a_failing_tts_fails_the_reply_of_a_model_that_writes() -> None:
    tts = FakeTTS(failures=dict.fromkeys(range(10), ValueError("no voice")))
    async with realtime_call(
        RealtimeReply("words"), tts=tts, capabilities={"audio_output": False}
    ) as call:
        handle = call.session.generate_reply()
        await handle
        assert handle.exception() is not None and call.session.agent_state == "listening"


async def test_a_text_session_plays_nothing() -> None:
    async with realtime_call(RealtimeReply("hello", audio=3.0), speaks=False) as call:
        began = now()
        await call.session.generate_reply()
        assert call.said == ["assistant: hello"] and now() - began < 0.1


async def test_the_audio_passes_through_the_node_of_the_agent() -> None:
    class Half(Agent):
        async def realtime_audio_output_node(  # type: ignore[override]
            self, audio: Any, model_settings: ModelSettings
        ) -> AsyncIterator[rtc.AudioFrame]:
            count = 0
            async for frame in audio:
                count += 1
                if count % 2:
                    yield frame

    async with realtime_call(RealtimeReply("hello", audio=2.0), agent=Half(instructions="x")) as c:
        began = now()
        await c.session.generate_reply()
        assert now() - began == pytest.approx(1.0, abs=0.05)


# -- a provider that breaks its promises -----------------------------------------------------------


async def test_a_response_that_never_ends_is_ended_by_the_interruption() -> None:
    async with realtime_call(RealtimeReply("hello", audio=1.0, never_ends=True), "next") as call:
        handle = call.session.generate_reply()
        await asyncio.sleep(30.0)
        assert not handle.done()
        began = now()
        await call.session.interrupt()
        assert handle.done() and now() - began < 0.1
        await call.session.generate_reply()
        assert call.said[-1] == "assistant: next"


async def test_a_broken_connection_does_not_break_interrupting() -> None:
    async with realtime_call(paced=True) as call:
        call.server.answer(RealtimeReply("a long long answer to that", audio=6.0))
        await asyncio.sleep(2.0)
        call.server.broken = True
        call.session._activity.push_audio(silence())  # type: ignore[union-attr]
        await call.session.interrupt()
        assert len(call.said) == 1 and call.said[0].startswith("assistant (interrupted): a ")
        assert call.session.agent_state == "listening"


async def test_a_stream_that_fails_fails_the_reply_and_keeps_what_was_heard() -> None:
    async def one(message: MessageGeneration) -> AsyncIterator[MessageGeneration]:
        yield message
        raise RealtimeError("connection lost")

    async def nothing() -> AsyncIterator[Any]:
        for item in ():
            yield item

    async with realtime_call() as call:
        message = FakeMessage("m1")
        message.modalities.set_result(["audio", "text"])
        message.text.send_nowait("half a sen")
        message.text.close()
        for _ in range(50):
            message.audio.send_nowait(silence())
        message.audio.close()
        handles: list[Any] = []
        call.session.on("speech_created", lambda ev: handles.append(ev.speech_handle))
        call.server.emit(
            "generation_created",
            GenerationCreatedEvent(
                message_stream=one(message.event), function_stream=nothing(), user_initiated=False
            ),
        )
        await asyncio.sleep(3.0)
        assert call.said == ["assistant: half a sen"]
        assert isinstance(handles[0].exception(), RealtimeError)


# -- changes while running -------------------------------------------------------------------------


async def test_changes_of_the_agent_reach_the_model() -> None:
    agent = Agent(instructions="be brief")
    async with realtime_call(agent=agent) as call:
        server = call.server
        assert server.instructions == "be brief"
        await agent.update_instructions(Instructions("be loud"))
        assert server.instructions == "be loud"
        await agent.update_tools(Tooled(instructions="").tools)
        assert sorted(server.tools.function_tools) == ["listen", "look"]
        chat_ctx = ChatContext.empty()
        chat_ctx.add_message(role="user", content="hello")
        await agent.update_chat_ctx(chat_ctx)
        assert [m.text_content for m in server.chat_ctx.messages()] == ["hello"]


@pytest.mark.parametrize("change", ["instructions", "tools", "chat_ctx"])
async def test_a_change_that_is_never_acknowledged_fails_in_time_or_at_the_close(
    change: str,
) -> None:
    values: dict[str, Any] = {"instructions": "x", "tools": [], "chat_ctx": ChatContext.empty()}
    agent = Tooled(instructions="be brief")
    async with realtime_call(agent=agent) as call:
        call.server.updates_hang = True
        began = now()
        with pytest.raises(RealtimeError, match="acknowledge"):
            await getattr(agent, f"update_{change}")(values[change])
        assert now() - began == pytest.approx(15.0)
        waiting = asyncio.ensure_future(getattr(agent, f"update_{change}")(values[change]))
        await asyncio.sleep(1.0)
        await call.session.aclose()
        with pytest.raises(RealtimeError, match="closed"):
            await waiting
