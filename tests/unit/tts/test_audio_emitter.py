"""The hand through which plugins give audio away: order, timing, decoding, and what it forgives."""

from __future__ import annotations

import asyncio
import io
import wave
from array import array
from typing import Any, Literal

import av
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings, strategies as st
from livekit import rtc

from livekit.agents.tts import AudioEmitter, SynthesizedAudio
from livekit.agents.types import TimedString
from livekit.agents.utils.aio import Chan

RATE = 8000


class Emission:
    """An emitter and what came out of it."""

    def __init__(self, *, initialize: bool = True, **kwargs: Any) -> None:
        self.channel: Chan[SynthesizedAudio] = Chan()
        self.emitter = AudioEmitter(label="test", dst_ch=self.channel)
        self.released: list[SynthesizedAudio] = []
        if initialize:
            options = {
                "request_id": "request",
                "sample_rate": RATE,
                "num_channels": 1,
                "mime_type": "audio/pcm",
                **kwargs,
            }
            self.emitter.initialize(**options)

    def read(self) -> list[SynthesizedAudio]:
        while not self.channel.empty():
            self.released.append(self.channel.recv_nowait())
        return self.released

    def lengths_ms(self) -> list[float]:
        return [audio.frame.samples_per_channel * 1000 / RATE for audio in self.read()]

    def samples(self, segment: str | None = None) -> list[int]:
        return [
            value
            for audio in self.read()
            if segment is None or audio.segment_id == segment
            for value in audio.frame.data
        ]

    async def finish(self) -> list[SynthesizedAudio]:
        self.emitter.end_input()
        await self.emitter.join()
        await self.emitter.aclose()
        return self.read()


def now() -> float:
    return asyncio.get_running_loop().time()


def pcm(ms: float, value: int = 5) -> bytes:
    return array("h", [value] * round(ms * RATE / 1000)).tobytes()


def wav(data: bytes, *, rate: int = RATE, channels: int = 1) -> bytes:
    file = io.BytesIO()
    with wave.open(file, "wb") as writer:
        writer.setnchannels(channels)
        writer.setsampwidth(2)
        writer.setframerate(rate)
        writer.writeframes(data)
    return file.getvalue()


def flac(samples: array[int]) -> bytes:
    file = io.BytesIO()
    with av.open(file, "w", format="flac") as container:
        stream = container.add_stream("flac", rate=RATE, layout="mono")
        frame = av.AudioFrame.from_ndarray(np.array([samples], dtype=np.int16), layout="mono")
        frame.sample_rate = RATE
        container.mux([*stream.encode(frame), *stream.encode(None)])
    return file.getvalue()


# -- raw audio


async def test_audio_is_out_before_push_returns() -> None:
    emission = Emission()
    emission.emitter.push(pcm(50))
    assert emission.lengths_ms() == [10.0]
    await emission.finish()


async def test_a_second_pushed_at_once_starts_short_and_ends_marked() -> None:
    emission = Emission()
    emission.emitter.push(pcm(1000))
    await emission.finish()
    assert emission.lengths_ms() == [10, 40, 80, 160, 200, 200, 200, 100, 10]
    assert [audio.is_final for audio in emission.released] == [False] * 8 + [True]
    assert {(audio.request_id, audio.segment_id) for audio in emission.released} == {
        ("request", "")
    }
    assert emission.emitter.pushed_duration() == pytest.approx(1.0)


async def test_slow_audio_goes_out_before_the_listener_runs_dry() -> None:
    emission = Emission()
    emission.emitter.push(pcm(100))  # 50 ms go out, 50 ms wait for more
    await asyncio.sleep(0.029)
    assert sum(emission.lengths_ms()) == 50
    await asyncio.sleep(0.002)
    assert sum(emission.lengths_ms()) == 100
    await emission.finish()


async def test_the_first_short_push_goes_out_at_once_but_not_alone() -> None:
    emission = Emission()
    for _ in range(3):
        emission.emitter.push(pcm(5))
    assert emission.lengths_ms() == []
    await asyncio.sleep(0.001)
    assert emission.lengths_ms() == [15.0]
    await emission.finish()


async def test_trickling_audio_is_handed_on_in_time_without_gaps() -> None:
    emission = Emission()
    playback_end = 0.0
    for _ in range(50):
        emission.emitter.push(pcm(20))
        await asyncio.sleep(0.02)
        before = len(emission.released)
        for audio in emission.read()[before:]:
            playback_end = max(playback_end, now()) + audio.frame.duration
    await emission.finish()
    assert sum(emission.lengths_ms()) == pytest.approx(1000, abs=10.1)
    assert emission.emitter.pushed_duration() == pytest.approx(1.0)


async def test_flush_hands_everything_on() -> None:
    emission = Emission()
    emission.emitter.push(pcm(55))
    emission.emitter.flush()
    assert sum(emission.lengths_ms()) == 55
    await emission.finish()
    assert emission.released[-1].is_final
    assert set(emission.released[-1].frame.data) == {0}


@pytest.mark.parametrize("mime", ["audio/pcm", " Audio/PCM;rate=8000", "audio/raw"])
async def test_these_types_mean_raw_samples(mime: str) -> None:
    emission = Emission(mime_type=mime)
    emission.emitter.push(pcm(100))
    await emission.finish()
    assert emission.samples() == [5] * 800


# -- segments


async def test_segments_follow_each_other() -> None:
    emission = Emission(stream=True)
    for number, segment in enumerate("ab", start=1):
        emission.emitter.start_segment(segment_id=segment)
        assert emission.emitter.num_segments == number
        emission.emitter.push(pcm(100, value=number))
        emission.emitter.end_segment()
    await emission.finish()
    assert emission.samples("a") == [1] * 800
    assert emission.samples("b") == [2] * 800
    assert [audio.segment_id for audio in emission.released if audio.is_final] == ["a", "b"]
    assert emission.emitter.pushed_duration(0) == pytest.approx(0.1)
    assert emission.emitter.pushed_duration(-2) == pytest.approx(0.1)
    assert emission.emitter.pushed_duration(7) == 0.0
    assert emission.emitter.total_duration == pytest.approx(0.2)


async def test_ending_the_input_ends_the_open_segment() -> None:
    emission = Emission(stream=True)
    emission.emitter.start_segment(segment_id="a")
    emission.emitter.push(pcm(100))
    await emission.finish()
    assert emission.released[-1].is_final


@pytest.mark.parametrize("mime", ["audio/pcm", "audio/wav", "audio/mpeg"])
async def test_a_segment_without_audio_ends_silently(mime: str) -> None:
    emission = Emission(stream=True, mime_type=mime)
    for segment in "ab":
        emission.emitter.start_segment(segment_id=segment)
        emission.emitter.end_segment()
    assert await emission.finish() == []
    assert emission.emitter.num_segments == 2


async def test_outside_a_segment_flush_and_end_mean_nothing() -> None:
    emission = Emission(stream=True)
    emission.emitter.flush()
    emission.emitter.end_segment()
    assert await emission.finish() == []


@pytest.mark.parametrize("mime", ["audio/pcm", "audio/mpeg"])
async def test_audio_outside_a_segment_surfaces_when_joined(
    mime: str, caplog: pytest.LogCaptureFixture
) -> None:
    emission = Emission(stream=True, mime_type=mime)
    emission.emitter.push(pcm(10))
    emission.emitter.push(pcm(10))
    emission.emitter.end_input()
    with pytest.raises(RuntimeError, match="must be called before pushing audio data"):
        await emission.emitter.join()
    assert caplog.text.count("could not emit audio") == 1
    await emission.emitter.aclose()


async def test_a_segment_inside_another_surfaces_when_joined() -> None:
    emission = Emission(stream=True)
    emission.emitter.start_segment(segment_id="a")
    emission.emitter.start_segment(segment_id="b")
    with pytest.raises(RuntimeError, match="before the previous segment was ended"):
        await emission.emitter.join()


async def test_segments_must_be_asked_for() -> None:
    emission = Emission()
    with pytest.raises(RuntimeError, match="stream=True"):
        emission.emitter.start_segment(segment_id="a")
    with pytest.raises(RuntimeError, match="stream=True"):
        emission.emitter.end_segment()


# -- misuse that is told, and lateness that is forgiven


@pytest.mark.parametrize(
    ("method", "args"),
    [
        ("push", (b"\0\0",)),
        ("push_frame", (rtc.AudioFrame.create(RATE, 1, 80),)),
        ("push_timed_transcript", (TimedString("word"),)),
        ("flush", ()),
        ("end_input", ()),
        ("end_segment", ()),
        ("_note_provider_request_id", ("id",)),
    ],
)
async def test_nothing_works_before_initialize_and_nothing_harms_after_the_end(
    method: str, args: tuple[Any, ...]
) -> None:
    emission = Emission(initialize=False)
    with pytest.raises(RuntimeError, match="AudioEmitter isn't started"):
        getattr(emission.emitter, method)(*args)
    with pytest.raises(RuntimeError, match="AudioEmitter isn't started"):
        emission.emitter.start_segment(segment_id="a")
    with pytest.raises(RuntimeError, match="AudioEmitter isn't started"):
        await emission.emitter.join()
    assert emission.emitter.pushed_duration() == 0.0
    await emission.emitter.aclose()

    ended = Emission(stream=True)
    ended.emitter.start_segment(segment_id="a")
    ended.emitter.push(pcm(10))
    await ended.finish()
    count = len(ended.released)
    getattr(ended.emitter, method)(*args)
    ended.emitter.start_segment(segment_id="late")
    assert len(ended.read()) == count
    assert ended.emitter.num_segments == 1


async def test_initialize_works_once() -> None:
    emission = Emission()
    with pytest.raises(RuntimeError, match="already started"):
        emission.emitter.initialize(
            request_id="again", sample_rate=RATE, num_channels=1, mime_type="audio/pcm"
        )


async def test_a_request_without_id_is_unknown() -> None:
    emission = Emission(request_id="")
    emission.emitter.push(pcm(20))
    await emission.finish()
    assert {audio.request_id for audio in emission.released} == {"unknown"}


async def test_nothing_comes_out_after_close() -> None:
    emission = Emission()
    emission.emitter.push(pcm(100))
    released = len(emission.read())
    await emission.emitter.aclose()
    await emission.emitter.aclose()
    emission.emitter.push(pcm(100))
    await asyncio.sleep(1)
    assert len(emission.read()) == released
    await emission.emitter.join()


async def test_a_listener_that_is_gone_is_no_error() -> None:
    emission = Emission()
    emission.channel.close()
    emission.emitter.push(pcm(1000))
    await emission.finish()


# -- encoded audio


async def test_a_wav_file_is_decoded_to_the_declared_rate() -> None:
    emission = Emission(mime_type="audio/wav")
    data = wav(array("h", [7] * 4800).tobytes(), rate=48000)
    for start in range(0, len(data), 999):
        emission.emitter.push(data[start : start + 999])
    await emission.finish()
    assert {audio.frame.sample_rate for audio in emission.released} == {RATE}
    assert emission.emitter.pushed_duration() == pytest.approx(0.1, abs=0.005)
    assert emission.released[-1].is_final


async def test_compressed_audio_is_decoded_in_order() -> None:
    emission = Emission(mime_type="audio/flac", stream=True)
    for number in (1, 2):
        emission.emitter.start_segment(segment_id=str(number))
        data = flac(array("h", [number * 100] * 8000))
        for start in range(0, len(data), 50):
            emission.emitter.push(data[start : start + 50])
        emission.emitter.end_segment()
    await emission.finish()
    for number in (1, 2):
        assert emission.samples(str(number)) == [number * 100] * 8000


async def test_flush_leaves_the_decoder_alone() -> None:
    emission = Emission(mime_type="audio/wav")
    data = wav(pcm(200))
    emission.emitter.push(data[: len(data) // 2])
    await asyncio.sleep(0.001)
    emission.emitter.flush()
    emission.emitter.push(data[len(data) // 2 :])
    await emission.finish()
    assert [value for value in emission.samples() if value] == [5] * 1600


async def test_what_follows_an_encoded_segment_waits_for_its_audio() -> None:
    emission = Emission(mime_type="audio/wav", stream=True)
    word = TimedString("second")
    emission.emitter.start_segment(segment_id="a")
    emission.emitter.push(wav(pcm(100, value=1)))
    emission.emitter.end_segment()
    emission.emitter.start_segment(segment_id="b")
    assert emission.emitter.num_segments == 2
    emission.emitter.push_timed_transcript(word)
    emission.emitter.push(wav(pcm(100, value=2)))
    emission.emitter.end_segment()
    await emission.finish()
    assert emission.samples("a") == [1] * 800
    assert emission.samples("b") == [2] * 800
    assert [audio.segment_id for audio in emission.released if audio.is_final] == ["a", "b"]
    second = [audio for audio in emission.released if audio.segment_id == "b"]
    assert second[0].frame.userdata["lk.timed_transcripts"] == [word]


async def test_frames_may_be_pushed_in_encoded_mode() -> None:
    emission = Emission(mime_type="audio/mpeg")
    emission.emitter.push_frame(rtc.AudioFrame(pcm(100), RATE, 1, 800))
    await emission.finish()
    assert emission.samples() == [5] * 800


async def test_bytes_that_are_no_audio_make_a_segment_without_audio() -> None:
    emission = Emission(mime_type="audio/wav")
    emission.emitter.push(b"<html>Too many requests</html>" * 10)
    await asyncio.sleep(0.001)
    emission.emitter.push(b"more of it")
    assert await emission.finish() == []


async def test_closing_drops_what_is_being_decoded() -> None:
    emission = Emission(mime_type="audio/wav", stream=True)
    emission.emitter.start_segment(segment_id="a")
    emission.emitter.push(wav(pcm(100)))
    emission.emitter.end_segment()
    emission.emitter.start_segment(segment_id="b")
    start = now()
    await emission.emitter.aclose()
    assert now() == start
    await asyncio.sleep(1)
    assert emission.read() == []


# -- any sequence of calls

Call = tuple[Literal["push", "flush", "word", "sleep", "segment"], int]

CALLS = st.lists(
    st.one_of(
        st.tuples(st.just("push"), st.integers(0, 9000)),
        st.tuples(st.just("flush"), st.just(0)),
        st.tuples(st.just("word"), st.integers(0, 99)),
        st.tuples(st.just("sleep"), st.integers(0, 300)),
        st.tuples(st.just("segment"), st.just(0)),
    ),
    max_size=25,
)


@given(calls=CALLS, encoded=st.booleans())
@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])
async def test_what_goes_in_comes_out_once_in_order_and_marked(
    calls: list[Call], encoded: bool
) -> None:
    emission = Emission(stream=True, mime_type="audio/wav" if encoded else "audio/pcm")
    expected: list[bytearray] = []
    words: list[TimedString] = []

    def start_segment() -> None:
        emission.emitter.start_segment(segment_id=str(len(expected)))
        expected.append(bytearray())
        if encoded:
            emission.emitter.push(wav(b""))

    start_segment()
    for kind, value in calls:
        if kind == "push":
            data = bytes(1 + (len(expected[-1]) + n) % 250 for n in range(value))
            emission.emitter.push(data)
            expected[-1] += data
        elif kind == "flush":
            emission.emitter.flush()
        elif kind == "word":
            words.append(TimedString(str(value)))
            emission.emitter.push_timed_transcript(words[-1])
        elif kind == "sleep":
            await asyncio.sleep(value / 1000)
        else:
            emission.emitter.end_segment()
            start_segment()
    await emission.finish()

    for number, data in enumerate(expected):
        pieces = [audio for audio in emission.released if audio.segment_id == str(number)]
        got = b"".join(bytes(audio.frame.data.cast("B")) for audio in pieces)
        whole = len(data) // 2 * 2
        assert got[:whole] == data[:whole]
        assert len(got) - whole in (0, len(pcm(10))) and not any(got[whole:])
        finals = [audio.is_final for audio in pieces]
        assert finals == [False] * (len(pieces) - 1) + [True] if whole else not pieces
        assert all(audio.frame.samples_per_channel for audio in pieces)
        assert emission.emitter.pushed_duration(number) == pytest.approx(whole / 2 / RATE)
    carried = [
        word for audio in emission.released for word in audio.frame.userdata["lk.timed_transcripts"]
    ]
    assert carried == words[: len(carried)], "words keep their order"
