"""Sentences found by BlingFire: fast, multilingual, and the default in front of speech synthesis."""

from __future__ import annotations

import re

from . import token_stream, tokenizer
from ._sentences import merge_sentences, normalize

__all__ = ["SentenceTokenizer"]

_DANDA_END = re.compile(r"[।॥][\"'”’»)\]}]*(?=\s)")
"""BlingFire doesn't know the full stops of Devanagari and its relatives."""


class SentenceTokenizer(tokenizer.SentenceTokenizer):
    """Cuts text into sentences with BlingFire, joining those that are too short to stand alone."""

    def __init__(
        self,
        *,
        min_sentence_len: int = 20,
        stream_context_len: int = 10,
        retain_format: bool = False,
        max_token_len: int | None = None,
        min_token_len: int | None = None,
        xml_aware: bool = False,
    ) -> None:
        """Create a tokenizer. All lengths are in characters.

        Args:
            min_sentence_len: a shorter sentence is joined with the next.
            stream_context_len: streams look for sentences once this much text is there.
            retain_format: keep line breaks and white space as they are; the white space between
                two sentences begins the second one. Otherwise sentences are single, trimmed lines.
            max_token_len: streams don't join sentences beyond this length.
            min_token_len: streams join sentences up to this length; `min_sentence_len` when None.
            xml_aware: in streams, XML tags don't count as text, are never cut, and hold a sentence
                back until they are closed.
        """
        self._min_sentence_len = min_sentence_len
        self._stream_context_len = stream_context_len
        self._retain_format = retain_format
        self._max_token_len = max_token_len
        self._min_token_len = min_sentence_len if min_token_len is None else min_token_len
        self._xml_aware = xml_aware

    def tokenize(self, text: str, *, language: str | None = None) -> list[str]:
        """Return the sentences of `text`. The language is recognised, not told."""
        return [sentence for sentence, _, _ in self._split(text)]

    def stream(self, *, language: str | None = None) -> tokenizer.SentenceStream:
        """Open a stream for text that arrives in pieces. The language is recognised, not told."""
        return token_stream.BufferedSentenceStream(
            tokenizer=self._split,
            min_token_len=self._min_token_len,
            min_ctx_len=self._stream_context_len,
            max_token_len=self._max_token_len,
            retain_format=self._retain_format,
            xml_aware=self._xml_aware,
        )

    def _split(self, text: str) -> list[tuple[str, int, int]]:
        from livekit.blingfire import text_to_sentences_with_offsets

        ends = {end for _, end in text_to_sentences_with_offsets(text)[1]}
        ends.update(match.end() for match in _DANDA_END.finditer(text))
        return merge_sentences(
            text,
            sorted(ends),
            is_long_enough=lambda raw: len(normalize(raw)) >= self._min_sentence_len,
            retain_format=self._retain_format,
        )
