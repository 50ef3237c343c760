"""A job: one agent in one room, from its assignment to the last shutdown callback."""

from __future__ import annotations

import asyncio
import inspect
import os
import tempfile
import weakref
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from contextvars import ContextVar
from dataclasses import dataclass
from enum import Enum, unique
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TypeVar, overload

from livekit import rtc

from .log import logger
from .utils.aio import TaskScope
from .utils.participant import wait_for_participant

if TYPE_CHECKING:
    from livekit import api
    from livekit.protocol import agent, models

    from .voice import AgentSession

T = TypeVar("T")

DEFAULT_PARTICIPANT_KINDS: list[rtc.ParticipantKind.ValueType] = [
    rtc.ParticipantKind.PARTICIPANT_KIND_CONNECTOR,
    rtc.ParticipantKind.PARTICIPANT_KIND_SIP,
    rtc.ParticipantKind.PARTICIPANT_KIND_STANDARD,
]

_JobContextVar: ContextVar[JobContext | None] = ContextVar("lk_job", default=None)


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


get_JobContextVar_context = get_job_context


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
    """A job that the server offers. Answer it with `accept` or `reject`."""

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
        """Decline the job. `terminate`: nobody else shall be asked, either."""
        await self._on_reject(terminate)

    async def accept(
        self,
        *,
        name: str = "",
        identity: str = "",
        metadata: str = "",
        attributes: dict[str, str] | None = None,
    ) -> None:
        """Take the job, and say how the agent appears in the room."""
        await self._on_accept(
            JobAcceptArguments(
                name=name,
                identity=identity or f"agent-{self.id}",
                metadata=metadata,
                attributes=attributes,
            )
        )


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
        inference_executor: Any,
    ) -> None:
        self._proc = proc
        self._info = info
        self._room = room
        self._on_connect = on_connect
        self._on_shutdown = on_shutdown
        self._inference_executor = inference_executor
        self._shutdown_callbacks: list[Callable[[str], Awaitable[Any]]] = []
        self._scope = TaskScope(f"job {info.job.id}")
        self._connect_lock = asyncio.Lock()
        self._connected = False
        self._entrypoints: list[tuple[Any, Sequence[int]]] = []
        self._primary_agent_session: AgentSession[Any] | None = None
        self._session_shutdown_registered: weakref.WeakSet[Any] = weakref.WeakSet()
        self._log_fields: dict[str, Any] = {}
        self._directory: tempfile.TemporaryDirectory[str] | None = None
        self._api: api.LiveKitAPI | None = None

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
    def inference_executor(self) -> Any:
        """Runs local models outside of this process."""
        return self._inference_executor

    @property
    def inference_headers(self) -> dict[str, str]:
        """Headers to send along with requests to LiveKit Inference."""
        return {}

    @property
    def api(self) -> api.LiveKitAPI:
        """The server's API, with the credentials of the environment."""
        if self._api is None:
            from livekit import api

            from .utils import http_context

            self._api = api.LiveKitAPI(session=http_context.http_session())
        return self._api

    @property
    def primary_session(self) -> AgentSession[Any]:
        """The session that was started first. Raises RuntimeError when none was."""
        if self._primary_agent_session is None:
            raise RuntimeError("no AgentSession was started in this job")
        return self._primary_agent_session

    @property
    def log_context_fields(self) -> dict[str, Any]:
        """Added to every log record of this job."""
        return self._log_fields

    @log_context_fields.setter
    def log_context_fields(self, fields: dict[str, Any]) -> None:
        self._log_fields = fields

    @property
    def session_directory(self) -> Path:
        """Where recordings go; removed with the job."""
        if self._directory is None:
            self._directory = tempfile.TemporaryDirectory(prefix="livekit-job-")
        return Path(self._directory.name)

    @property
    def local_participant_identity(self) -> str:
        """The agent's identity in the room."""
        identity = self.token_claims().get("sub")
        return str(identity) if identity else self._room.local_participant.identity

    def token_claims(self) -> dict[str, Any]:
        """What the job's token says, unverified."""
        if not self._info.token:
            return {}
        import jwt

        claims: dict[str, Any] = jwt.decode(self._info.token, options={"verify_signature": False})
        return claims

    def is_fake_job(self) -> bool:
        """Whether there is no real room behind the job."""
        return self._info.fake_job

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
        """Join the room. Calling it again does nothing.

        Args:
            encryption: End-to-end encryption.
            auto_subscribe: Which tracks to subscribe to.
            rtc_config: ICE servers and the like.
            single_peer_connection: Use one peer connection for both directions.
            e2ee: Deprecated name of `encryption`.
        """
        async with self._connect_lock:
            if self._connected or self._info.fake_job:
                return
            if e2ee is not None:
                logger.warning("the argument e2ee is deprecated, use encryption")
            options = rtc.RoomOptions(
                encryption=encryption or e2ee,
                auto_subscribe=auto_subscribe is AutoSubscribe.SUBSCRIBE_ALL,
                rtc_config=rtc_config,
            )
            if single_peer_connection is not None:
                options.single_peer_connection = single_peer_connection
            await self._room.connect(self._info.url, self._info.token, options=options)
            self._connected = True
            self._on_connect()
            self._room.on("participant_connected", self._participant_joined)
            for participant in self._room.remote_participants.values():
                self._participant_joined(participant)
            _subscribe_to(self._room, auto_subscribe)

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
        participant = await wait_for_participant(self._room, identity=identity, kind=kind)
        assert isinstance(participant, rtc.RemoteParticipant), "local ones are not included"
        return participant

    def add_participant_entrypoint(
        self,
        entrypoint_fnc: Callable[[JobContext, rtc.RemoteParticipant], Coroutine[Any, Any, None]],
        *_: Any,
        kind: list[rtc.ParticipantKind.ValueType]
        | rtc.ParticipantKind.ValueType = DEFAULT_PARTICIPANT_KINDS,
    ) -> None:
        """Run a function for every participant of a kind, those already there included.

        Raises:
            ValueError: If the function was added before.
        """
        if any(known is entrypoint_fnc for known, _ in self._entrypoints):
            raise ValueError(f"{entrypoint_fnc.__name__} is an entrypoint for participants already")
        kinds = list(kind) if isinstance(kind, (list, tuple)) else [kind]
        self._entrypoints.append((entrypoint_fnc, kinds))

    def _participant_joined(self, participant: rtc.RemoteParticipant) -> None:
        for entrypoint, kinds in self._entrypoints:
            if participant.kind in kinds:
                self._scope.spawn(
                    entrypoint(self, participant),
                    name=f"part-entry-{participant.identity}-{entrypoint.__name__}",
                )

    def delete_room(self, room_name: str | None = None) -> asyncio.Task[Any]:
        """Delete a room, this job's by default. Never raises; a room that is gone is fine."""
        return self._scope.spawn(self._delete_room(room_name), name="delete room")

    async def _delete_room(self, room_name: str | None) -> None:
        from livekit import api

        try:
            await self.api.room.delete_room(
                api.DeleteRoomRequest(room=room_name or self._room.name)
            )
        except api.TwirpError as error:
            if error.code != api.TwirpErrorCode.NOT_FOUND:
                logger.warning("could not delete the room: %s", error)

    # -- the end ----------------------------------------------------------------------------------

    def add_shutdown_callback(self, callback: ShutdownCallback) -> None:
        """Await `callback` when the job ends; it may take the reason as its one argument."""
        parameters = inspect.signature(callback).parameters.values()
        takes_reason = any(
            p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD, p.VAR_POSITIONAL)
            for p in parameters
        )
        if takes_reason:
            self._shutdown_callbacks.append(callback)
        else:
            self._shutdown_callbacks.append(lambda _: callback())

    def shutdown(self, reason: str = "user requested") -> None:
        """End the job. The first reason counts."""
        self._on_shutdown(reason)

    def init_recording(self, options: Any) -> None:
        """Called by the session when it starts. Recordings are kept by the session itself."""
        self._recording_options = options


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
    "get_JobContextVar_context",
    "get_job_context",
]
