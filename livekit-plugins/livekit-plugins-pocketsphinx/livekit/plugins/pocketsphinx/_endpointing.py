"""Where utterances begin and end in a stream of audio. A state machine without I/O or clock."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass

SAMPLE_RATE = 16000
"""Hz, mono, int16: the only format in this plugin behind the resampler."""

FRAME_DURATION = 0.02
"""Seconds judged at once."""

FRAME_BYTES = int(SAMPLE_RATE * FRAME_DURATION) * 2

_WINDOW = 8
"""Frames in which onset and end are counted, so that one odd frame decides nothing."""


@dataclass(frozen=True)
class EndpointingOptions:
    """When speech counts as begun and as ended.

    Attributes:
        min_speech_duration: Seconds of voice (within 0.16 s) that begin an utterance.
        min_silence_duration: Seconds without voice that end it.
        prefix_padding_duration: Seconds from before the onset that belong to the utterance, for
            soft first sounds.
        max_utterance_duration: Seconds after which an utterance is cut, at the next short pause if
            one comes soon. The cost of finishing an utterance grows with its length.
    """

    min_speech_duration: float = 0.1
    min_silence_duration: float = 0.45
    prefix_padding_duration: float = 0.3
    max_utterance_duration: float = 20.0

    def __post_init__(self) -> None:
        limit = _WINDOW * FRAME_DURATION
        if not 0.0 < self.min_speech_duration <= limit:
            raise ValueError(
                f"min_speech_duration must be above 0 and at most {limit:.2f} s, "
                f"got {self.min_speech_duration}"
            )
        if self.min_silence_duration < limit:
            raise ValueError(
                f"min_silence_duration must be at least {limit:.2f} s, "
                f"got {self.min_silence_duration}"
            )
        if self.prefix_padding_duration < limit:
            raise ValueError(
                f"prefix_padding_duration must be at least {limit:.2f} s, "
                f"got {self.prefix_padding_duration}"
            )
        if self.max_utterance_duration < 1.0:
            raise ValueError(
                f"max_utterance_duration must be at least 1 s, got {self.max_utterance_duration}"
            )


@dataclass(frozen=True)
class Started:
    """An utterance has begun.

    Attributes:
        at: Position in seconds of its first sample, padding included.
        continued: It goes on from one that was cut: the speaker hasn't paused.
    """

    at: float
    continued: bool = False


@dataclass(frozen=True)
class Speech:
    """More of the current utterance."""

    pcm: bytes


@dataclass(frozen=True)
class Ended:
    """The utterance is complete.

    Attributes:
        at: Position in seconds where the voice ended.
        continued: It was only cut because of its length: `Started` of the next one follows at once,
            and the speaker hasn't stopped.
    """

    at: float
    continued: bool = False


Event = Started | Speech | Ended


class Endpointer:
    """Cuts audio into utterances.

    Args:
        is_speech: Judges one frame (`FRAME_BYTES` bytes).
        options: When speech counts as begun and as ended.
    """

    def __init__(self, is_speech: Callable[[bytes], bool], options: EndpointingOptions) -> None:
        self._is_speech = is_speech
        self._options = options
        self._onset = _frames(options.min_speech_duration)
        self._frames = 0  # judged so far
        self._padding: deque[bytes] = deque(maxlen=_frames(options.prefix_padding_duration))
        self._window: deque[bool] = deque(maxlen=_WINDOW)
        self._partial = bytearray()
        self._started_at: int | None = None  # frame, while an utterance is open
        self._voiced_until = 0  # frame

    @property
    def in_speech(self) -> bool:
        """Whether an utterance is open."""
        return self._started_at is not None

    @property
    def position(self) -> float:
        """Seconds of audio judged so far."""
        return self._frames * FRAME_DURATION

    def push(self, pcm: bytes) -> Iterator[Event]:
        """Add audio of any length. Iterate to the end: the work is done on the way."""
        self._partial += pcm
        while len(self._partial) >= FRAME_BYTES:
            frame = bytes(self._partial[:FRAME_BYTES])
            del self._partial[:FRAME_BYTES]
            yield from self._judge(frame)

    def flush(self) -> Iterator[Event]:
        """End what is open. A word too short to count as an utterance yet becomes one now."""
        if not self.in_speech and any(self._window):
            yield from self._start()
        if self.in_speech:
            if self._partial:
                yield Speech(bytes(self._partial[: len(self._partial) // 2 * 2]))
            yield from self._end()
        self._partial.clear()

    def _judge(self, frame: bytes) -> Iterator[Event]:
        self._frames += 1
        self._window.append(self._is_speech(frame))
        voiced = sum(self._window) >= self._onset
        if voiced and self._window[-1]:
            self._voiced_until = self._frames
        if self.in_speech:
            yield Speech(frame)
            yield from self._check_end()
        else:
            self._padding.append(frame)
            if voiced:
                yield from self._start()

    def _check_end(self) -> Iterator[Event]:
        assert self._started_at is not None
        silence = (self._frames - self._voiced_until) * FRAME_DURATION
        resuming = sum(self._window) > 1  # voice again, though not enough yet to be sure
        if silence >= self._options.min_silence_duration and not resuming:
            yield from self._end()
            return
        excess = (
            self._frames - self._started_at
        ) * FRAME_DURATION - self._options.max_utterance_duration
        # a short pause will do at first; a second later, any place
        if excess >= 1.0 or (excess >= 0.0 and not any(self._window)):
            yield Ended(self.position, continued=True)
            self._started_at = self._frames
            yield Started(self.position, continued=True)

    def _start(self) -> Iterator[Event]:
        self._started_at = self._frames - len(self._padding)
        self._voiced_until = self._frames
        yield Started(self._started_at * FRAME_DURATION)
        yield Speech(b"".join(self._padding))
        self._padding.clear()

    def _end(self) -> Iterator[Event]:
        self._started_at = None
        self._window.clear()
        yield Ended(self._voiced_until * FRAME_DURATION)


def _frames(seconds: float) -> int:
    return max(1, round(seconds / FRAME_DURATION))
