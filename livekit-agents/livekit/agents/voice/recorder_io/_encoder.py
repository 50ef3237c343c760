"""Writes an Ogg/Opus file in a thread of its own."""

from __future__ import annotations

import asyncio
import queue
import threading
from pathlib import Path
from typing import Any

from ...log import logger

FFMPEG_STRICT_LEVEL = "experimental"
"""What FFmpeg's own Opus encoder has to be allowed; libopus is used where it is there."""

_BLOCK = 960
"""Samples in an Opus frame: 20 ms at 48 kHz."""


class Encoder:
    """A stereo file that grows. `ended` is resolved when the thread has finished it, or failed.

    Raises:
        RuntimeError: The thread can't be started.
    """

    def __init__(self, path: Path, sample_rate: int) -> None:
        self._path = path
        self._rate = sample_rate
        self._queue: queue.SimpleQueue[Any] = queue.SimpleQueue()
        self._loop = asyncio.get_running_loop()
        self.ended: asyncio.Future[None] = self._loop.create_future()
        self.failed = False
        threading.Thread(target=self._run, name="recorder_io_encode_thread", daemon=True).start()

    def write(self, left: Any, right: Any) -> None:
        """Append samples (int16) of both channels, of equal length. Does not wait."""
        if not self.failed:
            self._queue.put((left, right))

    def finish(self) -> None:
        """Nothing follows. Idempotent."""
        self._queue.put(None)

    def _run(self) -> None:
        try:
            self._encode()
        except Exception:
            self.failed = True
            logger.exception("recorder encode thread failed; recording may be incomplete")
        finally:
            try:
                self._loop.call_soon_threadsafe(self._end)
            except RuntimeError:
                pass  # the loop is gone: nobody waits

    def _end(self) -> None:
        if not self.ended.done():
            self.ended.set_result(None)

    def _encode(self) -> None:
        import av
        import numpy as np

        self._path.parent.mkdir(parents=True, exist_ok=True)
        codec = "libopus" if "libopus" in av.codecs_available else "opus"
        options = {"strict": FFMPEG_STRICT_LEVEL}
        with av.open(str(self._path), "w", format="ogg", options=options) as file:
            stream: Any = file.add_stream(codec, rate=self._rate, layout="stereo", options=options)
            resampler = av.AudioResampler(
                format=stream.codec_context.format, layout="stereo", rate=self._rate
            )
            pending, position = np.empty((0, 2), dtype=np.int16), 0
            while (item := self._queue.get()) is not None:
                pending = np.concatenate((pending, np.stack(item, axis=1)))
                whole = len(pending) - len(pending) % _BLOCK
                for start in range(0, whole, _BLOCK):
                    block = pending[start : start + _BLOCK]
                    self._mux(file, stream, resampler, block, position)
                    position += _BLOCK
                pending = pending[whole:]
            if len(pending):
                self._mux(file, stream, resampler, pending, position)
            file.mux(stream.encode(None))

    def _mux(self, file: Any, stream: Any, resampler: Any, block: Any, position: int) -> None:
        import av

        frame = av.AudioFrame.from_ndarray(
            block.reshape(1, -1).copy(), format="s16", layout="stereo"
        )
        frame.sample_rate, frame.pts = self._rate, position
        for converted in resampler.resample(frame):
            file.mux(stream.encode(converted))


__all__ = ["FFMPEG_STRICT_LEVEL", "Encoder"]
