"""Where sentences end, by rules made for English."""

from __future__ import annotations

import re
from collections.abc import Iterator

_END = re.compile(r"([.!?。！？؟۔।॥])[\"”]?")
_END_OR_LINE_BREAK = re.compile(rf"{_END.pattern}|\n")

_LOOK_BEHIND = 16
_TITLE_OR_INITIAL = re.compile(r"(?:\b(?:Mr|St|Mrs|Ms|Dr|Ph|Ph\.D)|(?:\A|\s)[A-Z])\Z")
_ACRONYM_OR_SUFFIX = re.compile(r"(?:\b(?:[A-Za-z]\.){1,2}[A-Za-z]|\b(?:Inc|Ltd|Jr|Sr|Co))\Z")
_LETTER_ALONE = re.compile(r"\b[A-Za-z]\Z")
_INSIDE_ACRONYM = re.compile(r"[A-Za-z]\.")
_TOP_LEVEL_DOMAIN = re.compile(r"(?:com|net|org|io|gov|edu|me)\b")
_STARTER = re.compile(
    r"\s+(?:Mr|Mrs|Ms|Dr|Prof|Capt|Cpt|Lt|He|She|It|They|Their|Our|We|But|However|That|This"
    r"|Wherever)\b"
)


def sentence_ends(text: str, *, break_lines: bool) -> Iterator[int]:
    """Yield the offset after each sentence of `text`, closing quotation mark included.

    Args:
        text: to search.
        break_lines: line breaks end sentences too, and belong to them.
    """
    for match in (_END_OR_LINE_BREAK if break_lines else _END).finditer(text):
        if match[1] != "." or _is_full_stop(text, match.start()):
            yield match.end()


def _is_full_stop(text: str, dot: int) -> bool:
    before = text[max(0, dot - _LOOK_BEHIND) : dot]
    previous, following = before[-1:], text[dot + 1 : dot + 2]
    if previous == "." or following == ".":
        return False
    if previous.isdigit() and following.isdigit():
        return False
    if _TOP_LEVEL_DOMAIN.match(text, dot + 1) or _TITLE_OR_INITIAL.search(before):
        return False
    if _LETTER_ALONE.search(before) and _INSIDE_ACRONYM.match(text, dot + 1):
        return False
    if _ACRONYM_OR_SUFFIX.search(before):
        return _STARTER.match(text, dot + 1) is not None
    return True
