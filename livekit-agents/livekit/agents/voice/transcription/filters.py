"""Filters that make written text speakable: without markup, without emoji."""

from __future__ import annotations

import re
from collections.abc import AsyncIterable, AsyncIterator

FULL_LINE_PATTERNS = [
    re.compile(r"^[ \t]*(?:-[ \t]*){3,}$|^[ \t]*(?:\*[ \t]*){3,}$|^[ \t]*(?:_[ \t]*){3,}$")
]
"""Lines that are dropped as a whole: horizontal rules."""

LINE_PATTERNS = [
    (re.compile(r"^[ \t]{0,3}#{1,6}[ \t]+"), ""),
    (re.compile(r"^[ \t]*[-+*][ \t]+"), ""),
    (re.compile(r"^[ \t]*(?:>[ \t]?)+"), ""),
]
"""What is removed at the start of a line: headings, bullets, quotes."""

_EDGE = r"(?:(?<![\w*_~`])|(?<=[\u3000-\u9fff\uac00-\ud7af\u0e00-\u0e7f]))"
_END = r"(?:(?![\w*_~`])|(?=[\u3000-\u9fff\uac00-\ud7af\u0e00-\u0e7f]))"

INLINE_PATTERNS = [
    (re.compile(r"!\[([^\]]*)\]\([^)]*\)"), r"\1"),
    (re.compile(r"\[([^\]]+)\]\([^)]*\)"), r"\1"),
    (re.compile(r"```[A-Za-z0-9_+-]*\n?"), ""),
    (re.compile(r"~~(?!\s)(?:(?!~~).)+(?<!\s)~~"), ""),
    (re.compile(_EDGE + r"\*\*\*(?!\s)((?:(?!\*).)+?)(?<!\s)\*\*\*"), r"\1"),
    (re.compile(r"\*\*(?!\s)((?:(?!\*\*).)+?)(?<!\s)\*\*"), r"\1"),
    (re.compile(_EDGE + r"\*(?![\s*])((?:(?!\*).)+?)(?<![\s*])\*" + _END), r"\1"),
    (re.compile(_EDGE + r"__(?![\s_])((?:(?!__).)*? (?:(?!__).)*?)(?<![\s_])__" + _END), r"\1"),
    (re.compile(_EDGE + r"_(?![\s_])((?:(?!_).)+?)(?<![\s_])_" + _END), r"\1"),
    (re.compile(r"`([^`\n]*)`"), r"\1"),
]
"""Marks inside a line; their content stays, but that of struck-through text."""

INLINE_MARKERS = re.compile(r"[*_`~\[]")
"""What a mark may begin with."""

_OPENER = re.compile(r"\*(?!\s)|(?<!\w)_(?!\s)|~(?!\s)|`|!?\[|!$")
"""What may begin a mark that a later chunk completes."""

_LINE_START = re.compile(r"[ \t]*[#>*+_`~-]*[ \t]*[#>*+_-]*[ \t]*")
"""What may become a mark at the start of a line, or a horizontal rule."""

INLINE_SPLIT_TOKENS = " ,.?!;，。？！；"
"""Where a line may be emitted before its end."""

EMOJI_PATTERN = re.compile(
    "[\U0001f000-\U0001faff\U00002600-\U000027bf\U00002190-\U000021ff\U00002b00-\U00002bff"
    "\U0001f1e6-\U0001f1ff\U0000fe00-\U0000fe0f\U0000200d\U000020e3]+"
)
"""Emoji, dingbats, arrows, variation selectors, joiners and keycaps."""


async def filter_emoji(text: AsyncIterable[str]) -> AsyncIterator[str]:
    """Remove emoji."""
    async for chunk in text:
        filtered = EMOJI_PATTERN.sub("", chunk)
        if filtered:
            yield filtered


async def filter_markdown(text: AsyncIterable[str]) -> AsyncIterator[str]:
    """Remove Markdown marks, keep what they mark. Holds back only what may complete a mark."""
    buffer, at_line_start = "", True
    async for chunk in text:
        buffer += chunk
        while "\n" in buffer:
            line, buffer = buffer.split("\n", 1)
            if at_line_start and any(p.match(line) for p in FULL_LINE_PATTERNS):
                continue
            yield _inline(_line(line) if at_line_start else line) + "\n"
            at_line_start = True
        ready, buffer = _split(buffer, at_line_start)
        if ready:
            yield _inline(_line(ready) if at_line_start else ready)
            at_line_start = False
    if buffer and not (at_line_start and any(p.match(buffer) for p in FULL_LINE_PATTERNS)):
        yield _inline(_line(buffer) if at_line_start else buffer)


def _split(buffer: str, at_line_start: bool) -> tuple[str, str]:
    """What of an unfinished line can be emitted, and what has to wait: marks that may yet close."""
    if at_line_start and _LINE_START.fullmatch(buffer):
        return "", buffer
    for cut in range(len(buffer), 0, -1):
        if buffer[cut - 1] in INLINE_SPLIT_TOKENS and not _OPENER.search(_inline(buffer[:cut])):
            return buffer[:cut], buffer[cut:]
    return "", buffer


def _line(line: str) -> str:
    for pattern, replacement in LINE_PATTERNS:
        line = pattern.sub(replacement, line)
    return line


def _inline(text: str) -> str:
    for pattern, replacement in INLINE_PATTERNS:
        text = pattern.sub(replacement, text)
    return text


__all__ = ["filter_emoji", "filter_markdown"]
