"""Traces of RPCs between the agent and other participants of its room."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Any

from livekit import rtc

from . import trace_types
from .session_context import session_root_context
from .traces import tracer
from .utils import record_exception

if TYPE_CHECKING:
    from opentelemetry.trace import Span

__all__ = ["MAX_PAYLOAD_ATTR_LEN", "TracingRpcInterceptor", "install"]

MAX_PAYLOAD_ATTR_LEN = 1024
"""Characters of a payload or response that are recorded; the sizes are always those of the whole."""

_RpcInterceptorBase: Any = getattr(rtc, "RpcInterceptor", object)


class TracingRpcInterceptor(_RpcInterceptorBase):  # type: ignore[misc]
    """Covers each call with a span `rpc_call`, and each answered one with `rpc_handler`.

    What a call returns or raises is passed on as it is.
    """

    async def intercept_outgoing(
        self, call: rtc.rpc.RpcCallInfo, next: Callable[[Any], Awaitable[str]]
    ) -> str:
        """Make a call."""
        if not tracer.is_recording:
            return await next(call)
        from opentelemetry.trace import SpanKind

        attributes: dict[str, Any] = {
            trace_types.ATTR_RPC_METHOD: call.method,
            trace_types.ATTR_RPC_DESTINATION_IDENTITY: call.destination_identity,
            **_payload(call.payload),
        }
        if call.response_timeout is not None:
            attributes[trace_types.ATTR_RPC_RESPONSE_TIMEOUT] = call.response_timeout
        with _span("rpc_call", SpanKind.CLIENT, attributes, None) as span:
            try:
                response = await next(call)
            except Exception as error:
                _record_error(span, error)
                raise
            _record_response(span, response)
            return response

    async def intercept_incoming(
        self, invocation: rtc.RpcInvocationData, next: Callable[[Any], Awaitable[str | None]]
    ) -> str | None:
        """Answer a call."""
        if not tracer.is_recording:
            return await next(invocation)
        from opentelemetry.trace import SpanKind

        attributes = {
            trace_types.ATTR_RPC_METHOD: invocation.method,
            trace_types.ATTR_RPC_REQUEST_ID: invocation.request_id,
            trace_types.ATTR_RPC_CALLER_IDENTITY: invocation.caller_identity,
            trace_types.ATTR_RPC_RESPONSE_TIMEOUT: invocation.response_timeout,
            trace_types.ATTR_RPC_HANDLER_REGISTERED: True,
            **_payload(invocation.payload),
        }
        context = session_root_context()
        with _span("rpc_handler", SpanKind.SERVER, attributes, context) as span:
            try:
                response = await next(invocation)
            except asyncio.CancelledError:
                reason = getattr(invocation, "cancel_reason", None)
                if reason is not None:
                    span.set_attribute(trace_types.ATTR_RPC_ERROR_CODE, int(reason))
                    span.set_attribute(trace_types.ATTR_ERROR_TYPE, reason.name)
                raise
            except Exception as error:
                _record_error(span, error)
                raise
            _record_response(span, response)
            return response


_INTERCEPTOR = TracingRpcInterceptor()


def install(local_participant: rtc.LocalParticipant) -> None:
    """Trace the RPCs of a participant from now on. Idempotent.

    Does nothing where the SDK has no interceptors.
    """
    add = getattr(local_participant, "add_rpc_interceptor", None)
    if add is not None:
        add(_INTERCEPTOR)  # adding it again does nothing


def _span(name: str, kind: Any, attributes: dict[str, Any], context: Any) -> Any:
    return tracer.start_as_current_span(
        name,
        context=context,
        kind=kind,
        attributes=attributes,
        record_exception=False,
        set_status_on_exception=False,
    )


def _payload(payload: str) -> dict[str, Any]:
    return {
        trace_types.ATTR_RPC_PAYLOAD: payload[:MAX_PAYLOAD_ATTR_LEN],
        trace_types.ATTR_RPC_PAYLOAD_SIZE: len(payload.encode()),
    }


def _record_response(span: Span, response: str | None) -> None:
    if response is not None:
        span.set_attribute(trace_types.ATTR_RPC_RESPONSE, response[:MAX_PAYLOAD_ATTR_LEN])
        span.set_attribute(trace_types.ATTR_RPC_RESPONSE_SIZE, len(response.encode()))


def _record_error(span: Span, error: Exception) -> None:
    code = error.code if isinstance(error, rtc.RpcError) else None
    if code is None:
        code = rtc.RpcError.ErrorCode.APPLICATION_ERROR  # what the caller is told
    span.set_attribute(trace_types.ATTR_RPC_ERROR_CODE, int(code))
    if code == rtc.RpcError.ErrorCode.UNSUPPORTED_METHOD:
        span.set_attribute(trace_types.ATTR_RPC_HANDLER_REGISTERED, False)
    record_exception(span, error)
