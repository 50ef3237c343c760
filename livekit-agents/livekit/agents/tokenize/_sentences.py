"""Joins short sentences, given where sentences end."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable

_LINE_BREAKS = re.compile(r"\s*[\r\n]\s*")


def normalize(text: str) -> str:
    """Return `text` on one line, without white space around it."""
    return _LINE_BREAKS.sub(" ", text).strip()


def merge_sentences(
    text: str,
    ends: Iterable[int],
    *,
    is_long_enough: Callable[[str], bool],
    retain_format: bool,
) -> list[tuple[str, int, int]]:
    """Cut `text` at those of `ends` that leave sentences long enough; the rest is the last one.

    Args:
        text: to cut.
        ends: offsets after the last character of each sentence, ascending.
        is_long_enough: decides on the text from the last cut to a possible one.
        retain_format: return the text between cuts as it is (white space then begins the next
            sentence) instead of normalized.

    Returns:
        Text, start and end of each sentence. Text that is blank has none.
    """
    sentences: list[tuple[str, int, int]] = []
    start = 0
    for end in ends:
        raw = text[start:end]
        if raw.strip() and is_long_enough(raw):
            sentences.append((raw if retain_format else normalize(raw), start, end))
            start = end
    rest = text[start:]
    if rest.strip():
        sentences.append((rest if retain_format else normalize(rest), start, len(text)))
    elif rest and sentences and retain_format:
        _, start, _ = sentences.pop()
        sentences.append((text[start:], start, len(text)))
    return sentences
