"""Realtime models that the gateway serves."""

from .openai import RealtimeModel, RealtimeSession

__all__ = ["RealtimeModel", "RealtimeSession"]
