"""Encoded audio, made on the spot."""

from __future__ import annotations

import io
import math
import struct
from typing import Any


def tone(duration: float, *, sample_rate: int = 48000, num_channels: int = 1) -> bytes:
    """A 440 Hz sine as interleaved int16, a quarter of full scale."""
    samples = bytearray()
    for n in range(int(duration * sample_rate)):
        value = int(8000 * math.sin(2 * math.pi * 440 * n / sample_rate))
        samples += struct.pack("<h", value) * num_channels
    return bytes(samples)


def encode(
    pcm: bytes,
    *,
    container: str,
    codec: str,
    sample_rate: int = 48000,
    num_channels: int = 1,
    options: dict[str, str] | None = None,
) -> bytes:
    """Encode int16 samples with FFmpeg."""
    import av

    layout = "stereo" if num_channels == 2 else "mono"
    target = io.BytesIO()
    with av.open(target, "w", format=container, options=options or {}) as opened:
        stream: Any = opened.add_stream(codec, rate=sample_rate, layout=layout)
        resampler = av.AudioResampler(
            format=stream.codec_context.format, layout=layout, rate=sample_rate
        )
        frame_bytes = 960 * 2 * num_channels
        for start in range(0, len(pcm), frame_bytes):
            piece = pcm[start : start + frame_bytes]
            frame = av.AudioFrame(
                format="s16", layout=layout, samples=len(piece) // (2 * num_channels)
            )
            plane = frame.planes[0]
            plane.update(piece.ljust(plane.buffer_size, b"\0"))
            frame.sample_rate = sample_rate
            frame.pts = start // (2 * num_channels)
            for resampled in resampler.resample(frame):
                opened.mux(stream.encode(resampled))
        for resampled in resampler.resample(None):
            opened.mux(stream.encode(resampled))
        opened.mux(stream.encode(None))
    return target.getvalue()


def wav_file(
    pcm: bytes,
    *,
    sample_rate: int = 48000,
    num_channels: int = 1,
    bits: int = 16,
    format_tag: int = 1,
    declared_size: int | None = None,
    extra_chunks: tuple[tuple[bytes, bytes], ...] = (),
    extensible: bool = False,
) -> bytes:
    """A WAV file, with the liberties that real ones take."""
    size = len(pcm) if declared_size is None else declared_size
    block = num_channels * bits // 8
    tag = 0xFFFE if extensible else format_tag
    fmt = struct.pack("<HHIIHH", tag, num_channels, sample_rate, sample_rate * block, block, bits)
    if extensible:
        fmt += struct.pack("<HHIH", 22, bits, 0, format_tag) + bytes(14)
    chunks = b"".join(
        name + struct.pack("<I", len(body)) + body + b"\0" * (len(body) % 2)
        for name, body in (*extra_chunks, (b"fmt ", fmt))
    )
    body = b"WAVE" + chunks + b"data" + struct.pack("<I", size) + pcm
    return b"RIFF" + struct.pack("<I", min(len(body), 0xFFFFFFFF)) + body
