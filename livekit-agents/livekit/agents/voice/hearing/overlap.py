"""Speech over the agent: who decides whether it interrupts, and what to do with its words.

With an adaptive detector, words spoken over the agent are held back until the detector has judged
them. `OverlapGate` holds them; it knows no detector, no audio and no clock.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, Protocol

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from livekit import rtc

    from ...inference import OverlappingSpeechEvent
    from ...stt import SpeechEvent
    from ...types import APIConnectOptions

__all__ = [
    "AgentSpeechEnded",
    "AgentSpeechStarted",
    "InterruptionDetector",
    "InterruptionStream",
    "OverlapEnded",
    "OverlapGate",
    "OverlapSignal",
    "OverlapStarted",
]


@dataclass(frozen=True)
class AgentSpeechStarted:
    """The agent became audible."""


@dataclass(frozen=True)
class AgentSpeechEnded:
    """The agent stopped being audible: finished, interrupted or paused."""


@dataclass(frozen=True)
class OverlapStarted:
    """The user speaks over the agent.

    Attributes:
        speech_duration: Seconds of the user's speech so far.
        started_at: `time.time()` of its start.
        span: The `user_speaking` span, for the detector's findings.
    """

    speech_duration: float
    started_at: float
    span: object = None


@dataclass(frozen=True)
class OverlapEnded:
    """One of the two stopped, at `ended_at`."""

    ended_at: float
    agent_ended: bool = False


OverlapSignal = AgentSpeechStarted | AgentSpeechEnded | OverlapStarted | OverlapEnded
OverlapOwner = Literal["audio", "detector"]


class InterruptionStream(Protocol):
    """One conversation's worth of judging overlaps. Iterating raises what ended it."""

    def push_frame(self, frame: rtc.AudioFrame) -> None:
        """A frame from the user. Raises RuntimeError once closed."""

    def send(self, event: OverlapSignal) -> None:
        """What happens between user and agent, in order with the audio."""

    async def aclose(self) -> None:
        """Stop."""

    def __aiter__(self) -> AsyncIterator[OverlappingSpeechEvent]: ...


class InterruptionDetector(Protocol):
    """A model that tells interruptions from backchannels."""

    @property
    def label(self) -> str:
        """Names it in logs."""
        ...

    def stream(self, *, conn_options: APIConnectOptions = ...) -> InterruptionStream:
        """Start judging."""
        ...


class OverlapGate:
    """Decides, for one agent speech after another, what holds back the user's words.

    An agent speech starts with a margin in which plain audio activity interrupts as usual; so does
    speech that began in the margin. Later speech opens an *overlap*: from then on transcripts are
    held until a verdict, or until the agent falls silent.

    Args:
        boundary: Margins after the start and before the end of agent speech (seconds).
    """

    def __init__(self, boundary: tuple[float, float]) -> None:
        self._start_margin, self._end_margin = boundary
        self.enabled = False
        """Whether a detector is there to judge. Without one nothing is ever held."""
        self.holding = False
        """Whether transcripts are to be held."""
        self.held: list[SpeechEvent] = []
        self.agent_started_at: float | None = None
        """Start of the agent's current audible speech, `time.time()`; None while it is silent."""
        self.overlap_started_at: float | None = None
        """Start of the open overlap; None when there is none."""
        self._cooling_down = False

    @property
    def agent_speaking(self) -> bool:
        """Whether the agent is audible."""
        return self.agent_started_at is not None

    @property
    def start_margin(self) -> float:
        """Seconds after the agent's start in which audio activity decides."""
        return self._start_margin

    @property
    def cooling_down(self) -> bool:
        """Whether the margin after the agent's start is still running."""
        return self._cooling_down

    def hold(self, ev: SpeechEvent) -> None:
        """Keep an event for later."""
        self.held.append(ev)

    def release(self) -> list[SpeechEvent]:
        """Stop holding; returns what was held, oldest first."""
        self.holding = False
        held, self.held = self.held, []
        return held

    def agent_started(self, at: float) -> list[SpeechEvent]:
        """The agent is audible from `at` on; returns what was still held."""
        released = self.release()
        self.agent_started_at = at
        self.overlap_started_at = None
        self._cooling_down = self.enabled and self._start_margin > 0
        return released

    def cooldown_over(self) -> None:
        """The margin after the agent's start has passed."""
        self._cooling_down = False

    def user_started(self, started_at: float, *, audio_may_interrupt: bool) -> OverlapOwner | None:
        """The user speaks over the agent since `started_at`.

        Returns:
            "detector": an overlap is open now, its words are held until a verdict. "audio": plain
            audio activity owns the rest of this agent speech. None: nothing to decide.
        """
        if not self.enabled or self.agent_started_at is None or self.overlap_started_at is not None:
            return None
        in_margin = started_at - self.agent_started_at < self._start_margin
        if audio_may_interrupt or self._cooling_down or in_margin:
            self._cooling_down = False
            return "audio"
        self.overlap_started_at = started_at
        self.holding = True
        return "detector"

    def end_overlap(self) -> bool:
        """Close the open overlap; returns whether there was one. What is held stays held."""
        was_open = self.overlap_started_at is not None
        self.overlap_started_at = None
        return was_open

    def agent_ended(self) -> None:
        """The agent is silent."""
        self.agent_started_at = None
        self.overlap_started_at = None
        self._cooling_down = False

    def trim(
        self,
        resolved_at: float,
        *,
        agent_started_at: float | None,
        not_after: float | None,
    ) -> int:
        """Drop held events of speech that the finding at `resolved_at` has settled.

        Args:
            resolved_at: When it was found, `time.time()`.
            agent_started_at: Words spoken before the agent began are never dropped.
            not_after: Words from here on are kept in any case: the start of the speech that is
                going on, or of the interruption.

        Returns:
            How many were dropped.
        """
        cut = resolved_at - self._end_margin
        if not_after is not None:
            cut = min(cut, not_after)
        if agent_started_at is not None:
            cut = max(cut, agent_started_at)
        kept_from = 0
        for ev in self.held:
            if not _settled_before(ev, cut, agent_started_at):
                break
            kept_from += 1
        del self.held[:kept_from]
        return kept_from


def _settled_before(ev: SpeechEvent, cut: float, agent_started_at: float | None) -> bool:
    ended = ev.speech_end_time
    if ended is None:
        return ev.created_at < cut
    return ended < cut and (agent_started_at is None or ended > agent_started_at)
