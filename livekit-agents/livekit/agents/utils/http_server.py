"""A small HTTP server inside the agent's process."""

from __future__ import annotations

import asyncio
import socket

from aiohttp import web

from ..log import logger
from .aio.task_scope import run_bounded

_SHUTDOWN_TIMEOUT = 1.0
"""Seconds that open requests get when the server closes."""

_CLOSE_TIMEOUT = 2.0
"""Seconds after which closing is given up."""


class HttpServer:
    """Serves an `aiohttp.web.Application`: add routes to `app`, then `start`."""

    def __init__(self, host: str, port: int) -> None:
        """Prepare a server.

        Args:
            host: address to listen on; empty: all.
            port: 0 takes any free one.
        """
        self._host = host
        self._port = port
        self._app = web.Application()
        self._runner: web.AppRunner | None = None

    @property
    def app(self) -> web.Application:
        """The application; add routes before `start`."""
        return self._app

    @property
    def host(self) -> str:
        """Address the server listens on."""
        return self._host

    @property
    def port(self) -> int:
        """Port; the real one once started."""
        return self._port

    async def start(self) -> None:
        """Begin to listen.

        Raises:
            OSError: the address is in use or not ours.
            RuntimeError: it is running already.
        """
        if self._runner is not None:
            raise RuntimeError(f"the HTTP server is already listening on port {self._port}")
        runner = web.AppRunner(self._app, shutdown_timeout=_SHUTDOWN_TIMEOUT)
        await runner.setup()
        try:
            await web.SockSite(runner, self._bind()).start()
        except BaseException:
            await runner.cleanup()  # nothing is connected yet: immediate
            raise
        self._runner = runner
        self._port = runner.addresses[0][1]

    def _bind(self) -> socket.socket:
        """One socket, so that there is one port: for IPv4 and IPv6 where the host is left open."""
        if self._host:
            family = socket.AF_INET6 if ":" in self._host else socket.AF_INET
            return socket.create_server((self._host, self._port), family=family)
        if socket.has_dualstack_ipv6():
            return socket.create_server(
                ("", self._port), family=socket.AF_INET6, dualstack_ipv6=True
            )
        return socket.create_server(("", self._port))

    async def aclose(self) -> None:
        """Stop listening and end open requests, in two seconds at most. Idempotent."""
        runner, self._runner = self._runner, None
        if runner is None:
            return
        try:
            await run_bounded(runner.cleanup(), _CLOSE_TIMEOUT, owner="HTTP server")
        except asyncio.TimeoutError:
            logger.warning("the HTTP server on port %d did not close in time", self._port)
