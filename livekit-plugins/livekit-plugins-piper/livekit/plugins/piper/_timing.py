"""When each word of a sentence is spoken, estimated from the length of its audio."""

from __future__ import annotations

import re

from livekit.agents.types import TimedString

_WORD = re.compile(r"\s*\S+\s*\Z|\s*\S+")

_PAUSES = {",": 3.0, ";": 4.0, ":": 4.0, "—": 4.0}
"""Pause after a mark inside a sentence, in letters' worth of time."""

_LONG = set("0123456789%$€£&@")
"""Characters that are spoken as whole words."""


def time_words(sentence: str, *, start: float, duration: float) -> list[TimedString]:
    """Cut a sentence into words with estimated times. Joined they are the sentence again.

    Args:
        sentence: The text as written; white space stays with the word after it.
        start: Seconds at which its audio begins.
        duration: Seconds that its audio takes.
    """
    words = _WORD.findall(sentence)
    weights = [_weight(word) for word in words]
    total = sum(weights)
    timed: list[TimedString] = []
    for word, weight in zip(words, weights, strict=True):
        end = start + duration * weight / total
        timed.append(TimedString(word, start_time=start, end_time=end))
        start = end
    return timed


def _weight(word: str) -> float:
    word = word.strip()
    sounds = sum(4.0 if char in _LONG else 1.0 for char in word if char.isalnum() or char in _LONG)
    return max(1.0, sounds) + 1.0 + _PAUSES.get(word[-1], 0.0)
