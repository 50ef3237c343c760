"""`RealtimeModelFallbackAdapter`: several realtime models that stand in for each other."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, Any, Literal

from .._emitter import IsolatedEmitter
from .._streams import report_survivors
from ..utils.aio import TaskScope
from ._fallback_realtime_session import _FallbackRealtimeSession
from .realtime import RealtimeCapabilities, RealtimeModel

if TYPE_CHECKING:
    from .realtime import RealtimeSession

__all__ = [
    "RealtimeAvailabilityChangedEvent",
    "RealtimeModelFallbackAdapter",
    "_FallbackRealtimeSession",
]

_CLOSE_TIMEOUT = 5.0
"""Seconds for the models to close, side by side."""

_MUST_AGREE = ("audio_output", "turn_detection", "supports_overlapping_speech")
"""What a session relies on from its start to its end."""


@dataclass
class RealtimeAvailabilityChangedEvent:
    """A model has failed, or may be used again; argument of `"realtime_availability_changed"`."""

    realtime_model: RealtimeModel
    available: bool


class _Cooldowns:
    """Which models are left alone for a while, because they have failed."""

    def __init__(self, count: int, seconds: float) -> None:
        self._until: list[float | None] = [None] * count
        self._seconds = seconds

    def start(self, index: int, now: float) -> bool:
        """A model has failed. Returns whether it was available before."""
        was_available = self._until[index] is None
        self._until[index] = now + self._seconds
        return was_available

    def expire(self, now: float) -> list[int]:
        """The models whose time is over; they are available again."""
        expired = [i for i, until in enumerate(self._until) if until is not None and until <= now]
        for index in expired:
            self._until[index] = None
        return expired

    def next_available(self, index: int) -> int | None:
        """The first available model after this one, in a circle that leaves it out."""
        count = len(self._until)
        others = ((index + step) % count for step in range(1, count))
        return next((other for other in others if self._until[other] is None), None)


class RealtimeModelFallbackAdapter(
    RealtimeModel, IsolatedEmitter[Literal["realtime_availability_changed"]]
):
    """A realtime model whose sessions go on with another model when theirs fails.

    Emits `"realtime_availability_changed"` (`RealtimeAvailabilityChangedEvent`).
    """

    def __init__(
        self,
        models: list[RealtimeModel],
        *,
        cooldown: float = 10.0,
        regenerate_on_swap: bool = True,
    ) -> None:
        """Put models behind each other.

        Args:
            models: The models, the preferred one first.
            cooldown: Seconds for which a model that failed is not used.
            regenerate_on_swap: Ask the next model for the reply that the failure cut off.

        Raises:
            ValueError: There are no models, or they differ in whether they speak, detect turns or
                deal with overlapping speech.
        """
        if not models:
            raise ValueError("RealtimeModelFallbackAdapter needs at least one model")
        for name in _MUST_AGREE:
            if len({getattr(model.capabilities, name) for model in models}) > 1:
                raise ValueError(
                    f"the realtime models differ in {name}: models that stand in for each other "
                    "have to agree on it"
                )
        RealtimeModel.__init__(self, capabilities=_common_capabilities(models))
        IsolatedEmitter.__init__(self)
        self._models = models
        self._regenerate_on_swap = regenerate_on_swap
        self._cooldowns = _Cooldowns(len(models), cooldown)
        self._serving = models[0]
        self._sessions: list[_FallbackRealtimeSession] = []

    @property
    def model(self) -> str:
        """Name of the adapter; `metrics_metadata` names the serving model."""
        return "RealtimeModelFallbackAdapter"

    @property
    def provider(self) -> str:
        """The framework."""
        return "livekit"

    @property
    def metrics_metadata(self) -> dict[str, str]:
        """Those of the model that serves."""
        return self._serving.metrics_metadata

    def session(self, *, turn_detection_disabled: bool = False) -> RealtimeSession[Any]:
        """Start a conversation with the preferred model. It stays the same through swaps.

        Args:
            turn_detection_disabled: See `RealtimeModel.session`.
        """
        session = _FallbackRealtimeSession(self, turn_detection_disabled=turn_detection_disabled)
        self._sessions.append(session)
        return session

    async def restart_session(self, *, switch_model: bool = False) -> None:
        """Start every conversation anew, keeping what was said.

        Args:
            switch_model: Go on with the next available model, if there is one.
        """
        for session in list(self._sessions):
            await session._restart(switch_model=switch_model)

    async def aclose(self) -> None:
        """Close the models side by side, within 5 s. One that fails is logged. Idempotent."""
        scope = TaskScope(self._label)
        for model in self._models:
            scope.spawn(model.aclose(), name=f"{model.label}.aclose")
        try:
            await scope.join(_CLOSE_TIMEOUT * 0.9)
        finally:
            report_survivors(await scope.cancel(_CLOSE_TIMEOUT * 0.1))

    def _failed(self, index: int) -> None:
        """Leave a model alone for a while."""
        if self._cooldowns.start(index, asyncio.get_running_loop().time()):
            self._announce(index, available=False)

    def _next_available(self, index: int) -> int | None:
        """The model to go on with after this one, if any other is available."""
        for expired in self._cooldowns.expire(asyncio.get_running_loop().time()):
            self._announce(expired, available=True)
        return self._cooldowns.next_available(index)

    def _announce(self, index: int, *, available: bool) -> None:
        model = self._models[index]
        self.emit(
            "realtime_availability_changed", RealtimeAvailabilityChangedEvent(model, available)
        )

    def _forget(self, session: _FallbackRealtimeSession) -> None:
        if session in self._sessions:
            self._sessions.remove(session)


def _common_capabilities(models: Sequence[RealtimeModel]) -> RealtimeCapabilities:
    """What all models can do."""
    return RealtimeCapabilities(
        **{
            each.name: all(getattr(model.capabilities, each.name) for model in models)
            for each in fields(RealtimeCapabilities)
        }
    )
