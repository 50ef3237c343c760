"""What recognizers that wrap one other recognizer have in common."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ..types import DEFAULT_API_CONNECT_OPTIONS, NOT_GIVEN, APIConnectOptions, NotGivenOr
from .stt import STT
from .types import SpeechEvent, STTCapabilities

if TYPE_CHECKING:
    from ..metrics.base import STTMetrics
    from ..utils import AudioBuffer
    from ..voice.events import ConversationItemAddedEvent

INNER_GRACE = 0.5
"""Seconds that the tasks inside an adapter's stream get to end. Short enough to be over before the
stream itself, which is waiting for them, is cancelled for the second time."""


class WrappingSTT(STT[Any]):
    """Passes on what concerns the wrapped recognizer, and its metrics.

    Closing it lets go of the wrapped recognizer without closing that: its owner does.
    """

    def __init__(self, wrapped: STT[Any], *, capabilities: STTCapabilities) -> None:
        super().__init__(capabilities=capabilities)
        self._stt = wrapped
        self._recognize_metrics_needed = False  # the wrapped one reports
        wrapped.on("metrics_collected", self._on_metrics_collected)

    @property
    def wrapped_stt(self) -> STT[Any]:
        """The recognizer that does the work."""
        return self._stt

    @property
    def model(self) -> str:
        """Model of the wrapped recognizer."""
        return self._stt.model

    @property
    def provider(self) -> str:
        """Provider of the wrapped recognizer."""
        return self._stt.provider

    async def _recognize_impl(
        self,
        buffer: AudioBuffer,
        *,
        language: NotGivenOr[str] = NOT_GIVEN,
        conn_options: APIConnectOptions,
    ) -> SpeechEvent:
        return await self._stt.recognize(buffer, language=language, conn_options=conn_options)

    async def recognize(
        self,
        buffer: AudioBuffer,
        *,
        language: NotGivenOr[str] = NOT_GIVEN,
        conn_options: APIConnectOptions = DEFAULT_API_CONNECT_OPTIONS,
    ) -> SpeechEvent:
        """Transcribe a finished utterance. See `STT.recognize`; the wrapped one does the retries."""
        try:
            return await self._recognize_impl(buffer, language=language, conn_options=conn_options)
        except Exception as error:
            self._emit_error(error, recoverable=False)
            raise

    def prewarm(self) -> None:
        """Prewarm the wrapped recognizer."""
        self._stt.prewarm()

    async def aclose(self) -> None:
        """Stop passing on metrics. The wrapped recognizer stays open."""
        self._stt.off("metrics_collected", self._on_metrics_collected)

    def _update_session_keyterms(self, keyterms: list[str]) -> None:
        self._stt._update_session_keyterms(keyterms)

    def _push_conversation_item(self, ev: ConversationItemAddedEvent) -> None:
        self._stt._push_conversation_item(ev)

    def _on_metrics_collected(self, metrics: STTMetrics) -> None:
        self.emit("metrics_collected", metrics)
