from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Iterator

import numpy as np
import pytest
from livekit import rtc

from livekit.agents import Plugin
from livekit.agents.stt import SpeechEvent, SpeechEventType
from livekit.plugins import pocketsphinx
from livekit.plugins.pocketsphinx._engine import (
    BindingEngine,
    Engine,
    EngineError,
    NativeEngine,
    _library,
)
from livekit.plugins.pocketsphinx._model import default_model
from livekit.plugins.pocketsphinx._search import Dictation, Grammar, KeyPhrases

Say = Callable[..., list[rtc.AudioFrame]]

BOOKING = "I would like to book a table for two people tomorrow evening."
HOURS = "What are your opening hours on Sunday?"

ANSWERS = "#JSGF V1.0; grammar g; public <answer> = yes | no | [please] cancel my booking;"

CANCELLING = ["please", "please cancel", "please cancel my", "please cancel my booking"]


@pytest.fixture(scope="module")
def stt() -> Iterator[pocketsphinx.STT]:
    """One for all tests: its engine is loaded once."""
    stt = pocketsphinx.STT()
    yield stt
    stt._pool.close()


@pytest.fixture
def dictating(stt: pocketsphinx.STT) -> Iterator[pocketsphinx.STT]:
    yield stt
    stt.update_options(grammar=None)


async def hear(stt: pocketsphinx.STT, frames: list[rtc.AudioFrame]) -> list[SpeechEvent]:
    async with stt.stream() as stream:
        for frame in frames:
            stream.push_frame(frame)
        stream.end_input()
        return [event async for event in stream]


def texts(events: list[SpeechEvent], kind: SpeechEventType) -> list[str]:
    return [event.alternatives[0].text for event in events if event.type is kind]


def finals(events: list[SpeechEvent]) -> list[str]:
    return texts(events, SpeechEventType.FINAL_TRANSCRIPT)


def plain(sentence: str) -> str:
    return sentence.lower().rstrip(".?")


def decoder_threads() -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if thread.name.startswith("pocketsphinx")]


async def test_what_was_said_comes_back_word_for_word(stt: pocketsphinx.STT, say: Say) -> None:
    events = await hear(stt, say(BOOKING, HOURS, sample_rate=24000))
    assert finals(events) == [plain(BOOKING), plain(HOURS)]


async def test_each_utterance_starts_is_guessed_at_is_transcribed_and_ends(
    stt: pocketsphinx.STT, say: Say
) -> None:
    events = await hear(stt, say(BOOKING, HOURS))
    kinds = [event.type for event in events if event.type is not SpeechEventType.RECOGNITION_USAGE]
    order = [kind for kind, before in zip(kinds, [None, *kinds]) if kind is not before]  # noqa: B905
    utterance = [
        SpeechEventType.START_OF_SPEECH,
        SpeechEventType.INTERIM_TRANSCRIPT,
        SpeechEventType.FINAL_TRANSCRIPT,
        SpeechEventType.END_OF_SPEECH,
    ]
    assert order == utterance * 2


async def test_transcripts_carry_times_on_the_streams_time_line(
    stt: pocketsphinx.STT, say: Say
) -> None:
    async with stt.stream() as stream:
        stream.start_time_offset = 100.0
        for frame in say(BOOKING, pause=1.0):
            stream.push_frame(frame)
        stream.end_input()
        events = [event async for event in stream]
    data = next(e for e in events if e.type is SpeechEventType.FINAL_TRANSCRIPT).alternatives[0]
    assert data.words is not None and " ".join(data.words) == data.text
    times = [(word.start_time, word.end_time) for word in data.words]
    assert times == sorted(times)
    assert 100.9 < data.start_time < 101.3
    assert 103.0 < data.end_time < 105.0
    assert 0.5 < data.confidence <= 1.0


@pytest.mark.parametrize(("sample_rate", "channels"), [(48000, 1), (44100, 2)])
async def test_any_rate_and_channel_count_will_do(
    stt: pocketsphinx.STT, say: Say, sample_rate: int, channels: int
) -> None:
    events = await hear(stt, say(BOOKING, sample_rate=sample_rate, channels=channels))
    assert finals(events) == [plain(BOOKING)]


async def test_all_audio_is_accounted_for(stt: pocketsphinx.STT, say: Say) -> None:
    frames = say(HOURS)
    events = await hear(stt, frames)
    usage = [event.recognition_usage for event in events if event.recognition_usage]
    assert sum(use.audio_duration for use in usage) == pytest.approx(0.02 * len(frames))


async def test_flush_finishes_what_is_being_said(stt: pocketsphinx.STT, say: Say) -> None:
    async with stt.stream() as stream:
        for frame in say(HOURS, pause=0.2):  # too short a pause to end it
            stream.push_frame(frame)
        stream.flush()
        kinds = []
        async for event in stream:
            kinds.append(event.type)
            if event.type is SpeechEventType.END_OF_SPEECH:
                break
        assert SpeechEventType.FINAL_TRANSCRIPT in kinds


async def test_an_utterance_ends_when_the_audio_stops(stt: pocketsphinx.STT, say: Say) -> None:
    loop = asyncio.get_running_loop()
    async with stt.stream() as stream:
        for frame in say(HOURS, pause=0.2):
            stream.push_frame(frame)
        began = loop.time()
        async for event in stream:
            if event.type is SpeechEventType.END_OF_SPEECH:
                break
        assert loop.time() - began <= 1.5


async def test_noise_is_no_speech(stt: pocketsphinx.STT) -> None:
    noise = np.random.default_rng(1).normal(0, 300, 16000 * 3).astype(np.int16).tobytes()
    frames = [
        rtc.AudioFrame(noise[start : start + 640], 16000, 1, 320)
        for start in range(0, len(noise), 640)
    ]
    assert finals(await hear(stt, frames)) == []


async def test_a_grammar_can_be_set_between_utterances(
    dictating: pocketsphinx.STT, say: Say
) -> None:
    dictating.update_options(grammar=ANSWERS)
    async with dictating.stream() as stream:
        for frame in say("Please cancel my booking."):
            stream.push_frame(frame)
        async for event in stream:
            if event.type is SpeechEventType.END_OF_SPEECH:
                break
            assert not event.alternatives or event.alternatives[0].text in CANCELLING
        dictating.update_options(grammar=None)
        for frame in say(HOURS):
            stream.push_frame(frame)
        stream.end_input()
        assert finals([event async for event in stream]) == [plain(HOURS)]


async def test_key_phrases_are_spotted_in_running_speech(
    dictating: pocketsphinx.STT, say: Say
) -> None:
    dictating.update_options(key_phrases=["book a table", "opening hours", "goodbye"])
    assert finals(await hear(dictating, say(BOOKING))) == ["book a table"]


async def test_a_finished_recording_is_recognised_as_a_whole(
    stt: pocketsphinx.STT, say: Say
) -> None:
    event = await stt.recognize(say(BOOKING, sample_rate=24000))
    assert event.type is SpeechEventType.FINAL_TRANSCRIPT
    assert event.alternatives[0].text == plain(BOOKING)


async def test_silence_is_recognised_as_nothing(stt: pocketsphinx.STT) -> None:
    event = await stt.recognize(rtc.AudioFrame.create(16000, 1, 16000))
    assert event.alternatives[0].text == ""


async def test_a_second_stream_takes_over_the_engine(stt: pocketsphinx.STT, say: Say) -> None:
    await hear(stt, say(HOURS))
    reused = []
    stt.on("metrics_collected", lambda metrics: reused.append(metrics.connection_reused))
    await hear(stt, say(HOURS))
    assert reused[0] is True


@pytest.mark.real_time
async def test_closing_in_the_middle_of_an_utterance_leaves_no_thread(
    stt: pocketsphinx.STT, say: Say
) -> None:
    loop = asyncio.get_running_loop()
    stream = stt.stream()
    for frame in say(BOOKING):
        stream.push_frame(frame)
    async for event in stream:
        if event.type is SpeechEventType.INTERIM_TRANSCRIPT:
            break
    began = loop.time()
    await stream.aclose()
    assert loop.time() - began < 1.0
    for thread in decoder_threads():
        thread.join(2.0)
    assert decoder_threads() == []


async def test_closing_before_anything_happened_is_fine(stt: pocketsphinx.STT) -> None:
    await stt.stream().aclose()
    assert decoder_threads() == []


def test_words_without_pronunciation_are_named() -> None:
    with pytest.raises(ValueError, match=r"not in the dictionary.*: xyzzy"):
        pocketsphinx.STT(key_phrases=["open xyzzy"])
    pocketsphinx.STT(key_phrases=["open xyzzy"], pronunciations={"Xyzzy": "Z IH Z IY"})


def test_options_are_checked_before_anything_is_loaded() -> None:
    with pytest.raises(ValueError, match="vad_mode"):
        pocketsphinx.STT(vad_mode=4)
    with pytest.raises(ValueError, match="acoustic model /nowhere does not exist"):
        pocketsphinx.STT(acoustic_model="/nowhere")


def test_the_plugin_makes_itself_known() -> None:
    assert pocketsphinx.__name__ in [plugin.title for plugin in Plugin.registered_plugins]
    stt = pocketsphinx.STT()
    assert (stt.model, stt.provider) == ("en-us", "PocketSphinx")
    assert stt.capabilities.aligned_transcript == "word" and stt.capabilities.manual_flush


# -- both ways to reach the decoder ----------------------------------------------------------------


@pytest.fixture(scope="module", params=["native", "binding"])
def engine(request: pytest.FixtureRequest) -> Iterator[Engine]:
    if request.param == "binding":
        engine: Engine = BindingEngine(default_model(), Dictation())
    else:
        library = _library()
        assert library is not None
        engine = NativeEngine(library, default_model(), Dictation())
    yield engine
    engine.close()


def decode(engine: Engine, frames: list[rtc.AudioFrame]) -> str:
    engine.set_mean(engine.initial_mean)
    engine.start()
    engine.process(b"".join(bytes(frame.data) for frame in frames), whole=True)
    engine.finish()
    return engine.hypothesis().text


def test_an_engine_changes_what_it_listens_for(engine: Engine, say: Say) -> None:
    engine.use(Dictation())
    assert decode(engine, say(BOOKING)) == plain(BOOKING)
    engine.use(KeyPhrases((("book a table", 1e-20),)))
    assert decode(engine, say(BOOKING)) == "book a table"
    engine.use(Grammar(ANSWERS))
    assert decode(engine, say("Please cancel my booking.")) == "please cancel my booking"


def test_an_engine_survives_a_broken_grammar(engine: Engine, say: Say) -> None:
    engine.use(Dictation())
    for _ in range(2):
        with pytest.raises(EngineError, match="does not accept"):
            engine.use(Grammar("#JSGF V1.0; grammar g; public <a> = ((( ;"))
    assert decode(engine, say(HOURS)) == plain(HOURS)
