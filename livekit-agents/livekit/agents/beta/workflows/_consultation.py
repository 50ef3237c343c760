"""A room in which an agent talks to a person on another phone, while the caller waits."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Coroutine
from typing import TYPE_CHECKING, Any

from livekit import rtc

from ...llm import ToolError
from ...log import logger
from ...utils import shortuuid
from ...utils.aio import TaskScope, run_bounded, wait_until
from ...voice.agent_session import AgentSession
from ...voice.background_audio import BackgroundAudioPlayer, BuiltinAudioClip, _choose
from ...voice.room_io.types import RoomOptions

if TYPE_CHECKING:
    from ...job import JobContext
    from ...voice.agent import Agent

CONNECT_TIMEOUT = 15.0
"""Seconds to join the room of the consultation."""
REQUEST_TIMEOUT = 10.0
"""Seconds for the server to move a participant."""
HOLD_TIMEOUT = 5.0
"""Seconds until the caller hears the music; without it, the transfer goes on in silence."""
LAST_WORDS = 15.0
"""Seconds for what is being said when the calls are connected."""

SESSION_END = 3.0
STEP_END = 1.5
"""Seconds for the parts of the end: together less than a forced close of the caller's session gives."""


class Consultation:
    """The room, the session and the call of one consultation; and the caller's hold music.

    Whatever was begun is ended by `end`, which works at any moment, and once.
    """

    def __init__(self, job: JobContext) -> None:
        self._job = job
        self.room = rtc.Room()
        self.room_name = f"{job.room.name}-consultation-{shortuuid()}"
        self.identity = f"human-agent-{shortuuid()}"
        self.session: AgentSession[Any] | None = None
        self.hang_up: Callable[[], Awaitable[Any]] | None = None
        """Ends a call that the server can't, should the consultation fail."""
        self.moved = False
        self._entered = False
        self._hold: BackgroundAudioPlayer | None = None
        self._connecting: asyncio.Task[None] | None = None
        self._scope = TaskScope("consultation")
        self._ending: asyncio.Task[None] | None = None
        job.add_shutdown_callback(self._at_job_end)

    # -- the beginning ------------------------------------------------------------------------------

    async def play_hold_audio(self, sound: Any) -> None:
        """Let the caller hear something. Failures are logged: silence is better than no transfer."""
        self._hold = BackgroundAudioPlayer()
        try:
            await run_bounded(
                self._hold.start(room=self._job.room), HOLD_TIMEOUT, owner="warm transfer"
            )
            chosen = _choose(sound)
            if chosen is not None:
                named = isinstance(chosen.source, (str, BuiltinAudioClip))
                self._hold.play(chosen, loop=named)
        except Exception as error:
            logger.warning("the caller hears no music while on hold: %r", error)

    async def connect(self) -> None:
        """Join the room.

        Raises:
            ToolError: It can't be joined in time.
        """
        self._entered = True
        # a connect is never cancelled: the native layer would end the process for it
        self._connecting = self._scope.spawn(
            self.room.connect(self._job._info.url, self._token()),
            name="join the consultation",
            log_errors=False,
        )
        self._connecting.add_done_callback(_retrieve)
        if await wait_until(self._connecting, CONNECT_TIMEOUT):
            raise ToolError("the line for the transfer could not be set up in time")
        self._connecting.result()

    def _token(self) -> str:
        from livekit import api

        grants = api.VideoGrants(room_join=True, room=self.room_name, agent=True)
        token = api.AccessToken().with_identity(f"agent-{shortuuid()}").with_kind("agent")
        return token.with_grants(grants).to_jwt()

    async def talk(self, agent: Agent) -> AgentSession[Any]:
        """Start the session with the person, who has picked up."""
        session = self.session = AgentSession(
            vad=None, forced_drain_timeout=0.5, teardown_timeout=0.75
        )
        await session.start(
            agent,
            room=self.room,
            room_options=RoomOptions(participant_identity=self.identity),
            record=False,
        )
        return session

    async def move_to_caller(self) -> None:
        """Put the person into the caller's room. Needs a server that can do so: LiveKit Cloud.

        Raises:
            asyncio.TimeoutError: The server did not answer in time; its errors are raised as they are.
        """
        from livekit import api

        request = api.MoveParticipantRequest(
            room=self.room_name, identity=self.identity, destination_room=self._job.room.name
        )
        await run_bounded(
            self._job.api.room.move_participant(request), REQUEST_TIMEOUT, owner="warm transfer"
        )
        self.moved = True

    # -- the end --------------------------------------------------------------------------------------

    def end(self) -> asyncio.Task[None]:
        """Hang up and leave nothing behind. Nobody can cancel it; it takes five seconds at most."""
        if self._ending is None:
            self._ending = self._scope.spawn(
                self._end(), name="end the consultation", cancellable=False
            )
        return self._ending

    async def _at_job_end(self) -> None:
        await wait_until(self.end(), 2 * SESSION_END)

    async def _end(self) -> None:
        steps: list[tuple[str, Coroutine[Any, Any, Any], float]] = [
            ("leave the consultation", self._leave(), SESSION_END + STEP_END)
        ]
        if self._hold is not None:
            steps.append(("stop the hold music", self._hold.aclose(), SESSION_END))
        if not self.moved:
            if self.hang_up is not None:
                steps.append(("hang up", _awaiting(self.hang_up()), STEP_END))
            if self._entered:
                steps.append(("delete the room", self._delete_room(), STEP_END))
        tasks = [
            self._scope.spawn(_attempt(name, step, seconds), name=name)
            for name, step, seconds in steps
        ]
        await wait_until(tasks, None)

    async def _leave(self) -> None:
        if self.session is not None:
            await _attempt("close the session", self.session.aclose(), SESSION_END)
        connecting = self._connecting
        if connecting is None:
            return
        if await wait_until(connecting, 0 if self.session is not None else STEP_END):
            connecting.add_done_callback(lambda _: self._disconnect())
        elif await wait_until(self._disconnect(), STEP_END):
            logger.warning("warm transfer: the room of the consultation is left later")

    def _disconnect(self) -> asyncio.Task[None]:
        """Leave the room. Not cancelled when it takes long: the room would stay."""
        return self._scope.spawn(self.room.disconnect(), name="leave the room")

    async def _delete_room(self) -> None:
        from livekit import api

        try:
            await self._job.api.room.delete_room(api.DeleteRoomRequest(room=self.room_name))
        except api.TwirpError as error:
            if error.code != api.TwirpErrorCode.NOT_FOUND:
                raise


async def _awaiting(awaitable: Awaitable[Any]) -> None:
    await awaitable


async def _attempt(name: str, step: Coroutine[Any, Any, Any], seconds: float) -> None:
    try:
        await run_bounded(step, seconds, owner="warm transfer", name=name)
    except Exception as error:
        logger.warning("warm transfer: could not %s: %r", name, error)


def _retrieve(task: asyncio.Task[Any]) -> None:
    if not task.cancelled():
        task.exception()


__all__ = ["LAST_WORDS", "Consultation"]
