"""The side of an agent that is started anew when its files change: its jobs move along."""

from __future__ import annotations

import asyncio
import os
import signal
import struct
import threading
import time
from typing import TYPE_CHECKING, Any

from ..log import logger
from ..utils.aio import TaskScope
from .proto import running_job_from_proto, running_job_to_proto

if TYPE_CHECKING:
    from ..worker import AgentServer

__all__ = ["WatchClient"]

_LENGTH = struct.Struct(">I")


async def read_message(reader: asyncio.StreamReader) -> Any:
    """The next `AgentDevMessage`. Raises EOFError or OSError at the end of the connection."""
    from livekit.protocol.agent_pb import agent_dev

    (length,) = _LENGTH.unpack(await reader.readexactly(_LENGTH.size))
    return agent_dev.AgentDevMessage.FromString(await reader.readexactly(length))


async def write_message(writer: asyncio.StreamWriter, message: Any) -> None:
    """Send an `AgentDevMessage`."""
    data = message.SerializeToString()
    writer.write(_LENGTH.pack(len(data)) + data)
    await writer.drain()


WATCHER_PID = "LIVEKIT_AGENTS_WATCHER_PID"
"""Environment variable: the process that watches the files, and without which we are of no use."""


def follow_watcher() -> None:
    """End this process, as SIGTERM does, when the one that watches the files is gone."""
    watcher = os.environ.get(WATCHER_PID, "")
    if watcher == str(os.getppid()):
        threading.Thread(target=_follow, args=(int(watcher),), daemon=True).start()


def _follow(watcher: int) -> None:
    while os.getppid() == watcher:
        time.sleep(1.0)
    os.kill(os.getpid(), signal.SIGTERM)


class WatchClient:
    """Takes over the jobs of the agent before, and hands its own to the one after."""

    def __init__(
        self, worker: AgentServer, cli_addr: str, loop: asyncio.AbstractEventLoop | None = None
    ) -> None:
        """Set up.

        Args:
            worker: Whose jobs.
            cli_addr: `host:port` of the process that watches the files.
            loop: Not used; the running one is.
        """
        self._worker = worker
        host, _, port = cli_addr.rpartition(":")
        self._host, self._port = host or "127.0.0.1", int(port)
        self._scope = TaskScope("file watcher")

    def start(self) -> None:
        """Connect, in the background. A connection that fails or ends is no loss."""
        self._scope.spawn(self._run(), name="talk to the file watcher")

    async def aclose(self) -> None:
        """Disconnect."""
        await self._scope.cancel(1.0)

    async def _run(self) -> None:
        try:
            reader, writer = await asyncio.open_connection(self._host, self._port)
        except OSError as error:
            logger.debug("no connection to the file watcher: %s", error)
            return
        try:
            await self._converse(reader, writer)
        except (EOFError, OSError):
            pass
        finally:
            writer.close()

    async def _converse(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        from livekit.protocol.agent_pb import agent_dev

        hello = agent_dev.ServerInfo(agent_name=self._worker._agent_name, url=self._worker._ws_url)
        await write_message(writer, agent_dev.AgentDevMessage(server_info=hello))
        request = agent_dev.GetRunningAgentJobsRequest()
        await write_message(writer, agent_dev.AgentDevMessage(get_running_jobs_request=request))
        while True:
            message = await read_message(reader)
            kind = message.WhichOneof("message")
            if kind == "get_running_jobs_response":
                jobs = [running_job_from_proto(j) for j in message.get_running_jobs_response.jobs]
                await self._worker._reload_jobs(jobs)
            elif kind == "get_running_jobs_request":
                jobs_now = [running_job_to_proto(job) for job in self._worker.active_jobs]
                response = agent_dev.GetRunningAgentJobsResponse(jobs=jobs_now)
                await write_message(
                    writer, agent_dev.AgentDevMessage(get_running_jobs_response=response)
                )
