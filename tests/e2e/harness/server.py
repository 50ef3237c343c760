"""A LiveKit server as a process of its own: started on free ports of the loopback, and ended."""

from __future__ import annotations

import socket
import subprocess
import time
from datetime import timedelta
from pathlib import Path
from types import TracebackType
from typing import Any, Literal

from livekit import api

from .network import Network
from .processes import mortal

START_TIMEOUT = 20.0
STOP_TIMEOUT = 10.0

PORT_ATTEMPTS = 3
"""How often a new server looks for free ports."""

_CONFIG = """\
port: {http}
bind_addresses: ["{address}"]
rtc:
  tcp_port: {tcp}
  udp_port: {udp}
  use_external_ip: false
  node_ip: {address}
  enable_loopback_candidate: {loopback}
room:
  empty_timeout: 60
  departure_timeout: {departure_timeout}
keys:
  {key}: {secret}
logging:
  level: info
"""


class LiveKitServer:
    """A server for tests: `url`, `key` and `secret` are what clients need.

    Args:
        binary: The server's executable.
        folder: For its configuration and its log.
        departure_timeout: Seconds after which a room without users is closed.
        network: Where it is a machine of its own; it is on this one without it.
        redis: Address of a Redis that it shares with other nodes.
    """

    key = "devkey"
    secret = "a secret that only tests know, long enough for HS256"

    def __init__(
        self,
        binary: Path,
        folder: Path,
        *,
        departure_timeout: int = 20,
        network: Network | None = None,
        redis: str = "",
    ) -> None:
        self._binary = binary
        self._folder = folder
        self._network = network
        self._address = "127.0.0.1" if network is None else network.address
        self._redis = redis
        self._departure_timeout = departure_timeout
        self._ports = free_ports(3)
        self._served = False
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        """Where clients connect."""
        return f"ws://{self._address}:{self._ports[0]}"

    @property
    def log(self) -> str:
        """What the server has logged."""
        return (self._folder / "server.log").read_text(errors="replace")

    def start(self) -> None:
        """Start the server, on the same ports when started again; returns when it serves.

        Raises:
            RuntimeError: It ended, or does not serve in time.
        """
        if self._served:
            self._start()
            return
        for attempt in range(PORT_ATTEMPTS):
            try:
                self._start()
            except RuntimeError:
                # what was free a moment ago may be somebody's by now
                if "address already in use" not in self.log or attempt + 1 == PORT_ATTEMPTS:
                    raise
                self._ports = free_ports(3)
            else:
                self._served = True
                return

    def _start(self) -> None:
        http, tcp, udp = self._ports
        config = self._folder / "livekit.yaml"
        config.write_text(
            _CONFIG.format(
                http=http,
                tcp=tcp,
                udp=udp,
                key=self.key,
                secret=self.secret,
                departure_timeout=self._departure_timeout,
                address=self._address,
                loopback=str(self._network is None).lower(),
            )
            + (f"redis:\n  address: {self._redis}\n" if self._redis else "")
        )
        command = [str(self._binary), "--config", str(config)]
        if self._network is not None:
            command = self._network.server.command(command)
        with (self._folder / "server.log").open("ab") as log:
            self._process = subprocess.Popen(mortal(command), stdout=log, stderr=log)
        deadline = time.monotonic() + START_TIMEOUT
        while True:
            try:
                socket.create_connection((self._address, http), timeout=1.0).close()
                return
            except OSError:
                if self._process.poll() is not None or time.monotonic() > deadline:
                    self.stop()
                    raise RuntimeError(f"the LiveKit server did not start:\n{self.log}") from None
                time.sleep(0.05)

    def stop(self) -> None:
        """End the server. Rooms and their participants are gone with it."""
        process, self._process = self._process, None
        if process is None:
            return
        process.terminate()
        try:
            process.wait(STOP_TIMEOUT)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()

    def crash(self) -> None:
        """End the server at once: it says goodbye to nobody."""
        assert self._process is not None
        self._process.kill()
        self.stop()

    def token(
        self,
        room: str,
        identity: str,
        *,
        agent: bool = False,
        kind: Literal["standard", "sip"] = "standard",
        **attributes: str,
    ) -> str:
        """What a participant needs to join a room."""
        token = (
            api.AccessToken(self.key, self.secret)
            .with_identity(identity)
            .with_ttl(timedelta(minutes=10))
            .with_grants(
                api.VideoGrants(
                    room_join=True, room=room, agent=agent, can_update_own_metadata=True
                )
            )
            .with_attributes(attributes)
        )
        return token.with_kind("agent" if agent else kind).to_jwt()

    def api(self) -> api.LiveKitAPI:
        """A client for the server's API; needs a running loop."""
        return api.LiveKitAPI(self.url.replace("ws", "http"), self.key, self.secret)

    async def identities(self, room: str) -> set[str]:
        """Who is in a room, as the server sees it; nobody if there is no such room."""
        async with self.api() as client:
            try:
                listed: Any = await client.room.list_participants(
                    api.ListParticipantsRequest(room=room)
                )
            except api.TwirpError as error:
                if error.code == api.TwirpErrorCode.NOT_FOUND:
                    return set()
                raise
        return {participant.identity for participant in listed.participants}

    def __enter__(self) -> LiveKitServer:
        self.start()
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.stop()


def free_ports(count: int) -> list[int]:
    """Ports of the loopback that nobody uses at the moment."""
    sockets = [socket.socket() for _ in range(count)]
    try:
        for each in sockets:
            each.bind(("127.0.0.1", 0))
        return [each.getsockname()[1] for each in sockets]
    finally:
        for each in sockets:
            each.close()
