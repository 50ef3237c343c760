"""Ending a process together with whatever it started.

Each process of ours leads a session, and so a process group, of its own. Its children are in that
group unless they made their own; those are found as long as their parent lives.
"""

from __future__ import annotations

import os
import signal
from collections.abc import Iterable

__all__ = ["descendants", "kill_group", "kill_tree", "lead_own_session"]


def lead_own_session() -> None:
    """Part the calling process from the terminal's signals and from its parent's group."""
    if hasattr(os, "setsid"):
        try:
            os.setsid()
        except OSError:
            pass  # it leads a group already


def descendants(pid: int) -> list[int]:
    """Ids of the processes that `pid` started, directly or not."""
    import psutil  # type: ignore[import-untyped,unused-ignore]

    try:
        return [child.pid for child in psutil.Process(pid).children(recursive=True)]
    except psutil.Error:
        return []


def kill_tree(pid: int) -> None:
    """Kill a process, its group, and its descendants. What is gone already is fine."""
    others = descendants(pid)
    if hasattr(signal, "SIGKILL"):
        _kill((pid, *others), signal.SIGKILL)
        kill_group(pid)
    else:
        _kill((pid, *others), signal.SIGTERM)


def kill_group(leader: int) -> None:
    """Kill what is left of a group whose leader is dead, or about to be."""
    if not hasattr(os, "killpg"):
        return
    try:
        os.killpg(leader, signal.SIGKILL)
    except (ProcessLookupError, PermissionError):
        pass


def _kill(pids: Iterable[int], sig: int) -> None:
    for pid in pids:
        try:
            os.kill(pid, sig)
        except (ProcessLookupError, PermissionError):
            pass
