"""Counting how long the user has had the floor."""

from __future__ import annotations

from typing import TYPE_CHECKING

from .transcript import joined

if TYPE_CHECKING:
    from ..turn import UserTurnLimitOptions

__all__ = ["UserTurnLimit"]


class UserTurnLimit:
    """Words and seconds since the agent last began to speak, against limits.

    The count spans turns: a user who is answered by nobody doesn't get a new allowance.
    """

    def __init__(self, options: UserTurnLimitOptions) -> None:
        self._max_words = options.get("max_words")
        self._max_duration = options.get("max_duration")
        self.reset()

    def reset(self) -> None:
        """Start over: the agent speaks, or the turn was cleared."""
        self.transcript = ""
        self.word_count = 0
        self.duration = 0.0
        self._since: float | None = None

    def add(self, text: str, *, speech_started_at: float | None, now: float) -> bool:
        """Count a final transcript; returns whether a limit is reached.

        Args:
            text: Not empty.
            speech_started_at: When the user began, if known. The first one counts.
            now: `time.time()`.
        """
        if self._max_words is None and self._max_duration is None:
            return False
        if self._since is None:
            self._since = now if speech_started_at is None else speech_started_at
        self.transcript = joined(self.transcript, text)
        self.word_count += count_words(text)
        self.duration = now - self._since
        return (self._max_words is not None and self.word_count >= self._max_words) or (
            self._max_duration is not None and self.duration >= self._max_duration
        )


def count_words(text: str) -> int:
    """Words as the basic tokenizer cuts them."""
    from ...tokenize import basic

    return len(basic.WordTokenizer().tokenize(text))
