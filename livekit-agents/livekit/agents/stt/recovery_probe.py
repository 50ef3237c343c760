"""Finds out, beside a running stream, whether a recognizer that failed works again."""

from __future__ import annotations

import asyncio
from typing import Any

from livekit import rtc

from .._streams import report_survivors
from ..log import logger
from ..types import APIConnectOptions, NotGivenOr
from ..utils import aio
from ._wrapping import INNER_GRACE
from .recognize_stream import RecognizeStream
from .stt import STT
from .types import SpeechEventType

_AUDIO_PATIENCE = 10.0
"""Seconds without audio after which a probe gives up: nobody feeds it any more."""

_RESULT_PATIENCE = 60.0
"""Seconds without a transcript after which a probe gives up, and its connection is let go."""


class RecoveryProbe:
    """Listens to live audio with a recognizer until it has transcribed something.

    Args:
        stt: The recognizer.
        language: Language of the speech, where the provider can be told.
        conn_options: Retries and timeout.
    """

    def __init__(
        self, stt: STT[Any], *, language: NotGivenOr[str], conn_options: APIConnectOptions
    ) -> None:
        self._stt = stt
        self._language = language
        self._conn_options = conn_options
        self._stream: RecognizeStream | None = None
        self._last_audio = asyncio.get_running_loop().time()

    def push(self, item: rtc.AudioFrame | RecognizeStream._FlushSentinel) -> None:
        """Give it a frame or a flush. Before it runs, or once it is over, that does nothing."""
        if self._stream is None:
            return
        self._last_audio = asyncio.get_running_loop().time()
        try:
            if isinstance(item, rtc.AudioFrame):
                self._stream.push_frame(item)
            else:
                self._stream.flush()
        except RuntimeError:
            self._stream = None  # it has ended

    async def run(self) -> bool:
        """Listen. Returns whether the recognizer works; a failure is an answer, not an error."""
        scope = aio.TaskScope(f"probe of {self._stt.label}")
        try:
            self._stream = self._stt.stream(
                language=self._language, conn_options=self._conn_options
            )
        except Exception as error:
            logger.debug("%s has not recovered: %s", self._stt.label, error)
            return False
        stream = self._stream
        answer = scope.spawn(self._hear(stream))
        try:
            return await self._await_answer(answer)
        finally:
            self._stream = None
            report_survivors(await scope.cancel(INNER_GRACE))
            await stream.aclose()

    async def _await_answer(self, answer: asyncio.Task[bool]) -> bool:
        loop = asyncio.get_running_loop()
        give_up_at = loop.time() + _RESULT_PATIENCE
        while True:
            left = min(give_up_at, self._last_audio + _AUDIO_PATIENCE) - loop.time()
            if left <= 0:
                return False
            if not await aio.wait_until(answer, left):
                return answer.result()

    async def _hear(self, stream: RecognizeStream) -> bool:
        try:
            async for event in stream:
                if (
                    event.type is SpeechEventType.FINAL_TRANSCRIPT
                    and event.alternatives
                    and event.alternatives[0].text
                ):
                    return True
        except Exception as error:
            logger.debug("%s has not recovered: %s", self._stt.label, error)
        return False
