"""A job's way to the models that run in a process of their own."""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import Callable

from .proto import InferenceRequest, InferenceResponse

__all__ = ["InferenceClient"]


class InferenceClient:
    """Sends requests to the worker, which passes them on, and matches the answers."""

    def __init__(self, send: Callable[[InferenceRequest], None]) -> None:
        self._send = send
        self._pending: dict[str, asyncio.Future[InferenceResponse]] = {}
        self._closed = False

    async def do_inference(self, method: str, data: bytes) -> bytes | None:
        """See `InferenceExecutor.do_inference`. May be cancelled; the answer is then dropped."""
        if self._closed:
            raise RuntimeError(f"inference of {method} failed: the job is over")
        request_id = uuid.uuid4().hex
        future: asyncio.Future[InferenceResponse] = asyncio.get_running_loop().create_future()
        self._pending[request_id] = future
        try:
            self._send(InferenceRequest(method, request_id, data))
            response = await future
        finally:
            self._pending.pop(request_id, None)
        if response.error:
            raise RuntimeError(f"inference of {method} failed: {response.error}")
        return response.data

    def resolve(self, response: InferenceResponse) -> None:
        """An answer has come. One that nobody waits for any more is dropped."""
        future = self._pending.get(response.request_id)
        if future is not None and not future.done():
            future.set_result(response)

    def close(self) -> None:
        """No more answers will come."""
        self._closed = True
        for future in self._pending.values():
            future.cancel()
