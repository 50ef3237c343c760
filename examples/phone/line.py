"""The line between a caller and an agent: one clock moves both voices, and records them."""

from __future__ import annotations

import array
import asyncio
import wave
from collections.abc import Callable
from pathlib import Path

from livekit.agents.cli.console_line import (
    FRAME,
    SAMPLE_RATE,
    SAMPLES,
    SILENCE,
    LineInput,
    LineOutput,
)

__all__ = ["FRAME", "SAMPLES", "SAMPLE_RATE", "SILENCE", "LineInput", "LineOutput", "PhoneLine"]


class PhoneLine:
    """Moves 20 ms frames both ways, in real time times `speed`, and keeps a recording.

    Args:
        caller: Gives the caller's next frame, or None when the caller hangs up.
        speed: How much faster than life the clock runs.
    """

    def __init__(self, caller: Callable[[], bytes | None], *, speed: float = 1.0) -> None:
        self._caller = caller
        self._speed = speed
        self.input = LineInput("phone line")
        self.output = LineOutput("phone line")
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
