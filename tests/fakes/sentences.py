"""A sentence tokenizer whose boundaries are plain to see."""

from __future__ import annotations

from livekit.agents import tokenize


class BarTokenizer(tokenize.SentenceTokenizer):
    """Sentences end at `|`, which belongs to none of them."""

    def tokenize(self, text: str, *, language: str | None = None) -> list[str]:
        return [sentence for sentence in text.split("|") if sentence]

    def stream(self, *, language: str | None = None) -> tokenize.SentenceStream:
        return BarStream()


class BarStream(tokenize.SentenceStream):
    """Stream of a `BarTokenizer`: a sentence comes out as soon as its `|` is in."""

    def __init__(self) -> None:
        super().__init__()
        self._text = ""

    def push_text(self, text: str) -> None:
        self._check_not_closed()
        self._text += text
        *sentences, self._text = self._text.split("|")
        for sentence in sentences:
            self._send(sentence)

    def flush(self) -> None:
        self._check_not_closed()
        self._send(self._text)
        self._text = ""

    def end_input(self) -> None:
        self.flush()
        self._do_close()

    async def aclose(self) -> None:
        self._do_close()

    def _send(self, sentence: str) -> None:
        if sentence:
            self._event_ch.send_nowait(tokenize.TokenData("segment", sentence))
