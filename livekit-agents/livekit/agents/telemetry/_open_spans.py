"""The spans of a session that have not ended: whatever hangs, its trace is complete in the end.

They are found through the OpenTelemetry context: whoever starts a span in a context that carries an
`OpenSpans` enters it there. Code that keeps to nothing may hold up a span for as long as it likes;
the close of its session ends it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from . import trace_types

if TYPE_CHECKING:
    from opentelemetry.context import Context
    from opentelemetry.trace import Span

__all__ = ["CUT_OFF", "OPEN_SPANS", "OpenSpans", "enter"]

OPEN_SPANS = "livekit-agents-open-spans"
"""Key in an OpenTelemetry context."""

CUT_OFF = "cut_off"
"""`error.type` of a span that the close of its session has ended."""

_FIRST_SWEEP = 64


class OpenSpans:
    """Remembers spans until they end."""

    def __init__(self) -> None:
        self._spans: list[Span] = []
        self._sweep_at = _FIRST_SWEEP
        self._closed = False

    def add(self, span: Span) -> None:
        """Remember a span. After `end_all` it is its owner's alone."""
        if self._closed:
            return
        self._spans.append(span)
        if len(self._spans) >= self._sweep_at:
            self._spans = [each for each in self._spans if each.is_recording()]
            self._sweep_at = max(_FIRST_SWEEP, 2 * len(self._spans))

    def end_all(self) -> list[str]:
        """End what is open, the innermost first, and forget all.

        Returns:
            The names of the spans that were open.
        """
        self._closed = True
        spans, self._spans = self._spans, []
        cut_off: list[str] = []
        for span in reversed(spans):
            if not span.is_recording():
                continue
            cut_off.append(str(getattr(span, "name", "")))
            span.set_attribute(trace_types.ATTR_ERROR_TYPE, CUT_OFF)
            span.end()
        return cut_off


def enter(span: Span, context: Context) -> None:
    """Remember a span that was started in `context`, if somebody watches over its spans."""
    watched = context.get(OPEN_SPANS)
    if isinstance(watched, OpenSpans) and span.is_recording():
        watched.add(span)
