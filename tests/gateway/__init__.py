"""An inference gateway to fail against: it speaks the protocols, and breaks them on request.

`GatewayEmulator` runs in the process of a test, on real sockets or on a `MemoryNetwork`.
``python -m tests.gateway --help`` tells how to point an agent at it by hand.
"""

from .faults import Fault
from .memory_network import MemoryNetwork
from .records import ConnectionRecord
from .server import GatewayEmulator

__all__ = ["ConnectionRecord", "Fault", "GatewayEmulator", "MemoryNetwork"]
