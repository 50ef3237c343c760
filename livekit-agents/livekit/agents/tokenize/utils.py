"""Replaces words in text, for instance to help a synthesizer pronounce them."""

from __future__ import annotations

import re
from collections.abc import AsyncIterable, AsyncIterator
from typing import overload

from .tokenizer import is_punctuation

_WORD = re.compile(r"\S+")


@overload
def replace_words(*, text: str, replacements: dict[str, str]) -> str: ...


@overload
def replace_words(
    *, text: AsyncIterable[str], replacements: dict[str, str]
) -> AsyncIterable[str]: ...


def replace_words(
    *, text: str | AsyncIterable[str], replacements: dict[str, str]
) -> str | AsyncIterable[str]:
    """Replace whole words, whatever their case.

    A word ends at white space. Punctuation at its end is kept, unless it is part of a key
    (`"e.g."`); of several keys that fit, the longest is used.

    Args:
        text: a text, or a stream of pieces of one. From a stream a word is not passed on before
            it is known to be complete.
        replacements: word -> what to put in its place.

    Returns:
        The text with the words replaced, in the form of `text`.
    """
    by_key = {word.lower(): replacement for word, replacement in replacements.items()}

    def replace(match: re.Match[str]) -> str:
        word = match[0]
        end = len(word)
        while (replacement := by_key.get(word[:end].lower())) is None:
            end -= 1
            if end == 0 or not is_punctuation(word[end]):
                return word
        return replacement + word[end:]

    if isinstance(text, str):
        return _WORD.sub(replace, text)

    async def replace_in_stream(pieces: AsyncIterable[str]) -> AsyncIterator[str]:
        held = ""
        async for piece in pieces:
            held += piece
            end = len(held)
            while end and not held[end - 1].isspace():
                end -= 1
            if end:
                yield _WORD.sub(replace, held[:end])
                held = held[end:]
        if held:
            yield _WORD.sub(replace, held)

    return replace_in_stream(text)
