"""Audio on its way, item by item, and how long it is."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import Generic, TypeVar

from livekit import rtc

T = TypeVar("T")  # what else travels among the frames: flush marks

EPSILON = 1e-6
"""Less than a sample at any rate: sums of durations are equal within this many seconds."""


class Held(Generic[T]):
    """An item on its way, with its place in the stream. All times in seconds."""

    __slots__ = ("duration", "is_silence", "item", "position", "pushed_at", "replayed")

    def __init__(
        self, item: rtc.AudioFrame | T, duration: float, position: float, pushed_at: float
    ) -> None:
        self.item = item
        self.duration = duration
        self.is_silence: bool | None = None  # nobody had to know yet
        self.position = position
        self.pushed_at = pushed_at
        self.replayed = False

    @property
    def counted(self) -> float:
        """Its length, unless it is known to be silence."""
        return 0.0 if self.is_silence else self.duration

    def without_start(self, frame: rtc.AudioFrame, seconds: float) -> Held[T]:
        """What is left of its frame after the first `seconds`."""
        rest = _without_start(frame, seconds)
        held: Held[T] = Held(rest, rest.duration, self.position + seconds, self.pushed_at)
        held.is_silence = self.is_silence
        return held


class Line(Generic[T]):
    """Items in order, and how long their audio is: all of it, and what counts of it.

    Whether a frame is silence is found out when it matters, which is hardly ever.
    """

    __slots__ = ("_is_silence", "_silence", "duration", "items")

    def __init__(self, is_silence: Callable[[rtc.AudioFrame], bool] | None) -> None:
        self._is_silence = is_silence
        self.items: deque[Held[T]] = deque()
        self.duration = 0.0
        self._silence = 0.0

    @property
    def counted(self) -> float:
        """How much of its audio counts; silence that was not judged yet does."""
        return self.duration - self._silence

    def append(self, held: Held[T]) -> None:
        self.items.append(held)
        self.duration += held.duration
        if held.is_silence:
            self._silence += held.duration

    def prepend(self, tail: Line[T]) -> None:
        tail.judge()
        self.items.extendleft(reversed(tail.items))
        self.duration += tail.duration
        self._silence += tail._silence

    def popleft(self) -> Held[T]:
        held = self.items.popleft()
        self.duration -= held.duration
        if held.is_silence:
            self._silence -= held.duration
        return held

    def drop_oldest_audio(self) -> Held[T]:
        """Take out the oldest frame; marks before it stay, there are hardly ever any."""
        held = next(held for held in self.items if held.duration)
        self.items.remove(held)
        self.duration -= held.duration
        self._silence -= held.duration - held.counted
        return held

    def exceeds(self, counted: float, span: float) -> bool:
        """Whether it is longer than `span` seconds, or more than `counted` of them count."""
        if self.duration > span + EPSILON:
            return True
        if self.counted <= counted + EPSILON:
            return False
        self.judge()
        return self.counted > counted + EPSILON

    def judge(self) -> None:
        """Find out what counts."""
        if self._is_silence is None:
            return
        for held in reversed(self.items):
            if held.is_silence is not None:
                break  # all before it are judged, too
            held.is_silence = isinstance(held.item, rtc.AudioFrame) and self._is_silence(held.item)
            if held.is_silence:
                self._silence += held.duration

    def clear(self) -> None:
        self.items.clear()
        self.duration = self._silence = 0.0


def _without_start(frame: rtc.AudioFrame, seconds: float) -> rtc.AudioFrame:
    """The rest of a frame after its first ``seconds``; at least one sample of it."""
    skip = min(round(seconds * frame.sample_rate), frame.samples_per_channel - 1)
    return rtc.AudioFrame(
        data=frame.data[skip * frame.num_channels :],
        sample_rate=frame.sample_rate,
        num_channels=frame.num_channels,
        samples_per_channel=frame.samples_per_channel - skip,
    )
