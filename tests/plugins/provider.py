"""A provider that takes every connection and then says nothing, or turns every request away.

It speaks enough of TLS, HTTP and WebSocket that any client gets through the door under the name it
dialled, and it counts connections at its own side of the wire. It runs in a thread, so that a
client that blocks its loop is seen as well.
"""

from __future__ import annotations

import asyncio
import base64
import hashlib
import json
import socket
import ssl
import threading
from dataclasses import dataclass, field
from enum import Enum
from functools import lru_cache
from pathlib import Path

import trustme

_MAGIC = "258EAFA5-E914-47DA-95CA-C5AB0DC85B11"
_HTTP2 = b"PRI * HTTP/2.0\r\n\r\n"
_TLS_HANDSHAKE = b"\x16"
_COMPLAINT = {"error": {"message": "invalid API key", "code": 401, "type": "unauthorized"}}


class Behaviour(Enum):
    """What the provider does with those who connect."""

    UNREACHABLE = "unreachable"
    """The port is closed."""
    UNAUTHORIZED = "unauthorized"
    """Every request and handshake is answered with 401."""
    SILENT = "silent"
    """Handshakes succeed, then nothing comes: no answer, no ping, no goodbye."""


@dataclass(eq=False)
class Connection:
    """One TCP connection of a client."""

    host: str = ""
    path: str = ""
    websocket: bool = False
    bytes_in: int = 0
    open: bool = True


@dataclass(eq=False)
class Provider:
    """One of them, at a port of its own. Its behaviour may be changed at any moment."""

    authority: Authority
    behaviour: Behaviour = Behaviour.SILENT
    connections: list[Connection] = field(default_factory=list)
    port: int = 0

    @property
    def open(self) -> list[Connection]:
        """The connections that stand."""
        return [connection for connection in self.connections if connection.open]

    async def serve(self) -> None:
        """Take connections until cancelled."""
        with socket.create_server(("127.0.0.1", 0), backlog=100) as listener:
            listener.setblocking(False)
            self.port = listener.getsockname()[1]
            loop = asyncio.get_running_loop()
            guests: set[asyncio.Task[None]] = set()
            while True:
                guest, _ = await loop.sock_accept(listener)
                task = loop.create_task(self._receive(guest))
                guests.add(task)
                task.add_done_callback(guests.discard)

    async def _receive(self, guest: socket.socket) -> None:
        connection = Connection()
        self.connections.append(connection)
        loop = asyncio.get_running_loop()
        reader = asyncio.StreamReader()
        protocol = asyncio.StreamReaderProtocol(reader)
        tls = self.authority.context if await _first_byte(guest) == _TLS_HANDSHAKE else None
        try:
            transport, _ = await loop.connect_accepted_socket(lambda: protocol, guest, ssl=tls)
        except OSError:  # the client dislikes the certificate, or hung up
            connection.open = False
            guest.close()
            return
        try:
            await self._talk(connection, reader, transport, protocol)
        except (OSError, asyncio.IncompleteReadError, asyncio.LimitOverrunError):
            pass
        finally:
            connection.open = False
            transport.abort()

    async def _talk(
        self,
        connection: Connection,
        reader: asyncio.StreamReader,
        transport: asyncio.Transport,
        protocol: asyncio.StreamReaderProtocol,
    ) -> None:
        head = await reader.readuntil(b"\r\n\r\n")
        if head.startswith(b"CONNECT "):  # for clients that dial through a proxy only
            transport.write(b"HTTP/1.1 200 Connected\r\n\r\n")
            loop = asyncio.get_running_loop()
            upgraded = await loop.start_tls(
                transport, protocol, self.authority.context, server_side=True
            )
            assert upgraded is not None
            return await self._talk(connection, reader, upgraded, protocol)
        request, *lines = head.decode("latin-1").split("\r\n")
        pairs = (line.partition(":") for line in lines)
        fields = {name.lower(): value.strip() for name, _, value in pairs}
        key = fields.get("sec-websocket-key", "")
        connection.host = fields.get("host", "")
        connection.path = "(HTTP/2)" if head == _HTTP2 else request.split(" ")[1].split("?")[0]
        if self.behaviour is Behaviour.UNAUTHORIZED:
            transport.write(_refusal())
            transport.close()
        elif key:
            transport.write(_handshake(key, fields.get("sec-websocket-protocol", "")))
            connection.websocket = True
        while data := await reader.read(65536):
            connection.bytes_in += len(data)


class Authority:
    """Makes certificates for whatever name a client dials.

    Args:
        folder: Where its own certificate goes, for the clients to trust.
    """

    def __init__(self, folder: Path) -> None:
        self._ca = trustme.CA()
        self.bundle = folder / "authority.pem"
        self._ca.cert_pem.write_to_path(str(self.bundle))
        self.context = self._make_context("127.0.0.1")
        self.context.sni_callback = self._choose
        self._for_name = lru_cache(None)(self._make_context)

    def _make_context(self, name: str) -> ssl.SSLContext:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.set_alpn_protocols(["http/1.1", "h2"])
        self._ca.issue_cert(name).configure_cert(context)
        return context

    def _choose(self, tls: ssl.SSLObject, name: str | None, _: ssl.SSLContext) -> None:
        if name:
            tls.context = self._for_name(name)


class Providers:
    """The thread that providers live in; a context manager."""

    def __init__(self, folder: Path) -> None:
        self.authority = Authority(folder)
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)

    def open(self) -> Provider:
        """A new provider, listening."""
        provider = Provider(self.authority)
        asyncio.run_coroutine_threadsafe(provider.serve(), self._loop)
        while not provider.port:
            asyncio.run_coroutine_threadsafe(asyncio.sleep(0), self._loop).result(5)
        return provider

    def __enter__(self) -> Providers:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(5)


async def _first_byte(guest: socket.socket) -> bytes:
    """Looks at what comes without taking it."""
    loop = asyncio.get_running_loop()
    readable = asyncio.Event()
    loop.add_reader(guest, readable.set)
    try:
        await readable.wait()
        return guest.recv(1, socket.MSG_PEEK)
    except OSError:
        return b""
    finally:
        loop.remove_reader(guest)


def _handshake(key: str, protocols: str) -> bytes:
    accept = base64.b64encode(hashlib.sha1((key + _MAGIC).encode()).digest()).decode()
    lines = [
        "HTTP/1.1 101 Switching Protocols",
        "Upgrade: websocket",
        "Connection: Upgrade",
        f"Sec-WebSocket-Accept: {accept}",
    ]
    if protocols:
        lines.append(f"Sec-WebSocket-Protocol: {protocols.split(',')[0].strip()}")
    return ("\r\n".join(lines) + "\r\n\r\n").encode()


def _refusal() -> bytes:
    body = json.dumps(_COMPLAINT).encode()
    return (
        b"HTTP/1.1 401 Unauthorized\r\nContent-Type: application/json\r\nConnection: close\r\n"
        b"Content-Length: %d\r\n\r\n%s" % (len(body), body)
    )
