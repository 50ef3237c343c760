"""AudioStreamDecoder: encoded bytes in pieces of any size in, frames out, and an end that comes."""

from __future__ import annotations

import asyncio
import gc
import logging
import subprocess
import sys
import threading
from collections.abc import Iterator
from functools import cache

import pytest
from hypothesis import assume, given, settings, strategies as st
from livekit import rtc

from fakes.media import encode, tone, wav_file
from livekit.agents.utils.aio.task_scope import TaskScope
from livekit.agents.utils.codecs import AudioStreamDecoder, decoder as decoder_module

FORMATS = {
    "audio/mpeg": ("mp3", "libmp3lame", {}),
    "audio/ogg; codecs=opus": ("ogg", "libopus", {}),
    "audio/flac": ("flac", "flac", {}),
    "audio/aac": ("adts", "aac", {}),
    "audio/webm": ("webm", "libopus", {}),
    "audio/mp4": ("mp4", "aac", {"movflags": "frag_keyframe+empty_moov"}),
    "audio/wav": ("wav", "pcm_s16le", {}),
}


@cache
def encoded(mime: str, channels: int = 1) -> bytes:
    container, codec, options = FORMATS[mime]
    pcm = tone(0.5, num_channels=channels)
    return encode(pcm, container=container, codec=codec, num_channels=channels, options=options)


async def decode(decoder: AudioStreamDecoder, data: bytes, chunk: int) -> list[rtc.AudioFrame]:
    for start in range(0, len(data), chunk):
        decoder.push(data[start : start + chunk])
    decoder.end_input()
    frames = [frame async for frame in decoder]
    await decoder.aclose()
    return frames


def samples_of(frames: list[rtc.AudioFrame]) -> list[int]:
    return [sample for frame in frames for sample in frame.data]


@pytest.fixture(autouse=True)
def no_thread_left() -> Iterator[None]:
    yield
    for thread in threading.enumerate():
        if thread.name == "audio-decoder":
            thread.join(5)
            assert not thread.is_alive()


@pytest.mark.parametrize("chunk", [97, 4096, 10**6])
@pytest.mark.parametrize("told", [True, False], ids=["told", "detected"])
@pytest.mark.parametrize("mime", FORMATS)
async def test_every_format_is_decoded_completely(mime: str, told: bool, chunk: int) -> None:
    decoder = AudioStreamDecoder(sample_rate=24000, format=mime if told else None)

    frames = await decode(decoder, encoded(mime), chunk)

    samples = samples_of(frames)
    assert {frame.sample_rate for frame in frames} == {24000}
    assert {frame.num_channels for frame in frames} == {1}
    assert 12000 <= len(samples) <= 13000  # lossy formats pad the ends
    loudest = max(map(abs, samples[2000:10000]))
    assert 7000 < loudest < 9500


@pytest.mark.parametrize("mime", ["audio/mpeg", "audio/ogg; codecs=opus", "audio/wav"])
async def test_stereo_stays_stereo_when_asked_for(mime: str) -> None:
    decoder = AudioStreamDecoder(sample_rate=48000, num_channels=2, format=mime)

    frames = await decode(decoder, encoded(mime, channels=2), 1000)

    assert {frame.num_channels for frame in frames} == {2}
    assert sum(frame.samples_per_channel for frame in frames) == pytest.approx(24000, abs=2000)


async def test_compressed_stereo_is_mixed_to_mono_when_not_asked_for() -> None:
    decoder = AudioStreamDecoder(format="audio/flac")

    frames = await decode(decoder, encoded("audio/flac", channels=2), 1000)

    assert {frame.num_channels for frame in frames} == {1}
    assert len(samples_of(frames)) == 24000


async def test_frames_come_before_the_input_ends() -> None:
    decoder = AudioStreamDecoder(sample_rate=24000, format="audio/mpeg")
    data = encoded("audio/mpeg")

    decoder.push(data[: len(data) // 2])
    frame = await decoder.__anext__()

    assert frame.samples_per_channel > 0
    await decoder.aclose()


@settings(max_examples=40)
@given(
    pcm=st.binary(max_size=3000),
    chunks=st.lists(st.integers(1, 400), min_size=1, max_size=12),
    channels=st.integers(1, 2),
)
async def test_wav_samples_pass_unchanged_in_any_chunking(
    pcm: bytes, chunks: list[int], channels: int
) -> None:
    assume(b"RIFF" not in pcm)  # a push that begins with it begins another file
    data = wav_file(pcm, sample_rate=8000, num_channels=channels)
    decoder = AudioStreamDecoder(sample_rate=8000, format="audio/wav")
    start = index = 0
    while start < len(data):
        end = start + chunks[index % len(chunks)]
        decoder.push(data[start:end])
        start, index = end, index + 1
    decoder.end_input()

    decoded = b"".join([bytes(frame.data.cast("B")) async for frame in decoder])

    assert decoded == pcm[: len(pcm) - len(pcm) % (2 * channels)]


async def test_wav_is_resampled_with_its_channels_kept() -> None:
    data = wav_file(tone(0.5, num_channels=2), num_channels=2)

    frames = await decode(AudioStreamDecoder(sample_rate=16000, format="audio/wav"), data, 999)

    assert {(frame.sample_rate, frame.num_channels) for frame in frames} == {(16000, 2)}
    assert sum(frame.samples_per_channel for frame in frames) == 8000


async def test_a_second_wav_file_may_follow_the_first() -> None:
    decoder = AudioStreamDecoder(sample_rate=8000, format="audio/wav")

    decoder.push(wav_file(b"\x01\x00" * 5, sample_rate=8000))
    decoder.push(wav_file(b"\x02\x00" * 7, sample_rate=8000))
    decoder.end_input()

    assert samples_of([frame async for frame in decoder]) == [1] * 5 + [2] * 7


@pytest.mark.parametrize("mime", ["audio/wav", "audio/mpeg", None])
async def test_what_cannot_be_decoded_is_logged_once_and_ends_the_frames(
    mime: str | None, caplog: pytest.LogCaptureFixture
) -> None:
    decoder = AudioStreamDecoder(format=mime)

    with caplog.at_level(logging.ERROR):
        for _ in range(20):
            decoder.push(b"this is no audio at all " * 20)
        decoder.end_input()
        frames = [frame async for frame in decoder]

    assert samples_of(frames) == []
    assert [record.getMessage() for record in caplog.records] == ["error decoding audio"]
    await decoder.aclose()


@pytest.mark.parametrize("mime", ["audio/wav", "audio/mpeg", None])
async def test_no_input_means_no_frames_and_no_thread(mime: str | None) -> None:
    before = threading.active_count()
    decoder = AudioStreamDecoder(format=mime)

    decoder.end_input()

    assert [frame async for frame in decoder] == []
    assert threading.active_count() == before


@pytest.mark.parametrize("mime", ["audio/wav", "audio/mpeg"])
async def test_close_ends_the_iteration_and_drops_what_was_not_read(
    mime: str, caplog: pytest.LogCaptureFixture
) -> None:
    decoder = AudioStreamDecoder(format=mime)
    decoder.push(encoded(mime))
    await decoder.__anext__()

    await decoder.aclose()
    await decoder.aclose()
    decoder.push(encoded(mime))
    decoder.end_input()

    assert [frame async for frame in decoder] == []
    assert caplog.records == []


async def test_close_wakes_a_waiting_reader() -> None:
    decoder = AudioStreamDecoder(format="audio/mpeg")
    decoder.push(b"\xff")
    scope = TaskScope("test")

    async def read() -> list[rtc.AudioFrame]:
        return [frame async for frame in decoder]

    reader = scope.spawn(read())
    await asyncio.sleep(0)

    await decoder.aclose()

    assert await reader == []


async def test_input_after_its_end_is_dropped() -> None:
    decoder = AudioStreamDecoder(sample_rate=8000, format="audio/wav")
    decoder.push(wav_file(b"\x01\x00", sample_rate=8000))
    decoder.end_input()
    decoder.end_input()
    decoder.push(b"\x02\x00")

    assert samples_of([frame async for frame in decoder]) == [1]


async def test_a_hanging_decode_cannot_hold_the_close(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    released = threading.Event()

    def stuck(*_: object) -> Iterator[rtc.AudioFrame]:
        released.wait()
        yield from ()

    monkeypatch.setattr(decoder_module, "decode", stuck)
    decoder = AudioStreamDecoder(format="audio/mpeg")
    decoder.push(b"x")
    loop = asyncio.get_running_loop()
    began = loop.time()

    await decoder.aclose()

    assert loop.time() - began == pytest.approx(2.0)
    assert "did not stop within 2.0 s" in caplog.text
    released.set()


async def test_a_source_can_wait_for_demand() -> None:
    decoder = AudioStreamDecoder(sample_rate=8000, format="audio/wav")
    decoder.push(wav_file(bytes(8000 * 2 * 2), sample_rate=8000))
    scope = TaskScope("test")
    demand = scope.spawn(decoder.wait_for_demand())
    await asyncio.sleep(0)
    assert not demand.done()

    for _ in range(51):
        await decoder.__anext__()
    await asyncio.sleep(0)

    assert demand.done()


@pytest.mark.parametrize("mime", ["audio/wav", "audio/mpeg"])
async def test_the_end_releases_a_source_that_waits(mime: str) -> None:
    decoder = AudioStreamDecoder(sample_rate=8000, format=mime)
    decoder.push(wav_file(bytes(8000 * 4), sample_rate=8000))
    scope = TaskScope("test")
    demand = scope.spawn(decoder.wait_for_demand())
    await asyncio.sleep(0)

    await decoder.aclose()

    await demand


async def test_a_dropped_decoder_ends_its_thread() -> None:
    decoder = AudioStreamDecoder(format="audio/mpeg")
    decoder.push(b"\xff")
    (thread,) = [t for t in threading.enumerate() if t.name == "audio-decoder"]

    del decoder
    gc.collect()

    await asyncio.to_thread(thread.join, 5)
    assert not thread.is_alive()


def test_a_process_exits_without_closing_its_decoder() -> None:
    program = """
import asyncio
from livekit.agents.utils.codecs import AudioStreamDecoder
async def main():
    global decoder
    decoder = AudioStreamDecoder(format="audio/mpeg")
    decoder.push(b"12345")
    await asyncio.sleep(0.1)
asyncio.run(main())
"""
    assert subprocess.run([sys.executable, "-c", program], timeout=30).returncode == 0


def test_importing_the_decoder_does_not_load_pyav() -> None:
    program = (
        "import sys; from livekit.agents.utils.codecs import AudioStreamDecoder as D; D();"
        "sys.exit('av' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", program]).returncode == 0
