"""Context variables that mark which activity, speech, tool or hook a task works for.

They are inherited by every task that user code starts, so `say()` called three helpers deep inside a
tool still knows the tool it belongs to. `inline_owner` is the exception: it names one task, and a
child task that inherits it can tell that it is not the owner.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeVar

if TYPE_CHECKING:
    from ..llm import FunctionCall
    from .agent import Agent
    from .agent_activity import AgentActivity
    from .agent_session import AgentSession
    from .speech_handle import SpeechHandle

T = TypeVar("T")


@dataclass(frozen=True)
class OnEnterData:
    """Set while an agent's `on_enter` runs: replies made there hide `IGNORE_ON_ENTER` tools."""

    session: AgentSession[Any]
    agent: Agent


current_activity: ContextVar[AgentActivity | None] = ContextVar("lk_activity", default=None)
current_speech_handle: ContextVar[SpeechHandle | None] = ContextVar("lk_speech", default=None)
current_function_call: ContextVar[FunctionCall | None] = ContextVar(
    "lk_function_call", default=None
)
on_enter_marker: ContextVar[OnEnterData | None] = ContextVar("lk_on_enter", default=None)

_NON_BLOCKING = "__livekit_agents_tool_non_blocking"


class TaskMark:
    """A task as its own context names it; filled in once the task exists."""

    __slots__ = ("task",)

    def __init__(self) -> None:
        self.task: asyncio.Task[Any] | None = None


speech_task: ContextVar[TaskMark | None] = ContextVar("lk_speech_task", default=None)
"""The speech task (hook, user turn, reply) that the running code belongs to."""

in_exit_hook: ContextVar[bool] = ContextVar("lk_in_exit_hook", default=False)
"""True in `on_exit`: speech started there is welcome even while the session is being closed."""


class InlineOwner(TaskMark):
    """The one task in which an `AgentTask` may be awaited: a tool body, `on_enter` or `on_exit`.

    The marker is put into the context before that task exists and claimed by the task itself.
    """

    __slots__ = ()

    def claim(self) -> None:
        """Make the running task the owner."""
        self.task = asyncio.current_task()


inline_owner: ContextVar[InlineOwner | None] = ContextVar("lk_inline_owner", default=None)


def may_await_inline_task() -> bool:
    """Whether the running task is itself a tool body, an `on_enter` or an `on_exit`."""
    owner = inline_owner.get()
    return owner is not None and owner.task is asyncio.current_task()


def is_blocking_tool_of(handle: SpeechHandle) -> bool:
    """Whether the running code is a tool whose result `handle` is still waiting for."""
    call = current_function_call.get()
    return (
        call is not None
        and current_speech_handle.get() is handle
        and not (call.extra or {}).get(_NON_BLOCKING)
    )


@contextmanager
def bound(var: ContextVar[T], value: T) -> Iterator[None]:
    """Set `var` for the block; tasks spawned inside inherit the value."""
    token = var.set(value)
    try:
        yield
    finally:
        var.reset(token)


@contextmanager
def neutral() -> Iterator[None]:
    """Belong to no speech, tool or hook: for work that merely was requested from inside one."""
    with (
        bound(current_activity, None),
        bound(current_speech_handle, None),
        bound(current_function_call, None),
        bound(on_enter_marker, None),
        bound(speech_task, None),
        bound(in_exit_hook, False),
        bound(inline_owner, None),
    ):
        yield
