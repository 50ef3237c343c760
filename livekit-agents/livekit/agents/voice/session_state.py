"""What a session shows of the conversation: agent state, user state, away timer, echo warm-up."""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING, Any

from .events import AgentState, AgentStateChangedEvent, UserState, UserStateChangedEvent

if TYPE_CHECKING:
    from .agent_session import AgentSession


class ConversationState:
    """The two states, and the timers that hang on them.

    The *away timer* runs while both sides listen; when it fires the user counts as away. The
    *echo warm-up* shields the agent's first words from interrupting themselves while the echo
    canceller of the other end still learns: once per session, while the agent speaks.
    """

    def __init__(self, session: AgentSession[Any]) -> None:
        self._session = session
        self._agent: AgentState = "initializing"
        self._user: UserState = "listening"
        self._claims: set[object] = set()
        self._away_timer: asyncio.TimerHandle | None = None
        self._warmup_left = 0.0
        self._warmup_timer: asyncio.TimerHandle | None = None

    @property
    def agent(self) -> AgentState:
        """What the agent does."""
        return self._agent

    @property
    def user(self) -> UserState:
        """What the user does."""
        return self._user

    def begin(self) -> None:
        """A new life of the session starts."""
        self._warmup_left = self._session.options.aec_warmup_duration or 0.0
        self.set_agent("initializing")

    def reset(self) -> None:
        """The session closed: initial states, without events; no timer stays."""
        self.stop()
        self._agent, self._user = "initializing", "listening"
        self._claims.clear()

    def stop(self) -> None:
        """End the timers: a closing session waits for nobody to come back."""
        self.cancel_away()
        self._warmup_left = 0.0
        self._cancel_warmup()

    # -- states ---------------------------------------------------------------------------------

    def set_agent(self, state: AgentState, *, at: float | None = None) -> None:
        """Enter a state; no event if it is the present one. `at`: epoch seconds it began."""
        if state == self._agent:
            return
        old, self._agent = self._agent, state
        at = time.time() if at is None else at
        self._session._spans.agent_state(old, state, at)
        if state == "speaking":
            self._session._errors.reset("llm", "tts")
            self._start_warmup()
        self._session.emit(
            "agent_state_changed",
            AgentStateChangedEvent(old_state=old, new_state=state, created_at=at),
        )
        self._reconsider_away()

    def set_user(self, state: UserState, *, last_speaking_time: float | None = None) -> None:
        """Enter a state; no event if it is the present one. A claimed turn stays "speaking"."""
        if state == self._user or (self._claims and state != "speaking"):
            return
        old, self._user = self._user, state
        created_at = time.time() if last_speaking_time is None else last_speaking_time
        self._session._spans.user_state(old, state, created_at)
        self._session.emit(
            "user_state_changed",
            UserStateChangedEvent(old_state=old, new_state=state, created_at=created_at),
        )
        self._reconsider_away()

    def claim_user_turn(self) -> object:
        """Somebody types for the user: the user counts as speaking until the claim is released."""
        claim = object()
        self._claims.add(claim)
        self.set_user("speaking")
        return claim

    def release_user_turn(self, claim: object, *, silent: bool) -> None:
        """Drop a claim; with the last one the state is what is heard again.

        A claim of a former run of the session is gone already.
        """
        if claim not in self._claims:
            return
        self._claims.remove(claim)
        if not self._claims:
            self.set_user("listening" if silent else "speaking")

    @property
    def turn_claimed(self) -> bool:
        """Whether a user turn is claimed by a program."""
        return bool(self._claims)

    # -- away -----------------------------------------------------------------------------------

    def _reconsider_away(self) -> None:
        if self._agent == self._user == "listening":
            self.arm_away()
        else:
            self.cancel_away()

    def arm_away(self) -> None:
        """(Re)start the away timer in full, if both listen and somebody could come back."""
        self.cancel_away()
        timeout = self._session.options.user_away_timeout
        if (
            timeout is None
            or not (self._agent == self._user == "listening")
            or not self._session._may_go_away()
        ):
            return
        loop = asyncio.get_running_loop()
        self._away_timer = loop.call_later(timeout, self.set_user, "away")

    def cancel_away(self) -> None:
        """Stop the away timer."""
        if self._away_timer is not None:
            self._away_timer.cancel()
            self._away_timer = None

    @property
    def away_armed(self) -> bool:
        """Whether the away timer runs."""
        return self._away_timer is not None

    # -- echo warm-up ---------------------------------------------------------------------------

    @property
    def warmup_active(self) -> bool:
        """Whether the user's audio is still too full of echo to interrupt the agent."""
        return self._warmup_timer is not None and self._agent == "speaking"

    def skip_warmup(self) -> None:
        """The other end has no echo that a canceller would have to learn."""
        self._end_warmup()

    def _start_warmup(self) -> None:
        output = self._session.output
        if self._warmup_left <= 0 or output.audio is None or not output.audio_enabled:
            return
        if self._warmup_timer is None:
            loop = asyncio.get_running_loop()
            self._warmup_timer = loop.call_later(self._warmup_left, self._end_warmup)

    def _end_warmup(self) -> None:
        self._warmup_left = 0.0
        self._cancel_warmup()

    def _cancel_warmup(self) -> None:
        if self._warmup_timer is not None:
            self._warmup_timer.cancel()
            self._warmup_timer = None


class ErrorBudget:
    """Counts consecutive unrecoverable errors per kind of model."""

    def __init__(self, tolerated: int) -> None:
        self._tolerated = tolerated
        self._counts: dict[str, int] = {}

    def count(self, kind: str) -> bool:
        """Count one error. True when there were more of this kind than are tolerated."""
        self._counts[kind] = self._counts.get(kind, 0) + 1
        return self._counts[kind] > self._tolerated

    def reset(self, *kinds: str) -> None:
        """The models of these kinds work again; all kinds when none is named."""
        for kind in kinds or tuple(self._counts):
            self._counts.pop(kind, None)
