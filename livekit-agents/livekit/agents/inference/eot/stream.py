"""One conversation's worth of listening for the ends of turns."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from ...log import logger
from ...utils.aio import TaskScope
from ...voice.turn import TurnDetectionEvent
from .base import DEFAULT_PREDICTION_TIMEOUT
from .languages import CLOUD_MODEL, LOCAL_MODEL, ThresholdOptions
from .local_model import RecentAudio
from .local_transport import LocalTransport
from .transports import Answer, Transport

if TYPE_CHECKING:
    from livekit import rtc

    from ...language import LanguageCode
    from .detector import TurnDetector

_CLOSE_TIMEOUT = 1.5


class TurnDetectorStream:
    """Hears the user, and says on request how likely the turn is over.

    Never in the way: a model that fails answers "over" (1.0), so that the turn is committed after
    its ordinary delay.
    """

    def __init__(
        self,
        detector: TurnDetector,
        *,
        thresholds: ThresholdOptions,
        sample_rate: int,
        local_fallback: bool,
        open_cloud: Callable[[TurnDetectorStream], Transport] | None,
    ) -> None:
        """Begin to listen. The model is loaded or dialled when the first frame or question comes.

        Args:
            detector: On which metrics are reported.
            thresholds: Of this stream.
            sample_rate: Of the audio that models get, in Hz.
            local_fallback: Use the local model when the gateway fails.
            open_cloud: Connects to the gateway; None for the local model.

        Raises:
            RuntimeError: No event loop is running.
        """
        self._detector = detector
        self._thresholds = thresholds
        self._sample_rate = sample_rate
        self._local_fallback = local_fallback
        self._loop = asyncio.get_running_loop()
        self._scope = TaskScope("turn detector stream")
        self._recent = RecentAudio()
        self._format: tuple[int, int] | None = None
        self._format_reported = False
        self._request_id: str | None = None
        self._asked_wall = 0.0
        self._open: asyncio.Future[TurnDetectionEvent] | None = None
        self._closed = False
        self._fell_back = False
        self._degraded = False
        self._local_failure_reported = False
        self._on_degraded: Callable[[], None] | None = None
        self._open_cloud = open_cloud
        self._transport: Transport | None = None

    # -- what it is -------------------------------------------------------------------------------

    @property
    def model(self) -> str:
        """Name of the model that answers now."""
        return self._thresholds.model

    @property
    def provider(self) -> str:
        """`"livekit"`."""
        return "livekit"

    @property
    def is_fallback(self) -> bool:
        """Whether the local model took over from the gateway."""
        return self._fell_back

    @property
    def is_degraded(self) -> bool:
        """Whether nobody answers any more."""
        return self._degraded

    @property
    def prediction_timeout(self) -> float:
        """Seconds to wait for an answer."""
        return DEFAULT_PREDICTION_TIMEOUT

    async def unlikely_threshold(self, language: LanguageCode | None) -> float | None:
        """Below this probability the user isn't done. None: not known."""
        return self._thresholds.lookup(language)

    async def backchannel_threshold(self, language: LanguageCode | None) -> float | None:
        """From this probability on a short reaction fits. None: not judged."""
        return self._thresholds.lookup_backchannel(language)

    async def supports_language(self, language: LanguageCode | None) -> bool:
        """Whether turns in this language can be judged."""
        return self._thresholds.supports(language)

    # -- audio ------------------------------------------------------------------------------------

    def push_audio(self, frame: rtc.AudioFrame) -> None:
        """Take a frame of the user (int16). Ignored after the end."""
        transport = self._opened()
        if transport is None:
            return
        form = (frame.sample_rate, frame.num_channels)
        if self._format is None:
            self._format = form
        elif form != self._format:
            if not self._format_reported:
                self._format_reported = True
                logger.error("a frame with different audio format was already pushed")
            return
        self._recent.push(frame)
        transport.push(frame)

    def _opened(self) -> Transport | None:
        """Who answers; None when nobody does, any more."""
        if self._transport is None and not self._closed and not self._degraded:
            cloud = self._open_cloud if self._thresholds.model == CLOUD_MODEL else None
            self._transport = self._local() if cloud is None else cloud(self)
        return self._transport

    def flush(self, reason: str | None = None) -> None:
        """The audio so far is dealt with: forget it.

        Args:
            reason: Why, for logs.
        """
        self._recent.clear()
        if self._transport is not None and not self._closed:
            self._transport.flush()
        self.cancel_inference()

    def end_input(self) -> None:
        """No more audio will come."""
        if self._transport is not None and not self._closed:
            self._transport.end_input()

    # -- questions --------------------------------------------------------------------------------

    def predict(self) -> asyncio.Future[TurnDetectionEvent]:
        """Ask whether the turn is over. A question before that gets the answer "no" (0.0).

        Returns:
            The answer to come. It always comes, unless the model is stuck: wait no longer than
            `prediction_timeout`. 1.0 at once when the stream is closed.
        """
        self._settle(0.0)
        future: asyncio.Future[TurnDetectionEvent] = self._loop.create_future()
        self._asked_wall = time.time()
        transport = self._opened()
        if transport is None:
            future.set_result(self._event(1.0))
            return future
        self._open = future
        self._request_id = transport.new_request_id()
        transport.ask(self._request_id)
        return future

    def cancel_inference(self, *, timed_out: bool = False) -> None:
        """The answer isn't wanted any more; whoever waits gets "no" (0.0).

        Args:
            timed_out: It took too long. The local model takes over from the gateway then.
        """
        self._settle(0.0)
        if timed_out and self._thresholds.model == CLOUD_MODEL and self._local_fallback:
            self._leave_cloud(asyncio.TimeoutError("no prediction in time"))

    def _settle(self, probability: float) -> None:
        future, self._open, self._request_id = self._open, None, None
        if future is not None and not future.done():
            future.set_result(self._event(probability))

    def _event(self, probability: float, answer: Answer | None = None) -> TurnDetectionEvent:
        return TurnDetectionEvent(
            type="eot_prediction",
            end_of_turn_probability=probability,
            last_speaking_time=self._asked_wall,
            detection_delay=answer.detection_delay if answer is not None else None,
            inference_duration=answer.inference_duration if answer is not None else None,
            backchannel_probability=answer.backchannel_probability if answer is not None else None,
        )

    def _on_answer(self, answer: Answer) -> None:
        if answer.request_id != self._request_id:
            return
        future, self._open, self._request_id = self._open, None, None
        if future is not None and not future.done():
            future.set_result(self._event(answer.probability, answer))
        self._detector._report(answer, self.model)

    # -- failures ---------------------------------------------------------------------------------

    def when_degraded(self, callback: Callable[[], None]) -> None:
        """Call `callback` once when nobody answers any more; at once if that is so already."""
        self._on_degraded = callback
        if self._degraded:
            callback()

    def _degrade(self, error: Exception) -> None:
        self._degraded = True
        logger.warning("turn detection is off, turns end by silence alone: %s", error)
        self._settle(1.0)
        if self._on_degraded is not None:
            self._on_degraded()

    def _local(self) -> Transport:
        return LocalTransport(
            self._recent,
            on_answer=self._on_answer,
            on_failure=self._on_local_failure,
            on_unusable=self._on_local_unusable,
        )

    def _on_local_failure(self, error: Exception) -> None:
        self._settle(1.0)
        if not self._local_failure_reported:
            self._local_failure_reported = True
            logger.warning(
                "the local turn detector does not answer, turns end by silence alone until it does",
                exc_info=error,
            )

    def _on_local_unusable(self, error: Exception) -> None:
        self._transport = None
        self._degrade(error)

    def _on_session(self, created: Any) -> None:
        """The gateway tells its thresholds. Raises what ends the connection."""
        if self._thresholds.model != CLOUD_MODEL:
            return
        self._thresholds._set_cloud_defaults(
            dict(created.default_thresholds),
            created.default_threshold,
            dict(created.default_backchannel_thresholds),
            created.default_backchannel_threshold,
        )

    def _leave_cloud(self, error: Exception) -> None:
        """The gateway can't answer: the local model does, or nobody."""
        if self._closed or self._thresholds.model == LOCAL_MODEL or self._degraded:
            return
        cloud, self._transport = self._transport, None
        if cloud is not None and not self._scope.closed:
            self._scope.spawn(cloud.aclose(), name="close the cloud transport")
        if self._local_fallback:
            self._fell_back = True
            self._thresholds._fall_back()
            self._transport = self._local()
            logger.warning("turn detection falls back to the local model: %s", error)
            self._settle(1.0)
        else:
            self._degrade(error)

    async def aclose(self) -> None:
        """Stop at once. Whoever waits for an answer gets "no" (0.0). Idempotent."""
        self._closed = True
        self._settle(0.0)
        transport, self._transport = self._transport, None
        try:
            if transport is not None:
                await transport.aclose()
        finally:
            await self._scope.cancel(_CLOSE_TIMEOUT)
