"""Audio on its way to a speech provider, kept until the provider has answered for it.

When a connection drops, what it had taken but not yet transcribed goes to the next connection
first, then what was pushed meanwhile: a word spoken into a dying socket is still heard. No I/O;
the input channel of a stream is a thin layer over it.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Generic, TypeVar

from livekit import rtc

from .held_audio import EPSILON, Held, Line
from .types import SpeechEvent, SpeechEventType

T = TypeVar("T")  # what else travels among the frames: flush marks

DEFAULT_CAPACITY = 10.0
"""Seconds of audio held through an outage."""

_QUIET_TAIL = 3.0
"""Seconds replayed when nobody was speaking: enough for a word whose start wasn't reported yet."""

_TRIM_EVERY = 0.5
"""Seconds of audio after which it is worth looking at what need not be kept."""

_GAP = 1.0
"""Seconds that pushed audio may lag behind the clock before we call it a pause in the audio."""

_SLACK = 0.2
"""Seconds by which a provider's time stamp may exceed the audio it got; clocks are rounded."""


class ReplayBuffer(Generic[T]):
    """A first-in first-out queue that can be rewound to what was not acknowledged.

    Positions are seconds since the first pushed sample. They follow the audio; a pause in the
    audio, as from a muted microphone, counts with the time it took.

    What no attempt took, and what the last one took without an answer, is one ring: when it holds
    more than the capacity, the oldest audio gives way.

    Args:
        capacity: Seconds of audio in the ring; 0 turns replaying off, then nothing is dropped.
        lookback: Seconds of taken audio that can be rewound to even so.
        is_silence: Tells frames in which nobody speaks. They are kept in their places, for the
            time line, but don't count. Without it everything counts.
        silence: Seconds that the ring may be longer for frames that don't count.
        clock: Monotonic time in seconds.
        on_loss: Called once per outage in which audio gave way, with its length in seconds;
            silence does not count.
    """

    def __init__(
        self,
        *,
        capacity: float = DEFAULT_CAPACITY,
        lookback: float = 0.0,
        is_silence: Callable[[rtc.AudioFrame], bool] | None = None,
        silence: float = 0.0,
        clock: Callable[[], float],
        on_loss: Callable[[float], None] = lambda seconds: None,
    ) -> None:
        self._capacity = capacity
        self._memory = max(capacity, lookback)
        self._quiet_limit = min(self._memory, _QUIET_TAIL)
        self._trim_above = self._quiet_limit + _TRIM_EVERY
        self._is_silence = is_silence
        self._silence = silence
        self._clock = clock
        self._on_loss = on_loss

        self._waiting: Line[T] = Line(is_silence)
        self._end = 0.0  # position after the last pushed sample
        self._created_at = clock()
        self._anchor: float | None = None  # clock at position 0

        # What the current attempt took. `_media` counts its audio only, as the provider does.
        self._taken: Line[T] = Line(is_silence)
        self._media = 0.0
        self._acked = 0.0
        self._answered = False
        self._attempt_position: float | None = None
        self._last_replayed = False

        self._speech_open = False
        self._final_since_speech = False
        self._reports_expected = True

        self._outage_limit: float | None = None
        self._cut = 0.0  # seconds of taken audio without an answer that gave way
        self._dropped = 0.0

    # -- the queue --------------------------------------------------------------------------------

    def append(self, item: rtc.AudioFrame | T) -> None:
        """Queue a frame or a mark. During an outage the oldest audio gives way."""
        now = self._clock()
        duration = item.duration if isinstance(item, rtc.AudioFrame) else 0.0
        if duration:
            if self._anchor is None:
                self._anchor = now
            elif now - self._anchor - self._end > _GAP:
                self._end = now - self._anchor
        self._waiting.append(Held(item, duration, self._end, now))
        self._end += duration
        if self._outage_limit is not None:
            self._drop_beyond(self._outage_limit)

    def popleft(self) -> rtc.AudioFrame | T:
        """Take the oldest item.

        Raises:
            IndexError: the queue is empty.
        """
        held = self._waiting.popleft()
        duration = held.duration
        if duration:
            if self._attempt_position is None or self._last_replayed:
                self._place(held)
            self._media += duration
            if self._outage_limit is not None:
                self._outage_over()
        self._last_replayed = held.replayed
        if self._memory > 0 and (duration or self._taken.items):
            # a mark means nothing without the audio before it
            self._taken.append(held)
            if self._taken.duration > self._trim_above:
                self._trim()
        return held.item

    @property
    def waiting(self) -> float:
        """Seconds of audio that wait to be taken."""
        return self._waiting.duration

    def _place(self, held: Held[T]) -> None:
        """Tie the provider's clock, which counts audio only, to positions."""
        position = held.position - self._media
        if self._attempt_position is None or (
            # replayed audio, a pause, and now live audio: its time stamps are what matters
            self._last_replayed and not held.replayed and position - self._attempt_position > _GAP
        ):
            self._attempt_position = position

    def __len__(self) -> int:
        return len(self._waiting.items)

    @property
    def last_replayed(self) -> bool:
        """Whether the item taken last had been taken by an earlier attempt already."""
        return self._last_replayed

    # -- what the provider said -------------------------------------------------------------------

    @property
    def speech_open(self) -> bool:
        """Whether speech was reported that no final transcript has covered yet."""
        return self._speech_open

    def note_speech(self, is_open: bool) -> None:
        """Say whether there is speech without a final transcript, for who knows without events."""
        self._speech_open = is_open

    @property
    def taken(self) -> float:
        """Seconds of audio that the current attempt took."""
        return self._media

    def expect_reports(self, expected: bool) -> None:
        """Say whether the provider would tell if somebody spoke.

        If not, audio it took silently may be speech, and all of it is kept, up to the capacity.
        """
        self._reports_expected = expected

    def observe(self, event: SpeechEvent, *, offset: float) -> None:
        """Learn from an event which audio need not be sent again.

        Args:
            event: From the attempt that takes from this buffer now.
            offset: Time of that attempt's first sample on the time line of the event, in seconds.
        """
        if event.type is SpeechEventType.START_OF_SPEECH:
            self._speech_open = True
            self._final_since_speech = False
        elif event.type in _GUESSES and event.alternatives and event.alternatives[0].text:
            self._speech_open = True
        elif event.type is SpeechEventType.FINAL_TRANSCRIPT:
            self._speech_open = False
            self._final_since_speech = True
            self.acknowledge(self._covered_by(event, offset))
        elif (
            event.type is SpeechEventType.END_OF_SPEECH
            # several providers report the end first and the transcript later
            and self._final_since_speech
            and not self._speech_open
        ):
            self.acknowledge(self._media)

    def _covered_by(self, event: SpeechEvent, offset: float) -> float:
        """Seconds of this attempt's audio that a final transcript answers for."""
        if event.alternatives:
            end = event.alternatives[0].end_time - offset
            if self._acked < end <= self._media + _SLACK:
                return min(end, self._media)
        # No usable time stamp. A lost overlap is better than a sentence heard twice.
        return self._media

    def acknowledge(self, media: float) -> None:
        """The provider has answered for this much of the attempt's audio, in seconds from its start.

        For a provider that tells more than its events say; others are understood by `observe`.
        """
        self._answered = True
        media = min(media, self._media)
        self._acked = max(self._acked, media)
        taken = self._taken
        start = self._media - taken.duration
        if start <= self._acked + EPSILON:
            self._cut = 0.0
        while taken.items and start + taken.items[0].duration <= self._acked + EPSILON:
            start += taken.popleft().duration
            self._trim_above = self._quiet_limit + _TRIM_EVERY

    # -- reconnecting -----------------------------------------------------------------------------

    @property
    def attempt_position(self) -> float:
        """Position of the first sample the current attempt got, or will get."""
        if self._attempt_position is not None:
            return self._attempt_position
        first = self._first_waiting()
        return self._position_of_next(self._clock()) if first is None else first.position

    @property
    def delay(self) -> float:
        """Seconds since the oldest audio in the queue was pushed; 0 without any."""
        first = self._first_waiting()
        return 0.0 if first is None else self._clock() - first.pushed_at

    @property
    def finished(self) -> bool:
        """Whether the provider has answered, and for all audio that is left to answer for."""
        replayable = self._capacity > 0 and self._media > self._acked + EPSILON
        return self._answered and not replayable and self._waiting.duration <= EPSILON

    @property
    def has_live_audio(self) -> bool:
        """Whether audio is queued that no attempt took before."""
        return any(held.duration and not held.replayed for held in self._waiting.items)

    @property
    def replayable(self) -> float:
        """Seconds of audio in the queue that an earlier attempt had taken already."""
        return sum(held.duration for held in self._waiting.items if held.replayed)

    def rewind(self) -> None:
        """The current attempt is over: queue what it left unanswered, for the next one.

        While someone was speaking that is at most the capacity, otherwise at most 3 s. From now on
        until the next attempt takes audio, the queue is a ring.
        """
        if self._anchor is None:
            self._anchor = self._created_at
        self._trim()
        self._dropped += min(self._cut, max(0.0, self._media - self._taken.duration - self._acked))
        self._waiting.prepend(self._tail())
        self._taken.clear()
        self._trim_above = self._quiet_limit + _TRIM_EVERY
        self._media = self._acked = self._cut = 0.0
        self._attempt_position = None
        self._last_replayed = False
        if self._capacity > 0 and self._outage_limit is None:
            # Audio that was waiting before the outage, such as a file pushed at once, may stay.
            self._outage_limit = max(self._capacity, self._waiting.counted)

    def skip(self, position: float) -> None:
        """Audio before this position turns out to be answered for, also what has given way.

        For use between attempts.
        """
        first = self._first_waiting()
        lost = 0.0 if first is None else max(0.0, first.position - position)
        self._dropped = min(self._dropped, lost)
        while first is not None and first.position + first.duration <= position + EPSILON:
            self._waiting.drop_oldest_audio()
            first = self._first_waiting()

    def _tail(self) -> Line[T]:
        start = self._media - self._taken.duration
        tail: Line[T] = Line(self._is_silence)
        for held in self._taken.items:
            covered = self._acked - start
            start += held.duration
            if covered > 0 and isinstance(held.item, rtc.AudioFrame):
                held = held.without_start(held.item, covered)
            held.replayed = True
            tail.append(held)
        return tail

    def leftover(self) -> list[rtc.AudioFrame]:
        """The audio that nobody answered for, at the end of the stream; at most the capacity.

        The buffer is of no use afterwards.
        """
        if self._capacity == 0:
            return []
        self.rewind()
        self._drop_beyond(self._capacity)
        self._outage_over()
        return [held.item for held in self._waiting.items if isinstance(held.item, rtc.AudioFrame)]

    # -- bounds -----------------------------------------------------------------------------------

    def _trim(self) -> None:
        """Forget taken audio that would not be replayed."""
        taken = self._taken
        if not self._speech_open and self._reports_expected:
            while taken.duration > self._quiet_limit + EPSILON:
                taken.popleft()
        else:
            while taken.exceeds(self._memory, self._memory + self._silence):
                self._cut += taken.popleft().counted
        self._trim_above = taken.duration + _TRIM_EVERY

    def _drop_beyond(self, limit: float) -> None:
        while self._waiting.exceeds(limit, limit + self._silence):
            self._dropped += self._waiting.drop_oldest_audio().counted

    def _outage_over(self) -> None:
        self._outage_limit = None
        if self._dropped:
            dropped, self._dropped = self._dropped, 0.0
            self._on_loss(dropped)

    def _first_waiting(self) -> Held[T] | None:
        return next((held for held in self._waiting.items if held.duration), None)

    def _position_of_next(self, now: float) -> float:
        if self._anchor is None:
            return 0.0
        elapsed = now - self._anchor
        return elapsed if elapsed - self._end > _GAP else self._end


def check_replay_duration(seconds: float) -> float:
    """The argument, if it is a capacity.

    Raises:
        ValueError: It is not.
    """
    is_number = isinstance(seconds, (int, float)) and not isinstance(seconds, bool)
    if not is_number or not 0 <= seconds < float("inf"):
        raise ValueError(
            f"replay_duration must be a number of seconds, 0 or more (0: off), got {seconds!r}"
        )
    return float(seconds)


_GUESSES = (SpeechEventType.INTERIM_TRANSCRIPT, SpeechEventType.PREFLIGHT_TRANSCRIPT)
