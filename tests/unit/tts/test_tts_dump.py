"""Keeping synthesized speech as files, to debug it."""

from __future__ import annotations

import wave
from pathlib import Path

import pytest

from fakes.tts import FakeTTS
from livekit.agents.tts import audio_emitter


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(audio_emitter, "lk_dump_tts", 1)
    return tmp_path / "lk_dump"


def files(folder: Path) -> list[Path]:
    return list(folder.iterdir())


def occupy(path: Path) -> None:
    path.write_text("not a folder")


async def test_each_segment_becomes_a_file(folder: Path) -> None:
    async with FakeTTS(label="my/tts").stream() as stream:
        stream.push_text("hello")
        stream.end_input()
        assert [audio async for audio in stream]
    (path,) = files(folder)
    assert path.name.startswith("my-tts_request-0_segment-0_") and path.suffix == ".wav"
    with wave.open(str(path)) as file:
        assert (file.getframerate(), file.getnchannels()) == (24000, 1)
        assert file.getnframes() == 6000


async def test_speech_goes_on_when_it_cannot_be_kept(
    folder: Path, caplog: pytest.LogCaptureFixture
) -> None:
    occupy(folder)
    async with FakeTTS().synthesize("hello") as stream:
        assert (await stream.collect()).duration == pytest.approx(0.25)
    assert "could not write the speech dump" in caplog.text
