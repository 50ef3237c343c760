"""What those who judge turns have in common: their face, and what they say."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from livekit import rtc


@dataclass(frozen=True)
class Answer:
    """What a model says about a request."""

    request_id: str
    probability: float
    backchannel_probability: float | None = None
    total_duration: float = 0.0
    inference_duration: float = 0.0
    detection_delay: float = 0.0


class Transport(Protocol):
    """Carries audio and questions to a model, and its answers back."""

    def push(self, frame: rtc.AudioFrame) -> None:
        """Take a frame, int16, of the same format as those before."""

    def flush(self) -> None:
        """Forget the audio so far."""

    def new_request_id(self) -> str:
        """An id for a request."""

    def ask(self, request_id: str) -> None:
        """Judge the audio so far."""

    def end_input(self) -> None:
        """No more audio."""

    async def aclose(self) -> None:
        """Let go of everything, at once."""
