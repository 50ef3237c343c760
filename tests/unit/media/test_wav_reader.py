"""WavReader: header and samples, in pieces of any size."""

from __future__ import annotations

import pytest
from hypothesis import given, strategies as st

from fakes.media import wav_file
from livekit.agents.utils.codecs.wav import WavError, WavFormat, WavReader


def read(data: bytes, chunk: int) -> tuple[WavFormat | None, bytes]:
    reader = WavReader()
    samples = b"".join(reader.push(data[i : i + chunk]) for i in range(0, len(data), chunk))
    return reader.format, samples


@given(
    pcm=st.binary(max_size=64),
    chunk=st.integers(1, 80),
    channels=st.integers(1, 4),
    extra=st.lists(st.binary(max_size=9), max_size=3),
    extensible=st.booleans(),
)
def test_chunking_makes_no_difference(
    pcm: bytes, chunk: int, channels: int, extra: list[bytes], extensible: bool
) -> None:
    data = wav_file(
        pcm,
        sample_rate=22050,
        num_channels=channels,
        extra_chunks=tuple((b"LIST", body) for body in extra),
        extensible=extensible,
    )

    assert read(data, chunk) == (WavFormat(22050, channels), pcm)


@pytest.mark.parametrize("declared", [0, 1, 0xFFFFFFFF])
def test_the_declared_size_is_ignored(declared: int) -> None:
    assert read(wav_file(b"abcd", declared_size=declared), 7)[1] == b"abcd"


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"ID3\x04" + bytes(40), "not a WAV stream"),
        (wav_file(b"", bits=8), "8 bits"),
        (wav_file(b"", format_tag=3, bits=32), "0x0003"),
        (wav_file(b"", format_tag=3, bits=32, extensible=True), "0x0003"),
        (wav_file(b"", num_channels=0), "0 channels"),
        (wav_file(b"", sample_rate=0), "0 Hz"),
        (b"RIFF\0\0\0\0WAVEdata\0\0\0\0", "no fmt chunk"),
        (b"RIFF\0\0\0\0WAVEfmt \x04\0\0\0abcd", "fmt chunk of 4 bytes"),
    ],
)
def test_what_cannot_be_played_is_refused(data: bytes, message: str) -> None:
    with pytest.raises(WavError, match=message):
        WavReader().push(data)


@given(st.binary(max_size=200), st.integers(1, 50))
def test_garbage_never_crashes(data: bytes, chunk: int) -> None:
    reader = WavReader()
    try:
        for start in range(0, len(data), chunk):
            reader.push(data[start : start + chunk])
    except WavError:
        pass
