"""`AsyncToolset`: a toolset whose calls outlive the turn they were made in, and even the agent."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, Any, ClassVar

from ..log import logger
from ..types import NOT_GIVEN
from ..utils.aio import Deadline, TaskScope, wait_until
from ._toolset import CLOSE_TIMEOUT, Toolset

if TYPE_CHECKING:
    from ..voice.agent_activity import AgentActivity
    from ..voice.agent_session import AgentSession
    from ..voice.tool_executor import ToolExecutor
    from ..voice.tool_options import ToolHandlingOptions
    from .tool_context import Tool

__all__ = ["AsyncToolset"]

_GRACE = 0.25
"""Seconds for cancelled tools to react."""


class AsyncToolset(Toolset):
    """Tools with an executor of their own.

    Other tools end with the agent that called them. Those of a set given to the session go on
    through a handoff, and whichever agent is on duty then tells their results; those of a set given
    to an agent end with it.
    """

    _drain_timeout: ClassVar[float] = CLOSE_TIMEOUT - _GRACE
    """Seconds that `aclose` waits for running tools."""

    def __init__(
        self,
        *,
        id: str,
        tools: Sequence[Tool | Toolset] | None = None,
        tool_handling: ToolHandlingOptions | None = None,
        on_duplicate_call: Any = None,
    ) -> None:
        """Create the set.

        Args:
            id: Unique name.
            tools: Its tools, which may be toolsets themselves.
            tool_handling: Texts used around running tools; those of the agent, or else of the
                session, by default.
            on_duplicate_call: No longer supported.

        Raises:
            TypeError: `on_duplicate_call` was given.
        """
        if on_duplicate_call is not None:
            raise TypeError(
                "on_duplicate_call is no longer supported: "
                "say it for each tool, with @function_tool(on_duplicate=...)"
            )
        super().__init__(id=id, tools=tools)
        self._tool_handling = tool_handling
        self._owner: AgentSession[Any] | AgentActivity | None = None
        self._executor: ToolExecutor | None = None

    def _attach(self, owner: AgentSession[Any] | AgentActivity) -> None:
        """Run tools for a session (across its agents) or for one activity. Before `setup`.

        Attached to the same owner again, what runs goes on.
        """
        if self._owner is not owner or self._executor is None:
            from ..voice.tool_executor import ToolExecutor

            self._detach()
            options = self._tool_handling
            if options is None:
                options = getattr(owner, "tool_handling", None) or getattr(
                    owner, "_tool_handling", None
                )
            self._owner = owner
            self._executor = ToolExecutor(
                owner,
                options=NOT_GIVEN if options is None else options,
                name=f"tools of {self.id!r}",
            )
        attach(self.tools, owner)

    async def aclose(self) -> None:
        """End the tools and release what they hold, within 5 s.

        Tools flagged `CANCELLABLE` are cancelled, the others waited for; what is left then is
        cancelled too, and its calls are answered with an error. Toolsets in it are closed
        meanwhile. Idempotent; `setup` starts anew once the set was attached again.
        """
        executor, self._executor, self._owner = self._executor, None, None
        deadline = Deadline(CLOSE_TIMEOUT)
        scope = TaskScope(f"toolset {self.id!r}")
        nested = scope.spawn(super().aclose(), name="close nested toolsets")
        try:
            if executor is not None:
                await self._end_tools(executor)
            await wait_until(nested, deadline)
        finally:
            # Also when whoever closes us has run out of patience.
            if executor is not None:
                executor.cut_off()
            if not nested.done():
                scope.cancel_soon()

    async def _end_tools(self, executor: ToolExecutor) -> None:
        executor.cancel_cancellable()
        current = asyncio.current_task()
        assert current is not None
        unblock = executor.block(current)  # a tool that closes its own set
        try:
            left = await executor.drain(self._drain_timeout)
        finally:
            unblock()
        if left:
            logger.warning(
                "toolset %r is closed while tools are running; they are cancelled",
                self.id,
                extra={"tools": [tool.call.name for tool in left]},
            )
        executor.cut_off()
        for survivor in await executor.aclose(_GRACE):
            logger.warning("%s: %s does not end and is abandoned", survivor.owner, survivor.name)

    def _detach(self) -> None:
        """Leave an owner that has not closed the set; its tools end now."""
        if self._executor is not None:
            self._executor.cut_off()
        self._executor = self._owner = None


def attach(tools: Iterable[Tool | Toolset], owner: AgentSession[Any] | AgentActivity) -> None:
    """Let every `AsyncToolset` among the tools, nested ones included, run for that owner."""
    for tool in tools:
        if isinstance(tool, AsyncToolset):
            tool._attach(owner)
        elif isinstance(tool, Toolset):
            attach(tool.tools, owner)


def executors(tools: Iterable[Tool | Toolset]) -> Iterator[ToolExecutor]:
    """The executors of every attached `AsyncToolset` among the tools, nested ones included."""
    for tool in tools:
        if isinstance(tool, Toolset):
            if isinstance(tool, AsyncToolset) and tool._executor is not None:
                yield tool._executor
            yield from executors(tool.tools)


def executor_of(name: str, toolsets: Iterable[Toolset]) -> ToolExecutor | None:
    """The executor that runs the function tool `name`; None if no `AsyncToolset` has that tool.

    Args:
        name: Name of the tool.
        toolsets: Where to look, nested sets included. The innermost set that has an executor wins.
    """
    from .tool_context import get_fnc_tool_names

    for toolset in toolsets:
        members = list(toolset.tools)
        if name not in get_fnc_tool_names(members):
            continue
        inner = executor_of(name, (tool for tool in members if isinstance(tool, Toolset)))
        own = toolset._executor if isinstance(toolset, AsyncToolset) else None
        if inner or own:
            return inner or own
    return None


def __getattr__(name: str) -> Any:
    if name == "AsyncRunContext":
        from ..voice.run_context import RunContext

        logger.warning("AsyncRunContext is deprecated, use RunContext instead", stacklevel=2)
        return RunContext
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
