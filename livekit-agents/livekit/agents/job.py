"""A job: one agent in one room, from its assignment to the last shutdown callback."""

from __future__ import annotations

import asyncio
import inspect
import os
import sys
import tempfile
import weakref
from collections.abc import Awaitable, Callable, Coroutine
from contextvars import ContextVar
from dataclasses import dataclass
from enum import Enum, unique
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TypeVar, cast, overload

from livekit import rtc

from ._job_participants import ParticipantEntrypoints
from ._job_requests import RoomRequests
from .log import logger
from .telemetry import trace_types
from .telemetry.session_context import session_span
from .telemetry.utils import harmless, participant_attributes
from .utils.aio import TaskScope
from .utils.participant import wait_for_participant

if TYPE_CHECKING:
    from livekit import api
    from livekit.api.access_token import Claims
    from livekit.protocol import agent, models
    from livekit.protocol.sip import SIPParticipantInfo
    from opentelemetry.trace import Span

    from .ipc.inference_executor import InferenceExecutor
    from .ipc.job_end import SessionInJob
    from .observability import Tagger
    from .simulation import SimulationContext
    from .voice import AgentSession
    from .voice.report import SessionReport

T = TypeVar("T")

DEFAULT_PARTICIPANT_KINDS: list[rtc.ParticipantKind.ValueType] = [
    rtc.ParticipantKind.PARTICIPANT_KIND_CONNECTOR,
    rtc.ParticipantKind.PARTICIPANT_KIND_SIP,
    rtc.ParticipantKind.PARTICIPANT_KIND_STANDARD,
]

_JobContextVar: ContextVar[JobContext | None] = ContextVar("agents_job_context", default=None)


@overload
def get_job_context(*, required: Literal[True] = True) -> JobContext: ...


@overload
def get_job_context(*, required: Literal[False]) -> JobContext | None: ...


def get_job_context(*, required: bool = True) -> JobContext | None:
    """The job that the running code belongs to.

    Args:
        required: Raise outside of a job instead of returning None.

    Raises:
        RuntimeError: Outside of a job.
    """
    ctx = _JobContextVar.get()
    if ctx is None and required:
        raise RuntimeError(
            "no job context found: this code does not run inside a job's entrypoint, or in a task "
            "that was started from there"
        )
    return ctx


get_current_job_context = get_job_context


@unique
class JobExecutorType(Enum):
    """What a job runs in."""

    PROCESS = "process"
    THREAD = "thread"


class AutoSubscribe(str, Enum):
    """Which tracks of the room are subscribed to without asking."""

    SUBSCRIBE_ALL = "subscribe_all"
    SUBSCRIBE_NONE = "subscribe_none"
    AUDIO_ONLY = "audio_only"
    VIDEO_ONLY = "video_only"


@dataclass
class JobAcceptArguments:
    """How the agent appears in the room."""

    name: str
    identity: str
    metadata: str
    attributes: dict[str, str] | None = None


@dataclass
class RunningJobInfo:
    """An assigned job, and when it went through which stage (epoch seconds)."""

    accept_arguments: JobAcceptArguments
    job: agent.Job
    url: str
    token: str
    worker_id: str
    fake_job: bool
    received_at: float = 0.0
    accepted_at: float = 0.0
    assigned_at: float = 0.0
    launched_at: float = 0.0


class JobProcess:
    """The process, or thread, that jobs run in; shared by `setup_fnc` and its jobs."""

    def __init__(
        self,
        *,
        executor_type: JobExecutorType,
        user_arguments: Any | None,
        http_proxy: str | None,
    ) -> None:
        self._executor_type = executor_type
        self._userdata: dict[str, Any] = {}
        self._user_arguments = user_arguments
        self._http_proxy = http_proxy

    @property
    def executor_type(self) -> JobExecutorType:
        """Process or thread."""
        return self._executor_type

    @property
    def pid(self) -> int:
        """Id of the process."""
        return os.getpid()

    @property
    def userdata(self) -> dict[str, Any]:
        """Whatever `setup_fnc` prepared."""
        return self._userdata

    @property
    def user_arguments(self) -> Any | None:
        """What the launcher passed along."""
        return self._user_arguments

    @property
    def http_proxy(self) -> str | None:
        """Proxy for outgoing HTTP requests, or None."""
        return self._http_proxy


class JobRequest:
    """A job that the server offers. Answer it with `accept` or `reject`, once."""

    def __init__(
        self,
        *,
        job: agent.Job,
        on_reject: Callable[[bool], Coroutine[None, None, None]],
        on_accept: Callable[[JobAcceptArguments], Coroutine[None, None, None]],
    ) -> None:
        self._job = job
        self._on_reject = on_reject
        self._on_accept = on_accept
        self._answer = ""

    @property
    def id(self) -> str:
        """Id of the job."""
        return self._job.id

    @property
    def job(self) -> agent.Job:
        """The job as the server describes it."""
        return self._job

    @property
    def room(self) -> models.Room:
        """The room it is about."""
        return self._job.room

    @property
    def publisher(self) -> models.ParticipantInfo | None:
        """The participant it is about, for publisher jobs."""
        return self._job.participant

    @property
    def agent_name(self) -> str:
        """The agent that was asked for."""
        return self._job.agent_name

    async def reject(self, *, terminate: bool = True) -> None:
        """Decline the job. Ignored, with a warning, when it was answered before.

        Args:
            terminate: Nobody else shall be asked, either.
        """
        if self._answered("rejected"):
            await self._on_reject(terminate)

    async def accept(
        self,
        *,
        name: str = "",
        identity: str = "",
        metadata: str = "",
        attributes: dict[str, str] | None = None,
    ) -> None:
        """Take the job; returns when a process has it. Ignored when it was answered before.

        Args:
            name: Of the agent in the room.
            identity: Of the agent in the room; "agent-" and the job's id by default.
            metadata: Of the agent in the room.
            attributes: Of the agent in the room.

        Raises:
            AssignmentTimeoutError: The server did not assign the job in time.
        """
        if self._answered("accepted"):
            await self._on_accept(
                JobAcceptArguments(
                    name=name,
                    identity=identity or f"agent-{self.id}",
                    metadata=metadata,
                    attributes=attributes,
                )
            )

    def _answered(self, answer: str) -> bool:
        """Note an answer. False when there is one already."""
        if self._answer:
            logger.warning("job request %s was %s already", self.id, self._answer)
            return False
        self._answer = answer
        return True


ShutdownCallback = Callable[..., Awaitable[Any]]


class JobContext:
    """What an entrypoint gets: the room, the job, and a say in how it ends."""

    def __init__(
        self,
        *,
        proc: JobProcess,
        info: RunningJobInfo,
        room: rtc.Room,
        on_connect: Callable[[], None],
        on_shutdown: Callable[[str], None],
        inference_executor: InferenceExecutor,
    ) -> None:
        """Built by the framework when the job starts, inside of its event loop."""
        self._proc = proc
        self._info = info
        self._room = room
        self._on_connect = on_connect
        self._on_shutdown = on_shutdown
        self._inference_executor = inference_executor
        self._shutdown_callbacks: list[ShutdownCallback] = []
        self._scope = TaskScope(f"job {info.job.id}")
        self._connecting: asyncio.Task[None] | None = None
        self._connected = False
        self._participants = ParticipantEntrypoints(self, room, job_id=info.job.id)
        self._requests = RoomRequests(lambda: self.api, fake=info.fake_job, job_id=info.job.id)
        self._primary_agent_session: AgentSession[Any] | None = None
        self._session_shutdown_registered: weakref.WeakSet[SessionInJob] = weakref.WeakSet()
        self._log_fields: dict[str, Any] = {}
        self._directory: tempfile.TemporaryDirectory[str] | None = None
        self._api: api.LiveKitAPI | None = None
        self._tagger: Tagger | None = None
        self._recording_options: Any = None
        self._redaction_enabled = bool(info.job.enable_redaction)
        self._simulation: SimulationContext | Literal[False] | None = False
        self._simulation_end_fnc: Callable[..., Any] | None = None
        self._telemetry_state: Any = None

    @property
    def proc(self) -> JobProcess:
        """The process the job runs in."""
        return self._proc

    @property
    def job(self) -> agent.Job:
        """The job as the server describes it."""
        return self._info.job

    @property
    def worker_id(self) -> str:
        """Id of the worker that took the job."""
        return self._info.worker_id

    @property
    def room(self) -> rtc.Room:
        """The room; connected after `connect()`."""
        return self._room

    @property
    def agent(self) -> rtc.LocalParticipant:
        """The agent as a participant. Raises before `connect()`."""
        return self._room.local_participant

    @property
    def inference_executor(self) -> InferenceExecutor:
        """Runs local models outside of this process."""
        return self._inference_executor

    @property
    def inference_headers(self) -> dict[str, str]:
        """Headers to send along with requests to LiveKit Inference."""
        simulation = self.simulation_context()
        return simulation._inference_headers() if simulation is not None else {}

    @property
    def api(self) -> api.LiveKitAPI:
        """The server's API, with the credentials of the environment."""
        if self._api is None:
            from livekit import api

            from .utils import http_context

            self._api = api.LiveKitAPI(session=http_context.http_session())
        return self._api

    @property
    def tagger(self) -> Tagger:
        """Tags and outcome of the job, for its report."""
        if self._tagger is None:
            from .observability import Tagger

            self._tagger = Tagger()
        return self._tagger

    @property
    def primary_session(self) -> AgentSession[Any]:
        """The session that was started first. Raises RuntimeError when none was."""
        if self._primary_agent_session is None:
            raise RuntimeError("no AgentSession was started in this job")
        return self._primary_agent_session

    @property
    def log_context_fields(self) -> dict[str, Any]:
        """Added to every log record of this job that has no such field; edit or replace it."""
        return self._log_fields

    @log_context_fields.setter
    def log_context_fields(self, fields: dict[str, Any]) -> None:
        self._log_fields = fields

    @property
    def session_directory(self) -> Path:
        """Where recordings go; removed with the job, except in the console."""
        console = _console()
        if console is not None:
            directory: Path = console.session_directory
            return directory
        if self._directory is None:
            self._directory = tempfile.TemporaryDirectory(prefix="livekit-job-")
        return Path(self._directory.name)

    @property
    def local_participant_identity(self) -> str:
        """The agent's identity in the room."""
        return self.token_claims().identity or str(self._room.local_participant.identity)

    def token_claims(self) -> Claims:
        """What the job's token says, unverified; nothing if there is no token."""
        from livekit.api.access_token import Claims, TokenVerifier

        if not self._info.token:
            return Claims()
        return TokenVerifier().verify(self._info.token, verify_signature=False)

    def is_fake_job(self) -> bool:
        """Whether there is no real room behind the job."""
        return self._info.fake_job

    def simulation_context(self) -> SimulationContext | None:
        """What the job has to do with a simulation; None when it is none."""
        if self._simulation is False:
            if not self._info.job.attributes:
                self._simulation = None
            else:
                from .simulation import _from_job

                self._simulation = _from_job(self)
        return self._simulation

    # -- the room ---------------------------------------------------------------------------------

    async def connect(
        self,
        *,
        encryption: rtc.E2EEOptions | None = None,
        auto_subscribe: AutoSubscribe = AutoSubscribe.SUBSCRIBE_ALL,
        rtc_config: rtc.RtcConfiguration | None = None,
        single_peer_connection: bool | None = None,
        e2ee: rtc.E2EEOptions | None = None,
    ) -> None:
        """Join the room. Calling it again does nothing, or waits for the call that is under way.

        Cancelling the caller does not stop a connection in progress: it is left when the job ends.

        Args:
            encryption: End-to-end encryption.
            auto_subscribe: Which tracks to subscribe to.
            rtc_config: ICE servers and the like.
            single_peer_connection: Use one peer connection for both directions.
            e2ee: Deprecated name of `encryption`.

        Raises:
            rtc.ConnectError: The room can't be joined.
        """
        if self._connected:
            return
        if self._connecting is None:
            if e2ee is not None:
                logger.warning("the argument e2ee of connect() is deprecated, use encryption")
            options = rtc.RoomOptions(
                encryption=encryption or e2ee,
                auto_subscribe=auto_subscribe is AutoSubscribe.SUBSCRIBE_ALL,
                rtc_config=rtc_config,
                single_peer_connection=single_peer_connection,
            )
            self._connecting = self._scope.spawn(
                self._connect(options, auto_subscribe), name="connect to the room", log_errors=False
            )
            self._connecting.add_done_callback(self._connect_ended)
        await asyncio.shield(self._connecting)

    async def _connect(self, options: rtc.RoomOptions, auto_subscribe: AutoSubscribe) -> None:
        with session_span(
            "room_connect",
            job_ctx=self,
            attributes={
                trace_types.ATTR_ROOM_NAME: self.job.room.name,
                trace_types.ATTR_ROOM_AUTO_SUBSCRIBE: auto_subscribe.value,
                trace_types.ATTR_ROOM_E2EE: options.encryption is not None,
            },
        ) as span:
            await self._room.connect(self._info.url, self._info.token, options=options)
            _record_room(span, self._room, self.job.room.sid)
        _trace_rpcs(self._room.local_participant)
        self._connected = True
        self._on_connect()
        if self.simulation_context() is not None:
            self._room.on("participant_disconnected", self._participant_left)
        self._participants.follow()
        _subscribe_to(self._room, auto_subscribe)

    def _connect_ended(self, task: asyncio.Task[None]) -> None:
        self._connecting = None
        if not task.cancelled():
            task.exception()  # taken, in case that nobody waits any more

    def _participant_left(self, participant: rtc.RemoteParticipant) -> None:
        if "lk.simulator" in participant.attributes:
            self.shutdown("simulation completed")

    async def wait_for_participant(
        self,
        *,
        identity: str | None = None,
        kind: list[rtc.ParticipantKind.ValueType]
        | rtc.ParticipantKind.ValueType = DEFAULT_PARTICIPANT_KINDS,
    ) -> rtc.RemoteParticipant:
        """The first active participant of a kind; connects first if needed. Waits without limit.

        Raises:
            RuntimeError: If the room disconnects meanwhile.
        """
        await self.connect()
        with session_span(
            "wait_for_participant",
            job_ctx=self,
            attributes={trace_types.ATTR_ROOM_IO_PARTICIPANT_FILTER: identity is not None},
        ) as span:
            participant = await wait_for_participant(self._room, identity=identity, kind=kind)
            _record_participant(span, participant)
        return cast("rtc.RemoteParticipant", participant)

    def add_participant_entrypoint(
        self,
        entrypoint_fnc: Callable[[JobContext, rtc.RemoteParticipant], Coroutine[Any, Any, None]],
        *_: Any,
        kind: list[rtc.ParticipantKind.ValueType]
        | rtc.ParticipantKind.ValueType = DEFAULT_PARTICIPANT_KINDS,
    ) -> None:
        """Run a function for every participant of a kind, those already there included.

        The tasks are cancelled when the job ends. Errors are logged.

        Raises:
            ValueError: If the function was added before.
        """
        kinds = list(kind) if isinstance(kind, (list, tuple)) else [kind]
        self._participants.add(entrypoint_fnc, kinds)

    def delete_room(self, room_name: str | None = None) -> asyncio.Future[Any]:
        """Delete a room, this job's by default. Never raises; a room that is gone is fine.

        It needs not be awaited: the end of the job waits a moment for it.
        """
        return self._requests.delete_room(room_name or self._room.name)

    def add_sip_participant(
        self,
        *,
        call_to: str,
        trunk_id: str,
        participant_identity: str,
        participant_name: str = "SIP-participant",
    ) -> asyncio.Future[SIPParticipantInfo]:
        """Call a phone and put the callee into the room.

        Args:
            call_to: Number or SIP address.
            trunk_id: Outbound SIP trunk.
            participant_identity: Of the callee in the room.
            participant_name: Of the callee in the room.
        """
        return self._requests.call(
            room=self._room.name,
            call_to=call_to,
            trunk_id=trunk_id,
            identity=participant_identity,
            name=participant_name,
        )

    def transfer_sip_participant(
        self,
        participant: rtc.RemoteParticipant | str,
        transfer_to: str,
        play_dialtone: bool = False,
    ) -> asyncio.Future[SIPParticipantInfo]:
        """Transfer a caller to another number.

        Args:
            participant: The caller, or its identity.
            transfer_to: Number or SIP address.
            play_dialtone: Let the caller hear it ring.

        Raises:
            AssertionError: The participant is not a SIP participant.
        """
        return self._requests.transfer(
            participant, room=self._room.name, to=transfer_to, dialtone=play_dialtone
        )

    # -- the end ----------------------------------------------------------------------------------

    def add_shutdown_callback(self, callback: ShutdownCallback) -> None:
        """Await `callback` when the job ends; it may take the reason as its one argument.

        Callbacks run side by side after the room was left. They can be added until then.
        """
        self._shutdown_callbacks.append(callback)

    def shutdown(self, reason: str = "user requested") -> None:
        """End the job. Returns at once; the first reason counts."""
        self._on_shutdown(reason)

    # -- what remains -----------------------------------------------------------------------------

    def make_session_report(self, session: AgentSession[Any] | None = None) -> SessionReport:
        """What happened in a session.

        Args:
            session: The primary one by default.

        Raises:
            RuntimeError: There is no session, or its recording has not ended.
        """
        from .voice.report import make_report

        return make_report(self, session or self.primary_session)

    def init_recording(self, options: Any) -> None:
        """Called by the session when it starts: what of it will be recorded. Once per job.

        Raises:
            ValueError: Audio is recorded without transcript where redaction is required: there
                would be nothing to redact it by.
        """
        if self._redaction_enabled and options.get("audio") and not options.get("transcript"):
            raise ValueError(
                "redaction is enabled for this job: recording audio needs the transcript as well, "
                "set record={'audio': True, 'transcript': True}"
            )
        if self._recording_options is None:
            self._recording_options = options
            if self._telemetry_state is not None:
                self._telemetry_state.decide(
                    traces=bool(options.get("traces")), logs=bool(options.get("logs"))
                )

    @property
    def _observability_url(self) -> str | None:
        """Where LiveKit Cloud takes reports and traces; None elsewhere."""
        from urllib.parse import urlparse

        if url := os.environ.get("LIVEKIT_OBSERVABILITY_URL"):
            return url
        host = urlparse(self._info.url or os.environ.get("LIVEKIT_URL", "")).hostname or ""
        return f"https://{host}" if host.endswith((".livekit.cloud", ".livekit.run")) else None

    def _clean_up(self) -> None:
        """Remove what the job kept on disk."""
        directory, self._directory = self._directory, None
        if directory is not None:
            directory.cleanup()


def _console() -> Any:
    """The console that this process runs, if it does."""
    module = sys.modules.get("livekit.agents.cli.console")
    console = module.AgentsConsole.get_instance() if module is not None else None
    return console if console is not None and console.enabled else None


def callback_takes_reason(callback: Callable[..., Any]) -> bool:
    """Whether a shutdown callback wants the reason: it has a positional parameter to fill."""
    try:
        parameters = inspect.signature(callback).parameters.values()
    except (TypeError, ValueError):
        return False
    return any(p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD) for p in parameters)


def current_simulation() -> SimulationContext | None:
    """The simulation that the running code is part of, or None."""
    ctx = _JobContextVar.get()
    return ctx.simulation_context() if ctx is not None else None


def _trace_rpcs(participant: rtc.LocalParticipant) -> None:
    """Trace the RPCs of the agent; the interceptor needs the SDK, which is loaded by now."""
    from .telemetry.rpc import install

    install(participant)


@harmless
def _record_room(span: Span, room: rtc.Room, sid: str) -> None:
    if not span.is_recording():
        return
    local = room.local_participant
    span.set_attributes(
        {
            trace_types.ATTR_ROOM_SID: sid,
            trace_types.ATTR_PARTICIPANT_ID: local.sid,
            trace_types.ATTR_PARTICIPANT_IDENTITY: local.identity,
            trace_types.ATTR_ROOM_REMOTE_PARTICIPANT_COUNT: len(room.remote_participants),
        }
    )


@harmless
def _record_participant(span: Span, participant: rtc.Participant) -> None:
    if span.is_recording():
        span.set_attributes(participant_attributes(participant))


def _subscribe_to(room: rtc.Room, choice: AutoSubscribe) -> None:
    """Subscribe to tracks of one kind, present and future ones."""
    kinds = {
        AutoSubscribe.AUDIO_ONLY: rtc.TrackKind.KIND_AUDIO,
        AutoSubscribe.VIDEO_ONLY: rtc.TrackKind.KIND_VIDEO,
    }
    kind = kinds.get(choice)
    if kind is None:
        return

    def on_published(publication: rtc.RemoteTrackPublication, *_: Any) -> None:
        if publication.kind == kind:
            publication.set_subscribed(True)

    room.on("track_published", on_published)
    for participant in room.remote_participants.values():
        for publication in participant.track_publications.values():
            on_published(publication)


__all__ = [
    "DEFAULT_PARTICIPANT_KINDS",
    "AutoSubscribe",
    "JobAcceptArguments",
    "JobContext",
    "JobExecutorType",
    "JobProcess",
    "JobRequest",
    "RunningJobInfo",
    "current_simulation",
    "get_current_job_context",
    "get_job_context",
]
