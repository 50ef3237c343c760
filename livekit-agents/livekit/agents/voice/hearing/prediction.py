"""Asking a turn detector, without ever depending on its answer."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import TYPE_CHECKING

from ...log import logger
from ...utils.aio import TaskScope, wait_until

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine

    from livekit import rtc

    from ...language import LanguageCode
    from ...llm import ChatContext
    from ..turn import TurnDetectionEvent, _StreamingTurnDetectorStream, _TurnDetector

__all__ = ["DETECTOR_TIMEOUT", "Prediction", "StreamingPredictor", "TextPredictor", "bounded"]

DETECTOR_TIMEOUT = 3.0
"""Seconds a detector may take for one answer, look-ups of language and threshold included."""


@dataclass(frozen=True)
class Prediction:
    """What a detector said. Probabilities are 0..1; None is "not known"."""

    probability: float | None
    threshold: float | None
    inference_duration: float | None = None
    backchannel_likely: bool = False
    fresh: bool = True
    """False when the same answer was already used by an earlier decision."""

    @property
    def complete(self) -> bool:
        """Whether both numbers are there, so that a decision can be made."""
        return self.probability is not None and self.threshold is not None

    @property
    def unlikely(self) -> bool:
        """Whether the user doesn't sound done."""
        return (
            self.probability is not None
            and self.threshold is not None
            and self.probability < self.threshold
        )


async def bounded(
    scope: TaskScope, asking: Coroutine[object, object, Prediction | None]
) -> Prediction | None:
    """Run a detector call for at most `DETECTOR_TIMEOUT`. Failures and delays are no prediction."""
    task = scope.spawn(asking, name="predict end of turn", log_errors=False)
    try:
        await wait_until(task, DETECTOR_TIMEOUT)
    finally:
        if not task.done():
            task.cancel()  # stays in the scope until it ends, or is reported when that closes
    if not task.done():
        logger.warning(
            "the turn detector did not answer within %.1f s, going on without a prediction",
            DETECTOR_TIMEOUT,
        )
        return None
    if task.cancelled():
        return None
    if (error := task.exception()) is not None:
        logger.warning("Error predicting end of turn", exc_info=error)
        return None
    return task.result()


class TextPredictor:
    """Asks a detector that reads the conversation."""

    def __init__(self, detector: _TurnDetector) -> None:
        self.detector = detector

    async def ask(self, chat_ctx: ChatContext, language: LanguageCode | None) -> Prediction | None:
        """How likely the turn is over; None when the detector can't tell in this language."""
        if not await self.detector.supports_language(language):
            logger.info("Turn detector does not support language %s", language)
            return None
        probability = await self.detector.predict_end_of_turn(chat_ctx)
        return Prediction(probability, await self.detector.unlikely_threshold(language))


class StreamingPredictor:
    """Asks a detector that listens: the question is put when the user falls silent."""

    def __init__(self, stream: _StreamingTurnDetectorStream) -> None:
        self.stream = stream
        self._outstanding: asyncio.Future[TurnDetectionEvent] | None = None
        self._used = False
        self._warned_late = False
        self._deaf = False

    def when_lost(self, callback: Callable[[], None]) -> None:
        """Call `callback` when the detector can't judge any more; at once if that is so already.

        Only of detectors that tell.
        """
        when_degraded = getattr(self.stream, "when_degraded", None)
        if when_degraded is not None:
            when_degraded(callback)

    def push_audio(self, frame: rtc.AudioFrame) -> None:
        """Let the detector hear a frame."""
        if self._deaf:
            return
        try:
            self.stream.push_audio(frame)
        except Exception:
            self._deaf = True
            logger.exception("the turn detector takes no more audio")

    @property
    def outstanding(self) -> bool:
        """Whether the question was put for the silence that is going on."""
        return self._outstanding is not None

    def predict(self) -> None:
        """Put the question, unless it was put already."""
        if self._outstanding is None and not self._deaf:
            self._outstanding = self.stream.predict()
            self._used = False

    def forget(self) -> None:
        """The user goes on: the question is void."""
        if self._outstanding is not None:
            self._outstanding = None
            self.stream.cancel_inference()

    def flush(self, reason: str) -> None:
        """The audio so far has been dealt with."""
        self._outstanding = None
        self.stream.flush(reason)

    def warn_late_transcript(self) -> None:
        """A transcript came after its turn was committed: say it aloud once."""
        log = logger.debug if self._warned_late else logger.warning
        self._warned_late = True
        log(
            "a transcript arrived after its turn had been committed, so it was not judged by the "
            "turn detector; endpointing min_delay may be too low for this STT"
        )

    async def ask(self, language: LanguageCode | None) -> Prediction | None:
        """The answer to the outstanding question; None without one, or when it comes too late."""
        if not await self.stream.supports_language(language):
            logger.info("Turn detector does not support language %s", language)
            return None
        asked = self._outstanding
        if asked is None:
            return None
        if await wait_until(asked, self.stream.prediction_timeout):
            logger.warning("eot prediction timed out, committing without a prediction")
            self.stream.cancel_inference(timed_out=True)
            if self._outstanding is asked:
                self._outstanding = None
            return None
        if asked.cancelled():
            return None
        event = asked.result()
        fresh, self._used = not self._used, True
        return Prediction(
            event.end_of_turn_probability,
            await self.stream.unlikely_threshold(language),
            inference_duration=event.inference_duration,
            backchannel_likely=await self._backchannel_likely(event, language),
            fresh=fresh,
        )

    async def _backchannel_likely(
        self, event: TurnDetectionEvent, language: LanguageCode | None
    ) -> bool:
        if event.backchannel_probability is None:
            return False
        threshold = await self.stream.backchannel_threshold(language)
        return threshold is not None and event.backchannel_probability >= threshold
