"""A worker on a terminal, the jobs that it gets, and what they leave behind."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from livekit import api

from fakes.terminal import Terminal, terminal

from .server import LiveKitServer

PROGRAM = Path(__file__).parent / "agent.py"


class Worker:
    """A worker on a terminal, and what its jobs leave behind."""

    def __init__(self, server: LiveKitServer, screen: Terminal, name: str, out: Path) -> None:
        self._server = server
        self.screen = screen
        self.name = name
        self.out = out

    async def dispatch(self, room: str, plan: str = "") -> None:
        """Have a job run."""
        async with self._server.api() as client:
            await client.agent_dispatch.create_dispatch(
                api.CreateAgentDispatchRequest(agent_name=self.name, room=room, metadata=plan)
            )

    def endings(self, room: str) -> list[str]:
        """How the server saw the jobs of a room end: a status each."""
        jobs = {trace["job"] for trace in self.traces(room, "started")}
        lines = [line for line in self._server.log.splitlines() if "\tjob ended\t" in line]
        facts = [json.loads(line[line.index("{") :]) for line in lines]
        return [fact["status"] for fact in facts if fact["jobID"] in jobs]

    def traces(self, room: str, event: str = "") -> list[dict[str, Any]]:
        """What the jobs of a room left behind."""
        path = self.out / f"{room}.jsonl"
        lines = path.read_text(encoding="utf-8").splitlines() if path.exists() else []
        told = [json.loads(line) for line in lines]
        return [trace for trace in told if event in ("", trace["event"])]

    async def trace(self, room: str, event: str, timeout: float = 30.0) -> dict[str, Any]:
        """Wait for a trace."""
        await self.until(lambda: bool(self.traces(room, event)), f"{event} in {room}", timeout)
        return self.traces(room, event)[-1]

    async def until(self, condition: Callable[[], bool], what: str, timeout: float) -> None:
        """Wait for something that its jobs do."""
        try:
            await until(condition, what, timeout)
        except AssertionError as error:
            screen = "\n".join(self.screen.text.splitlines()[-30:])
            raise AssertionError(f"{error}; the worker's last words:\n{screen}") from None


async def until(condition: Callable[[], Any], what: str, timeout: float = 20.0) -> None:
    """Wait until something outside of this process is so."""
    deadline = time.monotonic() + timeout
    while not condition():
        if time.monotonic() > deadline:
            raise AssertionError(f"waited {timeout} s for {what}")
        await asyncio.sleep(0.05)


async def eventually(condition: Callable[[], Any], what: str, timeout: float = 20.0) -> Any:
    """The same for a condition that has to be awaited. Returns what it gave."""
    deadline = time.monotonic() + timeout
    while not (value := await condition()):
        if time.monotonic() > deadline:
            raise AssertionError(f"waited {timeout} s for {what}")
        await asyncio.sleep(0.1)
    return value


@asynccontextmanager
async def working(
    server: LiveKitServer,
    out: Path,
    *options: str,
    name: str,
    command: str = "start",
    idle: int = 1,
    program: Path = PROGRAM,
    env: dict[str, str] | None = None,
) -> AsyncIterator[Worker]:
    """Run a worker for the time of a block.

    Args:
        server: What it registers with.
        out: Where its jobs leave traces.
        options: Of its command line.
        name: Of the agent.
        command: How it is started.
        idle: Processes that it keeps ready.
        program: The agent's file.
        env: Further variables.
    """
    env = {
        **(env or {}),
        "LIVEKIT_URL": server.url,
        "LIVEKIT_API_KEY": server.key,
        "LIVEKIT_API_SECRET": server.secret,
        "E2E_OUT": str(out),
        "E2E_AGENT": name,
        "E2E_IDLE": str(idle),
    }
    async with terminal(program, command, *options, env=env) as screen:
        await screen.shows("registered worker", 40.0)
        yield Worker(server, screen, name, out)
