"""One step of a reply: a request to the LLM, the playout of its text, and its tool calls."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterable
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, cast

from ...llm import ChatContext, ChatMessage, Tool, ToolContext
from ...llm.chat_context import Instructions, MetricsReport
from ...log import logger
from ...types import NOT_GIVEN, NotGiven, NotGivenOr
from ...utils import shortuuid
from ...utils.aio import Chan, TaskScope
from ...utils.aio.task_scope import log_failure
from ..generation import (
    mark_instructions_cache_boundary,
    remove_expressive_instructions,
    update_expressive_instructions,
    update_instructions,
)
from ..session_options import expressive_guide
from .inference import LLMInference, TextSegment, TTSInference, timed_or_raw
from .segment import SegmentPlayback, Stage
from .tool_loop import ToolLoop
from .tracing import mark_generation, model_attributes, recorded_in

if TYPE_CHECKING:
    from ...llm import ToolChoice
    from ..agent import ModelSettings
    from ..agent_activity import AgentActivity
    from ..io import AudioOutput, TextOutput
    from ..speech_handle import SpeechHandle

CHILD_GRACE = 0.5
"""Seconds that the tasks of a step get to end once it is over; then they are abandoned."""


@dataclass
class ReplyRequest:
    """What to answer, from what, and how."""

    chat_ctx: ChatContext
    tools: list[Any]
    """Tools and toolsets of this reply."""
    user_message: ChatMessage | None = None
    instructions: NotGivenOr[str | Instructions] = NOT_GIVEN
    tool_choice: NotGivenOr[ToolChoice] = NOT_GIVEN
    tool_ctx: ToolContext | None = None
    """In place of `tools`: what the previous step of this turn has made of them."""
    answers_user_at: float | None = None
    """When the user stopped speaking (`time.time()`), for the end-to-end latency."""
    extra_metrics: dict[str, Any] = field(default_factory=dict)


class ReplyStep:
    """Runs one step and saves what was said, however it ends.

    All tasks of the step belong to one scope. When the step is cut off, `settle` commits what the
    user has heard and the tool results that are there, synchronously.
    """

    def __init__(
        self, activity: AgentActivity, handle: SpeechHandle, request: ReplyRequest
    ) -> None:
        from ..agent import ModelSettings

        self._activity = activity
        self._session = activity.session
        self._handle = handle
        self._request = request
        self._settings = ModelSettings(tool_choice=request.tool_choice)
        self._scope = TaskScope(f"reply {handle.id}")
        self._message_id = shortuuid("item_")
        output = self._session.output
        self._audio_output: AudioOutput | None = output.audio if output.audio_enabled else None
        self._text_output: TextOutput | None = (
            output.transcription if output.transcription_enabled else None
        )
        self._expressive = activity.expressive_options
        self._instructions = activity.agent.instructions
        self._chat_ctx = self._build_context()
        self._tool_ctx = request.tool_ctx or ToolContext(request.tools)
        self._tools: list[Tool] = self._tool_ctx.flatten()
        self._llm = LLMInference(
            activity.agent.llm_node,
            self._chat_ctx,
            self._tools,
            self._settings,
            message_id=self._message_id,
            spoken=self._audio_output is not None,
            on_progress=self._session._progress.touch,
            agent=activity.agent,
            span_attributes=model_attributes(activity.llm),
        )
        self._llm.toolsets = [toolset.id for toolset in self._tool_ctx.toolsets]
        tracker = self._session._spans.input_delta
        self._input_scope = None if tracker is None else tracker.begin()
        self._tool_loop = ToolLoop(
            activity, handle, self._tool_ctx, request.tool_choice, edited_tools=self._tools
        )
        self._voiced: Chan[tuple[TextSegment, TTSInference | None]] = Chan()
        self._tts_started = False
        self._played: list[SegmentPlayback] = []
        self._authorized_at = 0.0
        self._started_speaking_at: float | None = None
        self._message_committed = False
        self._user_committed = False

    # -- the step, from top to bottom -----------------------------------------------------------------

    async def run(self) -> ReplyRequest | None:
        """Run the step. Returns the request of the next one (the reply to its tools), or None."""
        forget = self._handle._on_cut_off(self.settle)
        keep_tools = self._handle._on_release(self._tool_loop.release)
        try:
            return await self._run()
        except BaseException:
            self.settle()  # whoever cancelled it, and whatever broke it
            raise
        finally:
            forget()
            keep_tools()
            if self._llm.error is not None:
                self._handle._set_error(self._llm.error)
            await self._end()

    async def _run(self) -> ReplyRequest | None:
        handle, state = self._handle, self._session
        with recorded_in(self._input_scope):
            self._scope.spawn(self._llm.run(), name="llm_node")
        if self._activity.preemptive_generation_opts.get("preemptive_tts") and not handle.scheduled:
            self._start_tts()
        await handle.wait_if_not_interrupted([handle._scheduled_fut])
        if handle.scheduled:
            self._commit_user_message()
        if handle.interrupted:
            return None
        self._start_tts()
        if not handle._authorized_fut.done() or state.agent_state != "speaking":
            state._update_agent_state("thinking")
        await self._activity.scheduler.wait_for_authorization(handle)
        if handle.interrupted:
            return None
        self._authorized_at = time.time()
        mark_generation(handle)
        if self._input_scope is not None:
            self._input_scope.commit()
        tools = self._scope.spawn(self._tool_loop.run(self._llm.calls), name="tools")
        await self._play_segments()
        self._commit_message()
        self._after_playout(tools)
        if handle.interrupted:
            return await self._interrupted(tools)
        return await self._after_tools(tools)

    async def _play_segments(self) -> None:
        """Play segment after segment; the next one only when the previous has been heard."""
        while not self._handle.interrupted:
            receive = self._scope.spawn(_next_or_none(self._voiced), name="next segment")
            await self._handle.wait_if_not_interrupted([receive])
            entry = receive.result() if receive.done() and not receive.cancelled() else None
            if entry is None:
                return
            segment, tts = entry
            if segment.void:
                continue
            playback = self._playback(segment, tts)
            self._played.append(playback)
            await playback.play()
            if playback.failed or (tts is not None and tts.error is not None):
                self._handle._set_error(playback.error or tts.error)
                return

    async def _interrupted(self, tools: asyncio.Task[None]) -> None:
        """Keep the results of tools that end in time; nothing more is said."""
        self._llm.end()  # calls that were not started yet are dropped
        if self._tool_loop.running:
            self._handle._mark_generation_done()
            self._scope.cancel_soon(spare=(tools,))  # models and their connections end now
            await asyncio.wait((tools,))
        self._tool_loop.commit(reply_allowed=False)
        return None

    async def _after_tools(self, tools: asyncio.Task[None]) -> ReplyRequest | None:
        handle, scheduler = self._handle, self._activity.scheduler
        handle._mark_generation_done()
        if not tools.done():
            scheduler.background.add(handle)
            try:
                await asyncio.wait((tools,))
            finally:
                scheduler.background.discard(handle)
        if handle.interrupted or self._activity.displaced:
            self._tool_loop.commit(reply_allowed=False)
            return None
        event = self._tool_loop.commit()
        if event is None:
            return None
        agent = self._tool_loop.new_agent
        if agent is not None and event.has_agent_handoff:
            self._hand_over(agent)
        return self._next_request() if event.has_tool_reply else None

    def _hand_over(self, agent: Any) -> None:
        try:
            self._session.update_agent(agent)
        except RuntimeError as error:
            logger.warning(
                "the handoff to %s that a tool asked for is refused: %s", agent.id, error
            )

    # -- the context of the request -------------------------------------------------------------------

    def _build_context(self) -> ChatContext:
        """The turn's own copy of the context, as the LLM is to see it."""
        request = self._request
        chat_ctx = request.chat_ctx.copy()
        if request.user_message is not None:
            chat_ctx.insert(request.user_message)
        agent_instructions = self._activity.agent.instructions
        modality = self._handle.input_details.modality
        text = request.instructions
        if not isinstance(text, NotGiven):
            rendered = text.render(modality=modality) if isinstance(text, Instructions) else text
            chat_ctx.add_message(role="system", content=[rendered])
        elif isinstance(agent_instructions, Instructions):
            update_instructions(
                chat_ctx, instructions=agent_instructions, add_if_missing=False, modality=modality
            )
        self._explain_markup(chat_ctx)
        mark_instructions_cache_boundary(chat_ctx)
        self._add_running_tools(chat_ctx)
        return chat_ctx

    def _add_running_tools(self, chat_ctx: ChatContext) -> None:
        """Tell the model what still runs from earlier turns, so that it does not call it again."""
        executors = [*self._activity.tool_executors, *self._session._shared_executors()]
        running = [pair for executor in executors for pair in executor.placeholders()]
        if not running:
            return
        known = {getattr(item, "call_id", None) for item in chat_ctx.items}
        for call, output in running:
            if call.call_id not in known:
                chat_ctx.insert([call, output])

    def _explain_markup(self, chat_ctx: ChatContext) -> None:
        if self._expressive is None or self._activity.tts is None:
            remove_expressive_instructions(chat_ctx)
            return
        update_expressive_instructions(
            chat_ctx, text=expressive_guide(self._activity.tts, self._expressive)
        )

    def _next_request(self) -> ReplyRequest:
        """The reply to the tools: the same turn, with their calls and outputs."""
        chat_ctx = self._chat_ctx.copy()
        chat_ctx.items = [
            i for i in chat_ctx.items if not str(i.id).endswith(("_running", "_running_output"))
        ]
        outputs = self._tool_loop.outputs
        agent = self._activity.agent
        if agent._chat_ctx.items:
            chat_ctx.merge(agent._chat_ctx, exclude_instructions=True)
        if agent.instructions != self._instructions:
            update_instructions(
                chat_ctx,
                instructions=agent.instructions,
                add_if_missing=True,
                modality=self._handle.input_details.modality,
            )
        known = {item.id for item in chat_ctx.items}
        new: list[Any] = [o.fnc_call for o in outputs]
        new += [o.fnc_call_out for o in outputs if o.fnc_call_out is not None]
        chat_ctx.items.extend(item for item in new if item.id not in known)
        return replace(
            self._request,
            chat_ctx=chat_ctx,
            user_message=None,
            instructions=NOT_GIVEN,
            tool_choice=self._next_tool_choice(),
            tool_ctx=self._next_tools(),
        )

    def _next_tools(self) -> ToolContext:
        """The tools of this step, as `llm_node` has left them and as toolsets have them now."""
        self._tool_loop.take_over_edits()
        try:
            return self._tool_ctx.copy()
        except ValueError as error:
            logger.error("the tools of the next step stay as they were: %s", error)
            return self._tool_ctx

    def _next_tool_choice(self) -> NotGivenOr[ToolChoice]:
        limit = self._session.options.max_tool_steps
        if self._handle.num_steps >= limit + 1:
            logger.warning(
                "the turn has used all its rounds of tools (max_tool_steps), the next reply gets none",
                extra={"speech_id": self._handle.id, "max_tool_steps": limit},
            )
            return "none"
        if self._activity.draining or self._activity.turns_blocked:
            return "none"
        if self._request.tool_choice == "none":
            return "none"
        return self._tool_loop.reply_tool_choice() or "auto"

    # -- voice and playout ----------------------------------------------------------------------------

    def _start_tts(self) -> None:
        if not self._tts_started:
            self._tts_started = True
            self._scope.spawn(self._voice_segments(), name="tts_node")

    async def _voice_segments(self) -> None:
        """Synthesise segment after segment: one inference at a time, ahead of the playout."""
        try:
            await self._voice_each_segment()
        except Exception as error:
            self._handle._set_error(error)
            log_failure("preparing the voice of a reply failed")
        finally:
            self._voiced.close()

    async def _voice_each_segment(self) -> None:
        async for segment in self._llm.segments:
            if segment.voice is None or segment.void:
                self._voiced.send_nowait((segment, None))
                continue
            tts = voiced(self._activity, segment.voice, self._settings)
            self._voiced.send_nowait((segment, tts))
            await tts.run()
            if tts.error is not None:
                self._llm.end()  # nothing more could be spoken
                return

    def _playback(self, segment: TextSegment, tts: TTSInference | None) -> SegmentPlayback:
        text: Any = segment.transcript
        if tts is not None and tts.timed is not None:
            text = timed_or_raw(tts, segment.transcript)
        return SegmentPlayback(
            Stage.of(self._activity, self._handle, self._settings),
            self._handle,
            audio_output=self._audio_output,
            text_output=self._text_output,
            frames=tts.frames if tts is not None else None,
            text=text,
            tts=tts,
            on_first_frame=self._on_first_frame,
            segment=segment,
        )

    def _on_first_frame(self, at: float) -> None:
        if self._started_speaking_at is None:
            self._started_speaking_at = at
            self._session._update_agent_state("speaking", at=at)

    # -- what goes to the history ---------------------------------------------------------------------

    def _commit_user_message(self) -> None:
        message = self._request.user_message
        if message is not None and not self._user_committed:
            self._user_committed = True
            self._activity.commit(message, speech_handle=self._handle)

    def _commit_message(self) -> None:
        """Put what the user has heard into the histories. Once; nothing if nothing was heard."""
        if self._message_committed:
            return
        self._message_committed = True
        text = "".join(playback.said for playback in self._played)
        if not text:
            return
        message = ChatMessage(
            id=self._message_id,
            role="assistant",
            content=[text],
            interrupted=self._handle.interrupted or any(p.interrupted for p in self._played),
            created_at=self._authorized_at,
            metrics=self._metrics(),
            extra=self._llm.extra,
        )
        self._chat_ctx.insert(message)
        self._activity.commit(message, speech_handle=self._handle)

    def _metrics(self) -> MetricsReport:
        report: dict[str, Any] = {
            "llm_node_ttft": self._llm.ttft,
            "llm_node_tps": self._llm.tokens_per_second,
            "started_speaking_at": self._started_speaking_at,
            "stopped_speaking_at": time.time() if self._started_speaking_at else None,
        }
        model, tts = self._activity.llm, self._activity.tts
        if model is not None:
            report["llm_metadata"] = {"model_name": model.model, "model_provider": model.provider}
        if tts is not None and self._audio_output is not None:
            report["tts_metadata"] = {"model_name": tts.model, "model_provider": tts.provider}
        if self._played:
            report.update(self._playback_metrics(self._played[0]))
        asked, user_stopped = self._request.user_message, self._request.answers_user_at
        if user_stopped is None and asked is not None:
            # of a reply that was prepared while the user may still have spoken
            user_stopped = asked.metrics.get("stopped_speaking_at")
        if user_stopped is not None and self._started_speaking_at is not None:
            report["e2e_latency"] = max(0.0, self._started_speaking_at - user_stopped)
        return cast(MetricsReport, {k: v for k, v in report.items() if v is not None})

    def _playback_metrics(self, first: SegmentPlayback) -> dict[str, Any]:
        tts = first._tts
        metrics: dict[str, Any] = {}
        if first.latency is not None:
            metrics["playback_latency"] = first.latency
        if tts is not None and tts.first_frame_at is not None:
            if tts.tts_started_at is not None:
                metrics["llm_node_ttfs"] = tts.tts_started_at - self._llm.started_at
                metrics["tts_node_ttfb"] = tts.first_frame_at - tts.tts_started_at
            elif self._llm._first_text_at is not None:
                metrics["tts_node_ttfb"] = tts.first_frame_at - self._llm._first_text_at
        return metrics

    def _after_playout(self, tools: asyncio.Task[None]) -> None:
        """The state between the words and what the tools bring."""
        handle = self._handle
        tools_pending = self._tool_loop.outputs or self._tool_loop.running or not tools.done()
        if not handle.interrupted and self._llm.call_count and tools_pending:
            self._session._update_agent_state("thinking")
            return
        if self._session.agent_state == "speaking":
            self._session._update_agent_state("listening")

    # -- ends -----------------------------------------------------------------------------------------

    def settle(self) -> None:
        """Save what is known: the step is cut off. Synchronous, idempotent."""
        for playback in self._played:
            playback.settle()
        self._llm.end()
        if self._authorized_at:
            self._commit_message()
            self._tool_loop.cut_off()
            self._tool_loop.commit(reply_allowed=False)

    async def _end(self) -> None:
        """Reap the tasks of the step. What ignores it can't reach anything any more."""
        self._llm.end()
        self._voiced.close()
        survivors = await self._scope.cancel(CHILD_GRACE)
        for survivor in survivors:
            logger.warning(
                "%s of a reply ignored its cancellation and was left behind",
                survivor.name,
                extra={"speech_id": self._handle.id},
            )


def voiced(
    activity: AgentActivity, text: AsyncIterable[str], settings: ModelSettings
) -> TTSInference:
    """The text as it is to be synthesised: filtered, and timed where that is wanted."""
    transforms = activity.session.options.tts_text_transforms
    if transforms:
        from ..transcription.text_transforms import apply_text_transforms

        text = apply_text_transforms(text, transforms)
    tts = activity.tts
    aligned = (
        activity.use_tts_aligned_transcript
        and tts is not None
        and (tts.capabilities.aligned_transcript or not tts.capabilities.streaming)
    )
    return TTSInference(
        activity.agent.tts_node,
        text,
        settings,
        aligned=aligned,
        on_progress=activity.session._progress.touch,
        agent=activity.agent,
        span_attributes=model_attributes(tts),
    )


async def _next_or_none(chan: Chan[Any]) -> Any:
    async for item in chan:
        return item
    return None


async def run_reply(activity: AgentActivity, handle: SpeechHandle, request: ReplyRequest) -> None:
    """Run a whole reply: its first step, and a further one for each round of tools."""
    next_request: ReplyRequest | None = request
    try:
        while next_request is not None:
            step = ReplyStep(activity, handle, next_request)
            next_request = await step.run()
            if next_request is None or handle.interrupted:
                return
            handle._num_steps += 1
            activity.scheduler.schedule(handle, force=True)
            step_over(activity, handle)
    except Exception as error:
        handle._set_error(error)
        log_failure("a reply failed", speech_id=handle.id)
    finally:
        step_over(activity, handle)
        settle_state(activity, handle)


def step_over(activity: AgentActivity, handle: SpeechHandle) -> None:
    """The next step is queued, or there is none: the session may be idle."""
    if handle in activity.scheduler.between_steps:
        activity.scheduler.between_steps.discard(handle)
        activity.session._idle.changed()


def settle_state(activity: AgentActivity, handle: SpeechHandle) -> None:
    """After a speech: think while tools of another speech still run, else listen."""
    session, scheduler = activity.session, activity.scheduler
    if session._activity is not activity or session.agent_state not in ("speaking", "thinking"):
        return
    if scheduler.queued or scheduler.current_speech not in (None, handle):
        return
    session._update_agent_state("thinking" if scheduler.background else "listening")
