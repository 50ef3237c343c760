"""The agent's audio for an avatar that runs elsewhere: byte streams through the room.

One byte stream for each segment of speech, raw int16 samples; its end is the end of the segment.
What was played is reported back by remote procedure calls.
"""

from __future__ import annotations

import asyncio
import json
import time

from livekit import rtc

from ...log import logger
from ...utils import shortuuid, wait_for_participant, wait_for_track_publication
from ...utils.aio import Survivor, TaskScope
from ..io import AudioOutput, AudioOutputCapabilities
from ..io.audio_output import _CaptureCancelledEvent
from ..room_io._native import answer
from ._rpc import RpcRoutes

RPC_CLEAR_BUFFER = "lk.clear_buffer"
RPC_PLAYBACK_FINISHED = "lk.playback_finished"
RPC_PLAYBACK_STARTED = "lk.playback_started"
AUDIO_STREAM_TOPIC = "lk.audio_stream"

STREAM_TIMEOUT = 5.0
"""Seconds for a native call on a stream."""


class DataStreamAudioOutput(AudioOutput):
    """Sends the agent's audio to another participant, who plays it."""

    def __init__(
        self,
        room: rtc.Room,
        *,
        destination_identity: str,
        sample_rate: int | None = None,
        wait_remote_track: rtc.TrackKind.ValueType | None = None,
        clear_buffer_timeout: float | None = 2.0,
        wait_playback_start: bool = False,
    ) -> None:
        """Set up the output. It starts when the room is connected.

        Args:
            room: The room of both, connected or to be connected.
            destination_identity: Who plays the audio.
            sample_rate: What they want, in Hz; None takes any.
            wait_remote_track: Capture only when they have published a track of this kind.
            clear_buffer_timeout: Seconds to wait for their report after an interruption, before
                the segment is given up; None waits until they report.
            wait_playback_start: They report when a segment begins to play; otherwise sending its
                first frame counts as that.
        """
        super().__init__(
            label="DataStreamIO",
            capabilities=AudioOutputCapabilities(pause=False),
            sample_rate=sample_rate,
        )
        self._room = room
        self._destination = destination_identity
        self._wait_remote_track = wait_remote_track
        self._clear_timeout = clear_buffer_timeout
        self._wait_playback_start = wait_playback_start
        self._scope = TaskScope("audio for an avatar")
        self._starting: asyncio.Task[None] | None = None
        self._writer: rtc.ByteStreamWriter | None = None
        self._clearing: asyncio.Task[None] | None = None
        self._sent = 0.0
        self._answering = False
        self._attached = True
        self._closed = False
        room.on("connection_state_changed", self._on_connection_state)
        if room.isconnected():
            self._on_connection_state(None)

    # -- the start --------------------------------------------------------------------------------

    def _on_connection_state(self, state: object) -> None:
        if self._room.isconnected():
            self._answer_calls()
            if self._starting is None:
                self._starting = self._begin_start()
        elif self._answering:
            self._answering = False
            self._settle_all()  # nobody will report any more

    def _begin_start(self) -> asyncio.Task[None]:
        task = self._scope.spawn(self._start(), name="wait for an avatar", log_errors=False)
        task.add_done_callback(_retrieve)
        return task

    async def _start(self) -> None:
        await wait_for_participant(self._room, identity=self._destination)
        if self._wait_remote_track is not None:
            await wait_for_track_publication(
                self._room, identity=self._destination, kind=self._wait_remote_track
            )

    async def _wait_started(self) -> None:
        if self._starting is None or (self._starting.done() and _failed(self._starting)):
            self._starting = self._begin_start()  # the avatar may have come back
        await asyncio.wait((self._starting,))
        self._starting.result()

    @property
    def _started(self) -> bool:
        return self._starting is not None and self._starting.done() and not _failed(self._starting)

    # -- sending ----------------------------------------------------------------------------------

    async def capture_frame(self, frame: rtc.AudioFrame) -> None:
        """Send a frame, once the avatar is there. Does nothing when closed.

        Raises:
            RuntimeError: The room is not connected, or the avatar left before it was ready. The
                next capture tries again.
            asyncio.TimeoutError: The native layer does not answer.
        """
        if self._closed:
            return
        await self._wait_started()
        await self._wait_cleared()
        writer = self._writer
        if writer is None:
            writer = self._writer = await answer(
                self._scope, self._open(frame), STREAM_TIMEOUT, name="open an audio stream"
            )
            self._sent = 0.0
        first = not self._capturing
        await super().capture_frame(frame)
        self._sent += frame.duration
        if first and not self._wait_playback_start:
            self.on_playback_started(created_at=time.time())
        await answer(
            self._scope, writer.write(bytes(frame.data)), STREAM_TIMEOUT, name="send audio"
        )

    async def _wait_cleared(self) -> None:
        """An interruption comes first. Without a limit for it, nobody waits."""
        clearing = self._clearing
        if clearing is None or clearing.done() or self._clear_timeout is None:
            return
        try:
            await asyncio.wait((clearing,))
        except asyncio.CancelledError:
            # wrappers that counted this segment get one finish for it, after that of the last
            clearing.add_done_callback(
                lambda _: self.emit(
                    "playback_finished",
                    _CaptureCancelledEvent(playback_position=0.0, interrupted=True),
                )
            )
            raise

    async def _open(self, frame: rtc.AudioFrame) -> rtc.ByteStreamWriter:
        return await self._room.local_participant.stream_bytes(
            name=shortuuid("AUDIO_"),
            topic=AUDIO_STREAM_TOPIC,
            destination_identities=[self._destination],
            attributes={
                "sample_rate": str(frame.sample_rate),
                "num_channels": str(frame.num_channels),
            },
        )

    def flush(self) -> None:
        """End the stream: the segment is complete."""
        super().flush()
        writer, self._writer = self._writer, None
        if writer is not None and not self._closed:
            self._scope.spawn(writer.aclose(), name="end an audio stream")

    def clear_buffer(self) -> None:
        """Tell the avatar to drop what is not played."""
        clearing = self._clearing is not None and not self._clearing.done()
        if self._started and self._pending_playback_count and not clearing and not self._closed:
            self._clearing = self._scope.spawn(self._clear(), name="interrupt an avatar")

    async def _clear(self) -> None:
        target = self._captured_segments
        try:
            call = self._room.local_participant.perform_rpc(
                destination_identity=self._destination, method=RPC_CLEAR_BUFFER, payload=""
            )
            await answer(
                self._scope, call, self._clear_timeout or STREAM_TIMEOUT, name="clear the buffer"
            )
        except Exception as error:
            logger.warning("the avatar %s could not be interrupted: %s", self._destination, error)
            self._settle(target)
            return
        if self._clear_timeout is None:
            return
        finished = self._scope.spawn(self.wait_for_playout(), name="wait for an avatar's report")
        await asyncio.wait((finished,), timeout=self._clear_timeout)
        if not finished.done():
            finished.cancel()
            logger.warning(
                "the avatar %s did not report within %.1f s after an interruption",
                self._destination,
                self._clear_timeout,
            )
            self._settle(target)

    def _settle(self, target: int) -> None:
        """Finish what was captured up to a segment: nobody reports it."""
        while self._finished_segments < min(target, self._captured_segments):
            self.on_playback_finished(playback_position=self._sent, interrupted=True)

    def _settle_all(self) -> None:
        self._capturing = False
        self._settle(self._captured_segments)

    # -- reports ----------------------------------------------------------------------------------

    def _answer_calls(self) -> None:
        if self._answering or self._closed:
            return
        self._answering = True
        routes = RpcRoutes.of(self._room)
        routes.add(self._room, RPC_PLAYBACK_FINISHED, self._destination, self._on_finished_call)
        if self._wait_playback_start:
            routes.add(self._room, RPC_PLAYBACK_STARTED, self._destination, self._on_started_call)

    def _stop_answering(self) -> None:
        if self._answering:
            self._answering = False
            routes = RpcRoutes.of(self._room)
            for method, handler in (
                (RPC_PLAYBACK_FINISHED, self._on_finished_call),
                (RPC_PLAYBACK_STARTED, self._on_started_call),
            ):
                routes.remove(self._room, method, self._destination, handler)

    def _on_finished_call(self, data: rtc.RpcInvocationData) -> None:
        report = json.loads(data.payload)
        self.on_playback_finished(
            playback_position=float(report["playback_position"]),
            interrupted=bool(report["interrupted"]),
        )
        if not self._attached and not self._pending_playback_count:
            self._stop_answering()

    def _on_started_call(self, data: rtc.RpcInvocationData) -> None:
        self.on_playback_started(created_at=time.time())

    # -- attaching and the end --------------------------------------------------------------------

    def on_attached(self) -> None:
        """The session plays to it."""
        super().on_attached()
        self._attached = True
        if self._room.isconnected():
            self._answer_calls()

    def on_detached(self) -> None:
        """The session plays to it no more; reports that are due are still taken."""
        super().on_detached()
        self._attached = False
        if not self._pending_playback_count:
            self._stop_answering()

    async def aclose(self) -> list[Survivor]:
        """Send no more, finish what is pending, and give the methods back. Idempotent, bounded."""
        if self._closed:
            return []
        self._closed = True
        self._room.off("connection_state_changed", self._on_connection_state)
        self._stop_answering()
        self._settle_all()
        return await self._scope.cancel(1.0)


def _retrieve(task: asyncio.Task[None]) -> None:
    if not task.cancelled():
        task.exception()


def _failed(task: asyncio.Task[None]) -> bool:
    return task.cancelled() or task.exception() is not None


__all__ = [
    "AUDIO_STREAM_TOPIC",
    "RPC_CLEAR_BUFFER",
    "RPC_PLAYBACK_FINISHED",
    "RPC_PLAYBACK_STARTED",
    "DataStreamAudioOutput",
]
