"""A session seen and steered from elsewhere: host, client, and how messages travel."""

from ._remote.client import RemoteSession, RemoteSessionEventTypes
from ._remote.host import SessionHost
from ._remote.transports import (
    TOPIC_SESSION_MESSAGES,
    RoomSessionTransport,
    SessionTransport,
    TcpSessionTransport,
)

__all__ = [
    "TOPIC_SESSION_MESSAGES",
    "RemoteSession",
    "RemoteSessionEventTypes",
    "RoomSessionTransport",
    "SessionHost",
    "SessionTransport",
    "TcpSessionTransport",
]
