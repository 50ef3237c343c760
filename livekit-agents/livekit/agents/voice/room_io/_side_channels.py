"""What RoomIO sends and takes beside audio and video: state, user transcripts, chat, deletion."""

from __future__ import annotations

import asyncio
import weakref
from typing import TYPE_CHECKING, Any, ClassVar

from livekit import rtc

from ...log import logger
from ...types import ATTRIBUTE_AGENT_STATE, TOPIC_CHAT
from ...utils.aio import Chan, Survivor, TaskScope, wait_until
from .types import TextInputCallback, TextInputEvent

if TYPE_CHECKING:
    from ..agent_session import AgentSession
    from ..events import UserInputTranscribedEvent
    from ._transcription import _ParticipantTranscriptionOutput

CHAT_GRACE = 1.0
"""Seconds that a chat callback has after its cancellation."""


class AgentStateAttribute:
    """Shows the agent's state as an attribute of the local participant; the latest one wins."""

    def __init__(self, room: rtc.Room) -> None:
        self._room = room
        self._scope = TaskScope("agent state attribute")
        self._update: asyncio.Task[None] | None = None
        self._state: str | None = None

    def show(self, state: str) -> None:
        """Publish a state, in the background. One that is still on its way is given up."""
        self._state = state
        if self._update is not None:
            self._update.cancel()
        if self._room.isconnected() and not self._scope.closed:
            self._update = self._scope.spawn(self._set(state), name="show the agent's state")

    def show_again(self) -> None:
        """After a reconnect: the server may have forgotten it."""
        if self._state is not None:
            self.show(self._state)

    async def _set(self, state: str) -> None:
        try:
            await self._room.local_participant.set_attributes({ATTRIBUTE_AGENT_STATE: state})
        except Exception as error:
            logger.warning("could not publish the agent's state: %s", error)

    def close(self) -> None:
        """Publish no more."""
        self._scope.cancel_soon()


class UserTranscripts:
    """Sends what the user said, in order."""

    def __init__(self, output: _ParticipantTranscriptionOutput) -> None:
        self._output = output
        self._events: Chan[UserInputTranscribedEvent] = Chan()
        self._scope = TaskScope("user transcripts")
        self._forwarding = self._scope.spawn(self._forward(), name="forward user transcripts")

    def push(self, event: UserInputTranscribedEvent) -> None:
        """Something was heard."""
        if not self._events.closed:
            self._events.send_nowait(event)

    async def _forward(self) -> None:
        async for event in self._events:
            await self._output.capture_text(event.transcript)
            if event.is_final:
                self._output.flush()

    async def aclose(self, timeout: float, *, drain: bool) -> list[Survivor]:
        """End the output, too. Bounded.

        Args:
            timeout: Seconds.
            drain: Give what waits to be sent half of that time.
        """
        self._events.close()
        try:
            await wait_until(self._forwarding, timeout / 2 if drain else 0.0)
        finally:
            self._scope.cancel_soon()
        return await self._scope.cancel(0.25) + await self._output.aclose(timeout / 2)


class ChatInput:
    """Chat messages of the user, each given to a callback of the session's.

    The sessions of one room share its topic: each hears the sender it is linked with.
    """

    def __init__(self, session: AgentSession[Any], room: rtc.Room, callback: TextInputCallback):
        self._session = session
        self._room = room
        self.callback = callback
        self.sender: str | None = None
        """Who may write: an identity; None for anyone."""
        self._scope = TaskScope("chat input")
        self._topic = _ChatTopic.join(room, self)

    def takes(self, identity: str) -> bool:
        """Whether messages of a sender are for this session."""
        return self.sender is None or self.sender == identity

    def receive(self, reader: rtc.TextStreamReader, identity: str) -> None:
        """A message has begun to arrive."""
        self._scope.spawn(self._read(reader, identity), name="chat message")

    async def _read(self, reader: rtc.TextStreamReader, identity: str) -> None:
        try:
            participant = self._room.remote_participants.get(identity)
            if participant is None:
                logger.warning("a chat message of %s, who is not in the room, is ignored", identity)
                return
            text = await reader.read_all()
            event = TextInputEvent(text=text, info=reader.info, participant=participant)
            result = self.callback(self._session, event)
            if result is not None and hasattr(result, "__await__"):
                await result
        except Exception:
            logger.warning("a chat message of %s could not be handled", identity, exc_info=True)
        finally:
            reader.close()

    def close(self) -> None:
        """Take no more messages."""
        topic, self._topic = self._topic, None
        if topic is not None:
            topic.leave(self._room, self)

    async def aclose(self) -> list[Survivor]:
        """Take no more messages, and end the callbacks that run; bounded. Idempotent."""
        self.close()
        return await self._scope.cancel(CHAT_GRACE)


class _ChatTopic:
    """The chat topic of one room: registered for the first session, given back with the last."""

    _of_rooms: ClassVar[weakref.WeakKeyDictionary[rtc.Room, _ChatTopic]] = (
        weakref.WeakKeyDictionary()
    )

    def __init__(self) -> None:
        self._inputs: list[ChatInput] = []

    @classmethod
    def join(cls, room: rtc.Room, chat: ChatInput) -> _ChatTopic | None:
        """Let a session take messages; None when the topic is taken by somebody else."""
        topic = cls._of_rooms.get(room)
        if topic is None:
            topic = cls()
            try:
                room.register_text_stream_handler(TOPIC_CHAT, topic._open)
            except ValueError:
                logger.warning(
                    "text stream handler for topic '%s' already set, ignoring", TOPIC_CHAT
                )
                return None
            cls._of_rooms[room] = topic
        topic._inputs.append(chat)
        return topic

    def leave(self, room: rtc.Room, chat: ChatInput) -> None:
        """A session takes no more messages."""
        if chat in self._inputs:
            self._inputs.remove(chat)
        if not self._inputs:
            self._of_rooms.pop(room, None)
            room.unregister_text_stream_handler(TOPIC_CHAT)

    def _open(self, reader: rtc.TextStreamReader, identity: str) -> None:
        for chat in self._inputs:
            if chat.takes(identity):
                chat.receive(reader, identity)
                return
        reader.close()  # one that nobody reads would stay subscribed for ever


class RoomDeletion:
    """Deletes the room after the session, in a task that the job owns."""

    def __init__(self) -> None:
        self._task: asyncio.Task[Any] | None = None

    @property
    def under_way(self) -> bool:
        """Whether it was begun."""
        return self._task is not None

    def begin(self, room: rtc.Room, job: Any) -> None:
        """Ask the server to delete the room. Only a job has the credentials for it."""
        if job is None:
            logger.error(
                "delete_room_on_close needs a job, which has the server's credentials: the room "
                "%s is left as it is",
                room.name,
            )
        elif job.is_fake_job():
            logger.warning("there is no real room to delete: delete_room_on_close is ignored")
        elif self._task is None:
            logger.info("deleting room on agent session close", extra={"room": room.name})
            self._task = job.delete_room(room_name=room.name)

    async def wait(self, timeout: float) -> None:
        """Wait for it, at most `timeout` seconds; it then goes on by itself."""
        if self._task is not None and await wait_until(self._task, timeout):
            logger.warning("deleting the room takes longer; it goes on in the background")


__all__ = ["AgentStateAttribute", "ChatInput", "RoomDeletion", "UserTranscripts"]
