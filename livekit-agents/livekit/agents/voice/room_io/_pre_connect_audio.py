"""What the user said before the agent had joined: clients keep it, and send it as a byte stream."""

from __future__ import annotations

import asyncio
import time
import weakref
from dataclasses import dataclass
from typing import ClassVar

from livekit import rtc

from ...log import logger
from ...utils.aio import Survivor, TaskScope
from ...utils.audio import AudioByteStream
from ._native import answer

PRE_CONNECT_AUDIO_BUFFER_STREAM = "lk.agent.pre-connect-audio-buffer"

MAX_AGE = 1.0
"""Seconds after which a buffer that nobody asked for is too old to be of use."""


@dataclass
class _Buffer:
    began_at: float
    """Epoch seconds at which reading it began."""
    frames: asyncio.Future[list[rtc.AudioFrame]]


class PreConnectAudioHandler:
    """Receives the buffers of one room, and gives each to the track it belongs to.

    The handlers of one room share its topic, and all of them see every buffer.
    """

    def __init__(self, room: rtc.Room, *, timeout: float = 3.0) -> None:
        """Set up a handler; nothing is registered before `register`.

        Args:
            room: Where buffers come from.
            timeout: Seconds that a buffer may take.
        """
        self._room = room
        self._timeout = timeout
        self._buffers: dict[str, _Buffer] = {}
        self._given_up: set[str] = set()
        self._scope = TaskScope("pre-connect audio")
        self._shared: _RoomTopic | None = None
        self._too_late = False

    def register(self) -> None:
        """Begin to receive. A topic that somebody else took is a warning, no failure."""
        if self._shared is None:
            self._too_late = self._room.isconnected()
            self._shared = _RoomTopic.join(self._room, self)

    async def wait_for_data(self, track_id: str) -> list[rtc.AudioFrame]:
        """The buffered audio of a track, oldest first; empty when it is too old to be of use.

        Raises:
            asyncio.TimeoutError: Nothing came in time.
            Exception: The buffer could not be read.
        """
        if self._too_late:
            logger.warning(
                "the room was connected before the session was started, so audio from before may "
                "be missing: start the session first, or connect through it"
            )
        entry = self._entry(track_id)
        if entry.frames.done() and time.time() - entry.began_at > MAX_AGE:
            logger.warning("the pre-connect audio of track %s is too old to be used", track_id)
            self._drop(track_id, entry)
            return []
        done, _ = await asyncio.wait((entry.frames,), timeout=self._timeout)
        self._drop(track_id, entry)
        if not done:
            self._given_up.add(track_id)  # what comes later is of no use to anybody
            raise asyncio.TimeoutError
        return entry.frames.result()

    def _entry(self, track_id: str) -> _Buffer:
        entry = self._buffers.get(track_id)
        if entry is None:
            loop = asyncio.get_running_loop()
            entry = self._buffers[track_id] = _Buffer(time.time(), loop.create_future())
        return entry

    def _drop(self, track_id: str, entry: _Buffer) -> None:
        if self._buffers.get(track_id) is entry:
            del self._buffers[track_id]

    def _receive(self, track_id: str, data: bytes, info: rtc.ByteStreamInfo, began: float) -> None:
        """A buffer came. It replaces one that nobody has asked for."""
        if track_id in self._given_up or self._scope.closed:
            return
        if (entry := self._entry(track_id)).frames.done():
            self._drop(track_id, entry)
            entry = self._entry(track_id)
        entry.began_at = began
        self._scope.spawn(self._decode(track_id, data, info, entry), name="pre-connect audio")

    async def _decode(
        self, track_id: str, data: bytes, info: rtc.ByteStreamInfo, entry: _Buffer
    ) -> None:
        try:
            decoding = _decode(data, info)
            frames = await answer(self._scope, decoding, self._timeout, name="decode audio")
        except Exception as error:
            if not entry.frames.done():
                entry.frames.set_exception(error)
                entry.frames.exception()  # retrieved: maybe nobody waits for it
            return
        if not entry.frames.done():
            entry.frames.set_result(frames)
        await asyncio.sleep(max(0.0, entry.began_at + MAX_AGE - time.time()))
        frames.clear()  # too old: don't keep the audio of a track that nobody opens

    def close(self) -> None:
        """Give the topic back, and drop what was received. Idempotent."""
        shared, self._shared = self._shared, None
        if shared is not None:
            shared.leave(self._room, self)
        self._buffers.clear()
        self._scope.cancel_soon()

    async def aclose(self) -> list[Survivor]:
        """As `close`, and wait until its tasks have ended. Bounded."""
        self.close()
        return await self._scope.cancel(0.5)


class _RoomTopic:
    """The topic of one room: registered for the first handler, given back with the last."""

    _of_rooms: ClassVar[weakref.WeakKeyDictionary[rtc.Room, _RoomTopic]] = (
        weakref.WeakKeyDictionary()
    )

    def __init__(self) -> None:
        self._handlers: list[PreConnectAudioHandler] = []
        self._scope = TaskScope("pre-connect audio of a room")

    @classmethod
    def join(cls, room: rtc.Room, handler: PreConnectAudioHandler) -> _RoomTopic | None:
        """Let a handler receive; None when the topic is taken by somebody else."""
        topic = cls._of_rooms.get(room)
        if topic is None:
            topic = cls()
            try:
                room.register_byte_stream_handler(PRE_CONNECT_AUDIO_BUFFER_STREAM, topic._open)
            except ValueError:
                logger.warning(
                    "the topic %s of the room is taken: what was said before the agent joined is "
                    "not heard",
                    PRE_CONNECT_AUDIO_BUFFER_STREAM,
                )
                return None
            cls._of_rooms[room] = topic
        topic._handlers.append(handler)
        return topic

    def leave(self, room: rtc.Room, handler: PreConnectAudioHandler) -> None:
        """A handler has closed."""
        self._handlers.remove(handler)
        if not self._handlers:
            self._of_rooms.pop(room, None)
            room.unregister_byte_stream_handler(PRE_CONNECT_AUDIO_BUFFER_STREAM)
            self._scope.cancel_soon()

    def _open(self, reader: rtc.ByteStreamReader, participant_identity: str) -> None:
        self._scope.spawn(self._read(reader), name="read pre-connect audio")

    async def _read(self, reader: rtc.ByteStreamReader) -> None:
        began = time.time()
        track_id = (reader.info.attributes or {}).get("trackId")
        limit = max(handler._timeout for handler in self._handlers)
        try:
            if not track_id:
                logger.warning("pre-connect audio came without the id of its track; ignored")
                return
            data = await answer(self._scope, _read_all(reader), limit, name="read audio")
        except asyncio.TimeoutError:
            logger.warning("reading the pre-connect audio of track %s took too long", track_id)
            return
        except rtc.StreamError as error:
            logger.warning("the pre-connect audio of track %s broke off: %s", track_id, error)
            return
        finally:
            reader.close()  # one that isn't read to its end would stay subscribed for ever
        for handler in list(self._handlers):
            handler._receive(track_id, data, reader.info, began)


async def _read_all(reader: rtc.ByteStreamReader) -> bytes:
    return b"".join([chunk async for chunk in reader])


async def _decode(data: bytes, info: rtc.ByteStreamInfo) -> list[rtc.AudioFrame]:
    """The frames of a buffer: an Opus container, or raw interleaved int16."""
    attributes = info.attributes or {}
    try:
        sample_rate, channels = int(attributes["sampleRate"]), int(attributes["channels"])
    except (KeyError, ValueError):
        raise ValueError(
            "pre-connect audio needs the attributes sampleRate and channels as decimal numbers, "
            f"got {attributes}"
        ) from None
    if info.mime_type != "audio/opus" and "codecs=opus" not in info.mime_type:
        framer = AudioByteStream(sample_rate, channels, sample_rate // 10)
        return framer.push(data) + framer.flush()
    from ...utils.codecs import AudioStreamDecoder

    decoder = AudioStreamDecoder(sample_rate=sample_rate, num_channels=channels)
    try:
        decoder.push(data)
        decoder.end_input()
        return [frame async for frame in decoder]
    finally:
        await decoder.aclose()


__all__ = ["PRE_CONNECT_AUDIO_BUFFER_STREAM", "PreConnectAudioHandler"]
