"""Helpers for raw audio: cutting byte streams into frames, joining frames, silence, files.

All audio here is signed 16-bit little-endian PCM, interleaved by channel, as in
[`rtc.AudioFrame`][livekit.rtc.AudioFrame].
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from livekit import rtc

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    from .codecs import AudioStreamDecoder

__all__ = [
    "AudioArrayBuffer",
    "AudioBuffer",
    "AudioByteStream",
    "audio_frames_from_file",
    "calculate_audio_duration",
    "combine_frames",
    "merge_frames",
    "silence_frame",
    "silence_frame_like",
]

AudioBuffer = list[rtc.AudioFrame] | rtc.AudioFrame
"""One frame, or a list of frames with the same sample rate and channel count."""

combine_frames = rtc.combine_audio_frames
"""Join the frames of an `AudioBuffer` into one frame; a single frame is returned as it is."""

merge_frames = rtc.combine_audio_frames
"""Same as `combine_frames`."""

_BYTES_PER_SAMPLE = 2
_FIRST_PROGRESSIVE_FRAME_MS = 20
_FILE_CHUNK_BYTES = 4096
_READER_CLOSE_TIMEOUT = 1.0


def calculate_audio_duration(frames: AudioBuffer) -> float:
    """Return the length of `frames` in seconds (0.0 for an empty list)."""
    if isinstance(frames, list):
        return sum(frame.duration for frame in frames)
    return frames.duration


def silence_frame(duration: float, sample_rate: int, num_channels: int = 1) -> rtc.AudioFrame:
    """Make a frame of digital silence.

    Args:
        duration: length in seconds, rounded down to whole samples.
        sample_rate: in Hz.
        num_channels: number of interleaved channels.
    """
    return rtc.AudioFrame.create(sample_rate, num_channels, int(duration * sample_rate))


def silence_frame_like(frame: rtc.AudioFrame) -> rtc.AudioFrame:
    """Make a frame of digital silence with the rate, channels and length of `frame`."""
    return rtc.AudioFrame.create(frame.sample_rate, frame.num_channels, frame.samples_per_channel)


class AudioByteStream:
    """Cuts a stream of PCM bytes, arriving in pieces of any size, into frames of a fixed length.

    Pieces may end anywhere, even in the middle of a sample. With `progressive` the first frame is
    short and each following one twice as long until the full length is reached: the first sound
    reaches the listener early, and later frames keep the overhead per frame low.
    """

    __slots__ = (
        "_buffer",
        "_first_frame_bytes",
        "_frame_bytes",
        "_next_frame_bytes",
        "_num_channels",
        "_sample_bytes",
        "_sample_rate",
    )

    def __init__(
        self,
        sample_rate: int,
        num_channels: int,
        samples_per_channel: int | None = None,
        progressive: bool = False,
    ) -> None:
        """Create an empty stream.

        Args:
            sample_rate: of the bytes, in Hz.
            num_channels: number of interleaved channels.
            samples_per_channel: length of each frame; 100 ms when None.
            progressive: start with a frame of 20 ms (or of the full length, if that is less) and
                double it from frame to frame up to the full length.

        Raises:
            ValueError: if the rate, the channels or the frame length aren't positive.
        """
        if samples_per_channel is None:
            samples_per_channel = sample_rate // 10
        if sample_rate <= 0 or num_channels <= 0 or samples_per_channel <= 0:
            raise ValueError(
                "sample_rate, num_channels and samples_per_channel must be positive, got "
                f"{sample_rate}, {num_channels}, {samples_per_channel}"
            )

        self._sample_rate = sample_rate
        self._num_channels = num_channels
        self._sample_bytes = num_channels * _BYTES_PER_SAMPLE
        self._frame_bytes = samples_per_channel * self._sample_bytes
        self._first_frame_bytes = self._frame_bytes
        if progressive:
            first = max(1, sample_rate * _FIRST_PROGRESSIVE_FRAME_MS // 1000)
            self._first_frame_bytes = min(self._frame_bytes, first * self._sample_bytes)
        self._next_frame_bytes = self._first_frame_bytes
        self._buffer = bytearray()

    @property
    def buffered_duration(self) -> float:
        """Seconds of audio that was pushed and not yet returned in a frame."""
        return len(self._buffer) / (self._sample_bytes * self._sample_rate)

    def push(self, data: bytes | bytearray | memoryview) -> list[rtc.AudioFrame]:
        """Append bytes and return every frame that is now complete, oldest first."""
        buffer = self._buffer
        buffer += data
        if len(buffer) < self._next_frame_bytes:
            return []

        frames = []
        start = 0
        while len(buffer) - start >= self._next_frame_bytes:
            end = start + self._next_frame_bytes
            frames.append(self._make_frame(buffer[start:end]))
            start = end
            if self._next_frame_bytes < self._frame_bytes:
                self._next_frame_bytes = min(self._next_frame_bytes * 2, self._frame_bytes)
        del buffer[:start]
        return frames

    write = push

    def flush(self) -> list[rtc.AudioFrame]:
        """Return what is buffered as one shorter frame (no frame if there is no complete sample).

        The bytes of an incomplete sample stay buffered. The progression of frame lengths goes on;
        see `reset_progressive`.
        """
        complete = len(self._buffer) - len(self._buffer) % self._sample_bytes
        if not complete:
            return []
        data = self._buffer[:complete]
        del self._buffer[:complete]
        return [self._make_frame(data)]

    def clear(self) -> None:
        """Drop what is buffered and start the progression of frame lengths again."""
        self._buffer.clear()
        self.reset_progressive()

    def reset_progressive(self) -> None:
        """Let the next frame be as short as the first one was. Buffered bytes stay."""
        self._next_frame_bytes = self._first_frame_bytes

    def _make_frame(self, data: bytearray) -> rtc.AudioFrame:
        return rtc.AudioFrame(
            data, self._sample_rate, self._num_channels, len(data) // self._sample_bytes
        )


class AudioArrayBuffer:
    """The newest samples of an audio stream as a mono numpy array, up to a fixed count.

    Frames are resampled to one rate and mixed to mono as they are pushed. When the buffer is full
    the oldest samples make room.
    """

    def __init__(
        self, *, buffer_size: int, dtype: npt.DTypeLike = "int16", sample_rate: int = 16000
    ) -> None:
        """Create an empty buffer.

        Args:
            buffer_size: capacity in samples.
            dtype: numpy type of the stored samples. Values keep the int16 range.
            sample_rate: rate of the stored samples, in Hz.

        Raises:
            ValueError: if `buffer_size` or `sample_rate` isn't positive.
        """
        if buffer_size <= 0 or sample_rate <= 0:
            raise ValueError(
                f"buffer_size and sample_rate must be positive, got {buffer_size} and {sample_rate}"
            )
        import numpy as np

        self._sample_rate = sample_rate
        self._samples: npt.NDArray[Any] = np.zeros(buffer_size, dtype=dtype)
        self._length = 0
        self._input_rate: int | None = None
        self._resampler: rtc.AudioResampler | None = None

    def __len__(self) -> int:
        """Number of samples held."""
        return self._length

    def push_frame(self, frame: rtc.AudioFrame) -> int:
        """Append a frame, dropping the oldest samples if there isn't room.

        Returns:
            Number of samples written; 0 while the resampler holds the audio back.

        Raises:
            ValueError: if the frame is larger than the buffer, or its rate isn't that of the
                frames before it (since the last `reset`).
        """
        if self._input_rate is None:
            self._input_rate = frame.sample_rate
        elif frame.sample_rate != self._input_rate:
            raise ValueError(
                f"sample rate changed from {self._input_rate} Hz to {frame.sample_rate} Hz; "
                "call reset() before pushing audio of another rate"
            )

        mono = self._resample(self._mix_to_mono(frame))
        count, capacity = len(mono), len(self._samples)
        if count > capacity:
            raise ValueError(f"frame of {count} samples is larger than the buffer of {capacity}")

        self.shift(self._length + count - capacity)
        self._samples[self._length : self._length + count] = mono
        self._length += count
        return count

    def shift(self, size: int) -> None:
        """Drop the oldest `size` samples (all of them if there are fewer; none if negative)."""
        size = min(size, self._length)
        if size <= 0:
            return
        self._samples[: self._length - size] = self._samples[size : self._length]
        self._length -= size

    def read(self) -> npt.NDArray[Any]:
        """Return a copy of the samples, oldest first."""
        samples: npt.NDArray[Any] = self._samples[: self._length].copy()
        return samples

    def reset(self) -> None:
        """Drop all samples, also those held back by the resampler; any rate may follow."""
        self._length = 0
        self._input_rate = None
        self._resampler = None

    def _mix_to_mono(self, frame: rtc.AudioFrame) -> npt.NDArray[np.int16]:
        import numpy as np

        samples = np.frombuffer(
            frame.data, dtype=np.int16, count=frame.samples_per_channel * frame.num_channels
        )
        if frame.num_channels > 1:
            samples = samples.reshape(-1, frame.num_channels).mean(axis=1).astype(np.int16)
        return samples

    def _resample(self, mono: npt.NDArray[np.int16]) -> npt.NDArray[np.int16]:
        if self._input_rate is None or self._input_rate == self._sample_rate:
            return mono
        if self._resampler is None:
            self._resampler = rtc.AudioResampler(
                self._input_rate, self._sample_rate, quality=rtc.AudioResamplerQuality.QUICK
            )
        resampled = self._resampler.push(bytearray(mono.tobytes()))
        return self._mix_to_mono(combine_frames(resampled)) if resampled else mono[:0]


async def audio_frames_from_file(
    file_path: str | Path, sample_rate: int = 48000, num_channels: int = 1
) -> AsyncGenerator[rtc.AudioFrame, None]:
    """Decode an audio file, frame by frame, not far ahead of the reader.

    Args:
        file_path: any container and codec that FFmpeg knows; recognised by content.
        sample_rate: rate of the frames, in Hz.
        num_channels: 2 for stereo frames, otherwise mono.

    Raises:
        OSError: if the file can't be read; raised after the frames of what was read.
    """
    from .aio.task_scope import TaskScope
    from .codecs import AudioStreamDecoder

    decoder = AudioStreamDecoder(sample_rate=sample_rate, num_channels=num_channels)
    scope = TaskScope("audio_frames_from_file")
    reader = scope.spawn(_feed_decoder(decoder, file_path), log_errors=False)
    try:
        async for frame in decoder:
            yield frame
        if reader.done():  # otherwise decoding failed before the whole file was read
            await reader
    finally:
        await scope.cancel(_READER_CLOSE_TIMEOUT)
        await decoder.aclose()


async def _feed_decoder(decoder: AudioStreamDecoder, file_path: str | Path) -> None:
    loop = asyncio.get_running_loop()
    try:
        file = await loop.run_in_executor(None, open, file_path, "rb")
        try:
            while chunk := await loop.run_in_executor(None, file.read, _FILE_CHUNK_BYTES):
                decoder.push(chunk)
                await decoder.wait_for_demand()
        finally:
            # Closing waits for a read that is still going on, so it isn't done on the event loop.
            loop.run_in_executor(None, file.close)
    except Exception:
        decoder.end_input()
        raise
    decoder.end_input()
