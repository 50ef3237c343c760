"""Traces of speech synthesis. Nothing here may influence what is synthesized or how it closes."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ..metrics import TTSMetrics
    from .tts import TTS


@contextmanager
def request_span(name: str, tts: TTS[Any], *, streaming: bool) -> Iterator[None]:
    """Cover one synthesis, all its attempts included."""
    yield


@contextmanager
def attempt_span(name: str | None, *, retry_count: int) -> Iterator[None]:
    """Cover one attempt; without a name, nothing."""
    yield


def note_provider_request_ids(request_ids: Sequence[str]) -> None:
    """Record under which ids the provider knows the request."""


def record_input_text(text: str) -> None:
    """Record what was spoken."""


def record_metrics(metrics: TTSMetrics) -> None:
    """Record what it cost."""
