"""The keys of a telephone."""

from __future__ import annotations

from collections.abc import Iterable
from enum import Enum


class DtmfEvent(str, Enum):
    """A key, as its sign."""

    ONE = "1"
    TWO = "2"
    THREE = "3"
    FOUR = "4"
    FIVE = "5"
    SIX = "6"
    SEVEN = "7"
    EIGHT = "8"
    NINE = "9"
    ZERO = "0"
    STAR = "*"
    POUND = "#"
    A = "A"
    B = "B"
    C = "C"
    D = "D"


_CODES = {"*": 10, "#": 11, "A": 12, "B": 13, "C": 14, "D": 15}


def dtmf_event_to_code(event: DtmfEvent) -> int:
    """The event code of a key in RTP (RFC 4733, section 3.2): 0 to 9, `*` 10, `#` 11, A to D 12-15."""
    sign = DtmfEvent(event).value
    return _CODES[sign] if sign in _CODES else int(sign)


def format_dtmf(events: Iterable[DtmfEvent]) -> str:
    """The signs of the keys, with blanks between them, as they are read out."""
    return " ".join(DtmfEvent(event).value for event in events)
