"""Sounds as streams of frames: gain with ramps, one format, and files that loop without a gap."""

from __future__ import annotations

import asyncio
import math
from collections.abc import AsyncIterator, Callable
from typing import Any

from livekit import rtc

from ..log import logger

SAMPLE_RATE = 48000


class Gain:
    """A volume with equal-power ramps at both ends. No I/O: frames in, frames out.

    Args:
        volume: Factor on the samples.
        fade_in: Seconds from silence to the full volume.
        fade_out: Seconds from `stop` to silence.
    """

    def __init__(self, volume: float, fade_in: float = 0.0, fade_out: float = 0.0) -> None:
        self._volume = volume
        self._fade_in = fade_in
        self._fade_out = fade_out
        self._elapsed = 0.0
        self._stopped_at: float | None = None

    def stop(self) -> None:
        """Begin to fade out. Idempotent."""
        if self._stopped_at is None:
            self._stopped_at = self._elapsed

    @property
    def silent(self) -> bool:
        """Whether the fade-out is over."""
        return self._stopped_at is not None and (self._elapsed - self._stopped_at >= self._fade_out)

    def apply(self, frame: rtc.AudioFrame) -> rtc.AudioFrame:
        """The next frame, louder or softer. Samples are clipped to 16 bits."""
        start, self._elapsed = self._elapsed, self._elapsed + frame.duration
        ramps = start < self._fade_in or self._stopped_at is not None
        if self._volume == 1.0 and not ramps:
            return frame
        import numpy as np

        samples = np.frombuffer(frame.data, dtype=np.int16).astype(np.float32)
        gain: Any = self._volume
        if ramps:
            times = start + np.arange(frame.samples_per_channel) / frame.sample_rate
            if self._fade_in:
                gain = gain * np.sin(np.clip(times / self._fade_in, 0.0, 1.0) * (math.pi / 2))
            if self._stopped_at is not None and self._fade_out:
                progress = np.clip((times - self._stopped_at) / self._fade_out, 0.0, 1.0)
                gain = gain * np.cos(progress * (math.pi / 2))
            gain = np.repeat(gain, frame.num_channels)
        louder = np.clip(samples * gain, -32768, 32767).astype(np.int16)
        return rtc.AudioFrame(
            louder.tobytes(), frame.sample_rate, frame.num_channels, frame.samples_per_channel
        )


class Sound:
    """One sound while it plays: what a mixer reads.

    Args:
        open: Opens the source; again at its end when `loop` is set.
        gain: Its volume.
        loop: Whether it starts over at its end.
        on_end: Called once when it has ended, failed or faded out.
    """

    def __init__(
        self,
        open: Callable[[], AsyncIterator[rtc.AudioFrame]],
        *,
        gain: Gain,
        loop: bool,
        on_end: Callable[[], None],
    ) -> None:
        self._open = open
        self._gain = gain
        self._loop = loop
        self._on_end = on_end
        self._source: AsyncIterator[rtc.AudioFrame] | None = None
        self._resampler: rtc.AudioResampler | None = None
        self._ended = False

    def __aiter__(self) -> Sound:
        return self

    async def __anext__(self) -> rtc.AudioFrame:
        if self._ended or self._gain.silent:
            self._end()
            raise StopAsyncIteration
        try:
            return self._gain.apply(self._in_one_format(await self._next()))
        except StopAsyncIteration:
            self._end()
            raise
        except asyncio.CancelledError:
            raise
        except Exception:
            logger.exception("a background sound failed")
            self._end()
            raise StopAsyncIteration from None

    async def _next(self) -> rtc.AudioFrame:
        for _ in range(2):
            fresh = self._source is None
            if self._source is None:
                self._source = self._open()
            try:
                return await self._source.__anext__()
            except StopAsyncIteration:
                self._source = None
                if fresh or not self._loop:  # an empty source has no end to start over at
                    break
        raise StopAsyncIteration

    def _in_one_format(self, frame: rtc.AudioFrame) -> rtc.AudioFrame:
        if frame.num_channels != 1:
            import numpy as np

            samples = np.frombuffer(frame.data, dtype=np.int16).reshape(-1, frame.num_channels)
            mono = samples.mean(axis=1).astype(np.int16)
            frame = rtc.AudioFrame(mono.tobytes(), frame.sample_rate, 1, len(mono))
        if frame.sample_rate == SAMPLE_RATE:
            return frame
        if self._resampler is None:
            self._resampler = rtc.AudioResampler(frame.sample_rate, SAMPLE_RATE)
        parts = self._resampler.push(frame)
        data = b"".join(part.data.tobytes() for part in parts)
        return rtc.AudioFrame(data, SAMPLE_RATE, 1, len(data) // 2)

    def _end(self) -> None:
        if not self._ended:
            self._ended = True
            self._on_end()

    async def aclose(self) -> None:
        """Close the source."""
        self._end()
        source, self._source = self._source, None
        close = getattr(source, "aclose", None)
        if close is not None:
            try:
                await close()
            except RuntimeError:
                pass  # it is still being read: the read is cancelled, which ends it


__all__ = ["SAMPLE_RATE", "Gain", "Sound"]
