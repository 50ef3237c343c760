"""A room without a network: participants come, publish, speak and leave when a test says so.

`Native` stands for the native layer of `livekit.rtc`; a test names the calls that never return.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any

import pytest
from livekit import rtc

from livekit.agents.utils import shortuuid

STANDARD = rtc.ParticipantKind.PARTICIPANT_KIND_STANDARD
SIP = rtc.ParticipantKind.PARTICIPANT_KIND_SIP
AGENT = rtc.ParticipantKind.PARTICIPANT_KIND_AGENT
MICROPHONE = rtc.TrackSource.SOURCE_MICROPHONE
CLIENT_INITIATED = rtc.DisconnectReason.CLIENT_INITIATED


class Native:
    """What the native layer does with a call: answer at once, or never."""

    def __init__(self) -> None:
        self.silent: set[str] = set()
        """Calls that never return, by name."""
        self.stubborn: set[str] = set()
        """Those of them that ignore even their cancellation, until `release`."""
        self.failing: dict[str, Exception] = {}
        self.log: list[str] = []
        self._released = asyncio.Event()

    def release(self) -> None:
        """Let everything return."""
        self.silent.clear()
        self._released.set()

    async def call(self, name: str) -> None:
        self.log.append(name)
        await asyncio.sleep(0)
        if name in self.failing:
            raise self.failing[name]
        while name in self.silent:
            try:
                await self._released.wait()
            except asyncio.CancelledError:
                if name not in self.stubborn:
                    raise


@dataclass
class FakePublication:
    """A track of somebody's."""

    source: int = MICROPHONE
    kind: int = rtc.TrackKind.KIND_AUDIO
    audio_features: list[int] = field(default_factory=list)
    sid: str = field(default_factory=lambda: shortuuid("TR_"))
    subscribed: bool = False
    track: Any = None
    name: str = ""


@dataclass
class FakeParticipant:
    """Somebody in the room."""

    identity: str
    kind: int = STANDARD
    attributes: dict[str, str] = field(default_factory=dict)
    client_protocol: int = 3
    state: int = rtc.ParticipantState.PARTICIPANT_STATE_ACTIVE
    disconnect_reason: int | None = None
    sid: str = "PA_fake"
    track_publications: dict[str, FakePublication] = field(default_factory=dict)

    @property
    def _info(self) -> Any:
        return SimpleNamespace(client_protocol=self.client_protocol)


class FakeTextWriter:
    """A text stream as the other side would read it."""

    def __init__(self, native: Native, topic: str, sender: str, attributes: dict[str, str]) -> None:
        self._native = native
        self.topic, self.sender, self.attributes = topic, sender, attributes
        self.chunks: list[str] = []
        self.closed = False

    @property
    def text(self) -> str:
        return "".join(self.chunks)

    async def write(self, text: str) -> None:
        await self._native.call("write")
        self.chunks.append(text)

    async def aclose(self, *, reason: str = "", attributes: dict[str, str] | None = None) -> None:
        await self._native.call("close_text")
        self.attributes = {**self.attributes, **(attributes or {})}
        self.closed = True


class FakeByteWriter:
    """A byte stream as the other side would read it."""

    def __init__(self, native: Native, topic: str, options: dict[str, Any]) -> None:
        self._native = native
        self.topic, self.options = topic, options
        self.data = bytearray()
        self.closed = False
        self.reader = FakeReader([], attributes=options.get("attributes"), live=True)
        """What the other side reads."""

    async def write(self, data: bytes) -> None:
        await self._native.call("write_bytes")
        self.data += data
        self.reader.feed(bytes(data))

    async def aclose(self, **_: Any) -> None:
        await self._native.call("close_bytes")
        self.closed = True
        self.reader.feed(None)


class FakeLocalParticipant(FakeParticipant):
    """The agent's own participant, and a record of what it sent."""

    def __init__(self, room: FakeRoom, identity: str) -> None:
        super().__init__(identity, kind=AGENT)
        self._room = room
        self._native = room.native
        self.texts: list[FakeTextWriter] = []
        self.byte_streams: list[FakeByteWriter] = []
        self.sent_bytes: list[tuple[bytes, dict[str, Any]]] = []
        self.transcriptions: list[rtc.Transcription] = []
        self.rpc_methods: dict[str, Any] = {}
        self.rpc_calls: list[dict[str, Any]] = []
        self.peers: dict[str, FakeRoom] = {}
        """The same room as others see it, by identity: what is sent to them arrives there."""
        self.listeners = True
        """Whether somebody subscribes to what is published."""

    async def publish_track(self, track: Any, options: Any) -> Any:
        await self._native.call("publish_track")
        publication = _LocalPublication(self._native, track)
        publication.source = options.source if options is not None else MICROPHONE
        if self.listeners:
            publication.first_subscription.set_result(None)
        self.track_publications[publication.sid] = publication
        self._room.emit("local_track_published", publication, track)
        return publication

    async def unpublish_track(self, sid: str) -> None:
        await self._native.call("unpublish_track")
        del self.track_publications[sid]

    async def set_attributes(self, attributes: dict[str, str]) -> None:
        await self._native.call("set_attributes")
        self.attributes.update(attributes)

    async def stream_text(
        self, *, topic: str, sender_identity: str, attributes: dict[str, str]
    ) -> FakeTextWriter:
        await self._native.call("stream_text")
        writer = FakeTextWriter(self._native, topic, sender_identity, attributes)
        self.texts.append(writer)
        return writer

    async def publish_transcription(self, transcription: rtc.Transcription) -> None:
        await self._native.call("publish_transcription")
        self.transcriptions.append(transcription)

    async def stream_bytes(self, *, topic: str, **options: Any) -> FakeByteWriter:
        await self._native.call("stream_bytes")
        writer = FakeByteWriter(self._native, topic, options)
        self.byte_streams.append(writer)
        for identity in options.get("destination_identities") or ():
            if (peer := self.peers.get(identity)) is not None:
                peer.byte_handlers[topic](writer.reader, self.identity)
        return writer

    async def send_bytes(self, data: bytes, **options: Any) -> None:
        await self._native.call("send_bytes")
        self.sent_bytes.append((bytes(data), options))
        for identity in options.get("destination_identities") or self.peers:
            peer = self.peers.get(identity)
            handler = peer.byte_handlers.get(options["topic"]) if peer is not None else None
            if handler is not None:
                handler(FakeReader([bytes(data)]), self.identity)

    def register_rpc_method(self, name: str, handler: Any) -> None:
        self.rpc_methods[name] = handler

    def unregister_rpc_method(self, name: str) -> None:
        self.rpc_methods.pop(name, None)

    async def perform_rpc(self, **call: Any) -> str:
        self.rpc_calls.append(call)
        await self._native.call("perform_rpc")
        peer = self.peers.get(call["destination_identity"])
        if peer is None:
            return "ok"
        handler = peer.sent.rpc_methods.get(call["method"])
        if handler is None:
            raise rtc.RpcError(1400, "Method not supported at destination")
        data: Any = SimpleNamespace(caller_identity=self.identity, payload=call["payload"])
        return str(await handler(data))


class _LocalPublication(FakePublication):
    def __init__(self, native: Native, track: Any) -> None:
        super().__init__(track=track, name=track.name)
        self._native = native
        self.first_subscription: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    async def wait_for_subscription(self) -> None:
        await self._native.call("wait_for_subscription")
        await asyncio.shield(self.first_subscription)


class FakeReader:
    """A text or byte stream that has arrived whole, or hangs after its chunks."""

    def __init__(
        self,
        chunks: list[Any],
        *,
        attributes: dict[str, str] | None = None,
        mime_type: str = "text/plain",
        hangs: bool = False,
        live: bool = False,
    ) -> None:
        self.info = SimpleNamespace(attributes=attributes or {}, mime_type=mime_type)
        self.closed = False
        self._chunks: asyncio.Queue[Any] = asyncio.Queue()
        for chunk in chunks:
            self.feed(chunk)
        if not (live or hangs):
            self.feed(None)

    def feed(self, chunk: Any) -> None:
        """Something arrives; None: the end."""
        self._chunks.put_nowait(chunk)

    def __aiter__(self) -> FakeReader:
        return self

    async def __anext__(self) -> Any:
        if self.closed or (chunk := await self._chunks.get()) is None:
            raise StopAsyncIteration
        return chunk

    async def read_all(self) -> str:
        return "".join([chunk async for chunk in self])

    def close(self) -> None:
        self.closed = True
        self.feed(None)


class FakeRoom(rtc.EventEmitter[str]):
    """The part of `rtc.Room` that agents use."""

    def __init__(self, native: Native, *, connected: bool = True, identity: str = "agent") -> None:
        super().__init__()
        self.native = native
        self.name = "a room"
        self._connected = self._was_connected = connected
        self._local = FakeLocalParticipant(self, identity)
        self.remote_participants: dict[str, FakeParticipant] = {}
        self.text_handlers: dict[str, Any] = {}
        self.byte_handlers: dict[str, Any] = {}

    # -- what agents use --------------------------------------------------------------------------

    @property
    def local_participant(self) -> FakeLocalParticipant:
        if not self._was_connected:
            raise Exception("cannot access local participant before connecting")
        return self._local

    @property
    def connection_state(self) -> int:
        states = rtc.ConnectionState
        return states.CONN_CONNECTED if self._connected else states.CONN_DISCONNECTED

    def isconnected(self) -> bool:
        return self._connected

    def register_text_stream_handler(self, topic: str, handler: Any) -> None:
        _register(self.text_handlers, topic, handler)

    def unregister_text_stream_handler(self, topic: str) -> None:
        self.text_handlers.pop(topic, None)

    def register_byte_stream_handler(self, topic: str, handler: Any) -> None:
        _register(self.byte_handlers, topic, handler)

    def unregister_byte_stream_handler(self, topic: str) -> None:
        self.byte_handlers.pop(topic, None)

    # -- what happens in it -----------------------------------------------------------------------

    @property
    def sent(self) -> FakeLocalParticipant:
        """What the agent did, also when the room is disconnected."""
        return self._local

    @property
    def registered(self) -> set[str]:
        """Events and topics that somebody listens to."""
        events = {event for event, handlers in self._events.items() if handlers}
        return events | set(self.text_handlers) | set(self.byte_handlers)

    def connect(self) -> None:
        self._connected = self._was_connected = True
        self.emit("connection_state_changed", self.connection_state)

    def disconnect(self, reason: int = rtc.DisconnectReason.ROOM_DELETED) -> None:
        """The room is gone; nobody is told who left."""
        self._connected = False
        self.emit("connection_state_changed", self.connection_state)
        self.emit("disconnected", reason)

    def join(self, identity: str = "caller", **facts: Any) -> FakeParticipant:
        participant = FakeParticipant(identity, **facts)
        self.remote_participants[identity] = participant
        if self._connected:
            self.emit("participant_connected", participant)
        return participant

    def leave(self, participant: FakeParticipant, reason: int = CLIENT_INITIATED) -> None:
        for publication in list(participant.track_publications.values()):
            self.unsubscribe(participant, publication)
        self.remote_participants.pop(participant.identity, None)
        participant.disconnect_reason = reason
        self.emit("participant_disconnected", participant)

    def publish(self, participant: FakeParticipant, **facts: Any) -> FakePublication:
        """Publish a track and subscribe to it."""
        publication = FakePublication(**facts)
        participant.track_publications[publication.sid] = publication
        self.emit("track_published", publication, participant)
        return self.subscribe(participant, publication)

    def subscribe(
        self, participant: FakeParticipant, publication: FakePublication
    ) -> FakePublication:
        publication.subscribed, publication.track = True, FakeTrack()
        self.emit("track_subscribed", publication.track, publication, participant)
        return publication

    def unsubscribe(self, participant: FakeParticipant, publication: FakePublication) -> None:
        track, publication.track, publication.subscribed = publication.track, None, False
        self.emit("track_unsubscribed", track, publication, participant)
        participant.track_publications.pop(publication.sid, None)
        self.emit("track_unpublished", publication, participant)

    def receive_text(self, sender: str, text: str, topic: str = "lk.chat") -> FakeReader:
        reader = FakeReader([text])
        self.text_handlers[topic](reader, sender)
        return reader


def _register(handlers: dict[str, Any], topic: str, handler: Any) -> None:
    if topic in handlers:
        raise ValueError(f"stream handler for topic '{topic}' already set")
    handlers[topic] = handler


class FakeTrack:
    """A remote track: what is put into it comes out of the streams opened from it."""

    def __init__(self) -> None:
        self.streams: list[FakeStream] = []

    def push(self, *frames: Any) -> None:
        for stream in self.streams:
            for frame in frames:
                stream.queue.put_nowait(SimpleNamespace(frame=frame))


class FakeStream:
    """An audio or video stream of a track."""

    def __init__(self, native: Native, track: FakeTrack, options: dict[str, Any]) -> None:
        self._native = native
        self.options = options
        self.queue: asyncio.Queue[Any] = asyncio.Queue()
        self.closed = False
        track.streams.append(self)

    def __aiter__(self) -> FakeStream:
        return self

    async def __anext__(self) -> Any:
        item = await self.queue.get()
        if item is None:
            raise StopAsyncIteration
        return item

    async def aclose(self) -> None:
        await self._native.call("close_stream")
        self.closed = True
        self.queue.put_nowait(None)


class FakeSource:
    """A native audio source: holds `queue_size_ms`, plays in (virtual) real time."""

    def __init__(self, native: Native, queue_size_ms: int) -> None:
        self._native = native
        self._capacity = queue_size_ms / 1000
        self._dry_at = 0.0
        self._space: asyncio.Future[None] | None = None
        self._dry: asyncio.Future[None] | None = None
        self.played: list[tuple[float, rtc.AudioFrame]] = []
        """Frames, with the loop's time at which each begins to play."""
        self.cleared: list[float] = []
        self.closed = False

    @property
    def queued_duration(self) -> float:
        return max(0.0, self._dry_at - asyncio.get_running_loop().time())

    async def capture_frame(self, frame: rtc.AudioFrame) -> None:
        await self._native.call("capture_frame")
        loop = asyncio.get_running_loop()
        begins = max(self._dry_at, loop.time())
        self.played.append((begins, frame))
        self._dry_at = begins + frame.duration
        excess = self.queued_duration - self._capacity
        if excess > 0:
            self._space = loop.create_future()
            await asyncio.wait((self._space,), timeout=excess)

    async def wait_for_playout(self) -> None:
        while (left := self.queued_duration) > 1e-6:
            self._dry = asyncio.get_running_loop().create_future()
            await asyncio.wait((self._dry,), timeout=left)

    def clear_queue(self) -> None:
        if self._dry is not None and not self._dry.done():
            self._dry.set_result(None)
        now = asyncio.get_running_loop().time()
        self.cleared.append(now)
        self.played = [(begins, frame) for begins, frame in self.played if begins < now]
        self._dry_at = now
        if self._space is not None and not self._space.done():
            self._space.set_result(None)

    async def aclose(self) -> None:
        self.closed = True


class FakeRtc:
    """The classes of `livekit.rtc` that talk to the native layer, replaced for one test."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.native = Native()
        self.sources: list[FakeSource] = []
        self.streams: list[FakeStream] = []

        def make_source(rate: int, channels: int, queue_size_ms: int = 1000) -> FakeSource:
            self.sources.append(FakeSource(self.native, queue_size_ms))
            return self.sources[-1]

        def open_stream(*, track: FakeTrack, **options: Any) -> FakeStream:
            self.streams.append(FakeStream(self.native, track, options))
            return self.streams[-1]

        def make_track(name: str, source: Any) -> Any:
            return SimpleNamespace(name=name, source=source)

        monkeypatch.setattr(rtc, "AudioSource", make_source)
        monkeypatch.setattr(rtc, "AudioStream", SimpleNamespace(from_track=open_stream))
        monkeypatch.setattr(rtc, "VideoStream", SimpleNamespace(from_track=open_stream))
        monkeypatch.setattr(rtc, "LocalAudioTrack", SimpleNamespace(create_audio_track=make_track))

        def make_video_source(width: int, height: int) -> Any:
            frames: list[Any] = []

            async def aclose() -> None: ...

            return SimpleNamespace(frames=frames, capture_frame=frames.append, aclose=aclose)

        monkeypatch.setattr(rtc, "VideoSource", make_video_source)
        monkeypatch.setattr(rtc, "LocalVideoTrack", SimpleNamespace(create_video_track=make_track))

    @property
    def source(self) -> FakeSource:
        """The one audio source that was made."""
        assert len(self.sources) == 1
        return self.sources[0]

    def room(self, *, connected: bool = True, identity: str = "agent") -> FakeRoom:
        return FakeRoom(self.native, connected=connected, identity=identity)


def join_rooms(*rooms: FakeRoom) -> None:
    """Make rooms one room: each is how one participant sees it."""
    for room in rooms:
        for other in rooms:
            if other is not room:
                local = other.sent
                room.sent.peers[local.identity] = other
                room.join(local.identity, kind=local.kind, attributes=local.attributes)
