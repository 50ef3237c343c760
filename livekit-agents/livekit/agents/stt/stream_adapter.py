"""Streaming for recognizers that can't: one request for each utterance, cut by voice activity."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterable
from dataclasses import dataclass, replace
from typing import Any

from livekit import rtc

from .._streams import report_survivors
from ..types import (
    DEFAULT_API_CONNECT_OPTIONS,
    NOT_GIVEN,
    APIConnectOptions,
    NotGivenOr,
    TimedString,
)
from ..utils import aio, is_given
from ..vad import VAD, VADEvent, VADEventType, VADStream
from ._wrapping import INNER_GRACE, WrappingSTT
from .recognize_stream import RecognizeStream
from .stt import STT
from .types import SpeechData, SpeechEvent, SpeechEventType, STTCapabilities

__all__ = ["DEFAULT_STREAM_ADAPTER_API_CONNECT_OPTIONS", "StreamAdapter", "StreamAdapterWrapper"]

# Retries happen inside the wrapped recognizer, for each utterance.
DEFAULT_STREAM_ADAPTER_API_CONNECT_OPTIONS = APIConnectOptions(
    max_retry=0, timeout=DEFAULT_API_CONNECT_OPTIONS.timeout
)


class StreamAdapter(WrappingSTT):
    """Makes a recognizer of finished utterances look like a streaming one.

    There are no interim results: each utterance is transcribed when the detector says it is over.
    """

    def __init__(self, *, stt: STT[Any], vad: VAD) -> None:
        """Combine a recognizer and a voice activity detector.

        Args:
            stt: Transcribes the utterances.
            vad: Finds them.
        """
        inner = stt.capabilities
        super().__init__(
            stt,
            capabilities=STTCapabilities(
                streaming=True,
                interim_results=False,
                diarization=False,
                offline_recognize=inner.offline_recognize,
                keyterms=inner.keyterms,
                chat_context=inner.chat_context,
            ),
        )
        self._vad = vad

    def stream(
        self,
        *,
        language: NotGivenOr[str] = NOT_GIVEN,
        conn_options: APIConnectOptions = DEFAULT_API_CONNECT_OPTIONS,
    ) -> RecognizeStream:
        """Start to recognize audio while it comes in.

        Args:
            language: Language of the speech, where the provider can be told.
            conn_options: Retries and timeout of the request for each utterance. One that fails for
                good ends the stream.
        """
        return StreamAdapterWrapper(
            self,
            vad=self._vad,
            wrapped_stt=self._stt,
            language=language,
            conn_options=conn_options,
        )


@dataclass(frozen=True)
class _Utterance:
    """Audio to transcribe. Times are seconds on the time line of the stream."""

    frames: list[rtc.AudioFrame]
    start: float
    """Of the audio."""
    speech_end: float
    """Of what was said in it."""
    ended_at: float
    """The same as wall clock time."""


class StreamAdapterWrapper(RecognizeStream):
    """The stream of a `StreamAdapter`."""

    def __init__(
        self,
        stt: STT[Any],
        *,
        vad: VAD,
        wrapped_stt: STT[Any],
        language: NotGivenOr[str],
        conn_options: APIConnectOptions,
    ) -> None:
        """Open the stream. `StreamAdapter.stream` does it.

        Args:
            stt: The adapter, for whom events and metrics are.
            vad: Finds the utterances.
            wrapped_stt: Recognizes them.
            language: What to expect.
            conn_options: For each utterance.
        """
        super().__init__(stt=stt, conn_options=DEFAULT_STREAM_ADAPTER_API_CONNECT_OPTIONS)
        self._vad = vad
        self._wrapped_stt = wrapped_stt
        self._language = language
        self._wrapped_stt_conn_options = conn_options
        self._heard = 0.0  # seconds of audio given to the detector

    async def _metrics_monitor_task(self, event_aiter: AsyncIterable[SpeechEvent]) -> None:
        async for _ in event_aiter:
            pass  # the wrapped recognizer reports

    async def _run(self) -> None:
        vad_stream = self._vad.stream()
        scope = aio.TaskScope(f"{self._stt.label} stream")
        # Two tasks, so that the next start of speech (a barge-in) doesn't wait for a transcript.
        utterances: aio.Chan[_Utterance] = aio.Chan()
        watch = scope.spawn(self._watch(vad_stream, utterances), log_errors=False)
        transcribe = scope.spawn(self._transcribe(utterances), log_errors=False)
        feed = scope.spawn(self._feed(vad_stream), log_errors=False)
        try:
            while not transcribe.done():
                running = [task for task in (watch, transcribe, feed) if not task.done()]
                await asyncio.wait(running, return_when=asyncio.FIRST_COMPLETED)
                for task in (watch, transcribe, feed):
                    if task.done():
                        task.result()
        finally:
            try:
                report_survivors(await scope.cancel(INNER_GRACE))
            finally:
                await vad_stream.aclose()

    async def _feed(self, vad_stream: VADStream) -> None:
        async for item in self._input_ch:
            try:
                if isinstance(item, rtc.AudioFrame):
                    vad_stream.push_frame(item)
                    self._heard += item.duration
                else:
                    vad_stream.flush()
            except RuntimeError:
                return  # the detector is over; who watches it knows why
        if not vad_stream._event_ch.closed:
            vad_stream.end_input()

    async def _watch(self, vad_stream: VADStream, utterances: aio.Chan[_Utterance]) -> None:
        async for event in vad_stream:
            if event.type is VADEventType.START_OF_SPEECH:
                self._event_ch.send_nowait(SpeechEvent(SpeechEventType.START_OF_SPEECH))
            elif event.type is VADEventType.END_OF_SPEECH:
                utterance = self._utterance(event)
                self._event_ch.send_nowait(
                    SpeechEvent(SpeechEventType.END_OF_SPEECH, speech_end_time=utterance.ended_at)
                )
                utterances.send_nowait(utterance)
        utterances.close()

    def _utterance(self, event: VADEvent) -> _Utterance:
        until = self.start_time_offset + self._heard
        duration = sum(frame.duration for frame in event.frames)
        return _Utterance(
            frames=event.frames,
            start=max(0.0, until - duration),
            speech_end=max(0.0, until - event.silence_duration),
            ended_at=time.time() - event.silence_duration - event.inference_duration,
        )

    async def _transcribe(self, utterances: aio.Chan[_Utterance]) -> None:
        from ..utils.audio import merge_frames

        async for utterance in utterances:
            result = await self._wrapped_stt.recognize(
                merge_frames(utterance.frames),
                language=self._language,
                conn_options=self._wrapped_stt_conn_options,
            )
            if not result.alternatives or not result.alternatives[0].text:
                continue
            self._event_ch.send_nowait(
                SpeechEvent(
                    SpeechEventType.FINAL_TRANSCRIPT,
                    request_id=result.request_id,
                    alternatives=[_placed(result.alternatives[0], utterance)],
                    speech_end_time=result.speech_end_time or utterance.ended_at,
                )
            )


def _placed(data: SpeechData, utterance: _Utterance) -> SpeechData:
    """A transcript with times on the time line of the stream; they came relative to the audio."""
    if data.end_time <= 0.0:
        return replace(data, start_time=utterance.start, end_time=utterance.speech_end)
    return replace(
        data,
        start_time=utterance.start + data.start_time,
        end_time=utterance.start + data.end_time,
        words=data.words and [_placed_word(word, utterance.start) for word in data.words],
    )


def _placed_word(word: TimedString, offset: float) -> TimedString:
    return TimedString(
        str(word),
        start_time=word.start_time + offset if is_given(word.start_time) else NOT_GIVEN,
        end_time=word.end_time + offset if is_given(word.end_time) else NOT_GIVEN,
        confidence=word.confidence,
        start_time_offset=offset,
        speaker_id=word.speaker_id,
    )
