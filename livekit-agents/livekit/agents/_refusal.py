"""What a server says when it refuses a WebSocket. aiohttp's error for it has no body."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import aiohttp

from .utils.aio import run_bounded

_MAX_BODY = 64 * 1024
_READ_TIMEOUT = 1.0


class RefusalReader:
    """Reads the body of a refused handshake, while aiohttp has the response in hand.

    ::

        refusal = RefusalReader()
        with refusal.watching(session):
            await session.ws_connect(url)  # raises WSServerHandshakeError
        refusal.body
    """

    def __init__(self) -> None:
        self.body = b""
        """What the server said; empty if it said nothing, or took more than a second for it."""
        self._task: asyncio.Task[Any] | None = None
        self._trace = aiohttp.TraceConfig()
        self._trace.on_request_end.append(self._on_response)
        self._trace.freeze()

    @contextmanager
    def watching(self, session: aiohttp.ClientSession) -> Iterator[None]:
        """Look at the answers to requests of the calling task. The session is left as it was."""
        self._task = asyncio.current_task()
        session.trace_configs.append(self._trace)
        try:
            yield
        finally:
            session.trace_configs.remove(self._trace)

    async def _on_response(
        self, session: aiohttp.ClientSession, context: Any, params: aiohttp.TraceRequestEndParams
    ) -> None:
        # Requests of other tasks begin while the session is being watched.
        if params.response.status < 400 or asyncio.current_task() is not self._task:
            return
        try:
            await run_bounded(self._read(params.response), _READ_TIMEOUT, owner="refused handshake")
        except (aiohttp.ClientError, asyncio.TimeoutError, OSError):
            pass  # the status says enough

    async def _read(self, response: aiohttp.ClientResponse) -> None:
        while len(self.body) < _MAX_BODY:
            chunk = await response.content.read(_MAX_BODY - len(self.body))
            if not chunk:
                return
            self.body += chunk
