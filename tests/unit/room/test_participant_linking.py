from __future__ import annotations

from hypothesis import given, strategies as st

from fakes.room import AGENT, SIP, STANDARD, FakeParticipant
from livekit.agents.voice.room_io.linking import ParticipantLink


def _link(wanted: str | None = None) -> ParticipantLink[FakeParticipant]:
    return ParticipantLink((STANDARD, SIP), wanted)


def test_the_first_person_is_linked_and_wanted_from_then_on() -> None:
    link = _link()
    assert link.consider(FakeParticipant("ann"), "agent")
    assert not link.consider(FakeParticipant("bob"), "agent")
    assert link.left(FakeParticipant("ann")) and link.linked is None
    assert not link.consider(FakeParticipant("bob"), "agent"), "only Ann may come back"
    assert link.consider(FakeParticipant("ann"), "agent")


def test_agents_and_our_own_avatar_are_not_the_user() -> None:
    link = _link()
    avatar = FakeParticipant("face", attributes={"lk.publish_on_behalf": "agent"})
    assert not link.consider(FakeParticipant("other", kind=AGENT), "agent")
    assert not link.consider(avatar, "agent")
    assert link.consider(FakeParticipant("phone", kind=SIP), "agent")


def test_a_wanted_identity_is_linked_even_if_it_publishes_for_us_but_not_of_any_kind() -> None:
    link = _link("face")
    assert not link.consider(FakeParticipant("ann"), "agent")
    assert not link.consider(FakeParticipant("face", kind=AGENT), "agent")
    avatar = FakeParticipant("face", attributes={"lk.publish_on_behalf": "agent"})
    assert link.consider(avatar, "agent")


def test_choosing_by_hand_needs_no_kind_and_nobody_frees_the_place() -> None:
    link = _link()
    link.consider(FakeParticipant("ann"), "agent")
    other = FakeParticipant("other", kind=AGENT)
    assert link.want("other", other) and link.linked is other
    assert not link.want("other", other), "linked already"
    assert not link.want(None, None) and link.linked is None
    assert link.consider(FakeParticipant("bob"), "agent")


@given(
    st.lists(
        st.tuples(st.sampled_from(["join", "leave", "want", "unset"]), st.sampled_from("abc")),
        max_size=30,
    )
)
def test_whoever_is_linked_is_wanted(steps: list[tuple[str, str]]) -> None:
    link, present = _link(), dict[str, FakeParticipant]()
    for step, name in steps:
        if step == "join":
            participant = present.setdefault(name, FakeParticipant(name))
            link.consider(participant, "agent")
        elif step == "leave" and name in present:
            link.left(present.pop(name))
        elif step == "want":
            link.want(name, present.get(name))
        elif step == "unset":
            link.want(None, None)
        assert link.linked is None or link.linked.identity == link.wanted
        assert link.linked is None or link.linked.identity in present
