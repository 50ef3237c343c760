"""The span that records nothing, for when nobody has set up tracing."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from typing_extensions import Self

if TYPE_CHECKING:
    from opentelemetry.trace import Span, SpanContext


class NoopSpan:
    """Has the methods of an OpenTelemetry span and ignores what they are told.

    It doesn't derive from one, since that would load OpenTelemetry.
    """

    __slots__ = ()

    def end(self, end_time: int | None = None) -> None:
        """Do nothing."""

    def get_span_context(self) -> SpanContext:
        """Return the context that means "no span"."""
        from opentelemetry.trace import INVALID_SPAN_CONTEXT

        return INVALID_SPAN_CONTEXT

    def set_attributes(self, attributes: Any) -> None:
        """Do nothing."""

    def set_attribute(self, key: str, value: Any) -> None:
        """Do nothing."""

    def add_event(self, name: str, attributes: Any = None, timestamp: int | None = None) -> None:
        """Do nothing."""

    def add_link(self, context: SpanContext, attributes: Any = None) -> None:
        """Do nothing."""

    def update_name(self, name: str) -> None:
        """Do nothing."""

    def is_recording(self) -> bool:
        """Return False: what is expensive to record needn't be prepared."""
        return False

    def set_status(self, status: Any, description: str | None = None) -> None:
        """Do nothing."""

    def record_exception(
        self,
        exception: BaseException,
        attributes: Any = None,
        timestamp: int | None = None,
        escaped: bool = False,
    ) -> None:
        """Do nothing."""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc_info: object) -> None:
        pass


NOOP_SPAN: Span = NoopSpan()  # type: ignore[assignment]
"""Shared by all, since it has no state."""
