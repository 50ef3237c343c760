"""Taking a model's thoughts, `<think>…</think>`, out of its streamed text."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

THINK_TAG_START = "<think>"
THINK_TAG_END = "</think>"


@dataclass
class ThinkingTokenFilter:
    """What `strip_thinking_tokens` remembers between chunks of one stream."""

    start_tag: str = THINK_TAG_START
    end_tag: str = THINK_TAG_END
    _buffer: str = ""
    """The end of the text so far, as long as it may turn out to begin a tag."""
    _end_marker: str | None = None
    """The tag that ends the thought; None while the model is speaking."""

    def feed(self, text: str, *, final: bool) -> str:
        """Take the next piece of text and return what of it is to be seen.

        Args:
            text: The piece.
            final: Nothing comes after it.
        """
        text = self._buffer + text
        self._buffer = ""
        visible: list[str] = []
        while text:
            thinking = self._end_marker is not None
            tag = self._end_marker or self.start_tag
            before, found, after = text.partition(tag)
            if not found:
                held_back = 0 if final else _overlap(text, tag)
                self._buffer = text[len(text) - held_back :]
                before = text[: len(text) - held_back]
            if not thinking:
                visible.append(before)
            if found:
                self._end_marker = None if thinking else self.end_tag
            text = after
        return "".join(visible)


def _overlap(text: str, tag: str) -> int:
    """Length of the longest end of `text` that `tag` begins with."""
    for length in range(min(len(text), len(tag) - 1), 0, -1):
        if tag.startswith(text[-length:]):
            return length
    return 0


def strip_thinking_tokens(
    content: str | Iterable[Any] | None, state: ThinkingTokenFilter, *, final: bool = False
) -> str | None:
    """Remove what a model thinks aloud from a chunk of its text.

    Tags may be spread over chunks: what might begin one is held back until that is decided.

    Args:
        content: The chunk; also in the form of a list of `{"type": "text", "text": …}`.
        state: One per stream.
        final: This is the last chunk. A thought that is still open is dropped.

    Returns:
        The visible text; None if there is none, and `""` for an empty chunk.
    """
    if content is None:
        text = None
    elif isinstance(content, str):
        text = content
    else:
        text = "".join(map(_text_of, content))
    visible = state.feed(text or "", final=final)
    return visible or ("" if text == "" else None)


def _text_of(part: Any) -> str:
    text = part.get("text") if isinstance(part, Mapping) else getattr(part, "text", part)
    return text if isinstance(text, str) else ""
