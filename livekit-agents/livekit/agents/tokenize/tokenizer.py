"""What every tokenizer and token stream offers."""

from __future__ import annotations

import string
import unicodedata
from abc import ABC, abstractmethod
from collections.abc import AsyncIterator
from dataclasses import dataclass

from ..utils.aio import Chan

PUNCTUATIONS = [*string.punctuation, *"±—‘’“”…"]
"""ASCII punctuation and the typographic marks common in Western text."""

_PUNCTUATIONS = frozenset(PUNCTUATIONS)


def is_punctuation(c: str) -> bool:
    """Whether the character `c` is in `PUNCTUATIONS` or punctuation by Unicode category."""
    return c in _PUNCTUATIONS or unicodedata.category(c).startswith("P")


@dataclass
class TokenData:
    """One sentence or word from a stream."""

    segment_id: str = ""
    """The same for all tokens between two flushes."""
    token: str = ""


class _TokenStream(ABC):
    """Takes text piece by piece; iterating over it yields the tokens found in the text."""

    def __init__(self) -> None:
        """Open a stream. No event loop needs to be running yet."""
        self._event_ch: Chan[TokenData] = Chan()

    @property
    def closed(self) -> bool:
        """Whether the stream takes no more text. Tokens may still be waiting to be read."""
        return self._event_ch.closed

    @abstractmethod
    def push_text(self, text: str) -> None:
        """Append a piece of text.

        Raises:
            RuntimeError: if the stream is closed.
        """

    @abstractmethod
    def flush(self) -> None:
        """Emit what is held back and begin a new segment.

        Raises:
            RuntimeError: if the stream is closed.
        """

    @abstractmethod
    def end_input(self) -> None:
        """Flush and close: iteration ends after the last token.

        Raises:
            RuntimeError: if the stream is closed.
        """

    @abstractmethod
    async def aclose(self) -> None:
        """Close without emitting what is held back. Does nothing on a closed stream."""

    def _do_close(self) -> None:
        self._event_ch.close()

    def _check_not_closed(self) -> None:
        if self._event_ch.closed:
            cls = type(self)
            raise RuntimeError(f"{cls.__module__}.{cls.__name__} is closed")

    def __aiter__(self) -> AsyncIterator[TokenData]:
        return self

    async def __anext__(self) -> TokenData:
        return await self._event_ch.__anext__()


class SentenceStream(_TokenStream):
    """Takes text piece by piece; iterating over it yields sentences."""


class WordStream(_TokenStream):
    """Takes text piece by piece; iterating over it yields words."""


class SentenceTokenizer(ABC):
    """Cuts text into sentences."""

    @abstractmethod
    def tokenize(self, text: str, *, language: str | None = None) -> list[str]:
        """Return the sentences of `text`, in order."""

    @abstractmethod
    def stream(self, *, language: str | None = None) -> SentenceStream:
        """Open a stream for text that arrives in pieces."""


class WordTokenizer(ABC):
    """Cuts text into words."""

    @abstractmethod
    def tokenize(self, text: str, *, language: str | None = None) -> list[str]:
        """Return the words of `text`, in order."""

    @abstractmethod
    def stream(self, *, language: str | None = None) -> WordStream:
        """Open a stream for text that arrives in pieces."""

    def format_words(self, words: list[str]) -> str:
        """Join words into readable text."""
        return " ".join(words)
