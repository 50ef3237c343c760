"""Building blocks for asyncio code: channels, owned tasks, bounded waiting, timers."""

from . import itertools
from .channel import Chan, ChanClosed, ChanEmpty, ChanFull, ChanReceiver, ChanSender
from .task_scope import Deadline, Survivor, TaskScope, abandoned, wait_until
from .utils import cancel_and_wait, gracefully_cancel

__all__ = [
    "Chan",
    "ChanClosed",
    "ChanEmpty",
    "ChanFull",
    "ChanReceiver",
    "ChanSender",
    "Deadline",
    "Survivor",
    "TaskScope",
    "abandoned",
    "cancel_and_wait",
    "gracefully_cancel",
    "itertools",
    "wait_until",
]
