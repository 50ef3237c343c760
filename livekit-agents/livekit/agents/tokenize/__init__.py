"""Cuts text into sentences and words, at once or while the text is still arriving."""

from typing import TYPE_CHECKING

from .._lazy import attach

if TYPE_CHECKING:
    from . import basic, blingfire, utils
    from .token_stream import BufferedSentenceStream, BufferedWordStream
    from .tokenizer import (
        SentenceStream,
        SentenceTokenizer,
        TokenData,
        WordStream,
        WordTokenizer,
    )

__all__ = [
    "BufferedSentenceStream",
    "BufferedWordStream",
    "SentenceStream",
    "SentenceTokenizer",
    "TokenData",
    "WordStream",
    "WordTokenizer",
    "basic",
    "blingfire",
    "utils",
]

if not TYPE_CHECKING:  # a type checker shall know the names above and no others
    __getattr__, __dir__ = attach(
        __name__,
        {
            "BufferedSentenceStream": ".token_stream",
            "BufferedWordStream": ".token_stream",
            "SentenceStream": ".tokenizer",
            "SentenceTokenizer": ".tokenizer",
            "TokenData": ".tokenizer",
            "WordStream": ".tokenizer",
            "WordTokenizer": ".tokenizer",
            "basic": ".basic:",
            "blingfire": ".blingfire:",
            "token_stream": ".token_stream:",
            "tokenizer": ".tokenizer:",
            "utils": ".utils:",
        },
    )
