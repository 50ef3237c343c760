"""Has the call been answered? Watches the room until somebody can be heard."""

from __future__ import annotations

import asyncio
from enum import Enum
from typing import TYPE_CHECKING, Any

from ...utils.aio import wait_until

if TYPE_CHECKING:
    from livekit import rtc

PUBLICATION_TIMEOUT = 5.0
"""Seconds for the participant to arrive and to be heard."""

ANSWER_TIMEOUT = 120.0
"""Seconds that a phone may ring; the SIP service gives up sooner."""

_EVENTS = (
    "participant_connected",
    "participant_disconnected",
    "participant_attributes_changed",
    "track_subscribed",
    "track_unsubscribed",
    "disconnected",
)


class Line(Enum):
    """How far the call has come."""

    ABSENT = "absent"
    MUTE = "mute"
    """The participant is there, and no audio of it."""
    RINGING = "ringing"
    OPEN = "open"
    GONE = "gone"


def line_of(room: rtc.Room, identity: str | None) -> Line:
    """How far the call with `identity`, or with anybody, has come."""
    from livekit import rtc

    if not room.isconnected():
        return Line.GONE
    state = Line.ABSENT
    for participant in list(room.remote_participants.values()):
        if participant.kind == rtc.ParticipantKind.PARTICIPANT_KIND_AGENT and identity is None:
            continue
        if identity is not None and participant.identity != identity:
            continue
        state = Line.MUTE
        if any(
            publication.kind == rtc.TrackKind.KIND_AUDIO and publication.subscribed
            for publication in participant.track_publications.values()
        ):
            sip = participant.kind == rtc.ParticipantKind.PARTICIPANT_KIND_SIP
            answered = participant.attributes.get("sip.callStatus") == "active"
            return Line.RINGING if sip and not answered else Line.OPEN
    return state


async def wait_until_open(
    room: rtc.Room, identity: str | None, *, arrival_timeout: float = PUBLICATION_TIMEOUT
) -> bool:
    """Wait until the call is answered and audio comes. Every part of the wait is bounded.

    Args:
        room: Where to look.
        identity: The participant who matters; None is the first one with audio.
        arrival_timeout: Seconds for the participant to arrive; its audio then has 5 s more. Without
            an identity both have the 5 s together.

    Returns:
        False if nobody came, nobody was heard, or whoever was there left.
    """
    loop = asyncio.get_running_loop()
    changed = loop.create_future()

    def on_change(*_: Any) -> None:
        if not changed.done():
            changed.set_result(None)

    for event in _EVENTS:
        room.on(event, on_change)  # type: ignore[arg-type]
    try:
        state = Line.ABSENT
        deadline = loop.time() + (arrival_timeout if identity is not None else PUBLICATION_TIMEOUT)
        while True:
            former, state = state, line_of(room, identity)
            if state is Line.OPEN:
                return True
            if state is Line.GONE or (state is Line.ABSENT and former is not Line.ABSENT):
                return False
            if former is Line.RINGING and state is Line.MUTE:
                return False
            if state is Line.RINGING and former is not Line.RINGING:
                deadline = loop.time() + ANSWER_TIMEOUT
            elif state is Line.MUTE and former is Line.ABSENT and identity is not None:
                deadline = loop.time() + PUBLICATION_TIMEOUT
            if await wait_until(changed, max(0.0, deadline - loop.time())):
                return False
            changed = loop.create_future()
    finally:
        for event in _EVENTS:
            room.off(event, on_change)  # type: ignore[arg-type]


__all__ = ["Line", "line_of", "wait_until_open"]
