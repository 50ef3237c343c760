"""OpenAI's realtime models through the gateway. Not included yet: only the names are."""

from __future__ import annotations

from typing import Any

from ...llm._realtime.openai import (
    RealtimeModel as _RealtimeModel,
    RealtimeSession as _RealtimeSession,
)

__all__ = ["RealtimeModel", "RealtimeSession"]


class RealtimeModel(_RealtimeModel):
    """A realtime model behind the gateway."""

    def __init__(self, model: str, **options: Any) -> None:
        """Not included yet.

        Raises:
            ValueError: Always; says what to use instead.
        """
        raise ValueError(
            f"the realtime model {model!r} is not included through the gateway yet: use the "
            "provider's own plugin, such as openai.realtime.RealtimeModel"
        )


class RealtimeSession(_RealtimeSession):
    """A conversation with a realtime model behind the gateway."""
