from __future__ import annotations

import asyncio
import threading
from typing import Any

import pytest

from livekit.agents import APIError, Plugin
from livekit.agents.types import USERDATA_TIMED_TRANSCRIPT
from livekit.plugins import piper
from livekit.plugins.piper._voice import Cancelled, Job, Speaking

FIRST, SECOND = "I will look that up for you.", "We have a table at seven thirty."
LONG = "This goes on and on, about the weather, the traffic and the price of fish. " * 8


@pytest.fixture
def tts() -> piper.TTS:
    return piper.TTS()


def speaking_threads() -> list[str]:
    return [thread.name for thread in threading.enumerate() if thread.name.startswith("piper")]


async def test_a_text_becomes_speech(tts: piper.TTS) -> None:
    frame = await tts.synthesize(f"{FIRST} {SECOND}").collect()
    assert (frame.sample_rate, frame.num_channels) == (22050, 1)
    assert 2.0 < frame.duration < 8.0
    assert max(frame.data) > 3000


async def test_the_first_sentence_is_heard_while_the_second_is_being_written(
    tts: piper.TTS,
) -> None:
    async with tts.stream() as stream:
        stream.push_text(f"{FIRST} We have")
        first = await stream.__anext__()
        assert first.frame.duration > 0
        stream.push_text(" a table.")
        stream.end_input()
        rest = [audio async for audio in stream]
    assert rest[-1].is_final
    assert len({audio.segment_id for audio in [first, *rest]}) == 1


async def test_frames_carry_the_words_spoken_in_them(tts: piper.TTS) -> None:
    words: list[Any] = []
    duration = 0.0
    async with tts.stream() as stream:
        stream.push_text(f"{FIRST} {SECOND}")
        stream.end_input()
        async for audio in stream:
            duration += audio.frame.duration
            words += audio.frame.userdata.get(USERDATA_TIMED_TRANSCRIPT, [])
    assert "".join(words) == f"{FIRST} {SECOND}"
    assert words[0].start_time == 0.0
    assert words[-1].end_time == pytest.approx(duration, abs=0.01)
    end_of_first = words[FIRST.count(" ")].end_time
    second = words[FIRST.count(" ") + 1]
    assert second.start_time == pytest.approx(end_of_first + 0.15, abs=0.001)


async def test_a_text_without_anything_to_say_is_a_moment_of_silence(tts: piper.TTS) -> None:
    frame = await tts.synthesize("… — …").collect()
    assert frame.duration < 0.5


@pytest.mark.parametrize("text", ["", "  \n "])
async def test_a_blank_text_is_no_error(tts: piper.TTS, text: str) -> None:
    async with tts.synthesize(text) as stream:
        assert [audio async for audio in stream] == []


async def test_speed_shortens_what_is_said_later(tts: piper.TTS) -> None:
    before = (await tts.synthesize(SECOND).collect()).duration
    tts.update_options(speed=2.0)
    after = (await tts.synthesize(SECOND).collect()).duration
    assert after < 0.7 * before


async def test_two_streams_speak_side_by_side(tts: piper.TTS) -> None:
    frames = await asyncio.gather(
        tts.synthesize(FIRST).collect(), piper.TTS().synthesize(SECOND).collect()
    )
    assert all(frame.duration > 1.0 for frame in frames)


@pytest.mark.real_time
async def test_closing_stops_in_the_middle_of_a_sentence(tts: piper.TTS) -> None:
    loop = asyncio.get_running_loop()
    stream = tts.synthesize("Hello. " + LONG.replace(".", ","))
    await stream.__anext__()  # the second sentence is in the making
    began = loop.time()
    await stream.aclose()
    assert loop.time() - began < 0.4  # the whole takes over two seconds
    assert speaking_threads() == []


async def test_closing_a_stream_before_its_first_word_leaves_no_thread(tts: piper.TTS) -> None:
    stream = tts.stream()
    stream.push_text("Hel")
    await stream.aclose()
    assert speaking_threads() == []


def test_a_cancelled_job_speaks_no_more() -> None:
    voice, job = piper.Voice.load(), Job()
    sentences = voice._sentences(f"{FIRST} {SECOND}", Speaking(), job)
    assert next(sentences)
    job.cancel()
    with pytest.raises(Cancelled):
        next(sentences)
    with pytest.raises(Cancelled):
        voice.speak(FIRST, Speaking(), job)


async def test_what_cannot_be_spoken_is_reported_once(
    tts: piper.TTS, monkeypatch: pytest.MonkeyPatch
) -> None:
    attempts: list[str] = []
    errors: list[Any] = []

    def fail(text: str, *_: object) -> bytes:
        attempts.append(text)
        raise RuntimeError("the model is broken")

    monkeypatch.setattr(tts._voice, "speak", fail)
    tts.on("error", errors.append)
    with pytest.raises(APIError, match="the model is broken"):
        await tts.synthesize(FIRST).collect()
    assert attempts == [FIRST]
    assert [error.recoverable for error in errors] == [False]


def test_a_speaker_that_does_not_exist_is_refused(tts: piper.TTS) -> None:
    with pytest.raises(ValueError, match="has no speaker 'anna'"):
        piper.TTS(speaker="anna")
    with pytest.raises(ValueError, match="has no speaker 1: it has 1"):
        tts.update_options(speaker=1)


def test_one_voice_is_shared_by_all_who_use_it() -> None:
    assert piper.TTS()._voice is piper.TTS()._voice is piper.Voice.load()


def test_the_plugin_makes_itself_known(tts: piper.TTS) -> None:
    assert piper.__name__ in [plugin.title for plugin in Plugin.registered_plugins]
    assert (tts.model, tts.provider) == ("en_US-joe-medium", "Piper")
    assert tts.capabilities.streaming and tts.capabilities.aligned_transcript
