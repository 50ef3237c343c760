"""Traces of language model requests. Nothing here may influence a request or its close."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ..metrics import LLMMetrics
    from ._llm_stream import LLMStream
    from .llm import LLM


@contextmanager
def request_span(stream: LLMStream) -> Iterator[Any]:
    """Cover one request, all its attempts included. Gives the span."""
    yield None


@contextmanager
def attempt_span(name: str | None, *, retry_count: int) -> Iterator[None]:
    """Cover one attempt; without a name, nothing."""
    yield


def note_provider_request_ids(request_ids: Sequence[str]) -> None:
    """Record under which ids the provider knows the attempt."""


def record_metrics(span: Any, metrics: LLMMetrics) -> None:
    """Record what the request cost, on its span."""


def record_fallback(stream: LLMStream, served_by: LLM[Any], index: int) -> None:
    """Record which model answered, on the span of the adapter's stream and its caller's."""


def record_recovery(stream: LLMStream) -> None:
    """Mark the span of a request that only asks whether a model works again."""
