"""audio_frames_from_file: a file in, frames out, not all at once."""

from __future__ import annotations

import threading
from pathlib import Path

import pytest

from fakes.media import encode, tone, wav_file
from livekit.agents.utils.audio import audio_frames_from_file
from livekit.agents.utils.codecs import decoder as decoder_module


@pytest.fixture
def flac_file(tmp_path: Path) -> Path:
    path = tmp_path / "tone.flac"
    path.write_bytes(encode(tone(0.5), container="flac", codec="flac"))
    return path


async def test_a_file_is_decoded_completely(flac_file: Path) -> None:
    frames = [frame async for frame in audio_frames_from_file(flac_file)]

    assert {(frame.sample_rate, frame.num_channels) for frame in frames} == {(48000, 1)}
    assert sum(frame.samples_per_channel for frame in frames) == 24000


async def test_rate_and_channels_can_be_chosen(tmp_path: Path) -> None:
    path = tmp_path / "tone.wav"
    path.write_bytes(wav_file(tone(0.5, num_channels=2), num_channels=2))

    frames = [frame async for frame in audio_frames_from_file(str(path), 16000, 2)]

    assert {(frame.sample_rate, frame.num_channels) for frame in frames} == {(16000, 2)}
    assert sum(frame.samples_per_channel for frame in frames) == pytest.approx(8000, abs=10)


async def test_a_missing_file_is_reported(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        async for _ in audio_frames_from_file(tmp_path / "nothing.mp3"):
            pass


async def test_a_reader_error_comes_after_the_frames_read_so_far(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "tone.wav"
    path.write_bytes(wav_file(tone(0.5)))
    real_open = open

    class FailsAfterFourReads:
        def __init__(self, *args: object) -> None:
            self._file = real_open(path, "rb")
            self._reads = 0

        def read(self, size: int) -> bytes:
            self._reads += 1
            if self._reads > 4:
                raise OSError("disk is gone")
            return self._file.read(size)

        def close(self) -> None:
            self._file.close()

    monkeypatch.setattr("builtins.open", FailsAfterFourReads)
    samples = 0

    async def read() -> None:
        nonlocal samples
        async for frame in audio_frames_from_file(path):
            samples += frame.samples_per_channel

    with pytest.raises(OSError, match="disk is gone"):
        await read()

    assert samples == (4 * 4096 - 44) // 2


async def test_an_undecodable_file_has_no_frames(tmp_path: Path) -> None:
    path = tmp_path / "noise.mp3"
    path.write_bytes(b"no audio " * 20000)

    assert [frame async for frame in audio_frames_from_file(path)] == []


async def test_leaving_early_stops_reader_and_decoder(flac_file: Path) -> None:
    frames = audio_frames_from_file(flac_file)
    await frames.__anext__()

    await frames.aclose()

    for thread in threading.enumerate():
        if thread.name == "audio-decoder":
            thread.join(5)  # its last act is to say that it ends
            assert not thread.is_alive()


async def test_a_long_file_is_not_decoded_ahead_of_its_reader(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    decoded = 0.0
    put = decoder_module._Output.put

    def counting_put(self: decoder_module._Output, frame: object) -> None:
        nonlocal decoded
        decoded += frame.duration  # type: ignore[attr-defined]
        put(self, frame)  # type: ignore[arg-type]

    monkeypatch.setattr(decoder_module._Output, "put", counting_put)
    path = tmp_path / "long.wav"
    path.write_bytes(wav_file(bytes(20 * 8000 * 2), sample_rate=8000))
    frames = audio_frames_from_file(path, 8000)

    read = 0.0
    while read < 12:
        read += (await frames.__anext__()).duration
        assert decoded - read < 6  # FFmpeg reads some seconds of such a small file at once

    await frames.aclose()
