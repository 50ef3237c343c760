"""How a session joins a room when it starts, and what it does when its user is linked."""

from __future__ import annotations

import asyncio
import copy
from typing import TYPE_CHECKING, Any

from ..log import logger
from ..utils import is_given
from ..utils.aio import wait_until
from .closing import Step
from .session_start import current_job, in_text_simulation

if TYPE_CHECKING:
    from livekit import rtc

    from .agent import Agent
    from .agent_session import AgentSession
    from .room_io.types import RoomOptions
    from .session_start import StartRequest


async def join(session: AgentSession[Any], room: rtc.Room, request: StartRequest) -> None:
    """Set up and start the session's `RoomIO`. The room need not be connected yet.

    Raises:
        ValueError: The options are no `RoomOptions`.
    """
    from .room_io.room_io import RoomIO

    options = options_for(session, request)
    room_io = session._room_io = RoomIO(session, room, options=options)
    await room_io.start(trace_context=session._spans.start_context)
    job = current_job()
    primary = job is None or job._primary_agent_session is session
    if primary and request.session_host is not False:
        from .remote_session import RoomSessionTransport, SessionHost

        session._session_host = SessionHost(RoomSessionTransport(room))
        session._session_host.register_session(session)
    chat = options.get_text_input_options()
    if chat is not None:
        room_io.register_text_input(chat.text_input_cb)


def options_for(session: AgentSession[Any], request: StartRequest) -> RoomOptions:
    """The options that count: directions that the session has inputs or outputs for are off.

    What the caller passed is left as it is.
    """
    from .room_io.types import RoomOptions

    options = copy.copy(
        RoomOptions._ensure_options(
            request.room_options,
            room_input_options=request.room_input_options,
            room_output_options=request.room_output_options,
        )
    )
    present = {
        "audio_input": ("input.audio", session.input.audio),
        "audio_output": ("output.audio", session.output.audio),
        "text_output": ("output.transcription", session.output.transcription),
    }
    for option, (name, value) in present.items():
        if value is None:
            continue
        given = getattr(options, option)
        if is_given(given) and given:
            logger.warning(
                "session.%s is set already, so %s of the room options is not used", name, option
            )
        setattr(options, option, False)
    if in_text_simulation():
        options.audio_input = options.audio_output = False
    return options


async def start_host(session: AgentSession[Any]) -> None:
    """Let remote clients follow the session, if nobody else in this room is followed already."""
    if session._session_host is None:
        return
    try:
        await session._session_host.start()
    except ValueError:
        logger.warning(
            "remote clients can't follow this session: another one of this room is followed"
        )


async def start_agent(session: AgentSession[Any], agent: Agent, job: Any) -> None:
    """Start the agent, and beside it connect the job's room. If either fails, so does the start.

    A connect is never cancelled: the native layer would end the process for it. It goes on in the
    background, for the job to disconnect.
    """
    if job is None:
        await session._handoffs.switch(agent, trace_context=session._spans.start_context)
        return
    connecting = job._scope.spawn(job.connect(), name="connect the room", log_errors=False)
    connecting.add_done_callback(_retrieve)
    starting = session._scope.spawn(
        session._handoffs.switch(agent, trace_context=session._spans.start_context),
        name="start the agent",
        log_errors=False,
    )
    try:
        await asyncio.wait((connecting, starting), return_when=asyncio.FIRST_EXCEPTION)
        for task in (connecting, starting):
            if task.done():
                task.result()
    finally:
        if not starting.done():
            starting.cancel()
            await wait_until(starting, session.options.teardown_timeout)


def _retrieve(task: asyncio.Task[Any]) -> None:
    if not task.cancelled():
        task.exception()


def close_steps(session: AgentSession[Any]) -> list[Step]:
    """What a close does about the room, once `close` was emitted: all side by side."""
    steps: list[Step] = []
    host, session._session_host = session._session_host, None
    if host is not None:
        # first, so that a client who waits for the run gets an answer
        session._fail_run(session._close.error if session._close is not None else None)
        patience = session.options.teardown_timeout / 2
        steps.append(Step("session host", lambda: host.aclose(patience)))
    if session._room_io is not None:
        steps += session._room_io._begin_close()
    return steps


def participant_linked(session: AgentSession[Any], participant: rtc.RemoteParticipant) -> None:
    """The user has come: they are not away, and a phone that was called needs no echo warm-up."""
    from livekit import rtc

    session._spans.participant_linked(participant)
    session.reset_away_timer()
    phone = participant.kind == rtc.ParticipantKind.PARTICIPANT_KIND_SIP
    if phone and "sip.ruleID" not in participant.attributes and not session._aec_warmup_given:
        session._state.skip_warmup()


__all__ = [
    "close_steps",
    "join",
    "options_for",
    "participant_linked",
    "start_agent",
    "start_host",
]
