"""Machines on a network: a server, and callers whose cables can be cut.

A machine is a network namespace, and a cable is a pair of virtual interfaces. Neither has a name
that outlives the run: a namespace is gone with the last process in it, and its cables with it.
What is needed beyond the rights for that is `ip` alone. No firewall is touched, and no kernel
module for losing packets is needed, which not every kernel has.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil

from .processes import mortal

CABLE = "e2e-"
"""How the interfaces on this computer begin; then comes the process that made them."""

NOBODY = "02:00:00:00:00:01"
"""A hardware address that no machine has."""

TOOLS = ("ip", "unshare", "nsenter")


def refusal() -> str:
    """Why there can be no such network here; empty if there can."""
    if missing := [tool for tool in TOOLS if shutil.which(tool) is None]:
        return f"no {' and no '.join(missing)} here: install iproute2 and util-linux"
    trial = ["ip", "link", "add", "one", "type", "veth", "peer", "name", "two"]
    tried = subprocess.run(["unshare", "--net", *trial], capture_output=True, text=True)
    if tried.returncode == 0:
        return ""
    return (
        "a network of one's own is not permitted here: run as root, in a container with "
        f"--privileged, or with CAP_NET_ADMIN and CAP_SYS_ADMIN ({tried.stderr.strip()})"
    )


def cables() -> list[str]:
    """The interfaces of this run on this computer."""
    return [name for name in _interfaces() if name == f"{CABLE}{os.getpid()}"]


def remove_stale_cables() -> None:
    """Remove the interfaces of runs that are over, however they ended."""
    for name in _interfaces():
        owner = name.removeprefix(CABLE)
        if name.startswith(CABLE) and owner.isdigit() and not psutil.pid_exists(int(owner)):
            subprocess.run(["ip", "link", "delete", name], check=False)


def _interfaces() -> list[str]:
    return os.listdir("/sys/class/net") if os.path.isdir("/sys/class/net") else []


class Machine:
    """A machine with a network of its own, for programs to run on.

    A process keeps it that waits at a pipe from this one, and ends when that is closed.
    """

    def __init__(self) -> None:
        self._keeper = subprocess.Popen(
            mortal(["unshare", "--net", "cat"]), stdin=subprocess.PIPE, stdout=subprocess.DEVNULL
        )
        self._network = Path(f"/proc/{self.pid}/ns/net")
        deadline = time.monotonic() + 5.0
        while self._network.stat().st_ino == os.stat("/proc/self/ns/net").st_ino:
            assert time.monotonic() < deadline, "the machine did not get a network of its own"
            time.sleep(0.005)

    @property
    def pid(self) -> int:
        """The process that keeps it."""
        return self._keeper.pid

    def command(self, command: list[str]) -> list[str]:
        """What to execute to run a command there; it is the same process."""
        return ["nsenter", f"--net={self._network}", "--", *command]

    def ip(self, *lines: str) -> None:
        """Configure its network by lines for `ip`."""
        batch = self.command(["ip", "-batch", "-"])
        subprocess.run(batch, input="\n".join(lines), text=True, check=True)

    def close(self) -> None:
        """Let go of it: it is gone with the programs that still run there."""
        self._keeper.kill()
        self._keeper.communicate()


class Line:
    """A caller's machine, and the cable from there to the server's.

    Args:
        machine: The caller's.
        server: The server's.
        address: The caller's.
        gateway: Address of the server.
        plug: Name of the interface at the server's end.
    """

    def __init__(
        self, machine: Machine, server: Machine, address: str, gateway: str, plug: str
    ) -> None:
        self._machine = machine
        self._server = server
        self._address = address
        self._gateway = gateway
        self._plug = plug
        machine.ip(
            "link set lo up",
            f"link add line type veth peer name {plug} netns {server.pid}",
            "link set line addrgenmode none",
            f"address add {address} peer {gateway} dev line",
            "link set line up",
            # WebRTC asks for the way to the world when it looks for the addresses of its machine
            f"route add default via {gateway}",
        )
        server.ip(
            f"link set {plug} addrgenmode none up",
            f"route add {address} dev {plug} src {gateway}",
        )

    def command(self, command: list[str]) -> list[str]:
        """What to execute to run a command on the caller's machine."""
        return self._machine.command(command)

    def cut(self) -> None:
        """Lose every packet in both directions from now on.

        They are addressed to a machine that isn't there: nobody is told, as on a dead line. The
        interfaces stay up, no error comes back, and all sockets stay open.
        """
        self._machine.ip(self._lost(self._gateway, "line"))
        self._server.ip(self._lost(self._address, self._plug))

    @staticmethod
    def _lost(address: str, interface: str) -> str:
        return f"neighbour replace {address} lladdr {NOBODY} nud permanent dev {interface}"

    def mend(self) -> None:
        """Have packets arrive again."""
        self._machine.ip(f"neighbour delete {self._gateway} dev line")
        self._server.ip(f"neighbour delete {self._address} dev {self._plug}")


class Network:
    """A server's machine, which can be reached from this computer, and from callers' machines.

    Used as a context manager. Addresses are of the range for tests of networks (RFC 2544), and
    different in runs at the same time.
    """

    def __init__(self) -> None:
        remove_stale_cables()
        self.server = Machine()
        """Where the server runs."""
        self._cable = f"{CABLE}{os.getpid()}"
        self._lines = 0
        try:
            self._connect()
        except BaseException:
            self.close()
            raise

    def _connect(self) -> None:
        cable, peer = self._cable, f"type veth peer name here netns {self.server.pid}"
        _ip(f"link add {cable} {peer}")
        number = int(Path(f"/sys/class/net/{cable}/ifindex").read_text())
        self._network = f"198.{18 + (number >> 8) % 2}.{number % 256}"
        here = f"{self._network}.2"
        _ip(
            f"link set {cable} addrgenmode none up",
            f"address add {here} peer {self.address} dev {cable}",
        )
        self.server.ip(
            "link set lo up",
            "link set here addrgenmode none",
            f"address add {self.address} peer {here} dev here",
            "link set here up",
        )

    @property
    def address(self) -> str:
        """Of the server."""
        return f"{self._network}.1"

    @contextmanager
    def line(self) -> Iterator[Line]:
        """A caller's machine, for the time of a block."""
        self._lines += 1
        number, plug = self._lines, f"line{self._lines}"
        machine = Machine()
        try:
            yield Line(machine, self.server, f"{self._network}.{2 + number}", self.address, plug)
        finally:
            machine.close()

    def close(self) -> None:
        """Take it down."""
        if cables():
            _ip(f"link delete {self._cable}")
        self.server.close()

    def __enter__(self) -> Network:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def _ip(*lines: str) -> None:
    subprocess.run(["ip", "-batch", "-"], input="\n".join(lines), text=True, check=True)
