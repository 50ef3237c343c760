"""Imported by the fork server before it forks the first process.

The server ignores the signals that stop a whole group, and so do the processes it forks, from
their first moment: the worker decides when they end.
"""

from __future__ import annotations

import gc
import signal

from .process_tree import lead_own_session
from .warm_up import warm_up

signal.signal(signal.SIGINT, signal.SIG_IGN)
signal.signal(signal.SIGTERM, signal.SIG_IGN)
lead_own_session()
warm_up()
gc.collect()
gc.freeze()  # what is loaded here stays out of the way of the processes' collectors
