"""The room of a session."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ..job import get_job_context

if TYPE_CHECKING:
    from livekit import rtc

    from ..voice import AgentSession


def room_of(session: AgentSession[Any]) -> rtc.Room | None:
    """The session's room, or else the job's; None outside of both."""
    room_io = session._room_io
    if room_io is not None:
        room: rtc.Room = room_io.room
        return room
    job = get_job_context(required=False)
    return job.room if job is not None else None
