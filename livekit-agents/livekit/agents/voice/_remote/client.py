"""`RemoteSession`: the other end of a `SessionHost`."""

from __future__ import annotations

import asyncio
from typing import Any, Literal

from livekit import rtc
from livekit.protocol.agent_pb import agent_session as pb

from ..._emitter import IsolatedEmitter
from ...log import logger
from ...utils import shortuuid
from ...utils.aio import TaskScope
from .transports import RoomSessionTransport, SessionTransport

DEFAULT_TIMEOUT = 60.0

RemoteSessionEventTypes = Literal[
    "agent_state_changed",
    "user_state_changed",
    "conversation_item_added",
    "user_input_transcribed",
    "function_tools_executed",
    "function_tools_started",
    "tool_execution_updated",
    "session_usage_updated",
    "overlapping_speech",
    "agent_false_interruption",
    "amd_prediction",
    "eot_prediction",
    "error",
    "debug_message",
]


class RemoteSession(IsolatedEmitter[RemoteSessionEventTypes]):
    """Follows a session that runs elsewhere, and steers it.

    Emits what happens there under the name of the event, with the whole `AgentSessionEvent`.
    """

    def __init__(self, transport: SessionTransport) -> None:
        """Set up a client; nothing happens before `start`.

        Args:
            transport: Where the session is.
        """
        super().__init__()
        self._transport = transport
        self._pending: dict[str, asyncio.Future[pb.SessionResponse]] = {}
        self._scope = TaskScope("remote session")
        self._receiving: asyncio.Task[None] | None = None

    @classmethod
    def from_room(cls, room: rtc.Room, agent_identity: str) -> RemoteSession:
        """A client of the session of an agent in a room."""
        return cls(RoomSessionTransport(room, agent_identity))

    async def start(self) -> None:
        """Begin to follow.

        Raises:
            ValueError: The room's topic is taken.
            OSError: The transport can't connect.
        """
        await self._transport.start()
        self._receiving = self._scope.spawn(self._receive(), name="remote session: receive")

    async def _receive(self) -> None:
        try:
            async for message in self._transport:
                kind = message.WhichOneof("message")
                if kind == "event":
                    name: Any = message.event.WhichOneof("event")
                    if name is not None:
                        self.emit(name, message.event)
                elif kind == "response":
                    waiting = self._pending.pop(message.response.request_id, None)
                    if waiting is not None and not waiting.done():
                        waiting.set_result(message.response)
        finally:
            for waiting in self._pending.values():
                if not waiting.done():
                    waiting.set_exception(RuntimeError("the transport of the session has ended"))
            self._pending.clear()

    async def aclose(self) -> None:
        """Follow no more; requests that wait are cancelled. Idempotent, bounded."""
        for waiting in self._pending.values():
            waiting.cancel()
        await self._transport.close()
        await self._scope.cancel(0.5)

    # -- requests ---------------------------------------------------------------------------------

    async def _request(self, request: pb.SessionRequest, timeout: float) -> pb.SessionResponse:
        if self._receiving is None or self._receiving.done():
            raise RuntimeError("the remote session is not started, or its transport has ended")
        request.request_id = shortuuid("req_")
        waiting: asyncio.Future[pb.SessionResponse] = asyncio.get_running_loop().create_future()
        self._pending[request.request_id] = waiting
        try:
            await self._transport.send_message(pb.AgentSessionMessage(request=request))
            done, _ = await asyncio.wait((waiting,), timeout=timeout)
            if not done:
                kind = request.WhichOneof("request")
                logger.warning("the session did not answer the request %s in %g s", kind, timeout)
                raise asyncio.TimeoutError(f"no answer to {kind} within {timeout:g} s")
            response = waiting.result()
        finally:
            self._pending.pop(request.request_id, None)
        if response.HasField("error"):
            raise RuntimeError(response.error)
        return response

    async def wait_for_ready(self, timeout: float = 5.0, retry_interval: float = 0.5) -> None:
        """Return when the session answers.

        Args:
            timeout: Seconds to try.
            retry_interval: Seconds between two tries.

        Raises:
            TimeoutError: It did not answer.
            RuntimeError: It could not be reached up to the end, or the client is not started.
        """
        loop = asyncio.get_running_loop()
        deadline = loop.time() + timeout
        while True:
            left = deadline - loop.time()
            try:
                request = pb.SessionRequest(ping=pb.SessionRequest.Ping())
                await self._request(request, max(0.0, min(retry_interval, left)))
                return
            except asyncio.TimeoutError:
                if loop.time() >= deadline:
                    raise TimeoutError(f"the session did not answer within {timeout:g} s") from None
            except RuntimeError:
                ended = self._receiving is None or self._receiving.done()
                if ended or loop.time() + retry_interval >= deadline:
                    raise
                await asyncio.sleep(retry_interval)

    async def get_chat_history(self) -> pb.SessionResponse.GetChatHistoryResponse:
        """The whole conversation so far."""
        request = pb.SessionRequest(get_chat_history=pb.SessionRequest.GetChatHistory())
        return (await self._request(request, DEFAULT_TIMEOUT)).get_chat_history

    async def get_agent_info(self) -> pb.SessionResponse.GetAgentInfoResponse:
        """The agent on duty: its id, instructions, tools and context."""
        request = pb.SessionRequest(get_agent_info=pb.SessionRequest.GetAgentInfo())
        return (await self._request(request, DEFAULT_TIMEOUT)).get_agent_info

    async def get_framework_info(self) -> pb.SessionResponse.GetFrameworkInfoResponse:
        """What the session runs on."""
        request = pb.SessionRequest(get_framework_info=pb.SessionRequest.GetFrameworkInfo())
        return (await self._request(request, DEFAULT_TIMEOUT)).get_framework_info

    async def get_session_state(self) -> pb.SessionResponse.GetSessionStateResponse:
        """What agent and user do, and the session's options."""
        request = pb.SessionRequest(get_session_state=pb.SessionRequest.GetSessionState())
        return (await self._request(request, DEFAULT_TIMEOUT)).get_session_state

    async def run(
        self, text: str, timeout: float = DEFAULT_TIMEOUT
    ) -> pb.SessionResponse.RunInputResponse:
        """Say something for the user, and return what came of it.

        Args:
            text: What to say.
            timeout: Seconds to wait for the answer.

        Raises:
            asyncio.TimeoutError: The answer took longer.
            RuntimeError: It failed there; the text says why.
        """
        request = pb.SessionRequest(run_input=pb.SessionRequest.RunInput(text=text))
        return (await self._request(request, timeout)).run_input

    async def update_io(
        self,
        *,
        input_audio_enabled: bool | None = None,
        input_video_enabled: bool | None = None,
        output_audio_enabled: bool | None = None,
        output_video_enabled: bool | None = None,
        output_transcription_enabled: bool | None = None,
        timeout: float = DEFAULT_TIMEOUT,
    ) -> pb.SessionResponse.UpdateIOResponse:
        """Switch inputs and outputs of the session; None leaves one as it is."""
        request = pb.SessionRequest()
        request.update_io.SetInParent()
        for side, name, value in (
            (request.update_io.input, "audio_enabled", input_audio_enabled),
            (request.update_io.input, "video_enabled", input_video_enabled),
            (request.update_io.output, "audio_enabled", output_audio_enabled),
            (request.update_io.output, "video_enabled", output_video_enabled),
            (request.update_io.output, "transcription_enabled", output_transcription_enabled),
        ):
            if value is not None:
                setattr(side, name, value)
        return (await self._request(request, timeout)).update_io

    async def finalize_simulation(
        self,
        *,
        provisional_success: bool,
        provisional_reason: str = "",
        timeout: float = DEFAULT_TIMEOUT,
    ) -> pb.SessionResponse.FinalizeSimulationResponse:
        """End a simulation with a verdict, and return the agent's own, if it has one."""
        request = pb.SessionRequest(
            finalize_simulation=pb.SessionRequest.FinalizeSimulation(
                provisional_success=provisional_success, provisional_reason=provisional_reason
            )
        )
        return (await self._request(request, timeout)).finalize_simulation


__all__ = ["RemoteSession", "RemoteSessionEventTypes"]
