"""The machine's microphone and loudspeaker, as input and output of a session."""

from __future__ import annotations

import asyncio
import threading
import time
from typing import Any

from livekit import rtc

from ..utils.aio import Chan, ChanClosed
from ..voice import io
from .errors import CLIError

__all__ = ["Microphone", "SoundCard", "Speaker", "list_devices"]

SAMPLE_RATE = 24_000
_BLOCK = 2400
"""Samples that the card asks for, or delivers, at a time: 100 ms."""

_FRAME = SAMPLE_RATE // 100
"""Samples of the frames that echo cancellation works on: 10 ms."""

_PREBUFFER = int(0.3 * SAMPLE_RATE) * 2
"""Bytes that are collected before a segment begins to play, unless it is shorter."""


def _sounddevice() -> Any:
    try:
        import sounddevice  # type: ignore[import-untyped,unused-ignore]
    except ModuleNotFoundError:
        raise CLIError(
            "talking through the sound card needs sounddevice (pip install sounddevice); "
            "--text types instead, --input takes a recording"
        ) from None
    except OSError as error:
        raise CLIError(
            f"sounddevice can't find the PortAudio library ({error}); on Debian: apt-get install "
            "libportaudio2. --text types instead, --input takes a recording"
        ) from None
    return sounddevice


def list_devices() -> str:
    """The sound devices of this machine, as text.

    Raises:
        CLIError: There is no way to the sound card.
    """
    return str(_sounddevice().query_devices())


def _device(wanted: str | None, kind: str) -> Any:
    """The id of a device, given its id or a part of its name; None: the default one."""
    sounddevice = _sounddevice()
    device: int | str | None = None
    if wanted is not None:
        device = int(wanted) if wanted.isdigit() else wanted
    try:
        sounddevice.query_devices(device, kind)
    except (sounddevice.PortAudioError, ValueError) as error:
        name = "default" if wanted is None else repr(wanted)
        raise CLIError(
            f"there is no usable {kind} device {name}: {error}. --list-devices shows what there is"
        ) from None
    return device


class SoundCard:
    """Both directions, with the echo of the loudspeaker taken out of the microphone."""

    def __init__(self, input_device: str | None, output_device: str | None) -> None:
        """Find the devices. Nothing is opened before a session listens.

        Raises:
            CLIError: One of them does not exist, or sound is not available at all.
        """
        self._input = _device(input_device, "input")
        self._output = _device(output_device, "output")

    def open(self) -> tuple[Microphone, Speaker]:
        """The two ends, for the running event loop."""
        apm = rtc.AudioProcessingModule(
            echo_cancellation=True,
            noise_suppression=True,
            high_pass_filter=True,
            auto_gain_control=True,
        )
        return Microphone(self._input, apm), Speaker(self._output, apm)


class Microphone(io.AudioInput):
    """Yields what the microphone hears, 10 ms at a time."""

    def __init__(self, device: Any, apm: rtc.AudioProcessingModule) -> None:
        super().__init__(label="microphone")
        self._loop = asyncio.get_running_loop()
        self._apm = apm
        self._device = device
        self._frames: Chan[rtc.AudioFrame] = Chan()
        self._stream: Any = None

    def _heard(self, data: Any, samples: int, stamps: Any, *_: Any) -> None:
        pcm = bytes(data)
        for start in range(0, len(pcm) - 2 * _FRAME + 1, 2 * _FRAME):
            frame = rtc.AudioFrame(pcm[start : start + 2 * _FRAME], SAMPLE_RATE, 1, _FRAME)
            try:
                self._apm.process_stream(frame)
            except RuntimeError:
                pass  # heard as it is
            self._loop.call_soon_threadsafe(self._push, frame)

    def _push(self, frame: rtc.AudioFrame) -> None:
        if not self._frames.closed:
            self._frames.send_nowait(frame)

    async def __anext__(self) -> rtc.AudioFrame:
        try:
            return await self._frames.recv()
        except ChanClosed:
            raise StopAsyncIteration from None

    def on_attached(self) -> None:
        """Start listening."""
        self._stream = _sounddevice().RawInputStream(
            device=self._device,
            samplerate=SAMPLE_RATE,
            channels=1,
            dtype="int16",
            blocksize=_BLOCK,
            callback=self._heard,
        )
        self._stream.start()

    def on_detached(self) -> None:
        """Stop listening, and let go of the device."""
        stream, self._stream = self._stream, None
        if stream is not None:
            stream.stop()
            stream.close()


class Speaker(io.AudioOutput):
    """Plays through the loudspeaker; can pause."""

    def __init__(self, device: Any, apm: rtc.AudioProcessingModule) -> None:
        super().__init__(
            label="loudspeaker",
            capabilities=io.AudioOutputCapabilities(pause=True),
            sample_rate=SAMPLE_RATE,
        )
        self._loop = asyncio.get_running_loop()
        self._apm = apm
        self._device = device
        self._lock = threading.Lock()
        self._buffer = bytearray()
        self._played = 0
        self._flushed = False
        self._started = False
        self._paused = False
        self._stream: Any = None

    def _play(self, out: Any, samples: int, *_: Any) -> None:
        pcm, first, over = self._take(2 * samples)
        pcm = pcm.ljust(2 * samples, b"\0")
        out[:] = pcm
        self._tell_echo_cancellation(pcm)
        if first:
            self._loop.call_soon_threadsafe(self._tell_started, time.time())
        if over:
            self._loop.call_soon_threadsafe(self._finish, False)

    def _take(self, wanted: int) -> tuple[bytes, bool, bool]:
        """What to play now, whether it is the first of its segment, whether it is the last."""
        with self._lock:
            ready = self._started or self._flushed or len(self._buffer) >= _PREBUFFER
            pcm = bytes(self._buffer[:wanted]) if ready and not self._paused else b""
            del self._buffer[: len(pcm)]
            first = bool(pcm) and not self._started
            self._started |= first
            self._played += len(pcm)
            return pcm, first, self._flushed and not self._buffer

    def _tell_echo_cancellation(self, pcm: bytes) -> None:
        for start in range(0, len(pcm) - 2 * _FRAME + 1, 2 * _FRAME):
            frame = rtc.AudioFrame(pcm[start : start + 2 * _FRAME], SAMPLE_RATE, 1, _FRAME)
            try:
                self._apm.process_reverse_stream(frame)
            except RuntimeError:
                return

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
        self._stream = _sounddevice().RawOutputStream(
            device=self._device,
            samplerate=SAMPLE_RATE,
            channels=1,
            dtype="int16",
            blocksize=_BLOCK,
            callback=self._play,
        )
        self._stream.start()

    def on_detached(self) -> None:
        """Let go of the device."""
        stream, self._stream = self._stream, None
        if stream is not None:
            stream.stop()
            stream.close()
