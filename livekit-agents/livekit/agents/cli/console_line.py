"""A call from a file: the caller's voice is read from one, the agent's is written to another."""

from __future__ import annotations

import asyncio
import time
import wave
from collections import deque
from pathlib import Path

from livekit import rtc

from ..utils.aio import Chan, ChanClosed
from ..utils.audio import audio_frames_from_file
from ..voice import io
from .errors import CLIError

__all__ = ["FRAME", "SAMPLES", "SAMPLE_RATE", "SILENCE", "FileLine", "LineInput", "LineOutput"]

SAMPLE_RATE = 24_000
FRAME = 0.02
SAMPLES = int(SAMPLE_RATE * FRAME)
SILENCE = bytes(2 * SAMPLES)

_QUIET = 3.0
"""Seconds of silence from both sides, after the end of the file, that end the call."""

_PATIENCE = 120.0
"""Seconds after the end of the file that the agent may be busy."""


class LineInput(io.AudioInput):
    """What the agent hears.

    Args:
        label: Its name in logs.
    """

    def __init__(self, label: str = "file") -> None:
        super().__init__(label=label)
        self._frames: Chan[rtc.AudioFrame] = Chan()

    def push(self, pcm: bytes) -> None:
        """One frame of 20 ms, int16 mono at `SAMPLE_RATE`. Dropped after the end."""
        if not self._frames.closed:
            self._frames.send_nowait(rtc.AudioFrame(pcm, SAMPLE_RATE, 1, SAMPLES))

    def end(self) -> None:
        """The caller is gone."""
        self._frames.close()

    async def __anext__(self) -> rtc.AudioFrame:
        try:
            return await self._frames.recv()
        except ChanClosed:
            raise StopAsyncIteration from None


class LineOutput(io.AudioOutput):
    """What the caller hears. Plays as the clock of the line ticks; can pause.

    Args:
        label: Its name in logs.
    """

    def __init__(self, label: str = "file") -> None:
        super().__init__(
            label=label,
            capabilities=io.AudioOutputCapabilities(pause=True),
            sample_rate=SAMPLE_RATE,
        )
        self._buffer = bytearray()
        self._ends: deque[int] = deque()
        """Where in the buffer each complete segment ends, in bytes."""
        self._played = 0
        self._paused = False

    async def capture_frame(self, frame: rtc.AudioFrame) -> None:
        """Take a frame to be played."""
        await super().capture_frame(frame)
        self._buffer += bytes(frame.data)

    def flush(self) -> None:
        """The segment is complete."""
        if self._capturing:
            super().flush()
            self._ends.append(len(self._buffer))

    def clear_buffer(self) -> None:
        """Fall silent at once."""
        self._buffer.clear()
        self._ends.clear()
        while self._pending_playback_count > 0:
            self._finish(interrupted=True)

    def pause(self) -> None:
        """Stop, and keep what is left to say."""
        self._paused = True

    def resume(self) -> None:
        """Go on."""
        self._paused = False

    @property
    def playing(self) -> bool:
        """Whether the agent can be heard right now."""
        return bool(self._buffer) and not self._paused

    @property
    def busy(self) -> bool:
        """Whether something is, or will be, played."""
        return bool(self._buffer) or self._pending_playback_count > 0

    def tick(self) -> bytes:
        """The next frame of the agent's voice; silence when there is nothing to play."""
        if self._paused:
            return SILENCE
        while self._ends and self._ends[0] == 0:
            self._ends.popleft()
            self._finish(interrupted=False)
        if not self._buffer:
            return SILENCE
        end = min(2 * SAMPLES, self._ends[0] if self._ends else len(self._buffer))
        pcm = bytes(self._buffer[:end])
        del self._buffer[:end]
        self._ends = deque(mark - end for mark in self._ends)
        if not self._played:
            self.on_playback_started(created_at=time.time())
        self._played += len(pcm)
        if self._ends and self._ends[0] == 0:
            self._ends.popleft()
            self._finish(interrupted=False)
        return pcm.ljust(2 * SAMPLES, b"\0")

    def _finish(self, *, interrupted: bool) -> None:
        position, self._played = self._played / (2 * SAMPLE_RATE), 0
        self.on_playback_finished(playback_position=position, interrupted=interrupted)


class FileLine:
    """One clock moves both voices, in real time."""

    def __init__(self, caller: Path, reply: Path | None) -> None:
        """Set up.

        Args:
            caller: Audio file of any format and rate: what the caller says.
            reply: Where the agent's voice goes: WAV, 24 kHz mono, as long as the call.

        Raises:
            CLIError: `caller` does not exist, or `reply` can't be written.
        """
        if not caller.is_file():
            raise CLIError(f"{caller} does not exist")
        if reply is not None and not reply.resolve().parent.is_dir():
            raise CLIError(f"{reply} can't be written: its folder does not exist")
        self._caller = caller
        self._reply = reply
        self._voice = bytearray()
        self.input = LineInput()
        self.output = LineOutput()

    async def run(self) -> None:
        """Carry the call, until the file is over and the agent has finished answering."""
        pcm = await self._read()
        loop = asyncio.get_running_loop()
        began, ticks, quiet_since = loop.time(), 0, loop.time()
        file_over: float | None = None
        while True:
            frame = pcm[ticks * len(SILENCE) : (ticks + 1) * len(SILENCE)]
            if not frame and file_over is None:
                file_over = quiet_since = loop.time()
            self.input.push(frame.ljust(len(SILENCE), b"\0"))
            if self.output.busy:
                quiet_since = loop.time()
            self._voice += self.output.tick()
            if file_over is not None and (
                loop.time() - quiet_since > _QUIET and not self._agent_busy()
            ):
                break
            if file_over is not None and loop.time() - file_over > _PATIENCE:
                break
            ticks += 1
            await asyncio.sleep(max(0.0, began + ticks * FRAME - loop.time()))
        self.input.end()

    def _agent_busy(self) -> bool:
        from .console import AgentsConsole

        console = AgentsConsole.get_instance()
        return console.io_acquired and console.io_session.agent_state in ("thinking", "speaking")

    def write(self) -> None:
        """Write the agent's voice."""
        if self._reply is not None:
            with wave.open(str(self._reply), "wb") as file:
                file.setnchannels(1)
                file.setsampwidth(2)
                file.setframerate(SAMPLE_RATE)
                file.writeframes(bytes(self._voice))

    async def _read(self) -> bytes:
        pcm = bytearray()
        try:
            async for frame in audio_frames_from_file(
                str(self._caller), sample_rate=SAMPLE_RATE, num_channels=1
            ):
                pcm += bytes(frame.data)
        except Exception as error:
            raise CLIError(f"{self._caller} can't be read as audio: {error}") from error
        if not pcm:
            raise CLIError(f"{self._caller} has no sound")
        return bytes(pcm)
