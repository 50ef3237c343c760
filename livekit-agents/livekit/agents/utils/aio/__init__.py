"""Building blocks for asyncio code: channels, owned tasks, bounded waiting, timers."""

# `interval` and `sleep` are functions that share their name with the module they live in. They are
# imported eagerly: a later import of the submodule then can't take the place of the function.
from typing import TYPE_CHECKING

from ..._lazy import attach
from . import itertools
from .channel import Chan, ChanClosed, ChanEmpty, ChanFull, ChanReceiver, ChanSender
from .counter import AsyncAtomicCounter
from .interval import Interval, interval
from .sleep import Sleep, SleepFinished, sleep
from .task_scope import Deadline, Survivor, TaskScope, abandoned, run_bounded, wait_until
from .task_set import TaskSet
from .utils import cancel_and_wait, gracefully_cancel
from .wait_group import WaitGroup

if TYPE_CHECKING:
    from . import debounce, debug, duplex_unix

__all__ = [
    "AsyncAtomicCounter",
    "Chan",
    "ChanClosed",
    "ChanEmpty",
    "ChanFull",
    "ChanReceiver",
    "ChanSender",
    "Deadline",
    "Interval",
    "Sleep",
    "SleepFinished",
    "Survivor",
    "TaskScope",
    "TaskSet",
    "WaitGroup",
    "abandoned",
    "cancel_and_wait",
    "debounce",
    "debug",
    "duplex_unix",
    "gracefully_cancel",
    "interval",
    "itertools",
    "run_bounded",
    "sleep",
    "wait_until",
]

if not TYPE_CHECKING:  # a type checker shall know the names above and no others
    __getattr__, __dir__ = attach(
        __name__, {"debounce": ".debounce:", "debug": ".debug:", "duplex_unix": ".duplex_unix:"}
    )
