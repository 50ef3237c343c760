"""One session with a translation model: what is pushed into it, and what it says and writes."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from ...utils.aio import Chan, Survivor, TaskScope
from ...utils.aio.task_scope import log_failure
from .translation_model import (
    InputSpeechStarted,
    InputSpeechStopped,
    InputTranscript,
    OutputSpeechStopped,
    OutputTranscript,
    TranslationModelError,
    TranslationModelSession,
)

if TYPE_CHECKING:
    from livekit import rtc

    from ...voice.io import AudioOutput, TextOutput
    from .translation_session import TranslationSession

REPORT_GRACE = 0.02
"""Seconds after the model reported the end of an utterance in which its last audio is read."""


class Interpreter:
    """Moves audio and text of one model session to the outputs of a translation session.

    Audio is cut into segments where the model says so, or where it pauses for `segment_timeout`
    seconds. What the outputs raise is logged; the translation goes on with the next segment.
    """

    def __init__(
        self,
        session: TranslationSession[Any],
        model_session: TranslationModelSession[Any],
        segment_timeout: float,
    ) -> None:
        self._session = session
        self._model_session = model_session
        self._segment_timeout = segment_timeout
        self._scope = TaskScope("translation")
        self._written: Chan[str | None] = Chan()
        self._timer: asyncio.TimerHandle | None = None
        self._output: AudioOutput | None = None
        self._stop_reported = False
        self._failed_output: AudioOutput | None = None
        self._capturing = False
        self._said = ""
        self._language: str | None = None
        self._ended = False
        self._handlers: dict[str, Callable[[Any], None]] = {
            "input_speech_started": self._on_input_speech_started,
            "input_speech_stopped": self._on_input_speech_stopped,
            "input_transcript": self._on_input_transcript,
            "output_transcript": self._on_output_transcript,
            "output_speech_stopped": self._on_output_speech_stopped,
            "error": self._on_error,
        }

    @property
    def model_session(self) -> TranslationModelSession[Any]:
        """The session with the model."""
        return self._model_session

    @property
    def busy(self) -> bool:
        """Whether something of the translation is still to be said or written."""
        output = self._output or self._session.output.audio
        playing = output is not None and output._pending_playback_count > 0
        return bool(self._output is not None or playing or self._said or not self._written.empty())

    def start(self) -> None:
        """Begin to listen to the model."""
        for event, handler in self._handlers.items():
            self._model_session.on(event, handler)
        self._scope.spawn(self._speak(), name="translated audio")
        self._scope.spawn(self._write(), name="translated text")

    def push(self, frame: rtc.AudioFrame) -> None:
        """Translate this."""
        if not self._ended:
            try:
                self._model_session.push_audio(frame)
            except Exception as error:
                self._fail(error)

    def clear(self) -> None:
        """Somebody else speaks from now on."""
        try:
            self._model_session.clear_audio()
        except Exception:
            log_failure("the audio of the former speaker could not be dropped")

    # -- what the model says ----------------------------------------------------------------------

    async def _speak(self) -> None:
        try:
            async for translated in self._model_session.audio_stream:
                if self._ended:
                    return
                await self._capture(translated.frame)
        except asyncio.CancelledError:
            if self._is_cancelled():
                raise
            self._fail(RuntimeError("the model has cancelled its own stream of audio"))
            return
        except Exception as error:
            self._fail(error)
            return
        self._fail(RuntimeError("the model has ended the translation by itself"))

    async def _capture(self, frame: rtc.AudioFrame) -> None:
        self._disarm()
        output = self._output
        if output is None:
            present = self._session.output
            output = self._output = present.audio if present.audio_enabled else None
        if output is not None and output is not self._failed_output:
            self._capturing = True
            try:
                await output.capture_frame(frame)
            except (Exception, asyncio.CancelledError):
                if self._is_cancelled():
                    raise
                self._failed_output = output
                log_failure("%s took no audio, the rest of the segment is dropped", output.label)
            finally:
                self._capturing = False
        self._arm()

    def _arm(self) -> None:
        """The segment ends when no more audio comes for a while."""
        self._disarm()
        if self._ended:
            return
        reported = self._stop_reported
        if not reported and self._model_session.capabilities.output_segmentation:
            return
        delay = REPORT_GRACE if reported else self._segment_timeout
        self._timer = asyncio.get_running_loop().call_later(delay, self._end_segment)

    def _disarm(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _end_segment(self) -> None:
        """The utterance is complete: let it be played to its end, and its text be final."""
        self._disarm()
        self._stop_reported = False
        output, self._output = self._output, None
        self._failed_output = None
        if output is not None:
            self._tell(output, output.flush)
        self._end_text()

    def _is_cancelled(self) -> bool:
        """Whether the running task is; otherwise what it awaited has raised that by itself."""
        cancelling = getattr(asyncio.current_task(), "cancelling", None)  # not on Python 3.10
        return self._scope.closed or (cancelling is not None and cancelling() > 0)

    def _tell(self, output: AudioOutput | TextOutput, command: Callable[[], object]) -> None:
        """Let a sink do something, which may fail, or be a coroutine function."""
        try:
            result = command()
        except (Exception, asyncio.CancelledError):
            log_failure("%s failed", output.label)
            return
        if asyncio.iscoroutine(result):
            if self._scope.closed:
                result.close()
            else:
                self._scope.spawn(result, name=f"{output.label}: {command.__name__}")

    # -- what it writes ---------------------------------------------------------------------------

    async def _write(self) -> None:
        async for text in self._written:
            present = self._session.output
            output = present.transcription if present.transcription_enabled else None
            if output is None:
                continue
            try:
                if text is None:
                    self._tell(output, output.flush)
                else:
                    await output.capture_text(text)
            except (Exception, asyncio.CancelledError):
                if self._is_cancelled():
                    raise
                log_failure("%s took no text", output.label)

    def _on_output_transcript(self, event: OutputTranscript) -> None:
        self._said += event.text
        self._language = event.language
        if event.text and not self._written.closed:
            self._written.send_nowait(event.text)
        if event.is_final:
            self._end_text()
        elif event.text:
            self._session._translated(self._said, self._language, is_final=False)
            if self._output is None:  # no audio comes with it: a pause ends it
                self._arm()

    def _end_text(self) -> None:
        said, self._said = self._said, ""
        if said:
            if not self._written.closed:
                self._written.send_nowait(None)
            self._session._translated(said, self._language, is_final=True)

    # -- what it tells of the speaker -------------------------------------------------------------

    def _on_input_speech_started(self, event: InputSpeechStarted) -> None:
        self._session._set_user_state("speaking")

    def _on_input_speech_stopped(self, event: InputSpeechStopped) -> None:
        self._session._set_user_state("listening")

    def _on_input_transcript(self, event: InputTranscript) -> None:
        self._session._heard(event)

    def _on_output_speech_stopped(self, event: OutputSpeechStopped) -> None:
        self._stop_reported = True
        if not self._capturing:  # else its last audio is not handed on yet
            self._arm()

    def _on_error(self, error: TranslationModelError) -> None:
        if not self._ended:
            self._session._failed(error)

    def _fail(self, error: Exception) -> None:
        if self._ended:
            return
        label = self._model_session.translation_model.label
        self._session._failed(
            TranslationModelError(
                timestamp=time.time(), label=label, error=error, recoverable=False
            )
        )

    # -- the end ----------------------------------------------------------------------------------

    def settle(self) -> None:
        """Nothing of the model counts any more: fall silent, and let its text be final.

        Synchronous, idempotent; waits for nobody.
        """
        if self._ended:
            return
        self._disarm()
        self._end_text()
        self._ended = True
        for event, handler in self._handlers.items():
            self._model_session.off(event, handler)
        open_segment, self._output = self._output, None
        output = open_segment or self._session.output.audio
        if open_segment is not None:
            self._tell(open_segment, open_segment.flush)
        if output is not None and (open_segment is not None or output._pending_playback_count):
            self._tell(output, output.clear_buffer)
        self._written.close()

    async def aclose(self, timeout: float) -> list[Survivor]:
        """End its tasks; what was written gets half of the time to be shown. Bounded.

        Args:
            timeout: Seconds.
        """
        self.settle()
        writing = [task for task in self._scope.tasks if task.get_name() == "translated text"]
        if writing:
            await asyncio.wait(writing, timeout=timeout / 2)
        return await self._scope.cancel(timeout / 4)


__all__ = ["Interpreter"]
