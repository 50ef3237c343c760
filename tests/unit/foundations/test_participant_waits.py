from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from dataclasses import dataclass, field
from typing import Any

import pytest
from livekit import rtc

from livekit.agents.utils import (
    wait_for_agent,
    wait_for_participant,
    wait_for_track_publication,
)
from livekit.agents.utils.aio import TaskScope, cancel_and_wait
from livekit.agents.utils.participant import wait_for_participant_attribute

JOINED = rtc.ParticipantState.PARTICIPANT_STATE_JOINED
ACTIVE = rtc.ParticipantState.PARTICIPANT_STATE_ACTIVE
STANDARD = rtc.ParticipantKind.PARTICIPANT_KIND_STANDARD
SIP = rtc.ParticipantKind.PARTICIPANT_KIND_SIP
AGENT = rtc.ParticipantKind.PARTICIPANT_KIND_AGENT
AUDIO, VIDEO = rtc.TrackKind.KIND_AUDIO, rtc.TrackKind.KIND_VIDEO


@dataclass
class Publication:
    kind: int = AUDIO
    subscribed: bool = False
    track: object | None = None


@dataclass
class Participant:
    identity: str
    kind: int = STANDARD
    state: int = ACTIVE
    attributes: dict[str, str] = field(default_factory=dict)
    track_publications: dict[str, Publication] = field(default_factory=dict)


class Room(rtc.EventEmitter[str]):
    """The part of `rtc.Room` that the waits look at; its events are emitted by the tests."""

    def __init__(self) -> None:
        super().__init__()
        self.connected = True
        self.local_participant = Participant("me", kind=AGENT)
        self.remote_participants: dict[str, Participant] = {}

    def isconnected(self) -> bool:
        return self.connected

    def join(self, participant: Participant) -> Participant:
        self.remote_participants[participant.identity] = participant
        self.emit("participant_connected", participant)
        if participant.state == ACTIVE:
            self.emit("participant_active", participant)
        return participant

    def leave(self, participant: Participant) -> None:
        del self.remote_participants[participant.identity]
        self.emit("participant_disconnected", participant)

    def set_attribute(self, participant: Participant, name: str, value: str) -> None:
        participant.attributes[name] = value
        self.emit("participant_attributes_changed", {name: value}, participant)

    def publish(self, participant: Participant, publication: Publication) -> Publication:
        participant.track_publications[str(len(participant.track_publications))] = publication
        if participant is self.local_participant:
            self.emit("local_track_published", publication, object())
        else:
            self.emit("track_published", publication, participant)
        return publication

    def subscribe(self, participant: Participant, publication: Publication) -> None:
        publication.subscribed, publication.track = True, object()
        self.emit("track_subscribed", publication.track, publication, participant)

    def disconnect(self) -> None:
        self.connected = False
        self.emit("connection_state_changed", rtc.ConnectionState.CONN_DISCONNECTED)
        self.emit("disconnected", 0)

    @property
    def handlers(self) -> int:
        return sum(len(callbacks) for callbacks in self._events.values())


class Waiting:
    """A wait in progress."""

    def __init__(self, room: Room, coro: Coroutine[Any, Any, Any]) -> None:
        self.room = room
        self.task = TaskScope("tests").spawn(coro, log_errors=False)

    async def still(self) -> bool:
        await asyncio.sleep(60.0)
        return not self.task.done()

    async def result(self) -> Any:
        try:
            return await asyncio.wait_for(asyncio.shield(self.task), 1.0)
        finally:
            assert self.room.handlers == 0


Wait = Callable[[Any], Coroutine[Any, Any, Any]]

ALL_WAITS: list[Wait] = [
    lambda room: wait_for_agent(room),
    lambda room: wait_for_participant(room),
    lambda room: wait_for_track_publication(room),
    lambda room: wait_for_participant_attribute(room, identity="ann", attribute="a", value="1"),
]


def waiting(room: Room, wait: Wait) -> Waiting:
    return Waiting(room, wait(room))


@pytest.mark.parametrize("wait", ALL_WAITS)
async def test_a_room_that_is_not_connected_is_refused(wait: Wait) -> None:
    room = Room()
    room.connected = False
    with pytest.raises(RuntimeError, match="not connected"):
        await wait(room)


@pytest.mark.parametrize("wait", ALL_WAITS)
async def test_the_end_of_the_room_ends_the_wait(wait: Wait) -> None:
    room = Room()
    room.join(Participant("ann", state=JOINED))
    wait_ = waiting(room, wait)
    assert await wait_.still()
    room.disconnect()
    with pytest.raises(RuntimeError, match="room disconnected"):
        await wait_.result()


@pytest.mark.parametrize("wait", ALL_WAITS)
async def test_a_reconnecting_room_does_not_end_the_wait(wait: Wait) -> None:
    room = Room()
    room.join(Participant("ann", state=JOINED))
    wait_ = waiting(room, wait)
    await asyncio.sleep(0)
    room.emit("connection_state_changed", rtc.ConnectionState.CONN_RECONNECTING)
    assert await wait_.still()
    await cancel_and_wait(wait_.task)


@pytest.mark.parametrize("wait", ALL_WAITS)
async def test_a_cancelled_wait_leaves_no_handlers(wait: Wait) -> None:
    room = Room()
    room.join(Participant("ann", state=JOINED))
    wait_ = waiting(room, wait)
    await asyncio.sleep(0)
    assert room.handlers > 0
    await cancel_and_wait(wait_.task)
    assert room.handlers == 0


# --- participants


async def test_a_participant_that_is_there_is_found_at_once() -> None:
    room = Room()
    ann = room.join(Participant("ann"))
    assert await wait_for_participant(room) is ann  # type: ignore[arg-type]
    assert room.handlers == 0


async def test_a_participant_counts_once_it_is_active() -> None:
    room = Room()
    ann = room.join(Participant("ann", state=JOINED))
    wait = waiting(room, lambda room: wait_for_participant(room))
    assert await wait.still()
    room.emit("participant_active", ann)
    assert await wait.result() is ann


@pytest.mark.parametrize("kind", [SIP, [SIP], [AGENT, SIP]])
async def test_participants_are_chosen_by_identity_and_kind(kind: Any) -> None:
    room = Room()
    room.join(Participant("ann"))
    wait = waiting(room, lambda room: wait_for_participant(room, identity="bob", kind=kind))
    await asyncio.sleep(0)
    room.join(Participant("eve", kind=SIP))
    room.join(Participant("bob", kind=STANDARD))
    assert await wait.still()
    bob = room.join(Participant("bob", kind=SIP))
    assert await wait.result() is bob


async def test_the_local_participant_counts_only_if_asked_for() -> None:
    room = Room()
    local = await wait_for_participant(room, identity="me", include_local=True)  # type: ignore[arg-type]
    assert local is room.local_participant
    wait = waiting(room, lambda room: wait_for_participant(room, identity="me"))
    assert await wait.still()
    await cancel_and_wait(wait.task)


# --- agents


async def test_an_agent_is_recognised_by_its_kind() -> None:
    room = Room()
    room.join(Participant("ann"))
    wait = waiting(room, lambda room: wait_for_agent(room))
    assert await wait.still()
    bot = room.join(Participant("bot", kind=AGENT))
    assert await wait.result() is bot


async def test_an_agent_may_tell_its_name_later() -> None:
    room = Room()
    room.join(Participant("bot-1", kind=AGENT, attributes={"lk.agent.name": "sales"}))
    bot = room.join(Participant("bot-2", kind=AGENT))
    wait = waiting(room, lambda room: wait_for_agent(room, agent_name="support"))
    assert await wait.still()
    room.set_attribute(bot, "lk.agent.name", "support")
    assert await wait.result() is bot


# --- tracks


async def test_a_track_that_is_published_is_found_at_once() -> None:
    room = Room()
    track = room.publish(room.join(Participant("ann")), Publication())
    assert await wait_for_track_publication(room) is track  # type: ignore[arg-type, comparison-overlap]


@pytest.mark.parametrize("kind", [VIDEO, [VIDEO]])
async def test_tracks_are_chosen_by_participant_and_kind(kind: Any) -> None:
    room = Room()
    ann, bob = room.join(Participant("ann")), room.join(Participant("bob"))
    wait = waiting(room, lambda room: wait_for_track_publication(room, identity="bob", kind=kind))
    await asyncio.sleep(0)
    room.publish(ann, Publication(VIDEO))
    room.publish(bob, Publication(AUDIO))
    assert await wait.still()
    track = room.publish(bob, Publication(VIDEO))
    assert await wait.result() is track


async def test_a_track_can_be_awaited_until_it_is_subscribed() -> None:
    room = Room()
    ann = room.join(Participant("ann"))
    track = room.publish(ann, Publication())
    wait = waiting(room, lambda room: wait_for_track_publication(room, wait_for_subscription=True))
    assert await wait.still()
    room.subscribe(ann, track)
    assert await wait.result() is track
    again = await wait_for_track_publication(room, wait_for_subscription=True)  # type: ignore[arg-type]
    assert again is track  # type: ignore[comparison-overlap]


async def test_own_tracks_count_only_if_asked_for_and_need_no_subscription() -> None:
    room = Room()
    others = waiting(room, lambda room: wait_for_track_publication(room))
    own = Waiting(
        room,
        wait_for_track_publication(room, include_local=True, wait_for_subscription=True),  # type: ignore[arg-type]
    )
    await asyncio.sleep(0)
    track = room.publish(room.local_participant, Publication())
    assert await own.task is track
    assert await others.still()
    await cancel_and_wait(others.task)
    there = await wait_for_track_publication(room, identity="me", include_local=True)  # type: ignore[arg-type]
    assert there is track  # type: ignore[comparison-overlap]


async def test_the_wait_for_a_track_ends_when_its_participant_leaves() -> None:
    room = Room()
    ann, bob = room.join(Participant("ann")), room.join(Participant("bob"))
    wait = waiting(room, lambda room: wait_for_track_publication(room, identity="ann"))
    await asyncio.sleep(0)
    room.leave(bob)
    assert await wait.still()
    room.leave(ann)
    with pytest.raises(RuntimeError, match="'ann' left"):
        await wait.result()


# --- attributes


async def wait_for_mood(room: Any) -> None:
    await wait_for_participant_attribute(room, identity="ann", attribute="mood", value="good")


async def test_an_attribute_is_awaited_until_it_has_its_value() -> None:
    room = Room()
    ann = room.join(Participant("ann", attributes={"mood": "bad"}))
    wait = waiting(room, wait_for_mood)
    assert await wait.still()
    room.set_attribute(ann, "mood", "good")
    await wait.result()
    await wait_for_mood(room)


async def test_an_attribute_of_somebody_absent_cannot_be_awaited() -> None:
    with pytest.raises(RuntimeError, match="not in the room"):
        await wait_for_mood(Room())


async def test_the_wait_for_an_attribute_ends_when_its_participant_leaves() -> None:
    room = Room()
    ann = room.join(Participant("ann"))
    wait = waiting(room, wait_for_mood)
    await asyncio.sleep(0)
    room.leave(ann)
    with pytest.raises(RuntimeError, match="'ann' left"):
        await wait.result()


async def test_an_own_attribute_can_be_awaited() -> None:
    room = Room()
    room.local_participant.attributes["mood"] = "good"
    await wait_for_participant_attribute(room, identity="me", attribute="mood", value="good")  # type: ignore[arg-type]
