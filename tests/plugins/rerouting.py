"""Brings every connection of this process to a provider on loopback, whatever host it is for.

Plugins dial the addresses they were written for, by the name and with the certificate checks of
real life; only the last step, `connect`, goes elsewhere. That covers asyncio, threads, aiohttp,
httpx, websockets and requests. Libraries that dial in native code are reached through the variables
for proxies and certificates, or not at all.
"""

from __future__ import annotations

import ipaddress
import os
import socket
from contextvars import ContextVar
from pathlib import Path
from typing import Any

from provider import Behaviour, Provider

current: ContextVar[Provider | None] = ContextVar("provider", default=None)
"""The provider for whatever the running code dials."""

_ANYWHERE = "192.0.2.1"  # an address that is nobody's
_TRUST = (
    "SSL_CERT_FILE",
    "REQUESTS_CA_BUNDLE",
    "AWS_CA_BUNDLE",
    "GRPC_DEFAULT_SSL_ROOTS_FILE_PATH",
)


def trust(bundle: Path) -> None:
    """Have the libraries of this process trust an authority. To be called before they are loaded."""
    for name in _TRUST:
        os.environ[name] = str(bundle)
    import certifi

    certifi.where = lambda: str(bundle)


def install(fallback: Provider) -> None:
    """Reroute from now on.

    Args:
        fallback: For code that runs outside of any context, such as the threads of a library.
    """
    closed = socket.socket()
    closed.bind(("127.0.0.1", 0))  # bound and not listening: connections are refused
    nowhere = closed.getsockname()
    resolve, connect, connect_ex = (
        socket.getaddrinfo,
        socket.socket.connect,
        socket.socket.connect_ex,
    )

    def rerouted(address: Any) -> Any:
        if not isinstance(address, tuple) or _is_local(address[0]):
            return address
        provider = current.get() or fallback
        if provider.behaviour is Behaviour.UNREACHABLE:
            return nowhere
        return ("127.0.0.1", provider.port)

    def getaddrinfo(host: Any, port: Any, *args: Any, **kwargs: Any) -> Any:
        if host is None or _is_local(host):
            return resolve(host, port, *args, **kwargs)
        number = port if isinstance(port, int) else 443
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (_ANYWHERE, number))]

    socket.getaddrinfo = getaddrinfo
    socket.socket.connect = lambda self, address: connect(self, rerouted(address))
    socket.socket.connect_ex = lambda self, address: connect_ex(self, rerouted(address))
    _keep = closed.detach()  # stays bound for the life of the process
    assert _keep > 0


def _is_local(host: Any) -> bool:
    name = host.decode() if isinstance(host, bytes) else str(host)
    try:
        return ipaddress.ip_address(name.split("%")[0]).is_loopback
    except ValueError:
        return name == "localhost"
