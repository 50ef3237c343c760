"""Realtime models behind the gateway: what is asked of them, what they answer, what they hear."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from gateway import faults
from gateway.calls import sentence
from gateway.realtime_route import ScriptedReply
from gateway.recognizers import speak_tones
from livekit import rtc

from fakes.realtime_line import hear_out, realtime_line, silence
from livekit.agents import inference
from livekit.agents.llm import (
    ChatContext,
    FunctionCall,
    FunctionCallOutput,
    RealtimeError,
    function_tool,
)
from livekit.agents.metrics import RealtimeModelMetrics, STTMetrics


@function_tool
async def look_up(name: str) -> str:
    """Look somebody up."""
    return name


def context(*messages: tuple[str, Any, str]) -> ChatContext:
    chat_ctx = ChatContext()
    for role, text, item_id in messages:
        chat_ctx.add_message(role=role, content=text, id=item_id)  # type: ignore[arg-type]
    return chat_ctx


# -- connecting ------------------------------------------------------------------------------------


async def test_the_gateway_is_told_the_model_who_asks_and_how_urgent_it_is() -> None:
    async with realtime_line(inference_class="priority", provider="azure") as line:
        await line.settle()
        (record,) = line.gateway.of("realtime")
        assert record.query == {"model": "openai/gpt-realtime"}
        assert record.headers["X-LiveKit-Inference-Priority"] == "priority"
        assert record.headers["X-LiveKit-Inference-Provider"] == "azure"
        assert record.headers["Authorization"].startswith("Bearer ")
        assert (line.model.provider, line.model.model) == ("livekit", "openai/gpt-realtime")


async def test_a_model_of_openai_gets_openais_defaults() -> None:
    async with realtime_line() as line:
        await line.settle()
        told = line.server.session
        assert told["audio"]["output"]["voice"] == "marin"
        assert told["audio"]["input"]["turn_detection"]["type"] == "semantic_vad"
        assert told["audio"]["input"]["transcription"] == {"model": "gpt-4o-mini-transcribe"}
        assert "model" not in told


async def test_another_providers_model_keeps_what_that_provider_does_by_itself() -> None:
    async with realtime_line(model="google/gemini-live") as line:
        await line.settle()
        told = line.server.session
        assert "voice" not in told["audio"]["output"]
        assert "transcription" not in told["audio"]["input"]
        assert told["audio"]["input"]["turn_detection"]["type"] == "server_vad"
        assert line.model.capabilities.user_transcription
        line.model.update_options(voice="Puck")
        await line.settle()
        assert told["audio"]["output"]["voice"] == "Puck"


async def test_xai_finds_its_options_where_it_looks_for_them() -> None:
    async with realtime_line(model="xai/grok-voice", voice="Ara") as line:
        await line.settle()
        told = line.server.session
        assert told["voice"] == "Ara" and told["turn_detection"]["type"] == "server_vad"
        assert told["audio"]["input"]["transcription"] == {"model": "grok-transcribe"}
        line.model.update_options(voice="Rex", turn_detection=None)
        await line.settle()
        assert (told["voice"], told["turn_detection"]) == ("Rex", None)


async def test_turn_detection_can_be_left_to_the_caller() -> None:
    async with realtime_line(turn_detection_disabled=True) as line:
        line.model.update_options(turn_detection={"type": "server_vad"}, speed=1.2)
        await line.settle()
        assert line.server.session["audio"]["input"]["turn_detection"] is None
        assert line.server.session["audio"]["output"]["speed"] == 1.2


@pytest.mark.parametrize("model", ["gpt-realtime", "/x", "openai/"])
def test_a_model_needs_a_provider(model: str) -> None:
    with pytest.raises(ValueError, match="provider/model"):
        inference.RealtimeModel(model, api_key="k", api_secret="s")


def test_credentials_are_needed(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("LIVEKIT_API_KEY", "LIVEKIT_INFERENCE_API_KEY"):
        monkeypatch.delenv(name, raising=False)
    with pytest.raises(ValueError, match="api_key is required"):
        inference.RealtimeModel("openai/gpt-realtime")


# -- responses -------------------------------------------------------------------------------------


async def test_a_reply_is_spoken_transcribed_and_paid_for() -> None:
    async with realtime_line() as line:
        line.script(ScriptedReply("good day", calls=[("look_up", '{"name": "Ann"}')], delay=0.3))
        await line.session.update_instructions("be brief")
        reply = line.session.generate_reply(instructions="greet", tool_choice="auto")
        event = await reply
        assert event.user_initiated and line.of("generation_created") == [event]
        assert await hear_out(event) == (["good day"], 0.42, ["look_up"])
        (request,) = line.server.requests
        assert request["instructions"] == "be brief\ngreet"
        assert request["tool_choice"] == "auto"
        await line.settle()
        usage = [m for m in line.of("metrics_collected") if m.request_id]
        (metrics,) = usage
        assert isinstance(metrics, RealtimeModelMetrics)
        assert (metrics.input_tokens, metrics.output_tokens, metrics.total_tokens) == (100, 40, 140)
        assert metrics.input_token_details.cached_tokens == 20
        assert 0 <= metrics.ttft < 0.1 < metrics.duration
        assert metrics.metadata is not None
        assert metrics.metadata.model_provider == "livekit"
        assert [m.text_content for m in line.session.chat_ctx.messages()] == ["good day"]


async def test_a_model_that_writes_sends_no_audio() -> None:
    async with realtime_line(modalities=["text"]) as line:
        line.script(ScriptedReply("in writing"))
        event = await line.session.generate_reply()
        (message,) = [message async for message in event.message_stream]
        assert await message.modalities == ["text"]
        assert [frame async for frame in message.audio_stream] == []
        assert not line.model.capabilities.audio_output


async def test_a_reply_that_nobody_waits_for_is_called_off() -> None:
    async with realtime_line() as line:
        line.script(ScriptedReply("too late", delay=1.0), ScriptedReply("in time"))
        reply = line.session.generate_reply()
        await line.settle(0.3)
        reply.cancel()
        await line.settle(2.0)
        assert line.of("generation_created") == []
        assert [status for _, status in line.server.responses] == ["cancelled"]
        event = await line.session.generate_reply()
        assert (await hear_out(event))[0] == ["in time"]
        assert line.errors == []


async def test_a_reply_that_never_begins_fails_after_ten_seconds() -> None:
    async with realtime_line() as line:
        line.script(ScriptedReply(never_begins=True))
        began = asyncio.get_running_loop().time()
        with pytest.raises(RealtimeError, match="within 10 s"):
            await line.session.generate_reply()
        assert asyncio.get_running_loop().time() - began == pytest.approx(10.0)
        await line.settle()
        assert line.server.kinds[-1] == "response.cancel"


async def test_a_response_that_begins_after_its_time_is_skipped() -> None:
    async with realtime_line() as line:
        line.script(ScriptedReply(never_begins=True))
        with pytest.raises(RealtimeError):
            await line.session.generate_reply()
        metadata = line.server.requests[0]["metadata"]
        for kind, fields in (
            ("response.created", {"response": {"id": "late", "metadata": metadata}}),
            (
                "response.output_item.added",
                {"response_id": "late", "item": {"type": "message", "id": "m"}},
            ),
            ("response.output_text.delta", {"response_id": "late", "item_id": "m", "delta": "x"}),
            ("response.done", {"response": {"id": "late", "status": "cancelled"}}),
        ):
            await line.server.say(kind, **fields)
        await line.settle()
        assert line.of("generation_created") == []
        cancels = [e for _, e in line.server.wire.record.messages if e["type"] == "response.cancel"]
        assert cancels[-1]["response_id"] == "late"


async def test_a_second_request_during_a_response_is_refused_with_the_reason() -> None:
    async with realtime_line() as line:
        line.script(ScriptedReply("one two three four five"))
        event = await line.session.generate_reply()
        with pytest.raises(RealtimeError) as refused:
            await line.session.generate_reply()
        assert refused.value.code == "conversation_already_has_active_response"
        assert (await hear_out(event))[0] == ["one two three four five"]
        assert line.errors == []


async def test_an_interruption_stops_the_response_and_says_what_was_heard() -> None:
    async with realtime_line() as line:
        line.script(ScriptedReply("one two three four five six seven eight"))
        event = await line.session.generate_reply()
        await line.settle(0.4)
        line.session.interrupt()
        texts, seconds, _ = await hear_out(event)
        assert 0 < seconds < 2.0 and texts[0].startswith("one two")
        (message,) = line.session.chat_ctx.messages()
        line.session.truncate(message_id=message.id, modalities=["audio"], audio_end_ms=700)
        await line.settle()
        assert line.server.truncated == {message.id: 700}
        assert [m.cancelled for m in line.of("metrics_collected") if m.request_id] == [True]
        line.session.interrupt()
        await line.settle()
        assert line.server.kinds.count("response.cancel") == 1, "nothing was left to stop"


async def test_a_message_of_which_nothing_was_heard_is_taken_back() -> None:
    async with realtime_line() as line:
        line.script(ScriptedReply("unheard"))
        await hear_out(await line.session.generate_reply())
        (message,) = line.session.chat_ctx.messages()
        line.session.truncate(message_id=message.id, modalities=["audio"], audio_end_ms=0)
        await line.settle()
        assert line.server.items == [] and line.session.chat_ctx.items == []


async def test_a_written_message_is_cut_to_what_was_spoken_of_it() -> None:
    async with realtime_line(modalities=["text"]) as line:
        line.script(ScriptedReply("one two three"))
        await hear_out(await line.session.generate_reply())
        (message,) = line.session.chat_ctx.messages()
        line.session.truncate(
            message_id=message.id, modalities=["text"], audio_end_ms=0, audio_transcript="one"
        )
        await line.settle()
        assert line.server.said == ["assistant: one"]
        assert [m.text_content for m in line.session.chat_ctx.messages()] == ["one"]


async def test_a_response_that_fails_is_reported_and_the_session_goes_on() -> None:
    async with realtime_line() as line:
        failure = {"type": "server_error", "code": "overloaded", "message": "too much"}
        line.script(ScriptedReply("half an", error=failure), ScriptedReply("well"))
        assert (await hear_out(await line.session.generate_reply()))[0] == ["half an"]
        await line.settle()
        assert line.errors == [True]
        assert (await hear_out(await line.session.generate_reply()))[0] == ["well"]


# -- hearing ---------------------------------------------------------------------------------------


async def test_a_question_is_heard_transcribed_and_answered() -> None:
    words = sentence(0)
    async with realtime_line() as line:
        line.session.push_audio(_frame(speak_tones(words, 24000)))
        line.session.push_audio(silence(1.0))
        await line.settle(5.0)
        kinds = [name for name, _ in line.events if name != "metrics_collected"]
        assert kinds == [
            "input_speech_started",
            "input_speech_stopped",
            "remote_item_added",
            "input_audio_transcription_completed",
            "input_audio_transcription_completed",
            "generation_created",
            "remote_item_added",
        ]
        interim, final = line.of("input_audio_transcription_completed")
        assert (interim.is_final, final.is_final) == (False, True)
        assert final.transcript == " ".join(words)
        assert final.confidence == pytest.approx(0.9)
        assert final.turn_started_at is not None
        assert line.of("input_speech_stopped")[0].user_transcription_enabled
        (heard,) = [m for m in line.of("metrics_collected") if isinstance(m, STTMetrics)]
        assert (heard.input_tokens, heard.total_tokens) == (12, 15)
        assert line.server.said == [
            f"user: {' '.join(words)}",
            f"assistant: You said: {' '.join(words)}",
        ]


async def test_the_callers_turns_are_committed_with_their_last_samples() -> None:
    async with realtime_line(turn_detection_disabled=True) as line:
        line.session.push_audio(silence(0.05))
        line.session.commit_audio()
        await line.settle()
        assert "input_audio_buffer.commit" not in line.server.kinds, "too short for a turn"
        words = sentence(3, 2)
        line.session.clear_audio()
        line.session.push_audio(_frame(speak_tones(words, 48000), rate=48000))
        line.session.commit_audio()
        await line.settle()
        assert line.server.kinds[-2:] == ["input_audio_buffer.clear", "input_audio_buffer.commit"]
        assert line.server.said == [f"user: {' '.join(words)}"]


async def test_stereo_is_mixed_down() -> None:
    async with realtime_line() as line:
        line.session.push_audio(silence(1.0, channels=2))
        await line.settle()
        assert line.server.wire.record.audio_seconds == pytest.approx(1.0)


# -- the conversation ------------------------------------------------------------------------------


async def test_the_servers_conversation_becomes_the_agents() -> None:
    async with realtime_line() as line:
        told = context(
            ("developer", "rules", "s"), ("user", "hi", "u"), ("assistant", "hello", "a")
        )
        told.add_message(role="assistant", content=[], id="empty")
        await line.session.update_chat_ctx(told)
        assert line.server.said == ["system: rules", "user: hi", "assistant: hello"]
        changed = context(("user", "hi there", "u"), ("assistant", "hello", "a"))
        changed.items.append(FunctionCall(id="c", call_id="x" * 40, name="look_up", arguments="{}"))
        changed.items.append(
            FunctionCallOutput(
                id="o", call_id="x" * 40, name="look_up", output="42", is_error=False
            )
        )
        await line.session.update_chat_ctx(changed)
        assert line.server.said == ["user: hi there", "assistant: hello"]
        assert [item["id"] for item in line.server.items] == ["u", "a", "c", "o"]
        call, output = line.server.items[2:]
        assert call["call_id"] == output["call_id"] and len(call["call_id"]) == 32
        await line.session.update_chat_ctx(ChatContext())
        assert line.server.items == [] and line.session.chat_ctx.items == []


async def test_a_server_that_confirms_nothing_is_waited_for_five_seconds() -> None:
    async with realtime_line() as line:
        await line.settle()
        line.gateway.strike("realtime", faults.stall_writes())
        line.session.clear_audio()
        await line.settle()
        began = asyncio.get_running_loop().time()
        with pytest.raises(RealtimeError, match="within 5 s"):
            await line.session.update_chat_ctx(context(("user", "hi", "u")))
        assert asyncio.get_running_loop().time() - began == pytest.approx(5.0)


async def test_an_item_that_the_server_refuses_stops_nothing() -> None:
    async with realtime_line() as line:
        await line.session.update_chat_ctx(context(("user", "hi", "u")))
        line.server.items.append({"id": "b", "type": "message", "role": "user", "content": []})
        await line.session.update_chat_ctx(context(("user", "hi", "u"), ("user", "again", "b")))
        assert [item.id for item in line.session.chat_ctx.items] == ["u", "b"]
        line.server.items.clear()
        await line.session.update_chat_ctx(ChatContext())
        assert line.errors == []


async def test_options_and_tools_reach_the_server_once_each() -> None:
    async with realtime_line() as line:
        await line.session.update_tools([look_up])
        line.session.update_options(tool_choice="required")
        line.session.update_options(tool_choice="required")
        await line.settle()
        assert [tool["name"] for tool in line.server.session["tools"]] == ["look_up"]
        assert line.server.session["tool_choice"] == "required"
        assert line.server.kinds.count("session.update") == 3
        assert [tool.info.name for tool in line.session.tools.function_tools.values()] == [
            "look_up"
        ]


async def test_an_error_that_only_says_that_it_was_too_late_is_no_error() -> None:
    async with realtime_line() as line:
        await line.settle()
        for error in (
            {"code": "input_audio_buffer_commit_empty", "message": "buffer too small"},
            {"code": "response_cancel_not_active", "message": "Cancellation failed: none active"},
        ):
            await line.server.say("error", error=error)
        await line.settle()
        assert line.errors == []
        await line.server.say("error", error={"code": "strange", "message": "?"})
        await line.settle()
        assert line.errors == [True]


def _frame(pcm: bytes, rate: int = 24000) -> rtc.AudioFrame:
    return rtc.AudioFrame(pcm, rate, 1, len(pcm) // 2)
