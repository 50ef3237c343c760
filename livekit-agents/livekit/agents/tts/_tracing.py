"""Traces of speech synthesis. Nothing here may influence what is synthesized or how it closes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import TYPE_CHECKING, Any

from ..telemetry.trace_types import (
    ATTR_FALLBACK_INDEX,
    ATTR_FALLBACK_LABEL,
    ATTR_FALLBACK_RECOVERY,
    ATTR_GEN_AI_PROVIDER_NAME,
    ATTR_GEN_AI_REQUEST_MODEL,
    ATTR_GEN_AI_RESPONSE_MODEL,
    ATTR_PROVIDER_REQUEST_IDS,
    ATTR_RETRY_COUNT,
    ATTR_TTS_INPUT_TEXT,
    ATTR_TTS_LABEL,
    ATTR_TTS_METRICS,
    ATTR_TTS_STREAMING,
    gen_ai_provider_name,
)
from ..telemetry.traces import tracer

if TYPE_CHECKING:
    from opentelemetry.trace import Span

    from ..metrics import TTSMetrics
    from .tts import TTS

RECOVERY: Mapping[str, Any] = {ATTR_FALLBACK_RECOVERY: True}
"""Attributes of a request that only finds out whether a synthesizer works again."""


class RequestTrace:
    """The span of one synthesis, all attempts included, and a child span for each attempt.

    Args:
        name: Of the span.
        attempt_name: Of the child spans; None for none.
    """

    def __init__(self, name: str, attempt_name: str | None) -> None:
        self._name = name
        self._attempt_name = attempt_name
        self._span: Span | None = None
        self._caller = tracer.current_span()
        self._model: Mapping[str, str] = {}
        self.attributes: Mapping[str, Any] = {}
        """Further attributes of the span; to be set before it starts."""

    def start(self, tts: TTS[Any], *, streaming: bool) -> AbstractContextManager[Any]:
        """Start the span. Returns a context manager inside which it is current."""
        attributes: dict[str, Any] = {}
        if tracer.is_recording:
            self._model = {ATTR_GEN_AI_REQUEST_MODEL: tts.model, **_provider(tts)}
            attributes = {
                ATTR_TTS_STREAMING: streaming,
                ATTR_TTS_LABEL: tts.label,
                **self._model,
                **self.attributes,
            }
        self._span = tracer.start_span(self._name, attributes=attributes)
        return tracer.use_span(self._span)

    def end(self) -> None:
        """End the span. Does nothing the second time."""
        span, self._span = self._span, None
        if span is not None:
            span.end()

    def attempt(self, retry_count: int) -> AbstractContextManager[Any]:
        """A context manager that covers an attempt with a span."""
        if self._attempt_name is None:
            return nullcontext()
        return tracer.start_as_current_span(
            self._attempt_name, attributes={ATTR_RETRY_COUNT: retry_count, **self._model}
        )

    def record_input_text(self, text: str) -> None:
        """Record what was spoken."""
        if self._span is not None:
            self._span.set_attribute(ATTR_TTS_INPUT_TEXT, text)

    def record_metrics(self, metrics: TTSMetrics) -> None:
        """Record what it cost."""
        if self._span is not None and self._span.is_recording():
            self._span.set_attribute(ATTR_TTS_METRICS, metrics.model_dump_json())

    def record_fallback(self, tts: TTS[Any], index: int) -> None:
        """Record, here and for the caller, which of several synthesizers speaks."""
        for span in (self._span, self._caller):
            if span is not None and span.is_recording():
                span.set_attributes(
                    {
                        ATTR_FALLBACK_LABEL: tts.label,
                        ATTR_FALLBACK_INDEX: index,
                        ATTR_GEN_AI_RESPONSE_MODEL: tts.model,
                        **_provider(tts),
                    }
                )


def note_provider_request_ids(request_ids: Sequence[str]) -> None:
    """Record on the current span under which ids the provider knows the request."""
    tracer.current_span().set_attribute(ATTR_PROVIDER_REQUEST_IDS, list(request_ids))


def _provider(tts: TTS[Any]) -> dict[str, str]:
    name = gen_ai_provider_name(tts.provider)
    return {ATTR_GEN_AI_PROVIDER_NAME: name} if name else {}
