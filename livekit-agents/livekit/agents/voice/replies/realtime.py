"""Replies of a realtime model: it hears and speaks by itself, and is played and recorded here."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterable, Coroutine
from typing import TYPE_CHECKING, Any, Literal, TypeAlias, TypeVar, cast

from ...llm import (
    ChatContext,
    ChatMessage,
    FunctionCallOutput,
    GenerationCreatedEvent,
    RealtimeError,
    RealtimeModel,
    ToolContext,
)
from ...llm.chat_context import Instructions, MetricsReport
from ...log import logger
from ...types import NOT_GIVEN, NotGiven, NotGivenOr
from ...utils import is_given
from ...utils.aio import Chan, TaskScope
from ..events import SpeechCreatedEvent
from ..generation import remove_instructions
from ..hearing.activity import owns_overlapping_speech
from ..realtime_items import give_up_place
from ..speech_handle import DEFAULT_INPUT_DETAILS, SpeechHandle
from .inference import TextSegment, TTSInference, resolve_node, timed_or_raw
from .segment import SegmentPlayback, Stage
from .step import CHILD_GRACE, settle_state, step_over, voiced
from .tool_loop import ToolLoop
from .tracing import agent_turn, mark_generation, response_span

if TYPE_CHECKING:
    from ...llm import MessageGeneration, ToolChoice
    from ..agent_activity import AgentActivity
    from ..realtime_link import RealtimeLink

T = TypeVar("T")
_Modalities: TypeAlias = list[Literal["text", "audio"]]


async def push_state(activity: AgentActivity, link: RealtimeLink, *, adopted: bool) -> None:
    """Give a session the agent's instructions, context and tools; of an adopted one, what it lets
    change. A session that does not acknowledge them in time goes on without."""
    can = link.capabilities
    chat_ctx = activity.agent._chat_ctx.copy()
    remove_instructions(chat_ctx)
    update = link.session._update_session(
        instructions=spoken(activity.agent.instructions)
        if not adopted or can.mutable_instructions
        else NOT_GIVEN,
        chat_ctx=chat_ctx if not adopted or can.mutable_chat_context else NOT_GIVEN,
        tools=activity.tool_context().flatten() if not adopted or can.mutable_tools else NOT_GIVEN,
    )
    try:
        await link.guard.update(update)
    except RealtimeError as error:
        logger.warning("the realtime model did not confirm the agent's settings: %s", error)


def spoken(instructions: str | Instructions) -> str:
    """The instructions as a model reads them that hears and speaks."""
    if isinstance(instructions, Instructions):
        return instructions.render(modality="audio")
    return instructions


def can_hand_over(old: AgentActivity, new: AgentActivity, link: RealtimeLink) -> bool:
    """Whether the open session fits the next agent, as it is or after what it lets change."""
    model, can = old.llm, link.capabilities
    if not isinstance(model, RealtimeModel) or model is not new.llm:
        return False
    if old.server_turn_detection != new.server_turn_detection:
        return False
    return (
        (can.mutable_instructions or old.agent.instructions == new.agent.instructions)
        and (can.mutable_tools or _same_tools(old, new))
        and (can.mutable_chat_context or old.agent._chat_ctx.is_equivalent(new.agent._chat_ctx))
    )


def _same_tools(old: AgentActivity, new: AgentActivity) -> bool:
    return old.tool_context().function_tools == new.tool_context().function_tools


def play_server_generation(activity: AgentActivity, event: GenerationCreatedEvent) -> None:
    """The model began to answer by itself: play it as a speech of its own."""
    link = activity.realtime
    if event.user_initiated or link is None:
        return  # whoever asked for it waits for it
    if activity.turns_blocked:
        logger.warning("skipping a reply of the realtime model, speech scheduling is paused")
        return
    handle = SpeechHandle.create(
        allow_interruptions=activity.allow_interruptions, input_details=DEFAULT_INPUT_DETAILS
    )
    activity.replies.tool_reply_began(handle)
    activity.session.emit(
        "speech_created",
        SpeechCreatedEvent(user_initiated=False, source="generate_reply", speech_handle=handle),
    )
    reply = RealtimeReply(activity, handle, tool_choice=NOT_GIVEN)
    activity.create_speech_task(
        agent_turn(activity, handle, lambda: reply.play(link, event)),
        speech_handle=handle,
        name=f"realtime reply {handle.id}",
    )
    activity.scheduler.schedule(handle)


async def reply_with_model(
    activity: AgentActivity,
    handle: SpeechHandle,
    message: ChatMessage | None,
    instructions: NotGivenOr[str | Instructions],
    tool_choice: NotGivenOr[ToolChoice],
    tools: NotGivenOr[list[Any]],
) -> None:
    """Ask the model for a reply when the speech's turn has come, and play it.

    Args:
        tools: The only tools of this reply; without it all.
    """
    reply = RealtimeReply(activity, handle, tool_choice=tool_choice)
    await reply.request(message, instructions, tools)


async def say_with_model(
    activity: AgentActivity, handle: SpeechHandle, text: Any, add_to_chat_ctx: bool
) -> None:
    """Let the model say a text with its own voice."""
    if not add_to_chat_ctx:
        logger.warning("add_to_chat_ctx=False is ignored: the realtime model keeps what it says")
    await RealtimeReply(activity, handle, tool_choice="none").say(text)


class RealtimeReply:
    """One speech of a realtime model: its messages one after another, then its tools."""

    def __init__(
        self,
        activity: AgentActivity,
        handle: SpeechHandle,
        *,
        tool_choice: NotGivenOr[ToolChoice],
    ) -> None:
        from ..agent import ModelSettings

        self._activity = activity
        self._session = activity.session
        self._handle = handle
        self._tool_choice = tool_choice
        self._settings = ModelSettings(tool_choice=tool_choice)
        self._scope = TaskScope(f"realtime reply {handle.id}")
        output = self._session.output
        self._audio_output = output.audio if output.audio_enabled else None
        self._text_output = output.transcription if output.transcription_enabled else None
        self._tools = ToolLoop(
            activity,
            handle,
            ToolContext(activity.tools),
            tool_choice,
        )
        self._played: list[_Played] = []
        self._response_id: str | None = None
        self._started_at: float | None = None
        self._answers_user_at: float | None = None

    # -- entries ----------------------------------------------------------------------------------

    async def request(
        self,
        message: ChatMessage | None,
        instructions: NotGivenOr[str | Instructions],
        tools: NotGivenOr[list[Any]],
    ) -> None:
        """Push the input, ask for the response, and play it."""
        await self._to_the_end(self._request(message, instructions, tools))

    async def say(self, text: str | AsyncIterable[str]) -> None:
        """Let the model say a text."""
        await self._to_the_end(self._say(text))

    async def play(self, link: RealtimeLink, event: GenerationCreatedEvent) -> None:
        """Play a response that has begun. The event has gone through the guard of the link."""
        await self._to_the_end(self._play(link, event))

    async def _to_the_end(self, reply: Coroutine[Any, Any, None]) -> None:
        """Whatever happens to a reply, what was heard is kept and nothing goes on behind it."""
        forget = self._handle._on_cut_off(self.settle)
        keep_tools = self._handle._on_release(self._tools.release)
        try:
            await reply
        except RealtimeError as error:
            self._handle._set_error(error)
            logger.warning("a realtime reply failed: %s", error, extra=self._log_extra)
        except Exception as error:
            self._handle._set_error(error)
            logger.exception("a realtime reply failed", extra=self._log_extra)
        finally:
            forget()
            keep_tools()
            await self._scope.cancel(CHILD_GRACE)
            step_over(self._activity, self._handle)
            settle_state(self._activity, self._handle)

    @property
    def _log_extra(self) -> dict[str, Any]:
        return {"speech_id": self._handle.id}

    # -- asking -----------------------------------------------------------------------------------

    async def _request(
        self,
        message: ChatMessage | None,
        instructions: NotGivenOr[str | Instructions],
        tools: NotGivenOr[list[Any]],
    ) -> None:
        await self._my_turn()
        link = self._activity.realtime
        if message is not None:
            await self._tell(link, message)
        if self._handle.interrupted or link is None:
            return
        event = await self._response(link, instructions, tools)
        if event is not None:
            await self._play(link, event)

    async def _say(self, text: str | AsyncIterable[str]) -> None:
        await self._my_turn()
        link = self._activity.realtime
        if self._handle.interrupted or link is None:
            return
        event = await self._begun(link, link.guard.reply(link.session.say(text)))
        if event is not None:
            await self._play(link, event)

    async def _my_turn(self) -> None:
        """Until this speech may play, or is interrupted."""
        await self._activity.scheduler.wait_for_authorization(
            self._handle, over_user=owns_overlapping_speech(self._activity)
        )

    async def _tell(self, link: RealtimeLink | None, message: ChatMessage) -> None:
        """The user's words: into the history, whatever comes of the reply, and to the model."""
        self._activity.commit(message, speech_handle=self._handle)
        if link is None:
            return
        pushing = link.in_background(
            link.change_context(lambda chat_ctx: chat_ctx.insert(message)), "the user's message"
        )
        await self._or_interrupted(pushing)

    async def _response(
        self,
        link: RealtimeLink,
        instructions: NotGivenOr[str | Instructions],
        tools: NotGivenOr[list[Any]],
    ) -> GenerationCreatedEvent | None:
        """Ask for a response with these tools, and wait until it begins."""
        text = NOT_GIVEN if isinstance(instructions, NotGiven) else spoken(instructions)
        chosen = ToolContext(tools).flatten() if is_given(tools) else NOT_GIVEN
        if link.capabilities.per_response_tool_choice:
            asked = link.guard.generate_reply(
                instructions=text, tool_choice=self._tool_choice, tools=chosen
            )
            return await self._begun(link, asked)
        limits_tools = is_given(chosen) and self._can_limit_tools(link)
        try:
            if is_given(self._tool_choice):
                link.set_tool_choice(self._tool_choice)
            if limits_tools and is_given(chosen):
                limiting = link.in_background(link.session.update_tools(chosen), "the tools")
                await self._or_interrupted(limiting)
            if self._handle.interrupted:
                return None
            return await self._begun(link, link.guard.generate_reply(instructions=text))
        finally:
            if is_given(self._tool_choice):
                default = self._activity.tool_choice
                link.set_tool_choice(default if is_given(default) else None)
            if limits_tools:
                link.in_background(
                    link.session.update_tools(self._activity.tool_context().flatten()), "the tools"
                )

    def _can_limit_tools(self, link: RealtimeLink) -> bool:
        if not link.capabilities.mutable_tools:
            logger.warning(
                "%s can't change its tools during a session: the reply may use all of them",
                link.session.realtime_model.label,
            )
        return link.capabilities.mutable_tools

    async def _begun(
        self, link: RealtimeLink, asked: asyncio.Future[GenerationCreatedEvent]
    ) -> GenerationCreatedEvent | None:
        """The response, or None when the speech was interrupted before it began."""
        event = await self._or_interrupted(asked)
        if event is None:
            asked.cancel()
        elif self._handle.interrupted:
            link.drop_response(event)
            return None
        return event

    async def _or_interrupted(self, awaited: asyncio.Future[T]) -> T | None:
        """The outcome, or None if the speech is interrupted before there is one."""
        await self._handle.wait_if_not_interrupted([awaited])
        return awaited.result() if awaited.done() and not awaited.cancelled() else None

    # -- playing ----------------------------------------------------------------------------------

    async def _play(self, link: RealtimeLink, event: GenerationCreatedEvent) -> None:
        handle, scheduler = self._handle, self._activity.scheduler
        self._response_id = event.response_id
        await self._my_turn()
        # An interrupted loop starts no calls, but answers them.
        running = self._scope.spawn(
            self._tools.run(cast("Chan[Any]", event.function_stream)), name="realtime tools"
        )
        mark_generation(handle)
        with response_span(self._activity.llm):
            await self._play_messages(link, cast("Chan[MessageGeneration]", event.message_stream))
        if handle.interrupted:
            link.drop_response(event)
            self._forget_unheard(link, cast("Chan[MessageGeneration]", event.message_stream))
        handle._mark_generation_done()
        if self._tools.running:
            scheduler.background.add(handle)
        settle_state(self._activity, handle)
        if not running.done():
            scheduler.background.add(handle)
        try:
            await asyncio.wait((running,))
        finally:
            scheduler.background.discard(handle)
        await self._answer_tools()

    async def _play_messages(self, link: RealtimeLink, messages: Chan[MessageGeneration]) -> None:
        while not self._handle.interrupted:
            receiving = self._scope.spawn(_next(messages), name="next message", log_errors=False)
            message = await self._or_interrupted(receiving)
            if message is None:
                return
            played = _Played(message.message_id, link)
            self._played.append(played)
            modalities = await self._or_interrupted(
                cast("asyncio.Future[_Modalities]", message.modalities)
            )
            if modalities is None:
                return
            played.modalities = modalities
            played.playback = playback = await self._playback(message, modalities)
            await playback.play()
            self._commit(played)
            if playback.failed:
                self._handle._set_error(playback.first_error)
            if playback.outcome != "full":
                return

    async def _playback(
        self, message: MessageGeneration, modalities: _Modalities
    ) -> SegmentPlayback:
        frames: Any = None
        text: Any = message.text_stream
        tts: TTSInference | None = None
        if self._audio_output is None:
            pass
        elif "audio" in modalities:
            frames = await resolve_node(
                self._activity.agent.realtime_audio_output_node(
                    message.audio_stream, self._settings
                )
            )
        elif self._activity.tts is not None:
            text, tts = self._synthesised(message.text_stream)
            frames = tts.frames
        else:
            logger.error(
                "the realtime model answered in text, and there is no TTS to speak it: give the "
                "session or agent a TTS"
            )
        return SegmentPlayback(
            Stage.of(self._activity, self._handle, self._settings),
            self._handle,
            audio_output=self._audio_output,
            text_output=self._text_output,
            frames=frames,
            text=text,
            tts=tts,
            on_first_frame=self._on_first_frame,
        )

    def _synthesised(self, source: AsyncIterable[str]) -> tuple[Any, TTSInference]:
        """The transcript and the voice of a message of text alone."""
        model = self._activity.llm
        if isinstance(model, RealtimeModel) and model.capabilities.audio_output:
            logger.warning("%s answered in text only, the TTS speaks it", model.label)
        segment = TextSegment()
        self._scope.spawn(_feed(source, segment), name="realtime text")
        assert segment.voice is not None
        tts = voiced(self._activity, segment.voice, self._settings)
        self._scope.spawn(tts.run(), name="tts_node")
        text = segment.transcript if tts.timed is None else timed_or_raw(tts, segment.transcript)
        return text, tts

    def _on_first_frame(self, at: float) -> None:
        if self._started_at is None:
            self._started_at = at
            self._answers_user_at = self._activity.replies.take_user_stopped()
            self._session._update_agent_state("speaking", at=at)

    # -- history ----------------------------------------------------------------------------------

    def _commit(self, played: _Played) -> None:
        """Put what was heard of a message into the histories, and tell the server. Once."""
        playback = played.playback
        if played.committed or playback is None or playback.outcome == "skipped":
            return
        played.committed = True
        partial = playback.outcome == "partial"
        said = playback.said
        if said:
            started = playback.started_at
            self._activity.commit(
                ChatMessage(
                    id=played.message_id,
                    role="assistant",
                    content=[said],
                    interrupted=partial,
                    created_at=time.time() if started is None else started,
                    metrics=self._metrics(playback),
                ),
                speech_handle=self._handle,
            )
        if partial and played.link.capabilities.message_truncation:
            played.link.truncate(
                message_id=played.message_id,
                modalities=played.modalities,
                audio_end_ms=int(playback.playback_position * 1000),
                audio_transcript=said,
            )

    def _metrics(self, playback: SegmentPlayback) -> MetricsReport:
        metrics: dict[str, Any] = {
            "started_speaking_at": playback.started_at,
            "stopped_speaking_at": time.time() if playback.started_at is not None else None,
            "playback_latency": playback.latency,
            "provider_request_ids": [self._response_id] if self._response_id else None,
        }
        model = self._activity.llm
        if model is not None:
            metrics["llm_metadata"] = {"model_name": model.model, "model_provider": model.provider}
        user_stopped, self._answers_user_at = self._answers_user_at, None
        if user_stopped is not None and self._started_at is not None:
            metrics["e2e_latency"] = max(0.0, self._started_at - user_stopped)
        return cast(MetricsReport, {k: v for k, v in metrics.items() if v is not None})

    def _forget_unheard(self, link: RealtimeLink, messages: Chan[MessageGeneration]) -> None:
        """Let neither side believe that something was said which nobody heard."""
        unheard = [played.message_id for played in self._played if not played.committed]
        while not messages.empty():
            unheard.append(messages.recv_nowait().message_id)
        for message_id in unheard:
            give_up_place(self._activity.agent._chat_ctx, message_id)
        if unheard and link.capabilities.mutable_chat_context:
            link.in_background(
                link.change_context(lambda chat_ctx: _remove(chat_ctx, unheard)),
                "that messages were not heard",
            )

    def settle(self) -> None:
        """Save what is known: the speech is cut off. Synchronous, idempotent."""
        for played in self._played:
            if played.playback is not None:
                played.playback.settle()
                self._commit(played)
        self._tools.cut_off()
        self._tools.commit(reply_allowed=False)
        link = self._activity.realtime
        if link is not None and not self._session._is_closing:
            self._push_outputs(link)

    # -- tools ------------------------------------------------------------------------------------

    async def _answer_tools(self) -> None:
        """Give the model the results of its tools, and let it comment on them."""
        tools, activity, handle = self._tools, self._activity, self._handle
        if not tools.outputs:
            return
        silenced = handle.interrupted or activity.displaced
        event = tools.commit(reply_allowed=not silenced)
        agent = tools.new_agent
        if event is not None and agent is not None and event.has_agent_handoff:
            try:
                self._session.update_agent(agent)
            except RuntimeError as error:
                logger.warning("the handoff that a tool asked for is refused: %s", error)
        await self._wait_for_the_floor()
        link = activity.realtime
        if link is None:
            return
        wants_reply = event is not None and event.has_tool_reply and not silenced
        replies_by_itself = link.capabilities.auto_tool_reply_generation
        if wants_reply and replies_by_itself:
            activity.replies.expect_tool_reply()
        elif wants_reply:
            self._session._update_agent_state("thinking")
        pushing = self._push_outputs(link)
        if pushing is not None:
            await self._or_interrupted(pushing)
        if wants_reply and not replies_by_itself and not handle.interrupted:
            await self._reply_to_tools(link)

    def _push_outputs(self, link: RealtimeLink) -> asyncio.Task[None] | None:
        """Answer the model's calls: some wait for that before they do anything else."""
        outputs = [o.fnc_call_out for o in self._tools.outputs if o.fnc_call_out is not None]
        if not outputs:
            return None
        return link.in_background(
            link.change_context(lambda chat_ctx: _insert_new(chat_ctx, outputs)),
            "the results of the tools",
        )

    async def _wait_for_the_floor(self) -> None:
        """Until no other speech plays or waits; a closing session or an interruption ends it."""
        scheduler = self._activity.scheduler
        while not scheduler.idle and not self._handle.interrupted and not scheduler.was_cut_off:
            current = scheduler.current_speech
            waits: list[asyncio.Future[Any]] = [self._handle._interrupt_fut]
            waits += [handle._done_fut for handle in (current, *scheduler.queued) if handle]
            await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
            await asyncio.sleep(0)

    async def _reply_to_tools(self, link: RealtimeLink) -> None:
        link.interrupt()
        handle = self._handle
        tool_choice: ToolChoice = self._tools.reply_tool_choice() or "auto"
        if handle.num_steps >= self._session.options.max_tool_steps + 1:
            logger.warning(
                "the turn has used all its rounds of tools (max_tool_steps), the next reply gets "
                "none",
                extra={**self._log_extra, "max_tool_steps": self._session.options.max_tool_steps},
            )
            tool_choice = "none"
        elif self._activity.draining or self._activity.turns_blocked:
            tool_choice = "none"
        handle._num_steps += 1
        self._activity.scheduler.schedule(handle, force=True)
        step_over(self._activity, handle)
        following = RealtimeReply(self._activity, handle, tool_choice=tool_choice)
        await following.request(None, NOT_GIVEN, NOT_GIVEN)


class _Played:
    """A message of the response, from when its turn has come."""

    def __init__(self, message_id: str, link: RealtimeLink) -> None:
        self.message_id = message_id
        self.link = link
        self.modalities: _Modalities = []
        self.playback: SegmentPlayback | None = None
        self.committed = False


async def _next(messages: Chan[MessageGeneration]) -> MessageGeneration | None:
    async for message in messages:
        return message
    return None


async def _feed(source: AsyncIterable[str], segment: TextSegment) -> None:
    try:
        async for delta in source:
            segment.push(delta)
    finally:
        segment.end()


def _remove(chat_ctx: ChatContext, message_ids: list[str]) -> None:
    chat_ctx.items = [item for item in chat_ctx.items if item.id not in message_ids]


def _insert_new(chat_ctx: ChatContext, outputs: list[FunctionCallOutput]) -> None:
    chat_ctx.insert([output for output in outputs if chat_ctx.get_by_id(output.id) is None])
