"""`GET /metrics` for Prometheus."""

from __future__ import annotations

import asyncio
import os

from aiohttp import web

from ..utils.http_server import HttpServer as _HttpServer

__all__ = ["HttpServer", "metrics"]


async def metrics(_request: web.Request) -> web.Response:
    """The metrics of this process, or of all when `PROMETHEUS_MULTIPROC_DIR` is set."""
    from prometheus_client import CONTENT_TYPE_LATEST

    body = await asyncio.to_thread(_render)
    return web.Response(body=body, headers={"Content-Type": CONTENT_TYPE_LATEST})


def _render() -> bytes:
    from prometheus_client import REGISTRY, CollectorRegistry, generate_latest, multiprocess

    from . import metrics as _metrics  # registers what is measured

    _ = _metrics
    if not os.environ.get("PROMETHEUS_MULTIPROC_DIR"):
        return generate_latest(REGISTRY)
    registry = CollectorRegistry()
    multiprocess.MultiProcessCollector(registry)  # type: ignore[no-untyped-call]
    return generate_latest(registry)


class HttpServer(_HttpServer):
    """Serves the metrics."""

    def __init__(self, host: str, port: int) -> None:
        """Prepare a server: see `utils.http_server.HttpServer`."""
        super().__init__(host, port)
        from . import metrics as _metrics  # fails early where prometheus_client is missing

        _ = _metrics
        self.app.router.add_get("/metrics", metrics)
