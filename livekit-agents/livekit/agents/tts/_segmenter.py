"""What an `AudioEmitter` does with audio, without tasks, timers or decoders.

Providers send audio in pieces of any size. Listeners want the first sound early, then frames of a
steady length, and they want to know which frame is the last of a segment. The last frame can only
be marked if some audio is always held back, so the newest 10 ms wait for what comes next.
"""

from __future__ import annotations

from collections.abc import Callable

from livekit import rtc

from ..log import logger
from ..types import USERDATA_TIMED_TRANSCRIPT, TimedString
from ..utils.audio import AudioByteStream
from ._data import SynthesizedAudio

_TAIL_MS = 10
_FLUSH_LEAD = 0.020


class AudioSegmenter:
    """Cuts a request's audio into frames and marks the last frame of each segment.

    Args:
        request_id: Stamped on everything released.
        sample_rate: Of pushed bytes, in Hz.
        num_channels: Of pushed bytes, interleaved.
        frame_size_ms: Length that frames cut from bytes grow to, in milliseconds.
        release: Called with each piece of finished audio, in order, and its length in seconds: 0.0
            for silence that only carries a mark.
        clock: Monotonic seconds, to estimate when the listener runs out of audio.
    """

    def __init__(
        self,
        *,
        request_id: str,
        sample_rate: int,
        num_channels: int,
        frame_size_ms: int,
        release: Callable[[SynthesizedAudio, float], None],
        clock: Callable[[], float],
    ) -> None:
        self._request_id = request_id
        self._format = (sample_rate, num_channels)  # of what is held, or was held last
        self._release = release
        self._clock = clock
        self._bytes = AudioByteStream(
            sample_rate,
            num_channels,
            samples_per_channel=max(1, sample_rate // 1000 * frame_size_ms),
            progressive=True,
        )
        self._segment_id: str | None = None
        self._durations: list[float] = []
        self._held = bytearray()
        self._transcripts: list[TimedString] = []
        self._playback_end = 0.0
        self._flush_due: float | None = None

    @property
    def in_segment(self) -> bool:
        """Whether a segment is open."""
        return self._segment_id is not None

    @property
    def durations(self) -> list[float]:
        """Seconds of real audio released, per segment."""
        return self._durations

    @property
    def flush_due(self) -> float | None:
        """When, on the clock, `flush` must be called lest the listener run dry; None: no need."""
        return self._flush_due

    def start(self, segment_id: str) -> None:
        """Open a segment.

        Raises:
            RuntimeError: The previous segment is still open.
        """
        if self._segment_id is not None:
            raise RuntimeError("start_segment() called before the previous segment was ended")
        self._segment_id = segment_id
        self._durations.append(0.0)

    def push_bytes(self, data: bytes) -> None:
        """Add 16-bit PCM. Pieces may end anywhere, even in the middle of a sample.

        Raises:
            RuntimeError: No segment is open.
        """
        self.check_in_segment()
        for frame in self._bytes.push(data):
            self._hold_tail(frame)
        self._flush_due = self._playback_end - _FLUSH_LEAD

    def push_frame(self, frame: rtc.AudioFrame) -> None:
        """Add audio that is not to be cut anew, whatever its rate and channels.

        Raises:
            RuntimeError: No segment is open.
        """
        self.check_in_segment()
        for buffered in self._bytes.flush():
            self._hold_tail(buffered)
        self._hold_tail(frame)
        self._flush_due = self._playback_end - _FLUSH_LEAD

    def push_transcript(self, words: list[TimedString]) -> None:
        """Attach words to the next frame released, of this or a later segment."""
        self._transcripts.extend(words)

    def flush(self) -> None:
        """Release all complete samples, the tail included. Does nothing outside a segment."""
        if self._segment_id is None:
            return
        for frame in self._bytes.flush():
            self._hold(frame)
        self._bytes.reset_progressive()
        self._release_held()
        self._flush_due = None

    def end(self) -> None:
        """Release what is left and close the segment. Does nothing outside one.

        A segment that had audio ends in exactly one frame marked final; one without ends silently.
        """
        if self._segment_id is None:
            return
        for frame in self._bytes.flush():
            self._hold_tail(frame)
        if self._bytes.buffered_duration:
            logger.warning(
                "incomplete PCM sample at end of segment, discarding trailing bytes",
                extra={"request_id": self._request_id, "segment_id": self._segment_id},
            )
        if self._held:
            last, self._held = self._held, bytearray()
            self._send(last, final=True)
        elif self._durations[-1] > 0.0:
            # Everything went out in a flush: silence carries the mark and counts as no audio.
            self._send(bytes(self._tail_bytes()), final=True, counted=False)
        self._bytes.clear()
        self._segment_id = None
        self._flush_due = None

    def check_in_segment(self) -> None:
        """Raise RuntimeError unless a segment is open."""
        if self._segment_id is None:
            raise RuntimeError("start_segment() must be called before pushing audio data")

    def _hold_tail(self, frame: rtc.AudioFrame) -> None:
        """Release all but the newest 10 ms of what is held and `frame`."""
        self._hold(frame)
        cut = len(self._held) - self._tail_bytes()
        if cut > 0:
            released, self._held = self._held[:cut], self._held[cut:]
            self._send(released)

    def _hold(self, frame: rtc.AudioFrame) -> None:
        format = (frame.sample_rate, frame.num_channels)
        if format != self._format:
            # Audio of another format can't share a frame with it, but must not overtake it either.
            self._release_held()
            self._format = format
        self._held += frame.data.cast("B")

    def _release_held(self) -> None:
        if self._held:
            released, self._held = self._held, bytearray()
            self._send(released)

    def _tail_bytes(self) -> int:
        sample_rate, num_channels = self._format
        return max(1, sample_rate * _TAIL_MS // 1000) * num_channels * 2

    def _send(self, data: bytes | bytearray, *, final: bool = False, counted: bool = True) -> None:
        sample_rate, num_channels = self._format
        frame = rtc.AudioFrame(
            data,
            sample_rate,
            num_channels,
            len(data) // (num_channels * 2),
            userdata={USERDATA_TIMED_TRANSCRIPT: self._transcripts},
        )
        self._transcripts = []
        seconds = frame.duration if counted else 0.0
        self._durations[-1] += seconds
        self._playback_end = max(self._playback_end, self._clock()) + seconds
        self._release(
            SynthesizedAudio(
                frame=frame,
                request_id=self._request_id,
                is_final=final,
                segment_id=self._segment_id or "",
            ),
            seconds,
        )
