"""The tracer of this framework.

OpenTelemetry is loaded when the first span is started for a provider: one given to
`set_tracer_provider`, or the global one of OpenTelemetry. Until then spans cost next to nothing.
"""

from __future__ import annotations

import functools
import inspect
import os
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import TYPE_CHECKING, Any, Protocol, TypeGuard, TypeVar, runtime_checkable

from ..log import logger
from ..version import __version__
from ._job import job_attributes
from ._noop import NOOP_SPAN
from ._open_spans import enter

if TYPE_CHECKING:
    from collections.abc import Sequence

    from opentelemetry.context import Context
    from opentelemetry.sdk.trace import TracerProvider as SdkTracerProvider
    from opentelemetry.trace import Link, Span, SpanKind, Tracer, TracerProvider
    from opentelemetry.util.types import Attributes, AttributeValue

    from ._open_spans import OpenSpans

__all__ = ["DescribesOptions", "set_tracer_provider", "tracer"]

_GLOBAL_PROVIDER_ENV = "OTEL_PYTHON_TRACER_PROVIDER"

_F = TypeVar("_F", bound=Callable[..., Any])


@runtime_checkable
class DescribesOptions(Protocol):
    """An object that can say which of its options are worth reporting."""

    def describe_options(self) -> Mapping[str, Any]:
        """Return option -> value, without secrets and personal data."""
        ...


class _DynamicTracer:
    """An OpenTelemetry tracer whose provider can be set, and replaced, at any time.

    Failures of a provider are logged at DEBUG and never reach the code that is traced.
    """

    def __init__(self, instrumenting_module_name: str) -> None:
        """Create a tracer that uses OpenTelemetry's global provider, if there is one."""
        self._name = instrumenting_module_name
        self._own_provider: TracerProvider | None = None
        self._cached_for: TracerProvider | None = None
        self._cached: Tracer | None = None

    def set_provider(self, tracer_provider: TracerProvider | None) -> None:
        """Use `tracer_provider` for spans started from now on; None for the global one."""
        self._own_provider = tracer_provider

    @property
    def is_recording(self) -> bool:
        """Whether a span started now would go anywhere."""
        return self._tracer() is not None

    def current_span(self) -> Span:
        """Return the span that is current where this is called, maybe one that records nothing."""
        trace = sys.modules.get("opentelemetry.trace")
        return NOOP_SPAN if trace is None else trace.get_current_span()

    def current_context(self) -> Context | None:
        """Return the OpenTelemetry context, to start spans under from elsewhere; None if none."""
        context = sys.modules.get("opentelemetry.context")
        return None if context is None else context.get_current()

    def context_of(self, span: Span, base: Context | None = None) -> Context | None:
        """Return a context in which `span` is the parent of new spans; None if it isn't real.

        Args:
            span: the parent.
            base: what else is in the context; as where this is called when None.
        """
        if span is NOOP_SPAN:
            return None
        from opentelemetry.trace import set_span_in_context

        return set_span_in_context(span, base)

    def root_context(self, span: Span, open_spans: OpenSpans) -> Context | None:
        """As `context_of`, for a span whose descendants `open_spans` watches over."""
        if span is NOOP_SPAN:
            return None
        from opentelemetry.context import set_value
        from opentelemetry.trace import set_span_in_context

        from ._open_spans import OPEN_SPANS

        return set_value(OPEN_SPANS, open_spans, set_span_in_context(span))

    def use_context(self, context: Context | None) -> AbstractContextManager[None]:
        """Make an OpenTelemetry context the current one for a block; None changes nothing."""
        return nullcontext() if context is None else _attached(context)

    def start_span(
        self,
        name: str,
        context: Context | None = None,
        kind: SpanKind | None = None,
        attributes: Attributes = None,
        links: Sequence[Link] | None = None,
        start_time: int | None = None,
        record_exception: bool = True,
        set_status_on_exception: bool = True,
    ) -> Span:
        """Start a span without making it current. The caller ends it.

        Args:
            name: of the span.
            context: whose current span becomes the parent; the one of the caller when None.
            kind: internal when None.
            attributes: of the span; those of the job are added.
            links: to other spans.
            start_time: in nanoseconds since the epoch; now when None.
            record_exception: when the span is used as a context manager, record what escapes.
            set_status_on_exception: and mark the span as failed.
        """
        tracer = self._tracer()
        if tracer is None:
            return NOOP_SPAN
        try:
            from opentelemetry.context import get_current
            from opentelemetry.trace import SpanKind

            span = tracer.start_span(
                name,
                context=context,
                kind=SpanKind.INTERNAL if kind is None else kind,
                attributes={**(attributes or {}), **job_attributes()},
                links=links,
                start_time=start_time,
                record_exception=record_exception,
                set_status_on_exception=set_status_on_exception,
            )
            enter(span, get_current() if context is None else context)
            return span
        except Exception:
            logger.debug("could not start span %s", name, exc_info=True)
            return NOOP_SPAN

    def start_as_current_span(
        self,
        name: str,
        context: Context | None = None,
        kind: SpanKind | None = None,
        attributes: Attributes = None,
        links: Sequence[Link] | None = None,
        start_time: int | None = None,
        record_exception: bool = True,
        set_status_on_exception: bool = True,
        end_on_exit: bool = True,
    ) -> _SpanScope:
        """Make a context manager, or a decorator, that covers code with a span.

        Gives the span, which is current inside. Exceptions that leave the code are recorded as
        the two flags say; cancellation isn't one. A decorated function, async or not, has a new
        span in each call, from the provider at the time of the call.

        Args:
            name: of the span.
            context: whose current span becomes the parent; the one of the caller when None.
            kind: internal when None.
            attributes: of the span; those of the job are added.
            links: to other spans.
            start_time: in nanoseconds since the epoch; now when None.
            record_exception: record an exception that escapes.
            set_status_on_exception: and mark the span as failed.
            end_on_exit: end the span at the end of the code.
        """
        return _SpanScope(
            lambda: self.start_span(name, context, kind, attributes, links, start_time),
            context=context,
            record_exception=record_exception,
            set_status_on_exception=set_status_on_exception,
            end_on_exit=end_on_exit,
        )

    def detached_span(
        self, name: str, *, context: Context | None = None, attributes: Attributes = None
    ) -> _SpanScope:
        """Cover code with a span that never becomes current, so that no other span is under it."""
        return _SpanScope(
            lambda: self.start_span(name, context, attributes=attributes), make_current=False
        )

    def use_span(
        self,
        span: Span,
        end_on_exit: bool = False,
        record_exception: bool = True,
        set_status_on_exception: bool = True,
    ) -> _SpanScope:
        """Make a context manager in which `span` is current. See `start_as_current_span`."""
        return _SpanScope(
            lambda: span,
            record_exception=record_exception,
            set_status_on_exception=set_status_on_exception,
            end_on_exit=end_on_exit,
        )

    def _tracer(self) -> Tracer | None:
        provider = self._own_provider or _global_provider()
        if provider is None:
            return None
        if provider is not self._cached_for:
            self._cached = provider.get_tracer(self._name, __version__)
            self._cached_for = provider
        return self._cached


class _SpanScope:
    """Covers code with a span, as a context manager or as a decorator."""

    __slots__ = (
        "_context",
        "_end_on_exit",
        "_make_current",
        "_open",
        "_record_exception",
        "_set_status",
        "_span",
        "_token",
    )

    def __init__(
        self,
        open_span: Callable[[], Span],
        *,
        context: Context | None = None,
        make_current: bool = True,
        record_exception: bool = True,
        set_status_on_exception: bool = True,
        end_on_exit: bool = True,
    ) -> None:
        self._open = open_span
        self._context = context
        self._make_current = make_current
        self._record_exception = record_exception
        self._set_status = set_status_on_exception
        self._end_on_exit = end_on_exit
        self._span: Span = NOOP_SPAN
        self._token: Any = None

    def __enter__(self) -> Span:
        self._span = self._open()
        if self._make_current and self._span is not NOOP_SPAN:
            from opentelemetry import context, trace

            self._token = context.attach(trace.set_span_in_context(self._span, self._context))
        return self._span

    def __exit__(self, exc_type: object, exception: BaseException | None, tb: object) -> None:
        if self._span is NOOP_SPAN:
            return
        if self._token is not None:
            from opentelemetry import context

            context.detach(self._token)
            self._token = None
        try:
            self._finish(exception)
        except Exception:
            logger.debug("could not end a span", exc_info=True)

    def _finish(self, exception: BaseException | None) -> None:
        if isinstance(exception, Exception) and (self._record_exception or self._set_status):
            from .utils import record_exception

            record_exception(
                self._span,
                exception,
                record_event=self._record_exception,
                set_status=self._set_status,
            )
        if self._end_on_exit:
            self._span.end()

    def __call__(self, function: _F) -> _F:
        if inspect.iscoroutinefunction(function):

            @functools.wraps(function)
            async def traced_async(*args: Any, **kwargs: Any) -> Any:
                with self._again():
                    return await function(*args, **kwargs)

            return traced_async  # type: ignore[return-value]

        @functools.wraps(function)
        def traced(*args: Any, **kwargs: Any) -> Any:
            with self._again():
                return function(*args, **kwargs)

        return traced  # type: ignore[return-value]

    def _again(self) -> _SpanScope:
        return _SpanScope(
            self._open,
            context=self._context,
            make_current=self._make_current,
            record_exception=self._record_exception,
            set_status_on_exception=self._set_status,
            end_on_exit=self._end_on_exit,
        )


@contextmanager
def _attached(context: Context) -> Iterator[None]:
    from opentelemetry import context as current

    token = current.attach(context)
    try:
        yield
    finally:
        current.detach(token)


def _global_provider() -> TracerProvider | None:
    """Return the provider that was set up for the whole process, if any."""
    trace: Any = sys.modules.get("opentelemetry.trace")
    if trace is None:
        if not os.environ.get(_GLOBAL_PROVIDER_ENV):
            return None
        from opentelemetry import trace
    provider: TracerProvider = trace.get_tracer_provider()
    if isinstance(provider, (trace.ProxyTracerProvider, trace.NoOpTracerProvider)):
        return None
    return provider


def _is_from_sdk(provider: TracerProvider) -> TypeGuard[SdkTracerProvider]:
    return hasattr(provider, "add_span_processor")


tracer = _DynamicTracer("livekit-agents")
"""Starts all spans of this framework."""


def set_tracer_provider(
    tracer_provider: TracerProvider,
    *,
    metadata: dict[str, AttributeValue] | None = None,
    allow_pii: bool | None = None,
) -> None:
    """Send the spans of this framework to a provider.

    Call it at module level or in the entrypoint, before the session starts.

    Args:
        tracer_provider: where spans go. It stays the caller's: it is never shut down.
        metadata: attributes for every span of the provider. An attribute that a span sets itself
            wins.
        allow_pii: whether spans may carry personal data, such as what was said. If not, it is
            removed before the exporters of the provider see it. None: as the environment variable
            `LIVEKIT_TELEMETRY_ALLOW_PII` says, otherwise allowed.
    """
    from .utils import allow_pii_from_env

    if allow_pii is None:
        allow_pii = allow_pii_from_env()
    if _is_from_sdk(tracer_provider):
        from ._span_processor import configure

        configure(tracer_provider, metadata=metadata or {}, allow_pii=allow_pii)
        cloud = sys.modules.get(f"{__package__}.cloud")
        if cloud is not None:
            cloud.adopt(tracer_provider)
    elif metadata or not allow_pii:
        logger.warning(
            "metadata and allow_pii need a TracerProvider of the OpenTelemetry SDK, "
            "%s has no span processors: they are ignored",
            type(tracer_provider).__name__,
        )
    tracer.set_provider(tracer_provider)
