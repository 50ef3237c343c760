"""Joins one room with an agent, without a dispatch."""

from __future__ import annotations

import asyncio
from typing import Any

import aiohttp
from livekit.api import TwirpError

from ..log import logger
from ..utils.misc import shortuuid
from ..worker import AgentServer
from .errors import CLIError
from .proto import CliArgs
from .serve import run_worker

__all__ = ["run_connect"]


def run_connect(server: AgentServer, args: CliArgs, *, room: str, identity: str | None) -> int:
    """Run the agent in a room until it leaves, or a signal ends it. Returns the exit status."""

    async def join(server: AgentServer) -> None:
        started = asyncio.Event()
        server.once("worker_started", started.set)
        await started.wait()
        try:
            info = await _find_room(server, room)
        except (TwirpError, aiohttp.ClientError, OSError) as error:
            raise CLIError(f"the room can't be joined: {error} (url: {server._ws_url})") from error
        await server.simulate_job(
            room, agent_identity=identity or shortuuid("agent-"), room_info=info
        )
        assert server._run is not None
        for executor in server._run.active_executors():
            logger.info("joined room %s", room, extra=executor.logging_extra())
            await executor.join()

    return run_worker(server, args, unregistered=True, beside=join)


async def _find_room(server: AgentServer, name: str) -> Any:
    """The room of that name, made if there is none."""
    from livekit import api

    options = server._options
    async with api.LiveKitAPI(
        options["ws_url"], options["api_key"], options["api_secret"]
    ) as client:
        found = await client.room.list_rooms(api.ListRoomsRequest(names=[name]))
        if found.rooms:
            return found.rooms[0]
        return await client.room.create_room(api.CreateRoomRequest(name=name))
