"""A recording is what was heard: both sides on one timeline, whatever the sink reports."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, strategies as st
from livekit import rtc

from fakes.session import make_session, now
from fakes.speaker import Speaker
from livekit.agents.utils.aio import Chan, TaskScope
from livekit.agents.voice.io import AudioInput
from livekit.agents.voice.recorder_io import RecorderIO
from livekit.agents.voice.recorder_io.timeline import Channel, Run

RATE = 48000


def frame(seconds: float = 0.1, value: int = 8000, rate: int = RATE) -> rtc.AudioFrame:
    samples = round(seconds * rate)
    wave = value * np.sin(2 * np.pi * 440 * np.arange(samples) / rate)
    return rtc.AudioFrame(wave.astype(np.int16).tobytes(), rate, 1, samples)


class Microphone(AudioInput):
    def __init__(self) -> None:
        super().__init__(label="microphone")
        self.frames: Chan[rtc.AudioFrame] = Chan()

    async def __anext__(self) -> rtc.AudioFrame:
        return await self.frames.__anext__()


class Studio:
    def __init__(self, sink: Any = None) -> None:
        self.recorder = RecorderIO(agent_session=make_session())
        self.microphone = Microphone()
        self.speaker = sink or Speaker()
        self.heard: list[rtc.AudioFrame] = []
        self.input = self.recorder.record_input(self.microphone)
        self.output = self.recorder.record_output(self.speaker)
        self.scope = TaskScope("test")
        self.scope.spawn(self._listen())

    async def end(self) -> None:
        """End the recording, and let its thread finish the file, which takes real time."""
        await self.recorder.aclose()
        encoder: Any = self.recorder._encoder
        await asyncio.wait((encoder.ended,))

    async def _listen(self) -> None:
        async for each in self.input:
            self.heard.append(each)

    async def user_speaks(self, seconds: float, rate: int = RATE) -> None:
        for _ in range(round(seconds * 10)):
            await asyncio.sleep(0.1)
            self.microphone.frames.send_nowait(frame(rate=rate))
        await asyncio.sleep(0)

    async def agent_speaks(self, seconds: float, rate: int = RATE) -> None:
        for _ in range(round(seconds * 10)):
            await self.output.capture_frame(frame(rate=rate))
        self.output.flush()


@asynccontextmanager
async def recording(path: Path, sink: Any = None) -> AsyncIterator[Studio]:
    studio = Studio(sink)
    await studio.recorder.start(output_path=path)
    yield studio
    await studio.end()
    studio.microphone.frames.close()
    await studio.scope.cancel(1.0)


def decoded(path: Path) -> Any:
    """Loudness of each channel by tenths of a second: two rows."""
    import av

    with av.open(str(path)) as file:
        frames = [each.to_ndarray() for each in file.decode(audio=0)]
    samples = np.concatenate(frames, axis=1)
    if samples.shape[0] == 1:
        samples = samples.reshape(-1, 2).T
    if samples.dtype == np.int16:
        samples = samples / 32768
    block = RATE // 10
    whole = samples[:, : samples.shape[1] - samples.shape[1] % block]
    return np.abs(whole).reshape(2, -1, block).max(axis=2)


def edges(loudness: Any) -> list[float]:
    """When a channel begins and ceases to be loud, in seconds, in turns."""
    loud = np.concatenate(([False], loudness > 0.05, [False]))
    return [float(at) / 10 for at in np.flatnonzero(loud[1:] != loud[:-1])]


async def test_both_sides_are_recorded_when_they_were_heard(tmp_path: Path) -> None:
    path = tmp_path / "folder" / "call.ogg"
    async with recording(path) as studio:
        assert studio.recorder.recording and studio.recorder.output_path == path
        await studio.user_speaks(2.0)
        await studio.agent_speaks(3.0)  # at once, but it plays for three seconds
        assert (await studio.output.wait_for_playout()).playback_position == pytest.approx(3.0)
        await asyncio.sleep(1.0)
        await studio.user_speaks(1.0)
        assert len(studio.heard) == 30, "the session hears all of it"
    left, right = decoded(path)
    assert edges(left) == pytest.approx([0.0, 2.0, 6.0, 7.0], abs=0.11)
    assert edges(right) == pytest.approx([2.0, 5.0], abs=0.11)
    assert not studio.recorder.recording


async def test_other_rates_are_converted_and_nothing_is_stretched(tmp_path: Path) -> None:
    path = tmp_path / "call.ogg"
    async with recording(path) as studio:
        await studio.user_speaks(3.0, rate=16000)
        await studio.agent_speaks(2.0, rate=24000)
        await studio.output.wait_for_playout()
    left, right = decoded(path)
    assert edges(left) == pytest.approx([0.0, 3.0], abs=0.11)
    assert edges(right) == pytest.approx([3.0, 5.0], abs=0.11)


async def test_only_what_was_heard_of_an_interrupted_answer_is_recorded(tmp_path: Path) -> None:
    path = tmp_path / "call.ogg"
    async with recording(path) as studio:
        await studio.agent_speaks(10.0)
        await asyncio.sleep(2.0)
        studio.output.clear_buffer()
        await asyncio.sleep(3.0)
    _, right = decoded(path)
    assert edges(right) == pytest.approx([0.0, 2.0], abs=0.11)


class Reporting(Speaker):
    """Says itself what it played: with a gap of a second in the middle."""

    def _finish(self, interrupted: bool) -> None:
        began = time.time() - 4.0
        self.on_playback_progressed(started_at=began, offset=0.0, duration=1.0)
        self.on_playback_progressed(started_at=began + 2.0, offset=1.0, duration=2.0)
        super()._finish(interrupted)


async def test_a_sink_that_reports_progress_is_believed(tmp_path: Path) -> None:
    path = tmp_path / "call.ogg"
    async with recording(path, Reporting()) as studio:
        await asyncio.sleep(1.0)
        await studio.agent_speaks(4.0)
        await studio.output.wait_for_playout()
    _, right = decoded(path)
    assert edges(right) == pytest.approx([1.0, 2.0, 3.0, 5.0], abs=0.11)


async def test_the_file_grows_while_the_call_goes_on(tmp_path: Path) -> None:
    path = tmp_path / "call.ogg"
    async with recording(path) as studio:
        await studio.user_speaks(10.0)
        assert 7 * RATE < studio.recorder._user.taken <= 10 * RATE


async def test_a_segment_on_its_way_is_waited_for_before_its_time_is_written(
    tmp_path: Path,
) -> None:
    path = tmp_path / "call.ogg"
    async with recording(path) as studio:
        await studio.user_speaks(1.0)
        await studio.agent_speaks(20.0)
        await studio.user_speaks(15.0)
        assert studio.recorder._user.taken <= 1.1 * RATE
        await studio.output.wait_for_playout()
    _, right = decoded(path)
    assert edges(right) == pytest.approx([1.0, 21.0], abs=0.11)


async def test_what_plays_when_the_recording_ends_is_in_it(tmp_path: Path) -> None:
    path = tmp_path / "call.ogg"
    async with recording(path) as studio:
        await studio.agent_speaks(10.0)
        await asyncio.sleep(2.0)
    _, right = decoded(path)
    assert edges(right) == pytest.approx([0.0, 2.0], abs=0.11)


async def test_it_can_be_started_again(tmp_path: Path) -> None:
    studio = Studio()
    for name in ("one.ogg", "two.ogg"):
        await studio.recorder.start(output_path=tmp_path / name)
        await studio.recorder.start(output_path=tmp_path / "ignored.ogg")
        await studio.user_speaks(1.0)
        await studio.end()
        await studio.recorder.aclose()
        assert edges(decoded(tmp_path / name)[0]) == pytest.approx([0.0, 1.0], abs=0.11)
    assert not (tmp_path / "ignored.ogg").exists()
    studio.microphone.frames.close()
    await studio.scope.cancel(1.0)


async def test_without_both_sides_it_does_not_start(tmp_path: Path) -> None:
    recorder = RecorderIO(agent_session=make_session())
    with pytest.raises(RuntimeError, match="record_input"):
        await recorder.start(output_path=tmp_path / "call.ogg")
    await recorder.aclose()


async def test_a_thread_that_can_not_be_started_is_an_error_and_no_hang(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(self: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    studio = Studio()
    with monkeypatch.context() as patched:
        patched.setattr(threading.Thread, "start", refuse)
        with pytest.raises(RuntimeError, match="can't start"):
            await studio.recorder.start(output_path=tmp_path / "call.ogg")
    assert not studio.recorder.recording
    await studio.recorder.aclose()
    studio.microphone.frames.close()
    await studio.scope.cancel(1.0)


async def test_a_disk_that_blocks_holds_the_close_up_for_five_seconds_at_most(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import av

    release = threading.Event()
    real = av.open

    def blocked(*args: Any, **options: Any) -> Any:
        release.wait()
        return real(*args, **options)

    monkeypatch.setattr(av, "open", blocked)
    studio = Studio()
    await studio.recorder.start(output_path=tmp_path / "call.ogg")
    await studio.user_speaks(1.0)
    began = now()
    await studio.recorder.aclose()
    assert now() - began == pytest.approx(5.0)
    assert not studio.recorder.recording
    release.set()
    encoder: Any = studio.recorder._encoder
    await asyncio.wait((encoder.ended,), timeout=100.0)
    studio.microphone.frames.close()
    await studio.scope.cancel(1.0)


async def test_a_file_that_can_not_be_written_does_not_break_the_call(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "file").write_text("not a folder")
    async with recording(tmp_path / "file" / "call.ogg") as studio:
        await studio.user_speaks(5.0)
        await studio.agent_speaks(1.0)
        await studio.output.wait_for_playout()
        assert len(studio.heard) == 50
    assert "recorder encode thread failed; recording may be incomplete" in caplog.text


# -- the timeline ---------------------------------------------------------------------------------


def test_what_comes_too_late_is_dropped_and_counted() -> None:
    channel = Channel()
    assert list(channel.take(3)) == [0, 0, 0]
    channel.put(1, np.array([1, 2, 3, 4], dtype=np.int16))
    assert channel.late == 2 and list(channel.take(6)) == [3, 4, 0]


@given(
    st.lists(st.tuples(st.integers(0, 50), st.integers(1, 10)), max_size=12),
    st.lists(st.integers(1, 30), max_size=6),
)
def test_however_it_is_taken_it_is_the_same(
    pieces: list[tuple[int, int]], steps: list[int]
) -> None:
    whole, parts = Channel(), Channel()
    for number, (start, length) in enumerate(pieces, start=1):
        for channel in (whole, parts):
            channel.put(start, np.full(length, number, dtype=np.int16))
    until, taken = 0, []
    for step in steps:
        until += step
        taken.append(parts.take(until))
    taken.append(parts.take(100))
    assert list(np.concatenate(taken))[:100] == list(whole.take(100))


def test_jitter_makes_no_gaps_and_a_pause_begins_a_new_run() -> None:
    run = Run(tolerance=0.1)
    assert run.place(1.00, 0.02) == (1.00, True)
    assert run.place(1.05, 0.02) == (pytest.approx(1.02), False)
    assert run.place(1.00, 0.02) == (pytest.approx(1.04), False)
    assert run.place(2.00, 0.02) == (2.00, True)
