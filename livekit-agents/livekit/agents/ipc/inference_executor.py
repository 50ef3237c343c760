"""How a job reaches models that run in a process of their own."""

from __future__ import annotations

from typing import Protocol

__all__ = ["InferenceExecutor"]


class InferenceExecutor(Protocol):
    """Runs a registered model: see `livekit.agents.inference_runner`."""

    async def do_inference(self, method: str, data: bytes) -> bytes | None:
        """Run a model and return what it returned.

        Args:
            method: the model's `INFERENCE_METHOD`.
            data: the input, in the format of the model.

        Raises:
            RuntimeError: the model is unknown, failed, or its process is gone.
        """
        ...
