"""What is heard and read in a room is published only when there is somebody it is meant for."""

from __future__ import annotations

import asyncio
from typing import Any

from livekit import rtc

from ...log import logger
from ...telemetry import trace_types
from ...telemetry.traces import tracer
from ._output import _ParticipantAudioOutput
from ._transcription import _ParticipantTranscriptionOutput
from .linking import ParticipantLink

__all__ = ["PublishWhenLinked"]

_RETRIES = (0.5, 1.0, 2.0)
"""Seconds before each further try to publish the track: a publish may fail while a room reconnects."""


class PublishWhenLinked:
    """Waits for the linked participant, then publishes the track and names its transcript.

    Args:
        owner: Whose outputs these are, for messages.
        track_name: What to call the track in messages.
        trace_context: The OpenTelemetry context of the spans.
    """

    def __init__(
        self,
        room: rtc.Room,
        link: ParticipantLink[rtc.RemoteParticipant],
        *,
        owner: str,
        track_name: str,
        trace_context: Any = None,
    ) -> None:
        self._room = room
        self._link = link
        self._owner = owner
        self._track_name = track_name
        self._trace_context = trace_context
        self._changed = asyncio.Event()
        self._ready: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        # nobody has to wait for it; a failure that nobody saw is logged already
        self._ready.add_done_callback(lambda ready: ready.cancelled() or ready.exception())

    def linked(self) -> None:
        """Somebody was linked."""
        self._changed.set()

    async def wait_until_ready(self) -> None:
        """Return when somebody is linked, and somebody hears the track.

        Raises:
            RuntimeError: It could not be published, or `close` came first.
        """
        await asyncio.wait((self._ready,))
        self._ready.result()

    async def run(
        self,
        audio: _ParticipantAudioOutput | None,
        transcript: _ParticipantTranscriptionOutput | None,
    ) -> None:
        """Wait and publish. Ends with the first link."""
        filtered = {trace_types.ATTR_ROOM_IO_PARTICIPANT_FILTER: self._link.wanted is not None}
        with tracer.detached_span(
            "wait_for_participant", context=self._trace_context, attributes=filtered
        ):
            while self._link.linked is None:  # it may have left again
                self._changed.clear()
                await self._changed.wait()
        if transcript is not None:
            transcript.set_participant(self._room.local_participant.identity)
        if audio is not None:
            try:
                await self._publish(audio)
            except Exception as error:
                logger.exception("%s could not be published: it is not heard", self._track_name)
                audio.fail(error)
                self._fail(f"{self._track_name} could not be published: {error}")
                return
        if not self._ready.done():
            self._ready.set_result(None)

    async def _publish(self, audio: _ParticipantAudioOutput) -> None:
        for delay in _RETRIES:
            try:
                await audio.start(trace_context=self._trace_context)
                return
            except Exception as error:
                logger.warning("publishing %s failed (%s), trying again", self._track_name, error)
                await asyncio.sleep(delay)
        await audio.start(trace_context=self._trace_context)

    def close(self) -> None:
        """It is over: whoever still waits is told so."""
        self._fail(f"{self._owner} was closed before it was ready")

    def _fail(self, reason: str) -> None:
        if not self._ready.done():
            self._ready.set_exception(RuntimeError(reason))
