"""AudioByteStream: bytes in pieces of any size in, frames of a fixed length out."""

from __future__ import annotations

import pytest
from hypothesis import given, strategies as st
from livekit import rtc

from livekit.agents.utils.audio import AudioByteStream


def lengths(frames: list[rtc.AudioFrame]) -> list[int]:
    return [frame.samples_per_channel for frame in frames]


def pcm(frames: list[rtc.AudioFrame]) -> bytes:
    return b"".join(bytes(frame.data.cast("B")) for frame in frames)


def test_frames_are_100_ms_by_default() -> None:
    stream = AudioByteStream(16000, 1)

    assert stream.push(bytes(3198)) == []
    (frame,) = stream.push(bytes(2))

    assert (frame.sample_rate, frame.num_channels, frame.samples_per_channel) == (16000, 1, 1600)


def test_one_push_may_complete_several_frames() -> None:
    stream = AudioByteStream(8000, 2, samples_per_channel=80)

    assert lengths(stream.push(bytes(80 * 4 * 3 + 1))) == [80, 80, 80]
    assert stream.buffered_duration == pytest.approx(1 / 4 / 8000)


def test_write_is_push() -> None:
    stream = AudioByteStream(8000, 1, samples_per_channel=4)

    assert lengths(stream.write(bytes(8))) == [4]


def test_flush_returns_the_rest_and_keeps_an_incomplete_sample() -> None:
    stream = AudioByteStream(8000, 2, samples_per_channel=80)
    stream.push(b"\x01\x02\x03\x04" + b"\x05\x06\x07")

    (frame,) = stream.flush()

    assert pcm([frame]) == b"\x01\x02\x03\x04"
    assert stream.flush() == []
    stream.push(b"\x08")
    assert pcm(stream.flush()) == b"\x05\x06\x07\x08"


def test_progressive_frames_double_up_to_the_target() -> None:
    stream = AudioByteStream(16000, 1, samples_per_channel=3200, progressive=True)

    frames = stream.push(bytes(2 * (320 + 640 + 1280 + 2560 + 3200 + 3200)))

    assert lengths(frames) == [320, 640, 1280, 2560, 3200, 3200]


def test_progressive_never_exceeds_a_short_target() -> None:
    stream = AudioByteStream(16000, 1, samples_per_channel=160, progressive=True)

    assert lengths(stream.push(bytes(640))) == [160, 160]


def test_flush_keeps_the_progression_and_reset_progressive_restarts_it() -> None:
    stream = AudioByteStream(16000, 1, samples_per_channel=3200, progressive=True)
    stream.push(bytes(640))
    stream.push(bytes(10))
    stream.flush()

    assert lengths(stream.push(bytes(1280))) == [640]
    stream.push(bytes(4))
    stream.reset_progressive()
    assert lengths(stream.push(bytes(636))) == [320]


def test_clear_drops_the_bytes_and_restarts_the_progression() -> None:
    stream = AudioByteStream(16000, 1, samples_per_channel=3200, progressive=True)
    stream.push(bytes(700))

    stream.clear()

    assert stream.buffered_duration == 0
    assert stream.flush() == []
    assert lengths(stream.push(bytes(640))) == [320]


def test_returned_frames_own_their_samples() -> None:
    stream = AudioByteStream(8000, 1, samples_per_channel=2)
    (first,) = stream.push(b"\x01\x00\x02\x00")

    stream.push(b"\xff\xff\xff\xff")

    assert list(first.data) == [1, 2]


@pytest.mark.parametrize(
    ("rate", "channels", "samples"),
    [(0, 1, None), (16000, 0, None), (16000, 1, 0), (16000, 1, -5), (5, 1, None)],
)
def test_impossible_formats_are_refused(rate: int, channels: int, samples: int | None) -> None:
    with pytest.raises(ValueError, match="positive"):
        AudioByteStream(rate, channels, samples)


@given(
    pieces=st.lists(st.binary(max_size=70), max_size=30),
    channels=st.integers(1, 3),
    samples=st.integers(1, 20),
    progressive=st.booleans(),
    flush_every=st.integers(1, 10),
)
def test_no_byte_is_lost_repeated_or_reordered(
    pieces: list[bytes], channels: int, samples: int, progressive: bool, flush_every: int
) -> None:
    stream = AudioByteStream(200, channels, samples_per_channel=samples, progressive=progressive)
    out = b""
    pushed = 0
    for number, piece in enumerate(pieces, start=1):
        frames = stream.push(piece)
        pushed += len(piece)
        assert all(length <= samples for length in lengths(frames))
        out += pcm(frames)
        if number % flush_every == 0:
            out += pcm(stream.flush())
        assert stream.buffered_duration == pytest.approx((pushed - len(out)) / (2 * channels * 200))
    out += pcm(stream.flush())

    whole = b"".join(pieces)
    assert out == whole[: len(whole) - len(whole) % (2 * channels)]
