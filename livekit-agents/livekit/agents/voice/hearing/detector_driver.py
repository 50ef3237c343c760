"""Runs an interruption detector's stream: audio and signals in, verdicts out."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from ...log import logger
from ...utils.aio import Survivor, TaskScope
from .hooks import notify
from .overlap import InterruptionDetector, InterruptionStream, OverlapSignal
from .teardown import Closers, end_tasks, split

if TYPE_CHECKING:
    from livekit import rtc

    from ...inference import OverlappingSpeechEvent

__all__ = ["InterruptionDriver"]


class InterruptionDriver:
    """One stream of an interruption detector. When it ends, it is not opened again.

    Args:
        detector: The detector.
        on_verdict: Called with each verdict.
        on_lost: Called once when the stream ends by itself.
    """

    def __init__(
        self,
        detector: InterruptionDetector,
        on_verdict: Callable[[OverlappingSpeechEvent], None],
        on_lost: Callable[[], None],
    ) -> None:
        self.detector = detector
        self._on_verdict = on_verdict
        self._on_lost = on_lost
        self._scope = TaskScope("interruption detector")
        self._closers = Closers("interruption detector")
        self._stream: InterruptionStream | None = None
        self._closing = False

    def start(self) -> None:
        """Open the stream. Needs a running loop; raises what the detector raises."""
        stream = self._stream = self.detector.stream()
        self._scope.spawn(self._run(stream), name="interruption verdicts")

    def push(self, frame: rtc.AudioFrame) -> None:
        """Let the detector hear a frame; ignored once the stream has ended."""
        if self._stream is not None:
            try:
                self._stream.push_frame(frame)
            except RuntimeError:
                self._stream = None

    def send(self, signal: OverlapSignal) -> None:
        """Tell the detector what happens; ignored once the stream has ended."""
        if self._stream is not None:
            self._stream.send(signal)

    async def _run(self, stream: InterruptionStream) -> None:
        error: Exception | None = None
        try:
            async for verdict in stream:
                notify(self._on_verdict, verdict)
        except Exception as caught:
            error = caught
        if self._closing:
            return
        self._stream = None
        self._closers.close("interruption stream", stream.aclose)
        logger.info(
            "the interruption detector stopped, audio activity interrupts from now on",
            extra={"detector": self.detector.label},
            exc_info=error,
        )
        notify(self._on_lost)

    async def aclose(self, timeout: float = 2.0) -> list[Survivor]:
        """Close the stream within `timeout` seconds, whatever it does. Idempotent."""
        self._closing = True
        stream, self._stream = self._stream, None
        if stream is not None:
            self._closers.close("interruption stream", stream.aclose)
        patience, grace = split(timeout)
        self._scope.cancel_soon()
        survivors = await self._closers.finish(patience)
        return survivors + await end_tasks(self._scope, grace)
