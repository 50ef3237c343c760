"""Local models that run in one process for all jobs of a worker."""

from __future__ import annotations

import threading
from abc import ABC, abstractmethod
from typing import ClassVar

__all__: list[str] = []

_RunnersDict = dict[str, type["_InferenceRunner"]]


class _InferenceRunner(ABC):
    """A model. Plugins subclass it, name it, and register the class when they are imported.

    It is made without arguments in the inference process; jobs reach it by
    `ctx.inference_executor.do_inference(INFERENCE_METHOD, data)`.
    """

    INFERENCE_METHOD: ClassVar[str]
    """By which requests name it."""

    registered_runners: ClassVar[_RunnersDict] = {}

    @classmethod
    def register_runner(cls, runner_class: type[_InferenceRunner]) -> None:
        """Have a worker run the model.

        Raises:
            RuntimeError: called on another than the main thread.
            ValueError: there is one with the same name.
        """
        if threading.current_thread() is not threading.main_thread():
            raise RuntimeError("InferenceRunner must be registered on the main thread")
        if runner_class.INFERENCE_METHOD in cls.registered_runners:
            raise ValueError(
                f"InferenceRunner {runner_class.INFERENCE_METHOD} is registered already"
            )
        cls.registered_runners[runner_class.INFERENCE_METHOD] = runner_class

    @abstractmethod
    def initialize(self) -> None:
        """Load the model. Called once, in the inference process."""

    @abstractmethod
    def run(self, data: bytes) -> bytes | None:
        """Answer a request. Called from several threads."""
