"""What the worker answers over HTTP: is it well, what does it do, its metrics."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

from ..utils.http_server import HttpServer
from ..version import __version__

if TYPE_CHECKING:
    from aiohttp import web

    from .run import ServerRun

__all__ = ["make_http_server"]

_UNREGISTERED = 60.0
"""Seconds without a registration after which the health answer mentions it."""


def make_http_server(host: str, port: int, run: ServerRun) -> HttpServer:
    """The server for `GET /` (health) and `GET /worker`."""
    server = HttpServer(host, port)
    server.app.router.add_get("/", _health(run))
    server.app.router.add_get("/worker", _worker(run))
    return server


def _health(run: ServerRun) -> Any:
    async def health(_: web.Request) -> web.Response:
        from aiohttp import web

        if run.inference is not None and not run.inference.is_alive():
            return web.Response(status=503, text="inference process not running")
        connection = run.connection
        if connection is not None and connection.failed:
            return web.Response(status=503, text="failed to connect to livekit")
        text = "OK"
        if connection is not None and connection.lost_at is not None:
            lost = time.monotonic() - connection.lost_at
            if lost > _UNREGISTERED:
                text = f"OK, but not registered with livekit for {lost:.0f} s"
        return web.Response(text=text)

    return health


def _worker(run: ServerRun) -> Any:
    async def worker(_: web.Request) -> web.Response:
        from aiohttp import web
        from google.protobuf.json_format import MessageToJson
        from livekit.protocol import agent, agent_worker

        from ..worker import WORKER_PROTOCOL_VERSION

        info = agent_worker.WorkerInfo(
            worker_type=agent.JobType.Name(run.server._type.value),
            agent_name=run.server._agent_name,
            active_jobs=len(run.active_executors()),
            sdk_version=__version__,
            worker_load=run.gauge.load,
            protocol_version=WORKER_PROTOCOL_VERSION,
        )
        body = MessageToJson(info, preserving_proto_field_name=True)
        return web.Response(body=body.encode(), content_type="application/json")

    return worker
