"""Waiting for somebody, or something of theirs, to appear in a room.

None of these waits has a timeout: they end when the room disconnects, or with the caller.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable
from typing import Any, TypeVar, Union

from livekit import rtc

from ..types import ATTRIBUTE_AGENT_NAME

_T = TypeVar("_T")
_Kinds = Union["rtc.ParticipantKind.ValueType", "list[rtc.ParticipantKind.ValueType]"]
_TrackKinds = Union["rtc.TrackKind.ValueType", "list[rtc.TrackKind.ValueType]"]


async def wait_for_agent(room: rtc.Room, *, agent_name: str | None = None) -> rtc.RemoteParticipant:
    """Wait for an agent.

    Args:
        room: a connected room.
        agent_name: only the agent dispatched under this name; it is recognised as soon as it sets
            its attribute ``lk.agent.name``.

    Raises:
        RuntimeError: the room is not connected, or disconnects meanwhile.
    """

    def find() -> rtc.RemoteParticipant | None:
        for participant in room.remote_participants.values():
            if participant.kind != rtc.ParticipantKind.PARTICIPANT_KIND_AGENT:
                continue
            if agent_name is None or (
                participant.attributes.get(ATTRIBUTE_AGENT_NAME) == agent_name
            ):
                return participant
        return None

    return await _wait_for(
        room,
        find,
        ("participant_connected", "participant_active", "participant_attributes_changed"),
        what="an agent" if agent_name is None else f"the agent {agent_name!r}",
    )


async def wait_for_participant(
    room: rtc.Room,
    *,
    identity: str | None = None,
    kind: _Kinds | None = None,
    include_local: bool = False,
) -> rtc.RemoteParticipant | rtc.LocalParticipant:
    """Wait for a participant that is active, that is, can receive data.

    Args:
        room: a connected room.
        identity: only this participant.
        kind: only this kind, or one of these kinds.
        include_local: this process's own participant is an answer as well.

    Raises:
        RuntimeError: the room is not connected, or disconnects meanwhile.
    """
    kinds = _as_set(kind)

    def matches(participant: rtc.Participant) -> bool:
        return (identity is None or participant.identity == identity) and (
            kinds is None or participant.kind in kinds
        )

    def find() -> rtc.RemoteParticipant | rtc.LocalParticipant | None:
        if include_local and matches(room.local_participant):
            return room.local_participant
        for participant in room.remote_participants.values():
            if matches(participant) and _is_active(participant):
                return participant
        return None

    return await _wait_for(
        room,
        find,
        ("participant_active",),
        # the event says what the state may not show yet
        accept=lambda args: next((p for p in args[:1] if matches(p)), None),
        what="a participant" if identity is None else f"participant {identity!r}",
    )


async def wait_for_track_publication(
    room: rtc.Room,
    *,
    identity: str | None = None,
    kind: _TrackKinds | None = None,
    include_local: bool = False,
    wait_for_subscription: bool = False,
) -> rtc.RemoteTrackPublication | rtc.LocalTrackPublication:
    """Wait for a published track.

    Args:
        room: a connected room.
        identity: only tracks of this participant.
        kind: only this kind of track, or one of these kinds.
        include_local: this process's own tracks are answers as well, as soon as published.
        wait_for_subscription: wait until the (remote) track is subscribed and its media flows.

    Raises:
        RuntimeError: the room is not connected, or it disconnects, or the participant ``identity``
            leaves meanwhile.
    """
    kinds = _as_set(kind)

    def find() -> rtc.RemoteTrackPublication | rtc.LocalTrackPublication | None:
        if include_local and identity in (None, room.local_participant.identity):
            for local in room.local_participant.track_publications.values():
                if kinds is None or local.kind in kinds:
                    return local
        for participant in room.remote_participants.values():
            if identity not in (None, participant.identity):
                continue
            for remote in participant.track_publications.values():
                if (kinds is None or remote.kind in kinds) and (
                    not wait_for_subscription or (remote.subscribed and remote.track is not None)
                ):
                    return remote
        return None

    return await _wait_for(
        room,
        find,
        ("track_subscribed" if wait_for_subscription else "track_published",)
        + (("local_track_published",) if include_local else ()),
        identity=identity,
        what="a track" if identity is None else f"a track of participant {identity!r}",
    )


async def wait_for_participant_attribute(
    room: rtc.Room, *, identity: str, attribute: str, value: str
) -> None:
    """Wait until an attribute of a participant has a value.

    Args:
        room: a connected room.
        identity: the participant.
        attribute: name of the attribute.
        value: awaited value.

    Raises:
        RuntimeError: the room is not connected, or it disconnects meanwhile, or the participant is
            not in it or leaves.
    """

    def participant() -> rtc.Participant | None:
        if room.local_participant.identity == identity:
            return room.local_participant
        return room.remote_participants.get(identity)

    def find() -> bool | None:
        who = participant()
        return True if who is not None and who.attributes.get(attribute) == value else None

    what = f"attribute {attribute!r} of participant {identity!r}"
    _require_connected(room, what)
    if participant() is None:
        raise RuntimeError(f"cannot wait for {what}: the participant is not in the room")
    await _wait_for(room, find, ("participant_attributes_changed",), identity=identity, what=what)


async def _wait_for(
    room: rtc.Room,
    find: Callable[[], _T | None],
    events: Iterable[str],
    *,
    what: str,
    identity: str | None = None,
    accept: Callable[[tuple[Any, ...]], _T | None] | None = None,
) -> _T:
    """Wait until ``find`` finds something; it is asked now and after each of ``events``.

    Args:
        room: where to wait.
        find: looks at the room.
        events: room events that may change the answer.
        what: what is awaited, for errors.
        identity: give up when this participant leaves.
        accept: looks at an event's arguments first.
    """
    _require_connected(room, what)
    if (found := find()) is not None:
        return found
    result: asyncio.Future[_T] = asyncio.get_running_loop().create_future()

    def fail(reason: str) -> None:
        if not result.done():
            result.set_exception(RuntimeError(f"{reason} while waiting for {what}"))

    def on_event(*args: Any) -> None:
        found = (accept(args) if accept else None) or find()
        if found is not None and not result.done():
            result.set_result(found)

    def on_disconnected(*_: Any) -> None:
        fail("the room disconnected")

    def on_connection_state(state: Any) -> None:
        if state == rtc.ConnectionState.CONN_DISCONNECTED:
            fail("the room disconnected")

    def on_participant_left(participant: rtc.RemoteParticipant) -> None:
        if participant.identity == identity:
            fail(f"participant {identity!r} left")

    handlers: list[tuple[Any, Callable[..., None]]] = [(event, on_event) for event in events]
    handlers.append(("disconnected", on_disconnected))
    handlers.append(("connection_state_changed", on_connection_state))
    if identity is not None:
        handlers.append(("participant_disconnected", on_participant_left))
    for event, handler in handlers:
        room.on(event, handler)
    try:
        return await result
    finally:
        for event, handler in handlers:
            room.off(event, handler)


def _require_connected(room: rtc.Room, what: str) -> None:
    if not room.isconnected():
        raise RuntimeError(f"cannot wait for {what}: the room is not connected")


def _is_active(participant: rtc.Participant) -> bool:
    return participant.state == rtc.ParticipantState.PARTICIPANT_STATE_ACTIVE


def _as_set(kinds: Any) -> frozenset[Any] | None:
    if kinds is None:
        return None
    several = isinstance(kinds, (list, tuple, set, frozenset))
    return frozenset(kinds if several else [kinds])
