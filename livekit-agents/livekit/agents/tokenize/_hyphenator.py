"""Hyphenation of English words by the patterns of Frank Liang."""

from __future__ import annotations

import functools
import re

_MIN_WORD_LEN = 5
_MIN_PIECE_LEN = 2
_DIGITS = re.compile(r"\d")
_LETTERS = re.compile(r"[^\d]")


class _Patterns:
    """The table of patterns: letters -> how much a break is wanted before each of them."""

    def __init__(self) -> None:
        from ._hyphen_patterns import EXCEPTIONS, MORE_PATTERNS, PATTERNS

        self._levels: dict[str, list[int]] = {}
        for pattern in (PATTERNS + MORE_PATTERNS).split():
            levels = [int(digit or 0) for digit in _LETTERS.split(pattern)]
            self._levels[_DIGITS.sub("", pattern)] = levels
        self._longest = max(map(len, self._levels))
        self._exceptions = {
            word.replace("-", ""): [len(piece) for piece in word.split("-")]
            for word in EXCEPTIONS.split()
        }

    def piece_lengths(self, word: str) -> list[int]:
        """Lengths of the pieces of a lower-case word."""
        if exception := self._exceptions.get(word):
            return exception
        bounded = f".{word}."
        wanted = [0] * (len(bounded) + 1)
        for start in range(len(bounded)):
            for end in range(start + 1, min(start + self._longest, len(bounded)) + 1):
                for offset, level in enumerate(self._levels.get(bounded[start:end], ())):
                    wanted[start + offset] = max(wanted[start + offset], level)

        breaks = [
            position
            for position in range(_MIN_PIECE_LEN, len(word) - _MIN_PIECE_LEN + 1)
            if wanted[position + 1] % 2
        ]
        return [end - start for start, end in zip([0, *breaks], [*breaks, len(word)], strict=True)]


@functools.cache
def _patterns() -> _Patterns:
    return _Patterns()


def hyphenate_word(word: str) -> list[str]:
    """Cut an English word where it may be hyphenated.

    Words of up to four letters stay whole, and so do the first two and the last two letters of
    longer ones. The pieces keep the case of `word` and add up to it.
    """
    if len(word) < _MIN_WORD_LEN:
        return [word]
    pieces = []
    start = 0
    for length in _patterns().piece_lengths(word.lower()):
        pieces.append(word[start : start + length])
        start += length
    return pieces
