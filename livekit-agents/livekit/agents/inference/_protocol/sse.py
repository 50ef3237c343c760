"""Server-sent events, the frame in which completions are streamed (HTML standard, section 9.2)."""

from __future__ import annotations

import codecs

from .wire import ProtocolError

MAX_EVENT = 4 * 1024 * 1024
"""Characters of one event."""


class SSEDecoder:
    """Cuts a byte stream into the data of its events. Comments and other fields are skipped."""

    def __init__(self) -> None:
        self._utf8 = codecs.getincrementaldecoder("utf-8")("replace")
        self._line = ""
        self._after_cr = False
        self._data: list[str] = []
        self._size = 0

    def feed(self, chunk: bytes) -> list[str]:
        """Take bytes as they arrive; returns the data of the events they complete.

        Raises:
            ProtocolError: An event is too large.
        """
        text = self._utf8.decode(chunk)
        if self._after_cr and text:
            self._after_cr = False
            text = text.removeprefix("\n")
        if text.endswith("\r"):
            self._after_cr = True  # its "\n" may come with the next chunk
        lines = text.replace("\r\n", "\n").replace("\r", "\n").split("\n")
        lines[0] = self._line + lines[0]
        self._line = lines.pop()
        events = []
        for line in lines:
            if not line:
                events += self._take_event()
            else:
                self._read_line(line)
        if len(self._line) + self._size > MAX_EVENT:
            raise ProtocolError(f"an event is longer than {MAX_EVENT} characters")
        return events

    def end(self) -> list[str]:
        """The stream has ended. What was not terminated by an empty line counts all the same."""
        text = self._line + self._utf8.decode(b"", True)
        self._line = ""
        if text:
            self._read_line(text)
        return self._take_event()

    def _read_line(self, line: str) -> None:
        name, _, value = line.partition(":")
        if name == "data":
            value = value.removeprefix(" ")
            self._data.append(value)
            self._size += len(value)

    def _take_event(self) -> list[str]:
        if not self._data:
            return []
        event = "\n".join(self._data)
        self._data.clear()
        self._size = 0
        return [event]


def encode_event(data: str) -> bytes:
    """Write an event."""
    lines = "".join(f"data: {line}\n" for line in data.split("\n"))
    return f"{lines}\n".encode()
