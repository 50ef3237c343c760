"""Voice activity detection that runs in the process, without a provider."""

from __future__ import annotations

import asyncio
import sys
import time
import weakref
from collections.abc import Iterator
from concurrent.futures import Executor
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Literal

from livekit import rtc

from .. import vad
from ..log import logger
from ..types import NOT_GIVEN, NotGivenOr
from ..utils import is_given
from ._speech_segmenter import WINDOW_DURATION, SegmenterOptions, SpeechSegmenter

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

__all__ = ["VAD", "VADModels"]

VADModels = Literal["silero"]

SLOW_INFERENCE_THRESHOLD = 0.2
"""Seconds that judging one window may take before it is worth a warning."""

_MODEL_RATE = 16000
_WINDOW_SAMPLES = 512
_WINDOW_BYTES = _WINDOW_SAMPLES * 2

_BURST_WINDOWS = 16
"""Windows judged at most before other tasks get a turn; one takes some tens of microseconds."""

_NATIVE_MODULE = "livekit.local_inference"


class VAD(vad.VAD):
    """The default detector: Silero, in native code.

    Judges windows of 32 ms. That takes some tens of microseconds, less than handing it to a thread,
    so it happens on the event loop unless an executor is given.
    """

    def __init__(
        self,
        *,
        model: VADModels = "silero",
        min_speech_duration: float = 0.05,
        min_silence_duration: float = 0.25,
        prefix_padding_duration: float = 0.5,
        max_buffered_speech: float = 60.0,
        activation_threshold: float = 0.5,
        deactivation_threshold: NotGivenOr[float] = NOT_GIVEN,
        executor: Executor | None = None,
    ) -> None:
        """Choose when speech counts as begun and as ended.

        The model itself is loaded when the first stream is opened.

        Args:
            model: Only `"silero"`.
            min_speech_duration: Seconds of speech that begin an utterance.
            min_silence_duration: Seconds of silence that end it.
            prefix_padding_duration: Seconds of audio from before the utterance in its frames.
            max_buffered_speech: Seconds of an utterance that are kept for its frames.
            activation_threshold: Probability, 0..1, from which a window counts as speech.
            deactivation_threshold: Probability above which it still does while somebody speaks.
                Default: `activation_threshold` - 0.15, at least 0.01.
            executor: Where to run the model instead of the event loop. It is not shut down.

        Raises:
            ValueError: The model is unknown, or the deactivation threshold is not positive.
        """
        if model != "silero":
            raise ValueError(f"unknown VAD model {model!r}: the only one is 'silero'")
        if not is_given(deactivation_threshold):
            deactivation_threshold = max(activation_threshold - 0.15, 0.01)
        elif deactivation_threshold <= 0:
            raise ValueError(
                f"deactivation_threshold must be greater than 0, got {deactivation_threshold}"
            )
        super().__init__(capabilities=vad.VADCapabilities(update_interval=WINDOW_DURATION))
        self._model: VADModels = model
        self._executor = executor
        self._options = SegmenterOptions(
            min_speech_duration=min_speech_duration,
            min_silence_duration=min_silence_duration,
            prefix_padding_duration=prefix_padding_duration,
            max_buffered_speech=max_buffered_speech,
            activation_threshold=activation_threshold,
            deactivation_threshold=deactivation_threshold,
        )
        self._streams: weakref.WeakSet[_VADStream] = weakref.WeakSet()

    @property
    def model(self) -> str:
        """`"silero"`."""
        return self._model

    @property
    def provider(self) -> str:
        """`"livekit-local-inference"`."""
        return "livekit-local-inference"

    @property
    def min_silence_duration(self) -> float:
        """Seconds of silence that end an utterance."""
        return self._options.min_silence_duration

    def stream(self) -> vad.VADStream:
        """Start to listen, with the options as they are now. Needs a running event loop."""
        stream = _VADStream(self, replace(self._options), self._executor)
        self._streams.add(stream)
        return stream

    def update_options(
        self,
        *,
        min_speech_duration: NotGivenOr[float] = NOT_GIVEN,
        min_silence_duration: NotGivenOr[float] = NOT_GIVEN,
        prefix_padding_duration: NotGivenOr[float] = NOT_GIVEN,
        max_buffered_speech: NotGivenOr[float] = NOT_GIVEN,
        activation_threshold: NotGivenOr[float] = NOT_GIVEN,
        deactivation_threshold: NotGivenOr[float] = NOT_GIVEN,
    ) -> None:
        """Change options, also of streams that are open. For their meaning see the constructor.

        A new activation threshold leaves the deactivation threshold as it is.
        """
        changes: dict[str, Any] = {
            "min_speech_duration": min_speech_duration,
            "min_silence_duration": min_silence_duration,
            "prefix_padding_duration": prefix_padding_duration,
            "max_buffered_speech": max_buffered_speech,
            "activation_threshold": activation_threshold,
            "deactivation_threshold": deactivation_threshold,
        }
        changes = {name: value for name, value in changes.items() if is_given(value)}
        self._options = replace(self._options, **changes)
        for stream in self._streams:
            stream.update_options(**changes)


class _VADStream(vad.VADStream):
    def __init__(self, vad: VAD, options: SegmenterOptions, executor: Executor | None) -> None:
        super().__init__(vad)
        self._segmenter = SpeechSegmenter(options)
        self._executor = executor
        self._windows: _Windows | None = None
        self._lag = 0.0
        self._other_rate_reported = False

    def update_options(self, **changes: float) -> None:
        self._segmenter.options = replace(self._segmenter.options, **changes)

    async def _main_task(self) -> None:
        model = await self._load()
        since_yield = 0
        async for item in self._input_ch:
            if not isinstance(item, rtc.AudioFrame):
                self._flush(model)
                continue
            for window in self._windows_of(item):
                await self._judge(model, window)
                since_yield += 1
            if since_yield >= _BURST_WINDOWS:
                since_yield = 0
                await asyncio.sleep(0)

    async def _load(self) -> Any:
        """The native model, with a state of its own for this stream."""
        if _NATIVE_MODULE in sys.modules:
            return _new_model()
        # The first use imports numpy and the library; the loop need not wait for the disk.
        return await asyncio.get_running_loop().run_in_executor(None, _new_model)

    def _windows_of(self, frame: rtc.AudioFrame) -> Iterator[rtc.AudioFrame]:
        if self._windows is None:
            self._windows = _Windows(frame.sample_rate)
        elif self._windows.sample_rate != frame.sample_rate:
            self._report_other_rate(frame.sample_rate, self._windows.sample_rate)
            return iter(())
        return self._windows.cut(frame)

    def _report_other_rate(self, rate: int, expected: int) -> None:
        if not self._other_rate_reported:  # they come fifty times a second
            self._other_rate_reported = True
            logger.error(
                "a frame with another sample rate was already pushed; such frames are dropped",
                extra={"sample_rate": rate, "expected_sample_rate": expected},
            )

    async def _judge(self, model: Any, window: rtc.AudioFrame) -> None:
        assert self._windows is not None
        started = time.perf_counter()
        pcm = self._windows.at_model_rate(window)
        if self._executor is None:
            probability = model.predict(pcm)
        else:
            loop = asyncio.get_running_loop()
            probability = await loop.run_in_executor(self._executor, model.predict, pcm)
        duration = time.perf_counter() - started
        self._watch_speed(duration)
        for event in self._segmenter.process(window, probability, duration):
            self._event_ch.send_nowait(event)

    def _watch_speed(self, duration: float) -> None:
        self._lag = max(0.0, self._lag + duration - WINDOW_DURATION)
        if duration > SLOW_INFERENCE_THRESHOLD:
            logger.warning("VAD inference is slower than realtime", extra={"delay": self._lag})

    def _flush(self, model: Any) -> None:
        model.reset()
        self._segmenter.reset()
        if self._windows is not None:
            self._windows.reset()


class _Windows:
    """Cuts frames of any size and rate into windows of 32 ms."""

    def __init__(self, sample_rate: int) -> None:
        self.sample_rate = sample_rate
        self.reset()

    def reset(self) -> None:
        """Begin anew, also with resampling."""
        self._pending = bytearray()
        self._fraction = 0  # of an input sample, in 1/16000, that the windows so far fell short
        self._resampled = bytearray()
        self._silent_windows = 0
        self._resampler: rtc.AudioResampler | None = None

    def cut(self, frame: rtc.AudioFrame) -> Iterator[rtc.AudioFrame]:
        """The windows that this frame completes, at the rate of the input."""
        self._pending += frame.data.cast("B")
        while True:
            samples, fraction = divmod(
                _WINDOW_SAMPLES * self.sample_rate + self._fraction, _MODEL_RATE
            )
            if len(self._pending) < samples * 2:
                return
            self._fraction = fraction
            data = self._pending[: samples * 2]
            del self._pending[: samples * 2]
            yield rtc.AudioFrame(data, self.sample_rate, 1, samples)

    def at_model_rate(self, window: rtc.AudioFrame) -> npt.NDArray[np.int16]:
        """The window as 512 samples at 16 kHz."""
        import numpy as np

        if self.sample_rate == _MODEL_RATE:
            return np.frombuffer(window.data, dtype=np.int16)
        if self._is_silent(window):
            # Digital silence, as from a muted microphone: the resampler has nothing to add.
            return np.zeros(_WINDOW_SAMPLES, dtype=np.int16)
        if self._resampler is None:
            self._resampler = rtc.AudioResampler(
                self.sample_rate, _MODEL_RATE, quality=rtc.AudioResamplerQuality.QUICK
            )
        for frame in self._resampler.push(window):
            self._resampled += frame.data.cast("B")
        missing = _WINDOW_BYTES - len(self._resampled)
        if missing > 0:
            # What the resampler holds back, once at the start; a little more for uneven ratios.
            self._resampled[:0] = bytes(missing + 4)
        pcm = bytes(self._resampled[:_WINDOW_BYTES])
        del self._resampled[:_WINDOW_BYTES]
        return np.frombuffer(pcm, dtype=np.int16)

    def _is_silent(self, window: rtc.AudioFrame) -> bool:
        """Whether neither this window nor what the resampler holds of the last has any sound."""
        samples = window.data.tobytes()
        if samples != bytes(len(samples)):
            self._silent_windows = 0
            return False
        self._silent_windows += 1
        return self._silent_windows > 1


def _new_model() -> Any:
    from livekit import local_inference

    return local_inference.VAD()
