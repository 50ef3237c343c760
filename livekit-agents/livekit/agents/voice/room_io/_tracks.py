"""Follows one participant's track: takes it, replaces it, drops it; yields what it carries."""

from __future__ import annotations

import asyncio
from abc import abstractmethod
from collections.abc import Collection
from dataclasses import dataclass, field
from typing import Any, Generic, TypeVar

from livekit import rtc

from ...log import logger
from ...utils.aio import Chan, Survivor, TaskScope, wait_until
from ._native import answer

T = TypeVar("T")

STREAM_CLOSE_TIMEOUT = 1.0
"""Seconds for a native stream to report its end, which it may never do."""


def identity_of(participant: rtc.Participant | str | None) -> str | None:
    """The identity, wherever either is accepted."""
    if participant is None or isinstance(participant, str):
        return participant
    return participant.identity


@dataclass
class OpenTrack:
    """The track in use."""

    participant: str
    sid: str
    track: rtc.Track
    stream: Any
    forwarding: asyncio.Task[None] | None = None
    close_with: list[Any] = field(default_factory=list)
    """Frame processors that were made for this track alone."""


class TrackFollower(Generic[T]):
    """What hearing and seeing have in common. Subclasses open streams and handle what they give.

    Of the bound participant's tracks of an accepted source the one subscribed last is in use;
    when it goes away, another one that is there.
    """

    def __init__(self, room: rtc.Room, *, sources: Collection[int], what: str) -> None:
        self._room = room
        self._sources = frozenset(sources)
        self._what = what
        self._identity: str | None = None
        self._pinned_sid: str | None = None
        self._open: OpenTrack | None = None
        self._forwarding: asyncio.Task[None] | None = None
        self._items: Chan[T] = Chan()
        self._attached = True
        self._closed = False
        self._scope = TaskScope(f"room {what} input")
        self._closing = TaskScope(f"closing of a room's {what} streams")
        self._handlers = {
            "track_subscribed": self._on_subscribed,
            "track_unsubscribed": self._on_unsubscribed,
            "track_unpublished": self._on_unpublished,
        }
        for event, handler in self._handlers.items():
            room.on(event, handler)  # type: ignore[arg-type]

    # -- what subclasses do -----------------------------------------------------------------------

    @abstractmethod
    def _open_stream(
        self, track: rtc.Track, publication: rtc.RemoteTrackPublication, participant: Any
    ) -> OpenTrack: ...

    @abstractmethod
    async def _forward(self, opened: OpenTrack, publication: rtc.RemoteTrackPublication) -> None:
        """Put what the stream gives into `_items`, until it ends."""

    # -- which track ------------------------------------------------------------------------------

    def set_participant(self, participant: rtc.Participant | str | None) -> None:
        """Follow somebody, who need not be there yet; None follows nobody."""
        identity = identity_of(participant)
        if identity == self._identity or self._closed:
            return
        self._identity = identity
        self._drop()
        self._take_any()

    def set_track_sid(self, sid: str | None) -> None:
        """Use this publication only; None: any of an accepted source."""
        if sid == self._pinned_sid or self._closed:
            return
        self._pinned_sid = sid
        if self._open is not None and sid is not None and self._open.sid != sid:
            self._drop()
        if self._open is None:
            self._take_any()

    def _acceptable(self, publication: rtc.RemoteTrackPublication) -> bool:
        return publication.source in self._sources and (
            self._pinned_sid is None or publication.sid == self._pinned_sid
        )

    def _take_any(self, *, but: str | None = None) -> None:
        """Take the first suitable track that is subscribed already."""
        participant = self._room.remote_participants.get(self._identity or "")
        if participant is None:
            return
        for publication in list(participant.track_publications.values()):
            if (
                publication.sid != but
                and publication.subscribed
                and publication.track is not None
                and self._acceptable(publication)
            ):
                self._take(publication.track, publication, participant)
                return

    def _take(self, track: Any, publication: rtc.RemoteTrackPublication, participant: Any) -> None:
        current = self._open
        if current is not None and current.sid == publication.sid and current.track is track:
            return
        self._drop()
        opened = self._open = self._open_stream(track, publication, participant)
        opened.forwarding = self._scope.spawn(
            self._run(self._forwarding, opened, publication),
            name=f"room {self._what} from {opened.sid}",
        )
        self._forwarding = opened.forwarding
        opened.forwarding.add_done_callback(lambda _: self._ended(opened))

    async def _run(
        self,
        previous: asyncio.Task[None] | None,
        opened: OpenTrack,
        publication: rtc.RemoteTrackPublication,
    ) -> None:
        if previous is not None:
            await wait_until(previous, STREAM_CLOSE_TIMEOUT)  # tracks never interleave
        await self._forward(opened, publication)

    def _ended(self, opened: OpenTrack) -> None:
        """Forwarding is over; if nothing has replaced it, the stream ended by itself."""
        if self._open is opened and not self._closed:
            self._drop()
            self._take_any(but=opened.sid)

    # -- events -----------------------------------------------------------------------------------

    def _on_subscribed(
        self, track: rtc.Track, publication: rtc.RemoteTrackPublication, participant: Any
    ) -> None:
        if participant.identity == self._identity and self._acceptable(publication):
            self._take(track, publication, participant)

    def _on_unsubscribed(
        self, track: rtc.Track, publication: rtc.RemoteTrackPublication, participant: Any
    ) -> None:
        if self._uses(publication, participant) and self._open is not None:
            if self._open.track is not track:
                return  # was replaced already
            self._drop(by_itself=True)
            self._take_any(but=publication.sid)  # a replacement comes with its own event

    def _on_unpublished(self, publication: rtc.RemoteTrackPublication, participant: Any) -> None:
        if self._uses(publication, participant):
            self._drop(by_itself=True)
            self._take_any()

    def _uses(self, publication: rtc.RemoteTrackPublication, participant: Any) -> bool:
        return (
            self._open is not None
            and participant.identity == self._identity
            and self._open.sid == publication.sid
        )

    # -- dropping ---------------------------------------------------------------------------------

    def _drop(self, *, by_itself: bool = False) -> None:
        """Let go of the track in use. Its native stream is closed in the background, bounded.

        Args:
            by_itself: The track ended, so the forwarder may see the stream's end; else it stops.
        """
        opened, self._open = self._open, None
        if opened is None:
            return
        if opened.forwarding is not None and not by_itself:
            opened.forwarding.cancel()
        self._closing.spawn(self._close(opened), name=f"let go of {opened.sid}")

    async def _close(self, opened: OpenTrack) -> None:
        name = f"close the {self._what} stream of {opened.sid}"
        try:
            await answer(self._closing, opened.stream.aclose(), STREAM_CLOSE_TIMEOUT, name=name)
        except asyncio.TimeoutError as error:
            logger.warning("%s", error)
        except Exception:
            logger.exception("%s failed", name)
        finally:
            if opened.forwarding is not None and not opened.forwarding.done():
                await wait_until(opened.forwarding, 0.1)
                opened.forwarding.cancel()
            for processor in opened.close_with:
                self._close_processor(processor)

    def _close_processor(self, processor: Any) -> None:
        if self._open is not None and processor in self._open.close_with:
            return  # a selector returned the same one for the next track
        try:
            processor._close()
        except Exception:
            logger.exception("closing the frame processor %r failed", processor)

    # -- reading ----------------------------------------------------------------------------------

    async def _next(self) -> T:
        return await self._items.__anext__()

    async def _end(self) -> list[Survivor]:
        """Stop following, and close the streams; bounded. Idempotent."""
        if not self._closed:
            self._closed = True
            for event, handler in self._handlers.items():
                self._room.off(event, handler)  # type: ignore[arg-type]
            self._drop()
            self._items.close()
        try:
            await self._closing.join(STREAM_CLOSE_TIMEOUT)
        finally:
            self._closing.cancel_soon()
            self._scope.cancel_soon()
        return await self._closing.cancel(0.2) + await self._scope.cancel(0.2)


__all__ = ["OpenTrack", "TrackFollower", "identity_of"]
