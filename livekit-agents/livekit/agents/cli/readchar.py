"""Single keys from a terminal: `readchar()` for one character, `readkey()` for one key.

A key that the terminal sends as several characters, such as an arrow, is one of the names of `key`.
"""

from __future__ import annotations

import codecs
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager

__all__ = ["INTERRUPT_KEYS", "KeyDecoder", "key", "readchar", "readkey"]

_ESCAPE_WAIT = 0.05
"""Seconds after which an escape that nothing follows was the Esc key."""


class _BaseKey:
    """Keys that are one character on every system."""

    LF = "\x0a"
    CR = "\x0d"
    SPACE = "\x20"
    ESC = "\x1b"
    TAB = "\x09"

    CTRL_A = "\x01"
    CTRL_B = "\x02"
    CTRL_C = "\x03"
    CTRL_D = "\x04"
    CTRL_E = "\x05"
    CTRL_F = "\x06"
    CTRL_G = "\x07"
    CTRL_H = "\x08"
    CTRL_I = TAB
    CTRL_J = LF
    CTRL_K = "\x0b"
    CTRL_L = "\x0c"
    CTRL_M = CR
    CTRL_N = "\x0e"
    CTRL_O = "\x0f"
    CTRL_P = "\x10"
    CTRL_Q = "\x11"
    CTRL_R = "\x12"
    CTRL_S = "\x13"
    CTRL_T = "\x14"
    CTRL_U = "\x15"
    CTRL_V = "\x16"
    CTRL_W = "\x17"
    CTRL_X = "\x18"
    CTRL_Y = "\x19"
    CTRL_Z = "\x1a"


class _PosixKey(_BaseKey):
    """What terminals send, by ECMA-48 and the habits of xterm."""

    ENTER = _BaseKey.LF
    BACKSPACE = "\x7f"

    UP = "\x1b[A"
    DOWN = "\x1b[B"
    RIGHT = "\x1b[C"
    LEFT = "\x1b[D"
    HOME = "\x1b[H"
    END = "\x1b[F"
    INSERT = "\x1b[2~"
    DELETE = "\x1b[3~"
    PAGE_UP = "\x1b[5~"
    PAGE_DOWN = "\x1b[6~"
    SHIFT_TAB = "\x1b[Z"

    F1 = "\x1bOP"
    F2 = "\x1bOQ"
    F3 = "\x1bOR"
    F4 = "\x1bOS"
    F5 = "\x1b[15~"
    F6 = "\x1b[17~"
    F7 = "\x1b[18~"
    F8 = "\x1b[19~"
    F9 = "\x1b[20~"
    F10 = "\x1b[21~"
    F11 = "\x1b[23~"
    F12 = "\x1b[24~"


class _WindowsKey(_BaseKey):
    """What the C runtime of Windows gives: a zero or 0xE0, then a scan code."""

    ENTER = _BaseKey.CR
    BACKSPACE = "\x08"

    UP = "\x00H"
    DOWN = "\x00P"
    RIGHT = "\x00M"
    LEFT = "\x00K"
    HOME = "\x00G"
    END = "\x00O"
    INSERT = "\x00R"
    DELETE = "\x00S"
    PAGE_UP = "\x00I"
    PAGE_DOWN = "\x00Q"

    F1 = "\x00;"
    F2 = "\x00<"
    F3 = "\x00="
    F4 = "\x00>"
    F5 = "\x00?"
    F6 = "\x00@"
    F7 = "\x00A"
    F8 = "\x00B"
    F9 = "\x00C"
    F10 = "\x00D"
    F11 = "\x00\x85"
    F12 = "\x00\x86"


key = _WindowsKey if os.name == "nt" else _PosixKey
"""Names of the keys of this system."""

INTERRUPT_KEYS = [_BaseKey.CTRL_C]
"""Keys for which `readkey` raises KeyboardInterrupt; change the list to read them as others."""


class KeyDecoder:
    """Turns what a terminal sends into keys. No I/O: fed with bytes, however they are cut."""

    def __init__(self) -> None:
        """Start with no key begun."""
        self._utf8 = codecs.getincrementaldecoder("utf-8")("ignore")
        self._begun = ""

    @property
    def waiting(self) -> bool:
        """Whether a key has begun that may go on, or be the Esc key."""
        return bool(self._begun)

    def feed(self, data: bytes) -> list[str]:
        """The keys that are complete with these bytes."""
        keys = []
        for char in self._utf8.decode(data):
            self._begun += char
            if _is_complete(self._begun):
                keys.append(self._begun)
                self._begun = ""
        return keys

    def flush(self) -> list[str]:
        """Nothing follows: what has begun is a key of its own."""
        begun, self._begun = self._begun, ""
        return [begun] if begun else []


def _is_complete(text: str) -> bool:
    if text[0] != _BaseKey.ESC:
        return True
    if len(text) == 1 or text == "\x1b\x1b":
        return False
    second, last = text[1], text[-1]
    if second == "[":  # a control sequence ends with one of these
        return len(text) > 2 and "@" <= last <= "~"
    return second != "O" or len(text) > 2


def readchar() -> str:
    """Wait for one character, and return it as it is, Ctrl+C too. Nothing is echoed.

    Raises:
        EOFError: The input has ended.
    """
    if os.name == "nt":
        return _windows_char()
    with _single_keys():
        decoder = codecs.getincrementaldecoder("utf-8")("ignore")
        while True:
            data = os.read(sys.stdin.fileno(), 1)
            if not data:
                raise EOFError("the input has ended")
            char = decoder.decode(data)
            if char:
                return char


def readkey() -> str:
    """Wait for one key, and return it; see `key` for those that are several characters.

    Raises:
        KeyboardInterrupt: It is one of `INTERRUPT_KEYS`.
        EOFError: The input has ended.
    """
    pressed = _windows_key() if os.name == "nt" else _posix_key()
    if pressed in INTERRUPT_KEYS:
        raise KeyboardInterrupt
    return pressed


def _posix_key() -> str:
    import select

    decoder, stdin = KeyDecoder(), sys.stdin.fileno()
    with _single_keys():
        while True:
            if decoder.waiting and not select.select([stdin], [], [], _ESCAPE_WAIT)[0]:
                return decoder.flush()[0]
            data = os.read(stdin, 1)
            if not data and decoder.waiting:
                return decoder.flush()[0]
            if not data:
                raise EOFError("the input has ended")
            for pressed in decoder.feed(data):
                return pressed


def _windows_char() -> str:
    import msvcrt

    char: str = msvcrt.getwch()  # type: ignore[attr-defined, unused-ignore]
    return char


def _windows_key() -> str:
    char = _windows_char()
    return "\x00" + _windows_char() if char in "\x00\xe0" else char


@contextmanager
def _single_keys() -> Iterator[None]:
    """Let the terminal give each character at once, Ctrl+C as well. A file is read as it is."""
    if not sys.stdin.isatty():
        yield
        return
    import termios

    stdin = sys.stdin.fileno()
    before = termios.tcgetattr(stdin)
    changed = termios.tcgetattr(stdin)
    changed[3] &= ~(termios.ICANON | termios.ECHO | termios.ISIG)
    try:
        termios.tcsetattr(stdin, termios.TCSADRAIN, changed)
        yield
    finally:
        termios.tcsetattr(stdin, termios.TCSADRAIN, before)
