"""Several recognizers as one: when the first fails, the next takes over."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Literal

from .._exceptions import APIConnectionError
from .._streams import CLOSE_GRACE, report_survivors
from ..log import logger
from ..types import DEFAULT_API_CONNECT_OPTIONS, NOT_GIVEN, APIConnectOptions, NotGivenOr
from ..utils import aio
from ..vad import VAD
from .fallback_stream import FallbackRecognizeStream
from .recognize_stream import RecognizeStream
from .stream_adapter import StreamAdapter
from .stt import STT
from .types import SpeechEvent, STTCapabilities

if TYPE_CHECKING:
    from ..metrics.base import Metadata, STTMetrics
    from ..utils import AudioBuffer
    from ..voice.events import ConversationItemAddedEvent

__all__ = [
    "DEFAULT_FALLBACK_API_CONNECT_OPTIONS",
    "AvailabilityChangedEvent",
    "FallbackAdapter",
    "FallbackRecognizeStream",
]

# Going through all members is the retry.
DEFAULT_FALLBACK_API_CONNECT_OPTIONS = APIConnectOptions(
    max_retry=0, timeout=DEFAULT_API_CONNECT_OPTIONS.timeout
)


@dataclass
class AvailabilityChangedEvent:
    """A member of a fallback failed, or works again.

    `stt` is the member; for one without streaming, the `StreamAdapter` it was wrapped in.
    """

    stt: STT[Any]
    available: bool


class Member:
    """A recognizer in a fallback, and whether it worked lately."""

    def __init__(self, stt: STT[Any]) -> None:
        self.stt = stt
        self.available = True
        self.probe: asyncio.Task[None] | None = None


class FallbackAdapter(STT[Literal["stt_availability_changed"]]):
    """Uses the first recognizer that works.

    A member that fails is unavailable until a probe in the background, fed with the same audio, has
    transcribed something. It serves again from the next stream or failure on; a running stream is
    not switched back. Emits `"stt_availability_changed"` with `AvailabilityChangedEvent`.
    """

    def __init__(
        self,
        stt: Sequence[STT[Any]],
        *,
        vad: VAD | None = None,
        attempt_timeout: float = 10.0,
        max_retry_per_stt: int = 1,
        retry_interval: float = 5,
    ) -> None:
        """Combine recognizers, the preferred one first.

        Args:
            stt: The members. They are not closed with the adapter.
            vad: Needed for members that can't stream: finds the utterances for them.
            attempt_timeout: Seconds that a member may take to connect or answer.
            max_retry_per_stt: Retries with one member before the next one's turn.
            retry_interval: Seconds between them.

        Raises:
            ValueError: There is no member, or one can't stream and `vad` is missing.
        """
        if not stt:
            raise ValueError("a FallbackAdapter needs at least one STT")
        self._owned: list[StreamAdapter] = []
        self._members = [Member(self._streaming(member, stt, vad)) for member in stt]
        super().__init__(capabilities=_combined([member.stt for member in self._members]))
        self._recognize_metrics_needed = False  # members report
        self._active_instance = self._members[0].stt
        self._attempt_timeout = attempt_timeout
        self._max_retry_per_stt = max_retry_per_stt
        self._retry_interval = retry_interval
        self._closed = False
        self._probe_scope = aio.TaskScope(f"{self._label} probes")
        for member in self._members:
            member.stt.on("metrics_collected", self._on_metrics_collected)

    def _streaming(
        self, member: STT[Any], members: Sequence[STT[Any]], vad: VAD | None
    ) -> STT[Any]:
        if member.capabilities.streaming:
            return member
        if vad is None:
            labels = [m.label for m in members if not m.capabilities.streaming]
            raise ValueError(
                f"these STTs do not support streaming: {', '.join(labels)}. Pass a vad to the "
                "FallbackAdapter so that they can be given one utterance at a time"
            )
        adapter = StreamAdapter(stt=member, vad=vad)
        self._owned.append(adapter)
        return adapter

    @property
    def model(self) -> str:
        """Model of the member whose turn is next."""
        return self._next_instance.model

    @property
    def provider(self) -> str:
        """Provider of the member whose turn is next."""
        return self._next_instance.provider

    @property
    def _next_instance(self) -> STT[Any]:
        return next((m for m in self._members if m.available), self._members[0]).stt

    @property
    def metrics_metadata(self) -> Metadata:
        """Which model served last."""
        return self._active_instance.metrics_metadata

    @property
    def capabilities(self) -> STTCapabilities:
        """What all members can do (and what any can, for keyterms and context)."""
        # a member may learn to flush when its options change
        self._capabilities.manual_flush = all(
            m.stt.capabilities.manual_flush for m in self._members
        )
        return self._capabilities

    async def recognize(
        self,
        buffer: AudioBuffer,
        *,
        language: NotGivenOr[str] = NOT_GIVEN,
        conn_options: APIConnectOptions = DEFAULT_FALLBACK_API_CONNECT_OPTIONS,
    ) -> SpeechEvent:
        """Transcribe a finished utterance with the first member that can.

        Args:
            buffer: Its frames (int16).
            language: Language of the speech, where the provider can be told.
            conn_options: `max_retry` says how often to go through all members again.

        Raises:
            APIConnectionError: All members failed.
        """
        return await super().recognize(buffer, language=language, conn_options=conn_options)

    async def _recognize_impl(
        self,
        buffer: AudioBuffer,
        *,
        language: NotGivenOr[str] = NOT_GIVEN,
        conn_options: APIConnectOptions,
    ) -> SpeechEvent:
        loop = asyncio.get_running_loop()
        began = loop.time()
        options = self._member_options(conn_options)
        for member, serves in self._walk():
            if serves:
                try:
                    event = await member.stt.recognize(
                        buffer, language=language, conn_options=options
                    )
                except Exception as error:
                    self._member_failed(member, error)
                else:
                    self._member_served(member)
                    return event
            self._probe_in_background(member, buffer, language, options)
        raise self._all_failed(loop.time() - began)

    def stream(
        self,
        *,
        language: NotGivenOr[str] = NOT_GIVEN,
        conn_options: APIConnectOptions = DEFAULT_FALLBACK_API_CONNECT_OPTIONS,
    ) -> RecognizeStream:
        """Start to recognize audio while it comes in, with the first member that can.

        Args:
            language: Language of the speech, where the provider can be told.
            conn_options: `max_retry` says how often to go through all members again.
        """
        return FallbackRecognizeStream(stt=self, language=language, conn_options=conn_options)

    def prewarm(self) -> None:
        """Prewarm the preferred member."""
        self._members[0].stt.prewarm()

    async def aclose(self) -> None:
        """End the probes and let go of the members. Idempotent; takes at most about 2 s."""
        self._closed = True
        report_survivors(await self._probe_scope.cancel(CLOSE_GRACE))
        for member in self._members:
            member.stt.off("metrics_collected", self._on_metrics_collected)
        for adapter in self._owned:
            await adapter.aclose()

    def _update_session_keyterms(self, keyterms: list[str]) -> None:
        for member in self._members:
            member.stt._update_session_keyterms(keyterms)

    def _push_conversation_item(self, ev: ConversationItemAddedEvent) -> None:
        for member in self._members:
            member.stt._push_conversation_item(ev)

    def _on_metrics_collected(self, metrics: STTMetrics) -> None:
        self.emit("metrics_collected", metrics)

    # -- whose turn it is, for recognize and for streams ------------------------------------------

    def _walk(self) -> Iterator[tuple[Member, bool]]:
        """All members in order, each with whether to try it."""
        everyone = not any(member.available for member in self._members)
        if everyone:
            logger.error("all STTs are unavailable, retrying..")
        for member in self._members:
            yield member, everyone or member.available

    def _member_options(self, conn_options: APIConnectOptions) -> APIConnectOptions:
        return replace(
            conn_options,
            max_retry=self._max_retry_per_stt,
            timeout=self._attempt_timeout,
            retry_interval=self._retry_interval,
        )

    def _member_failed(self, member: Member, error: Exception) -> None:
        logger.warning(
            "%s failed, switching to the next STT: %s",
            member.stt.label,
            error,
            extra={"stt": member.stt.label},
        )
        self._set_available(member, False)

    def _member_served(self, member: Member) -> None:
        self._active_instance = member.stt
        self._set_available(member, True)

    def _member_recovered(self, member: Member) -> None:
        if not self._closed:
            logger.info("%s recovered", member.stt.label, extra={"stt": member.stt.label})
            self._set_available(member, True)

    def _set_available(self, member: Member, available: bool) -> None:
        if member.available is available:
            return
        member.available = available
        self.emit(
            "stt_availability_changed",
            AvailabilityChangedEvent(stt=member.stt, available=available),
        )

    def _all_failed(self, elapsed: float) -> APIConnectionError:
        labels = ", ".join(member.stt.label for member in self._members)
        return APIConnectionError(f"all STTs failed ([{labels}]) after {elapsed:.2f} seconds")

    # -- probes of recognize ----------------------------------------------------------------------

    def _probe_in_background(
        self,
        member: Member,
        buffer: AudioBuffer,
        language: NotGivenOr[str],
        options: APIConnectOptions,
    ) -> None:
        """Try the same audio again with a member that failed, to see whether it has recovered."""
        if self._closed or (member.probe is not None and not member.probe.done()):
            return
        member.probe = self._probe_scope.spawn(
            self._probe(member, buffer, language, options), name=f"probe of {member.stt.label}"
        )

    async def _probe(
        self,
        member: Member,
        buffer: AudioBuffer,
        language: NotGivenOr[str],
        options: APIConnectOptions,
    ) -> None:
        try:
            await member.stt.recognize(buffer, language=language, conn_options=options)
        except Exception as error:
            logger.debug("%s has not recovered: %s", member.stt.label, error)
            return
        self._member_recovered(member)


def _combined(members: list[STT[Any]]) -> STTCapabilities:
    all_of = [member.capabilities for member in members]
    aligned = all(capabilities.aligned_transcript for capabilities in all_of)
    return STTCapabilities(
        streaming=True,
        interim_results=all(c.interim_results for c in all_of),
        diarization=all(c.diarization for c in all_of),
        aligned_transcript=all_of[0].aligned_transcript if aligned else False,
        offline_recognize=any(c.offline_recognize for c in all_of),
        keyterms=any(c.keyterms for c in all_of),
        chat_context=any(c.chat_context for c in all_of),
        manual_flush=all(c.manual_flush for c in all_of),
    )
