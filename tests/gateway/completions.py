"""The route ``/chat/completions``: streamed answers, from a script or a function."""

from __future__ import annotations

import asyncio
import json
from collections import deque
from collections.abc import AsyncIterable, AsyncIterator, Callable
from typing import Any

from aiohttp import web

from livekit.agents.inference._protocol.chat import (
    CompletionChunk,
    Delta,
    ToolCallDelta,
    Usage,
    encode_chunk,
)
from livekit.agents.inference._protocol.sse import encode_event

from .faults import Fault
from .records import ConnectionRecord

Answer = Callable[[dict[str, Any]], AsyncIterable[Delta]]

_DRIP_INTERVAL = 2.0
_BEFORE_DROP = 0.05
_REQUIRED = ("model", "messages", "stream", "stream_options")
_USAGE = Usage(completion_tokens=5, prompt_tokens=7, total_tokens=12, cached_tokens=3)


def text_answer(text: str) -> list[Delta]:
    """An answer of words, one by one."""
    words = text.split(" ")
    pieces = [word + " " for word in words[:-1]] + words[-1:]
    return [*(Delta(piece) for piece in pieces), Delta(finish_reason="stop")]


def tool_answer(*calls: tuple[str, str, str], in_one_chunk: bool = False) -> list[Delta]:
    """An answer of tool calls: id, name and arguments of each."""
    deltas = [
        ToolCallDelta(index, call_id, name, arguments)
        for index, (call_id, name, arguments) in enumerate(calls)
    ]
    if in_one_chunk:
        return [Delta(tool_calls=tuple(deltas)), Delta(finish_reason="tool_calls")]
    pieces = []
    for delta in deltas:
        half = len(delta.arguments) // 2
        first = ToolCallDelta(delta.index, delta.id, delta.name, delta.arguments[:half])
        rest = ToolCallDelta(delta.index, arguments=delta.arguments[half:])
        pieces += [Delta(tool_calls=(first,)), Delta(tool_calls=(rest,))]
    return [*pieces, Delta(finish_reason="tool_calls")]


class CompletionRoute:
    """Answers requests with what `script` holds, else with what `answer` makes of them."""

    def __init__(self) -> None:
        self.script: deque[list[Delta]] = deque()
        self.answer: Answer = _echo
        self.requests: list[dict[str, Any]] = []
        """Bodies of the requests."""

    async def serve(
        self, request: web.Request, record: ConnectionRecord, fault: Fault | None
    ) -> web.StreamResponse:
        """One request."""
        try:
            body = json.loads(await request.read())
            missing = [key for key in _REQUIRED if key not in body]
        except ValueError:
            body, missing = {}, ["a JSON body"]
        self.requests.append(body)
        if missing or body["stream"] is not True:
            message = f"missing: {', '.join(missing) or 'stream'}"
            return web.json_response({"error": {"message": message, "code": 400}}, status=400)
        kind = fault.kind if fault is not None else ""
        if kind == "stall_headers":
            await asyncio.get_running_loop().create_future()
        response = web.StreamResponse(
            headers={"Content-Type": "text/event-stream", "x-request-id": f"req_{id(record)}"}
        )
        await response.prepare(request)
        writer = _Writer(request, response, record, fault)
        await writer.write_answer(self._deltas(body))
        return response

    async def _deltas(self, body: dict[str, Any]) -> AsyncIterator[Delta]:
        if self.script:
            for delta in self.script.popleft():
                yield delta
            return
        async for delta in self.answer(body):
            yield delta


async def _echo(body: dict[str, Any]) -> AsyncIterator[Delta]:
    last = body["messages"][-1].get("content") if body["messages"] else ""
    for delta in text_answer(f"You said: {last}"):
        yield delta


class _Writer:
    """Writes one answer, with its fault."""

    def __init__(
        self,
        request: web.Request,
        response: web.StreamResponse,
        record: ConnectionRecord,
        fault: Fault | None,
    ) -> None:
        self._request = request
        self._response = response
        self._record = record
        self._kind = fault.kind if fault is not None else ""
        self._options = fault.options if fault is not None else {}
        self._written = 0

    async def write_answer(self, deltas: AsyncIterable[Delta]) -> None:
        if self._kind == "drip":
            while True:
                await self._response.write(b": still thinking\n\n")
                await asyncio.sleep(_DRIP_INTERVAL)
        async for delta in deltas:
            if self._kind == "truncate" and delta.finish_reason is not None:
                return
            await self._write_delta(delta)
            self._written += 1
            if self._written == 1:
                await self._strike()
        await self._write(encode_chunk(CompletionChunk("cmpl_1", (), _USAGE)))
        await self._write(encode_chunk(None))

    async def _strike(self) -> None:
        """After the first chunk."""
        if self._kind == "stall_mid":
            await asyncio.get_running_loop().create_future()
        elif self._kind == "drop_mid":
            await asyncio.sleep(_BEFORE_DROP)  # the client reads what came before
            if self._request.transport is not None:
                self._request.transport.abort()
            raise asyncio.CancelledError
        elif self._kind == "bad_sse":
            await self._write("{bad")
        elif self._kind == "null_delta":
            await self._write('{"id":"cmpl_1","choices":[{"index":0,"delta":null}]}')

    async def _write_delta(self, delta: Delta) -> None:
        text = encode_chunk(CompletionChunk("cmpl_1", (delta,)))
        if self._kind == "sse_error" and self._written == 0:
            text = json.dumps({"error": self._options["obj"]})
        if self._kind == "list_content" and delta.content is not None:
            chunk = json.loads(text)
            chunk["choices"][0]["delta"]["content"] = [{"type": "text", "text": delta.content}]
            text = json.dumps(chunk)
        await self._write(text)

    async def _write(self, text: str) -> None:
        data = encode_event(text)
        self._record.bytes_out += len(data)
        self._record.sent.append("chunk")
        if self._kind == "split_utf8":
            for index in range(len(data)):
                await self._response.write(data[index : index + 1])
        else:
            await self._response.write(data)
