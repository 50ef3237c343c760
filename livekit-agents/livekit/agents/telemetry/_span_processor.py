"""Stamps and redacts the spans of a provider. Imported only with a provider of the SDK."""

from __future__ import annotations

import threading
import weakref
from collections.abc import Mapping
from typing import TYPE_CHECKING

from opentelemetry.sdk.trace import ReadableSpan, Span, SpanProcessor, TracerProvider

from ..log import logger
from .pii import redact
from .utils import redaction_enabled

if TYPE_CHECKING:
    from opentelemetry.context import Context
    from opentelemetry.util.types import AttributeValue


class _FrameworkSpanProcessor(SpanProcessor):
    """Sees the spans of a provider before its exporters do."""

    def __init__(self) -> None:
        self.metadata: Mapping[str, AttributeValue] = {}
        self.allow_pii = True

    def on_start(self, span: Span, parent_context: Context | None = None) -> None:
        present = span.attributes or {}
        span.set_attributes(
            {key: value for key, value in self.metadata.items() if key not in present}
        )

    def on_end(self, span: ReadableSpan) -> None:
        if not self.allow_pii or redaction_enabled(span.attributes):
            redact(span)


_processors: weakref.WeakKeyDictionary[TracerProvider, _FrameworkSpanProcessor] = (
    weakref.WeakKeyDictionary()
)
_lock = threading.Lock()


def configure(
    provider: TracerProvider, *, metadata: Mapping[str, AttributeValue], allow_pii: bool
) -> None:
    """Stamp `metadata` on the spans of `provider`, and redact them unless `allow_pii`."""
    with _lock:
        processor = _processors.get(provider)
        if processor is None:
            processor = _processors[provider] = _FrameworkSpanProcessor()
            _put_first(provider, processor)
    processor.metadata = dict(metadata)
    processor.allow_pii = allow_pii


def _put_first(provider: TracerProvider, processor: SpanProcessor) -> None:
    # The SDK only appends, but the exporters that are already there must see redacted spans.
    try:
        processors = provider._active_span_processor
        with processors._lock:
            processors._span_processors = (processor, *processors._span_processors)
    except AttributeError:
        provider.add_span_processor(processor)
        logger.warning(
            "this version of the OpenTelemetry SDK only lets span processors be appended: "
            "exporters added before see personal data even where it isn't allowed"
        )
