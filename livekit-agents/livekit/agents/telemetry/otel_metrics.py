"""Measures sessions through OpenTelemetry: usage, delays of turns, durations.

Measurements go to the global meter provider of OpenTelemetry. Without one nothing is loaded.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping
from functools import cache
from typing import TYPE_CHECKING, Any, Literal

from ..metrics import (
    AgentMetrics,
    InterruptionMetrics,
    LLMMetrics,
    RealtimeModelMetrics,
    STTMetrics,
    TTSMetrics,
)
from ..version import __version__
from . import trace_types
from ._job import measurement_attributes
from .trace_types import GenAIOperationName, gen_ai_provider_name

if TYPE_CHECKING:
    from opentelemetry.metrics import Counter, Histogram, Meter

    from ..llm import ChatContext

_GLOBAL_PROVIDER_ENV = "OTEL_PYTHON_METER_PROVIDER"
_PREFIX = "lk.agents."

_TURN_DELAYS = {
    "e2e_latency": ("e2e_latency", None),
    "llm_node_ttft": ("llm_ttft", "llm_metadata"),
    "tts_node_ttfb": ("tts_ttfb", "tts_metadata"),
    "transcription_delay": ("transcription_delay", "stt_metadata"),
    "end_of_turn_delay": ("end_of_turn_delay", None),
    "on_user_turn_completed_delay": ("on_user_turn_completed_delay", None),
}
"""Key in the report of a message -> name of the metric, key of the model that it is about."""


def collect_usage(ev: AgentMetrics) -> None:
    """Count what `ev` says was used, and measure how long it took."""
    if not _enabled():
        return
    metadata = ev.metadata
    models = _models(
        metadata.model_provider if metadata else None, metadata.model_name if metadata else None
    )
    for name, amount in _usage(ev).items():
        if amount:
            unit = "s" if name.endswith("_duration") else "1"
            _counter(f"{_PREFIX}usage.{name}", unit).add(amount, _attributes(models))
    if isinstance(ev, LLMMetrics):
        _measure_request(ev, ev.prompt_tokens, ev.completion_tokens, GenAIOperationName.CHAT)
    elif isinstance(ev, RealtimeModelMetrics):
        _measure_request(ev, ev.input_tokens, ev.output_tokens, GenAIOperationName.GENERATE_CONTENT)
    if isinstance(ev, (STTMetrics, TTSMetrics, RealtimeModelMetrics)):
        _measure_connection(ev.acquire_time, ev.connection_reused, models)


def flush_turn_metrics(chat_ctx: ChatContext) -> None:
    """Measure the delays of all turns of a conversation. Call it once, at its end."""
    if not _enabled():
        return
    for item in chat_ctx.items:
        if item.type != "message":
            continue
        report: Mapping[str, Any] = item.metrics
        for key, (name, metadata_key) in _TURN_DELAYS.items():
            if key in report:
                metadata = report.get(metadata_key, {}) if metadata_key else {}
                models = _models(metadata.get("model_provider"), metadata.get("model_name"))
                _record(f"{_PREFIX}turn.{name}", report[key], models)


def record_event_loop_blocked(duration: float, *, severity: str) -> None:
    """Measure for how many seconds an event loop was blocked.

    Args:
        duration: in seconds.
        severity: `"warning"` or `"error"`.
    """
    _record(f"{_PREFIX}event_loop.blocked_duration", duration, {"severity": severity})


def count_stt_audio(
    seconds: float, fate: Literal["replayed", "lost"], *, provider: str | None, model: str | None
) -> None:
    """Count audio that a broken connection made a recognizer get twice, or not at all.

    Args:
        seconds: Of audio.
        fate: What became of it.
        provider: Of the recognizer.
        model: Of the recognizer.
    """
    if _enabled():
        counter = _counter(f"{_PREFIX}stt.{fate}_audio_duration", "s")
        counter.add(seconds, _attributes(_models(provider, model)))


def count_stt_reconnect(why: str, *, provider: str | None, model: str | None) -> None:
    """Count that a recognizer's stream connects again.

    Args:
        why: `"retry"` after a failure, `"routine"` after the end of a quiet connection, `"park"` when
            audio arrives after an idle one had ended.
        provider: Of the recognizer.
        model: Of the recognizer.
    """
    if _enabled():
        attributes = {**_models(provider, model), "reason": why}
        _counter(f"{_PREFIX}stt.reconnects", "1").add(1, _attributes(attributes))


def record_execute_tool_duration(duration: float, *, tool_name: str, error: bool = False) -> None:
    """Measure how many seconds a tool took, and whether it failed."""
    attributes = {trace_types.ATTR_GEN_AI_TOOL_NAME: tool_name}
    if error:
        attributes[trace_types.ATTR_ERROR_TYPE] = "tool_error"
    _record(trace_types.METRIC_GEN_AI_EXECUTE_TOOL_DURATION, duration, attributes)


def record_invoke_agent_duration(duration: float, *, agent_name: str) -> None:
    """Measure how many seconds a turn of an agent took."""
    _record(
        trace_types.METRIC_GEN_AI_INVOKE_AGENT_DURATION,
        duration,
        {trace_types.ATTR_GEN_AI_AGENT_NAME: agent_name},
    )


def _usage(ev: AgentMetrics) -> dict[str, float]:
    if isinstance(ev, LLMMetrics):
        return {
            "llm_input_tokens": ev.prompt_tokens,
            "llm_input_cached_tokens": ev.prompt_cached_tokens,
            "llm_output_tokens": ev.completion_tokens,
        }
    if isinstance(ev, RealtimeModelMetrics):
        inputs, outputs = ev.input_token_details, ev.output_token_details
        return {
            "llm_input_tokens": ev.input_tokens,
            "llm_input_cached_tokens": inputs.cached_tokens,
            "llm_output_tokens": ev.output_tokens,
            "llm_input_audio_tokens": inputs.audio_tokens,
            "llm_input_text_tokens": inputs.text_tokens,
            "llm_output_audio_tokens": outputs.audio_tokens,
            "llm_output_text_tokens": outputs.text_tokens,
            "llm_session_duration": ev.session_duration,
        }
    if isinstance(ev, TTSMetrics):
        return {"tts_characters": ev.characters_count, "tts_audio_duration": ev.audio_duration}
    if isinstance(ev, STTMetrics):
        return {"stt_audio_duration": ev.audio_duration}
    if isinstance(ev, InterruptionMetrics):
        return {"interruption_num_requests": ev.num_requests}
    return {}


def _measure_request(
    ev: LLMMetrics | RealtimeModelMetrics, input_tokens: int, output_tokens: int, operation: str
) -> None:
    metadata = ev.metadata
    attributes = {
        trace_types.ATTR_GEN_AI_OPERATION_NAME: operation,
        trace_types.ATTR_GEN_AI_PROVIDER_NAME: gen_ai_provider_name(
            metadata.model_provider if metadata else None
        ),
        trace_types.ATTR_GEN_AI_REQUEST_MODEL: metadata.model_name if metadata else None,
    }
    for kind, tokens in (("input", input_tokens), ("output", output_tokens)):
        if tokens:
            _record(
                trace_types.METRIC_GEN_AI_CLIENT_TOKEN_USAGE,
                tokens,
                {**attributes, trace_types.ATTR_GEN_AI_TOKEN_TYPE: kind},
                unit="{token}",
            )
    if ev.duration:
        _record(trace_types.METRIC_GEN_AI_CLIENT_OPERATION_DURATION, ev.duration, attributes)
    if ev.ttft >= 0:
        _record(trace_types.METRIC_GEN_AI_CLIENT_TIME_TO_FIRST_CHUNK, ev.ttft, attributes)


def _measure_connection(acquire_time: float, reused: bool, models: Mapping[str, Any]) -> None:
    if acquire_time or reused:
        attributes = {**models, "connection_reused": str(reused).lower()}
        _record(f"{_PREFIX}connection.acquire_time", acquire_time, attributes)


def _record(name: str, value: float, attributes: Mapping[str, Any], *, unit: str = "s") -> None:
    if _enabled():
        _histogram(name, unit).record(value, _attributes(attributes))


def _models(provider: str | None, model: str | None) -> dict[str, str | None]:
    return {"model_provider": provider, "model_name": model}


def _attributes(attributes: Mapping[str, Any]) -> dict[str, Any]:
    known = {key: value for key, value in attributes.items() if value is not None}
    return {**known, **measurement_attributes()}


def _enabled() -> bool:
    # Whoever set up a meter provider has imported it.
    return "opentelemetry.metrics" in sys.modules or bool(os.environ.get(_GLOBAL_PROVIDER_ENV))


@cache
def _meter() -> Meter:
    from opentelemetry.metrics import get_meter

    return get_meter("livekit-agents", __version__)


@cache
def _counter(name: str, unit: str) -> Counter:
    return _meter().create_counter(name, unit=unit)


@cache
def _histogram(name: str, unit: str) -> Histogram:
    return _meter().create_histogram(name, unit=unit)
