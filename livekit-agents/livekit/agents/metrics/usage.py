"""Adds up what each model was used for, for billing and reports."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, TypeVar

from .base import (
    AgentMetrics,
    EOTInferenceMetrics,
    InterruptionMetrics,
    LLMMetrics,
    RealtimeModelMetrics,
    STTMetrics,
    TTSMetrics,
    _CompactRepr,
)


class _BaseModelUsage(_CompactRepr):
    provider: str
    """Empty when the part doesn't tell."""
    model: str
    """Empty when the part doesn't tell."""


class LLMModelUsage(_BaseModelUsage):
    """Use of a language model or of a realtime model."""

    type: Literal["llm_usage"] = "llm_usage"
    input_tokens: int = 0
    input_cached_tokens: int = 0
    input_cache_creation_tokens: int = 0
    input_audio_tokens: int = 0
    input_cached_audio_tokens: int = 0
    input_text_tokens: int = 0
    input_cached_text_tokens: int = 0
    input_image_tokens: int = 0
    input_cached_image_tokens: int = 0
    output_tokens: int = 0
    output_audio_tokens: int = 0
    output_text_tokens: int = 0
    output_reasoning_tokens: int = 0
    """Already contained in `output_tokens`."""
    session_duration: float = 0.0
    """Seconds of connection time, for realtime models that bill it."""


class TTSModelUsage(_BaseModelUsage):
    """Use of a speech synthesis model."""

    type: Literal["tts_usage"] = "tts_usage"
    input_tokens: int = 0
    output_tokens: int = 0
    characters_count: int = 0
    audio_duration: float = 0.0
    """Seconds of audio made."""


class STTModelUsage(_BaseModelUsage):
    """Use of a speech recognition model."""

    type: Literal["stt_usage"] = "stt_usage"
    input_tokens: int = 0
    input_audio_tokens: int = 0
    output_tokens: int = 0
    audio_duration: float = 0.0
    """Seconds of audio heard."""


class InterruptionModelUsage(_BaseModelUsage):
    """Use of a model that tells interruptions from backchannels."""

    type: Literal["interruption_usage"] = "interruption_usage"
    total_requests: int = 0


class EOTModelUsage(_BaseModelUsage):
    """Use of a model that predicts the end of a turn."""

    type: Literal["eot_usage"] = "eot_usage"
    total_requests: int = 0


ModelUsage = LLMModelUsage | TTSModelUsage | STTModelUsage | InterruptionModelUsage | EOTModelUsage
"""Use of one model, of any kind."""


@dataclass
class AgentSessionUsage:
    """What a session has used so far."""

    model_usage: list[ModelUsage]
    """One entry per kind of use, provider and model."""


_Usage = TypeVar("_Usage", bound=_BaseModelUsage)
_UsageByModel = dict[tuple[str, str], _Usage]


class ModelUsageCollector:
    """Sums metrics per provider and model. Can be used as a `"metrics_collected"` handler."""

    def __init__(self) -> None:
        """Start with no usage."""
        self._llm: _UsageByModel[LLMModelUsage] = {}
        self._tts: _UsageByModel[TTSModelUsage] = {}
        self._stt: _UsageByModel[STTModelUsage] = {}
        self._interruption: _UsageByModel[InterruptionModelUsage] = {}
        self._eot: _UsageByModel[EOTModelUsage] = {}

    def __call__(self, metrics: AgentMetrics) -> None:
        """Same as `collect`."""
        self.collect(metrics)

    def collect(self, metrics: AgentMetrics) -> None:
        """Add `metrics`. Kinds that no model is billed for are ignored."""
        if isinstance(metrics, LLMMetrics):
            _add_llm(_entry(self._llm, LLMModelUsage, metrics), metrics)
        elif isinstance(metrics, RealtimeModelMetrics):
            _add_realtime(_entry(self._llm, LLMModelUsage, metrics), metrics)
        elif isinstance(metrics, TTSMetrics):
            tts = _entry(self._tts, TTSModelUsage, metrics)
            tts.input_tokens += metrics.input_tokens
            tts.output_tokens += metrics.output_tokens
            tts.characters_count += metrics.characters_count
            tts.audio_duration += metrics.audio_duration
        elif isinstance(metrics, STTMetrics):
            stt = _entry(self._stt, STTModelUsage, metrics)
            stt.input_tokens += metrics.input_tokens
            stt.input_audio_tokens += metrics.input_audio_tokens
            stt.output_tokens += metrics.output_tokens
            stt.audio_duration += metrics.audio_duration
        elif isinstance(metrics, InterruptionMetrics):
            interruption = _entry(self._interruption, InterruptionModelUsage, metrics)
            interruption.total_requests += metrics.num_requests
        elif isinstance(metrics, EOTInferenceMetrics):
            _entry(self._eot, EOTModelUsage, metrics).total_requests += metrics.num_requests

    def flatten(self) -> list[ModelUsage]:
        """Return copies of all sums: LLM, TTS, STT, interruption, then end-of-turn models."""
        usages: list[ModelUsage] = [
            *self._llm.values(),
            *self._tts.values(),
            *self._stt.values(),
            *self._interruption.values(),
            *self._eot.values(),
        ]
        return [usage.model_copy(deep=True) for usage in usages]


def _entry(usages: _UsageByModel[_Usage], kind: type[_Usage], metrics: AgentMetrics) -> _Usage:
    metadata = metrics.metadata
    provider = (metadata.model_provider if metadata else None) or ""
    model = (metadata.model_name if metadata else None) or ""
    if (provider, model) not in usages:
        usages[provider, model] = kind(provider=provider, model=model)
    return usages[provider, model]


def _add_llm(usage: LLMModelUsage, metrics: LLMMetrics) -> None:
    usage.input_tokens += metrics.prompt_tokens
    usage.input_cached_tokens += metrics.prompt_cached_tokens
    usage.input_cache_creation_tokens += metrics.cache_creation_tokens
    usage.output_tokens += metrics.completion_tokens
    usage.output_reasoning_tokens += metrics.reasoning_tokens


def _add_realtime(usage: LLMModelUsage, metrics: RealtimeModelMetrics) -> None:
    inputs, outputs = metrics.input_token_details, metrics.output_token_details
    cached = inputs.cached_tokens_details or RealtimeModelMetrics.CachedTokenDetails()
    usage.input_tokens += metrics.input_tokens
    usage.input_cached_tokens += inputs.cached_tokens
    usage.input_audio_tokens += inputs.audio_tokens
    usage.input_cached_audio_tokens += cached.audio_tokens
    usage.input_text_tokens += inputs.text_tokens
    usage.input_cached_text_tokens += cached.text_tokens
    usage.input_image_tokens += inputs.image_tokens
    usage.input_cached_image_tokens += cached.image_tokens
    usage.output_tokens += metrics.output_tokens
    usage.output_audio_tokens += outputs.audio_tokens
    usage.output_text_tokens += outputs.text_tokens
    usage.session_duration += metrics.session_duration
