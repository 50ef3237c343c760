"""`FallbackAdapter`: several synthesizers, of which one that works speaks."""

from __future__ import annotations

import asyncio
from abc import abstractmethod
from collections.abc import Awaitable, Callable, Coroutine
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from livekit import rtc

from .._exceptions import APIConnectionError
from .._streams import CLOSE_GRACE, report_survivors
from ..log import logger
from ..types import DEFAULT_API_CONNECT_OPTIONS, USERDATA_TIMED_TRANSCRIPT, APIConnectOptions
from ..utils.aio import TaskScope
from ..utils.misc import shortuuid
from ._repeats import RepeatTrimmer
from ._synthesis import NESTED_SHARE, Synthesis
from ._tracing import RECOVERY, RequestTrace
from .audio_emitter import AudioEmitter
from .stream_adapter import StreamAdapter
from .tts import TTS, ChunkedStream, SynthesizeStream, TTSCapabilities

if TYPE_CHECKING:
    from ..metrics import TTSMetrics

# Members repeat what failed by themselves; the adapter goes on to the next one.
DEFAULT_FALLBACK_API_CONNECT_OPTIONS = APIConnectOptions(
    max_retry=0, timeout=DEFAULT_API_CONNECT_OPTIONS.timeout
)

_PROBE_LIMIT = 60.0
"""Seconds after which a member that is being tried out counts as still broken."""


@dataclass
class AvailabilityChangedEvent:
    """Payload of `"tts_availability_changed"`: a synthesizer failed, or works again."""

    tts: TTS[Any]
    available: bool


@dataclass(eq=False)
class _Member:
    tts: TTS[Any]
    available: bool = True
    probes: dict[str, asyncio.Task[None]] = field(default_factory=dict)
    """Attempts under way to see whether it works again, one per kind of request."""


class FallbackAdapter(TTS[Literal["tts_availability_changed"]]):
    """Speaks with the first of several synthesizers that works.

    A member that fails before the listener heard anything is replaced by the next one, which speaks
    the whole text. It is tried out in the background and serves again once it works; an utterance
    under way stays with its member. A member that fails later ends the utterance.

    Besides the usual events it emits `"tts_availability_changed"` (`AvailabilityChangedEvent`). The
    metrics of the members are re-emitted; their errors are not. Members aren't closed with it.

    Args:
        tts: The synthesizers, best first.
        max_retry_per_tts: How often a member repeats a failed request before the next one's turn.
        sample_rate: Of the audio it makes, in Hz. The highest of the members by default; others
            are resampled.

    Raises:
        ValueError: There is no member, or they differ in the number of channels.
    """

    def __init__(
        self, tts: list[TTS[Any]], *, max_retry_per_tts: int = 2, sample_rate: int | None = None
    ) -> None:
        if not tts:
            raise ValueError("FallbackAdapter needs at least one TTS")
        if len({member.num_channels for member in tts}) != 1:
            channels = ", ".join(f"{member.label}: {member.num_channels}" for member in tts)
            raise ValueError(f"all TTSs must have the same number of channels, got {channels}")
        super().__init__(
            capabilities=TTSCapabilities(
                streaming=any(member.capabilities.streaming for member in tts),
                aligned_transcript=all(member.capabilities.aligned_transcript for member in tts),
            ),
            sample_rate=sample_rate or max(member.sample_rate for member in tts),
            num_channels=tts[0].num_channels,
        )
        self._max_retry_per_tts = max_retry_per_tts
        self._members = [_Member(member) for member in tts]
        self._active = self._members[0]
        self._closed = False
        self._scope = TaskScope(self._label)
        for member in self._members:
            member.tts.on("metrics_collected", self._forward_metrics)

    @property
    def model(self) -> str:
        """Of the member whose turn is next."""
        return self._next.tts.model

    @property
    def provider(self) -> str:
        """Of the member whose turn is next."""
        return self._next.tts.provider

    @property
    def metrics_metadata(self) -> dict[str, str]:
        """Of the member that spoke last."""
        return self._active.tts.metrics_metadata

    def synthesize(
        self, text: str, *, conn_options: APIConnectOptions = DEFAULT_FALLBACK_API_CONNECT_OPTIONS
    ) -> FallbackChunkedStream:
        """Speak a text that is known as a whole.

        Args:
            text: What to say.
            conn_options: How often to go through all members, and how long each may take to answer.
        """
        return FallbackChunkedStream(tts=self, input_text=text, conn_options=conn_options)

    def stream(
        self, *, conn_options: APIConnectOptions = DEFAULT_FALLBACK_API_CONNECT_OPTIONS
    ) -> FallbackSynthesizeStream:
        """Speak a text that is still being written.

        Args:
            conn_options: How often to go through all members, and how long each may take to answer.
        """
        return FallbackSynthesizeStream(tts=self, conn_options=conn_options)

    def prewarm(self) -> None:
        """Prewarm the first member."""
        self._members[0].tts.prewarm()

    async def aclose(self) -> None:
        """Stop trying out members and re-emitting metrics. Takes 2 s at most. Idempotent."""
        self._closed = True  # first: a stream that is still unwinding must start no probe
        for member in self._members:
            member.tts.off("metrics_collected", self._forward_metrics)
        report_survivors(await self._scope.cancel(CLOSE_GRACE))

    @property
    def _next(self) -> _Member:
        return next((m for m in self._members if m.available), self._members[0])

    def _forward_metrics(self, metrics: TTSMetrics) -> None:
        self.emit("metrics_collected", metrics)

    def _set_available(self, member: _Member, available: bool) -> None:
        if member.available != available:
            member.available = available
            event = AvailabilityChangedEvent(tts=member.tts, available=available)
            self.emit("tts_availability_changed", event)

    def _probe(
        self, member: _Member, kind: str, attempt: Callable[[TTS[Any]], Coroutine[Any, Any, None]]
    ) -> None:
        """Try out in the background whether a member works again, unless that is under way."""
        if self._closed or kind in member.probes:
            return
        task = self._scope.spawn(
            self._try_out(member, attempt), name=f"FallbackAdapter.probe {member.tts.label}"
        )
        limit = asyncio.get_running_loop().call_later(_PROBE_LIMIT, task.cancel)

        def ended(_: asyncio.Task[None]) -> None:
            limit.cancel()
            del member.probes[kind]

        member.probes[kind] = task
        task.add_done_callback(ended)

    async def _try_out(
        self, member: _Member, attempt: Callable[[TTS[Any]], Coroutine[Any, Any, None]]
    ) -> None:
        try:
            await attempt(member.tts)
        except Exception as error:
            logger.debug("%s does not work yet: %s", member.tts.label, error)
        else:
            logger.info("%s works again", member.tts.label)
            self._set_available(member, True)


class _FallbackStream(Synthesis):
    """What both kinds of streams share: going through the members until one speaks."""

    _tts_request_span_name: ClassVar[str] = "tts_fallback_adapter"
    _tts_attempt_span_name: ClassVar[str | None] = None
    _reports_metrics: ClassVar[bool] = False

    _tts: FallbackAdapter

    @abstractmethod
    def _start_probe(self, member: _Member) -> None:
        """Have a member that failed, or was skipped, tried out."""

    def _member_options(self, *, max_retry: int | None = None) -> APIConnectOptions:
        retries = self._tts._max_retry_per_tts if max_retry is None else max_retry
        return replace(self._conn_options, max_retry=retries)

    async def _walk(
        self, speak: Callable[[_Member, _Forwarder], Awaitable[None]], emitter: AudioEmitter
    ) -> None:
        """Let members speak until one has.

        Raises:
            APIConnectionError: None could.
        """
        adapter = self._tts
        started_at = self._loop.time()
        try_all = not any(member.available for member in adapter._members)
        if try_all:
            logger.error("all TTSs are unavailable, retrying..")
        for member in adapter._members:
            if member.available or try_all:
                forwarder = _Forwarder(adapter, member, emitter, self._trace)
                try:
                    await speak(member, forwarder)
                    forwarder.finish()
                    return
                except Exception as error:
                    if self._over:
                        raise  # broken off by the close: says nothing about the member
                    logger.warning("%s failed: %s", member.tts.label, error)
                    adapter._set_available(member, False)
                    if forwarder.spoke:
                        self._break_off(member, error)
                        self._start_probe(member)
                        forwarder.finish()
                        return
            self._start_probe(member)
        labels = [member.tts.label for member in adapter._members]
        elapsed = self._loop.time() - started_at
        raise APIConnectionError(f"all TTSs failed ({labels}) after {elapsed:.1f} seconds")

    def _break_off(self, member: _Member, error: Exception) -> None:
        """The listener heard the beginning: another voice must not start over. Tell the app."""
        logger.warning(
            "%s failed in the middle of an utterance; the rest of it is not spoken",
            member.tts.label,
        )
        self._emit_error(error, recoverable=True)


class _Forwarder:
    """Carries a member's audio to the adapter's listener, at the adapter's sample rate."""

    def __init__(
        self,
        adapter: FallbackAdapter,
        member: _Member,
        emitter: AudioEmitter,
        trace: RequestTrace,
    ) -> None:
        self._adapter = adapter
        self._trace = trace
        self._member = member
        self._emitter = emitter
        self._resampler: rtc.AudioResampler | None = None
        self.spoke = False
        """Whether there was any audio."""

    def forward(self, frame: rtc.AudioFrame) -> None:
        """Hand on a frame and the words that came with it."""
        if not self.spoke:
            self.spoke = True
            self._adapter._active = self._member
            index = self._adapter._members.index(self._member)
            self._trace.record_fallback(self._member.tts, index)
            if frame.sample_rate != self._adapter.sample_rate:
                self._resampler = rtc.AudioResampler(
                    frame.sample_rate,
                    self._adapter.sample_rate,
                    num_channels=frame.num_channels,
                )
        if words := frame.userdata.get(USERDATA_TIMED_TRANSCRIPT):
            self._emitter.push_timed_transcript(words)
        if self._resampler is None:
            self._emitter.push_frame(frame)
            return
        for resampled in self._resampler.push(frame):
            self._emitter.push_frame(resampled)

    def finish(self) -> None:
        """Hand on what the resampler holds back."""
        if self._resampler is not None:
            for resampled in self._resampler.flush():
                self._emitter.push_frame(resampled)


class FallbackChunkedStream(_FallbackStream, ChunkedStream):
    """Stream of `FallbackAdapter.synthesize`.

    Args:
        tts: The adapter.
        input_text: What to say.
        conn_options: How often to go through all members, and how long each may take to answer.
    """

    def __init__(
        self, *, tts: FallbackAdapter, input_text: str, conn_options: APIConnectOptions
    ) -> None:
        super().__init__(tts=tts, input_text=input_text, conn_options=conn_options)

    async def _run(self, output_emitter: AudioEmitter) -> None:
        output_emitter.initialize(
            request_id=shortuuid(),
            sample_rate=self._tts.sample_rate,
            num_channels=self._tts.num_channels,
            mime_type="audio/pcm",
        )
        await self._walk(self._speak, output_emitter)

    async def _speak(self, member: _Member, forwarder: _Forwarder) -> None:
        speech = RepeatTrimmer()
        stream = member.tts.synthesize(self._input_text, conn_options=self._member_options())
        async with self._nested(stream):
            async for audio in stream:
                frame = speech.trim(audio)
                if frame is not None:
                    forwarder.forward(frame)

    def _start_probe(self, member: _Member) -> None:
        text, options = self._input_text, self._member_options(max_retry=0)

        async def speak_again(tts: TTS[Any]) -> None:
            stream = tts.synthesize(text, conn_options=options)
            stream._trace.attributes = RECOVERY
            async with stream:
                async for _ in stream:
                    pass

        if text.strip():
            self._tts._probe(member, "synthesize", speak_again)


class FallbackSynthesizeStream(_FallbackStream, SynthesizeStream):
    """Stream of `FallbackAdapter.stream`.

    Args:
        tts: The adapter.
        conn_options: How often to go through all members, and how long each may take to answer.
    """

    _watches_idle: ClassVar[bool] = False

    def __init__(self, *, tts: FallbackAdapter, conn_options: APIConnectOptions) -> None:
        self._read: list[str | SynthesizeStream._FlushSentinel] = []
        self._all_read = False
        self._speaking: SynthesizeStream | None = None
        self._untried: list[_Member] = []
        super().__init__(tts=tts, conn_options=conn_options)

    async def _run(self, output_emitter: AudioEmitter) -> None:
        self._read, self._all_read = [], False
        output_emitter.initialize(
            request_id=shortuuid(),
            sample_rate=self._tts.sample_rate,
            num_channels=self._tts.num_channels,
            mime_type="audio/pcm",
            stream=True,
        )
        output_emitter.start_segment(segment_id=shortuuid())
        scope = TaskScope(self._tts.label)
        scope.spawn(self._feed(), name="FallbackAdapter.feed")
        try:
            await self._walk(self._speak, output_emitter)
        finally:
            self._speaking = None
            report_survivors(await scope.cancel(self._close_grace * NESTED_SHARE))

    async def _feed(self) -> None:
        """Record the text as it is written, and hand it to the member that speaks."""
        async for item in self._input_ch:
            self._read.append(item)
            if self._speaking is not None:
                _hand_over(item, self._speaking)
        self._all_read = True
        if self._speaking is not None:
            self._speaking.end_input()
        self._start_waiting_probes()

    async def _speak(self, member: _Member, forwarder: _Forwarder) -> None:
        adapter: StreamAdapter | None = None
        speaker = member.tts
        if not speaker.capabilities.streaming:
            speaker = adapter = StreamAdapter(tts=speaker)
        stream = speaker.stream(conn_options=self._member_options())
        try:
            async with self._nested(stream):
                for item in self._read:
                    _hand_over(item, stream)
                if self._all_read:
                    stream.end_input()
                self._speaking = stream
                async for audio in stream:
                    self._adopt_start(stream)
                    forwarder.forward(audio.frame)
        finally:
            self._adopt_start(stream)
            self._speaking = None
            if adapter is not None:
                await adapter.aclose()

    def _adopt_start(self, stream: SynthesizeStream) -> None:
        """Count delays from the moment the first member was given text."""
        if self._started_at is None and stream._started_stamp:
            self._started_at = self._loop.time()
            self._started_stamp = stream._started_stamp

    def _start_probe(self, member: _Member) -> None:
        self._untried.append(member)
        if self._all_read:
            self._start_waiting_probes()

    def _start_waiting_probes(self) -> None:
        """Probes speak the whole text again, so they wait until it is complete."""
        untried, self._untried = self._untried, []
        tokens = [item for item in self._read if isinstance(item, str)]
        if self._over or not "".join(tokens).strip():
            return
        options = self._member_options(max_retry=0)

        async def speak_again(tts: TTS[Any]) -> None:
            adapter: StreamAdapter | None = None
            if not tts.capabilities.streaming:
                tts = adapter = StreamAdapter(tts=tts)
            try:
                stream = tts.stream(conn_options=options)
                stream._trace.attributes = RECOVERY
                async with stream:
                    for token in tokens:
                        stream.push_text(token)
                    stream.end_input()
                    async for _ in stream:
                        pass
            finally:
                if adapter is not None:
                    await adapter.aclose()

        for member in untried:
            self._tts._probe(member, "stream", speak_again)


def _hand_over(item: str | SynthesizeStream._FlushSentinel, stream: SynthesizeStream) -> None:
    if isinstance(item, str):
        stream.push_text(item)
    else:
        stream.flush()
