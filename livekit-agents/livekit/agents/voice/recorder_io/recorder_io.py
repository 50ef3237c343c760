"""Records a call: the user on the left, the agent on the right, as it was heard."""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from livekit import rtc

from ...log import logger
from ...utils.aio import TaskScope, wait_until
from ..io import AudioInput, AudioOutput
from ..io.audio_output import _AudioWrapper
from ._encoder import FFMPEG_STRICT_LEVEL, Encoder
from .timeline import Channel, Run, mono

if TYPE_CHECKING:
    from ..agent_session import AgentSession

WRITE_INTERVAL = 2.5
"""Seconds between writes to the file."""

INPUT_STALL_TIMEOUT = 1.0
"""Seconds to wait for an input that has stopped delivering."""

MAX_RESAMPLER_LAG = 0.1
"""Seconds of sound that a resampler may hold back."""

RESYNC_TOLERANCE = 0.1
"""Seconds by which a run's own clock may differ from the times of its frames."""

CLOSE_TIMEOUT = 5.0
"""Seconds for the encoder to finish the file."""


class RecorderIO:
    """Writes both sides of a conversation into one Ogg/Opus file, on one timeline.

    Wrap the session's input and output with `record_input` and `record_output`, then `start`. A
    failure to record never breaks the call.
    """

    def __init__(
        self,
        *,
        agent_session: AgentSession[Any],
        sample_rate: int = 48000,
        loop: asyncio.AbstractEventLoop | None = None,
    ) -> None:
        """Set up a recorder.

        Args:
            agent_session: The session that is recorded.
            sample_rate: Of the file, in Hz.
            loop: Accepted for compatibility; the running loop is used.
        """
        self._session = agent_session
        self._rate = sample_rate
        self._input: RecorderAudioInput | None = None
        self._output: RecorderAudioOutput | None = None
        self._path: Path | None = None
        self._started_at: float | None = None
        self._recording = False
        self._encoder: Encoder | None = None
        self._scope = TaskScope("recorder")
        self._user, self._agent = Channel(), Channel()
        self._user_run = Run(RESYNC_TOLERANCE)
        self._user_heard_at = 0.0
        self._resampler: rtc.AudioResampler | None = None
        self._resampler_rate = 0
        self._user_next = 0

    def record_input(self, audio_input: AudioInput) -> RecorderAudioInput:
        """Wrap the input. Its frames pass through unchanged."""
        self._input = RecorderAudioInput(
            recording_io=self, source=audio_input, on_frame=self._on_user_frame
        )
        return self._input

    def record_output(self, audio_output: AudioOutput) -> RecorderAudioOutput:
        """Wrap the output. Its frames pass through unchanged."""
        self._output = RecorderAudioOutput(
            recording_io=self, audio_output=audio_output, on_played=self._on_played
        )
        return self._output

    @property
    def recording(self) -> bool:
        """Whether it records."""
        return self._recording

    @property
    def output_path(self) -> Path | None:
        """The file; None before the first `start`."""
        return self._path

    @property
    def recording_started_at(self) -> float | None:
        """When it started, in epoch seconds: the beginning of the file's timeline."""
        return self._started_at

    # -- the start --------------------------------------------------------------------------------

    async def start(self, *, output_path: str | Path) -> None:
        """Begin to record. Does nothing while it records.

        Args:
            output_path: The file; its folder is made.

        Raises:
            RuntimeError: The input or the output is not wrapped yet, or no thread can be started.
        """
        if self._recording:
            return
        if self._input is None or self._output is None:
            raise RuntimeError("call record_input() and record_output() before start()")
        path = Path(output_path)
        encoder = Encoder(path, self._rate)  # may fail: only then it records
        self._path, self._encoder = path, encoder
        self._started_at = time.time()
        self._user, self._agent = Channel(), Channel()
        self._user_run.close()
        self._user_heard_at = 0.0
        self._scope = TaskScope("recorder")
        self._scope.spawn(self._write_regularly(), name="write the recording")
        self._recording = True

    # -- what is heard ----------------------------------------------------------------------------

    @property
    def _takes_sound(self) -> bool:
        return self._recording and self._encoder is not None and not self._encoder.failed

    def _index(self, at: float) -> int:
        """The place of a moment (epoch seconds) in the file, in samples."""
        assert self._started_at is not None
        return round((at - self._started_at) * self._rate)

    def _on_user_frame(self, frame: rtc.AudioFrame) -> None:
        if not self._takes_sound:
            return
        now = self._user_heard_at = time.time()
        begin, new = self._user_run.place(now - frame.duration, frame.duration)
        if new or self._resampler_rate != frame.sample_rate:
            self._flush_user()
            self._user_next = max(0, self._index(begin))
            self._resampler_rate = frame.sample_rate
            self._resampler = (
                rtc.AudioResampler(frame.sample_rate, self._rate)
                if frame.sample_rate != self._rate
                else None
            )
        samples = mono(frame)
        if self._resampler is None:
            self._put_user(samples)
            return
        for part in self._resampler.push(bytearray(samples.tobytes())):
            self._put_user(mono(part))

    def _put_user(self, samples: Any) -> None:
        self._user.put(self._user_next, samples)
        self._user_next += len(samples)

    def _flush_user(self) -> None:
        if self._resampler is not None:
            for part in self._resampler.flush():
                self._put_user(mono(part))
            self._resampler = None

    def _on_played(self, samples: Any, sample_rate: int, started_at: float) -> None:
        """A stretch of the agent's voice was played."""
        if not self._takes_sound or not len(samples):
            return
        start = self._index(started_at)
        if sample_rate != self._rate:
            resampler = rtc.AudioResampler(sample_rate, self._rate)
            parts = resampler.push(bytearray(samples.tobytes())) + resampler.flush()
            wanted = round(len(samples) * self._rate / sample_rate)
            import numpy as np

            samples = np.concatenate([mono(part) for part in parts])[:wanted] if parts else samples
        if start < 0:
            samples, start = samples[-start:], 0
        self._agent.put(start, samples)

    # -- writing ----------------------------------------------------------------------------------

    async def _write_regularly(self) -> None:
        while True:
            await asyncio.sleep(WRITE_INTERVAL)
            self._write(self._settled())

    def _settled(self) -> float:
        """The moment up to which nothing can change any more, in epoch seconds."""
        now = time.time()
        settled = now
        if self._user_run.end is not None and now - self._user_heard_at < INPUT_STALL_TIMEOUT:
            settled = min(settled, self._user_run.end - MAX_RESAMPLER_LAG)
        pending = self._output.pending_since if self._output is not None else None
        return settled if pending is None else min(settled, pending)

    def _write(self, until: float) -> None:
        encoder, index = self._encoder, self._index(until)
        if encoder is None or encoder.failed or index <= self._user.taken:
            return
        encoder.write(self._user.take(index), self._agent.take(index))

    # -- the end ----------------------------------------------------------------------------------

    async def aclose(self, timeout: float = CLOSE_TIMEOUT) -> None:
        """Write what is left and finish the file. It can be started again. Idempotent, bounded.

        Args:
            timeout: Seconds for the file. Afterwards the thread finishes it by itself.
        """
        if not self._recording:
            return
        self._scope.cancel_soon()
        encoder = self._encoder
        assert encoder is not None
        try:
            self._flush_user()
            self._user_run.close()
            if self._output is not None:
                self._output._settle()
            self._write(time.time())
        except Exception:
            logger.exception("the end of the recording is lost")
        self._recording = False
        encoder.finish()
        for name, channel in (("user", self._user), ("agent", self._agent)):
            if channel.late:
                logger.warning(
                    "%.2f s of the %s's audio came too late for the recording",
                    channel.late / self._rate,
                    name,
                )
        if await wait_until(encoder.ended, timeout):
            logger.warning("the recording %s is not finished yet; its thread goes on", self._path)


class RecorderAudioInput(AudioInput):
    """Passes the user's audio through, and shows it to the recorder."""

    def __init__(
        self,
        *,
        recording_io: RecorderIO,
        source: AudioInput,
        on_frame: Callable[[rtc.AudioFrame], None],
    ) -> None:
        """Wrap an input; see `RecorderIO.record_input`."""
        super().__init__(label="RecorderIO", source=source)
        self._on_frame = on_frame

    def __aiter__(self) -> AsyncIterator[rtc.AudioFrame]:
        return self

    async def __anext__(self) -> rtc.AudioFrame:
        frame = await super().__anext__()
        try:
            self._on_frame(frame)
        except Exception:
            logger.exception("a frame of the user is missing in the recording")
        return frame


class _Kept:
    """A segment of the agent's voice, until it is known when it was played."""

    def __init__(self) -> None:
        self.since = time.time()
        """Nothing of it, but what was reported, played before this (epoch seconds)."""
        self.started_at: float | None = None
        self.reported = False
        self.rate = 0
        self._parts: list[Any] = []

    def add(self, frame: rtc.AudioFrame) -> None:
        self.rate = frame.sample_rate
        self._parts.append(mono(frame))

    def cut(self, offset: float, duration: float) -> Any:
        """The samples of a stretch, in seconds."""
        import numpy as np

        if not self._parts:
            return ()
        if len(self._parts) > 1:
            self._parts = [np.concatenate(self._parts)]
        start = round(offset * self.rate)
        return self._parts[0][start : start + round(duration * self.rate)]


class RecorderAudioOutput(_AudioWrapper):
    """Passes the agent's audio through, and keeps it until it is known when it was played."""

    def __init__(
        self,
        *,
        recording_io: RecorderIO,
        audio_output: AudioOutput | None = None,
        on_played: Callable[[Any, int, float], None],
    ) -> None:
        """Wrap an output; see `RecorderIO.record_output`.

        Raises:
            ValueError: There is no output to wrap.
        """
        if audio_output is None:
            raise ValueError("RecorderAudioOutput needs the audio output that it wraps")
        super().__init__(audio_output, label="RecorderIO")
        self._recorder = recording_io
        self._on_played = on_played
        self._segments: deque[_Kept] = deque()

    @property
    def pending_since(self) -> float | None:
        """Since when a segment is on its way (epoch seconds); None when none is."""
        return self._segments[0].since if self._segments else None

    async def capture_frame(self, frame: rtc.AudioFrame) -> None:
        """Pass a frame on, and then keep it."""
        opened = None
        if not self._capturing:
            opened = _Kept()  # before the sink has it: it may report at once
            self._segments.append(opened)
        segment = self._segments[-1] if self._segments else None
        try:
            await super().capture_frame(frame)
        except BaseException:
            if opened is not None and opened in self._segments:
                self._segments.remove(opened)
            raise
        if segment is not None and self._recorder.recording:
            segment.add(frame)

    def on_playback_started(self, *, created_at: float) -> None:
        """See `AudioOutput`."""
        if self._segments:
            self._segments[0].started_at = self._segments[0].since = created_at
        super().on_playback_started(created_at=created_at)

    def on_playback_progressed(self, *, started_at: float, offset: float, duration: float) -> None:
        """See `AudioOutput`."""
        if self._segments:
            segment = self._segments[0]
            segment.reported = True
            segment.since = started_at + duration
            self._on_played(segment.cut(offset, duration), segment.rate, started_at)
        super().on_playback_progressed(started_at=started_at, offset=offset, duration=duration)

    def on_playback_finished(
        self,
        *,
        playback_position: float,
        interrupted: bool,
        synchronized_transcript: str | None = None,
    ) -> None:
        """See `AudioOutput`."""
        if self._segments and self._pending_playback_count:
            self._place(self._segments.popleft(), playback_position)
        super().on_playback_finished(
            playback_position=playback_position,
            interrupted=interrupted,
            synchronized_transcript=synchronized_transcript,
        )

    def _place(self, segment: _Kept, position: float) -> None:
        """A segment whose sink did not say what it played, and when: the best guess."""
        if not segment.reported and position > 0:
            started = segment.started_at
            begin = started if started is not None else time.time() - position
            self._on_played(segment.cut(0.0, position), segment.rate, begin)

    def _settle(self) -> None:
        """The recording ends: place what plays at the moment."""
        while self._segments:
            segment = self._segments.popleft()
            if segment.started_at is not None:
                self._place(segment, time.time() - segment.started_at)


__all__ = [
    "FFMPEG_STRICT_LEVEL",
    "INPUT_STALL_TIMEOUT",
    "MAX_RESAMPLER_LAG",
    "RESYNC_TOLERANCE",
    "WRITE_INTERVAL",
    "RecorderAudioInput",
    "RecorderAudioOutput",
    "RecorderIO",
]
