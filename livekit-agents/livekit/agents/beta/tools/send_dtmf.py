"""A tool that presses keys on the phone."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

from ...llm import function_tool
from ...log import logger
from ...voice.run_context import RunContext
from .._rooms import room_of
from ..workflows.utils import DtmfEvent, dtmf_event_to_code, format_dtmf

if TYPE_CHECKING:
    from livekit import rtc

DEFAULT_DTMF_PUBLISH_DELAY = 0.3
"""Seconds from one key to the next."""


@function_tool
async def send_dtmf_events(ctx: RunContext[Any], events: list[DtmfEvent]) -> str:
    """Press keys on the phone, for instance to choose from a spoken menu.

    Args:
        events: The keys, in the order in which to press them.
    """
    pressed: list[DtmfEvent] = []
    try:
        room = _room(ctx)
        for event in events:
            if pressed:
                await asyncio.sleep(DEFAULT_DTMF_PUBLISH_DELAY)
            await room.local_participant.publish_dtmf(
                code=dtmf_event_to_code(event), digit=DtmfEvent(event).value
            )
            pressed.append(event)
    except Exception as error:
        logger.exception("sending DTMF failed")
        done = f" after {format_dtmf(pressed)}" if pressed else ""
        return f"The keys {format_dtmf(events)} could not be pressed{done}: {error}"
    return f"Pressed the keys {format_dtmf(events)}."


def _room(ctx: RunContext[Any]) -> rtc.Room:
    room = room_of(ctx.session)
    if room is None:
        raise RuntimeError("there is no phone line: the session is in no room")
    return room
