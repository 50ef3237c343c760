"""What is known about the turn the user is taking."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from .hooks import TurnMetrics
from .transcript import Transcript

__all__ = ["CommitRequest", "TurnMode", "TurnSnapshot", "UserTurn", "turn_mode"]

TurnMode = Literal["base", "stt", "manual", "realtime_llm"]
"""Who opens and closes turns: silence ("base"), the STT, the user's code, or the realtime model."""

UNTRANSCRIBED_FOR = 10.0
"""Seconds after which speech without a transcript was noise: no recogniser takes longer."""


def turn_mode(detection: object) -> TurnMode:
    """The mode behind a validated `turn_detection`: silence decides, unless a string says else."""
    if detection == "stt":
        return "stt"
    if detection == "manual":
        return "manual"
    if detection == "realtime_llm":
        return "realtime_llm"
    return "base"


@dataclass(frozen=True)
class CommitRequest:
    """Somebody asked for the end of this turn, whatever silence or detectors say."""

    skip_reply: bool = False


@dataclass(frozen=True)
class TurnSnapshot:
    """The anchors of a turn when the decision about its end was started."""

    started_at: float | None
    last_speaking_at: float | None
    last_final_at: float | None

    def metrics(self, now: float) -> TurnMetrics:
        """Delays as of `now`; none is known unless all anchors are, in a possible order."""
        started, stopped, final = self.started_at, self.last_speaking_at, self.last_final_at
        if started is None or stopped is None or final is None or stopped < started:
            return TurnMetrics()
        return TurnMetrics(
            started_speaking_at=started,
            stopped_speaking_at=stopped,
            transcription_delay=max(final - stopped, 0.0),
            end_of_turn_delay=max(now - stopped, 0.0),
        )


@dataclass
class UserTurn:
    """The turn in progress. Every moment is `time.time()` seconds."""

    words: Transcript = field(default_factory=Transcript)
    speaking: bool = False
    started_at: float | None = None
    """When the turn began; None while there is none."""
    speech_started_at: float | None = None
    """When the latest stretch of speech began."""
    last_speaking_at: float | None = None
    """When the user was last heard speaking."""
    segment_started_at: float | None = None
    """Start of the speech segment that the VAD has open."""
    heard_at: float | None = None
    """When speech was last heard that no transcript has covered yet."""
    committed: bool = False
    """The STT or the user's code has ended the turn; the decision is being carried out."""
    request: CommitRequest | None = None
    flush_requested: bool = False
    """The STT was asked to finish its transcript of this turn."""
    detector_flushed: bool = False
    """The streaming detector has been told that the previous turn was committed."""
    overlapped: bool = False
    """Some of this turn was spoken over the agent."""
    backchannel: bool = False
    """What was spoken over the agent was judged to be no interruption."""
    request_ids: list[str] = field(default_factory=list)

    @property
    def segment_open(self) -> bool:
        """Whether the VAD is inside a speech segment."""
        return self.segment_started_at is not None

    @property
    def earliest_anchor(self) -> float | None:
        """The earliest moment known to belong to this turn."""
        anchors = (self.speech_started_at, self.last_speaking_at, self.words.last_final_at)
        return min((at for at in anchors if at is not None), default=None)

    def snapshot(self) -> TurnSnapshot:
        """The anchors as they are now."""
        return TurnSnapshot(self.started_at, self.last_speaking_at, self.words.last_final_at)

    def open(self, at: float) -> None:
        """The turn begins at `at`, unless it has begun."""
        if self.started_at is None:
            self.started_at = at

    def awaits_transcript(self, now: float) -> bool:
        """Whether something was heard whose final transcript is still to come."""
        if self.speaking or self.words.unfinished:
            return True
        return self.heard_at is not None and now - self.heard_at <= UNTRANSCRIBED_FOR

    def close(self, snapshot: TurnSnapshot) -> None:
        """The words were taken. What the user has begun to say since stays for the next turn."""
        self.words.take()
        self.request_ids = []
        self.started_at = None
        if self.last_speaking_at == snapshot.last_speaking_at:
            self.speech_started_at = self.last_speaking_at = self.segment_started_at = None

    def settle(self) -> None:
        """The decision is through, either way."""
        self.backchannel = self.overlapped = self.committed = False
        self.request = None

    def clear(self) -> None:
        """Forget the turn, its words and its anchors. Whether the user speaks is not forgotten."""
        self.words.clear()
        self.started_at = self.last_speaking_at = self.heard_at = None
        self.speech_started_at = self.segment_started_at
        self.flush_requested = self.detector_flushed = False
        self.request_ids = []
        self.settle()
