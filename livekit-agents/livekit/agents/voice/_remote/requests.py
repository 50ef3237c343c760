"""What remote clients may ask of a session, and the answers."""

from __future__ import annotations

import inspect
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Any

from google.protobuf.json_format import MessageToDict
from livekit.protocol.agent_pb import agent_session as pb

from ...version import __version__
from . import codec

if TYPE_CHECKING:
    from ..agent_session import AgentSession

_REPORTED_OPTIONS = (
    "endpointing",
    "interruption",
    "max_tool_steps",
    "user_away_timeout",
    "transcription_timeout",
    "preemptive_generation",
    "min_consecutive_speech_delay",
    "use_tts_aligned_transcript",
    "ivr_detection",
)


class RequestError(Exception):
    """A request can't be answered; the text is for the client."""


Handler = Callable[[Any, Any, Any], "Awaitable[None] | None"]
"""Called with the session, the request and the response to fill."""


async def handle(session: AgentSession[Any], request: pb.SessionRequest) -> pb.SessionResponse:
    """Answer a request: exactly one response, with an `error` when it failed.

    An error that nobody foresaw is raised.
    """
    response = pb.SessionResponse(request_id=request.request_id)
    kind = request.WhichOneof("request")
    handler = HANDLERS.get(kind or "")
    if handler is None:
        response.error = f"unknown request {kind or ''}".strip()
        return response
    try:
        result = handler(session, getattr(request, kind or ""), response)
        if result is not None:
            await result
    except RequestError as error:
        response.error = str(error)
    return response


def _ping(session: Any, request: Any, response: Any) -> None:
    response.pong.SetInParent()


def _chat_history(session: Any, request: Any, response: Any) -> None:
    response.get_chat_history.SetInParent()
    response.get_chat_history.items.extend(codec.chat_items(session.history.items))


def _agent_info(session: Any, request: Any, response: Any) -> None:
    from ...llm import ToolContext

    agent = session.current_agent
    answer = response.get_agent_info
    answer.id = agent.id
    answer.instructions = _spoken(agent.instructions)
    answer.tools.extend(ToolContext(agent.tools).function_tools)
    answer.chat_ctx.extend(codec.chat_items(agent.chat_ctx.items))


def _spoken(instructions: Any) -> str:
    """Instructions, in their variant for speech when they depend on the modality."""
    from ...llm import Instructions

    if isinstance(instructions, Instructions):
        return instructions.render_static(modality="audio")
    return str(instructions)


async def _run_input(session: Any, request: Any, response: Any) -> None:
    if not request.text:
        raise RequestError("empty run_input text")
    try:
        await session.interrupt(force=True)
    except RuntimeError:
        pass  # nothing to interrupt
    try:
        run = session.run(user_input=request.text)
        await run
    except Exception as error:
        raise RequestError(str(error)) from error
    response.run_input.SetInParent()
    response.run_input.items.extend(codec.chat_items(event.item for event in run.events))


def _session_state(session: Any, request: Any, response: Any) -> None:
    answer = response.get_session_state
    answer.agent_state = codec.agent_state(session.agent_state)
    answer.user_state = codec.user_state(session.user_state)
    answer.agent_id = session.current_agent.id
    if session._started_at is not None:
        codec.set_time(answer.created_at, session._started_at)
    for name in _REPORTED_OPTIONS:
        answer.options[name] = str(getattr(session.options, name, None))


async def _rtc_stats(session: Any, request: Any, response: Any) -> None:
    answer = response.get_rtc_stats
    answer.SetInParent()
    if session._room_io is None:
        return
    stats = await session._room_io.room.get_rtc_stats()
    for source, target in (
        (stats.publisher_stats, answer.publisher_stats),
        (stats.subscriber_stats, answer.subscriber_stats),
    ):
        for each in source:
            target.add().update(MessageToDict(each))


def _session_usage(session: Any, request: Any, response: Any) -> None:
    import time

    response.get_session_usage.usage.CopyFrom(codec.usage(session.usage))
    codec.set_time(response.get_session_usage.created_at, time.time())


def _framework_info(session: Any, request: Any, response: Any) -> None:
    answer = response.get_framework_info
    answer.sdk, answer.sdk_version = "python", __version__


def _update_io(session: Any, request: Any, response: Any) -> None:
    response.update_io.SetInParent()
    for side, io, names in (
        (request.input, session.input, ("audio_enabled", "video_enabled")),
        (
            request.output,
            session.output,
            ("audio_enabled", "video_enabled", "transcription_enabled"),
        ),
    ):
        for name in names:
            if side.HasField(name):
                getattr(io, f"set_{name}")(getattr(side, name))


async def _finalize_simulation(session: Any, request: Any, response: Any) -> None:
    from ...simulation import SimulationVerdict
    from ..session_start import current_job

    job = current_job()
    simulation = job.simulation_context() if job is not None else None
    if simulation is None:
        raise RequestError("this session is not part of a simulation")
    simulation._simulator_verdict = SimulationVerdict(
        request.provisional_success, request.provisional_reason
    )
    response.finalize_simulation.SetInParent()
    try:
        if job._simulation_end_fnc is not None:
            result = job._simulation_end_fnc(simulation)
            if inspect.isawaitable(result):
                await result
    except Exception as error:
        raise RequestError(f"on_simulation_end failed: {error}") from error
    verdict = simulation.user_verdict
    if verdict is not None:
        answer = response.finalize_simulation.user_verdict
        answer.success, answer.reason = verdict.success, verdict.reason


HANDLERS: dict[str, Handler] = {
    "ping": _ping,
    "get_chat_history": _chat_history,
    "get_agent_info": _agent_info,
    "run_input": _run_input,
    "get_session_state": _session_state,
    "get_rtc_stats": _rtc_stats,
    "get_session_usage": _session_usage,
    "get_framework_info": _framework_info,
    "update_io": _update_io,
    "finalize_simulation": _finalize_simulation,
}

__all__ = ["HANDLERS", "RequestError", "handle"]
