"""When each word of a transcript is due, so that it is shown while it is spoken.

A state machine without a clock and without I/O.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass

from ...types import NOT_GIVEN, TimedString
from ...utils import is_given

STANDARD_SPEECH_RATE = 3.83
"""Syllables per second of ordinary speech, until the real rate is known."""

_WORDS = re.compile(
    "[\u3040-\u30ff\u3400-\u9fff\uac00-\ud7af\u0e00-\u0e7f]\\s*"  # scripts without spaces
    "|[^\\s\u3040-\u30ff\u3400-\u9fff\uac00-\ud7af\u0e00-\u0e7f]+\\s*"
    "|\\s+"
)
_MARKUP = re.compile(r"^<[^>]*>\s*$")


@dataclass
class _Word:
    text: str
    syllables: int
    end_time: float | None
    """Seconds into the audio at which it ends, where the voice reported it."""


class WordPacer:
    """When each word of one segment is due, in seconds of playback.

    Args:
        speed: How much faster than ordinary speech, while the real rate is unknown.
        syllables: Counts the syllables of a word.
        split: Cuts text into words, each with the space behind it.
    """

    def __init__(
        self, *, speed: float, syllables: Callable[[str], int], split: Callable[[str], list[str]]
    ) -> None:
        self._rate = STANDARD_SPEECH_RATE * speed
        self._count = syllables
        self._split = split
        self._pending = ""
        self._words: list[_Word] = []
        self._shown = 0
        self._clock = 0.0
        """Where in the playback the slot of the next word begins."""
        self._heard = ""
        self._last_slot: tuple[str, float] | None = None
        self._all = ""
        self._audio = 0.0
        self.text_ended = False
        self.audio_ended = False
        self.truncated = False

    # -- what passes ------------------------------------------------------------------------------

    def push_text(self, text: str) -> None:
        """More text; a `TimedString` may bring its timing along."""
        self._all += text
        end_time = getattr(text, "end_time", NOT_GIVEN)
        self._pending += text
        if is_given(end_time):
            self._take(len(self._pending), end_time)
            return
        boundary = _last_boundary(self._pending)
        if boundary:
            self._take(boundary, None)

    def _take(self, length: int, end_time: float | None) -> None:
        done, self._pending = self._pending[:length], self._pending[length:]
        words = self._split(done)
        for index, word in enumerate(words):
            last = index == len(words) - 1
            count = 0 if _MARKUP.match(word) or not word.strip() else self._count(word.strip())
            self._words.append(_Word(word, count, end_time if last else None))

    def end_text(self) -> None:
        """The segment has no more text."""
        self.text_ended = True
        if self._pending:
            self._take(len(self._pending), None)
        self._estimate()

    def push_audio(self, seconds: float) -> None:
        """More audio."""
        self._audio += seconds

    def end_audio(self) -> None:
        """The segment has no more audio."""
        self.audio_ended = True
        self._estimate()

    def _estimate(self) -> None:
        """With all text and audio known, so is the rate."""
        if not (self.text_ended and self.audio_ended) or self.truncated or not self._audio:
            return
        total = sum(word.syllables for word in self._words)
        if total:
            left = sum(word.syllables for word in self._words[self._shown :])
            seconds = self._audio - self._clock
            self._rate = left / seconds if left and seconds > 0.1 else total / self._audio

    # -- when -------------------------------------------------------------------------------------

    def due_at(self) -> float | None:
        """When the next word is due, in seconds of playback; None when there is none."""
        if self._shown >= len(self._words):
            return None
        start, end = self._slot()
        return (start + end) / 2

    def _slot(self) -> tuple[float, float]:
        word = self._words[self._shown]
        timed = next((w.end_time for w in self._words[self._shown :] if w.end_time), None)
        if timed is not None and timed > self._clock:
            group = []
            for following in self._words[self._shown :]:
                group.append(following)
                if following.end_time:
                    break
            total = sum(w.syllables for w in group) or 1
            return self._clock, self._clock + (timed - self._clock) * word.syllables / total
        return self._clock, self._clock + word.syllables / self._rate

    def take(self) -> TimedString:
        """The next word; its `end_time` is the end of its slot."""
        _, end = self._slot()
        word = self._words[self._shown]
        self._shown += 1
        self._settle(end)
        self._last_slot = (word.text, end)
        self._clock = end
        return TimedString(word.text, end_time=end)

    def _settle(self, position: float) -> None:
        if self._last_slot is not None:
            self._heard += self._last_slot[0]
            self._last_slot = None

    def rest(self) -> str:
        """All words not yet taken, at once."""
        words, self._shown = self._words[self._shown :], len(self._words)
        return "".join(word.text for word in words)

    def heard(self, position: float) -> str:
        """What counts as heard at `position`: words whose slot has ended."""
        if self._last_slot is not None and self._last_slot[1] <= position:
            return self._heard + self._last_slot[0]
        return self._heard

    @property
    def whole(self) -> str:
        """The whole text."""
        return self._all


def split_words(text: str) -> list[str]:
    """The words of a text, each with the space behind it."""
    return _WORDS.findall(text)


def _last_boundary(text: str) -> int:
    """Up to where the words of an unfinished text are complete."""
    end = 0
    for match in _WORDS.finditer(text):
        complete = match.end() < len(text) or text[-1].isspace()
        if not complete and len(match.group().strip()) == 1 and ord(match.group()[0]) >= 0x3040:
            complete = True
        if complete:
            end = match.end()
    return end
