"""Functions that run for each participant of a job's room."""

from __future__ import annotations

import asyncio
import functools
from collections.abc import Callable, Coroutine, Sequence
from typing import TYPE_CHECKING, Any

from .log import logger
from .utils.aio import Survivor, TaskScope

if TYPE_CHECKING:
    from livekit import rtc

Entrypoint = Callable[[Any, Any], Coroutine[Any, Any, None]]


class ParticipantEntrypoints:
    """Starts them, one task per participant and function, and ends them with the job."""

    def __init__(self, ctx: Any, room: rtc.Room, *, job_id: str) -> None:
        self._ctx = ctx
        self._room = room
        self._scope = TaskScope(f"participants of job {job_id}")
        self._functions: list[tuple[Entrypoint, Sequence[int]]] = []
        self._running: dict[tuple[str, Entrypoint], asyncio.Task[None]] = {}
        self._following = False

    def add(self, function: Entrypoint, kinds: Sequence[int]) -> None:
        """Run `function` for those there and those to come.

        Raises:
            ValueError: It was added before.
        """
        if any(known == function for known, _ in self._functions):
            raise ValueError(f"{_name_of(function)} is an entrypoint for participants already")
        self._functions.append((function, kinds))
        if self._following:
            for participant in self._room.remote_participants.values():
                self._start(function, kinds, participant)

    def follow(self) -> None:
        """The room is connected: begin with those there."""
        self._following = True
        self._room.on("participant_connected", self._joined)
        for participant in list(self._room.remote_participants.values()):
            self._joined(participant)

    async def cancel(self, seconds: float) -> list[Survivor]:
        """End all of them; no new ones start."""
        self._following = False
        return await self._scope.cancel(seconds)

    def _joined(self, participant: rtc.RemoteParticipant) -> None:
        for function, kinds in self._functions:
            self._start(function, kinds, participant)

    def _start(
        self, function: Entrypoint, kinds: Sequence[int], participant: rtc.RemoteParticipant
    ) -> None:
        if participant.kind not in kinds or self._scope.closed:
            return
        key = (participant.identity, function)
        if key in self._running:
            logger.warning(
                "participant %s joined again while %s still runs for the former visit",
                participant.identity,
                _name_of(function),
            )
        task = self._scope.spawn(
            function(self._ctx, participant),
            name=f"part-entry-{participant.identity}-{_name_of(function)}",
        )
        self._running[key] = task
        task.add_done_callback(functools.partial(self._ended, key))

    def _ended(self, key: tuple[str, Entrypoint], task: asyncio.Task[None]) -> None:
        if self._running.get(key) is task:
            del self._running[key]


def _name_of(function: Any) -> str:
    return getattr(function, "__name__", None) or type(function).__name__
