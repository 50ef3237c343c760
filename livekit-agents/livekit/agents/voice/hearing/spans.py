"""The traces of a user turn: `user_turn`, and within it each wait for the turn's end."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ...language import LanguageCode
    from ...llm import ChatContext
    from ...stt import SpeechEvent
    from .hooks import EndOfTurnInfo
    from .prediction import Prediction
    from .user_turn import UserTurn

__all__ = ["TurnSpans"]


class TurnSpans:
    """Opens, annotates and ends the spans of one turn after another."""

    def __init__(self) -> None:
        self.turn_span: Any = None

    def set_stt(self, model: str | None, provider: str | None) -> None:
        """Name the STT in turns from now on."""

    def turn_opened(self, turn: UserTurn) -> None:
        """A turn is under way; its span starts with it. Does nothing when it has one."""

    def record_stt_event(self, ev: SpeechEvent) -> None:
        """Note that a transcript came."""

    def end(self) -> None:
        """The turn ends without being taken."""
        self.turn_span = None

    def decision_started(
        self, source: str, last_speaking_at: float | None, *, rearmed: bool
    ) -> None:
        """A wait for the end of the turn begins, or starts over when `rearmed`."""

    def decision_delay(self, delay: float) -> None:
        """The wait lasts `delay` seconds of silence."""

    def decision_not_committed(self) -> None:
        """The listener did not take the turn."""

    def decision_ended(self, outcome: str) -> None:
        """The wait is over: "committed", "user_resumed" or "dropped"."""

    @contextmanager
    def detection(
        self, chat_ctx: ChatContext | None, language: LanguageCode | None
    ) -> Iterator[Callable[[Prediction | None], None]]:
        """A detector is asked; call what this yields with its answer."""
        yield lambda prediction: None

    def turn_committed(self, info: EndOfTurnInfo) -> None:
        """The turn was taken; whoever took it ends the span."""
        self.turn_span = None
