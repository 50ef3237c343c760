"""The base of every speech recognizer."""

from __future__ import annotations

import asyncio
import time
from abc import ABC, abstractmethod
from typing import TYPE_CHECKING, Generic, Literal, TypeVar

from .._emitter import IsolatedEmitter
from .._exceptions import APIConnectionError, APIError
from .._model import NamedModel
from .._streams import ClosesOnExit, qualified_name
from ..log import logger
from ..types import DEFAULT_API_CONNECT_OPTIONS, NOT_GIVEN, APIConnectOptions, NotGivenOr
from ..utils.retry import RetryPolicy, is_retryable
from .recognize_stream import RecognizeStream, SpeechStream
from .replay_buffer import DEFAULT_CAPACITY, check_replay_duration
from .types import (
    RecognitionUsage,
    SpeakerContext,
    SpeechData,
    SpeechEvent,
    SpeechEventType,
    STTCapabilities,
    STTError,
)

if TYPE_CHECKING:
    from ..metrics.base import Metadata
    from ..utils import AudioBuffer
    from ..voice.events import ConversationItemAddedEvent

__all__ = [
    "RecognitionUsage",
    "RecognizeStream",
    "STT",
    "STTCapabilities",
    "STTError",
    "SpeakerContext",
    "SpeechData",
    "SpeechEvent",
    "SpeechEventType",
    "SpeechStream",
    "TEvent",
]

TEvent = TypeVar("TEvent")


class STT(
    ABC,
    NamedModel,
    ClosesOnExit,
    IsolatedEmitter[Literal["metrics_collected", "error"] | TEvent],
    Generic[TEvent],
):
    """A speech recognizer. One object serves any number of streams and sessions.

    Emits `"metrics_collected"` with `STTMetrics` and `"error"` with `STTError`. A provider
    implements `_recognize_impl`, and `stream` if it can recognize while audio still comes in.
    """

    _replay_duration = DEFAULT_CAPACITY  # also for providers that skip the constructor

    def __init__(self, *, capabilities: STTCapabilities) -> None:
        """Describe the recognizer.

        Args:
            capabilities: What it can do.
        """
        super().__init__()
        self._capabilities = capabilities
        self._label = qualified_name(self)
        self._recognize_metrics_needed = True
        self._warned_about: set[str] = set()

    @property
    def replay_duration(self) -> float:
        """Seconds of audio that a stream keeps through a reconnect; 10.0 by default, 0: none.

        What was pushed while there was no connection, and what a connection took without a
        transcript for it, goes to the next connection first, faster than it was spoken. When there
        is more, the oldest is lost: one warning tells how much, and the OpenTelemetry counter
        `lk.agents.stt.lost_audio_duration` counts it. Setting it is for streams opened afterwards.

        Raises:
            ValueError: When set to something that is no number of seconds, 0 or more.
        """
        return self._replay_duration

    @replay_duration.setter
    def replay_duration(self, seconds: float) -> None:
        self._replay_duration = check_replay_duration(seconds)

    @property
    def metrics_metadata(self) -> Metadata:
        """Which model metrics are about."""
        from ..metrics.base import Metadata

        return Metadata(model_name=self.model, model_provider=self.provider)

    @property
    def capabilities(self) -> STTCapabilities:
        """What it can do, as of now."""
        return self._capabilities

    @abstractmethod
    async def _recognize_impl(
        self,
        buffer: AudioBuffer,
        *,
        language: NotGivenOr[str] = NOT_GIVEN,
        conn_options: APIConnectOptions,
    ) -> SpeechEvent:
        """Transcribe a finished utterance: one attempt, without retries.

        Raises:
            APIError: The provider failed; depending on `retryable` it is asked again.
        """

    async def recognize(
        self,
        buffer: AudioBuffer,
        *,
        language: NotGivenOr[str] = NOT_GIVEN,
        conn_options: APIConnectOptions = DEFAULT_API_CONNECT_OPTIONS,
    ) -> SpeechEvent:
        """Transcribe a finished utterance.

        Args:
            buffer: Its frames (int16).
            language: Language of the speech, where the provider can be told.
            conn_options: How often to retry, and a timeout for the provider to keep. There is no
                other bound.

        Raises:
            APIConnectionError: All `max_retry + 1` attempts failed; the cause is the last failure.
            APIError: The provider refused in a way that retrying won't change.
        """
        policy = RetryPolicy(conn_options)
        while True:
            started = time.perf_counter()
            try:
                event = await self._recognize_impl(
                    buffer, language=language, conn_options=conn_options
                )
            except APIError as error:
                delay = policy.next_delay(error)
                self._after_failed_attempt(error, policy.failures, delay, conn_options)
                await asyncio.sleep(delay or 0.0)
                continue
            except Exception as error:
                self._emit_error(error, recoverable=False)
                raise
            if self._recognize_metrics_needed:
                self._report_recognition(event, buffer, time.perf_counter() - started)
            return event

    def _after_failed_attempt(
        self, error: APIError, attempt: int, delay: float | None, conn_options: APIConnectOptions
    ) -> None:
        """Report a failure. Raises when there is to be no further attempt."""
        self._emit_error(error, recoverable=delay is not None)
        if delay is not None:
            logger.warning(
                "failed to recognize speech: %s, retrying in %.2fs",
                error,
                delay,
                extra={"stt": self._label, "attempt": attempt, "streamed": False},
            )
        elif conn_options.max_retry == 0 or not is_retryable(error):
            raise error
        else:
            raise APIConnectionError(
                f"failed to recognize speech after {attempt} attempts"
            ) from error

    def stream(
        self,
        *,
        language: NotGivenOr[str] = NOT_GIVEN,
        conn_options: APIConnectOptions = DEFAULT_API_CONNECT_OPTIONS,
    ) -> RecognizeStream:
        """Start to recognize audio while it comes in.

        Args:
            language: Language of the speech, where the provider can be told.
            conn_options: How often to reconnect in a row, and the connect timeout.

        Raises:
            NotImplementedError: The provider can't. Wrap it in a `StreamAdapter`, which cuts the
                audio into utterances by voice activity.
        """
        raise NotImplementedError(
            f"{self._label} does not support streaming. Wrap it with a VAD in "
            "livekit.agents.stt.StreamAdapter to recognize one utterance at a time"
        )

    async def aclose(self) -> None:
        """Release what is shared between streams. The base has nothing to release."""

    def prewarm(self) -> None:
        """Connect ahead of the first use, in the background. The base does nothing."""

    # -- hooks of the voice pipeline --------------------------------------------------------------

    def _update_session_keyterms(self, keyterms: list[str]) -> None:
        """Set the terms that the session expects to hear, replacing earlier ones."""
        if not self._capabilities.keyterms:
            self._warn_once("keyterms", "does not take keyterms; they are ignored")

    def _push_conversation_item(self, ev: ConversationItemAddedEvent) -> None:
        """Take note of what was said, as context for what comes next."""
        if not self._capabilities.chat_context:
            self._warn_once("chat_context", "makes no use of the conversation; it is ignored")

    def _warn_once(self, topic: str, what: str) -> None:
        if topic not in self._warned_about:
            self._warned_about.add(topic)
            logger.warning("%s %s", self._label, what)

    # -- reporting --------------------------------------------------------------------------------

    def _emit_error(self, api_error: Exception, recoverable: bool) -> None:
        self.emit(
            "error",
            STTError(
                timestamp=time.time(),
                label=self._label,
                error=api_error,
                recoverable=recoverable,
            ),
        )

    def _report_recognition(self, event: SpeechEvent, buffer: AudioBuffer, duration: float) -> None:
        from ..utils.audio import calculate_audio_duration

        self._report_metrics(
            request_id=event.request_id,
            duration=duration,
            audio_duration=calculate_audio_duration(buffer),
            streamed=False,
        )

    def _report_metrics(
        self,
        *,
        streamed: bool,
        request_id: str = "",
        duration: float = 0.0,
        audio_duration: float = 0.0,
        input_tokens: int = 0,
        output_tokens: int = 0,
        acquire_time: float = 0.0,
        connection_reused: bool = False,
        replayed_audio_duration: float = 0.0,
        lost_audio_duration: float = 0.0,
    ) -> None:
        from ..metrics.base import STTMetrics

        self.emit(
            "metrics_collected",
            STTMetrics(
                label=self._label,
                request_id=request_id,
                timestamp=time.time(),
                duration=duration,
                audio_duration=audio_duration,
                input_tokens=input_tokens,
                output_tokens=output_tokens,
                streamed=streamed,
                acquire_time=acquire_time,
                connection_reused=connection_reused,
                replayed_audio_duration=replayed_audio_duration,
                lost_audio_duration=lost_audio_duration,
                metadata=self.metrics_metadata,
            ),
        )
