"""A realtime model whose turns are found here: by a VAD, with or without an STT beside it."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from livekit import rtc

from fakes.hearing import settle
from fakes.realtime import FakeRealtimeModel, RealtimeReply, silence
from fakes.realtime_call import RealtimeCall, realtime_call
from fakes.stt import FakeSTT
from fakes.vad import FakeVAD
from livekit.agents.vad import VADEventType
from livekit.agents.voice import Agent

VAD_TURNS: dict[str, Any] = {"turn_handling": {"turn_detection": "vad"}}


async def user_starts(call: RealtimeCall, vad: FakeVAD, duration: float = 0.6) -> None:
    stream = vad.streams[-1]
    stream.send(VADEventType.START_OF_SPEECH, speech_duration=0.05)
    for step in range(1, 7):
        await asyncio.sleep(duration / 6)
        call.session._activity.push_audio(silence())  # type: ignore[union-attr]
        stream.send(
            VADEventType.INFERENCE_DONE,
            speaking=True,
            speech_duration=duration * step / 6,
            raw_accumulated_speech=0.1,
        )
    await settle()


async def user_stops(vad: FakeVAD) -> None:
    await asyncio.sleep(0.25)
    vad.streams[-1].send(
        VADEventType.END_OF_SPEECH, silence_duration=0.25, speech_duration=0.6, speaking=False
    )
    await settle()


async def test_a_turn_is_committed_and_answered() -> None:
    vad = FakeVAD()
    async with realtime_call("it rains", vad=vad, **VAD_TURNS) as call:
        assert call.server.turn_detection_disabled
        await user_starts(call, vad)
        await user_stops(vad)
        await asyncio.sleep(3.0)
        assert call.server.commits == 1 and len(call.server.requests) == 1
        assert len(call.server.audio) == 6
        assert call.said == ["assistant: it rains"]
        (message,) = call.session.history.messages()
        assert 0.25 < message.metrics["e2e_latency"] < 2.0


async def test_the_user_interrupts_and_the_next_turn_is_answered() -> None:
    vad = FakeVAD()
    async with realtime_call(
        RealtimeReply("a very long answer to that question", audio=10.0),
        "sorry",
        vad=vad,
        paced=True,
        **VAD_TURNS,
    ) as call:
        call.session.generate_reply()
        await asyncio.sleep(2.0)
        await user_starts(call, vad)
        await user_stops(vad)
        await asyncio.sleep(4.0)
        first, second = call.said
        assert first.startswith("assistant (interrupted): a ") and second == "assistant: sorry"
        assert call.server.commits == 1 and len(call.server.truncations) == 1


async def test_a_noise_only_pauses_the_model() -> None:
    vad = FakeVAD()
    async with realtime_call(
        RealtimeReply("a long answer", audio=6.0),
        vad=vad,
        turn_handling={
            "turn_detection": "manual",
            "interruption": {"false_interruption_timeout": 1.0},
        },
    ) as call:
        handle = call.session.generate_reply()
        await asyncio.sleep(2.0)
        await user_starts(call, vad)
        await user_stops(vad)
        await handle
        assert not handle.interrupted and call.said == ["assistant: a long answer"]
        assert call.server.truncations == []


async def test_an_stt_beside_a_model_that_does_not_transcribe_brings_the_words() -> None:
    vad, stt = FakeVAD(), FakeSTT()
    async with realtime_call(
        "it rains",
        vad=vad,
        stt=stt,
        capabilities={"user_transcription": False},
        **VAD_TURNS,
    ) as call:
        await user_starts(call, vad)
        stt.streams[-1].final("what is the weather")
        await user_stops(vad)
        await asyncio.sleep(3.0)
        heard = [e.transcript for e in call.recorded.events if e.type == "user_input_transcribed"]
        assert heard == ["what is the weather"]
        assert call.said == ["user: what is the weather", "assistant: it rains"]
        # it has heard the user itself
        assert [m.text_content for m in call.server.chat_ctx.messages() if m.role == "user"] == []


async def test_words_that_only_an_stt_understood_are_kept_when_the_server_answers() -> None:
    stt = FakeSTT()
    async with realtime_call(
        stt=stt,
        capabilities={"user_transcription": False},
        turn_handling={"turn_detection": "realtime_llm"},
    ) as call:
        for words, answer in (("how are you", "fine"), ("good", "bye")):
            call.server.hear_start()
            stt.streams[-1].final(words)
            await settle()
            call.server.hear_stop()
            call.server.answer(answer)
            await asyncio.sleep(2.0)
        assert call.said == [
            "user: how are you",
            "assistant: fine",
            "user: good",
            "assistant: bye",
        ]


async def test_a_commit_that_breaks_does_not_keep_the_next_turn_from_its_answer(
    caplog: pytest.LogCaptureFixture,
) -> None:
    vad = FakeVAD()
    async with realtime_call("it rains", vad=vad, **VAD_TURNS) as call:
        call.server.broken = True
        await user_starts(call, vad)
        await user_stops(vad)
        await asyncio.sleep(3.0)
        assert "answering a user turn failed" in caplog.text
        call.server.broken = False
        await user_starts(call, vad)
        await user_stops(vad)
        await asyncio.sleep(3.0)
        assert call.said == ["assistant: it rains"]


async def test_words_that_may_not_interrupt_reach_the_model_as_silence() -> None:
    vad = FakeVAD()
    loud = rtc.AudioFrame(b"\x10" * 960, 24000, 1, 480)
    async with realtime_call(
        RealtimeReply("a long answer", audio=6.0), vad=vad, **VAD_TURNS
    ) as call:
        call.session.generate_reply(allow_interruptions=False)
        await asyncio.sleep(1.0)
        call.session._activity.push_audio(loud)  # type: ignore[union-attr]
        assert not any(bytes(call.server.audio[-1].data))
        await asyncio.sleep(6.0)
        call.session._activity.push_audio(loud)  # type: ignore[union-attr]
        assert any(bytes(call.server.audio[-1].data))


async def test_interruptions_cannot_be_disallowed_where_the_server_finds_the_turns() -> None:
    call = RealtimeCall(
        FakeRealtimeModel(),
        allow_interruptions=False,
    )
    with pytest.raises(ValueError, match="interrupt"):
        await call.session.start(Agent(instructions="x"))
    await call.hang_up()
