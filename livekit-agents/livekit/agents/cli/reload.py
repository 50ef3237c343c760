"""`dev`: runs the agent in a process of its own, and starts it anew when a file changes.

The agent's jobs move along: before it is ended it is asked which it has, and the next one gets
them. The agent's process leads a session of its own, so that a Ctrl+C reaches it through us only,
once.
"""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

from ..ipc.process_tree import kill_tree
from ..utils.aio import TaskScope, wait_until
from .errors import CLIError
from .signals import HANDLED_SIGNALS
from .watcher import WATCHER_PID, read_message, write_message

__all__ = ["run_with_reload"]

_END_TIMEOUT = 30.0
"""Seconds that an agent has to end before its successor starts."""

_ASK_TIMEOUT = 1.5


def run_with_reload() -> int:
    """Run this program with the same arguments, again and again. Returns the exit status."""
    try:
        import watchfiles
    except ModuleNotFoundError:
        raise CLIError(
            "watching files needs watchfiles (pip install watchfiles); --no-reload goes without"
        ) from None
    return asyncio.run(_Reloader(watchfiles).run())


class _Reloader:
    def __init__(self, watchfiles: Any) -> None:
        self._watchfiles = watchfiles
        self._scope = TaskScope("reload")
        self._agent: subprocess.Popen[bytes] | None = None
        self._peer: asyncio.StreamWriter | None = None
        self._jobs: list[Any] = []
        self._answered = asyncio.Event()
        self._signals = 0
        self._leave = asyncio.Event()

    async def run(self) -> int:
        """Watch, until a signal or until the agent ends by itself."""
        loop = asyncio.get_running_loop()
        for number in HANDLED_SIGNALS:
            loop.add_signal_handler(number, self._signalled, number)
        server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        address = f"127.0.0.1:{server.sockets[0].getsockname()[1]}"
        try:
            return await self._watch(address)
        finally:
            server.close()
            if self._agent is not None and self._agent.poll() is None:
                kill_tree(self._agent.pid)
            await self._scope.cancel(1.0)

    async def _watch(self, address: str) -> int:
        status = self._start(address)
        root = Path.cwd()
        print(f"watching {root} for changes", file=sys.stderr)
        changes = self._watchfiles.awatch(
            root, watch_filter=self._watchfiles.PythonFilter(), stop_event=self._leave
        )
        next_change = self._scope.spawn(_next(changes), name="watch files")
        while True:
            await asyncio.wait((status, next_change), return_when=asyncio.FIRST_COMPLETED)
            if self._leave.is_set():
                await wait_until(status, None)
                return status.result()
            if status.done():
                if not next_change.done():
                    print(
                        "the agent has ended; it starts again when a file changes", file=sys.stderr
                    )
                    leave = self._scope.spawn(self._leave.wait(), name="wait for a signal")
                    await asyncio.wait((next_change, leave), return_when=asyncio.FIRST_COMPLETED)
                if self._leave.is_set():
                    return status.result()
            changed = next_change.result()
            if changed is None:
                return status.result() if status.done() else 0
            names = sorted({path.removeprefix(f"{root}{os.sep}") for _, path in changed})
            print(f"{', '.join(names)} changed, restarting", file=sys.stderr)
            await self._stop(status)
            status = self._start(address)
            next_change = self._scope.spawn(_next(changes), name="watch files")

    def _start(self, address: str) -> asyncio.Task[int]:
        command = [sys.executable, *sys.orig_argv[1:], "--no-reload", "--cli-addr", address]
        self._agent = subprocess.Popen(
            command,
            start_new_session=True,
            env={**os.environ, WATCHER_PID: str(os.getpid())},
        )
        return self._scope.spawn(self._wait(self._agent), name="agent")

    async def _wait(self, agent: subprocess.Popen[bytes]) -> int:
        return await asyncio.to_thread(agent.wait)

    async def _stop(self, status: asyncio.Task[int]) -> None:
        """Ask the agent for its jobs, and end it."""
        if status.done() or self._agent is None:
            return
        await self._ask()
        self._agent.send_signal(signal.SIGTERM)
        if await wait_until(status, _END_TIMEOUT):
            print("the agent does not end, killing it", file=sys.stderr)
            kill_tree(self._agent.pid)
            await wait_until(status, 5.0)

    async def _ask(self) -> None:
        from livekit.protocol.agent_pb import agent_dev

        self._jobs = []
        if self._peer is None:
            return
        self._answered.clear()
        request = agent_dev.GetRunningAgentJobsRequest()
        try:
            await write_message(
                self._peer, agent_dev.AgentDevMessage(get_running_jobs_request=request)
            )
            await asyncio.wait_for(self._answered.wait(), _ASK_TIMEOUT)
        except (OSError, asyncio.TimeoutError):
            print("the agent did not say which jobs it has; they end", file=sys.stderr)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        from livekit.protocol.agent_pb import agent_dev

        self._peer = writer
        try:
            while True:
                message = await read_message(reader)
                kind = message.WhichOneof("message")
                if kind == "get_running_jobs_request":
                    jobs, self._jobs = self._jobs, []
                    response = agent_dev.GetRunningAgentJobsResponse(jobs=jobs)
                    await write_message(
                        writer, agent_dev.AgentDevMessage(get_running_jobs_response=response)
                    )
                elif kind == "get_running_jobs_response":
                    self._jobs = list(message.get_running_jobs_response.jobs)
                    self._answered.set()
        except (EOFError, OSError):
            pass
        finally:
            if self._peer is writer:
                self._peer = None
            writer.close()

    def _signalled(self, number: int) -> None:
        self._signals += 1
        self._leave.set()
        if self._agent is None or self._agent.poll() is not None:
            return
        if self._signals > 2:
            kill_tree(self._agent.pid)
        else:
            self._agent.send_signal(number)


async def _next(changes: Any) -> Any:
    try:
        return await changes.__anext__()
    except StopAsyncIteration:
        return None
