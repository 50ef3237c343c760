"""`AudioEmitter`: the hand through which a provider plugin gives away the audio it receives."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from livekit import rtc

from .._streams import report_survivors
from ..log import logger
from ..types import TimedString
from ..utils.aio import Chan, TaskScope
from ._data import SynthesizedAudio
from ._dump import dump_segment, lk_dump_tts
from ._segmenter import AudioSegmenter
from ._tracing import note_provider_request_ids

if TYPE_CHECKING:
    from ..utils.codecs import AudioStreamDecoder

_DECODER_GRACE = 0.5
"""Seconds a decoder gets to let go when the emitter is closed."""

_RAW_MIME_TYPES = ("audio/pcm", "audio/raw")


class AudioEmitter:
    """Turns what a provider sends, in pieces of any size, into frames for the listener.

    A stream's `_run` gets one per attempt: it calls `initialize` once, `push` for each piece of
    audio, and around each utterance of a streaming request `start_segment` and `end_segment`.

    Raw audio is cut and handed on within the call, so no task stands between the socket and the
    listener; encoded audio passes through one decoder per segment. Calls made after the input was
    ended, or after the stream was closed, are ignored: late data of helper tasks is harmless.

    Calls in a wrong order, such as audio outside a segment, don't raise where they are made (that
    may be a helper task nobody watches) but end the stream through `join`.

    Args:
        label: Names the synthesizer in logs and dumps.
        dst_ch: Where finished audio goes.
        on_audio: Sees each piece, with its length in seconds, just before it is sent.
    """

    def __init__(
        self,
        *,
        label: str,
        dst_ch: Chan[SynthesizedAudio],
        on_audio: Callable[[SynthesizedAudio, float], None] | None = None,
    ) -> None:
        self._label = label
        self._dst_ch = dst_ch
        self._on_audio = on_audio

        self._segmenter: AudioSegmenter | None = None
        self._stream = False
        self._raw = True
        self._request_id = ""
        self._sample_rate = 0
        self._num_channels = 0
        self._mime_type = ""

        self._num_segments = 0
        self._provider_request_ids: list[str] = []
        self._last_activity = 0.0
        self._holding_text = False

        self._input_closed = False
        self._detached = False
        self._error: Exception | None = None
        self._finished = asyncio.Event()
        self._flush_timer: asyncio.TimerHandle | None = None

        self._scope: TaskScope | None = None
        self._decoder: AudioStreamDecoder | None = None
        self._decoder_done = False
        self._draining = False  # the segment was ended, but its decoder still has audio
        self._backlog: deque[tuple[Callable[..., None], tuple[Any, ...]]] = deque()

        self._dump: list[rtc.AudioFrame] = []

    # -- called by plugins

    def initialize(
        self,
        *,
        request_id: str,
        sample_rate: int,
        num_channels: int,
        mime_type: str,
        frame_size_ms: int = 200,
        stream: bool = False,
    ) -> None:
        """Say what is going to be pushed. Call it exactly once per attempt.

        Args:
            request_id: The provider's id, for its support. "unknown" takes the place of "".
            sample_rate: Of the audio handed on, in Hz. Encoded audio is converted to it.
            num_channels: Of the audio handed on.
            mime_type: `audio/pcm` or `audio/raw`: 16-bit little-endian samples, interleaved, at the
                given rate and channels. Anything else is decoded, with this as a hint.
            frame_size_ms: Length of frames, in milliseconds. The first ones are shorter.
            stream: Whether segments are marked with `start_segment` and `end_segment`. Otherwise
                all audio is one segment.

        Raises:
            RuntimeError: It was called before.
        """
        if self._segmenter is not None:
            raise RuntimeError("AudioEmitter already started")
        if not request_id:
            logger.warning("no request_id given for %s, using 'unknown'", self._label)
            request_id = "unknown"
        self._request_id = request_id
        self._sample_rate = sample_rate
        self._num_channels = num_channels
        self._mime_type = mime_type
        self._raw = mime_type.lower().strip().startswith(_RAW_MIME_TYPES)
        self._stream = stream
        self._loop = asyncio.get_running_loop()
        self._last_activity = self._loop.time()
        self._segmenter = AudioSegmenter(
            request_id=request_id,
            sample_rate=sample_rate,
            num_channels=num_channels,
            frame_size_ms=frame_size_ms,
            release=self._deliver,
            clock=self._loop.time,
        )
        if not stream:
            self._num_segments = 1
            self._segmenter.start("")

    def start_segment(self, *, segment_id: str) -> None:
        """Begin an utterance.

        Args:
            segment_id: Stamped on its audio; noted as one of the provider's request ids.

        Raises:
            RuntimeError: Not initialized, or initialized without `stream=True`.
        """
        segmenter = self._started(needs_stream="start_segment")
        if self._input_closed:
            return
        self._num_segments += 1
        self._note_provider_request_id(segment_id)
        self._submit(segmenter.start, segment_id)

    def end_segment(self) -> None:
        """End the utterance: its last frame is marked final.

        Raises:
            RuntimeError: Not initialized, or initialized without `stream=True`.
        """
        self._started(needs_stream="end_segment")
        self._submit(self._end_segment)

    def push(self, data: bytes) -> None:
        """Add audio in the format given to `initialize`. Pieces may end anywhere.

        Raises:
            RuntimeError: Not initialized.
        """
        self._started()
        self._submit(self._push, data)

    def push_frame(self, frame: rtc.AudioFrame) -> None:
        """Add a frame of audio, which is not cut anew.

        Raises:
            RuntimeError: Not initialized.
        """
        self._submit(self._started().push_frame, frame)

    def push_timed_transcript(self, delta_text: TimedString | list[TimedString]) -> None:
        """Add words with their times; they travel with the next frame.

        Raises:
            RuntimeError: Not initialized.
        """
        words = delta_text if isinstance(delta_text, list) else [delta_text]
        self._submit(self._started().push_transcript, words)

    def flush(self) -> None:
        """Hand on all audio that is complete, without marking it final.

        Raises:
            RuntimeError: Not initialized.
        """
        self._submit(self._started().flush)

    def end_input(self) -> None:
        """Say that nothing follows; ends an open segment. Calling it again does nothing.

        Raises:
            RuntimeError: Not initialized.
        """
        self._started()
        if self._input_closed:
            return
        self._submit(self._end_segment)
        self._input_closed = True
        if not self._draining:
            self._finish()

    def pushed_duration(self, idx: int = -1) -> float:
        """Seconds of audio handed on for segment `idx` (the last by default), 0.0 if none."""
        if self._segmenter is None:
            return 0.0
        durations = self._segmenter.durations
        return durations[idx] if -len(durations) <= idx < len(durations) else 0.0

    @property
    def num_segments(self) -> int:
        """How many segments were started."""
        return self._num_segments

    async def join(self) -> None:
        """Wait until everything pushed has been handed on. Returns only after `end_input`.

        Raises:
            RuntimeError: Not initialized, or the plugin called methods in a wrong order.
        """
        self._started()
        await self._finished.wait()
        if self._error is not None:
            raise self._error

    async def aclose(self) -> None:
        """Drop what was not handed on yet, and stop. Idempotent, and bounded."""
        self._detach()
        if self._scope is not None:
            report_survivors(await self._scope.cancel(_DECODER_GRACE))

    # -- used by the base classes

    @property
    def request_id(self) -> str:
        """Id of the request; empty before `initialize`."""
        return self._request_id

    @property
    def last_activity(self) -> float:
        """When, on the loop's clock, the plugin last called a method, or audio last came of it."""
        return self._last_activity

    @property
    def total_duration(self) -> float:
        """Seconds of audio handed on, all segments together."""
        return sum(self._segmenter.durations) if self._segmenter is not None else 0.0

    @property
    def holding_text(self) -> bool:
        """Whether text is held back on purpose, so that no audio is to be expected."""
        return self._holding_text

    @holding_text.setter
    def holding_text(self, holding: bool) -> None:
        self._holding_text = holding
        if not holding and self._segmenter is not None:
            self._last_activity = self._loop.time()

    def _note_provider_request_id(self, request_id: str) -> None:
        """Record an id under which the provider knows this request, for traces.

        Raises:
            RuntimeError: Not initialized.
        """
        self._started()
        if self._input_closed or not request_id or request_id in self._provider_request_ids:
            return
        self._provider_request_ids.append(request_id)
        note_provider_request_ids(self._provider_request_ids)

    def _detach(self) -> None:
        """Hand on nothing more, whoever may still be pushing. Immediate."""
        self._detached = True
        self._input_closed = True
        self._backlog.clear()
        self._finish()
        if self._scope is not None:
            self._scope.cancel_soon()

    # -- inside

    def _started(self, *, needs_stream: str = "") -> AudioSegmenter:
        if self._segmenter is None:
            raise RuntimeError("AudioEmitter isn't started: call initialize() first")
        if needs_stream and not self._stream:
            raise RuntimeError(f"{needs_stream}() needs initialize(stream=True)")
        return self._segmenter

    def _submit(self, step: Callable[..., None], *args: Any) -> None:
        """Do a step now, or in its turn when the decoder of an ended segment isn't done yet."""
        if self._input_closed:
            return
        self._last_activity = self._loop.time()
        if self._draining:
            self._backlog.append((step, args))
        else:
            self._do(step, *args)

    def _do(self, step: Callable[..., None], *args: Any) -> None:
        try:
            step(*args)
        except Exception as error:
            self._fail(error)
        else:
            self._arm_flush_timer()

    def _push(self, data: bytes) -> None:
        assert self._segmenter is not None
        if self._raw:
            self._segmenter.push_bytes(data)
            return
        self._segmenter.check_in_segment()
        if self._decoder is None:
            self._open_decoder()
        if self._decoder is not None and not self._decoder_done:
            self._decoder.push(data)

    def _end_segment(self) -> None:
        assert self._segmenter is not None
        if self._decoder is not None and not self._decoder_done:
            self._draining = True
            self._decoder.end_input()
            return
        self._decoder = None
        self._decoder_done = False
        self._segmenter.end()

    def _open_decoder(self) -> None:
        from ..utils.codecs import AudioStreamDecoder

        decoder = AudioStreamDecoder(
            sample_rate=self._sample_rate,
            num_channels=self._num_channels,
            format=self._mime_type,
        )
        self._decoder = decoder
        if self._scope is None:
            self._scope = TaskScope(f"{self._label} audio")
        self._scope.spawn(self._decode(decoder), name="tts_decode")

    async def _decode(self, decoder: AudioStreamDecoder) -> None:
        assert self._segmenter is not None
        try:
            async for frame in decoder:
                self._do(self._segmenter.push_frame, frame)
            if not self._detached:
                self._decoded()
        except Exception as error:
            self._fail(error)
        finally:
            await decoder.aclose()

    def _decoded(self) -> None:
        """The decoder has no more audio: go on with what was called meanwhile."""
        self._decoder_done = True
        if not self._draining:
            return  # it gave up before the segment ended; what it decoded counts
        self._draining = False
        self._do(self._end_segment)
        while self._backlog and not self._draining:
            step, args = self._backlog.popleft()
            self._do(step, *args)
        if self._input_closed and not self._draining:
            self._finish()

    def _deliver(self, audio: SynthesizedAudio, seconds: float) -> None:
        if self._detached or self._dst_ch.closed:
            return
        self._last_activity = self._loop.time()
        if self._on_audio is not None:
            self._on_audio(audio, seconds)
        self._dst_ch.send_nowait(audio)
        if lk_dump_tts:
            self._dump_audio(audio, seconds)

    def _arm_flush_timer(self) -> None:
        """Let held audio go out just before the listener has played everything else.

        The moment only ever moves back, so a timer that is set is left alone and looks again when
        it fires: cheaper than one timer per push.
        """
        assert self._segmenter is not None
        due = self._segmenter.flush_due
        if due is not None and self._flush_timer is None and not self._finished.is_set():
            self._flush_timer = self._loop.call_at(due, self._flush_if_due)

    def _flush_if_due(self) -> None:
        assert self._segmenter is not None
        self._flush_timer = None
        due = self._segmenter.flush_due
        if due is None:
            return
        if due > self._loop.time():
            self._arm_flush_timer()
        else:
            self._do(self._segmenter.flush)

    def _fail(self, error: Exception) -> None:
        if self._error is not None or self._detached:
            return
        logger.error("%s: could not emit audio", self._label, exc_info=error)
        self._error = error
        self._detach()

    def _finish(self) -> None:
        if self._flush_timer is not None:
            self._flush_timer.cancel()
            self._flush_timer = None
        self._finished.set()

    def _dump_audio(self, audio: SynthesizedAudio, seconds: float) -> None:
        if seconds:
            self._dump.append(audio.frame)
        if audio.is_final:
            dump_segment(
                self._dump,
                label=self._label,
                request_id=audio.request_id,
                segment_id=audio.segment_id,
            )
            self._dump = []
