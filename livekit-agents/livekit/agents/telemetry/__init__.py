"""Traces of what a session does, through OpenTelemetry."""

from typing import TYPE_CHECKING

from .._lazy import attach

if TYPE_CHECKING:
    from . import gen_ai, loop_monitor, otel_metrics, pii, trace_types, utils
    from .traces import DescribesOptions, set_tracer_provider, tracer

__all__ = [
    "DescribesOptions",
    "gen_ai",
    "loop_monitor",
    "otel_metrics",
    "pii",
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
            "gen_ai": ".gen_ai:",
            "http_server": ".http_server:",
            "loop_monitor": ".loop_monitor:",
            "metrics": ".metrics:",
            "otel_metrics": ".otel_metrics:",
            "pii": ".pii:",
            "set_tracer_provider": ".traces",
            "trace_types": ".trace_types:",
            "tracer": ".traces",
            "traces": ".traces:",
            "utils": ".utils:",
        },
    )
