"""Tells the primary speaker from those in the background, for recognizers with diarization."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterable
from dataclasses import dataclass, replace
from typing import Any

from livekit import rtc

from .._streams import report_survivors
from ..language import LanguageCode
from ..log import logger
from ..types import DEFAULT_API_CONNECT_OPTIONS, NOT_GIVEN, APIConnectOptions, NotGivenOr
from ..utils import aio, is_given
from ._wrapping import INNER_GRACE, WrappingSTT
from .primary_speaker import PrimarySpeakerDetectionOptions, PrimarySpeakerDetector
from .recognize_stream import RecognizeStream
from .stt import STT
from .types import SpeechData, SpeechEvent, SpeechEventType

__all__ = [
    "MultiSpeakerAdapter",
    "MultiSpeakerAdapterWrapper",
    "PrimarySpeakerDetectionOptions",
]


@dataclass(frozen=True)
class _Rules:
    """What happens to transcripts."""

    detect_primary: bool
    suppress_background: bool
    primary_format: str
    background_format: str


class MultiSpeakerAdapter(WrappingSTT):
    """Marks, formats or leaves out what others than the primary speaker say.

    The primary speaker is the first one heard, until another one is clearly louder.
    """

    def __init__(
        self,
        *,
        stt: STT[Any],
        detect_primary_speaker: bool = True,
        suppress_background_speaker: bool = False,
        primary_detection_options: NotGivenOr[PrimarySpeakerDetectionOptions] = NOT_GIVEN,
        primary_format: str = "{text}",
        background_format: str = "{text}",
    ) -> None:
        """Wrap a recognizer.

        Args:
            stt: A recognizer with diarization.
            detect_primary_speaker: Find out who the primary speaker is.
            suppress_background_speaker: Leave out what others say.
            primary_detection_options: When another speaker becomes the primary one.
            primary_format: Text of the primary speaker, from `{text}` and `{speaker_id}`.
            background_format: Text of others, likewise.

        Raises:
            ValueError: The recognizer can't tell speakers apart.
        """
        if not stt.capabilities.diarization:
            raise ValueError(
                f"MultiSpeakerAdapter needs an STT with diarization; {stt.label} has none "
                "(or it is not turned on)"
            )
        if suppress_background_speaker and not detect_primary_speaker:
            logger.warning(
                "suppress_background_speaker needs detect_primary_speaker; nobody is suppressed"
            )
            suppress_background_speaker = False
        super().__init__(stt, capabilities=stt.capabilities)
        self._rules = _Rules(
            detect_primary_speaker, suppress_background_speaker, primary_format, background_format
        )
        self._detection_options = (
            primary_detection_options
            if is_given(primary_detection_options)
            else PrimarySpeakerDetectionOptions()
        )

    def stream(
        self,
        *,
        language: NotGivenOr[str] = NOT_GIVEN,
        conn_options: APIConnectOptions = DEFAULT_API_CONNECT_OPTIONS,
    ) -> RecognizeStream:
        """Start to recognize audio while it comes in. See `STT.stream`."""
        return MultiSpeakerAdapterWrapper(
            self, wrapped_stt=self._stt, language=language, conn_options=conn_options
        )


class MultiSpeakerAdapterWrapper(RecognizeStream):
    """The stream of a `MultiSpeakerAdapter`."""

    def __init__(
        self,
        stt: MultiSpeakerAdapter,
        *,
        wrapped_stt: STT[Any],
        language: NotGivenOr[str],
        conn_options: APIConnectOptions,
    ) -> None:
        # The wrapped stream reconnects by itself; when it gives up, the budget is spent.
        """Open the stream. `MultiSpeakerAdapter.stream` does it.

        Args:
            stt: The adapter, for whom events and metrics are.
            wrapped_stt: Recognizes, and tells speakers apart.
            language: What to expect.
            conn_options: Of the wrapped stream, which reconnects by itself.
        """
        super().__init__(stt=stt, conn_options=replace(conn_options, max_retry=0))
        self._wrapped_stt = wrapped_stt
        self._wrapped_stt_conn_options = conn_options
        self._language = language
        self._rules = stt._rules
        self._detector = PrimarySpeakerDetector(stt._detection_options)

    async def _metrics_monitor_task(self, event_aiter: AsyncIterable[SpeechEvent]) -> None:
        async for _ in event_aiter:
            pass  # the wrapped recognizer reports

    async def _run(self) -> None:
        stream = self._wrapped_stt.stream(
            language=self._language, conn_options=self._wrapped_stt_conn_options
        )
        stream.start_time_offset = self.start_time_offset
        scope = aio.TaskScope(f"{self._stt.label} stream")
        feed = scope.spawn(self._feed(stream), log_errors=False)
        forward = scope.spawn(self._forward(stream), log_errors=False)
        try:
            await asyncio.wait({feed, forward}, return_when=asyncio.FIRST_COMPLETED)
            if not forward.done():
                feed.result()
            await forward
        finally:
            try:
                report_survivors(await scope.cancel(INNER_GRACE))
            finally:
                await stream.aclose()

    async def _feed(self, stream: RecognizeStream) -> None:
        async for item in self._input_ch:
            try:
                if isinstance(item, rtc.AudioFrame):
                    stream.push_frame(item)
                else:
                    stream.flush()
            except RuntimeError:
                return  # the wrapped stream is over; who reads its events knows why
            if isinstance(item, rtc.AudioFrame) and self._rules.detect_primary:
                self._detector.push(item)
        if not stream._event_ch.closed:
            stream.end_input()

    async def _forward(self, stream: RecognizeStream) -> None:
        async for event in stream:
            marked = self._mark(event)
            if marked is not None:
                self._event_ch.send_nowait(marked)

    def _mark(self, event: SpeechEvent) -> SpeechEvent | None:
        """The event as the rules want it; None to leave it out."""
        data = event.alternatives[0] if event.alternatives else None
        if data is None or data.speaker_id is None or not self._rules.detect_primary:
            return event
        if event.type is SpeechEventType.FINAL_TRANSCRIPT:
            offset = self.start_time_offset
            self._detector.transcribed(
                data.speaker_id, data.start_time - offset, data.end_time - offset
            )
        if self._detector.primary is None:
            return event
        is_primary = data.speaker_id == self._detector.primary
        if not is_primary and self._rules.suppress_background:
            if event.type is not SpeechEventType.FINAL_TRANSCRIPT:
                return None
            # an empty final clears what interims of it may be displayed
            return replace(event, alternatives=[SpeechData(language=LanguageCode(""), text="")])
        text_format = self._rules.primary_format if is_primary else self._rules.background_format
        marked = replace(
            data,
            text=text_format.format(text=data.text, speaker_id=data.speaker_id),
            is_primary_speaker=is_primary,
        )
        return replace(event, alternatives=[marked, *event.alternatives[1:]])
