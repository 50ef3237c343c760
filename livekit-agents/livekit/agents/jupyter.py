"""An agent in a notebook (Jupyter, Google Colab): one talks to it below the cell that runs it."""

from __future__ import annotations

import asyncio
import datetime
import importlib
import os
import sys
import threading
from typing import TYPE_CHECKING, Any

from .job import JobExecutorType
from .log import logger
from .utils.aio import TaskScope
from .utils.misc import shortuuid

if TYPE_CHECKING:
    from .worker import AgentServer, ServerOptions

__all__ = ["run_app"]

_CREDENTIALS = ("LIVEKIT_URL", "LIVEKIT_API_KEY", "LIVEKIT_API_SECRET")

_TOKEN_TTL = datetime.timedelta(minutes=1)
"""The notebook shows the user's token to whoever can read it, so it soon is of no use."""

_END_TIMEOUT = 120.0
"""Seconds that the close of the server may take once the cell was interrupted."""


def run_app(server: AgentServer | ServerOptions, *, jupyter_url: str | None = None) -> None:
    """Run an agent in a room of its own, and show the room below the cell.

    Blocks until the agent's job has ended or the cell is interrupted; then everything is closed,
    and it can be called again. The agent runs in a thread, so the loop of the notebook is left as
    it is.

    Args:
        server: What to run. `ServerOptions` are converted.
        jupyter_url: Not supported: tokens are signed with the API key and secret, which a URL does
            not give.

    Raises:
        ValueError: URL, API key or secret are neither in the user data of Colab, nor in the
            environment, nor in the options; or a `jupyter_url` is given.
        ModuleNotFoundError: This is no notebook: IPython is not installed.
        RuntimeError: The server, or its room, failed.
    """
    from .worker import AgentServer, ServerOptions

    if jupyter_url is not None:
        raise ValueError(
            f"jupyter_url={jupyter_url!r} can't be used: set {', '.join(_CREDENTIALS)} instead"
        )
    if isinstance(server, ServerOptions):
        server = AgentServer.from_server_options(server)
    _take_credentials(server)
    from livekit.rtc.jupyter import display_room  # type: ignore[import-untyped, unused-ignore]

    server._job_executor_type = JobExecutorType.THREAD
    room = shortuuid("jupyter-room-")
    display_room(server._ws_url, _token(server, room, shortuuid("user-"), agent=False))
    _Notebook(server, room).run()


def _take_credentials(server: AgentServer) -> None:
    """Let the server know its credentials.

    Raises:
        ValueError: Some are missing.
    """
    options = server._options
    names = dict(zip(("ws_url", "api_key", "api_secret"), _CREDENTIALS, strict=True))
    found = {
        option: _colab(name) or options[option] or os.environ.get(name)
        for option, name in names.items()
    }
    missing = [names[option] for option, value in found.items() if not value]
    if missing:
        raise ValueError(
            f"{', '.join(missing)} missing: put them into the environment (os.environ[...] = ...), "
            "or in Colab into its secrets, with access for this notebook"
        )
    server.update_options(**found)  # type: ignore[arg-type]


def _colab(name: str) -> str | None:
    """A secret of Google Colab; None elsewhere, or when this notebook may not read it."""
    if "google.colab" not in sys.modules:
        return None
    try:
        value: str | None = importlib.import_module("google.colab").userdata.get(name)
    except Exception as error:  # it is missing, or access is denied: each has its own class
        logger.debug("the secret %s of Colab can't be read: %s", name, error)
        return None
    return value


def _token(server: AgentServer, room: str, identity: str, *, agent: bool) -> str:
    from livekit import api

    return (
        api.AccessToken(server._options["api_key"], server._options["api_secret"])
        .with_identity(identity)
        .with_kind("agent" if agent else "standard")
        .with_grants(api.VideoGrants(room_join=True, room=room, agent=agent))
        .with_ttl(_TOKEN_TTL)
        .to_jwt()
    )


class _Notebook:
    """Runs the server in a thread of its own, from the main thread of a notebook."""

    def __init__(self, server: AgentServer, room: str) -> None:
        self._server = server
        self._room = room
        self._started = threading.Event()
        self._over = threading.Event()  # an interrupted `Thread.join` may take the thread for dead
        self._loop: asyncio.AbstractEventLoop | None = None
        self._leave: asyncio.Event | None = None
        self._error: BaseException | None = None

    def run(self) -> None:
        thread = threading.Thread(target=self._run_thread, name="jupyter agent", daemon=True)
        thread.start()
        try:
            while not self._over.wait(0.2):  # not for ever: an interrupt must come through
                pass
        except KeyboardInterrupt:
            logger.info("the cell was interrupted, the agent leaves")
            self._started.wait(_END_TIMEOUT)
            assert self._loop is not None and self._leave is not None
            self._loop.call_soon_threadsafe(self._leave.set)
            if not self._over.wait(_END_TIMEOUT):
                logger.warning("the agent has not ended within %.0f s", _END_TIMEOUT)
        if self._error is not None:
            raise RuntimeError(f"the agent failed: {self._error}") from self._error

    def _run_thread(self) -> None:
        try:
            asyncio.run(self._serve())
        except Exception as error:
            self._error = error
        finally:
            self._over.set()

    async def _serve(self) -> None:
        self._loop, self._leave = asyncio.get_running_loop(), asyncio.Event()
        self._started.set()
        scope = TaskScope("notebook")
        ends: list[asyncio.Task[Any]] = [
            scope.spawn(self._leave.wait(), name="wait for the user"),
            scope.spawn(self._server.run(devmode=True, unregistered=True), log_errors=False),
            scope.spawn(self._job(), name="the job of the notebook", log_errors=False),
        ]
        try:
            await asyncio.wait(ends, return_when=asyncio.FIRST_COMPLETED)
        finally:
            await self._server.aclose()
            await scope.cancel(2.0)
        for task in ends:
            if task.done() and not task.cancelled():
                task.result()

    async def _job(self) -> None:
        started = asyncio.Event()
        self._server.once("worker_started", started.set)
        await started.wait()
        from .cli.connect import _find_room

        identity = shortuuid("agent-")
        await self._server.simulate_job(
            self._room,
            agent_identity=identity,
            room_info=await _find_room(self._server, self._room),
            token=_token(self._server, self._room, identity, agent=True),
        )
        assert self._server._run is not None
        for executor in self._server._run.active_executors():
            await executor.join()
