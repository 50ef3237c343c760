"""The avatar's side of `DataStreamAudioOutput`."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator

from livekit import rtc

from ...log import logger
from ...types import NOT_GIVEN, NotGivenOr
from ...utils import is_given, wait_for_agent, wait_for_participant
from ...utils.aio import Chan, TaskScope
from ...utils.audio import AudioByteStream
from ..room_io._native import answer
from ._datastream_io import (
    AUDIO_STREAM_TOPIC,
    RPC_CLEAR_BUFFER,
    RPC_PLAYBACK_FINISHED,
    RPC_PLAYBACK_STARTED,
)
from ._rpc import RpcRoutes
from ._types import AudioReceiver, AudioSegmentEnd

CHUNK_TIMEOUT = 10.0
"""Seconds without a chunk after which a stream is over: its end may have been lost."""

RETRY_INTERVAL = 0.1
RPC_TIMEOUT = 10.0
RPC_UNSUPPORTED = 1400
"""Error code of a method that the other side does not have."""


class DataStreamAudioReceiver(AudioReceiver):
    """Receives the audio of an agent in the same room."""

    def __init__(
        self,
        room: rtc.Room,
        *,
        sender_identity: str | None = None,
        frame_size_ms: NotGivenOr[int] = NOT_GIVEN,
        rpc_max_retries: int = 3,
    ) -> None:
        """Set up a receiver; nothing happens before `start`.

        Args:
            room: The room, connected.
            sender_identity: The agent; the first one in the room when None.
            frame_size_ms: Length of the frames in milliseconds; 100 by default.
            rpc_max_retries: How often a report is tried.
        """
        super().__init__()
        self._room = room
        self._sender = sender_identity
        self._frame_size_ms = frame_size_ms if is_given(frame_size_ms) else 100
        self._tries = rpc_max_retries
        self._items: Chan[rtc.AudioFrame | AudioSegmentEnd | Exception] = Chan()
        self._readers: Chan[rtc.ByteStreamReader] = Chan()
        self._reports: Chan[tuple[str, str]] = Chan()
        self._end_current: asyncio.Future[None] | None = None
        self._scope = TaskScope("audio from an agent")
        self._started = False

    async def start(self) -> None:
        """Wait for the agent, and begin to receive.

        Raises:
            RuntimeError: The room is not connected, or disconnects meanwhile.
            ValueError: Somebody else receives audio in this room.
        """
        if self._sender is None:
            self._sender = (await wait_for_agent(self._room)).identity
        else:
            await wait_for_participant(self._room, identity=self._sender)
        self._room.register_byte_stream_handler(AUDIO_STREAM_TOPIC, self._on_stream)
        RpcRoutes.of(self._room).add(self._room, RPC_CLEAR_BUFFER, self._sender, self._on_clear)
        self._started = True
        self._scope.spawn(self._read_streams(), name="read audio streams")
        self._scope.spawn(self._send_reports(), name="report playback")

    # -- receiving --------------------------------------------------------------------------------

    def _on_stream(self, reader: rtc.ByteStreamReader, identity: str) -> None:
        if identity != self._sender or self._readers.closed:
            reader.close()
            return
        self._readers.send_nowait(reader)
        self._end_stream()

    def _on_clear(self, data: rtc.RpcInvocationData) -> None:
        while not self._items.empty():
            self._items.recv_nowait()
        self._end_stream()
        self.emit("clear_buffer")

    def _end_stream(self) -> None:
        if self._end_current is not None and not self._end_current.done():
            self._end_current.set_result(None)

    async def _read_streams(self) -> None:
        async for reader in self._readers:
            self._end_current = asyncio.get_running_loop().create_future()
            if not self._readers.empty():
                self._end_stream()  # a newer one is here already
            try:
                await self._read(reader, self._end_current)
            except Exception as error:
                self._put(error)
            finally:
                reader.close()
            self._put(AudioSegmentEnd())

    async def _read(self, reader: rtc.ByteStreamReader, ended: asyncio.Future[None]) -> None:
        attributes = reader.info.attributes or {}
        try:
            rate, channels = int(attributes["sample_rate"]), int(attributes["num_channels"])
        except (KeyError, ValueError):
            raise ValueError(
                "an audio stream needs the attributes sample_rate and num_channels, got "
                f"{attributes}"
            ) from None
        framer = AudioByteStream(rate, channels, rate * self._frame_size_ms // 1000)
        async for chunk in self._chunks(reader, ended):
            for frame in framer.push(chunk):
                self._put(frame)
        for frame in framer.flush():
            self._put(frame)

    async def _chunks(
        self, reader: rtc.ByteStreamReader, ended: asyncio.Future[None]
    ) -> AsyncIterator[bytes]:
        """The chunks of a stream, until it ends, is ended, or falls silent. What has arrived comes
        before any of these."""
        chunks = reader.__aiter__()
        while True:
            waiting = self._scope.spawn(_next(chunks), name="audio chunk", log_errors=False)
            await asyncio.wait(
                (waiting, ended), timeout=CHUNK_TIMEOUT, return_when=asyncio.FIRST_COMPLETED
            )
            if not waiting.done():
                await asyncio.sleep(0)
            if not waiting.done():
                waiting.cancel()
                if not ended.done():
                    logger.warning("an audio stream fell silent without an end; it is given up")
                return
            chunk = waiting.result()
            if chunk is None:
                return
            yield chunk

    def _put(self, item: rtc.AudioFrame | AudioSegmentEnd | Exception) -> None:
        if not self._items.closed:
            self._items.send_nowait(item)

    def __aiter__(self) -> AsyncIterator[rtc.AudioFrame | AudioSegmentEnd]:
        return self._iterate()

    async def _iterate(self) -> AsyncIterator[rtc.AudioFrame | AudioSegmentEnd]:
        async for item in self._items:
            if isinstance(item, Exception):
                raise item
            yield item

    # -- reporting --------------------------------------------------------------------------------

    def notify_playback_finished(self, playback_position: float, interrupted: bool) -> None:
        """Tell the agent that a segment is over, in the background."""
        payload = {"playback_position": playback_position, "interrupted": interrupted}
        self._report(RPC_PLAYBACK_FINISHED, json.dumps(payload))

    def notify_playback_started(self) -> None:
        """Tell the agent that a segment plays, in the background."""
        self._report(RPC_PLAYBACK_STARTED, "")

    def _report(self, method: str, payload: str) -> None:
        if not self._reports.closed:
            self._reports.send_nowait((method, payload))

    async def _send_reports(self) -> None:
        async for method, payload in self._reports:
            try:
                await self._call(method, payload)
            except Exception as error:
                if method == RPC_PLAYBACK_STARTED and _unsupported(error):
                    logger.debug("the agent does not ask when playback starts")
                else:
                    self._put(error)

    async def _call(self, method: str, payload: str) -> None:
        assert self._sender is not None
        for attempt in range(1, self._tries + 1):
            call = self._room.local_participant.perform_rpc(
                destination_identity=self._sender, method=method, payload=payload
            )
            try:
                await answer(self._scope, call, RPC_TIMEOUT, name=method)
                return
            except Exception as error:
                if attempt == self._tries or _unsupported(error):
                    raise
                logger.warning("%s failed (%s), trying again", method, error)
                await asyncio.sleep(RETRY_INTERVAL)

    async def aclose(self) -> None:
        """Receive no more; what was received can still be read. Safe at any time, bounded."""
        if self._started:
            self._started = False
            assert self._sender is not None
            self._room.unregister_byte_stream_handler(AUDIO_STREAM_TOPIC)
            RpcRoutes.of(self._room).remove(
                self._room, RPC_CLEAR_BUFFER, self._sender, self._on_clear
            )
        self._reports.close()
        self._readers.close()
        while not self._readers.empty():
            self._readers.recv_nowait().close()
        self._items.close()
        await self._scope.cancel(0.5)


async def _next(chunks: AsyncIterator[bytes]) -> bytes | None:
    try:
        return await chunks.__anext__()
    except StopAsyncIteration:
        return None


def _unsupported(error: Exception) -> bool:
    return isinstance(error, rtc.RpcError) and error.code == RPC_UNSUPPORTED


__all__ = ["DataStreamAudioReceiver"]
