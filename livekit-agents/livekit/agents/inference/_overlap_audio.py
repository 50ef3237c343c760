"""Which audio of an overlap is judged, and what became of each request. No I/O."""

from __future__ import annotations

import math
from collections import OrderedDict
from collections.abc import Callable

SAMPLE_RATE = 16000
_BYTE_RATE = SAMPLE_RATE * 2
_FRAMES_PER_SECOND = 40
_KEPT_REQUESTS = 10


def frames_of(duration: float) -> int:
    """Frames of 25 ms that a duration takes."""
    return math.ceil(round(duration * _FRAMES_PER_SECOND, 6))


class OverlapAudio:
    """The last seconds of the user's audio while the agent speaks, and when to judge them.

    Args:
        max_duration: Seconds of audio judged at most.
        prefix: Seconds from before the user's speech that are judged with it.
        interval: Seconds of new audio between two requests.
    """

    def __init__(self, *, max_duration: float, prefix: float, interval: float) -> None:
        self._max_bytes = int(max_duration * SAMPLE_RATE) * 2
        self._prefix = prefix
        self._interval_bytes = int(interval * SAMPLE_RATE) * 2
        self._pcm = bytearray()
        self._unjudged = 0
        self._trimmed = False
        self.agent_speaking = False
        """Whether audio is kept at all."""
        self.overlap_open = False
        """Whether the user speaks over the agent, unjudged so far."""

    def agent_started(self) -> None:
        """The agent is audible."""
        self._reset()
        self.agent_speaking = True

    def agent_ended(self) -> None:
        """The agent is silent."""
        self._reset()
        self.agent_speaking = False

    def _reset(self) -> None:
        self._pcm.clear()
        self._unjudged = 0
        self._trimmed = False
        self.overlap_open = False

    def overlap_started(self, speech_duration: float) -> bool:
        """The user speaks over the agent, since `speech_duration` seconds.

        Returns:
            Whether an overlap is open now.
        """
        if not self.agent_speaking:
            return False
        self.overlap_open = True
        if not self._trimmed:
            self._trimmed = True
            keep = int((self._prefix + speech_duration) * SAMPLE_RATE) * 2
            del self._pcm[: max(0, len(self._pcm) - keep)]
        self._unjudged = self._interval_bytes  # what is there already is worth a request
        return True

    def overlap_ended(self) -> None:
        """It is judged, or over."""
        self.overlap_open = False

    def push(self, pcm: bytes | memoryview) -> bytes | None:
        """Take audio of the user.

        Returns:
            What is to be judged now, if anything.
        """
        if not self.agent_speaking:
            return None
        self._pcm += pcm
        excess = len(self._pcm) - self._max_bytes
        if excess > 0:
            del self._pcm[:excess]
        if not self.overlap_open:
            return None
        self._unjudged += len(pcm)
        if self._unjudged < self._interval_bytes:
            return None
        self._unjudged = 0
        return bytes(self._pcm)


class Requests:
    """Requests of the current overlap by their time stamp, the last ten.

    Args:
        make: Makes the record of a request.
    """

    def __init__(self, make: Callable[[int], object]) -> None:
        self._make = make
        self._records: OrderedDict[int, object] = OrderedDict()
        self._unanswered: OrderedDict[int, None] = OrderedDict()
        self.count = 0
        """Requests since the overlap began."""

    def clear(self) -> None:
        """Another overlap begins."""
        self._records.clear()
        self._unanswered.clear()
        self.count = 0

    def add(self, created_at: int) -> object:
        """A request goes out."""
        record = self._records[created_at] = self._make(created_at)
        self._unanswered[created_at] = None
        self.count += 1
        while len(self._records) > _KEPT_REQUESTS:
            self._records.popitem(last=False)
        return record

    def answered(self, created_at: int) -> object | None:
        """An answer came; returns the record, None if it is none of this overlap."""
        for earlier in [at for at in self._unanswered if at <= created_at]:
            del self._unanswered[earlier]  # answers come in order
        return self._records.get(created_at)

    @property
    def oldest_unanswered(self) -> int | None:
        """Time stamp of the request that has waited longest."""
        return next(iter(self._unanswered), None)

    @property
    def records(self) -> list[object]:
        """All records, oldest first."""
        return list(self._records.values())
