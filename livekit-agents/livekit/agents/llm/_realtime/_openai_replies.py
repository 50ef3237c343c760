"""Responses that were asked for and have not begun. No I/O."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Container

from ..realtime import GenerationCreatedEvent, RealtimeError
from .openai_codec import ErrorInfo

REPLY_TIMEOUT = 10.0
"""Seconds for a response to begin."""

Reply = asyncio.Future[GenerationCreatedEvent]


class ReplyRequests:
    """Futures of `generate_reply`, by the id of the event that asks for the response.

    Args:
        on_dropped: Called with the id when nobody waits for a response any more.
    """

    def __init__(self, on_dropped: Callable[[str], None]) -> None:
        self._on_dropped = on_dropped
        self.waiting: dict[str, Reply] = {}
        """By the id of the request. A plugin that makes a request of its own adds to it."""
        self.dropped: set[str] = set()
        """Requests that nobody waits for any more; their responses are not wanted."""

    def __bool__(self) -> bool:
        return bool(self.waiting)

    def open(self, event_id: str) -> Reply:
        """A response is about to be asked for. Fails with `RealtimeError` after 10 s."""
        loop = asyncio.get_running_loop()
        reply: Reply = loop.create_future()
        self.waiting[event_id] = reply
        timer = loop.call_later(REPLY_TIMEOUT, self._time_out, event_id)
        reply.add_done_callback(lambda done: self._settled(event_id, done, timer))
        return reply

    def begun(self, event_id: str | None) -> Reply | None:
        """A response begins. Returns who waits for it."""
        return self.waiting.pop(event_id, None) if event_id is not None else None

    def take_dropped(self, event_id: str | None) -> bool:
        """Whether the response that begins is one that nobody waits for any more."""
        if event_id not in self.dropped:
            return False
        self.dropped.discard(event_id)
        return True

    def rejected(self, error: ErrorInfo) -> bool:
        """The server refuses to respond. False if it is about something else."""
        if error.event_id is None:
            return False
        if error.event_id in self.dropped:
            self.dropped.discard(error.event_id)
            return True
        reply = self.waiting.pop(error.event_id, None)
        if reply is None:
            return False
        _fail(reply, RealtimeError(error.message, code=error.code))
        return True

    def fail(self, reason: str, *, spare: Container[str] = ()) -> None:
        """The responses will never begin, except those to spare."""
        self.dropped.clear()
        for event_id in [each for each in self.waiting if each not in spare]:
            _fail(self.waiting.pop(event_id), RealtimeError(reason))

    def _time_out(self, event_id: str) -> None:
        reply = self.waiting.pop(event_id, None)
        if reply is not None and not reply.done():
            self._drop(event_id)
            error = RealtimeError(f"the model did not begin a reply within {REPLY_TIMEOUT:g} s")
            _fail(reply, error)

    def _settled(self, event_id: str, reply: Reply, timer: asyncio.TimerHandle) -> None:
        timer.cancel()
        if self.waiting.pop(event_id, None) is not None and reply.cancelled():
            self._drop(event_id)

    def _drop(self, event_id: str) -> None:
        self.dropped.add(event_id)
        self._on_dropped(event_id)

    def forget_dropped(self, event_id: str) -> None:
        """The server was never asked for this one."""
        self.dropped.discard(event_id)


def _fail(reply: Reply, error: RealtimeError) -> None:
    if not reply.done():
        reply.set_exception(error)
        reply.exception()  # whoever waits still gets it; nobody has to
