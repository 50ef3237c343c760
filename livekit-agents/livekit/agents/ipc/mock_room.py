"""The room of a job that has none: the console, tests."""

from __future__ import annotations

from functools import cache
from typing import TYPE_CHECKING, Any, cast

if TYPE_CHECKING:
    from livekit import rtc

__all__ = ["MockRoom", "create_mock_room"]


class _Silent:
    """Anything can be called on it, awaited or not, and nothing happens."""

    def __init__(self, **attributes: Any) -> None:
        self.__dict__.update(attributes)

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        return _nothing

    def on(self, event: str, callback: Any = None) -> Any:
        """Register a handler for an event that never comes."""
        return (lambda function: function) if callback is None else callback


class _Nothing:
    """A result that can be awaited or thrown away."""

    def __await__(self) -> Any:
        return None
        yield

    def __bool__(self) -> bool:
        return False


def _nothing(*_: Any, **__: Any) -> Any:
    return _Nothing()


class MockRoom(_Silent):
    """Connected, with the agent and one participant in it; every other call does nothing."""

    def __init__(self) -> None:
        from livekit import rtc

        standard = rtc.ParticipantKind.PARTICIPANT_KIND_STANDARD
        agent = rtc.ParticipantKind.PARTICIPANT_KIND_AGENT
        user = _participant("mock_user", "PA_mock_user", standard)
        super().__init__(
            name="console",
            metadata="",
            connection_state=rtc.ConnectionState.CONN_CONNECTED,
            local_participant=_participant("agent", "PA_mock_agent", agent),
            remote_participants={"mock_user": user},
            e2ee_manager=None,
        )

    @property
    def sid(self) -> Any:
        """The id of the room, to be awaited."""
        return _sid()

    def isconnected(self) -> bool:
        """Always."""
        return True


def _participant(identity: str, sid: str, kind: int) -> _Silent:
    from livekit import rtc

    state = getattr(rtc, "ParticipantState", None)
    return _Silent(
        identity=identity,
        sid=sid,
        name=identity,
        kind=kind,
        metadata="",
        attributes={},
        track_publications={},
        disconnect_reason=None,
        state=getattr(state, "PARTICIPANT_STATE_ACTIVE", 2),
    )


async def _sid() -> str:
    return "RM_mock_sid"


@cache
def create_mock_room() -> rtc.Room:
    """The mock room of this process."""
    return cast("rtc.Room", MockRoom())
