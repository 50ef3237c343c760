"""Which participant of a room the session talks with. No I/O: fed with comings and goings."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from typing import Generic, Protocol, TypeVar

from ...types import ATTRIBUTE_PUBLISH_ON_BEHALF


class Candidate(Protocol):
    """What linking looks at in a participant."""

    @property
    def identity(self) -> str:
        """Unique in the room."""
        ...

    @property
    def kind(self) -> int:
        """A `rtc.ParticipantKind`."""
        ...

    @property
    def attributes(self) -> dict[str, str]:
        """What it says about itself."""
        ...


P = TypeVar("P", bound=Candidate)


@dataclass
class ParticipantLink(Generic[P]):
    """The link: `wanted` is who it is meant for, `linked` who is there.

    Nobody wanted: the first participant of an accepted kind is linked, and wanted from then on, so
    that only they can come back after a drop. Those who publish on the agent's behalf (avatars)
    are never the user.
    """

    kinds: Collection[int]
    """Kinds of participants that are linked by themselves."""

    wanted: str | None = None
    linked: P | None = None

    def consider(self, participant: P, local_identity: str) -> bool:
        """Link somebody who is in the room, or just came, if they are the one. True if so."""
        if self.linked is not None or participant.kind not in self.kinds:
            return False
        if self.wanted is not None:
            if participant.identity != self.wanted:
                return False
        elif participant.attributes.get(ATTRIBUTE_PUBLISH_ON_BEHALF) == local_identity:
            return False
        self.linked, self.wanted = participant, participant.identity
        return True

    def want(self, identity: str | None, present: P | None) -> bool:
        """Choose somebody, whatever their kind; None chooses nobody.

        Args:
            identity: Who.
            present: That participant, if they are in the room.

        Returns:
            Whether this linked them just now.
        """
        self.wanted = identity
        if self.linked is not None and self.linked.identity == identity:
            return False
        self.linked = present
        return present is not None

    def left(self, participant: P) -> bool:
        """Somebody left. True if it was the linked one; they stay wanted."""
        if self.linked is None or self.linked.identity != participant.identity:
            return False
        self.linked = None
        return True


__all__ = ["Candidate", "ParticipantLink"]
