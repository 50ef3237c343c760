"""Finds words in text."""

from __future__ import annotations

import re
from collections.abc import Iterator

from .tokenizer import is_punctuation

_SINGLE = r"\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\u0e00-\u0e7f"
"""Kana, CJK ideographs and Thai: scripts that are written without spaces."""

_CJK = (
    r"\u3000-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\u1100-\u11ff\uac00-\ud7af\uff00-\uffef"
)
_CJK_STOP = rf"(?<=[{_CJK}])(?:[。！？；、]|(?<!\d.)[，：])"

_SPACED = re.compile(r"\S+")
_CHARACTERS = re.compile(rf"[{_SINGLE}]|[^\s{_SINGLE}]+")
_CJK_BREAK = re.compile(_CJK_STOP)


def find_words(
    text: str,
    *,
    ignore_punctuation: bool = True,
    split_character: bool = False,
    retain_format: bool = False,
    break_at_cjk_punctuation: bool = False,
) -> list[tuple[str, int, int]]:
    """Find the words of `text`.

    Args:
        text: to search.
        ignore_punctuation: leave punctuation out of the words, and words without anything else
            out of the result.
        split_character: kana, CJK ideographs and Thai characters are words of their own.
        retain_format: words begin with the white space in front of them.
        break_at_cjk_punctuation: words of CJK text also end after full-width punctuation, except
            between the digits of a number or a time.

    Returns:
        Text, start and end of each word.
    """
    words: list[tuple[str, int, int]] = []
    pattern = _CHARACTERS if split_character else _SPACED
    previous_end = 0
    for match in pattern.finditer(text):
        for start, end in _pieces(text, *match.span(), break_at_cjk_punctuation):
            if retain_format:
                start = previous_end
            previous_end = end
            word = text[start:end]
            if ignore_punctuation:
                word = "".join([c for c in word if not is_punctuation(c)])
            if word.strip():
                words.append((word, start, end))
    return words


def _pieces(
    text: str, start: int, end: int, break_at_cjk_punctuation: bool
) -> Iterator[tuple[int, int]]:
    if break_at_cjk_punctuation:
        for stop in _CJK_BREAK.finditer(text, start, end):
            if stop.end() < end:
                yield start, stop.end()
                start = stop.end()
    yield start, end
