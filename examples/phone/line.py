"""The line between a caller and an agent: one clock moves both voices, and records them."""

from __future__ import annotations

import array
import asyncio
import time
import wave
from collections import deque
from collections.abc import Callable
from pathlib import Path

from livekit import rtc

from livekit.agents.utils.aio import Chan, ChanClosed
from livekit.agents.voice import io

SAMPLE_RATE = 24_000
"""Hz of the line, mono, both ways."""

FRAME = 0.02
"""Seconds of one frame."""

SAMPLES = int(SAMPLE_RATE * FRAME)
SILENCE = bytes(2 * SAMPLES)


class LineInput(io.AudioInput):
    """What the agent hears."""

    def __init__(self) -> None:
        super().__init__(label="phone line")
        self._frames: Chan[rtc.AudioFrame] = Chan()

    def push(self, pcm: bytes) -> None:
        """One frame of the caller, int16 at `SAMPLE_RATE`."""
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
    """What the caller hears. Plays what it is given as the line's clock ticks; can pause."""

    def __init__(self) -> None:
        super().__init__(
            label="phone line",
            capabilities=io.AudioOutputCapabilities(pause=True),
            sample_rate=SAMPLE_RATE,
        )
        self._buffer = bytearray()
        self._flushed: deque[int] = deque()
        """Where in the buffer each complete segment ends, in bytes."""
        self._played = 0
        self._started = False
        self._paused = False

    async def capture_frame(self, frame: rtc.AudioFrame) -> None:
        """Take a frame to be played."""
        await super().capture_frame(frame)
        self._buffer += bytes(frame.data)

    def flush(self) -> None:
        """The segment is complete."""
        if self._capturing:
            super().flush()
            self._flushed.append(len(self._buffer))

    def clear_buffer(self) -> None:
        """Fall silent at once."""
        self._buffer.clear()
        self._flushed.clear()
        while self._pending_playback_count > 0:
            self._finish(interrupted=True)

    def pause(self) -> None:
        """Stop, and keep what is left to say."""
        self._paused = True

    def resume(self) -> None:
        """Go on."""
        self._paused = False

    def tick(self) -> bytes:
        """The next frame of the agent's voice; silence when there is nothing to play."""
        if self._paused or not self._buffer:
            return SILENCE
        end = min(2 * SAMPLES, self._flushed[0] if self._flushed else len(self._buffer))
        pcm = bytes(self._buffer[:end])
        del self._buffer[:end]
        self._flushed = deque(mark - end for mark in self._flushed)
        if not self._started and pcm:
            self._started = True
            self.on_playback_started(created_at=time.time())
        self._played += len(pcm)
        if self._flushed and self._flushed[0] == 0:
            self._flushed.popleft()
            self._finish(interrupted=False)
        return pcm.ljust(2 * SAMPLES, b"\0")

    def _finish(self, *, interrupted: bool) -> None:
        position = self._played / (2 * SAMPLE_RATE)
        self._played, self._started = 0, False
        self.on_playback_finished(playback_position=position, interrupted=interrupted)

    @property
    def playing(self) -> bool:
        """Whether the agent can be heard right now."""
        return bool(self._buffer) and not self._paused


class PhoneLine:
    """Moves 20 ms frames both ways, in real time times `speed`, and keeps a recording.

    Args:
        caller: Gives the caller's next frame, or None when the caller hangs up.
        speed: How much faster than life the clock runs.
    """

    def __init__(self, caller: Callable[[], bytes | None], *, speed: float = 1.0) -> None:
        self._caller = caller
        self._speed = speed
        self.input = LineInput()
        self.output = LineOutput()
        self.caller_pcm = bytearray()
        self.agent_pcm = bytearray()

    @property
    def seconds(self) -> float:
        """How long the call has lasted, on the clock of the line."""
        return len(self.caller_pcm) / (2 * SAMPLE_RATE)

    async def run(self) -> None:
        """Carry the call until the caller hangs up."""
        loop = asyncio.get_running_loop()
        began, ticks = loop.time(), 0
        while (frame := self._caller()) is not None:
            self.input.push(frame)
            self.caller_pcm += frame
            self.agent_pcm += self.output.tick()
            ticks += 1
            await asyncio.sleep(max(0.0, began + ticks * FRAME / self._speed - loop.time()))
        self.input.end()

    def write_wav(self, path: Path) -> None:
        """Write the call as stereo: caller left, agent right."""
        left, right = array.array("h"), array.array("h")
        left.frombytes(self.caller_pcm)
        right.frombytes(self.agent_pcm)
        both = array.array("h", bytes(4 * len(left)))
        both[0::2], both[1::2] = left, right
        with wave.open(str(path), "wb") as file:
            file.setnchannels(2)
            file.setsampwidth(2)
            file.setframerate(SAMPLE_RATE)
            file.writeframes(both.tobytes())
