"""`SessionHost`: shows a session to remote clients, and lets them steer it."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

from livekit import rtc
from livekit.protocol.agent_pb import agent_session as pb

from ...log import logger
from ...utils.aio import Chan, Survivor, TaskScope, wait_until
from . import codec, requests
from .transports import SessionTransport

if TYPE_CHECKING:
    from ..agent_session import AgentSession

CLOSE_TIMEOUT = 3.0
"""Seconds for requests that run, and for what is still to be sent, when it is closed on its own."""


class SessionHost:
    """One session on one transport.

    Events are sent in the order in which they were emitted, also those from before `start`.
    Requests are answered side by side, each exactly once.
    """

    def __init__(
        self, transport: SessionTransport, audio_input: Any = None, audio_output: Any = None
    ) -> None:
        """Set up a host.

        Args:
            transport: Where clients are.
            audio_input: Takes the audio they send (`push_frame`), if any.
            audio_output: Is told when they have played the agent's audio
                (`notify_playout_finished`), if any.
        """
        self._transport = transport
        self._audio_input = audio_input
        self._audio_output = audio_output
        self._session: AgentSession[Any] | None = None
        self._outbox: Chan[pb.AgentSessionMessage] = Chan()
        self._scope = TaskScope("session host")
        self._handlers = TaskScope("session host requests")
        self._writing: asyncio.Task[None] | None = None
        self._closed = False

    def register_session(self, session: AgentSession[Any]) -> None:
        """The session to show. Its events are kept from now on, and sent after `start`."""
        self._session = session
        for name in codec.MIRRORED_EVENTS:
            session.on(name, self._on_event)  # type: ignore[arg-type]
        session.on("debug_message", self._on_debug_message)

    async def start(self) -> None:
        """Begin to serve.

        Raises:
            ValueError: The topic of the transport is taken.
            OSError: The transport can't connect.
        """
        await self._transport.start()
        self._scope.spawn(self._receive(), name="session host: receive")
        self._writing = self._scope.spawn(self._write(), name="session host: send")

    # -- events -----------------------------------------------------------------------------------

    def _on_event(self, event: Any) -> None:
        try:
            message = codec.event_message(event)
        except Exception:
            logger.exception("the event %s could not be passed on", event.type)
            return
        if message is not None:
            self._send(pb.AgentSessionMessage(event=message))

    def _on_debug_message(self, message: Any) -> None:
        event = pb.AgentSessionEvent()
        event.debug_message.CopyFrom(message)
        self._send(pb.AgentSessionMessage(event=event))

    def _on_eot_prediction(self, event: Any) -> None:
        """A turn detector has judged."""
        self._send(pb.AgentSessionMessage(event=codec.eot_prediction(event)))

    def _on_amd_prediction(self, event: Any) -> None:
        """It was found out who has picked up."""
        self._send(pb.AgentSessionMessage(event=codec.amd_prediction(event)))

    def _send(self, message: pb.AgentSessionMessage) -> None:
        if not self._outbox.closed:
            self._outbox.send_nowait(message)

    async def _write(self) -> None:
        async for message in self._outbox:
            try:
                await self._transport.send_message(message)
            except RuntimeError as error:
                # once the room is gone every event ends here
                logger.debug("a session message was not sent: %s", error)

    # -- requests ---------------------------------------------------------------------------------

    async def _receive(self) -> None:
        async for message in self._transport:
            kind = message.WhichOneof("message")
            if kind == "request":
                name = message.request.WhichOneof("request") or "unknown"
                self._handlers.spawn(self._answer(message.request), name=f"request {name}")
            elif kind == "audio_input" and self._audio_input is not None:
                self._audio_input.push_frame(_frame(message.audio_input))
            elif kind == "audio_playback_finished" and self._audio_output is not None:
                self._audio_output.notify_playout_finished()

    async def _answer(self, request: pb.SessionRequest) -> None:
        try:
            if self._session is None:
                raise requests.RequestError("there is no session")
            response = await requests.handle(self._session, request)
        except requests.RequestError as error:
            response = pb.SessionResponse(request_id=request.request_id, error=str(error))
        except Exception:
            logger.exception("a request of a remote session failed")
            response = pb.SessionResponse(request_id=request.request_id, error="internal error")
        self._send(pb.AgentSessionMessage(response=response))

    # -- the end ----------------------------------------------------------------------------------

    async def aclose(self, timeout: float = CLOSE_TIMEOUT) -> list[Survivor]:
        """Let requests end and what is queued be sent, then close the transport. Idempotent.

        Args:
            timeout: Seconds for all of that together; what still runs then is cancelled.
        """
        if self._closed:
            return []
        self._closed = True
        self._forget_session()
        deadline = asyncio.get_running_loop().time() + timeout
        survivors: list[Survivor] = []
        try:
            running = await self._handlers.join(timeout)
            if running:
                logger.warning(
                    "requests of remote clients did not end in time: %s",
                    ", ".join(sorted(task.get_name() for task in running)),
                )
                survivors += await self._handlers.cancel(0.25)
            self._outbox.close()
            if self._writing is not None:
                left = max(0.0, deadline - asyncio.get_running_loop().time())
                await wait_until(self._writing, left)
        finally:
            self._outbox.close()
            self._handlers.cancel_soon()
            self._scope.cancel_soon()
        survivors += await self._scope.cancel(0.25)
        await self._transport.close()
        return survivors

    def _forget_session(self) -> None:
        session, self._session = self._session, None
        if session is None:
            return
        for name in codec.MIRRORED_EVENTS:
            session.off(name, self._on_event)  # type: ignore[arg-type]
        session.off("debug_message", self._on_debug_message)


def _frame(message: Any) -> rtc.AudioFrame:
    return rtc.AudioFrame(
        message.data, message.sample_rate, message.num_channels, message.samples_per_channel
    )


__all__ = ["SessionHost"]
