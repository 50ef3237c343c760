"""Traces of what a session does, through OpenTelemetry."""

from typing import TYPE_CHECKING

from .._lazy import attach

if TYPE_CHECKING:
    from . import (
        gen_ai,
        http_server,
        input_delta,
        loop_monitor,
        metrics,
        otel_metrics,
        pii,
        rpc,
        session_context,
        trace_types,
        utils,
    )
    from .cloud import _setup_cloud_tracer
    from .report_upload import _upload_session_report
    from .traces import DescribesOptions, set_tracer_provider, tracer

__all__ = [
    "DescribesOptions",
    "_setup_cloud_tracer",
    "_upload_session_report",
    "gen_ai",
    "http_server",
    "input_delta",
    "loop_monitor",
    "metrics",
    "otel_metrics",
    "pii",
    "rpc",
    "session_context",
    "set_tracer_provider",
    "trace_types",
    "tracer",
    "utils",
]

if not TYPE_CHECKING:  # a type checker shall know the names above and no others
    __getattr__, __dir__ = attach(
        __name__,
        {
            "DescribesOptions": ".traces",
            "_setup_cloud_tracer": ".cloud",
            "_upload_session_report": ".report_upload",
            "gen_ai": ".gen_ai:",
            "http_server": ".http_server:",
            "input_delta": ".input_delta:",
            "loop_monitor": ".loop_monitor:",
            "metrics": ".metrics:",
            "otel_metrics": ".otel_metrics:",
            "pii": ".pii:",
            "rpc": ".rpc:",
            "session_context": ".session_context:",
            "set_tracer_provider": ".traces",
            "trace_types": ".trace_types:",
            "tracer": ".traces",
            "traces": ".traces:",
            "utils": ".utils:",
        },
    )
