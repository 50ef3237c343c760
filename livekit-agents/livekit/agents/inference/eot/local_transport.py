"""Asking the model in this process, in threads of its own."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from typing import Protocol, TypeVar

from .._utils import create_inference_request_id
from . import local_model
from .base import DEFAULT_PREDICTION_TIMEOUT
from .local_model import Heard, RecentAudio
from .transports import Answer

T = TypeVar("T")


class Model(Protocol):
    """What runs in the threads: `local_model`."""

    def load(self) -> None:
        """Get ready. May block."""

    def judge(self, heard: Heard) -> float:
        """How likely the turn is over, 0..1. May block."""
        ...


class LocalTransport:
    """The model of the package livekit-local-inference.

    Loading and judging happen in daemon threads. They can't be stopped, so nobody ever waits for
    them but for their answer: neither a close nor the end of the process does. At most one runs at
    a time; while it is busy only the latest question is kept.

    Args:
        recent: The audio to judge.
        on_answer: Called with answers.
        on_failure: Called with what made a question fail, when there will be no answer to it.
        on_unusable: Called once, if the model can't be loaded.
        model: In place of the one of the process.
    """

    def __init__(
        self,
        recent: RecentAudio,
        *,
        on_answer: Callable[[Answer], None],
        on_failure: Callable[[Exception], None],
        on_unusable: Callable[[Exception], None],
        model: Model = local_model,
    ) -> None:
        self._recent = recent
        self._on_answer = on_answer
        self._on_failure = on_failure
        self._on_unusable = on_unusable
        self._model = model
        self._loop = asyncio.get_running_loop()
        self._waiting: tuple[str, Heard] | None = None
        self._busy_since: float | None = None
        self._closed = False
        self._in_thread(model.load, self._on_loaded)

    def push(self, frame: object) -> None:
        """Nothing to do: what was heard is looked at when somebody asks."""

    def flush(self) -> None:
        """The question that waits is void."""
        self._waiting = None

    def new_request_id(self) -> str:
        """An id for a request."""
        return create_inference_request_id(None, "eot", fallback_prefix="turn_request_")

    def ask(self, request_id: str) -> None:
        """Judge what was heard so far, as soon as the model is free."""
        if self._stuck:
            self._on_failure(asyncio.TimeoutError("the local turn detector is stuck"))
            return
        self._waiting = (request_id, self._recent.heard())
        self._judge_next()

    @property
    def _stuck(self) -> bool:
        """Whether the thread has been busy for so long that it isn't worth waiting for it."""
        since = self._busy_since
        return since is not None and self._loop.time() - since > DEFAULT_PREDICTION_TIMEOUT

    def end_input(self) -> None:
        """Nothing to do."""

    async def aclose(self) -> None:
        """Let go. What a thread is doing then, is done for nobody."""
        self._closed = True
        self._waiting = None

    # -- threads ----------------------------------------------------------------------------------

    def _judge_next(self) -> None:
        if self._waiting is None or self._busy_since is not None or self._closed:
            return
        (request_id, heard), self._waiting = self._waiting, None
        began = self._loop.time()

        def answered(probability: float | Exception) -> None:
            if isinstance(probability, Exception):
                self._on_failure(probability)
                return
            took = self._loop.time() - began
            self._on_answer(
                Answer(
                    request_id,
                    probability,
                    total_duration=took,
                    inference_duration=took,
                    detection_delay=took,
                )
            )

        self._in_thread(lambda: self._model.judge(heard), answered)

    def _on_loaded(self, error: Exception | None) -> None:
        if error is not None:
            self._closed = True
            self._on_unusable(error)

    def _in_thread(self, work: Callable[[], T], done: Callable[[T | Exception], None]) -> None:
        self._busy_since = self._loop.time()

        def finish(result: T | Exception) -> None:
            self._busy_since = None
            if not self._closed:
                done(result)
                self._judge_next()

        def run() -> None:
            try:
                result: T | Exception = work()
            except Exception as error:
                result = error
            try:
                self._loop.call_soon_threadsafe(finish, result)
            except RuntimeError:
                pass  # the loop is closed: nobody wants to know

        threading.Thread(target=run, name="turn detector", daemon=True).start()
