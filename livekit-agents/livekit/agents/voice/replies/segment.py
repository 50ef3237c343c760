"""Plays one segment: its audio to the audio output, its text to the transcript, and what was heard."""

from __future__ import annotations

import asyncio
import inspect
import time
from collections.abc import AsyncIterable, Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from livekit import rtc

from ...utils.aio import TaskScope, wait_until
from ...utils.aio.task_scope import log_failure
from .inference import TextSegment, TTSInference, close_node, resolve_node

if TYPE_CHECKING:
    from ..agent import ModelSettings
    from ..agent_activity import AgentActivity
    from ..io import AudioOutput, PlaybackFinishedEvent, PlaybackStartedEvent, TextOutput
    from ..speech_handle import SpeechHandle

Outcome = Literal["full", "partial", "skipped"]

FORWARDER_GRACE = 1.0
"""Seconds a cancelled forwarder may take, before its sink is given up."""


@dataclass(frozen=True)
class Stage:
    """What the playing of a segment needs of those around it."""

    transcribe: Callable[[AsyncIterable[Any]], Any]
    """Makes the transcript that is shown of the text: a node, or a coroutine that gives one."""
    before_first_frame: Callable[[], None]
    """Called before the first audio is handed to the output, which may be paused."""
    touch: Callable[..., None] = lambda **_: None
    """Something goes on; `ahead` is how many seconds of audio are still to be played."""
    run_beside: Callable[..., asyncio.Task[Any] | None] = lambda *_, **__: None
    """Runs what a sink's method returned, if that is a coroutine."""

    @classmethod
    def of(cls, activity: AgentActivity, handle: SpeechHandle, settings: ModelSettings) -> Stage:
        """The stage of a speech of a running agent."""
        agent, session = activity.agent, activity.session
        return cls(
            transcribe=lambda text: agent.transcription_node(text, settings),
            before_first_frame=lambda: activity.barge_in.reconcile_playout_pause(handle),
            touch=session._progress.touch,
            run_beside=session._run_beside,
        )

    @classmethod
    def alone(cls, before_first_frame: Callable[[], None] = lambda: None) -> Stage:
        """A stage without an agent: the text is shown as it is."""
        scope = TaskScope("outputs of a reply")

        def run_beside(result: object, *, name: str) -> asyncio.Task[Any] | None:
            return scope.spawn(result, name=name) if inspect.iscoroutine(result) else None

        return cls(lambda text: text, before_first_frame, run_beside=run_beside)


class SegmentPlayback:
    """One segment on its way to the user.

    Args:
        frames: The audio, or None without audio output.
        text: The transcript, before `transcription_node`.
        on_first_frame: Called once with the time (`time.time()`) at which playing began.
        segment: Whose text it is, where that is known apart from the transcript.
    """

    def __init__(
        self,
        stage: Stage,
        handle: SpeechHandle,
        *,
        audio_output: AudioOutput | None = None,
        text_output: TextOutput | None = None,
        frames: AsyncIterable[rtc.AudioFrame] | None = None,
        text: AsyncIterable[Any] | None = None,
        tts: TTSInference | None = None,
        on_first_frame: Callable[[float], None],
        segment: TextSegment | None = None,
    ) -> None:
        self._stage = stage
        self._handle = handle
        self._audio_output = audio_output if frames is not None else None
        self._text_output = text_output
        self._frames = frames
        self._text = text
        self._tts = tts
        self._on_first_frame = on_first_frame
        self._segment = segment
        self._transcribed = False
        self._scope = TaskScope(f"playback of {handle.id}")
        self._ended = False
        self.error: Exception | None = None
        self.forwarded = ""
        """The transcript as far as it was handed on."""
        self.captured_at: float | None = None
        self.started_at: float | None = None
        self._pushed = 0.0
        self._finished: PlaybackFinishedEvent | None = None

    # -- playing ----------------------------------------------------------------------------------

    async def play(self) -> None:
        """Forward everything and wait until it was played, or until the speech is interrupted."""
        output = self._audio_output
        if output is not None:
            output.on("playback_started", self.on_playback_started)
        try:
            tasks: list[asyncio.Task[None]] = []
            if self._text is not None:
                tasks.append(self._scope.spawn(self.forward_text(), name="forward transcript"))
            if output is not None:
                tasks.append(self._scope.spawn(self.forward_audio(output), name="forward audio"))
            await self._handle.wait_if_not_interrupted(tasks)
            if output is not None and self.captured_at is not None:
                await self._wait_for_playout(output)
            if self._handle.interrupted:
                await self._stop(output)
        except BaseException:
            self.settle()
            raise
        finally:
            self._end()

    async def _wait_for_playout(self, output: AudioOutput) -> None:
        playout = self._scope.spawn(output.wait_for_playout(), name="wait for playout")
        await self._handle.wait_if_not_interrupted([playout])
        if playout.done() and not playout.cancelled() and playout.exception() is None:
            self._finished = playout.result()
        else:
            playout.cancel()

    async def _stop(self, output: AudioOutput | None) -> None:
        """The speech was interrupted: stop the sinks and ask how far they got."""
        running = [task for task in self._scope.tasks if not task.done()]
        for task in running:
            task.cancel()
        await wait_until(running, FORWARDER_GRACE)
        if output is None or self.captured_at is None:
            return
        self._drop_rest(output)
        if self._finished is None:
            self._finished = await output.wait_for_playout()
        self._handle._playout_position = self.playback_position

    def _end(self) -> None:
        self._ended = True
        if self._audio_output is not None:
            self._audio_output.off("playback_started", self.on_playback_started)
        self._scope.cancel_soon()

    def settle(self) -> None:
        """Take what is known now as final: the speech is cut off while a sink may hang."""
        if self._ended:
            return
        self._end()
        output = self._audio_output
        if output is not None and self.captured_at is not None and self._finished is None:
            self._drop_rest(output)
            self._finished = output._give_up_playout()

    def _drop_rest(self, output: AudioOutput) -> None:
        """Close the segment where it was cut, and drop what has not been played."""
        if output._capturing:
            self._tell(output.flush)  # else the next frame would continue this segment
        self._tell(output.clear_buffer)

    def _tell(self, command: Callable[[], object]) -> asyncio.Task[Any] | None:
        """Let a sink do something that must not fail the reply.

        Returns:
            Where the sink's method is a coroutine function: the task that runs it.
        """
        try:
            result = command()
        except (Exception, asyncio.CancelledError):
            log_failure("%s failed", command.__qualname__)
            return None
        return self._stage.run_beside(result, name=command.__qualname__)

    # -- audio ------------------------------------------------------------------------------------

    async def forward_audio(self, output: AudioOutput) -> None:
        """Hand on the audio to its end, resampled as the output wants it. Doesn't wait for playout."""
        assert self._frames is not None
        resampler: rtc.AudioResampler | None = None
        try:
            async for frame in self._frames:
                if self._ended:
                    return
                if self.captured_at is None:
                    self._stage.before_first_frame()
                rate = output.sample_rate
                if rate is not None and resampler is None and frame.sample_rate != rate:
                    resampler = rtc.AudioResampler(
                        frame.sample_rate, rate, num_channels=frame.num_channels
                    )
                for piece in (frame,) if resampler is None else resampler.push(frame):
                    await self._capture(output, piece)
            for piece in resampler.flush() if resampler is not None else ():
                await self._capture(output, piece)
        except asyncio.CancelledError:
            if not self._scope.closed and not self._handle.interrupted:
                # a sink that raises it by itself must not pass for a segment played in full
                self.error = RuntimeError(f"{output.label} cancelled the capture of a frame")
            if self._pushed and not self._ended:
                self._drop_rest(output)
            raise
        except Exception as error:
            self.error = error
            log_failure("forwarding audio to %s failed", output.label)
        finally:
            await close_node(self._frames)
        if self._tts is not None and self._tts.error is not None:
            output._mark_input_truncated()
        flushing = self._tell(output.flush)
        if flushing is not None:
            await asyncio.wait((flushing,))

    async def _capture(self, output: AudioOutput, frame: rtc.AudioFrame) -> None:
        if self._ended:
            return
        if self.captured_at is None:
            self.captured_at = time.time()
        await output.capture_frame(frame)
        self._pushed += frame.duration
        self._stage.touch(ahead=self._left_to_play())

    def _left_to_play(self) -> float:
        if self.started_at is None:
            return self._pushed
        return max(0.0, self._pushed - (time.time() - self.started_at))

    def on_playback_started(self, event: PlaybackStartedEvent) -> None:
        """The output has begun to play something: this segment, if its audio was handed on."""
        if self.captured_at is None or self.started_at is not None or self._ended:
            return
        self._started(event.created_at)

    def _started(self, at: float) -> None:
        self.started_at = at
        self._on_first_frame(at)

    # -- transcript -------------------------------------------------------------------------------

    async def forward_text(self) -> None:
        """Hand on the transcript to its end."""
        output = self._text_output
        node: Any = None
        try:
            assert self._text is not None
            node = await resolve_node(self._stage.transcribe(self._text))
            if node is None:
                self._transcribed = True
                return
            async for delta in node:
                if self._ended:
                    return
                self.forwarded += delta
                if output is not None:
                    await output.capture_text(delta)
                if self._audio_output is None and self.started_at is None and delta:
                    self._started(time.time())
                self._stage.touch()
            self._transcribed = True
        except Exception as error:
            self.error = error
            log_failure("forwarding the transcript failed")
        finally:
            if output is not None and not self._ended:
                self._tell(output.flush)
            await close_node(node)

    # -- what came of it --------------------------------------------------------------------------

    @property
    def failed(self) -> bool:
        """Whether synthesis or a sink failed before the end."""
        return self.error is not None or (self._tts is not None and self._tts.error is not None)

    @property
    def first_error(self) -> Exception:
        """What failed; only if something did."""
        error = self.error or (self._tts.error if self._tts is not None else None)
        assert error is not None
        return error

    @property
    def latency(self) -> float | None:
        """Seconds from the first frame handed on to its playing, if it was played."""
        if self.captured_at is None or self.started_at is None:
            return None
        return max(0.0, self.started_at - self.captured_at)

    @property
    def interrupted(self) -> bool:
        """Whether the user did not get all of it."""
        event = self._finished
        return self._handle.interrupted or self.failed or (event is not None and event.interrupted)

    @property
    def outcome(self) -> Outcome:
        """How much of it the user got."""
        if not self.interrupted:
            return "full"
        if self._audio_output is None:
            return "partial" if self.forwarded else "skipped"
        if self._tts is not None and self._tts.disabled:
            return "partial" if self.forwarded else "skipped"
        event = self._finished
        heard = self.started_at is not None or (event is not None and event.playback_position > 0)
        return "partial" if self.captured_at is not None and heard else "skipped"

    @property
    def said(self) -> str:
        """The text that counts as said."""
        if self.outcome == "skipped":
            return ""
        event = self._finished
        heard = event.synchronized_transcript if event is not None else None
        if heard is not None and self.outcome != "full":
            return heard
        if not (self.forwarded or self._transcribed or self._segment is None):
            return self._segment.text  # it was heard, but `transcription_node` is stuck
        return self.forwarded

    @property
    def playback_position(self) -> float:
        """Seconds of its audio that were played."""
        return self._finished.playback_position if self._finished is not None else 0.0
