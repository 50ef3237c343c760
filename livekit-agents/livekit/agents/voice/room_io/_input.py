"""What the agent hears and sees of the linked participant."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from typing import Any

from livekit import rtc
from livekit.rtc._proto.track_pb2 import AudioTrackFeature

from ...log import logger
from ...telemetry import trace_types
from ...telemetry.traces import tracer
from ...types import NOT_GIVEN, NotGivenOr
from ...utils import is_given
from ...utils.audio import silence_frame
from ..io import AudioInput, VideoInput
from ._pre_connect_audio import PreConnectAudioHandler
from ._tracks import OpenTrack, TrackFollower, identity_of
from .types import NoiseCancellationParams, NoiseCancellationSelector

_END_SILENCE = 0.5
"""Seconds of silence after a track has ended, so that the last utterance is completed."""

_NoiseCancellation = (
    rtc.NoiseCancellationOptions
    | rtc.FrameProcessor[rtc.AudioFrame]
    | NoiseCancellationSelector
    | None
)


class _ParticipantAudioInputStream(TrackFollower[rtc.AudioFrame], AudioInput):
    """The microphone of the participant it is bound to, in frames of one format.

    Tracks are resampled and mixed by the native layer. While detached, audio is dropped.
    """

    def __init__(
        self,
        room: rtc.Room,
        *,
        sample_rate: int,
        num_channels: int,
        noise_cancellation: _NoiseCancellation,
        auto_gain_control: NotGivenOr[bool] = NOT_GIVEN,
        pre_connect_audio_handler: PreConnectAudioHandler | None,
        frame_size_ms: int = 50,
        track_source: (
            rtc.TrackSource.ValueType | list[rtc.TrackSource.ValueType]
        ) = rtc.TrackSource.SOURCE_MICROPHONE,
    ) -> None:
        """Listen to a room; nothing is heard before `set_participant`.

        Args:
            room: Where to listen.
            sample_rate: Of the frames, in Hz.
            num_channels: Of the frames.
            noise_cancellation: A native filter's options, a processor, or a function that chooses
                one for each track.
            auto_gain_control: Even out the loudness; when not given, on unless noise cancellation
                is known to do it.
            pre_connect_audio_handler: Has what was said before.
            frame_size_ms: Length of the frames in milliseconds.
            track_source: Which tracks to listen to.

        Raises:
            ValueError: A length, a rate or the number of channels isn't positive.
        """
        for name, value in (
            ("frame_size_ms", frame_size_ms),
            ("sample_rate", sample_rate),
            ("num_channels", num_channels),
        ):
            if value <= 0:
                raise ValueError(f"{name} must be greater than 0, got {value!r}")
        sources = track_source if isinstance(track_source, list) else [track_source]
        self._wait_span: Any = None
        self._wait_began = 0.0
        AudioInput.__init__(self, label="RoomIO")
        TrackFollower.__init__(self, room, sources=sources, what="audio")
        self._sample_rate = sample_rate
        self._num_channels = num_channels
        self._frame_size_ms = frame_size_ms
        self._noise_cancellation = noise_cancellation
        self._pre_connect = pre_connect_audio_handler
        self._pre_connected: set[tuple[str, str]] = set()
        wants_gain = (
            bool(auto_gain_control)
            if is_given(auto_gain_control)
            else noise_cancellation is None or _is_selector(noise_cancellation)
        )
        self._gain = _gain_control(sample_rate, frame_size_ms) if wants_gain else None

    trace_context: Any = None
    """The OpenTelemetry context of the span that covers the wait for the first frame."""

    def set_participant(self, participant: rtc.Participant | str | None) -> None:
        """Listen to somebody, who need not be there yet; None listens to nobody."""
        identity = identity_of(participant)
        if identity != self._identity and not self._closed:
            self._end_wait()
            if identity is not None:
                self._wait_began = time.time()
                self._wait_span = tracer.start_span(
                    "wait_for_audio_track",
                    context=self.trace_context,
                    attributes={trace_types.ATTR_PARTICIPANT_IDENTITY: identity},
                )
        super().set_participant(participant)

    def _first_frame(self) -> None:
        span = self._wait_span
        if span is not None:
            span.add_event("first_frame")
            span.set_attribute(trace_types.ATTR_FIRST_FRAME_DELAY, time.time() - self._wait_began)
            self._end_wait()

    def _end_wait(self) -> None:
        span, self._wait_span = self._wait_span, None
        if span is not None:
            span.end()

    async def __anext__(self) -> rtc.AudioFrame:
        return await self._next()

    def on_attached(self) -> None:
        """What comes from now on is heard."""
        self._attached = True

    def on_detached(self) -> None:
        """What comes from now on is dropped, so that nothing stale is heard later."""
        self._attached = False

    async def aclose(self) -> Any:
        """Stop listening. Idempotent, bounded: native streams that don't end are left behind."""
        first = not self._closed
        self._end_wait()
        survivors = await self._end()
        if first and isinstance(self._noise_cancellation, rtc.FrameProcessor):
            self._close_processor(self._noise_cancellation)
        return survivors

    # -- tracks -----------------------------------------------------------------------------------

    def _open_stream(
        self, track: rtc.Track, publication: rtc.RemoteTrackPublication, participant: Any
    ) -> OpenTrack:
        if self._wait_span is not None:
            self._wait_span.add_event(
                "track_subscribed", {trace_types.ATTR_TRACK_SID: publication.sid}
            )
        chosen = self._noise_cancellation
        own: list[Any] = []
        if chosen is not None and _is_selector(chosen):
            chosen = chosen(NoiseCancellationParams(participant=participant, track=track))  # type: ignore[operator]
            if isinstance(chosen, rtc.FrameProcessor):
                own.append(chosen)
        enhanced = AudioTrackFeature.TF_ENHANCED_NOISE_CANCELLATION
        if chosen is not None and enhanced in publication.audio_features:
            logger.warning(
                "the client already cancels noise on track %s: doing it again may distort speech",
                publication.sid,
            )
        stream = rtc.AudioStream.from_track(
            track=track,
            sample_rate=self._sample_rate,
            num_channels=self._num_channels,
            frame_size_ms=self._frame_size_ms,
            noise_cancellation=chosen,  # type: ignore[arg-type]
            auto_close_noise_cancellation=False,
        )
        return OpenTrack(participant.identity, publication.sid, track, stream, close_with=own)

    async def _forward(self, opened: OpenTrack, publication: rtc.RemoteTrackPublication) -> None:
        if AudioTrackFeature.TF_PRECONNECT_BUFFER in publication.audio_features:
            await self._forward_pre_connect(opened)
        gain, items = self._gain, self._items
        async for event in opened.stream:
            if self._wait_span is not None:
                self._first_frame()
            if self._attached and not items.closed:
                frame: rtc.AudioFrame = event.frame
                if gain is not None:
                    gain(frame)
                items.send_nowait(frame)
        if self._attached and not items.closed:
            items.send_nowait(silence_frame(_END_SILENCE, self._sample_rate, self._num_channels))

    async def _forward_pre_connect(self, opened: OpenTrack) -> None:
        """What was said before comes first; live audio waits in the native stream meanwhile."""
        key = (opened.participant, opened.sid)
        if self._pre_connect is None or key in self._pre_connected:
            return
        try:
            frames = await self._pre_connect.wait_for_data(opened.sid)
        except asyncio.TimeoutError:
            logger.warning(
                "timeout waiting for pre-connect audio buffer", extra={"track_id": opened.sid}
            )
            frames = []
        except Exception:
            logger.exception("the pre-connect audio of track %s could not be read", opened.sid)
            frames = []
        self._pre_connected.add(key)
        if frames and self._wait_span is not None:
            seconds = sum(frame.duration for frame in frames)
            self._wait_span.add_event(
                "pre_connect_audio", {trace_types.ATTR_PRE_CONNECT_AUDIO_DURATION: seconds}
            )
        processor = next(iter(opened.close_with), self._noise_cancellation)
        for frame in self._converted([_processed(frame, processor) for frame in frames]):
            if self._attached and not self._items.closed:
                self._items.send_nowait(frame)

    def _converted(self, frames: list[rtc.AudioFrame]) -> list[rtc.AudioFrame]:
        """Frames of any one format, in this input's format."""
        mixed = [_remixed(frame, self._num_channels) for frame in frames]
        if not mixed or mixed[0].sample_rate == self._sample_rate:
            return mixed
        resampler = rtc.AudioResampler(
            mixed[0].sample_rate, self._sample_rate, num_channels=self._num_channels
        )
        resampled = [part for frame in mixed for part in resampler.push(frame)]
        return resampled + resampler.flush()


class _ParticipantVideoInputStream(TrackFollower[rtc.VideoFrame], VideoInput):
    """Camera or shared screen of the participant it is bound to, whichever came last."""

    def __init__(self, room: rtc.Room) -> None:
        """Watch a room; nothing is seen before `set_participant`."""
        VideoInput.__init__(self, label="RoomIO")
        TrackFollower.__init__(
            self,
            room,
            sources=(rtc.TrackSource.SOURCE_CAMERA, rtc.TrackSource.SOURCE_SCREENSHARE),
            what="video",
        )

    async def __anext__(self) -> rtc.VideoFrame:
        return await self._next()

    def on_attached(self) -> None:
        """What comes from now on is seen."""
        self._attached = True

    def on_detached(self) -> None:
        """What comes from now on is dropped."""
        self._attached = False

    async def aclose(self) -> Any:
        """Stop watching. Idempotent, bounded."""
        return await self._end()

    def _open_stream(
        self, track: rtc.Track, publication: rtc.RemoteTrackPublication, participant: Any
    ) -> OpenTrack:
        stream = rtc.VideoStream.from_track(track=track)
        return OpenTrack(participant.identity, publication.sid, track, stream)

    async def _forward(self, opened: OpenTrack, publication: rtc.RemoteTrackPublication) -> None:
        async for event in opened.stream:
            if self._attached and not self._items.closed:
                self._items.send_nowait(event.frame)


def _is_selector(noise_cancellation: object) -> bool:
    # a processor may be callable, too
    return callable(noise_cancellation) and not isinstance(
        noise_cancellation, (rtc.FrameProcessor, rtc.NoiseCancellationOptions)
    )


def _gain_control(sample_rate: int, frame_size_ms: int) -> Callable[[rtc.AudioFrame], None] | None:
    """Evens out the loudness of frames in place; None where the native filter can't."""
    if sample_rate % 100 or frame_size_ms % 10:
        # given anything but whole blocks of 10 ms the native filter aborts the process
        logger.warning(
            "no automatic gain control: it needs a sample rate that is a multiple of 100 Hz and "
            "frames of a multiple of 10 ms, got %d Hz and %d ms",
            sample_rate,
            frame_size_ms,
        )
        return None
    apm = rtc.AudioProcessingModule(auto_gain_control=True)
    block = sample_rate // 100

    def apply(frame: rtc.AudioFrame) -> None:
        if frame.sample_rate == sample_rate and frame.samples_per_channel % block == 0:
            apm.process_stream(frame)

    return apply


def _processed(frame: rtc.AudioFrame, processor: object) -> rtc.AudioFrame:
    if not isinstance(processor, rtc.FrameProcessor) or not processor.enabled:
        return frame
    try:
        processed: rtc.AudioFrame = processor._process(frame)
        return processed
    except Exception:
        logger.warning("the frame processor failed on pre-connect audio", exc_info=True)
        return frame


def _remixed(frame: rtc.AudioFrame, num_channels: int) -> rtc.AudioFrame:
    if frame.num_channels == num_channels:
        return frame
    import numpy as np

    samples = np.frombuffer(frame.data, dtype=np.int16).reshape(-1, frame.num_channels)
    mono = samples.mean(axis=1).astype(np.int16)
    data = np.repeat(mono[:, None], num_channels, axis=1).tobytes()
    return rtc.AudioFrame(data, frame.sample_rate, num_channels, len(mono))


__all__ = ["_ParticipantAudioInputStream", "_ParticipantVideoInputStream"]
