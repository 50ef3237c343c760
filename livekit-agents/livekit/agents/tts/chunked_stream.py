"""`ChunkedStream`: the speech for a text that is known as a whole."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any, ClassVar

from livekit import rtc

from ..types import USERDATA_TTS_STARTED_TIME
from ._data import SynthesizedAudio
from ._synthesis import Synthesis, Tally

if TYPE_CHECKING:
    from ..types import APIConnectOptions
    from .tts import TTS


class ChunkedStream(Synthesis):
    """Speech for one text, as an asynchronous iterator of `SynthesizedAudio`.

    Synthesis starts at once. A failed attempt is repeated from the first word, even when some of
    its audio was handed on already: a new `request_id` tells that what came before is stale. When
    no attempt is left the iteration raises the error.

    A plugin derives from this and implements `_run`; it finds the text in `_input_text` and the
    limits to respect in `_conn_options`, and may set `_acquire_time` (seconds it took to get a
    connection) and `_connection_reused` for the metrics.

    Args:
        tts: The synthesizer that errors and metrics are reported on.
        input_text: What to say.
        conn_options: How often to try, and how long the plugin waits for the provider.

    Raises:
        RuntimeError: No event loop is running.
    """

    _streamed: ClassVar[bool] = False

    def __init__(self, *, tts: TTS[Any], input_text: str, conn_options: APIConnectOptions) -> None:
        self._input_text = input_text
        self._tally = Tally()
        self._created_at = time.perf_counter()
        super().__init__(tts=tts, conn_options=conn_options)
        self._started_at = self._loop.time()

    @property
    def input_text(self) -> str:
        """The text being spoken."""
        return self._input_text

    @property
    def done(self) -> bool:
        """Whether synthesis has ended, in whatever way. Audio may be left to read."""
        return self._task.done()

    @property
    def exception(self) -> BaseException | None:
        """The error that ended synthesis, if one did.

        Raises:
            asyncio.InvalidStateError: It hasn't ended yet.
            asyncio.CancelledError: It was closed before it ended.
        """
        return self._task.exception()

    async def collect(self) -> rtc.AudioFrame:
        """Read to the end and return all the audio as one frame. Does not close the stream.

        Raises:
            ValueError: There was no audio.
            APIError: Synthesis failed.
        """
        frames = [audio.frame async for audio in self]
        if not frames:
            raise ValueError("cannot collect speech: the synthesis produced no audio")
        return rtc.combine_audio_frames(frames)

    def _on_audio(self, audio: SynthesizedAudio, seconds: float) -> None:
        audio.frame.userdata[USERDATA_TTS_STARTED_TIME] = self._created_at
        self._tally.add(audio, seconds, self._loop.time())

    def _spoken_text(self) -> str:
        return self._input_text

    def _report_end(self, *, cancelled: bool) -> None:
        self._emit_metrics(
            self._tally,
            started_at=self._started_at,
            characters_count=len(self._input_text),
            cancelled=cancelled,
        )
