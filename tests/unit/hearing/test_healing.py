"""Hearing goes on: whatever breaks is opened again, with patience."""

from __future__ import annotations

import asyncio
import itertools
import logging
from collections.abc import AsyncIterator
from typing import Any

import pytest

from fakes.hearing import (
    Ears,
    FakeInterruptionDetector,
    ScriptedNode,
    final,
    frame,
    now,
    settle,
)
from fakes.stt import FakeSTT
from fakes.vad import FakeVAD
from livekit.agents import APIConnectionError
from livekit.agents.stt import STTCapabilities
from livekit.agents.vad import VADEventType
from livekit.agents.voice.audio_recognition import STTPump, published_stream
from livekit.agents.voice.hearing.stt_pump import MAX_QUEUED_AUDIO


async def pauses(node: ScriptedNode, *ends: Any) -> list[float]:
    """Let the node end in these ways, one after another; how long until it was called again."""
    await settle()
    result = []
    for end in ends:
        node.say(end)
        said_at = now()
        await asyncio.sleep(5.5)
        result.append(round(node.called_at[-1] - said_at, 3))
    return result


# -- STT ------------------------------------------------------------------------------------------


async def test_a_retryable_api_error_costs_half_a_second_each_time() -> None:
    ears = Ears()
    errors = [APIConnectionError("gone")] * 4
    assert await pauses(ears.node, *errors) == [0.5, 0.5, 0.5, 0.5]
    assert ears.hooks.details("stt_failure") == []  # the STT reports these itself
    await ears.close()


async def test_other_failures_are_retried_with_growing_pauses_and_reported() -> None:
    ears = Ears()
    errors = [RuntimeError("bug"), StopAsyncIteration, ValueError("bug"), KeyError(1), KeyError(2)]
    assert await pauses(ears.node, *errors) == [0.5, 1.0, 2.0, 4.0, 5.0]
    assert len(ears.hooks.details("stt_failure")) == 5
    await ears.close()


async def test_an_error_that_can_not_be_retried_backs_off() -> None:
    ears = Ears()
    errors = [APIConnectionError("bad key", retryable=False)] * 3
    assert await pauses(ears.node, *errors) == [0.5, 1.0, 2.0]
    await ears.close()


async def test_a_transcript_proves_that_it_works() -> None:
    ears = Ears()
    assert await pauses(ears.node, RuntimeError(), RuntimeError()) == [0.5, 1.0]
    await ears.hears(final("back again"))
    ears.hooks.calls.clear()
    assert await pauses(ears.node, RuntimeError()) == [0.5]
    assert ears.hooks.details("stt_failure") == []
    await ears.close()


async def test_a_node_that_ends_now_and_then_is_no_failure() -> None:
    ears = Ears()
    for _ in range(5):
        await asyncio.sleep(60)
        ears.node.say(StopAsyncIteration)
        await asyncio.sleep(5.5)
    assert ears.node.calls == 6
    assert ears.hooks.details("stt_failure") == []
    await ears.close()


async def test_audio_spoken_into_a_pause_is_heard_after_it() -> None:
    ears = Ears()
    await settle()
    ears.node.say(RuntimeError("dropped"))
    await settle()
    for n in range(10):
        ears.recognition.push_audio(frame(fill=n))
    await asyncio.sleep(1)
    assert [piece.data[0] for piece in ears.node.frames] == list(range(10))
    await ears.close()


async def test_of_a_long_pause_the_newest_audio_is_kept(caplog: pytest.LogCaptureFixture) -> None:
    async def deaf(audio: Any, settings: Any) -> AsyncIterator[Any]:
        async def never() -> AsyncIterator[Any]:
            await asyncio.get_running_loop().create_future()
            yield

        return never()

    pump = STTPump(deaf)
    pump.start()
    with caplog.at_level(logging.WARNING):
        for n in range(1000):
            pump.push(frame(fill=n))
    assert pump._queue.qsize() == MAX_QUEUED_AUDIO / 0.02
    oldest = pump._queue.recv_nowait()
    assert not isinstance(oldest, type(None)) and oldest.data[0] == 500  # type: ignore[union-attr]
    assert caplog.text.count("nobody reads the audio") == 1
    await pump.aclose()


async def test_a_node_may_yield_plain_text() -> None:
    ears = Ears(vad=False)
    await ears.hears("", "plain text", 42, 43)
    await asyncio.sleep(1)
    assert ears.hooks.transcripts == ["plain text"]
    await ears.close()


@pytest.mark.parametrize("kind", ["generator", "coroutine", "none", "coroutine of none"])
async def test_every_form_of_node_works(kind: str) -> None:
    async def events() -> AsyncIterator[Any]:
        yield final("hello")
        await asyncio.get_running_loop().create_future()

    def generator(audio: Any, settings: Any) -> Any:
        return events()

    async def coroutine(audio: Any, settings: Any) -> Any:
        return events()

    def none(audio: Any, settings: Any) -> Any:
        return None

    async def coroutine_of_none(audio: Any, settings: Any) -> Any:
        return None

    nodes = {
        "generator": generator,
        "coroutine": coroutine,
        "none": none,
        "coroutine of none": coroutine_of_none,
    }
    ears = Ears(vad=False, node=nodes[kind])
    await asyncio.sleep(20)
    assert ears.hooks.transcripts == ([] if "none" in kind else ["hello"])
    assert ears.hooks.details("stt_failure") == []
    await ears.close()


async def test_a_flush_reaches_the_stream_in_order_with_the_audio() -> None:
    stt = FakeSTT(
        capabilities=STTCapabilities(streaming=True, interim_results=True, manual_flush=True)
    )

    async def node(audio: Any, settings: Any) -> Any:
        async def run() -> AsyncIterator[Any]:
            async with stt.stream() as stream:
                with published_stream(stream):
                    async for piece in audio:
                        stream.push_frame(piece)
                        yield None

        return run()

    pump = STTPump(node)
    pump.start()
    await settle()
    assert pump.can_flush
    pump.push(frame(fill=1))
    assert pump.flush()
    pump.push(frame(fill=2))
    await settle()
    kinds = [type(item).__name__ for item in stt.attempts[0].items]
    assert kinds == ["AudioFrame", "_FlushSentinel", "AudioFrame"]
    await pump.aclose()
    assert not pump.flush()
    assert stt.open_streams == []


async def test_what_an_stt_knows_about_the_speaker_reaches_the_llm() -> None:
    from pydantic import BaseModel

    class Context(BaseModel):
        mood: str

        def to_instructions(self) -> str:
            return f"The user sounds {self.mood}."

    stt = FakeSTT()

    async def node(audio: Any, settings: Any) -> Any:
        async def run() -> AsyncIterator[Any]:
            async with stt.stream() as stream:
                with published_stream(stream):
                    async for event in stream:
                        yield event

        return run()

    ears = Ears(node=node)
    await settle()
    assert ears.recognition.llm_instructions() is None
    stt.streams[0].context = Context(mood="happy")
    stt.streams[0].final("hi")
    await settle()
    assert ears.recognition.llm_instructions() == "The user sounds happy."
    await ears.close()


# -- VAD ------------------------------------------------------------------------------------------


async def test_a_vad_that_dies_is_opened_again_and_the_user_is_not_stuck_speaking() -> None:
    ears = Ears()
    assert ears.vad is not None
    ears.vad.fail_after = 0.01
    ears.vad_stream.send(VADEventType.START_OF_SPEECH, speech_duration=0.1)
    await settle()
    assert ears.recognition.speaking
    ears.recognition.push_audio(frame())
    await settle()
    assert not ears.recognition.speaking
    assert ears.hooks.names()[-1] == "end_of_speech"
    ears.vad.fail_after = float("inf")
    await asyncio.sleep(0.6)
    assert len(ears.vad.streams) == 2
    await ears.speaks(1.0)
    await ears.hears(final("still with me"))
    await ears.pauses()
    await asyncio.sleep(1)
    assert ears.hooks.transcripts == ["still with me"]
    await ears.close()


async def test_a_vad_that_keeps_dying_is_retried_with_growing_pauses(
    caplog: pytest.LogCaptureFixture,
) -> None:
    ears = Ears()
    assert ears.vad is not None
    ears.vad.fail_after = 0.01
    opened = []
    with caplog.at_level(logging.ERROR):
        for _ in range(400):
            ears.recognition.push_audio(frame())
            await asyncio.sleep(0.05)
            opened.append(len(ears.vad.streams))
    times = [round(0.05 * opened.index(n), 1) for n in range(2, max(opened) + 1)]
    pauses = [round(b - a, 1) for a, b in itertools.pairwise([0.0, *times])]
    assert pauses == pytest.approx([0.5, 1.0, 2.0, 4.0, 5.0, 5.0], abs=0.15)
    assert caplog.text.count("the VAD ended unexpectedly") == 1
    await ears.close()
    assert ears.vad.open_streams == []


async def test_a_new_vad_listens_before_the_old_one_is_closed() -> None:
    ears = Ears()
    assert ears.vad is not None
    old, new = ears.vad, FakeVAD(hang_on_close=1.0)
    old.hang_on_close = 1.0
    await settle()
    ears.recognition.update_vad(new)
    ears.recognition.push_audio(frame())
    await settle()
    assert len(new.streams[0].items) == 1
    assert len(old.open_streams) == 1
    await ears.close()
    assert old.open_streams == new.open_streams == []


async def test_a_vad_too_quick_for_the_turn_detector_is_refused() -> None:
    from fakes.hearing import FakeStreamingDetector

    ears = Ears(detection=FakeStreamingDetector())
    with pytest.raises(ValueError, match=r"vad min_silence_duration=0\.1s is too low"):
        ears.recognition.update_vad(FakeVAD(min_silence_duration=0.1))
    assert ears.vad is not None and len(ears.vad.open_streams) == 1
    await ears.close()


async def test_a_slow_vad_loses_old_audio_not_memory(caplog: pytest.LogCaptureFixture) -> None:
    ears = Ears()
    for _ in range(1000):
        ears.recognition.push_audio(frame())
    assert ears.vad_stream._input_ch.qsize() == 100
    assert "behind, dropping audio" in caplog.text
    await ears.close()


# -- the interruption detector --------------------------------------------------------------------


async def test_without_its_detector_audio_interrupts_again_and_held_words_are_heard() -> None:
    detector = FakeInterruptionDetector()
    ears = Ears(detector=detector)
    await ears.agent_speaks()
    await asyncio.sleep(2)
    await ears.speaks(0.5)
    await ears.hears(final("hello?"))
    assert not ears.hooks.interruption_by_audio_activity_enabled
    detector.streams[0].verdicts.send_nowait(RuntimeError("gateway gone"))
    await settle()
    assert ears.hooks.interruption_by_audio_activity_enabled
    assert ears.hooks.details("final") == [("hello?", True)]
    assert len(detector.streams) == 1
    await ears.agent_stops()
    await ears.agent_speaks()
    assert ears.hooks.interruption_by_audio_activity_enabled
    await ears.close()
