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
    url = ctx._observability_url
    if url is not None and not ctx.is_fake_job():
        from ..telemetry.report_upload import upload_session_report

        await upload_session_report(ctx, ctx.make_session_report(session), url)


async def flush_telemetry(ctx: JobContext, timeout: float) -> None:
    """Have what waits to be uploaded sent."""
    if ctx._telemetry_state is not None:
        await asyncio.to_thread(ctx._telemetry_state.finish, timeout)
        return
    traces = sys.modules.get("livekit.agents.telemetry.traces")
    provider = traces.tracer._own_provider if traces is not None else None
    flush = getattr(provider, "force_flush", None)
    if flush is None:
        return
    try:
        await asyncio.wait_for(asyncio.to_thread(flush, int(timeout * 1000)), timeout)
    except asyncio.TimeoutError:
        logger.warning("spans could not be sent within %g s", timeout)
