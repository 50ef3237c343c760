"""What turn detectors that listen have in common."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from ..._emitter import IsolatedEmitter
from ..._streams import qualified_name
from ...types import DEFAULT_API_CONNECT_OPTIONS, APIConnectOptions
from .languages import ThresholdOptions

if TYPE_CHECKING:
    from ...language import LanguageCode
    from .stream import TurnDetectorStream

DEFAULT_SAMPLE_RATE = 16000
"""Hz."""

DEFAULT_PREDICTION_TIMEOUT = 1.0
"""Seconds that whoever asks should wait for an answer."""

MIN_SILENCE_DURATION_MS = 200
"""Silence in milliseconds that an answer needs."""


@dataclass
class TurnDetectorOptions:
    """How to listen."""

    sample_rate: int
    thresholds: ThresholdOptions


class _BaseStreamingTurnDetector(ABC, IsolatedEmitter[Literal["metrics_collected"]]):
    """Emits `"metrics_collected"` with `EOTInferenceMetrics`."""

    def __init__(self, opts: TurnDetectorOptions) -> None:
        super().__init__()
        self._opts = opts
        self._label = qualified_name(self)

    @property
    def label(self) -> str:
        """Module and class, for logs."""
        return self._label

    @property
    @abstractmethod
    def model(self) -> str:
        """Name of the model."""

    @property
    def provider(self) -> str:
        """`"livekit"`."""
        return "livekit"

    @abstractmethod
    def stream(
        self, *, conn_options: APIConnectOptions = DEFAULT_API_CONNECT_OPTIONS
    ) -> TurnDetectorStream:
        """Start to listen."""

    async def unlikely_threshold(self, language: LanguageCode | None) -> float | None:
        """Below this probability the user isn't done. None: not known."""
        return self._opts.thresholds.lookup(language)

    async def backchannel_threshold(self, language: LanguageCode | None) -> float | None:
        """From this probability on a short reaction fits. None: not judged."""
        return self._opts.thresholds.lookup_backchannel(language)

    async def supports_language(self, language: LanguageCode | None) -> bool:
        """Whether turns in this language can be judged."""
        return self._opts.thresholds.supports(language)
