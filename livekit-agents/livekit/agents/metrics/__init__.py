"""Measurements of a session: what its parts emit, and how to add them up."""

from typing import TYPE_CHECKING

from .._lazy import attach

if TYPE_CHECKING:
    from .base import (
        AgentMetrics,
        DecisionMetrics,
        EOTInferenceMetrics,
        EOUMetrics,
        InterruptionMetrics,
        LLMMetrics,
        RealtimeModelMetrics,
        STTMetrics,
        TTSMetrics,
        VADMetrics,
    )
    from .usage import (
        AgentSessionUsage,
        EOTModelUsage,
        InterruptionModelUsage,
        LLMModelUsage,
        ModelUsage,
        ModelUsageCollector,
        STTModelUsage,
        TTSModelUsage,
    )
    from .usage_collector import UsageCollector, UsageSummary
    from .utils import log_metrics

__all__ = [
    "AgentMetrics",
    "AgentSessionUsage",
    "DecisionMetrics",
    "EOTInferenceMetrics",
    "EOTModelUsage",
    "EOUMetrics",
    "InterruptionMetrics",
    "InterruptionModelUsage",
    "LLMMetrics",
    "LLMModelUsage",
    "ModelUsage",
    "ModelUsageCollector",
    "RealtimeModelMetrics",
    "STTMetrics",
    "STTModelUsage",
    "TTSMetrics",
    "TTSModelUsage",
    "UsageCollector",
    "UsageSummary",
    "VADMetrics",
    "log_metrics",
]

if not TYPE_CHECKING:  # a type checker shall know the names above and no others
    __getattr__, __dir__ = attach(
        __name__,
        {
            "AgentMetrics": ".base",
            "DecisionMetrics": ".base",
            "EOTInferenceMetrics": ".base",
            "EOUMetrics": ".base",
            "InterruptionMetrics": ".base",
            "LLMMetrics": ".base",
            "RealtimeModelMetrics": ".base",
            "STTMetrics": ".base",
            "TTSMetrics": ".base",
            "VADMetrics": ".base",
            "AgentSessionUsage": ".usage",
            "EOTModelUsage": ".usage",
            "InterruptionModelUsage": ".usage",
            "LLMModelUsage": ".usage",
            "ModelUsage": ".usage",
            "ModelUsageCollector": ".usage",
            "STTModelUsage": ".usage",
            "TTSModelUsage": ".usage",
            "UsageCollector": ".usage_collector",
            "UsageSummary": ".usage_collector",
            "log_metrics": ".utils",
            "base": ".base:",
            "usage": ".usage:",
            "usage_collector": ".usage_collector:",
            "utils": ".utils:",
        },
    )
