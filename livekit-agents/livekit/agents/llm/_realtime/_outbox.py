"""What a realtime session has to say, while there is a connection and while there is none. No I/O."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable
from typing import Any

from ...log import logger
from ...utils.aio import Chan

Event = dict[str, Any]

MAX_AUDIO_EVENTS = 300
"""Pieces of audio that wait for a connection: half a minute, at 100 ms each. Older ones go."""


class Outbox:
    """Events in the order they are to be sent. One task takes them out.

    Args:
        owner: For messages.
        is_audio: Whether an event carries audio.
    """

    def __init__(self, owner: str, is_audio: Callable[[Event], bool]) -> None:
        self._owner = owner
        self._is_audio = is_audio
        self._events: deque[Event] = deque()
        self._audio = 0
        self._dropping = False
        self._wake: Chan[None] = Chan(maxsize=1)

    def put(self, event: Event) -> None:
        """Append an event."""
        self._events.append(event)
        if self._is_audio(event):
            self._audio += 1
            if self._audio > MAX_AUDIO_EVENTS:
                self._drop_oldest_audio()
        if self._wake.empty():
            self._wake.send_nowait(None)

    async def take(self) -> Event:
        """The next event, as soon as there is one."""
        while not self._events:
            await self._wake.recv()
        event = self._events.popleft()
        if self._is_audio(event):
            self._audio -= 1
            self._dropping = False
        return event

    def restart(self, first: Iterable[Event], keep: Callable[[Event], bool]) -> None:
        """Begin anew on another connection.

        Args:
            first: What it has to be told first.
            keep: Which of the waiting events still make sense.
        """
        kept = [event for event in self._events if keep(event)]
        self._events.clear()
        self._audio = 0
        for event in (*first, *kept):
            self.put(event)

    def drain(self) -> list[Event]:
        """Take out all that waits."""
        events = list(self._events)
        self._events.clear()
        self._audio = 0
        return events

    def remove(self, event_id: str) -> bool:
        """Take back an event. False if it was sent already."""
        for event in self._events:
            if event.get("event_id") == event_id:
                self._events.remove(event)
                return True
        return False

    @property
    def audio_events(self) -> int:
        """How many of the events that wait carry audio."""
        return self._audio

    def event_ids(self) -> set[str]:
        """Ids of the events that wait."""
        return {event["event_id"] for event in self._events if "event_id" in event}

    def _drop_oldest_audio(self) -> None:
        for event in self._events:
            if self._is_audio(event):
                self._events.remove(event)
                self._audio -= 1
                break
        if not self._dropping:
            self._dropping = True
            logger.warning("%s: no connection takes the user's audio; the oldest goes", self._owner)
