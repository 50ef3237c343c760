"""Token streams that buffer text until a tokenizer, applied to the buffer, finds a boundary.

Purely synchronous: pushing text never waits, and a stream can be closed or dropped at any time.
"""

from __future__ import annotations

from collections.abc import Callable

from ..utils.misc import shortuuid
from .tokenizer import SentenceStream, TokenData, WordStream, _TokenStream

TokenizeCallable = Callable[[str], "list[str] | list[tuple[str, int, int]]"]
"""Returns the tokens of a text, either alone or each with its start and end offset in the text."""


class BufferedTokenStream(_TokenStream):
    """Emits a token once it is complete, that is, once another one follows it in the buffer."""

    def __init__(
        self,
        *,
        tokenize_fnc: TokenizeCallable,
        min_token_len: int,
        min_ctx_len: int,
        max_token_len: int | None = None,
        retain_format: bool = False,
        xml_aware: bool = False,
    ) -> None:
        """Open a stream. No event loop needs to be running yet.

        Args:
            tokenize_fnc: finds the tokens of a text. With offsets the buffer is cut exactly; tokens
                without them are looked up in the buffer.
            min_token_len: shorter tokens are joined with those after them. In characters, as the
                other lengths.
            min_ctx_len: don't look for tokens in less text than this.
            max_token_len: don't join tokens beyond this; a single longer token stays whole.
            retain_format: tokens carry the white space between them, so they are joined as they
                are instead of with a space.
            xml_aware: XML tags are invisible to `tokenize_fnc` and never cut, and a token is held
                back until every tag in it is closed.
        """
        super().__init__()
        if xml_aware:
            from ._xml import XmlAwareTokenizer

            tokenize_fnc = XmlAwareTokenizer(tokenize_fnc)
        self._tokenize_fnc = tokenize_fnc
        self._min_token_len = min_token_len
        self._min_ctx_len = min_ctx_len
        self._max_token_len = max_token_len
        self._separator = "" if retain_format else " "

        self._input = ""
        self._pending = ""
        self._segment_id = shortuuid()

    def push_text(self, text: str) -> None:
        """Append a piece of text and emit the tokens it completes.

        Raises:
            RuntimeError: if the stream is closed.
        """
        self._check_not_closed()
        if not text:
            return
        self._input += text
        if len(self._input) < self._min_ctx_len:
            return
        end = 0
        # The last token may go on in the next piece of text.
        for token in self._tokenize_fnc(self._input)[:-1]:
            text, end = _locate(token, self._input, end)
            self._add(text)
            if len(self._pending) >= self._min_token_len:
                self._emit_pending()
        self._input = self._input[end:]

    def flush(self) -> None:
        """Emit all that is held back and begin a new segment.

        Raises:
            RuntimeError: if the stream is closed.
        """
        self._check_not_closed()
        if self._input:
            for token in self._tokenize_fnc(self._input):
                self._add(token if isinstance(token, str) else token[0])
        self._input = ""
        self._emit_pending()
        self._segment_id = shortuuid()

    def end_input(self) -> None:
        """Flush and close: iteration ends after the last token.

        Raises:
            RuntimeError: if the stream is closed.
        """
        self.flush()
        self._do_close()

    async def aclose(self) -> None:
        """Close without emitting what is held back. Does nothing on a closed stream."""
        self._do_close()

    def _add(self, text: str) -> None:
        joined = f"{self._pending}{self._separator}{text}" if self._pending else text
        if self._pending and self._max_token_len and len(joined) > self._max_token_len:
            self._emit_pending()
            joined = text
        self._pending = joined

    def _emit_pending(self) -> None:
        if self._pending:
            self._event_ch.send_nowait(TokenData(self._segment_id, self._pending))
            self._pending = ""


def _locate(token: str | tuple[str, int, int], source: str, position: int) -> tuple[str, int]:
    """Return the text of `token`, and where what follows it begins in `source`."""
    if not isinstance(token, str):
        text, _, end = token
        return text, end
    end = max(source.find(token, position), position) + len(token)
    while end < len(source) and source[end].isspace():
        end += 1
    return token, end


class BufferedSentenceStream(BufferedTokenStream, SentenceStream):
    """A sentence stream over any function that cuts text into sentences."""

    def __init__(
        self,
        *,
        tokenizer: TokenizeCallable,
        min_token_len: int,
        min_ctx_len: int,
        max_token_len: int | None = None,
        retain_format: bool = False,
        xml_aware: bool = False,
    ) -> None:
        """Open a stream. See `BufferedTokenStream` for the arguments."""
        super().__init__(
            tokenize_fnc=tokenizer,
            min_token_len=min_token_len,
            min_ctx_len=min_ctx_len,
            max_token_len=max_token_len,
            retain_format=retain_format,
            xml_aware=xml_aware,
        )


class BufferedWordStream(BufferedTokenStream, WordStream):
    """A word stream over any function that cuts text into words."""

    def __init__(
        self, *, tokenizer: TokenizeCallable, min_token_len: int, min_ctx_len: int
    ) -> None:
        """Open a stream. See `BufferedTokenStream` for the arguments."""
        super().__init__(
            tokenize_fnc=tokenizer, min_token_len=min_token_len, min_ctx_len=min_ctx_len
        )
