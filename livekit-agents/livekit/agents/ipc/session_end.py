"""What is left to do for a session when it is closed: metrics, reports, uploads."""

from __future__ import annotations

import asyncio
import sys
from typing import TYPE_CHECKING, Any

from ..log import logger

if TYPE_CHECKING:
    from ..job import JobContext
    from ..voice import AgentSession

__all__ = ["end_session_work", "flush_telemetry"]


async def end_session_work(ctx: JobContext, session: AgentSession[Any]) -> None:
    """Record what the session measured, and write or upload its report where that is wanted."""
    from ..job import _console
    from ..telemetry import otel_metrics

    otel_metrics.flush_turn_metrics(session.history)
    console = _console()
    if console is not None and console.record:
        from ..voice.report import write_report

        path = console.session_directory / "session_report.json"
        await asyncio.to_thread(write_report, ctx.make_session_report(session), path)
        logger.info("session report written", extra={"path": str(path)})


async def flush_telemetry(ctx: JobContext, timeout: float) -> None:
    """Have spans that wait in the provider sent, if it is one that keeps them."""
    traces = sys.modules.get("livekit.agents.telemetry.traces")
    provider = traces.tracer._own_provider if traces is not None else None
    flush = getattr(provider, "force_flush", None)
    if flush is None:
        return
    try:
        await asyncio.wait_for(asyncio.to_thread(flush, int(timeout * 1000)), timeout)
    except asyncio.TimeoutError:
        logger.warning("spans could not be sent within %g s", timeout)
