"""Transcripts for the participants of a room: text streams, and packets for older clients."""

from __future__ import annotations

import asyncio
import json
from abc import ABC, abstractmethod
from collections.abc import Callable, Coroutine
from dataclasses import dataclass, field
from typing import Any

from livekit import rtc

from ...log import logger
from ...tts._provider_format import TranscriptMarkupStripper, strip_all_markup
from ...types import (
    ATTRIBUTE_PUBLISH_ON_BEHALF,
    ATTRIBUTE_TRANSCRIPTION_FINAL,
    ATTRIBUTE_TRANSCRIPTION_SEGMENT_ID,
    ATTRIBUTE_TRANSCRIPTION_TRACK_ID,
    CLIENT_PROTOCOL_TRANSCRIPTION_STREAMS,
    TOPIC_TRANSCRIPTION,
)
from ...utils import is_given, shortuuid
from ...utils.aio import Survivor, TaskScope, wait_until
from ..io import TextOutput
from ._tracks import identity_of

PUBLISH_TIMEOUT = 3.0
"""Seconds for one native call, whose answer may be lost."""

FLUSH_TIMEOUT = 1.0
"""Seconds that a close leaves for the end of the last segment."""


@dataclass
class _Segment:
    """One utterance as it is published; everything about it is fixed when it begins."""

    identity: str
    track_id: str | None
    id: str = field(default_factory=lambda: shortuuid("SG_"))
    text: str = ""
    """All of it so far, without markup."""
    stripper: TranscriptMarkupStripper = field(default_factory=TranscriptMarkupStripper)
    writer: Any = None
    turn: asyncio.Lock = field(default_factory=asyncio.Lock)
    """Held while something is sent, which is bounded."""


class _TrackOf:
    """The sid of a participant's microphone track, as soon as there is one.

    With `representatives`, also of a track that somebody publishes on the participant's behalf.
    """

    def __init__(self, room: rtc.Room, *, representatives: bool) -> None:
        self._room = room
        self._representatives = representatives
        self._identity: str | None = None
        self._pinned: str | None = None
        self._found: str | None = None
        self.published_by: str | None = None
        """Who really published it, where that is a representative of the participant."""
        self._handlers: dict[str, Callable[..., None]] = {
            "track_published": self._on_published,
            "local_track_published": self._on_local_published,
            "local_track_republished": self._on_local_republished,
        }
        for event, handler in self._handlers.items():
            room.on(event, handler)  # type: ignore[arg-type]

    @property
    def sid(self) -> str | None:
        """The track, pinned or found; None while there is none."""
        if self._pinned is not None:
            return self._pinned
        if self._found is None:
            self.follow(self._identity)
        return self._found

    def follow(self, identity: str | None) -> None:
        """Look for the track of somebody else, or of nobody."""
        self._identity, self._found, self.published_by = identity, None, None
        if identity is None or not self._room.isconnected():
            return
        local = self._room.local_participant
        everyone: list[Any] = [local, *self._room.remote_participants.values()]
        for participant in sorted(everyone, key=lambda p: p.identity != identity):
            for publication in participant.track_publications.values():
                if self._found is None:
                    self._consider(publication, participant)

    def pin(self, sid: str | None) -> None:
        """Use this track; None: look for it again."""
        self._pinned = sid
        if sid is None:
            self.follow(self._identity)

    def _consider(self, publication: Any, participant: Any) -> None:
        if self._identity is None or publication.source != rtc.TrackSource.SOURCE_MICROPHONE:
            return
        if participant.identity == self._identity:
            self._found, self.published_by = publication.sid, None
        elif (
            self._representatives
            and participant.attributes.get(ATTRIBUTE_PUBLISH_ON_BEHALF) == self._identity
        ):
            self._found, self.published_by = publication.sid, participant.identity

    def _on_published(self, publication: Any, participant: Any) -> None:
        self._consider(publication, participant)

    def _on_local_published(self, publication: Any, track: Any) -> None:
        self._consider(publication, self._room.local_participant)

    def _on_local_republished(self, publication: Any, previous_sid: str) -> None:
        if self._found == previous_sid:
            self._found = publication.sid

    def close(self) -> None:
        """Look no longer."""
        for event, handler in self._handlers.items():
            self._room.off(event, handler)  # type: ignore[arg-type]


class _TranscriptSink(TextOutput, ABC):
    """One way to publish a transcript. Publishing never fails for the caller: it is logged.

    Segments are published one after the other: what is captured waits for the end of the segment
    before. A caller that is cancelled stops waiting, and nothing else.
    """

    _for_representatives = False

    def __init__(
        self,
        room: rtc.Room,
        *,
        is_delta_stream: bool = True,
        participant: rtc.Participant | str | None = None,
        track: str | None = None,
    ) -> None:
        super().__init__(label="RoomIO", next_in_chain=None)
        self._room = room
        self._is_delta = is_delta_stream
        self._identity: str | None = None
        self._track = _TrackOf(room, representatives=self._for_representatives)
        self._segment: _Segment | None = None
        self._scope = TaskScope("transcript in the room")
        self._flushing: asyncio.Task[None] | None = None
        if track is not None:
            self._track.pin(track)
        self.set_participant(participant)

    def set_participant(self, participant: rtc.Participant | str | None) -> None:
        """Whose words these are from now on. The running segment ends as it began."""
        self.flush()
        self._identity = identity_of(participant)
        self._track.follow(self._identity)

    def set_track(self, track_id: str | None) -> None:
        """Pin the track the words belong to; None finds it again. The running segment ends."""
        self.flush()
        self._track.pin(track_id)

    async def capture_text(self, text: str) -> None:
        """Publish a piece (or, where not incremental, all of the segment so far)."""
        while self._flushing is not None and not self._flushing.done():
            await asyncio.wait((self._flushing,))
        if self._identity is None or self._scope.closed:
            return
        segment = self._segment
        if segment is None:
            segment = self._segment = _Segment(self._identity, self._track.sid)
        if self._is_delta:
            visible = segment.stripper.push(text)
            segment.text += visible
        else:
            visible = segment.text = strip_all_markup(text)
        if visible:
            await self._publish(segment, lambda: self._write(segment, visible, text))

    def flush(self) -> None:
        """The segment is complete: publish its end, in the background."""
        segment, self._segment = self._segment, None
        if segment is None or self._scope.closed:
            return
        rest = segment.stripper.flush() if self._is_delta else ""
        segment.text += rest
        self._flushing = self._scope.spawn(
            self._end(self._flushing, segment, rest), name="end of a transcript segment"
        )

    async def _end(self, previous: asyncio.Task[None] | None, segment: _Segment, rest: str) -> None:
        if previous is not None and not previous.done():
            await asyncio.wait((previous,))
        if segment.text:
            await self._publish(segment, lambda: self._finish(segment, rest))

    async def _publish(
        self, segment: _Segment, send: Callable[[], Coroutine[Any, Any, None]]
    ) -> None:
        """Send in turn, if there is a room. Goes on when the caller is cancelled."""
        sending = self._scope.spawn(self._in_turn(segment, send), name="send a transcript")
        if await wait_until(sending, PUBLISH_TIMEOUT):
            sending.cancel()
            segment.writer, segment.turn = None, asyncio.Lock()
            logger.warning(
                "failed to publish agent transcription to room: no answer within %.0f s",
                PUBLISH_TIMEOUT,
            )

    async def _in_turn(
        self, segment: _Segment, send: Callable[[], Coroutine[Any, Any, None]]
    ) -> None:
        try:
            async with segment.turn:
                if self._room.isconnected():
                    await send()
        except Exception as error:
            segment.writer = None  # the next text opens a new stream
            logger.warning("failed to publish agent transcription to room: %s", error)

    @abstractmethod
    async def _write(self, segment: _Segment, visible: str, original: str) -> None: ...

    @abstractmethod
    async def _finish(self, segment: _Segment, rest: str) -> None: ...

    def unsubscribe(self) -> None:
        """Look for tracks no longer. What is captured is published still."""
        self._track.close()

    async def aclose(self, timeout: float = FLUSH_TIMEOUT) -> list[Survivor]:
        """Publish the end of the last segment, and stop; bounded. Idempotent.

        Args:
            timeout: Seconds for that end.
        """
        self.flush()
        self.unsubscribe()
        try:
            if self._flushing is not None and self._room.isconnected():
                await wait_until(self._flushing, timeout)
        finally:
            self._scope.cancel_soon()
        return await self._scope.cancel(0.25)


class _ParticipantLegacyTranscriptionOutput(_TranscriptSink):
    """Transcription packets, for clients that don't know text streams yet."""

    _for_representatives = True

    async def _write(self, segment: _Segment, visible: str, original: str) -> None:
        await self._send(segment, final=False)

    async def _finish(self, segment: _Segment, rest: str) -> None:
        await self._send(segment, final=True)

    async def _send(self, segment: _Segment, *, final: bool) -> None:
        if segment.track_id is None:
            segment.track_id = self._track.sid if segment.identity == self._identity else None
        if segment.track_id is None or not self._somebody_needs_it():
            return
        await self._room.local_participant.publish_transcription(
            rtc.Transcription(
                participant_identity=self._track.published_by or segment.identity,
                track_sid=segment.track_id,
                segments=[
                    rtc.TranscriptionSegment(
                        id=segment.id,
                        text=segment.text,
                        start_time=0,
                        end_time=0,
                        language="",
                        final=final,
                    )
                ],
            )
        )

    def _somebody_needs_it(self) -> bool:
        me = self._room.local_participant.identity
        return any(
            participant.kind == rtc.ParticipantKind.PARTICIPANT_KIND_STANDARD
            and participant.attributes.get(ATTRIBUTE_PUBLISH_ON_BEHALF) != me
            # there is no public property for it
            and participant._info.client_protocol < CLIENT_PROTOCOL_TRANSCRIPTION_STREAMS
            for participant in self._room.remote_participants.values()
        )


class _ParticipantStreamTranscriptionOutput(_TranscriptSink):
    """Text streams on the topic `lk.transcription`.

    Increments go into one stream for each segment. Full texts each get a stream of their own,
    the last one marked as final. All streams of a segment carry its id.
    """

    def __init__(
        self,
        room: rtc.Room,
        *,
        is_delta_stream: bool = True,
        participant: rtc.Participant | str | None = None,
        attributes: dict[str, str] | None = None,
        json_format: bool = False,
        track: str | None = None,
    ) -> None:
        """Set up a sink.

        Args:
            room: Where to publish.
            is_delta_stream: Whether captures are increments, or the whole text so far.
            participant: Whose words these are.
            attributes: Further attributes of every stream.
            json_format: Send a line of JSON, with timing, for each piece.
            track: The sid of the track the words belong to; the participant's microphone by
                default.
        """
        super().__init__(
            room, is_delta_stream=is_delta_stream, participant=participant, track=track
        )
        self._attributes = attributes or {}
        self._json = json_format

    async def _write(self, segment: _Segment, visible: str, original: str) -> None:
        payload = self._payload(visible, original)
        if not self._is_delta:
            await self._send_whole(segment, payload, final=False)
            return
        if segment.writer is None:
            segment.writer = await self._open(segment, final=False)
        await segment.writer.write(payload)

    async def _finish(self, segment: _Segment, rest: str) -> None:
        if not self._is_delta:
            await self._send_whole(segment, self._payload(segment.text, segment.text), final=True)
            return
        if rest:
            await self._write(segment, rest, rest)
        if segment.writer is None:  # was lost on the way
            segment.writer = await self._open(segment, final=True)
        attributes = self._header(segment, final=True)
        attributes.pop(ATTRIBUTE_TRANSCRIPTION_SEGMENT_ID)
        await segment.writer.aclose(attributes=attributes)

    async def _send_whole(self, segment: _Segment, payload: str, *, final: bool) -> None:
        writer = await self._open(segment, final=final)
        await writer.write(payload)
        await writer.aclose()

    async def _open(self, segment: _Segment, *, final: bool) -> rtc.TextStreamWriter:
        return await self._room.local_participant.stream_text(
            topic=TOPIC_TRANSCRIPTION,
            sender_identity=segment.identity,
            attributes={**self._attributes, **self._header(segment, final=final)},
        )

    def _header(self, segment: _Segment, *, final: bool) -> dict[str, str]:
        if segment.track_id is None and segment.identity == self._identity:
            segment.track_id = self._track.sid
        attributes = {
            ATTRIBUTE_TRANSCRIPTION_FINAL: "true" if final else "false",
            ATTRIBUTE_TRANSCRIPTION_SEGMENT_ID: segment.id,
        }
        if segment.track_id is not None:
            attributes[ATTRIBUTE_TRANSCRIPTION_TRACK_ID] = segment.track_id
        if self._is_delta:
            attributes.update(segment.stripper.expression_attribute() or {})
        return attributes

    def _payload(self, visible: str, original: str) -> str:
        if not self._json:
            return visible
        fields: dict[str, Any] = {"text": visible}
        for name in ("start_time", "end_time", "confidence", "start_time_offset"):
            value = getattr(original, name, None)
            if value is not None and is_given(value):
                fields[name] = value
        return json.dumps(fields, ensure_ascii=False) + "\n"


class _ParticipantTranscriptionOutput(TextOutput):
    """A participant's transcript for everybody in the room, and then for a further sink."""

    def __init__(
        self,
        *,
        room: rtc.Room,
        is_delta_stream: bool = True,
        participant: rtc.Participant | str | None = None,
        next_in_chain: TextOutput | None = None,
        json_format: bool = False,
        track: str | None = None,
    ) -> None:
        """Set up the output.

        Args:
            room: Where to publish.
            is_delta_stream: Whether captures are increments, or the whole text so far.
            participant: Whose words these are; nothing is published while unknown.
            next_in_chain: A further sink, which gets everything as it is captured.
            json_format: Send lines of JSON instead of plain text.
            track: The sid of the track the words belong to.
        """
        super().__init__(label="RoomIO", next_in_chain=next_in_chain)
        self._sinks: tuple[_TranscriptSink, ...] = (
            _ParticipantLegacyTranscriptionOutput(
                room, is_delta_stream=is_delta_stream, participant=participant, track=track
            ),
            _ParticipantStreamTranscriptionOutput(
                room,
                is_delta_stream=is_delta_stream,
                participant=participant,
                json_format=json_format,
                track=track,
            ),
        )

    def set_participant(self, participant: rtc.Participant | str | None) -> None:
        """Whose words these are from now on; None publishes nothing. The running segment ends."""
        for sink in self._sinks:
            sink.set_participant(participant)

    def set_track(self, track_id: str | None) -> None:
        """Pin the track the words belong to; None finds it again. The running segment ends."""
        for sink in self._sinks:
            sink.set_track(track_id)

    async def capture_text(self, text: str) -> None:
        """Publish a piece of text; markup for the voice is removed."""
        await asyncio.gather(*(sink.capture_text(text) for sink in self._sinks))
        if self.next_in_chain is not None:
            await self.next_in_chain.capture_text(text)

    def flush(self) -> None:
        """The segment is complete."""
        for sink in self._sinks:
            sink.flush()
        if self.next_in_chain is not None:
            self.next_in_chain.flush()

    def unsubscribe(self) -> None:
        """Look for tracks no longer. What is captured is published still."""
        for sink in self._sinks:
            sink.unsubscribe()

    async def aclose(self, timeout: float = FLUSH_TIMEOUT) -> list[Survivor]:
        """Publish the end of the last segment, and stop; bounded. Idempotent.

        Args:
            timeout: Seconds for that end.
        """
        survivors = await asyncio.gather(*(sink.aclose(timeout) for sink in self._sinks))
        return [survivor for some in survivors for survivor in some]


__all__ = [
    "_ParticipantLegacyTranscriptionOutput",
    "_ParticipantStreamTranscriptionOutput",
    "_ParticipantTranscriptionOutput",
]
