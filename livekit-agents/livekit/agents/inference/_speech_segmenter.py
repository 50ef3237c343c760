"""From the probability of speech in each window of audio to starts and ends of speech.

A state machine without I/O: windows go in, events come out.
"""

from __future__ import annotations

from dataclasses import dataclass

from livekit import rtc

from ..log import logger
from ..vad import VADEvent, VADEventType

WINDOW_DURATION = 0.032
"""Seconds of audio in a window."""

_EPSILON = 1e-9  # durations are multiples of the window, compared with decimal fractions


@dataclass
class SegmenterOptions:
    """When speech counts as begun and as ended. Durations are seconds, thresholds 0..1."""

    min_speech_duration: float
    """Speech in a row that begins an utterance."""
    min_silence_duration: float
    """Silence in a row that ends it."""
    prefix_padding_duration: float
    """Audio kept from before it."""
    max_buffered_speech: float
    """Audio kept of it."""
    activation_threshold: float
    """Probability from which a window is speech."""
    deactivation_threshold: float
    """Probability above which it still is while somebody speaks."""


class SpeechSegmenter:
    """Finds the utterances in a sequence of windows.

    Args:
        options: Read at every window, so they may change in between.
    """

    def __init__(self, options: SegmenterOptions) -> None:
        self.options = options
        self._buffer = bytearray()
        self.reset()

    def reset(self) -> None:
        """Forget everything. An utterance in progress ends without an event."""
        self._speaking = False
        self._speech_windows = 0  # in a row
        self._silence_windows = 0  # in a row
        self._speech_duration = 0.0
        self._silence_duration = 0.0
        self._samples = 0
        self._windows = 0
        self._overflowed = False
        self._buffer.clear()

    @property
    def speaking(self) -> bool:
        """Whether an utterance is in progress."""
        return self._speaking

    def process(
        self, window: rtc.AudioFrame, probability: float, inference_duration: float = 0.0
    ) -> list[VADEvent]:
        """Take note of the next window.

        Args:
            window: Its audio, as it came in (any rate).
            probability: How likely it is speech.
            inference_duration: Seconds it took to tell.

        Returns:
            An `INFERENCE_DONE`, and perhaps the start or end of speech that it makes certain.
        """
        self._samples += window.samples_per_channel
        self._windows += 1
        if self._speaking:
            self._speech_duration += WINDOW_DURATION
        else:
            self._silence_duration += WINDOW_DURATION
        inference = self._event(VADEventType.INFERENCE_DONE, window)
        inference.probability = probability
        inference.inference_duration = inference_duration
        inference.raw_accumulated_speech = self._speech_windows * WINDOW_DURATION
        inference.raw_accumulated_silence = self._silence_windows * WINDOW_DURATION

        self._keep(window)
        change = (
            self._on_speech(window) if self._is_speech(probability) else self._on_silence(window)
        )
        return [inference] if change is None else [inference, change]

    def _is_speech(self, probability: float) -> bool:
        options = self.options
        return probability >= options.activation_threshold or (
            self._speaking and probability > options.deactivation_threshold
        )

    def _on_speech(self, window: rtc.AudioFrame) -> VADEvent | None:
        self._speech_windows += 1
        self._silence_windows = 0
        spoken = self._speech_windows * WINDOW_DURATION
        if self._speaking or spoken < self.options.min_speech_duration - _EPSILON:
            return None
        self._speaking = True
        self._speech_duration = spoken
        self._silence_duration = 0.0
        return self._event(VADEventType.START_OF_SPEECH, self._buffered(window))

    def _on_silence(self, window: rtc.AudioFrame) -> VADEvent | None:
        self._silence_windows += 1
        self._speech_windows = 0
        event = None
        if self._speaking:
            silent = self._silence_windows * WINDOW_DURATION
            if silent < self.options.min_silence_duration - _EPSILON:
                return None
            self._speaking = False
            self._speech_duration = max(0.0, self._speech_duration - silent)
            self._silence_duration = silent
            event = self._event(VADEventType.END_OF_SPEECH, self._buffered(window))
            self._speech_duration = 0.0
        self._keep_only_prefix(window)
        return event

    def _event(self, type: VADEventType, frame: rtc.AudioFrame) -> VADEvent:
        return VADEvent(
            type=type,
            samples_index=self._samples,
            timestamp=self._windows * WINDOW_DURATION,
            speech_duration=self._speech_duration,
            silence_duration=self._silence_duration,
            frames=[frame],
            speaking=self._speaking,
        )

    # -- audio of the utterance -------------------------------------------------------------------

    def _keep(self, window: rtc.AudioFrame) -> None:
        options = self.options
        capacity = _byte_count(
            options.max_buffered_speech + options.prefix_padding_duration, window.sample_rate
        )
        room = capacity - len(self._buffer)
        data = window.data.cast("B")
        if room >= len(data):
            self._overflowed = False
            self._buffer += data
            return
        if not self._overflowed:
            self._overflowed = True
            logger.warning(
                "max_buffered_speech reached, ignoring further data for the current speech input"
            )
        if room > 0:
            self._buffer += data[:room]
        else:
            del self._buffer[capacity:]

    def _keep_only_prefix(self, window: rtc.AudioFrame) -> None:
        if self._overflowed:
            # what is in the buffer is not what came just now
            self._overflowed = False
            self._buffer.clear()
            return
        prefix = _byte_count(self.options.prefix_padding_duration, window.sample_rate)
        del self._buffer[: max(0, len(self._buffer) - prefix)]

    def _buffered(self, window: rtc.AudioFrame) -> rtc.AudioFrame:
        return rtc.AudioFrame(
            bytes(self._buffer),
            sample_rate=window.sample_rate,
            num_channels=1,
            samples_per_channel=len(self._buffer) // 2,
        )


def _byte_count(seconds: float, sample_rate: int) -> int:
    return int(seconds * sample_rate) * 2
