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
from ..utils.audio import AudioByteStream, silence_frame
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
        self._format = (sample_rate, num_channels)  # of what was released last
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
        self._held: rtc.AudioFrame | None = None
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
            self._held = frame if self._held is None else self._join(self._held, frame)
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
        if self._held is not None:
            last, self._held = self._held, None
            self._send(last, final=True)
        elif self._durations[-1] > 0.0:
            # Everything went out in a flush: silence carries the mark and counts as no audio.
            silence = silence_frame(_TAIL_MS / 1000, *self._format)
            self._send(silence, final=True, counted=False)
        self._bytes.clear()
        self._segment_id = None
        self._flush_due = None

    def check_in_segment(self) -> None:
        """Raise RuntimeError unless a segment is open."""
        if self._segment_id is None:
            raise RuntimeError("start_segment() must be called before pushing audio data")

    def _hold_tail(self, frame: rtc.AudioFrame) -> None:
        """Release all but the newest 10 ms of what is held and `frame`."""
        if self._held is not None:
            frame = self._join(self._held, frame)
            self._held = None
        tail = max(1, frame.sample_rate * _TAIL_MS // 1000)
        cut = frame.samples_per_channel - tail
        if cut <= 0:
            self._held = _frame_like(frame, frame.data.cast("B"))  # userdata of its own
            return
        data = frame.data.cast("B")
        cut_bytes = cut * frame.num_channels * 2
        self._held = _frame_like(frame, data[cut_bytes:])
        self._send(_frame_like(frame, data[:cut_bytes]))

    def _join(self, held: rtc.AudioFrame, frame: rtc.AudioFrame) -> rtc.AudioFrame:
        if (held.sample_rate, held.num_channels) != (frame.sample_rate, frame.num_channels):
            # Audio of another format can't share a frame with it, but must not overtake it either.
            self._send(held)
            return frame
        joined = bytearray(held.data.cast("B"))
        joined += frame.data.cast("B")
        return _frame_like(frame, joined)

    def _release_held(self) -> None:
        if self._held is not None:
            frame, self._held = self._held, None
            self._send(frame)

    def _send(self, frame: rtc.AudioFrame, *, final: bool = False, counted: bool = True) -> None:
        seconds = frame.duration if counted else 0.0
        self._durations[-1] += seconds
        self._playback_end = max(self._playback_end, self._clock()) + seconds
        self._format = (frame.sample_rate, frame.num_channels)
        frame.userdata[USERDATA_TIMED_TRANSCRIPT] = self._transcripts
        self._transcripts = []
        self._release(
            SynthesizedAudio(
                frame=frame,
                request_id=self._request_id,
                is_final=final,
                segment_id=self._segment_id or "",
            ),
            seconds,
        )


def _frame_like(frame: rtc.AudioFrame, data: bytearray | memoryview) -> rtc.AudioFrame:
    samples = len(data) // (frame.num_channels * 2)
    return rtc.AudioFrame(data, frame.sample_rate, frame.num_channels, samples)
