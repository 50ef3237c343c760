"""How a session starts: in a task of its own, so that a close can end a start that hangs."""

from __future__ import annotations

import asyncio
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from .._exceptions import _ClosedDuringStart
from ..log import logger
from ..types import NotGivenOr
from ..utils import is_given
from ..utils.aio import wait_until
from ..utils.aio.task_scope import current_ledger
from ._context import bound
from .closing import Step
from .events import CloseReason
from .session_options import resolve_recording

if TYPE_CHECKING:
    from .agent import Agent
    from .agent_session import AgentSession
    from .run_result import RunResult


@dataclass
class StartRequest:
    """The arguments of one `start()`."""

    agent: Agent
    capture_run: bool
    room: NotGivenOr[Any]
    room_options: NotGivenOr[Any]
    session_host: NotGivenOr[bool]
    record: NotGivenOr[Any]
    room_input_options: NotGivenOr[Any]
    room_output_options: NotGivenOr[Any]


def default_vad() -> Any:
    """The VAD of a session that was given none."""
    from ..inference import VAD

    return VAD(model="silero")


def current_job() -> Any:
    """The job this runs in, or None. A process that never loaded the job module has none."""
    module = sys.modules.get("livekit.agents.job")
    return module.get_job_context(required=False) if module is not None else None


def in_text_simulation() -> bool:
    """Whether this runs in a job in which nobody speaks or hears."""
    job = current_job()
    simulation = job.simulation_context() if job is not None else None
    if simulation is None:
        return False
    from livekit.protocol.agent_simulation import SimulationMode

    return bool(simulation.simulation_mode == SimulationMode.SIMULATION_MODE_TEXT)


async def wait_for_former_close(session: AgentSession[Any]) -> None:
    """A start during a close waits for the close, and then starts a new run."""
    closing = session._closing_task
    if closing is not None and not closing.done():
        await asyncio.wait((closing,))


async def start(session: AgentSession[Any], request: StartRequest) -> RunResult[Any] | None:
    """Run the start in its own task; clean up if it fails or its caller is cancelled."""
    if session._start_task is not None:  # somebody else starts it: wait, ignore the arguments
        await asyncio.wait((session._start_task,))
        return None
    session._begin_life()
    run = _begin_run(session) if request.capture_run else None
    with bound(current_ledger, session._ledger):
        task = session._start_task = session._scope.spawn(
            _start(session, request), name="start session", log_errors=False
        )
    try:
        await wait_until(task, None)
    except asyncio.CancelledError:
        task.cancel()
        await _clean_up(session, None)
        raise
    if task.cancelled() or not task.done():  # a close has ended it, or given it up
        await wait_for_former_close(session)
        raise _ClosedDuringStart("session closed")
    error = task.exception()
    if error is not None:
        await _clean_up(session, error)
        raise error
    session._start_task = None
    if run is not None:
        await run
    return run


def _begin_run(session: AgentSession[Any]) -> RunResult[Any]:
    from .run_result import RunResult

    if session._global_run_state is not None and not session._global_run_state.done():
        raise RuntimeError("nested runs are not supported")
    session._global_run_state = RunResult(output_type=None, session=session)
    return session._global_run_state


async def _clean_up(session: AgentSession[Any], error: BaseException | None) -> None:
    """Close again whatever a start that did not succeed had begun."""
    session._had_activity = session._started  # whoever called start() is told by its error
    session._close_soon(reason=CloseReason.ERROR if error else CloseReason.USER_INITIATED)
    closing = session._closing_task
    if closing is not None and not closing.done():
        await asyncio.wait((closing,))


async def _start(session: AgentSession[Any], request: StartRequest) -> None:
    session._spans.begin(request.agent)
    with session._spans.starting():
        await _start_all(session, request)


async def _start_all(session: AgentSession[Any], request: StartRequest) -> None:
    session._started_at = time.time()
    _resolve_recording(session, request)
    session._agent = session._current_agent = request.agent
    session._state.begin()
    if _in_console(session):
        from . import session_room

        await _record(session)
        await session._handoffs.switch(request.agent, trace_context=session._spans.start_context)
        await session_room.start_host(session)
    elif is_given(request.room):
        from . import session_room

        await session_room.join(session, request.room, request)
        await _record(session)
        await session_room.start_agent(session, request.agent, current_job())
        await session_room.start_host(session)
    else:
        await _record(session)
        await session._handoffs.switch(request.agent, trace_context=session._spans.start_context)
    # no await until it runs: either all of the session does, or none of it
    session._started = True
    if session.options.ivr_detection:
        session._start_ivr()
    session._inputs.refresh_audio()
    session._inputs.refresh_video()
    session._on_audio_output_changed()
    await asyncio.sleep(0)  # `on_enter` begins before the state says that the agent listens
    if session._state.agent == "initializing":
        session._state.set_agent("listening")
    logger.debug(
        "session started",
        extra={
            "input_audio": repr(session.input.audio),
            "output_audio": repr(session.output.audio),
            "output_transcription": repr(session.output.transcription),
        },
    )


async def _record(session: AgentSession[Any]) -> None:
    """Record the audio of both sides, in a job, if that was asked for."""
    job = current_job()
    source, sink = session.input.audio, session.output.audio
    wanted = session.options.recording_options.get("audio")
    if job is None or not wanted or source is None or sink is None:
        return
    from .recorder_io import RecorderIO

    recorder = session._recorder_io = RecorderIO(agent_session=session)
    session.input.audio = recorder.record_input(source)
    session.output.audio = recorder.record_output(sink)
    try:
        await recorder.start(output_path=job.session_directory / "audio.ogg")
    except Exception:
        logger.exception("the session is not recorded")


def _in_console(session: AgentSession[Any]) -> bool:
    """Whether this process is a console, whose I/O takes the place of a room's.

    The first session gets it.
    """
    module = sys.modules.get("livekit.agents.cli.console")
    console = module.AgentsConsole.get_instance() if module is not None else None
    if console is None or not console.enabled:
        return False
    if not console.io_acquired:
        if session.input.audio is not None or session.output.audio is not None:
            logger.warning("the console takes the place of the session's own audio")
        console.acquire_io(loop=asyncio.get_running_loop(), session=session)
        if console._tcp_transport is not None:
            from .remote_session import SessionHost

            session._session_host = SessionHost(
                console._tcp_transport, console._tcp_audio_input, console._tcp_audio_output
            )
            session._session_host.register_session(session)
    return True


def _resolve_recording(session: AgentSession[Any], request: StartRequest) -> None:
    job = current_job()
    record = request.record
    if not is_given(record):
        record = bool(job is not None and job.job.enable_recording)
    session.options.recording_options = resolve_recording(record)
    _resolve_primary(session, request, job)
    session._spans.recording_resolved(session.options.recording_options)


def _resolve_primary(session: AgentSession[Any], request: StartRequest, job: Any) -> None:
    """The first session of a job is the one that is recorded, and closed with the job."""
    if job is None:
        return
    primary = getattr(job, "_primary_agent_session", None)
    if primary is None or primary is session:
        job._primary_agent_session = session
    elif is_given(request.record) and any(session.options.recording_options.values()):
        raise RuntimeError(
            "Only one `AgentSession` can be the primary at a time, and only the primary can be "
            "recorded: start this one with record=False"
        )
    else:
        session.options.recording_options = resolve_recording(False)
    if job._primary_agent_session is session:
        job.init_recording(session.options.recording_options)
    if session not in job._session_shutdown_registered:
        job._session_shutdown_registered.add(session)
        job.add_shutdown_callback(_job_shutdown(session))


def _job_shutdown(session: AgentSession[Any]) -> Callable[[], Any]:
    async def close_session() -> None:
        await session._close_with_job()

    # the end of the job closes sessions itself, before it runs the callbacks of users
    close_session._of_framework = True  # type: ignore[attr-defined]
    return close_session


def component_steps(session: AgentSession[Any]) -> list[Step]:
    """Recorder, IVR, session toolsets, and models that the session made from strings."""
    from ..llm import Toolset
    from .activity_wiring import toolset_step

    steps: list[Step] = []
    if session._recorder_io is not None:
        steps.append(
            Step(
                "recorder", session._recorder_io.aclose, budget=2 * session.options.teardown_timeout
            )
        )
    if session._ivr_activity is not None:
        steps.append(Step("ivr", session._ivr_activity.aclose))
    for toolset in session._tools:
        if isinstance(toolset, Toolset):
            steps.append(toolset_step(toolset))
    models: tuple[Any, ...] = (session._stt, session._llm, session._tts)
    for model in models:
        if getattr(model, "_made_from_string", False):
            steps.append(Step(f"model {model.label}", model.aclose))
    return steps


__all__ = ["StartRequest", "component_steps", "default_vad", "in_text_simulation", "start"]
