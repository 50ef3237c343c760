"""Remote procedure calls that several objects of one process answer, told apart by the caller."""

from __future__ import annotations

import weakref
from collections.abc import Awaitable, Callable
from typing import Any, ClassVar

from livekit import rtc

from ...log import logger

Answer = Callable[[rtc.RpcInvocationData], None]

ACCEPTED, REJECTED = "ok", "reject"


class RpcRoutes:
    """The methods of one room's local participant that are shared."""

    _of_rooms: ClassVar[weakref.WeakKeyDictionary[rtc.Room, RpcRoutes]] = (
        weakref.WeakKeyDictionary()
    )

    def __init__(self) -> None:
        self._routes: dict[str, dict[str, Answer]] = {}

    @classmethod
    def of(cls, room: rtc.Room) -> RpcRoutes:
        """The routes of a room."""
        return cls._of_rooms.setdefault(room, cls())

    def add(self, room: rtc.Room, method: str, caller: str, answer: Answer) -> None:
        """Let `answer` handle a method when `caller` calls it; the latest one counts."""
        routes = self._routes.setdefault(method, {})
        if not routes:
            local: Any = room.local_participant  # the method's handler is annotated as None
            local.register_rpc_method(method, self._dispatch_of(method))
        routes[caller] = answer

    def remove(self, room: rtc.Room, method: str, caller: str, answer: Answer) -> None:
        """Undo `add`, unless somebody else has taken over since."""
        routes = self._routes.get(method, {})
        if routes.get(caller) != answer:
            return
        del routes[caller]
        if not routes:
            room.local_participant.unregister_rpc_method(method)

    def _dispatch_of(self, method: str) -> Callable[[rtc.RpcInvocationData], Awaitable[str]]:
        async def dispatch(data: rtc.RpcInvocationData) -> str:
            answer = self._routes.get(method, {}).get(data.caller_identity)
            if answer is None:
                logger.warning(
                    "%s was called by %s, who is not expected", method, data.caller_identity
                )
                return REJECTED
            answer(data)
            return ACCEPTED

        return dispatch


__all__ = ["ACCEPTED", "REJECTED", "RpcRoutes"]
