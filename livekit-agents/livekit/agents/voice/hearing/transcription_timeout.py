"""Noticing that the user spoke and no transcript came."""

from __future__ import annotations

from collections.abc import Callable

from .timers import CallLater, Timer

__all__ = ["TranscriptionTimeout"]


class TranscriptionTimeout:
    """Fires once the user has been silent for a while after speech that stays untranscribed.

    Args:
        timeout: Seconds of silence; None never fires.
        call_later: Starts a timer.
        fire: Called with the seconds of speech heard in this turn.
    """

    def __init__(
        self, timeout: float | None, call_later: CallLater, fire: Callable[[float], None]
    ) -> None:
        self._timeout = timeout
        self._call_later = call_later
        self._fire = fire
        self._timer: Timer | None = None
        self._transcribed = False
        self._speech_duration = 0.0

    def on_start_of_speech(self) -> None:
        """The user goes on: wait for the end of that."""
        self._cancel()

    def on_end_of_speech(self, *, speech_duration: float, silent_for: float) -> None:
        """A stretch of speech ended `silent_for` seconds ago."""
        if self._timeout is None or self._transcribed:
            return
        self._speech_duration += speech_duration
        self._cancel()
        self._timer = self._call_later(max(0.0, self._timeout - silent_for), self._on_timer)

    def on_transcript(self) -> None:
        """Something was transcribed; this turn won't fire any more."""
        self._transcribed = True
        self._cancel()

    def reset(self) -> None:
        """A new turn begins, or nothing listens any more."""
        self._cancel()
        self._transcribed = False
        self._speech_duration = 0.0

    def _on_timer(self) -> None:
        self._timer = None
        self._fire(self._speech_duration)

    def _cancel(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
