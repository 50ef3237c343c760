"""Cutting a provider's audio into frames, without an event loop."""

from __future__ import annotations

import itertools
from array import array

import pytest
from hypothesis import given, strategies as st
from livekit import rtc

from livekit.agents.tts import SynthesizedAudio
from livekit.agents.tts._segmenter import AudioSegmenter
from livekit.agents.types import USERDATA_TIMED_TRANSCRIPT, TimedString

RATE = 1000  # one sample per millisecond: lengths below read as milliseconds


class Recorder:
    """A segmenter, what it released, and a clock that the test moves."""

    def __init__(self, *, rate: int = RATE, channels: int = 1) -> None:
        self.now = 100.0
        self.released: list[SynthesizedAudio] = []
        self.segmenter = AudioSegmenter(
            request_id="request",
            sample_rate=rate,
            num_channels=channels,
            frame_size_ms=200,
            release=self.release,
            clock=lambda: self.now,
        )

    def release(self, audio: SynthesizedAudio, seconds: float) -> None:
        self.released.append(audio)
        assert seconds in (0.0, audio.frame.duration)

    def lengths(self) -> list[int]:
        return [audio.frame.samples_per_channel for audio in self.released]

    def finals(self) -> list[bool]:
        return [audio.is_final for audio in self.released]

    def samples(self) -> list[int]:
        return [value for audio in self.released for value in audio.frame.data]


def ramp(count: int) -> array[int]:
    return array("h", [n % 30000 + 1 for n in range(count)])


def pcm(count: int) -> bytes:
    return ramp(count).tobytes()


def frame(count: int, *, rate: int = RATE, value: int = 7) -> rtc.AudioFrame:
    return rtc.AudioFrame(array("h", [value] * count).tobytes(), rate, 1, count)


def opened(**kwargs: int) -> Recorder:
    recorder = Recorder(**kwargs)
    recorder.segmenter.start("segment")
    return recorder


def test_a_second_pushed_at_once_starts_short_and_ends_with_a_marked_tail() -> None:
    recorder = opened()
    recorder.segmenter.push_bytes(pcm(1000))
    recorder.segmenter.end()
    assert recorder.lengths() == [10, 40, 80, 160, 200, 200, 200, 100, 10]
    assert recorder.finals() == [False] * 8 + [True]
    assert recorder.samples() == ramp(1000).tolist()
    assert recorder.segmenter.durations == [pytest.approx(1.0)]


def test_all_but_the_tail_goes_out_during_the_push() -> None:
    recorder = opened()
    recorder.segmenter.push_bytes(pcm(20))
    assert recorder.lengths() == [10]


def test_frames_are_handed_on_as_they_are_but_for_the_tail() -> None:
    recorder = opened()
    recorder.segmenter.push_frame(frame(500))
    recorder.segmenter.push_frame(frame(70))
    assert recorder.lengths() == [490, 70]
    recorder.segmenter.end()
    assert recorder.lengths() == [490, 70, 10]


def test_a_frame_no_longer_than_the_tail_is_held_whole() -> None:
    recorder = opened()
    pushed = frame(10)
    recorder.segmenter.push_frame(pushed)
    assert recorder.released == []
    recorder.segmenter.end()
    assert recorder.lengths() == [10]
    assert recorder.finals() == [True]
    assert pushed.userdata == {}, "the caller's frame is left as it was"


def test_flush_releases_the_tail_and_starts_short_again() -> None:
    recorder = opened()
    recorder.segmenter.push_bytes(pcm(100))
    recorder.segmenter.flush()
    assert sum(recorder.lengths()) == 100
    assert not any(recorder.finals())
    recorder.released.clear()
    recorder.segmenter.push_bytes(pcm(20))
    assert recorder.lengths() == [10]


def test_flush_in_the_middle_of_a_sample_keeps_its_first_byte() -> None:
    recorder = opened()
    data = pcm(30)
    recorder.segmenter.push_bytes(data[:31])
    recorder.segmenter.flush()
    recorder.segmenter.push_bytes(data[31:])
    recorder.segmenter.end()
    assert recorder.samples() == ramp(30).tolist()


def test_an_incomplete_sample_at_the_end_is_dropped_with_a_warning(
    caplog: pytest.LogCaptureFixture,
) -> None:
    recorder = opened()
    recorder.segmenter.push_bytes(pcm(30) + b"\x01")
    recorder.segmenter.end()
    assert recorder.samples() == ramp(30).tolist()
    assert "incomplete PCM sample" in caplog.text


def test_silence_carries_the_mark_when_a_flush_took_everything() -> None:
    recorder = opened()
    recorder.segmenter.push_bytes(pcm(50))
    recorder.segmenter.flush()
    recorder.segmenter.end()
    assert recorder.lengths()[-1] == 10
    assert recorder.finals()[-1] and sum(recorder.finals()) == 1
    assert set(recorder.released[-1].frame.data) == {0}
    assert recorder.segmenter.durations == [pytest.approx(0.05)]


def test_the_silent_mark_has_the_format_of_the_frames_before_it() -> None:
    recorder = opened()
    recorder.segmenter.push_frame(frame(320, rate=16000))
    recorder.segmenter.flush()
    recorder.segmenter.end()
    assert {audio.frame.sample_rate for audio in recorder.released} == {16000}


def test_audio_of_another_format_is_never_joined() -> None:
    recorder = opened()
    recorder.segmenter.push_frame(frame(100, rate=1000))
    recorder.segmenter.push_frame(frame(320, rate=16000))
    recorder.segmenter.end()
    assert [(a.frame.sample_rate, a.frame.samples_per_channel) for a in recorder.released] == [
        (1000, 90),
        (1000, 10),
        (16000, 160),
        (16000, 160),
    ]


def test_frames_do_not_overtake_bytes() -> None:
    recorder = opened()
    recorder.segmenter.push_bytes(pcm(5))
    recorder.segmenter.push_frame(frame(20, value=9999))
    recorder.segmenter.end()
    assert recorder.samples() == [1, 2, 3, 4, 5] + [9999] * 20


def test_a_segment_without_audio_ends_silently_and_the_next_one_works() -> None:
    recorder = opened()
    recorder.segmenter.end()
    assert recorder.released == []
    recorder.segmenter.start("second")
    recorder.segmenter.push_bytes(pcm(20))
    recorder.segmenter.end()
    assert [audio.segment_id for audio in recorder.released] == ["second", "second"]
    assert recorder.segmenter.durations == [0.0, pytest.approx(0.02)]


def test_audio_needs_a_segment() -> None:
    segmenter = Recorder().segmenter
    segmenter.flush()
    segmenter.end()
    with pytest.raises(RuntimeError, match="start_segment"):
        segmenter.push_bytes(b"\0\0")
    with pytest.raises(RuntimeError, match="start_segment"):
        segmenter.push_frame(frame(20))


def test_a_segment_must_end_before_the_next_one_starts() -> None:
    with pytest.raises(RuntimeError, match="before the previous segment was ended"):
        opened().segmenter.start("second")


def test_words_travel_with_the_next_frame() -> None:
    recorder = Recorder()
    hello, world = TimedString("hello", 0.0), TimedString("world", 0.5)
    recorder.segmenter.push_transcript([hello])
    recorder.segmenter.start("segment")
    recorder.segmenter.push_bytes(pcm(60))
    recorder.segmenter.push_transcript([world])
    recorder.segmenter.end()
    words = [audio.frame.userdata[USERDATA_TIMED_TRANSCRIPT] for audio in recorder.released]
    assert words == [[hello], [], [world]]


def test_the_tail_is_due_just_before_the_listener_runs_dry() -> None:
    recorder = opened()
    recorder.segmenter.push_bytes(pcm(60))  # 50 ms released at 100.0
    assert recorder.segmenter.flush_due == pytest.approx(100.0 + 0.050 - 0.020)
    recorder.now = 100.01
    recorder.segmenter.push_bytes(pcm(160))  # 160 ms more, after the 50
    assert recorder.segmenter.flush_due == pytest.approx(100.0 + 0.130 - 0.020)
    recorder.segmenter.flush()
    assert recorder.segmenter.flush_due is None


def test_audio_after_a_pause_counts_from_now() -> None:
    recorder = opened()
    recorder.segmenter.push_bytes(pcm(20))
    recorder.segmenter.flush()
    recorder.now = 200.0
    recorder.segmenter.push_bytes(pcm(20))
    assert recorder.segmenter.flush_due == pytest.approx(200.0 + 0.010 - 0.020)


def test_the_first_short_push_is_due_at_once() -> None:
    recorder = opened()
    recorder.segmenter.push_bytes(pcm(5))
    due = recorder.segmenter.flush_due
    assert due is not None and due <= recorder.now


SIZES = st.lists(st.integers(0, 1500), max_size=30)


@given(
    sizes=SIZES,
    flushes=st.sets(st.integers(0, 30)),
    frames=st.sets(st.integers(0, 30)),
    channels=st.sampled_from([1, 2]),
)
def test_every_whole_sample_comes_out_once_in_order_and_one_frame_is_final(
    sizes: list[int], flushes: set[int], frames: set[int], channels: int
) -> None:
    recorder = opened(channels=channels)
    expected = bytearray()
    partial = 0
    values = itertools.cycle(range(1, 251))
    for turn, size in enumerate(sizes):
        if turn in frames and not partial:
            data = bytes(next(values) for _ in range(size * 2 * channels))
            recorder.segmenter.push_frame(rtc.AudioFrame(data, RATE, channels, size))
        else:
            data = bytes(next(values) for _ in range(size))
            recorder.segmenter.push_bytes(data)
            partial = (partial + size) % (2 * channels)
        expected += data
        if turn in flushes:
            recorder.segmenter.flush()
    recorder.segmenter.end()

    whole = len(expected) - len(expected) % (2 * channels)
    got = b"".join(bytes(audio.frame.data.cast("B")) for audio in recorder.released)
    silent_mark = len(got) - whole
    assert got[:whole] == expected[:whole]
    assert silent_mark in (0, 10 * 2 * channels)
    assert not any(got[whole:])
    assert recorder.finals() == ([False] * (len(recorder.released) - 1) + [True])[: len(got)]
    assert sum(recorder.segmenter.durations) == pytest.approx(whole / (2 * channels) / RATE)
