"""Toolsets that show a model only those of many tools that it needs."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ..._lazy import attach

if TYPE_CHECKING:
    from .tool_proxy import ToolProxyToolset
    from .tool_search import ToolSearchToolset

__all__ = ["ToolProxyToolset", "ToolSearchToolset"]

if not TYPE_CHECKING:  # a type checker shall know the names above and no others
    __getattr__, __dir__ = attach(
        __name__, {"ToolProxyToolset": ".tool_proxy", "ToolSearchToolset": ".tool_search"}
    )
