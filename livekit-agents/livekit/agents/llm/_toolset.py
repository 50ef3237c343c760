"""`Toolset`: tools that belong together and share a lifetime, such as those of one server."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

from typing_extensions import Self

from ..log import logger
from ..utils.aio import TaskScope
from ._find_tools import find_function_tools
from ._tools import Tool

if TYPE_CHECKING:
    from ..voice.run_context import RunContext

CLOSE_TIMEOUT = 5.0
"""Seconds a toolset that is closed on its own waits for those nested in it."""


class Toolset:
    """A group of tools with a common lifetime.

    Tools are given at construction, or are `@function_tool` methods of a subclass. Override
    `tools` for a set that changes: it is read at the start of every turn.
    """

    _ends_by_itself: ClassVar[bool] = False
    """Whether `aclose` takes no more than 2 s, whatever happens, and what it began then ends too."""

    def _give_up(self) -> None:
        """Whoever closed the set has no more time: end at once what `aclose` has begun."""

    @dataclass
    class ToolCalledEvent:
        """A tool of the set was called."""

        ctx: RunContext[Any]
        arguments: dict[str, Any]

    @dataclass
    class ToolCompletedEvent:
        """A tool of the set has returned."""

        ctx: RunContext[Any]
        output: Any

    def __init__(self, *, id: str, tools: Sequence[Tool | Toolset] | None = None) -> None:
        """Create the set.

        Args:
            id: Unique name.
            tools: Its tools, which may be toolsets themselves.
        """
        self._id = id
        # Bound once: each lookup of a method would give another tool.
        self._tools: list[Tool | Toolset] = [*(tools or ()), *find_function_tools(self)]

    @property
    def id(self) -> str:
        """Unique name."""
        return self._id

    @property
    def tools(self) -> Sequence[Tool | Toolset]:
        """The given tools, then the methods."""
        return self._tools

    async def setup(self) -> Self:
        """Get the tools ready; nested toolsets side by side.

        A session calls it before a model sees the tools, possibly again after `aclose`, and more
        than once without one. Overrides call `super().setup()`.

        Raises:
            Exception: What the first nested toolset failed with, after all have ended. Failures
                of others are logged.
        """
        failures = await self._for_nested(lambda toolset: toolset.setup(), "setup", timeout=None)
        if failures:
            raise failures[0]
        return self

    async def aclose(self) -> None:
        """Release what the tools hold; nested toolsets side by side, within 5 s.

        One that fails or doesn't end is logged, and does not keep the others open. Idempotent.
        Overrides call `super().aclose()`.
        """
        failures = await self._for_nested(
            lambda toolset: toolset.aclose(), "aclose", timeout=CLOSE_TIMEOUT
        )
        for error in failures:
            logger.error("toolset %r: closing failed", self.id, exc_info=error)

    async def _for_nested(
        self, act: Callable[[Toolset], Awaitable[object]], what: str, *, timeout: float | None
    ) -> list[Exception]:
        """Do something with each nested toolset at once; returns the failures."""
        nested = [tool for tool in self.tools if isinstance(tool, Toolset)]
        if not nested:
            return []
        scope = TaskScope(f"toolset {self.id!r}")
        try:
            tasks = [
                scope.spawn(_run(act, toolset), name=f"{what} of {toolset.id!r}", log_errors=False)
                for toolset in nested
            ]
            await scope.join(None if timeout is None else timeout - _KILL)
        finally:
            survivors = await scope.cancel(_KILL)
        for survivor in survivors:
            logger.warning("%s: %s does not end and is abandoned", survivor.owner, survivor.name)
        return [error for task in tasks if (error := _failure(task)) is not None]

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self.id!r}>"


_KILL = 0.25
"""Seconds for a cancelled toolset to react."""


async def _run(act: Callable[[Toolset], Awaitable[object]], toolset: Toolset) -> None:
    await act(toolset)


def _failure(task: asyncio.Task[None]) -> Exception | None:
    if not task.done():
        return None
    if task.cancelled():
        return asyncio.TimeoutError(f"{task.get_name()} was cancelled")
    error = task.exception()
    return error if isinstance(error, Exception) else None
