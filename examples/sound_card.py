"""The machine's microphone and loudspeaker, as input and output of a session."""

from __future__ import annotations

import asyncio
import threading
import time
from typing import Any

from livekit import rtc

from livekit.agents.voice import io

SAMPLE_RATE = 24_000
BLOCK = SAMPLE_RATE // 50
"""Samples of one block: 20 ms."""


class NoSoundCardError(Exception):
    """There is no usable sound card; the message says why, in one line."""


def _sounddevice() -> Any:
    try:
        import sounddevice
    except ModuleNotFoundError:
        raise NoSoundCardError(
            "talking through the sound card needs sounddevice: pip install sounddevice"
        ) from None
    except OSError as error:
        raise NoSoundCardError(
            f"sounddevice can't find the PortAudio library ({error}); on Debian: "
            "apt-get install libportaudio2"
        ) from None
    return sounddevice


def _require(kind: str) -> Any:
    sounddevice = _sounddevice()
    try:
        sounddevice.query_devices(kind=kind)
    except (sounddevice.PortAudioError, ValueError) as error:
        raise NoSoundCardError(f"this machine has no {kind} device: {error}") from None
    return sounddevice


class Microphone(io.AudioInput):
    """Yields what the default microphone hears, 20 ms at a time."""

    def __init__(self) -> None:
        super().__init__(label="microphone")
        sounddevice = _require("input")
        self._loop = asyncio.get_running_loop()
        self._frames: asyncio.Queue[rtc.AudioFrame] = asyncio.Queue()
        self._stream = sounddevice.RawInputStream(
            samplerate=SAMPLE_RATE,
            channels=1,
            dtype="int16",
            blocksize=BLOCK,
            callback=self._heard,
        )

    def _heard(self, data: Any, samples: int, *_: Any) -> None:
        frame = rtc.AudioFrame(bytes(data), SAMPLE_RATE, 1, samples)
        self._loop.call_soon_threadsafe(self._frames.put_nowait, frame)

    async def __anext__(self) -> rtc.AudioFrame:
        return await self._frames.get()

    def on_attached(self) -> None:
        """Start listening."""
        self._stream.start()

    def on_detached(self) -> None:
        """Stop listening, and let go of the device."""
        self._stream.stop()
        self._stream.close()


class Speaker(io.AudioOutput):
    """Plays through the default loudspeaker; can pause."""

    def __init__(self) -> None:
        super().__init__(
            label="loudspeaker",
            capabilities=io.AudioOutputCapabilities(pause=True),
            sample_rate=SAMPLE_RATE,
        )
        sounddevice = _require("output")
        self._loop = asyncio.get_running_loop()
        self._lock = threading.Lock()
        self._buffer = bytearray()
        self._played = 0
        self._flushed = False
        self._started = False
        self._paused = False
        self._stream = sounddevice.RawOutputStream(
            samplerate=SAMPLE_RATE,
            channels=1,
            dtype="int16",
            blocksize=BLOCK,
            callback=self._play,
        )

    def _play(self, out: Any, samples: int, *_: Any) -> None:
        wanted = 2 * samples
        with self._lock:
            pcm = b"" if self._paused else bytes(self._buffer[:wanted])
            del self._buffer[: len(pcm)]
            first = bool(pcm) and not self._started
            self._started |= first
            self._played += len(pcm)
            over = self._flushed and not self._buffer and self._started
        out[:] = pcm.ljust(wanted, b"\0")
        if first:
            self._loop.call_soon_threadsafe(self._tell_started, time.time())
        if over:
            self._loop.call_soon_threadsafe(self._finish, False)

    def _tell_started(self, at: float) -> None:
        self.on_playback_started(created_at=at)

    def _finish(self, interrupted: bool) -> None:
        with self._lock:
            if not self._flushed and not interrupted:
                return
            position = self._played / (2 * SAMPLE_RATE)
            self._played, self._flushed, self._started = 0, False, False
        if self._pending_playback_count:
            self.on_playback_finished(playback_position=position, interrupted=interrupted)

    async def capture_frame(self, frame: rtc.AudioFrame) -> None:
        """Take a frame to be played."""
        await super().capture_frame(frame)
        with self._lock:
            self._buffer += bytes(frame.data)

    def flush(self) -> None:
        """The segment is complete."""
        capturing = self._capturing
        super().flush()
        with self._lock:
            self._flushed |= capturing

    def clear_buffer(self) -> None:
        """Fall silent at once."""
        with self._lock:
            self._buffer.clear()
        self._finish(True)

    def pause(self) -> None:
        """Stop, and keep what is left to say."""
        self._paused = True

    def resume(self) -> None:
        """Go on."""
        self._paused = False

    def on_attached(self) -> None:
        """Open the loudspeaker."""
        self._stream.start()

    def on_detached(self) -> None:
        """Let go of the device."""
        self._stream.stop()
        self._stream.close()
