"""Passes a job's requests for local models on to the process that runs them."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from .inference_executor import InferenceExecutor
from .proto import InferenceRequest, InferenceResponse

__all__ = ["InferenceRelay"]


class InferenceRelay:
    """The worker's part between a job and the inference process."""

    def __init__(
        self, executor: InferenceExecutor | None, send: Callable[[InferenceResponse], None]
    ) -> None:
        self._executor = executor
        self._send = send

    async def serve(self, request: InferenceRequest) -> None:
        """Answer one request; a failure is an answer too."""
        if self._executor is None:
            self._send(InferenceResponse(request.request_id, error="no inference executor"))
            return
        try:
            data = await self._executor.do_inference(request.method, request.data)
        except asyncio.CancelledError:
            self._send(InferenceResponse(request.request_id, error="cancelled"))
            raise
        except Exception as error:
            self._send(InferenceResponse(request.request_id, error=str(error)))
            return
        self._send(InferenceResponse(request.request_id, data))
