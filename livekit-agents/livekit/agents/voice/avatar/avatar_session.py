"""`AvatarSession`: what plugins for avatar services build on."""

from __future__ import annotations

import asyncio
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Coroutine
from typing import TYPE_CHECKING, Any, Generic, Literal, TypeVar

from livekit import rtc

from ..._emitter import IsolatedEmitter
from ...log import logger
from ...metrics.base import AvatarMetrics, Metadata
from ...utils import wait_for_participant, wait_for_track_publication
from ...utils.aio import TaskScope, run_bounded

if TYPE_CHECKING:
    from ..agent_session import AgentSession
    from ..events import ConversationItemAddedEvent
    from ..io import AudioOutput

REMOVE_TIMEOUT = 2.0
"""Seconds for the server to remove the avatar from the room."""

TEvent = TypeVar("TEvent")


class AvatarSession(ABC, IsolatedEmitter[Literal["metrics_collected"] | TEvent], Generic[TEvent]):
    """One avatar in one room. Subclasses start the service and set the session's audio output.

    Emits `metrics_collected` when the avatar has joined, and for the delay of every answer.
    """

    def __init__(self) -> None:
        super().__init__()
        self._agent_session: AgentSession[Any] | None = None
        self._room: rtc.Room | None = None
        self._scope = TaskScope("avatar session")
        self._joined: asyncio.Task[None] | None = None
        self._connected: asyncio.Future[None] | None = None
        self._former_output: AudioOutput | None = None
        self._handlers_set = False

    @property
    @abstractmethod
    def avatar_identity(self) -> str:
        """The identity with which the avatar joins."""

    @property
    def provider(self) -> str:
        """Who makes the avatar; appears in metrics."""
        return "unknown"

    async def start(self, agent_session: AgentSession[Any], room: rtc.Room) -> None:
        """Begin to wait for the avatar. Subclasses call this first.

        Args:
            agent_session: The session that will speak through the avatar.
            room: The room of both.
        """
        from ..session_start import current_job

        self._agent_session, self._room = agent_session, room
        self._former_output = _leaf_of(agent_session)
        job = current_job()
        if job is not None:
            job.add_shutdown_callback(_closing(self))
        agent_session.on("conversation_item_added", self._on_item)
        room.on("connection_state_changed", self._on_connection_state)
        self._handlers_set = True
        self._on_connection_state(None)

    def _on_connection_state(self, state: object) -> None:
        assert self._room is not None
        if self._room.isconnected() and self._joined is None:
            self._joined = self._scope.spawn(self._watch_join(), name="wait for the avatar")
            if self._connected is not None and not self._connected.done():
                self._connected.set_result(None)

    async def _watch_join(self) -> None:
        assert self._room is not None
        identity, began = self.avatar_identity, time.time()
        await wait_for_participant(self._room, identity=identity, include_local=True)
        await wait_for_track_publication(
            self._room, identity=identity, kind=rtc.TrackKind.KIND_VIDEO, include_local=True
        )
        self._collected(
            AvatarMetrics(
                timestamp=time.time(),
                session_started_time=began,
                avatar_joined_time=time.time(),
                metadata=Metadata(model_provider=self.provider),
            )
        )

    async def wait_for_join(self, *, timeout: float | None = 30.0) -> None:
        """Return when the avatar is in the room and has published its video.

        Before the room is connected this waits for that first.

        Args:
            timeout: Seconds; None waits as long as it takes.

        Raises:
            asyncio.TimeoutError: It did not come in time; it is still waited for.
            RuntimeError: Not started, or the room disconnected meanwhile.
        """
        if self._room is None:
            raise RuntimeError("the avatar is not started: call start() first")
        loop = asyncio.get_running_loop()
        deadline = None if timeout is None else loop.time() + timeout
        if self._joined is None:
            self._connected = loop.create_future()
            await asyncio.wait((self._connected,), timeout=timeout)
        if self._joined is None:
            raise asyncio.TimeoutError("the room was not connected in time")
        left = None if deadline is None else max(0.0, deadline - loop.time())
        done, _ = await asyncio.wait((self._joined,), timeout=left)
        if not done:
            raise asyncio.TimeoutError(f"the avatar {self.avatar_identity} did not join in time")
        self._joined.result()

    # -- metrics ----------------------------------------------------------------------------------

    def _on_item(self, event: ConversationItemAddedEvent) -> None:
        latency = (getattr(event.item, "metrics", None) or {}).get("playback_latency")
        if getattr(event.item, "role", None) == "assistant" and latency is not None:
            self._collected(
                AvatarMetrics(
                    timestamp=event.created_at,
                    playback_latency=latency,
                    metadata=Metadata(model_provider=self.provider),
                )
            )

    def _collected(self, metrics: AvatarMetrics) -> None:
        self.emit("metrics_collected", metrics)
        if self._agent_session is not None:
            self._agent_session._on_metrics(metrics)

    # -- the end ----------------------------------------------------------------------------------

    async def aclose(self) -> None:
        """Remove the avatar from the room, and let the session speak as before. Safe at any time.

        Bounded: the server gets 2 s to remove the avatar.
        """
        session, room = self._agent_session, self._room
        if session is None or room is None:
            return
        if self._handlers_set:
            self._handlers_set = False
            session.off("conversation_item_added", self._on_item)
            room.off("connection_state_changed", self._on_connection_state)
        self._restore_output(session)
        await self._scope.cancel(0.5)
        await self._remove_avatar(room)

    def _restore_output(self, session: AgentSession[Any]) -> None:
        former, self._former_output = self._former_output, None
        if former is None or session._is_closing or session.output.audio is None:
            return
        if _leaf_of(session) is not former:
            session.output.replace_audio_tail(former)

    async def _remove_avatar(self, room: rtc.Room) -> None:
        from ..session_start import current_job

        job = current_job()
        if job is None or job.is_fake_job() or not room.isconnected():
            return
        from livekit import api

        request = api.RoomParticipantIdentity(room=room.name, identity=self.avatar_identity)
        try:
            await run_bounded(
                job.api.room.remove_participant(request), REMOVE_TIMEOUT, owner="avatar session"
            )
        except api.TwirpError as error:
            if error.code != api.TwirpErrorCode.NOT_FOUND:
                logger.warning("could not remove the avatar from the room: %s", error)
        except Exception as error:
            logger.warning("could not remove the avatar from the room: %s", error)


def _closing(avatar: AvatarSession[Any]) -> Callable[[], Coroutine[Any, Any, None]]:
    async def close_avatar() -> None:
        await avatar.aclose()

    # the server is asked to remove the avatar while the job is still in the room
    close_avatar._needs_room = True  # type: ignore[attr-defined]
    return close_avatar


def _leaf_of(session: AgentSession[Any]) -> AudioOutput | None:
    """The sink that plays, inside of whatever wraps it."""
    sink = session.output.audio
    while sink is not None and sink.next_in_chain is not None:
        sink = sink.next_in_chain
    return sink


__all__ = ["AvatarSession"]
