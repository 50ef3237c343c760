"""Decodes audio with FFmpeg. Blocking, for a thread."""

from __future__ import annotations

from collections.abc import Generator
from typing import TYPE_CHECKING

from livekit import rtc

from .stream_buffer import StreamBuffer

if TYPE_CHECKING:
    from av import AudioFrame, AudioResampler

_DETECTING = {"flags": "low_delay"}
_LOW_LATENCY = {**_DETECTING, "probesize": "32", "analyzeduration": "0"}
"""FFmpeg options: put out what can be put out, instead of looking ahead for a better guess.

Not `fflags=nobuffer`, which drops the packets that were looked at to learn the format.
"""


def decode(
    source: StreamBuffer, container: str | None, sample_rate: int, num_channels: int
) -> Generator[rtc.AudioFrame, None, None]:
    """Decode the first audio stream of `source`.

    Args:
        source: read with blocking calls.
        container: FFmpeg's name of the format; None to recognise it by content.
        sample_rate: rate of the frames, in Hz.
        num_channels: 1 or 2.

    Raises:
        av.FFmpegError: if the bytes can't be decoded.
        ValueError: if there is no audio in them.
    """
    import av

    resampler = av.AudioResampler(
        format="s16", layout="stereo" if num_channels == 2 else "mono", rate=sample_rate
    )
    options = _LOW_LATENCY if container else _DETECTING
    with av.open(source, format=container, options=options) as opened:
        if not opened.streams.audio:
            raise ValueError("the stream contains no audio")
        for decoded in opened.decode(opened.streams.audio[0]):
            yield from _resample(resampler, decoded, num_channels)
    yield from _resample(resampler, None, num_channels)


def _resample(
    resampler: AudioResampler, decoded: AudioFrame | None, num_channels: int
) -> Generator[rtc.AudioFrame, None, None]:
    for frame in resampler.resample(decoded):
        size = frame.samples * num_channels * 2
        samples = bytearray(memoryview(frame.planes[0])[:size])  # without the plane's padding
        yield rtc.AudioFrame(samples, frame.sample_rate, num_channels, frame.samples)
