"""Turns encoded audio that arrives in pieces into frames."""

from __future__ import annotations

import asyncio
import threading
import weakref
from collections.abc import AsyncIterator, Callable, Generator
from contextlib import closing
from functools import partial

from livekit import rtc

from ...log import logger
from ..aio import Chan, ChanClosed, ChanEmpty, wait_until
from ..audio import AudioByteStream
from .ffmpeg import decode
from .stream_buffer import StreamBuffer
from .wav import WavError, WavFormat, WavReader

__all__ = ["AudioStreamDecoder", "StreamBuffer"]

_CLOSE_TIMEOUT = 2.0
"""Seconds to wait for the decoding thread, which may be stuck in native code."""

_MAX_QUEUED_DURATION = 1.0
"""Seconds of decoded audio after which a source that can wait should."""

_WAV_FRAMES_PER_SECOND = 50

_CONTAINERS = {
    "mpeg": "mp3",
    "mp3": "mp3",
    "x-mpeg": "mp3",
    "aac": "aac",
    "x-aac": "aac",
    "flac": "flac",
    "x-flac": "flac",
    "wav": "wav",
    "wave": "wav",
    "x-wav": "wav",
    "opus": "ogg",
    "ogg": "ogg",
    "webm": "webm",
    "mp4": "mp4",
}


def _container_of(mime_type: str | None) -> str | None:
    subtype = (mime_type or "").lower().partition(";")[0].rpartition("/")[2]
    return _CONTAINERS.get(subtype.strip())


class AudioStreamDecoder:
    """Decodes a stream of encoded audio: push bytes, iterate over the frames.

    WAV is decoded at once, in `push`. Other formats are decoded by FFmpeg (through PyAV) in a
    thread of their own, which ends with the input, with `aclose`, or when the decoder is dropped,
    and never keeps the process from exiting.
    """

    def __init__(
        self, *, sample_rate: int = 48000, num_channels: int = 1, format: str | None = None
    ) -> None:
        """Create a decoder. No thread is started before the first bytes.

        Args:
            sample_rate: rate of the frames, in Hz.
            num_channels: 2 for stereo frames, otherwise mono. `audio/wav` keeps the channels of
                the file.
            format: MIME type of the bytes, such as `audio/mpeg` or `audio/ogg; codecs=opus`. An
                unknown one or None: recognise the format by its content.
        """
        self._sample_rate = sample_rate
        self._num_channels = 2 if num_channels == 2 else 1
        self._container = _container_of(format)
        self._output = _Output()
        self._wav = _WavStream(self._output, sample_rate) if self._container == "wav" else None
        self._buffer: StreamBuffer | None = None
        self._input_ended = False
        self._closed = False

    def push(self, chunk: bytes) -> None:
        """Decode the next bytes. Dropped once the input has ended or the decoder is closed."""
        if self._closed or self._input_ended or not chunk:
            return
        if self._wav is not None:
            self._wav.push(chunk)
            return
        if self._buffer is None:
            self._buffer = self._start_thread()
        self._output.fed()
        self._buffer.write(chunk)

    def end_input(self) -> None:
        """Let the frames end after what was pushed."""
        if self._closed or self._input_ended:
            return
        self._input_ended = True
        if self._wav is not None:
            self._wav.end()
        elif self._buffer is not None:
            self._buffer.end_input()
        else:
            self._output.finish()

    async def aclose(self) -> None:
        """Stop decoding and end the iteration; frames not yet read are dropped. Idempotent.

        Waits for the decoding thread, at most 2 s: one that is stuck in native code is abandoned
        with a warning.
        """
        self._closed = True
        self._output.discard()
        if self._buffer is None:
            return
        self._buffer.close()
        if await wait_until(self._output.thread_ended, _CLOSE_TIMEOUT):
            logger.warning(
                "audio decoder did not stop within %s s, abandoning its thread", _CLOSE_TIMEOUT
            )

    async def wait_for_demand(self) -> None:
        """Wait until what was pushed is decoded and most of it was read.

        For a source that can wait, such as a file, so that it isn't held in memory as a whole.
        """
        await self._output.wait_for_demand()

    def __aiter__(self) -> AsyncIterator[rtc.AudioFrame]:
        return self

    async def __anext__(self) -> rtc.AudioFrame:
        return await self._output.next()

    def _start_thread(self) -> StreamBuffer:
        output = self._output
        loop = asyncio.get_running_loop()
        output.thread_ended = loop.create_future()
        call = _loop_caller(loop)
        buffer = StreamBuffer(on_starving=lambda: call(output.starve))
        # The thread must not keep the decoder alive, whose end is what ends the thread.
        weakref.finalize(self, buffer.close)
        threading.Thread(
            target=_run_thread,
            args=(
                decode(buffer, self._container, self._sample_rate, self._num_channels),
                output,
                call,
            ),
            name="audio-decoder",
            daemon=True,
        ).start()
        return buffer


class _Output:
    """Frames on their way to the reader. Lives on the event loop."""

    def __init__(self) -> None:
        self.thread_ended: asyncio.Future[None]
        self.discarded = False
        self._frames: Chan[rtc.AudioFrame] = Chan()
        self._queued_duration = 0.0
        self._starving = True
        self._demand = asyncio.Event()

    async def next(self) -> rtc.AudioFrame:
        """The next frame. Raises StopAsyncIteration after the last one."""
        try:
            frame = await self._frames.recv()
        except ChanClosed:
            raise StopAsyncIteration from None
        self._queued_duration -= frame.duration
        self._demand.set()
        return frame

    def put(self, frame: rtc.AudioFrame) -> None:
        """Add a frame; dropped once it is finished."""
        if not self._frames.closed:
            self._queued_duration += frame.duration
            self._frames.send_nowait(frame)

    def finish(self) -> None:
        """No more frames come; those that wait can still be read."""
        self._frames.close()
        self.starve()

    def discard(self) -> None:
        """Nobody reads any more: drop what waits, and what will come."""
        self.discarded = True
        self.finish()
        try:
            while True:
                self._frames.recv_nowait()
        except (ChanEmpty, ChanClosed):
            pass

    def thread_finished(self) -> None:
        """The thread that decodes has ended."""
        self.finish()
        if not self.thread_ended.done():
            self.thread_ended.set_result(None)

    def fed(self) -> None:
        """There is something to decode."""
        self._starving = False

    def starve(self) -> None:
        """There is nothing left to decode, however little is read."""
        self._starving = True
        self._demand.set()

    async def wait_for_demand(self) -> None:
        """Return when more is to be decoded: the reader has room, and all input was used up."""
        while not self._frames.closed and (
            not self._starving or self._queued_duration >= _MAX_QUEUED_DURATION
        ):
            self._demand.clear()
            await self._demand.wait()


class _WavStream:
    """Decodes one WAV file after the other, without a thread."""

    def __init__(self, output: _Output, sample_rate: int) -> None:
        self._output = output
        self._sample_rate = sample_rate
        self._reader = WavReader()
        self._format: WavFormat | None = None
        self._samples: AudioByteStream | None = None
        self._resampler: rtc.AudioResampler | None = None
        self._failed = False

    def push(self, chunk: bytes) -> None:
        """Decode a piece of a file, cut anywhere. What follows an error is ignored."""
        if self._failed:
            return
        if self._reader.has_samples and chunk[:4] == b"RIFF":
            self._flush()
            self._reader = WavReader()
        try:
            samples = self._reader.push(bytes(chunk))
        except WavError:
            logger.exception("error decoding audio")
            self._failed = True
            self._output.finish()
            return
        if self._reader.has_samples:
            if self._samples is None:
                self._samples = self._open(self._reader.format)
            self._put(self._samples.push(samples))

    def end(self) -> None:
        """The last file is complete."""
        self._flush()
        self._output.finish()

    def _open(self, format: WavFormat | None) -> AudioByteStream:
        assert format is not None, "samples are only passed on after a format"
        if format.sample_rate != self._sample_rate:
            self._resampler = rtc.AudioResampler(
                format.sample_rate, self._sample_rate, num_channels=format.num_channels
            )
        return AudioByteStream(
            format.sample_rate,
            format.num_channels,
            samples_per_channel=max(1, format.sample_rate // _WAV_FRAMES_PER_SECOND),
        )

    def _put(self, frames: list[rtc.AudioFrame]) -> None:
        for frame in frames:
            for resampled in self._resampler.push(frame) if self._resampler else (frame,):
                self._output.put(resampled)

    def _flush(self) -> None:
        if self._samples is not None:
            self._put(self._samples.flush())
        if self._resampler is not None:
            for frame in self._resampler.flush():
                self._output.put(frame)
        self._samples = self._resampler = None


def _run_thread(
    frames: Generator[rtc.AudioFrame, None, None],
    output: _Output,
    call: Callable[[Callable[[], None]], bool],
) -> None:
    try:
        with closing(frames):
            for frame in frames:
                if output.discarded or not call(partial(output.put, frame)):
                    break
    except Exception:
        if not output.discarded:
            logger.exception("error decoding audio")
    finally:
        call(output.thread_finished)


def _loop_caller(loop: asyncio.AbstractEventLoop) -> Callable[[Callable[[], None]], bool]:
    """Make a function that runs its argument on `loop`, and says whether the loop still takes it."""

    def call(callback: Callable[[], None]) -> bool:
        try:
            loop.call_soon_threadsafe(callback)
        except RuntimeError:  # the loop is closed
            return False
        return True

    return call
