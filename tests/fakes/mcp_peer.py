"""The server side of MCP, without I/O: takes JSON-RPC messages, returns those it sends."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

Message = dict[str, Any]


class Hangup(Exception):
    """The server goes away instead of answering."""


def text(value: str) -> Message:
    """A part of a result."""
    return {"type": "text", "text": value}


@dataclass
class Peer:
    """A server with scripted tools.

    `echo` returns its argument `text`; `fail` an error; `broken` a JSON-RPC error; `empty` nothing;
    `two` two parts; `slow` never answers; `progress` reports twice, then returns; `crash` hangs up.
    """

    tools: list[str] = field(
        default_factory=lambda: [
            "echo",
            "fail",
            "broken",
            "empty",
            "two",
            "slow",
            "progress",
            "crash",
        ]
    )
    page_size: int | None = None
    silent: set[str] = field(default_factory=set)
    """Methods that are never answered."""
    received: list[Message] = field(default_factory=list)

    def methods(self) -> list[str]:
        """What it was asked, in order."""
        return [message["method"] for message in self.received if "method" in message]

    def handle(self, message: Message) -> list[Message]:
        """What the server sends in answer to a message of the client.

        Raises:
            Hangup: It sends nothing and closes the connection.
        """
        self.received.append(message)
        method = message.get("method")
        if "id" not in message or method in self.silent:
            return []
        params = message.get("params") or {}
        if method == "initialize":
            return [_result(message, self._hello(params))]
        if method == "tools/list":
            return [_result(message, self._page(int(params.get("cursor") or 0)))]
        if method == "tools/call":
            return self._call(message, params)
        return [_error(message, -32601, f"no such method: {method}")]

    def _hello(self, params: Message) -> Message:
        return {
            "protocolVersion": params["protocolVersion"],
            "capabilities": {"tools": {"listChanged": True}},
            "serverInfo": {"name": "peer", "version": "1"},
        }

    def _page(self, start: int) -> Message:
        end = len(self.tools) if self.page_size is None else start + self.page_size
        page: Message = {"tools": [_tool(name) for name in self.tools[start:end]]}
        if end < len(self.tools):
            page["nextCursor"] = str(end)
        return page

    def _call(self, message: Message, params: Message) -> list[Message]:
        name, arguments = params["name"], params.get("arguments") or {}
        if name == "slow":
            return []
        if name == "crash":
            raise Hangup
        if name == "broken":
            return [_error(message, -32602, "no such city")]
        if name == "fail":
            failed = {"content": [text("too far"), text("away")], "isError": True}
            return [_result(message, failed)]
        if name == "progress":
            token = (params.get("_meta") or {}).get("progressToken")
            reports = [_progress(token, 1, "half way"), _progress(token, 2, None)]
            return [*reports, _result(message, {"content": [text("there")]})]
        parts = {"empty": [], "two": [text("a"), text("b")]}
        content = parts.get(name, [text(str(arguments.get("text")))])
        return [_result(message, {"content": content})]


TOOLS_CHANGED: Message = {"jsonrpc": "2.0", "method": "notifications/tools/list_changed"}


def _tool(name: str) -> Message:
    schema = {"type": "object", "properties": {"text": {"type": "string"}}}
    tool: Message = {"name": name, "description": f"does {name}", "inputSchema": schema}
    if name == "echo":
        tool["_meta"] = {"from": "peer"}
    return tool


def _result(request: Message, result: Message) -> Message:
    return {"jsonrpc": "2.0", "id": request["id"], "result": result}


def _error(request: Message, code: int, message: str) -> Message:
    return {
        "jsonrpc": "2.0",
        "id": request["id"],
        "error": {"code": code, "message": message},
    }


def _progress(token: Any, progress: int, message: str | None) -> Message:
    params: Message = {"progressToken": token, "progress": progress}
    if message is not None:
        params["message"] = message
    return {"jsonrpc": "2.0", "method": "notifications/progress", "params": params}
