"""Tokenizers in plain Python, by rules for English with support for the scripts of Asia."""

from __future__ import annotations

import functools
import re

from . import token_stream, tokenizer
from ._english import sentence_ends
from ._hyphenator import hyphenate_word
from ._sentences import merge_sentences, normalize
from ._words import find_words

__all__ = [
    "SentenceTokenizer",
    "WordTokenizer",
    "hyphenate_word",
    "split_words",
    "tokenize_paragraphs",
]

_BLANK_LINES = re.compile(r"\n[^\S\n]*\n")


class SentenceTokenizer(tokenizer.SentenceTokenizer):
    """Cuts text at full stops, question and exclamation marks, but not after abbreviations."""

    def __init__(
        self,
        *,
        language: str = "english",
        min_sentence_len: int = 20,
        stream_context_len: int = 10,
        retain_format: bool = False,
    ) -> None:
        """Create a tokenizer. All lengths are in characters.

        Args:
            language: kept for callers that pass it; the rules are the same for every language.
            min_sentence_len: a shorter sentence is joined with the next.
            stream_context_len: streams look for sentences once this much text is there.
            retain_format: keep line breaks and white space as they are, and end sentences at line
                breaks too. Otherwise sentences are single, trimmed lines.
        """
        self._language = language
        self._min_sentence_len = min_sentence_len
        self._stream_context_len = stream_context_len
        self._retain_format = retain_format

    def tokenize(self, text: str, *, language: str | None = None) -> list[str]:
        """Return the sentences of `text`."""
        return [sentence for sentence, _, _ in self._split(text)]

    def stream(self, *, language: str | None = None) -> tokenizer.SentenceStream:
        """Open a stream for text that arrives in pieces."""
        return token_stream.BufferedSentenceStream(
            tokenizer=self._split,
            min_token_len=self._min_sentence_len,
            min_ctx_len=self._stream_context_len,
            retain_format=self._retain_format,
        )

    def _split(self, text: str) -> list[tuple[str, int, int]]:
        return merge_sentences(
            text,
            sentence_ends(text, break_lines=self._retain_format),
            is_long_enough=self._is_long_enough,
            retain_format=self._retain_format,
        )

    def _is_long_enough(self, raw: str) -> bool:
        if self._retain_format:
            return len(raw) > self._min_sentence_len
        return len(normalize(raw)) >= self._min_sentence_len


class WordTokenizer(tokenizer.WordTokenizer):
    """Cuts text into words at white space, and at the punctuation of CJK text."""

    def __init__(
        self,
        *,
        ignore_punctuation: bool = True,
        split_character: bool = False,
        retain_format: bool = False,
    ) -> None:
        """Create a tokenizer.

        Args:
            ignore_punctuation: leave punctuation out of the words.
            split_character: kana, CJK ideographs and Thai characters are words of their own.
            retain_format: words begin with the white space in front of them, so that together
                they are the text again.
        """
        self._split = functools.partial(
            find_words,
            ignore_punctuation=ignore_punctuation,
            split_character=split_character,
            retain_format=retain_format,
            break_at_cjk_punctuation=True,
        )

    def tokenize(self, text: str, *, language: str | None = None) -> list[str]:
        """Return the words of `text`."""
        return [word for word, _, _ in self._split(text)]

    def stream(self, *, language: str | None = None) -> tokenizer.WordStream:
        """Open a stream for text that arrives in pieces; it emits one word at a time."""
        return token_stream.BufferedWordStream(
            tokenizer=self._split, min_token_len=1, min_ctx_len=1
        )


def split_words(
    text: str, *, ignore_punctuation: bool = True, split_character: bool = False
) -> list[tuple[str, int, int]]:
    """Cut text into words at white space.

    Args:
        text: to cut.
        ignore_punctuation: leave punctuation out of the words, and words without anything else
            out of the result.
        split_character: kana, CJK ideographs and Thai characters are words of their own.

    Returns:
        Text, start and end of each word. The offsets include the punctuation left out.
    """
    return find_words(text, ignore_punctuation=ignore_punctuation, split_character=split_character)


def tokenize_paragraphs(text: str) -> list[str]:
    """Cut text at blank lines. Paragraphs are trimmed and never empty."""
    return [stripped for part in _BLANK_LINES.split(text) if (stripped := part.strip())]
