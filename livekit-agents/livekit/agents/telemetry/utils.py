"""Records common things on spans."""

from __future__ import annotations

import functools
import os
import traceback
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, ParamSpec

from ..log import logger
from ..types import ATTRIBUTE_REDACTION_ENABLED, NOT_GIVEN, NotGivenOr
from ..utils.misc import is_given
from . import trace_types
from ._job import current_job

if TYPE_CHECKING:
    from livekit import rtc
    from opentelemetry.trace import Span

    from ..metrics import RealtimeModelMetrics

REDACTED_EXCEPTION_MESSAGE = "exception details redacted"
"""Stands in traces for the message of an exception, which may quote what was said."""

_P = ParamSpec("_P")

_ALLOW_PII_ENV = "LIVEKIT_TELEMETRY_ALLOW_PII"
_FALSY = frozenset({"0", "false", "no", "off"})


def harmless(record: Callable[_P, None]) -> Callable[_P, None]:
    """Decorate a function that only records: what goes wrong in it is no business of the caller."""

    @functools.wraps(record)
    def try_to_record(*args: _P.args, **kwargs: _P.kwargs) -> None:
        try:
            record(*args, **kwargs)
        except Exception:
            logger.debug("failed to record a trace", exc_info=True)

    return try_to_record


def allow_pii_from_env() -> bool:
    """Whether `LIVEKIT_TELEMETRY_ALLOW_PII` allows personal data in traces. Unset means yes."""
    return os.environ.get(_ALLOW_PII_ENV, "").strip().lower() not in _FALSY


def redaction_enabled(span_attributes: Mapping[str, Any] | None = None) -> bool:
    """Whether personal data must be kept out of traces by order of the project or the session.

    Args:
        span_attributes: of the span in question. Where it was ended elsewhere than in its job,
            they are what tells.
    """
    if span_attributes and span_attributes.get(ATTRIBUTE_REDACTION_ENABLED):
        return True
    return bool(getattr(current_job(), "_redaction_enabled", False))


def error_type(error: BaseException) -> str:
    """The kind of an error: its HTTP status where it has one, else the name of its class."""
    status = getattr(error, "status_code", None)
    return str(status) if isinstance(status, int) and status > 0 else type(error).__name__


def participant_attributes(participant: rtc.Participant) -> dict[str, str]:
    """Return the attributes that say who a participant is."""
    from livekit import rtc

    return {
        trace_types.ATTR_PARTICIPANT_ID: participant.sid,
        trace_types.ATTR_PARTICIPANT_IDENTITY: participant.identity,
        trace_types.ATTR_PARTICIPANT_KIND: rtc.ParticipantKind.Name(participant.kind),
    }


def record_exception(
    span: Span,
    exception: BaseException,
    *,
    redacted: NotGivenOr[bool] = NOT_GIVEN,
    record_event: bool = True,
    set_status: bool = True,
) -> None:
    """Record that what a span covers has failed.

    Args:
        span: to record on.
        exception: the failure.
        redacted: leave message and stack trace out; by default as `redaction_enabled` says.
        record_event: add an `exception` event.
        set_status: mark the span as failed.
    """
    if not span.is_recording():
        return
    if not is_given(redacted):
        redacted = redaction_enabled()
    kind = type(exception).__name__
    message = REDACTED_EXCEPTION_MESSAGE if redacted else str(exception)
    attributes = {
        trace_types.ATTR_EXCEPTION_TYPE: kind,
        trace_types.ATTR_EXCEPTION_MESSAGE: message,
    }
    if not redacted:
        attributes[trace_types.ATTR_EXCEPTION_TRACE] = "".join(
            traceback.format_exception(type(exception), exception, exception.__traceback__)
        )

    span.set_attributes({**attributes, trace_types.ATTR_ERROR_TYPE: error_type(exception)})
    if record_event:
        module = type(exception).__module__
        qualified = f"{module}.{type(exception).__qualname__}".removeprefix("builtins.")
        span.add_event("exception", {**attributes, trace_types.ATTR_EXCEPTION_TYPE: qualified})
    if set_status:
        from opentelemetry.trace import Status, StatusCode

        span.set_status(Status(StatusCode.ERROR, message))


def record_realtime_metrics(span: Span, ev: RealtimeModelMetrics) -> None:
    """Record what a response of a realtime model cost on the span that covers it."""
    if not span.is_recording():
        return
    inputs, outputs = ev.input_token_details, ev.output_token_details
    attributes: dict[str, str | int] = {
        trace_types.ATTR_REALTIME_MODEL_METRICS: ev.model_dump_json(),
        trace_types.ATTR_GEN_AI_USAGE_INPUT_TOKENS: ev.input_tokens,
        trace_types.ATTR_GEN_AI_USAGE_OUTPUT_TOKENS: ev.output_tokens,
        trace_types.ATTR_GEN_AI_USAGE_CACHE_READ_INPUT_TOKENS: inputs.cached_tokens,
        trace_types.ATTR_GEN_AI_USAGE_TEXT_INPUT_TOKENS: inputs.text_tokens,
        trace_types.ATTR_GEN_AI_USAGE_AUDIO_INPUT_TOKENS: inputs.audio_tokens,
        trace_types.ATTR_GEN_AI_USAGE_IMAGE_INPUT_TOKENS: inputs.image_tokens,
        trace_types.ATTR_GEN_AI_USAGE_TEXT_OUTPUT_TOKENS: outputs.text_tokens,
        trace_types.ATTR_GEN_AI_USAGE_AUDIO_OUTPUT_TOKENS: outputs.audio_tokens,
        trace_types.ATTR_GEN_AI_USAGE_INPUT_TEXT_TOKENS: inputs.text_tokens,
        trace_types.ATTR_GEN_AI_USAGE_INPUT_AUDIO_TOKENS: inputs.audio_tokens,
        trace_types.ATTR_GEN_AI_USAGE_INPUT_CACHED_TOKENS: inputs.cached_tokens,
        trace_types.ATTR_GEN_AI_USAGE_OUTPUT_TEXT_TOKENS: outputs.text_tokens,
        trace_types.ATTR_GEN_AI_USAGE_OUTPUT_AUDIO_TOKENS: outputs.audio_tokens,
    }
    if cached := inputs.cached_tokens_details:
        attributes |= {
            trace_types.ATTR_GEN_AI_USAGE_TEXT_CACHE_READ_INPUT_TOKENS: cached.text_tokens,
            trace_types.ATTR_GEN_AI_USAGE_AUDIO_CACHE_READ_INPUT_TOKENS: cached.audio_tokens,
            trace_types.ATTR_GEN_AI_USAGE_IMAGE_CACHE_READ_INPUT_TOKENS: cached.image_tokens,
        }
    if metadata := ev.metadata:
        attributes |= trace_types.gen_ai_model_attributes(
            metadata.model_name, metadata.model_provider
        )
    span.set_attributes(attributes)
