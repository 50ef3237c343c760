"""Joining, measuring and buffering frames."""

from __future__ import annotations

import math
import subprocess
import sys

import numpy as np
import pytest
from hypothesis import given, strategies as st
from livekit import rtc

from livekit.agents.utils import audio


def frame_of(samples: list[int], *, rate: int = 16000, channels: int = 1) -> rtc.AudioFrame:
    data = np.array(samples, dtype=np.int16).tobytes()
    return rtc.AudioFrame(data, rate, channels, len(samples) // channels)


def test_durations_add_up() -> None:
    assert audio.calculate_audio_duration(frame_of([0] * 160)) == pytest.approx(0.01)
    assert audio.calculate_audio_duration([frame_of([0] * 160)] * 3) == pytest.approx(0.03)
    assert audio.calculate_audio_duration([]) == 0.0


def test_combine_and_merge_are_the_same_and_join_in_order() -> None:
    assert audio.combine_frames is audio.merge_frames
    joined = audio.combine_frames([frame_of([1, 2]), frame_of([3])])
    assert list(joined.data) == [1, 2, 3]


def test_silence_has_the_asked_length_and_is_silent() -> None:
    frame = audio.silence_frame(0.25, 8000, 2)

    assert (frame.sample_rate, frame.num_channels, frame.samples_per_channel) == (8000, 2, 2000)
    assert not any(frame.data)


def test_silence_like_copies_the_format() -> None:
    frame = audio.silence_frame_like(frame_of([5, 6, 7, 8], rate=44100, channels=2))

    assert (frame.sample_rate, frame.num_channels, frame.samples_per_channel) == (44100, 2, 2)
    assert list(frame.data) == [0, 0, 0, 0]


def test_array_buffer_keeps_the_newest_samples() -> None:
    buffer = audio.AudioArrayBuffer(buffer_size=4)

    assert buffer.push_frame(frame_of([1, 2, 3])) == 3
    assert buffer.push_frame(frame_of([4, 5, 6])) == 3

    assert len(buffer) == 4
    assert buffer.read().tolist() == [3, 4, 5, 6]
    assert buffer.read().dtype == np.int16


def test_array_buffer_read_is_a_copy() -> None:
    buffer = audio.AudioArrayBuffer(buffer_size=4)
    buffer.push_frame(frame_of([1, 2]))

    buffer.read()[:] = 9

    assert buffer.read().tolist() == [1, 2]


def test_array_buffer_shift_drops_the_oldest() -> None:
    buffer = audio.AudioArrayBuffer(buffer_size=4)
    buffer.push_frame(frame_of([1, 2, 3]))

    buffer.shift(2)
    assert buffer.read().tolist() == [3]
    buffer.shift(10)
    assert len(buffer) == 0


def test_array_buffer_mixes_to_mono() -> None:
    buffer = audio.AudioArrayBuffer(buffer_size=4)

    assert buffer.push_frame(frame_of([100, 300, -32768, -32768], channels=2)) == 2

    assert buffer.read().tolist() == [200, -32768]


def test_array_buffer_stores_the_asked_dtype() -> None:
    buffer = audio.AudioArrayBuffer(buffer_size=4, dtype=np.float32)
    buffer.push_frame(frame_of([7]))

    assert buffer.read().dtype == np.float32
    assert buffer.read().tolist() == [7.0]


def test_array_buffer_resamples() -> None:
    buffer = audio.AudioArrayBuffer(buffer_size=16000, sample_rate=16000)
    tone = [int(10000 * math.sin(2 * math.pi * 440 * n / 48000)) for n in range(480)]

    written = sum(buffer.push_frame(frame_of(tone, rate=48000)) for _ in range(100))

    assert written == len(buffer)
    assert 0.9 * 16000 <= written <= 16000


def test_array_buffer_refuses_a_changed_rate_until_reset() -> None:
    buffer = audio.AudioArrayBuffer(buffer_size=100)
    buffer.push_frame(frame_of([1], rate=16000))

    with pytest.raises(ValueError, match="reset"):
        buffer.push_frame(frame_of([1], rate=8000))

    buffer.reset()
    assert len(buffer) == 0
    buffer.push_frame(frame_of([1], rate=8000))


def test_array_buffer_refuses_a_frame_larger_than_itself() -> None:
    buffer = audio.AudioArrayBuffer(buffer_size=2)

    with pytest.raises(ValueError, match="larger than the buffer"):
        buffer.push_frame(frame_of([1, 2, 3]))


@pytest.mark.parametrize("size", [0, -1])
def test_array_buffer_needs_room(size: int) -> None:
    with pytest.raises(ValueError, match="positive"):
        audio.AudioArrayBuffer(buffer_size=size)


@given(st.lists(st.lists(st.integers(-32768, 32767), min_size=1, max_size=8), max_size=20))
def test_array_buffer_is_the_tail_of_the_stream(pushes: list[list[int]]) -> None:
    buffer = audio.AudioArrayBuffer(buffer_size=8)
    everything: list[int] = []
    for samples in pushes:
        buffer.push_frame(frame_of(samples))
        everything += samples
        assert buffer.read().tolist() == everything[-8:]


def test_importing_audio_does_not_load_the_decoders() -> None:
    program = (
        "import sys; import livekit.agents.utils.audio as a; a.AudioByteStream(16000, 1);"
        "sys.exit(bool({'av', 'livekit.agents.utils.codecs'} & set(sys.modules)))"
    )
    assert subprocess.run([sys.executable, "-c", program]).returncode == 0
