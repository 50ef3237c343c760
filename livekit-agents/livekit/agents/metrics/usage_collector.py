"""Deprecated sums over all models together. Use `ModelUsageCollector`, which keeps them apart."""

from __future__ import annotations

import warnings
from copy import deepcopy
from dataclasses import dataclass

from .base import AgentMetrics, LLMMetrics, RealtimeModelMetrics, STTMetrics, TTSMetrics


def _warn_deprecated(name: str, *, stacklevel: int) -> None:
    warnings.warn(
        f"{name} is deprecated, use ModelUsageCollector instead",
        DeprecationWarning,
        stacklevel=stacklevel + 1,
    )


@dataclass
class UsageSummary:
    """Deprecated: tokens, characters and seconds, summed over all models."""

    llm_prompt_tokens: int = 0
    llm_prompt_cached_tokens: int = 0
    llm_input_audio_tokens: int = 0
    llm_input_cached_audio_tokens: int = 0
    llm_input_text_tokens: int = 0
    llm_input_cached_text_tokens: int = 0
    llm_input_image_tokens: int = 0
    llm_input_cached_image_tokens: int = 0
    llm_completion_tokens: int = 0
    llm_output_audio_tokens: int = 0
    llm_output_image_tokens: int = 0
    llm_output_text_tokens: int = 0
    tts_characters_count: int = 0
    tts_audio_duration: float = 0.0
    stt_audio_duration: float = 0.0
    stt_input_tokens: int = 0
    stt_output_tokens: int = 0
    stt_input_audio_tokens: int = 0

    def __post_init__(self) -> None:
        _warn_deprecated("UsageSummary", stacklevel=3)  # skips the generated __init__

    @property
    def llm_input_tokens(self) -> int:
        """Same as `llm_prompt_tokens`."""
        return self.llm_prompt_tokens

    @property
    def llm_output_tokens(self) -> int:
        """Same as `llm_completion_tokens`."""
        return self.llm_completion_tokens


class UsageCollector:
    """Deprecated: sums metrics over all models. Can be used as a `"metrics_collected"` handler."""

    def __init__(self) -> None:
        """Start with no usage."""
        # Made without its constructor, so that the user is warned once and not twice.
        self._summary = UsageSummary.__new__(UsageSummary)
        _warn_deprecated("UsageCollector", stacklevel=2)

    def __call__(self, metrics: AgentMetrics) -> None:
        """Same as `collect`."""
        self.collect(metrics)

    def collect(self, metrics: AgentMetrics) -> None:
        """Add `metrics`. Kinds other than LLM, realtime, TTS and STT are ignored."""
        summary = self._summary
        if isinstance(metrics, LLMMetrics):
            summary.llm_prompt_tokens += metrics.prompt_tokens
            summary.llm_prompt_cached_tokens += metrics.prompt_cached_tokens
            summary.llm_completion_tokens += metrics.completion_tokens
        elif isinstance(metrics, RealtimeModelMetrics):
            self._collect_realtime(metrics)
        elif isinstance(metrics, TTSMetrics):
            summary.tts_characters_count += metrics.characters_count
            summary.tts_audio_duration += metrics.audio_duration
        elif isinstance(metrics, STTMetrics):
            summary.stt_audio_duration += metrics.audio_duration
            summary.stt_input_tokens += metrics.input_tokens
            summary.stt_output_tokens += metrics.output_tokens
            summary.stt_input_audio_tokens += metrics.input_audio_tokens

    def get_summary(self) -> UsageSummary:
        """Return a copy of the sums so far."""
        return deepcopy(self._summary)

    def _collect_realtime(self, metrics: RealtimeModelMetrics) -> None:
        summary = self._summary
        inputs, outputs = metrics.input_token_details, metrics.output_token_details
        cached = inputs.cached_tokens_details or RealtimeModelMetrics.CachedTokenDetails()
        summary.llm_prompt_tokens += metrics.input_tokens
        summary.llm_prompt_cached_tokens += inputs.cached_tokens
        summary.llm_input_audio_tokens += inputs.audio_tokens
        summary.llm_input_cached_audio_tokens += cached.audio_tokens
        summary.llm_input_text_tokens += inputs.text_tokens
        summary.llm_input_cached_text_tokens += cached.text_tokens
        summary.llm_input_image_tokens += inputs.image_tokens
        summary.llm_input_cached_image_tokens += cached.image_tokens
        summary.llm_completion_tokens += metrics.output_tokens
        summary.llm_output_audio_tokens += outputs.audio_tokens
        summary.llm_output_image_tokens += outputs.image_tokens
        summary.llm_output_text_tokens += outputs.text_tokens
