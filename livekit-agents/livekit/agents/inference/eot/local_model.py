"""The model in this process: loaded once, off the event loop, and shared by all conversations.

It takes about 260 MB, once per process however many conversations there are. Where jobs
are forked, `load` in the fork server lets all of them share the same pages.
"""

from __future__ import annotations

import threading
from collections import deque
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt
    from livekit import rtc

SAMPLE_RATE = 16000
"""Hz."""

WINDOW_DURATION = 1.2
"""Seconds of audio that an answer is about."""

_WINDOW_SAMPLES = round(WINDOW_DURATION * SAMPLE_RATE)

_loading = threading.Lock()
_loaded = False


def load() -> None:
    """Load the model, unless it is there. Blocks for some 0.2 s; the event loop can go on.

    What fails is tried again the next time.

    Raises:
        Exception: Whatever keeps the native library from being imported or from loading.
    """
    global _loaded
    with _loading:
        if _loaded:
            return
        import numpy as np
        from livekit import local_inference

        # The first answer takes much longer than the next ones: nobody shall wait for it.
        with local_inference.EOT() as model:
            model.predict(np.zeros(_WINDOW_SAMPLES, dtype=np.int16))
        _loaded = True


def judge(heard: Heard) -> float:
    """How likely the turn is over, 0..1. Blocks for some 25 ms; the event loop can go on.

    Raises:
        Exception: Whatever the native library raises.
    """
    from livekit import local_inference

    pcm = heard.at_model_rate()
    with local_inference.EOT() as model:
        return float(model.predict(pcm))


@dataclass(frozen=True)
class Heard:
    """What was heard last, as it came: int16, channels interleaved."""

    pcm: bytes
    sample_rate: int = SAMPLE_RATE
    num_channels: int = 1

    def at_model_rate(self) -> npt.NDArray[np.int16]:
        """The last 1.2 s, or what there is of them: 16 kHz, mono."""
        import numpy as np

        samples = np.frombuffer(self.pcm, dtype=np.int16)
        if self.num_channels > 1:
            samples = samples.reshape(-1, self.num_channels).mean(axis=1).astype(np.int16)
        if self.sample_rate != SAMPLE_RATE and len(samples):
            samples = _resampled(samples.tobytes(), self.sample_rate)
        return samples[-_WINDOW_SAMPLES:]


def _resampled(pcm: bytes, sample_rate: int) -> npt.NDArray[np.int16]:
    import numpy as np
    from livekit import rtc

    resampler = rtc.AudioResampler(
        sample_rate, SAMPLE_RATE, quality=rtc.AudioResamplerQuality.QUICK
    )
    frame = rtc.AudioFrame(pcm, sample_rate, 1, len(pcm) // 2)
    pieces = [*resampler.push(frame), *resampler.flush()]
    return np.frombuffer(b"".join(piece.data.tobytes() for piece in pieces), dtype=np.int16)


class RecentAudio:
    """Keeps the last 1.2 s of one format. Nothing is computed until somebody asks for them."""

    def __init__(self) -> None:
        self._pieces: deque[bytes] = deque()
        self._size = 0
        self._limit = 0
        self._format = (SAMPLE_RATE, 1)

    def push(self, frame: rtc.AudioFrame) -> None:
        """Take a frame (int16), of the same rate and channels as those before."""
        self._format = (frame.sample_rate, frame.num_channels)
        self._limit = 2 * frame.num_channels * round(WINDOW_DURATION * frame.sample_rate)
        piece = frame.data.tobytes()
        self._pieces.append(piece)
        self._size += len(piece)
        while self._size - len(self._pieces[0]) >= self._limit:
            self._size -= len(self._pieces.popleft())

    def clear(self) -> None:
        """Forget all."""
        self._pieces.clear()
        self._size = 0

    def heard(self) -> Heard:
        """A copy of what there is now."""
        pcm = b"".join(self._pieces)
        return Heard(pcm[-self._limit :] if self._limit else pcm, *self._format)
