"""Carries out what the overlap gate decides: tells the detector, the hooks, and frees held words."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TYPE_CHECKING

from ...log import logger
from ...types import NOT_GIVEN, NotGivenOr
from .hooks import RecognitionHooks, notify
from .overlap import (
    AgentSpeechEnded,
    AgentSpeechStarted,
    OverlapEnded,
    OverlapGate,
    OverlapSignal,
    OverlapStarted,
)
from .timers import CallLater, Timer
from .transcript import first_alternative, joined
from .user_turn import UserTurn

if TYPE_CHECKING:
    from ...inference import OverlappingSpeechEvent
    from ...stt import SpeechEvent

__all__ = ["OverlapJudge"]


class OverlapJudge:
    """Speech over the agent, from the first sound to the verdict.

    Args:
        hooks: Their "audio may interrupt" flag is set here, and they hear of verdicts.
        turn: The user's turn; learns what was judged to be a backchannel.
        gate: The decisions.
        call_later: Starts a timer.
        replay: Processes transcripts that were held.
    """

    def __init__(
        self,
        hooks: RecognitionHooks,
        *,
        turn: UserTurn,
        gate: OverlapGate,
        call_later: CallLater,
        replay: Callable[[list[SpeechEvent]], None],
    ) -> None:
        self._hooks = hooks
        self._turn = turn
        self._gate = gate
        self._call_later = call_later
        self._replay = replay
        self._send: Callable[[OverlapSignal], None] | None = None
        self._cooldown: Timer | None = None
        self._interrupted: bool | None = None

    @property
    def holding(self) -> bool:
        """Whether transcripts have to be held."""
        return self._gate.holding

    @property
    def agent_speaking(self) -> bool:
        """Whether the agent is audible."""
        return self._gate.agent_speaking

    @property
    def judgement(self) -> NotGivenOr[bool]:
        """Whether the current speech over the agent interrupts, as far as it was judged."""
        return NOT_GIVEN if self._interrupted is None else self._interrupted

    @property
    def held_text(self) -> str:
        """The words that are held."""
        finals = [ev for ev in self._gate.held if ev.type.value == "final_transcript"]
        return joined(*(first_alternative(ev).text for ev in finals))

    def hold(self, ev: SpeechEvent) -> None:
        """Keep a transcript until the verdict."""
        self._gate.hold(ev)

    # -- the detector ---------------------------------------------------------------------------

    def enable(self, send: Callable[[OverlapSignal], None]) -> None:
        """A detector judges from now on."""
        self._send = send
        self._gate.enabled = True

    def disable(self) -> None:
        """No detector judges any more: audio activity decides again, held words are freed."""
        if not self._gate.enabled:
            return
        self._gate.enabled = False
        self._end_overlap(time.time())
        self._send = None
        self._cancel_cooldown()
        self._let_audio_interrupt()
        self.release_held()

    def release_held(self) -> None:
        """Process held transcripts as they are."""
        self._replay(self._gate.release())

    def discard_held(self) -> None:
        """Forget held transcripts."""
        self._gate.release()

    # -- the agent ------------------------------------------------------------------------------

    def agent_started(self, at: float, *, user_speaking: bool) -> None:
        """The agent became audible at `at` (`time.time()`)."""
        self._cancel_cooldown()
        self._interrupted = None
        released = self._gate.agent_started(at)
        self._replay(released)
        if not self._gate.enabled:
            return
        self._tell(AgentSpeechStarted())
        if self._gate.cooling_down:
            self._cooldown = self._call_later(self._gate.start_margin, self._on_cooldown_over)
        if user_speaking:
            self._user_over_agent(at, speech_duration=0.0)
        else:
            self._hooks.interruption_by_audio_activity_enabled = False

    def _on_cooldown_over(self) -> None:
        self._cooldown = None
        self._gate.cooldown_over()
        if self._gate.agent_speaking:
            self._hooks.interruption_by_audio_activity_enabled = False

    def agent_ended(self, at: float) -> None:
        """The agent is silent since `at`: finished, interrupted or paused."""
        agent_started_at = self._gate.agent_started_at
        self._cancel_cooldown()
        self._end_overlap(at, agent_ended=True)
        self._gate.agent_ended()
        if not self._gate.enabled:
            return
        self._tell(AgentSpeechEnded())
        self._gate.trim(
            at, agent_started_at=agent_started_at, not_after=self._turn.segment_started_at
        )
        self._let_audio_interrupt()
        self.release_held()

    # -- the user -------------------------------------------------------------------------------

    def user_started(self, started_at: float, *, speech_duration: float) -> None:
        """The user began to speak."""
        self._turn.backchannel = False
        self._interrupted = None
        if not self._gate.agent_speaking:
            self._turn.overlapped = False
            return
        self._user_over_agent(started_at, speech_duration=speech_duration)

    def _user_over_agent(self, started_at: float, *, speech_duration: float) -> None:
        owner = self._gate.user_started(
            started_at, audio_may_interrupt=self._hooks.interruption_by_audio_activity_enabled
        )
        if owner == "audio":
            self._cancel_cooldown()
            self._let_audio_interrupt()
            self.release_held()
        elif owner == "detector":
            self._turn.overlapped = True
            self._tell(OverlapStarted(speech_duration=speech_duration, started_at=started_at))

    def user_ended(self, at: float) -> None:
        """The user fell silent."""
        self._end_overlap(at)

    def on_final_transcript(self) -> None:
        """Words came that nobody holds: plain audio may interrupt the rest of this speech."""
        if self._gate.agent_speaking and not self._gate.holding:
            self._cancel_cooldown()
            self._gate.cooldown_over()
            self._let_audio_interrupt()

    # -- the verdict ----------------------------------------------------------------------------

    def on_verdict(self, ev: OverlappingSpeechEvent) -> None:
        """The detector has judged."""
        overlap_started_at = self._gate.overlap_started_at or ev.overlap_started_at
        in_cooldown = self._gate.cooling_down
        if ev.is_interruption:
            self._interrupted = True
            self._end_overlap(ev.detected_at)
            self._let_audio_interrupt()
            notify(self._hooks.on_overlap_speech, ev)
            self._gate.trim(
                ev.detected_at,
                agent_started_at=self._gate.agent_started_at,
                not_after=overlap_started_at,
            )
            self.release_held()
            return
        notify(self._hooks.on_overlap_speech, ev)
        if in_cooldown:
            return
        self._end_overlap(ev.detected_at)
        self._gate.trim(
            ev.detected_at,
            agent_started_at=self._gate.agent_started_at,
            not_after=self._turn.segment_started_at,
        )
        if self._turn.overlapped and not ev.agent_ended:
            self._interrupted = False
            self._turn.backchannel = True
            if not self._turn.speaking:
                notify(self._hooks.on_backchannel_confirmed)

    # -- details --------------------------------------------------------------------------------

    def _end_overlap(self, at: float, *, agent_ended: bool = False) -> None:
        if self._gate.end_overlap():
            self._tell(OverlapEnded(ended_at=at, agent_ended=agent_ended))

    def _let_audio_interrupt(self) -> None:
        self._hooks.interruption_by_audio_activity_enabled = True

    def _tell(self, signal: OverlapSignal) -> None:
        if self._send is None:
            return
        try:
            self._send(signal)
        except Exception:
            logger.exception("the interruption detector did not take %s", type(signal).__name__)

    def _cancel_cooldown(self) -> None:
        if self._cooldown is not None:
            self._cooldown.cancel()
            self._cooldown = None
