"""The parts of a reply one by one, for those who put a turn together themselves.

Each function runs one part of what a session does for a reply: the request to the LLM, the voice,
the way to the outputs, the tools. A session runs the same parts, and in addition schedules them,
commits what was heard, and closes them. Here all that is the caller's: whoever gets a task awaits
it, or cancels it.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterable, AsyncIterator, Callable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from ...llm import FunctionCall, ToolContext
from ...telemetry import trace_types
from ...types import FlushSentinel
from ...utils import shortuuid
from ...utils.aio import TaskScope
from ...utils.aio.task_scope import log_failure
from ..speech_handle import SpeechHandle
from .inference import LLMInference, TTSInference, close_node
from .segment import Outcome, SegmentPlayback, Stage
from .step import step_over
from .tool_loop import ToolLoop

if TYPE_CHECKING:
    from livekit import rtc

    from ...llm import ChatContext, CompletionUsage, ToolChoice
    from ...types import NotGivenOr, TimedString
    from ..agent import ModelSettings
    from ..agent_session import AgentSession
    from ..generation import ToolExecutionOutput
    from ..io import AudioOutput, LLMNode, PlaybackFinishedEvent, TextOutput, TTSNode
    from ..transcription.text_transforms import TextTransforms

__all__ = [
    "AudioForwarding",
    "ForwardedGeneration",
    "LLMGeneration",
    "TTSGeneration",
    "TextForwarding",
    "ToolExecutions",
    "forward_generation",
    "perform_audio_forwarding",
    "perform_llm_inference",
    "perform_text_forwarding",
    "perform_tool_executions",
    "perform_tts_inference",
]


# -- the LLM --------------------------------------------------------------------------------------


class LLMGeneration:
    """What comes from an LLM node, while it comes."""

    def __init__(self, inference: LLMInference, tool_ctx: ToolContext, message_id: str) -> None:
        """Wrap a request that is about to run."""
        self._inference = inference
        self._tool_ctx = tool_ctx
        self._text_ch = self._read_text()
        self._function_ch = self._read_calls()
        self.id = message_id
        """For the assistant message; the ids of the function calls begin with it."""

    @property
    def text_ch(self) -> AsyncIterable[str | FlushSentinel]:
        """The text, with a `FlushSentinel` between two segments. For one reader."""
        return self._text_ch

    @property
    def function_ch(self) -> AsyncIterable[FunctionCall]:
        """The function calls. For one reader; it sees changes the node has made to its tools."""
        return self._function_ch

    @property
    def generated_text(self) -> str:
        """The text so far."""
        return self._inference.text

    @property
    def generated_functions(self) -> list[FunctionCall]:
        """The function calls so far, a copy."""
        return list(self._inference.made_calls)

    @property
    def extra(self) -> dict[str, Any]:
        """What the provider wants to have kept with the message."""
        return self._inference.extra

    @property
    def usage(self) -> CompletionUsage | None:
        """The tokens used, once the provider has told."""
        return self._inference.usage

    @property
    def ttft(self) -> float | None:
        """Seconds from the request to the first text or function call."""
        return self._inference.ttft

    async def _read_text(self) -> AsyncIterator[str | FlushSentinel]:
        flush = False
        async for segment in self._inference.segments:
            if segment.void:  # the model has started over before this was read
                continue
            if flush:
                yield FlushSentinel()
            flush = True
            async for delta in segment.transcript:
                yield delta

    async def _read_calls(self) -> AsyncIterator[FunctionCall]:
        async for call in self._inference.calls:
            try:
                self._tool_ctx._sync_flattened(self._inference.tools)
            except ValueError:
                log_failure("the tools as the node has changed them can't be used")
            yield call


def perform_llm_inference(
    *,
    node: LLMNode,
    chat_ctx: ChatContext,
    tool_ctx: ToolContext | None,
    model_settings: ModelSettings,
    model: str | None = None,
    provider: str | None = None,
) -> tuple[asyncio.Task[bool], LLMGeneration]:
    """Run an LLM node.

    Args:
        node: Such as `agent.llm_node`.
        chat_ctx: Given to the node, which may change it.
        tool_ctx: The node gets its tools as a flat list; what it changes there is taken over.
        model_settings: Given to the node.
        model: Name of the model, for the trace.
        provider: Name of its provider, for the trace.

    Returns:
        A task and what it fills. The task gives whether any text or call came, and raises what the
        node raised; what came before is still there. When it is cancelled the node is closed.

    Raises:
        RuntimeError: No event loop is running.
    """
    if tool_ctx is None:
        tool_ctx = ToolContext.empty()
    message_id = shortuuid("item_")
    inference = LLMInference(
        node,
        chat_ctx,
        tool_ctx.flatten(),
        model_settings,
        message_id=message_id,
        spoken=False,
        span_attributes=trace_types.gen_ai_model_attributes(model, provider),
    )

    task = _start(
        _came(inference, lambda: bool(inference.text or inference.made_calls)), "llm_node"
    )
    return task, LLMGeneration(inference, tool_ctx, message_id)


# -- the voice ------------------------------------------------------------------------------------


class TTSGeneration:
    """What comes from a TTS node, while it comes."""

    def __init__(self, inference: TTSInference) -> None:
        """Wrap a synthesis that is about to run."""
        self._inference = inference

    @property
    def audio_ch(self) -> AsyncIterable[rtc.AudioFrame]:
        """The audio, at the rate of the TTS. For one reader."""
        return self._inference.frames

    @property
    def timed_texts(self) -> AsyncIterable[TimedString]:
        """The words with their times, seconds from the start; empty where the TTS tells none.

        For one reader. Ends with the audio.
        """
        assert self._inference.timed is not None
        return self._inference.timed

    @property
    def ttfb(self) -> float | None:
        """Seconds from the first text to the first audio."""
        return self._inference.ttfb


def perform_tts_inference(
    *,
    node: TTSNode,
    input: AsyncIterable[str],
    model_settings: ModelSettings,
    text_transforms: Sequence[TextTransforms] | None,
    model: str | None = None,
    provider: str | None = None,
) -> tuple[asyncio.Task[bool], TTSGeneration]:
    """Run a TTS node over a text.

    Args:
        node: Such as `agent.tts_node`.
        input: The text of one segment.
        model_settings: Given to the node.
        text_transforms: Applied to the text from left to right; None for none.
        model: Name of the model, for the trace.
        provider: Name of its provider, for the trace.

    Returns:
        A task and what it fills. The task gives whether any audio came, and raises what the node
        raised; what came before is still there. When it is cancelled the node is closed.

    Raises:
        ValueError: There is no such transform.
        RuntimeError: No event loop is running.
    """
    if text_transforms:
        from ..transcription.text_transforms import apply_text_transforms

        input = apply_text_transforms(input, text_transforms)
    inference = TTSInference(
        node,
        input,
        model_settings,
        aligned=True,
        span_attributes=trace_types.gen_ai_model_attributes(model, provider),
    )

    task = _start(_came(inference, lambda: inference.first_frame_at is not None), "tts_node")
    return task, TTSGeneration(inference)


# -- the outputs ----------------------------------------------------------------------------------


class TextForwarding:
    """A transcript on its way to its output."""

    def __init__(self, source: AsyncIterable[str], text_output: TextOutput | None) -> None:
        """Get ready to forward it."""
        self.first_text_fut: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        """Done when the first text was handed on; cancelled if there was none."""
        self._playback = SegmentPlayback(
            Stage.alone(),
            SpeechHandle.create(),
            text=source,
            text_output=text_output,
            on_first_frame=self._begun,
        )

    @property
    def text(self) -> str:
        """What was handed on so far."""
        return self._playback.forwarded

    def _begun(self, _: float) -> None:
        _resolve(self.first_text_fut)

    async def _run(self) -> None:
        try:
            await self._playback.forward_text()
        finally:
            self.first_text_fut.cancel()
        if self._playback.error is not None:
            raise self._playback.error


def perform_text_forwarding(
    *, text_output: TextOutput | None, source: AsyncIterable[str]
) -> tuple[asyncio.Task[None], TextForwarding]:
    """Hand a transcript to an output, and flush it at the end, also when cancelled.

    Args:
        text_output: None: the text is only collected.
        source: The text; closed at the end.

    Returns:
        A task and what it fills. The task raises what the source or the output raised.

    Raises:
        RuntimeError: No event loop is running.
    """
    forwarding = TextForwarding(source, text_output)
    return _start(forwarding._run(), "forward transcript"), forwarding


class AudioForwarding:
    """Audio on its way to its output."""

    def __init__(
        self,
        source: AsyncIterable[rtc.AudioFrame],
        audio_output: AudioOutput,
        reconcile: Callable[[], None],
        tts: TTSInference | None,
    ) -> None:
        """Get ready to forward it."""
        self.first_frame_fut: asyncio.Future[float] = asyncio.get_running_loop().create_future()
        """When it began to be played (`time.time()`); cancelled if it never is."""
        self._output = audio_output
        self._playback = SegmentPlayback(
            Stage.alone(reconcile),
            SpeechHandle.create(),
            frames=source,
            audio_output=audio_output,
            tts=tts,
            on_first_frame=self._begun,
        )
        audio_output.on("playback_started", self._playback.on_playback_started)
        audio_output.on("playback_finished", self._finished)
        self.first_frame_fut.add_done_callback(lambda _: self._stop_listening())

    def _begun(self, at: float) -> None:
        if not self.first_frame_fut.done():
            self.first_frame_fut.set_result(at)

    def _finished(self, _: PlaybackFinishedEvent) -> None:
        if self._playback.captured_at is not None:  # else an earlier segment was finished
            self.first_frame_fut.cancel()

    def _stop_listening(self) -> None:
        self._output.off("playback_started", self._playback.on_playback_started)
        self._output.off("playback_finished", self._finished)

    async def _run(self) -> None:
        try:
            await self._playback.forward_audio(self._output)
        finally:
            if self._playback.captured_at is None:
                self.first_frame_fut.cancel()
        if self._playback.error is not None:
            raise self._playback.error


def perform_audio_forwarding(
    *,
    audio_output: AudioOutput,
    tts_output: AsyncIterable[rtc.AudioFrame],
    reconcile_playout_pause: Callable[[], None],
    tts_data: TTSGeneration | None = None,
) -> tuple[asyncio.Task[None], AudioForwarding]:
    """Hand the audio of one segment to an output, and flush it at the end.

    When the task is cancelled what was not played yet is dropped. It doesn't wait for playout: see
    `AudioOutput.wait_for_playout`.

    Args:
        audio_output: Gets the audio at the sample rate it asks for.
        tts_output: The audio; closed at the end.
        reconcile_playout_pause: Called before the first frame, to hold a paused output back or not.
        tts_data: Where the audio comes from, so that a failed synthesis counts as cut short.

    Returns:
        A task and what it fills. The task raises what the source or the output raised.

    Raises:
        RuntimeError: No event loop is running.
    """
    tts = tts_data._inference if tts_data is not None else None
    forwarding = AudioForwarding(tts_output, audio_output, reconcile_playout_pause, tts)
    return _start(forwarding._run(), "forward audio"), forwarding


@dataclass(frozen=True)
class ForwardedGeneration:
    """How much of a segment the user got."""

    outcome: Outcome
    """`full`; `partial`, when it was interrupted or failed while it played; or `skipped`."""
    text: str
    """What counts as said; empty when it was skipped."""
    playback_position: float
    """Seconds of its audio that were played."""
    interrupted: bool
    """Whether the user did not get all of it."""
    error: Exception | None
    """What failed, the synthesis or an output."""


async def forward_generation(
    *,
    speech_handle: SpeechHandle,
    audio_output: AudioOutput | None,
    text_output: TextOutput | None,
    audio_source: AsyncIterable[rtc.AudioFrame] | None,
    text_source: AsyncIterable[str] | None,
    on_first_frame: Callable[[float], None],
    reconcile_playout_pause: Callable[[], None],
    tts_data: TTSGeneration | None = None,
) -> ForwardedGeneration:
    """Play one segment, until it was played or the speech is interrupted.

    On an interruption the outputs are stopped, and asked how far they got. A cancellation does the
    same without waiting for their answer, and is raised.

    Args:
        speech_handle: Whose interruption ends it.
        audio_output: None: the text is all there is.
        text_output: None: the text is only collected.
        audio_source: The audio; without an `audio_output` nobody reads it.
        text_source: The transcript as it is to be shown.
        on_first_frame: Called once when playing begins, with the time (`time.time()`).
        reconcile_playout_pause: Called before the first frame, to hold a paused output back or not.
        tts_data: Where the audio comes from, so that a failed synthesis counts.
    """
    playback = SegmentPlayback(
        Stage.alone(reconcile_playout_pause),
        speech_handle,
        text=text_source,
        text_output=text_output,
        frames=audio_source,
        audio_output=audio_output,
        tts=tts_data._inference if tts_data is not None else None,
        on_first_frame=on_first_frame,
    )
    await playback.play()
    return ForwardedGeneration(
        outcome=playback.outcome,
        text=playback.said,
        playback_position=playback.playback_position,
        interrupted=playback.interrupted,
        error=playback.first_error if playback.failed else None,
    )


# -- tools ----------------------------------------------------------------------------------------


@dataclass
class ToolExecutions:
    """What comes of the function calls of one step."""

    output: list[ToolExecutionOutput] = field(default_factory=list)
    """In the order in which they ended."""
    first_tool_started_fut: asyncio.Future[None] = field(
        default_factory=lambda: asyncio.get_running_loop().create_future()
    )
    """Done when the first call was made; cancelled if none was."""


def perform_tool_executions(
    *,
    session: AgentSession[Any],
    speech_handle: SpeechHandle,
    tool_ctx: ToolContext,
    tool_choice: NotGivenOr[ToolChoice],
    function_stream: AsyncIterable[FunctionCall],
    tool_execution_started_cb: Callable[[FunctionCall], Any],
    tool_execution_completed_cb: Callable[[ToolExecutionOutput], Any],
) -> tuple[asyncio.Task[None], ToolExecutions]:
    """Run function calls as they come, side by side, with the tools of a running agent.

    The outputs don't go into any history. A call that can't be made, because there is no such
    tool or its arguments can't be read, gets an output that tells the model why.

    Args:
        session: Its current agent runs the tools; they end with it at the latest.
        speech_handle: The speech they belong to. Once it is interrupted no more calls are made.
        tool_ctx: The tools that may be called.
        tool_choice: `"none"`: calls are ignored.
        function_stream: The calls; closed by the end.
        tool_execution_started_cb: Called with each call that is made.
        tool_execution_completed_cb: Called with each output, also with that of a refused call.

    Returns:
        A task and what it fills. The task ends with the last output. Cancelling it makes no more
        calls; tools that run go on.

    Raises:
        RuntimeError: The session is not running, or no event loop is.
    """
    activity = session._activity
    if activity is None:
        raise RuntimeError("AgentSession isn't running: start() it, so that an agent has its tools")
    executions = ToolExecutions()

    def started(call: FunctionCall) -> None:
        _resolve(executions.first_tool_started_fut)
        _tell(tool_execution_started_cb, call)

    loop = ToolLoop(
        activity,
        speech_handle,
        tool_ctx,
        tool_choice,
        on_start=started,
        on_output=lambda output: _tell(tool_execution_completed_cb, output),
    )
    executions.output = loop.outputs

    async def run() -> None:
        try:
            await loop.run(function_stream)
        finally:
            executions.first_tool_started_fut.cancel()
            step_over(activity, speech_handle)
            await close_node(function_stream)

    return _start(run(), "tools"), executions


# -- small things ---------------------------------------------------------------------------------


def _start(coro: Any, name: str) -> asyncio.Task[Any]:
    """Run a part in a task that its caller owns."""
    return TaskScope("a part of a reply").spawn(coro, name=name, log_errors=False)


async def _came(inference: LLMInference | TTSInference, came: Callable[[], bool]) -> bool:
    await inference.run()
    if inference.error is not None:
        raise inference.error
    return came()


def _tell(callback: Callable[[Any], Any], value: Any) -> None:
    try:
        callback(value)
    except Exception:
        log_failure("the callback %r of a tool failed", callback)


def _resolve(future: asyncio.Future[None]) -> None:
    if not future.done():
        future.set_result(None)
