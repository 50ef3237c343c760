"""What hearing needs of the activity it works for: small protocols, so that tests need no session."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    from ...llm import LLM, ChatItem, RealtimeModel
    from ...stt import STT
    from ..agent import Agent
    from ..agent_session import AgentSession
    from ..audio_recognition import AudioRecognition
    from ..realtime_link import RealtimeLink
    from ..replies import Replies
    from ..scheduling import SpeechScheduler
    from ..speech_handle import SpeechHandle
    from ..turn import InterruptionOptions, TurnDetectionMode
    from .barge_in import BargeIn

__all__ = ["HearingActivity", "interruption_options", "owns_overlapping_speech"]


class HearingActivity(Protocol):
    """The part of an `AgentActivity` that hearing uses."""

    @property
    def agent(self) -> Agent:
        """The agent on duty."""
        ...

    @property
    def session(self) -> AgentSession[Any]:
        """The session it works for."""
        ...

    @property
    def llm(self) -> LLM[Any] | RealtimeModel | None:
        """The LLM or realtime model in use."""
        ...

    @property
    def stt(self) -> STT[Any] | None:
        """The STT in use."""
        ...

    @property
    def turn_detection(self) -> TurnDetectionMode | None:
        """The validated turn detection; None chooses by what is there."""
        ...

    @property
    def server_turn_detection(self) -> bool:
        """Whether a realtime model's server finds the turns."""
        ...

    @property
    def min_endpointing_delay(self) -> float:
        """Seconds to wait when the turn looks complete."""
        ...

    @property
    def turns_blocked(self) -> bool:
        """Whether user turns get no reply now."""
        ...

    realtime: RealtimeLink | None
    scheduler: SpeechScheduler
    replies: Replies
    recognition: AudioRecognition | None
    barge_in: BargeIn

    def commit(self, *items: ChatItem, speech_handle: SpeechHandle | None = None) -> None:
        """Put items into the histories of agent and session."""
        ...

    def create_speech_task(
        self,
        coro: Coroutine[Any, Any, Any],
        *,
        speech_handle: SpeechHandle | None = None,
        name: str | None = None,
    ) -> asyncio.Task[Any]:
        """Start a task that may create speech."""
        ...

    async def wait_for_idle(
        self, *, wait_for_agent: bool = True, wait_for_user: bool = True
    ) -> None:
        """Return once nobody speaks, is about to, or decides whether to."""
        ...


def interruption_options(activity: HearingActivity) -> InterruptionOptions:
    """The session's interruption options; an agent overrides only whether and by what."""
    return activity.session.options.interruption


def owns_overlapping_speech(activity: HearingActivity) -> bool:
    """Whether a realtime model listens while it speaks, and deals with the overlap by itself."""
    from ...llm import RealtimeModel

    model = activity.llm
    return (
        isinstance(model, RealtimeModel)
        and activity.server_turn_detection
        and model.capabilities.supports_overlapping_speech
    )
