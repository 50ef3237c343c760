"""MCP servers over HTTP, on a port of this machine: streamable HTTP and the older SSE."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from aiohttp import web

from .mcp_peer import Peer


class HTTPPeer:
    """Serves `peer` at `/mcp` (streamable HTTP) and `/sse`.

    Args:
        hangs_on_delete: Never answer the request that ends a session.
        announces: Whether the SSE endpoint says where to post.
    """

    def __init__(
        self, peer: Peer | None = None, *, hangs_on_delete: bool = False, announces: bool = True
    ) -> None:
        self.peer = peer or Peer()
        self.hangs_on_delete = hangs_on_delete
        self.announces = announces
        self.sessions: set[str] = set()
        self.headers: list[dict[str, str]] = []
        self.deleted = 0
        self.url = ""
        self._stopped = asyncio.Event()
        self._outbox: asyncio.Queue[str | None] = asyncio.Queue()
        self._count = 0

    @asynccontextmanager
    async def serving(self) -> AsyncIterator[HTTPPeer]:
        """Listen on a free port for the time of the block."""
        app = web.Application()
        app.router.add_post("/mcp", self._post)
        app.router.add_delete("/mcp", self._delete)
        app.router.add_get("/sse", self._sse)
        app.router.add_post("/messages", self._message)
        runner = web.AppRunner(app, shutdown_timeout=0.1, handler_cancellation=True)
        await runner.setup()
        site = web.TCPSite(runner, "127.0.0.1", 0)
        await site.start()
        host, port = runner.addresses[0][:2]
        self.url = f"http://{host}:{port}"
        try:
            yield self
        finally:
            self._stopped.set()
            self._outbox.put_nowait(None)
            await runner.cleanup()

    async def _post(self, request: web.Request) -> web.Response:
        message = await request.json()
        self.headers.append(dict(request.headers))
        session = request.headers.get("mcp-session-id")
        if message.get("method") == "initialize":
            self._count += 1
            session = f"session-{self._count}"
            self.sessions.add(session)
        elif session not in self.sessions:
            return web.Response(status=404)
        answers = self.peer.handle(message)
        headers = {"mcp-session-id": session or ""}
        if not answers:
            return web.Response(status=202, headers=headers)
        return web.json_response(answers[-1], headers=headers)

    async def _delete(self, request: web.Request) -> web.Response:
        self.deleted += 1
        if self.hangs_on_delete:
            await self._stopped.wait()
        return web.Response(status=200)

    async def _sse(self, request: web.Request) -> web.StreamResponse:
        self.headers.append(dict(request.headers))
        response = web.StreamResponse(headers={"Content-Type": "text/event-stream"})
        await response.prepare(request)
        if self.announces:
            await response.write(b"event: endpoint\ndata: /messages\n\n")
        while (data := await self._outbox.get()) is not None:
            await response.write(f"event: message\ndata: {data}\n\n".encode())
        return response

    async def _message(self, request: web.Request) -> web.Response:
        for answer in self.peer.handle(await request.json()):
            self._outbox.put_nowait(json.dumps(answer))
        return web.Response(status=202)
