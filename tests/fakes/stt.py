"""A speech recognizer that does what the test says.

It hears by *timeline* (utterances that lie in the pushed audio, whatever the frames contain), or
says what the test makes it say (`FakeRecognizeStream.send`, `.final`), or both. It can refuse,
drop connections, hang while closing and ignore its cancellation.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

from livekit import rtc

from livekit.agents.language import LanguageCode
from livekit.agents.stt import (
    STT,
    RecognitionUsage,
    RecognizeStream,
    SpeechData,
    SpeechEvent,
    SpeechEventType,
    STTCapabilities,
)
from livekit.agents.types import (
    DEFAULT_API_CONNECT_OPTIONS,
    NOT_GIVEN,
    APIConnectOptions,
    NotGivenOr,
)
from livekit.agents.utils import AudioBuffer
from livekit.agents.utils.aio import TaskScope

FOREVER = float("inf")

ONSET = 0.1
"""Seconds of an utterance that must be heard before it is noticed."""

TRAILING = 0.2
"""Seconds of audio after an utterance before its final transcript comes."""


@dataclass(frozen=True)
class Utterance:
    """Something said: `start` and `end` in seconds of the stream's time line."""

    text: str
    start: float
    end: float
    speaker_id: str | None = None


@dataclass
class Attempt:
    """What one connection attempt saw."""

    began_at: float
    """Loop time."""
    offset: float = 0.0
    """`start_time_offset` once its first frame was taken."""
    items: list[rtc.AudioFrame | RecognizeStream._FlushSentinel] = field(default_factory=list)
    duration: float = 0.0
    """Seconds of audio taken."""

    @property
    def frames(self) -> list[rtc.AudioFrame]:
        return [item for item in self.items if isinstance(item, rtc.AudioFrame)]

    @property
    def samples(self) -> list[int]:
        """All samples it took, in order (first channel only if mono)."""
        return [sample for frame in self.frames for sample in frame.data]


class FakeSTT(STT[Any]):
    """See the module.

    Args:
        timeline: What every stream hears in its audio.
        failures: How connection attempts (of streams and of `recognize`) end, in order, counted
            over all streams: an exception to raise, or None to succeed. Past the end: success.
        fail_always: Every attempt ends with this.
        connect_time: Seconds until an attempt fails or starts to listen.
        transcripts: Results of `recognize`, in order; then the empty text.
        recognize_time: Seconds that `recognize` takes.
        hang_on_close: Seconds that the cleanup of `_run` takes; `FOREVER` for a dead peer.
        ignore_cancellation: `_run` goes on after being cancelled, for ever.
        report_usage: Send RECOGNITION_USAGE before each final of the timeline.
        sample_rate: What streams want; not given: as pushed.
        setup: Called with every new stream.
        label: Replaces the label.
    """

    def __init__(
        self,
        *,
        timeline: Sequence[Utterance] = (),
        failures: Iterable[Exception | None] = (),
        fail_always: Exception | None = None,
        connect_time: float = 0.0,
        transcripts: Iterable[str] = (),
        recognize_time: float = 0.0,
        hang_on_close: float = 0.0,
        ignore_cancellation: bool = False,
        report_usage: bool = False,
        sample_rate: NotGivenOr[int] = NOT_GIVEN,
        setup: Callable[[FakeRecognizeStream], None] = lambda stream: None,
        capabilities: STTCapabilities | None = None,
        label: str | None = None,
    ) -> None:
        super().__init__(
            capabilities=capabilities or STTCapabilities(streaming=True, interim_results=True)
        )
        if label is not None:
            self._label = label
        self.timeline = tuple(timeline)
        self.failures = list(failures)
        self.fail_always = fail_always
        self.connect_time = connect_time
        self.transcripts = list(transcripts)
        self.recognize_time = recognize_time
        self.hang_on_close = hang_on_close
        self.ignore_cancellation = ignore_cancellation
        self.report_usage = report_usage
        self.sample_rate = sample_rate
        self.setup = setup

        self.streams: list[FakeRecognizeStream] = []
        self.recognized: list[AudioBuffer] = []
        self.keyterms: list[str] = []
        self.conversation_items: list[Any] = []
        self.prewarmed = 0
        self.closed = 0

    @property
    def model(self) -> str:
        return "fake-model"

    @property
    def provider(self) -> str:
        return "fake-provider"

    @property
    def attempts(self) -> list[Attempt]:
        """Connection attempts of all streams, stream by stream."""
        return [attempt for stream in self.streams for attempt in stream.attempts]

    @property
    def open_streams(self) -> list[FakeRecognizeStream]:
        return [stream for stream in self.streams if not stream._task.done()]

    def next_failure(self) -> Exception | None:
        if self.fail_always is not None:
            return self.fail_always
        return self.failures.pop(0) if self.failures else None

    async def _recognize_impl(
        self,
        buffer: AudioBuffer,
        *,
        language: NotGivenOr[str] = NOT_GIVEN,
        conn_options: APIConnectOptions,
    ) -> SpeechEvent:
        self.recognized.append(buffer)
        await asyncio.sleep(self.recognize_time)
        failure = self.next_failure()
        if failure is not None:
            raise failure
        text = self.transcripts.pop(0) if self.transcripts else ""
        return speech_event(SpeechEventType.FINAL_TRANSCRIPT, text, request_id="fake-request")

    def stream(
        self,
        *,
        language: NotGivenOr[str] = NOT_GIVEN,
        conn_options: APIConnectOptions = DEFAULT_API_CONNECT_OPTIONS,
    ) -> FakeRecognizeStream:
        stream = FakeRecognizeStream(
            stt=self, conn_options=conn_options, sample_rate=self.sample_rate
        )
        self.streams.append(stream)
        self.setup(stream)
        return stream

    def prewarm(self) -> None:
        self.prewarmed += 1

    async def aclose(self) -> None:
        self.closed += 1

    def _update_session_keyterms(self, keyterms: list[str]) -> None:
        super()._update_session_keyterms(keyterms)
        self.keyterms = keyterms

    def _push_conversation_item(self, ev: Any) -> None:
        super()._push_conversation_item(ev)
        self.conversation_items.append(ev)


class FakeRecognizeStream(RecognizeStream):
    """A stream of `FakeSTT`."""

    _stt: FakeSTT

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.attempts: list[Attempt] = []
        self.close_calls = 0
        self._drop: asyncio.Future[None] | None = None

    # -- what the test makes happen ---------------------------------------------------------------

    def send(self, *events: SpeechEvent | SpeechEventType) -> None:
        """The provider says this, now."""
        for event in events:
            self._event_ch.send_nowait(
                speech_event(event) if isinstance(event, SpeechEventType) else event
            )

    def final(self, text: str, **data: Any) -> None:
        """The provider sends a final transcript, now."""
        self.send(speech_event(SpeechEventType.FINAL_TRANSCRIPT, text, **data))

    def interim(self, text: str, **data: Any) -> None:
        """The provider sends an interim transcript, now."""
        self.send(speech_event(SpeechEventType.INTERIM_TRANSCRIPT, text, **data))

    def drop(self, error: BaseException) -> None:
        """The connection breaks, now."""
        assert self._drop is not None and not self._drop.done(), "no connection is up"
        self._drop.set_exception(error)

    @property
    def connected(self) -> bool:
        return self._drop is not None and not self._drop.done()

    # -- the provider -----------------------------------------------------------------------------

    async def _run(self) -> None:
        attempt = Attempt(began_at=asyncio.get_running_loop().time())
        self.attempts.append(attempt)
        while True:
            try:
                await self._connect_and_listen(attempt)
                return
            except asyncio.CancelledError:
                if not self._stt.ignore_cancellation:
                    raise
                self._stt.connect_time = FOREVER
            finally:
                if self._stt.hang_on_close:
                    await _sleep(self._stt.hang_on_close)

    async def _connect_and_listen(self, attempt: Attempt) -> None:
        await _sleep(self._stt.connect_time)
        failure = self._stt.next_failure()
        if failure is not None:
            raise failure
        self._drop = asyncio.get_running_loop().create_future()
        scope = TaskScope("fake provider")
        listener = scope.spawn(self._listen(attempt), log_errors=False)
        try:
            await asyncio.wait({listener, self._drop}, return_when=asyncio.FIRST_COMPLETED)
            if self._drop.done():
                self._drop.result()
            listener.result()
        finally:
            self._drop.cancel()
            scope.cancel_soon()

    async def _listen(self, attempt: Attempt) -> None:
        hearing = _Hearing(self, attempt)
        async for item in self._input_ch:
            if not attempt.items:
                attempt.offset = self.start_time_offset
            attempt.items.append(item)
            if isinstance(item, rtc.AudioFrame):
                attempt.duration += item.duration
                hearing.advance(attempt.offset + attempt.duration)
        hearing.advance(FOREVER)

    async def aclose(self) -> None:
        self.close_calls += 1
        await super().aclose()


class _Hearing:
    """Turns audio time into events for the utterances that one attempt hears from their start."""

    def __init__(self, stream: FakeRecognizeStream, attempt: Attempt) -> None:
        self._stream = stream
        self._attempt = attempt
        self._todo = sorted(stream._stt.timeline, key=lambda utterance: utterance.start)
        self._noticed = False

    def advance(self, now: float) -> None:
        while self._todo:
            utterance = self._todo[0]
            if utterance.start < self._attempt.offset - 1e-6:
                self._todo.pop(0)  # its start went to another connection, or nowhere
                continue
            received = self._attempt.offset + self._attempt.duration
            if min(now, received) < utterance.start + ONSET - 1e-6:
                return
            if not self._noticed:
                self._noticed = True
                self._stream.send(SpeechEventType.START_OF_SPEECH)
                self._stream.interim(utterance.text.split(" ")[0])
            if now < utterance.end + TRAILING - 1e-6:
                return
            self._finish(self._todo.pop(0))

    def _finish(self, utterance: Utterance) -> None:
        self._noticed = False
        if self._stream._stt.report_usage:
            usage = RecognitionUsage(audio_duration=utterance.end - utterance.start)
            self._stream.send(
                SpeechEvent(type=SpeechEventType.RECOGNITION_USAGE, recognition_usage=usage)
            )
        self._stream.final(
            utterance.text,
            start_time=utterance.start,
            end_time=utterance.end,
            speaker_id=utterance.speaker_id,
        )
        self._stream.send(SpeechEventType.END_OF_SPEECH)


def speech_event(
    type: SpeechEventType, text: str | None = None, *, request_id: str = "", **data: Any
) -> SpeechEvent:
    """An event, with one alternative if a text is given."""
    alternatives = []
    if text is not None:
        data.setdefault("language", LanguageCode("en"))
        alternatives.append(SpeechData(text=text, **data))
    return SpeechEvent(type=type, request_id=request_id, alternatives=alternatives)


async def _sleep(seconds: float) -> None:
    if seconds == FOREVER:
        await asyncio.get_running_loop().create_future()
    elif seconds:
        await asyncio.sleep(seconds)
