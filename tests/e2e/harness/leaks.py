"""What a run must not leave behind: processes, sockets, networks, people in rooms."""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Callable
from uuid import uuid4

import psutil
from livekit import api

from .network import cables
from .server import LiveKitServer

MARK = "E2E_RUN"
"""Environment variable that all processes of a run have from it."""

PATIENCE = 10.0
"""Seconds for the last ones to go."""

LOST = 45.0
"""The same for people: a server waits for a killed one to resume."""


def mark_this_run() -> None:
    """From now on, whatever is started can be told from the rest of the machine."""
    os.environ[MARK] = uuid4().hex


def expect_nothing() -> None:
    """Fail if something is left. A network namespace is among the processes: one keeps it.

    Raises:
        AssertionError: It says what.
    """
    for what, find in (("processes", _processes), ("sockets", _sockets), ("cables", cables)):
        left = _wait(find)
        assert not left, f"the run has left {what} behind:\n" + "\n".join(left)


def expect_empty_rooms(server: LiveKitServer) -> None:
    """Fail if somebody is still in a room of a server.

    Raises:
        AssertionError: It says where.
    """

    async def occupied() -> list[str]:
        async with server.api() as client:
            rooms = (await client.room.list_rooms(api.ListRoomsRequest())).rooms
            return [
                f"{room.name}: {room.num_participants}" for room in rooms if room.num_participants
            ]

    left = _wait(lambda: asyncio.run(occupied()), LOST)
    assert not left, "the run has left people in rooms:\n" + "\n".join(left)


def _wait(find: Callable[[], list[str]], patience: float = PATIENCE) -> list[str]:
    deadline = time.monotonic() + patience
    while (left := find()) and time.monotonic() < deadline:
        time.sleep(0.2)
    return left


def _processes() -> list[str]:
    mark, left = os.environ[MARK], []
    for process in psutil.process_iter():
        try:
            ours = process.pid != os.getpid() and process.environ().get(MARK) == mark
            if ours and process.status() != psutil.STATUS_ZOMBIE:
                left.append(f"{process.pid} {' '.join(process.cmdline())[:200]}")
        except psutil.Error:
            continue  # gone, or somebody else's
    return left


def _sockets() -> list[str]:
    """Of the tests themselves: those of other processes are gone with these."""
    connections = psutil.Process().net_connections()
    return [f"{c.laddr} -> {c.raddr or '-'} {c.status}" for c in connections]
