"""The span and the duration of one tool call."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from ..telemetry import gen_ai, otel_metrics, trace_types
from ..telemetry.traces import tracer

if TYPE_CHECKING:
    from opentelemetry.trace import Span

    from ..llm import FunctionCallOutput
    from .running_tool import RunningTool


class ToolTrace:
    """Covers a tool from the start of its body until its result is known, or no longer matters."""

    def __init__(self, running: RunningTool) -> None:
        call, info = running.call, running.tool.info
        self._name = call.name
        self._began = time.perf_counter()
        self._ended = False
        attributes = {
            trace_types.ATTR_FUNCTION_TOOL_ID: call.call_id,
            trace_types.ATTR_FUNCTION_TOOL_NAME: call.name,
            trace_types.ATTR_SPEECH_ID: running.ctx.speech_handle.id,
        }
        if gen_ai.capture_content_enabled():
            attributes[trace_types.ATTR_FUNCTION_TOOL_ARGS] = call.arguments
        self.span: Span = tracer.start_span("function_tool", attributes=attributes)
        if self.span.is_recording():
            gen_ai.set_tool_attributes(
                self.span,
                name=call.name,
                call_id=call.call_id,
                description=getattr(info, "description", None),
                arguments=call.arguments,
                agent_name=running.agent_id,
            )

    def end(self, output: FunctionCallOutput | None) -> None:
        """Record the output, once."""
        if self._ended:
            return
        self._ended = True
        failed = output is not None and output.is_error
        if self.span.is_recording():
            self.span.set_attribute(trace_types.ATTR_FUNCTION_TOOL_IS_ERROR, failed)
            if output is not None and gen_ai.capture_content_enabled():
                self.span.set_attribute(trace_types.ATTR_FUNCTION_TOOL_OUTPUT, output.output)
            gen_ai.set_tool_result(
                self.span, result=output.output if output is not None else None, is_error=failed
            )
        self.span.end()
        otel_metrics.record_execute_tool_duration(
            time.perf_counter() - self._began, tool_name=self._name, error=failed
        )
