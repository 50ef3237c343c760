"""Replies of a realtime model: it hears and speaks by itself, and is played and recorded here."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterable
from typing import TYPE_CHECKING, Any

from ...llm import (
    ChatMessage,
    FunctionCall,
    GenerationCreatedEvent,
    RealtimeError,
    RealtimeModel,
    RealtimeSession,
    ToolContext,
)
from ...llm.chat_context import Instructions
from ...log import logger
from ...types import NOT_GIVEN, NotGivenOr
from ...utils import is_given
from ...utils.aio import Chan, TaskScope
from ..events import SpeechCreatedEvent
from ..generation import remove_instructions
from ..speech_handle import DEFAULT_INPUT_DETAILS, SpeechHandle
from .inference import TTSInference, close_node, resolve_node
from .segment import SegmentPlayback
from .step import CHILD_GRACE, settle_state, step_over, transformed
from .tool_loop import ToolLoop

if TYPE_CHECKING:
    from ...llm import MessageGeneration, ToolChoice
    from ..agent_activity import AgentActivity


async def push_state(
    activity: AgentActivity, session: RealtimeSession[Any], *, adopted: bool
) -> None:
    """Give a session the agent's instructions, context and tools; of an adopted one, what it lets
    change."""
    capabilities = session.realtime_model.capabilities
    chat_ctx = activity.agent._chat_ctx.copy()
    remove_instructions(chat_ctx)
    try:
        await session._update_session(
            instructions=_rendered(activity.agent.instructions)
            if not adopted or capabilities.mutable_instructions
            else NOT_GIVEN,
            chat_ctx=chat_ctx if not adopted or capabilities.mutable_chat_context else NOT_GIVEN,
            tools=activity.tool_context().flatten()
            if not adopted or capabilities.mutable_tools
            else NOT_GIVEN,
        )
    except RealtimeError as error:
        logger.warning("the realtime model did not confirm the agent's settings: %s", error)


def _rendered(instructions: str | Instructions) -> str:
    if isinstance(instructions, Instructions):
        return instructions.render(modality="audio")
    return instructions


def can_hand_over(old: AgentActivity, new: AgentActivity) -> bool:
    """Whether the open session fits the next agent, as it is or after what it lets change."""
    model = old.llm
    if not isinstance(model, RealtimeModel) or model is not new.llm:
        return False
    capabilities = model.capabilities
    if old.server_turn_detection != new.server_turn_detection:
        return False
    same_tools = list(old.tool_context().function_tools) == list(new.tool_context().function_tools)
    same_context = old.agent._chat_ctx.is_equivalent(new.agent._chat_ctx)
    return (
        (capabilities.mutable_instructions or old.agent.instructions == new.agent.instructions)
        and (capabilities.mutable_tools or same_tools)
        and (capabilities.mutable_chat_context or same_context)
    )


def play_server_generation(activity: AgentActivity, event: GenerationCreatedEvent) -> None:
    """The model began to answer by itself: play it as a speech of its own."""
    if event.user_initiated:
        return  # whoever asked for it waits for it
    if activity.turns_blocked:
        logger.warning("skipping a reply of the realtime model, speech scheduling is paused")
        return
    handle = SpeechHandle.create(
        allow_interruptions=activity.allow_interruptions, input_details=DEFAULT_INPUT_DETAILS
    )
    activity.session.emit(
        "speech_created",
        SpeechCreatedEvent(user_initiated=False, source="generate_reply", speech_handle=handle),
    )
    reply = RealtimeReply(activity, handle, tool_choice=NOT_GIVEN)
    activity.create_speech_task(
        reply.run(event), speech_handle=handle, name=f"realtime reply {handle.id}"
    )
    activity.scheduler.schedule(handle)


async def reply_with_model(
    activity: AgentActivity,
    handle: SpeechHandle,
    message: ChatMessage | None,
    instructions: NotGivenOr[str | Instructions],
    tool_choice: NotGivenOr[ToolChoice],
    tools: list[Any],
) -> None:
    """Ask the model for a reply when the speech's turn has come, and play it."""
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
        self._tools: ToolLoop | None = None
        self._played: list[tuple[str, SegmentPlayback]] = []
        self._committed: set[str] = set()
        self._started_at: float | None = None

    # -- entries ----------------------------------------------------------------------------------

    async def request(
        self,
        message: ChatMessage | None,
        instructions: NotGivenOr[str | Instructions],
        tools: list[Any],
    ) -> None:
        """Push the input, ask for the response, and play it."""
        handle = self._handle
        await self._activity.scheduler.wait_for_authorization(handle)
        realtime = self._activity.realtime_llm_session
        if handle.interrupted or realtime is None:
            return
        self._session._update_agent_state("thinking")
        try:
            if message is not None:
                await self._push_message(realtime, message)
            event = await self._response(realtime, instructions)
        except RealtimeError as error:
            handle._set_error(error)
            settle_state(self._activity, handle)
            return
        if event is not None:
            await self.run(event)

    async def say(self, text: str | AsyncIterable[str]) -> None:
        """Let the model say a text."""
        await self._activity.scheduler.wait_for_authorization(self._handle)
        realtime = self._activity.realtime_llm_session
        if self._handle.interrupted or realtime is None:
            return
        try:
            event = await self._await_response(realtime, realtime.say(text))
        except RealtimeError as error:
            self._handle._set_error(error)
            return
        if event is not None:
            await self.run(event)

    async def _push_message(self, realtime: RealtimeSession[Any], message: ChatMessage) -> None:
        chat_ctx = realtime.chat_ctx.copy()
        chat_ctx.insert(message)
        async with self._activity.replies.remote_context_lock:
            try:
                await realtime.update_chat_ctx(chat_ctx)
            except RealtimeError as error:  # only the acknowledgement is missing
                logger.warning("the realtime model did not confirm the user's message: %s", error)
        self._activity.commit(message, speech_handle=self._handle)

    async def _response(
        self, realtime: RealtimeSession[Any], instructions: NotGivenOr[str | Instructions]
    ) -> GenerationCreatedEvent | None:
        rendered: NotGivenOr[str] = (
            instructions.render(modality="audio")
            if isinstance(instructions, Instructions)
            else instructions
        )
        per_response = realtime.realtime_model.capabilities.per_response_tool_choice
        if per_response:
            fut = realtime.generate_reply(instructions=rendered, tool_choice=self._tool_choice)
            return await self._await_response(realtime, fut)
        changed = is_given(self._tool_choice)
        if changed:
            realtime.update_options(tool_choice=self._tool_choice)
        try:
            fut = realtime.generate_reply(instructions=rendered)
            return await self._await_response(realtime, fut)
        finally:
            if changed:
                default = self._activity.tool_choice
                realtime.update_options(tool_choice=default if is_given(default) else None)

    async def _await_response(
        self,
        realtime: RealtimeSession[Any],
        fut: asyncio.Future[GenerationCreatedEvent],
    ) -> GenerationCreatedEvent | None:
        """The response, or None when the speech was interrupted before it began."""
        await self._handle.wait_if_not_interrupted([fut])
        if not fut.done():
            fut.cancel()
            return None
        event = fut.result()
        if self._handle.interrupted:
            realtime.interrupt()
            return None
        return event

    # -- playing ----------------------------------------------------------------------------------

    async def run(self, event: GenerationCreatedEvent) -> None:
        """Play the messages, run the tools, and give the model their results."""
        forget = self._handle._on_cut_off(self.settle)
        keep_tools = self._handle._on_release(self._release_tools)
        try:
            await self._run(event)
        except RealtimeError as error:
            self._handle._set_error(error)
        except Exception as error:
            self._handle._set_error(error)
            logger.exception("a realtime reply failed", extra={"speech_id": self._handle.id})
        finally:
            forget()
            keep_tools()
            await self._scope.cancel(CHILD_GRACE)
            step_over(self._activity, self._handle)
            settle_state(self._activity, self._handle)

    async def _run(self, event: GenerationCreatedEvent) -> None:
        handle, activity = self._handle, self._activity
        calls: Chan[FunctionCall] = Chan()
        messages: Chan[MessageGeneration] = Chan()
        self._scope.spawn(_pump(event.function_stream, calls), name="realtime calls")
        self._scope.spawn(_pump(event.message_stream, messages), name="realtime messages")
        await activity.scheduler.wait_for_authorization(handle)
        if handle.interrupted:
            self._interrupt_server(messages, calls)
            return
        self._tools = ToolLoop(
            activity,
            handle,
            ToolContext(activity.tools),
            self._tool_choice,
            more_tools=[],
        )
        running = self._scope.spawn(self._tools.run(calls), name="realtime tools")
        await self._play_messages(messages)
        if handle.interrupted:
            self._interrupt_server(messages, calls)
        handle._mark_generation_done()
        if not running.done():
            activity.scheduler.background.add(handle)
            try:
                await asyncio.wait((running,))
            finally:
                activity.scheduler.background.discard(handle)
        await self._answer_tools()

    def _interrupt_server(self, messages: Chan[Any], calls: Chan[Any]) -> None:
        realtime = self._activity.realtime_llm_session
        if realtime is not None and not (messages.closed and calls.closed):
            realtime.interrupt()

    async def _play_messages(self, messages: Chan[MessageGeneration]) -> None:
        while not self._handle.interrupted:
            receive = self._scope.spawn(_next(messages), name="next message")
            await self._handle.wait_if_not_interrupted([receive])
            message = receive.result() if receive.done() and not receive.cancelled() else None
            if message is None:
                return
            playback = await self._playback(message)
            self._played.append((message.message_id, playback))
            await playback.play()
            self._commit(message.message_id, playback)
            if playback.outcome == "partial":
                return

    async def _playback(self, message: MessageGeneration) -> SegmentPlayback:
        modalities = await message.modalities
        frames: Any = None
        text: Any = message.text_stream
        tts: TTSInference | None = None
        if self._audio_output is not None:
            if "audio" in modalities:
                frames = await resolve_node(
                    self._activity.agent.realtime_audio_output_node(
                        message.audio_stream, self._settings
                    )
                )
            elif self._activity.tts is not None:
                text, tts = self._synthesised(message.text_stream)
                frames = tts.frames
            else:
                logger.error("the realtime model answered in text, and there is no TTS to speak it")
        return SegmentPlayback(
            self._activity,
            self._handle,
            self._settings,
            audio_output=self._audio_output,
            text_output=self._text_output,
            frames=frames,
            text=text,
            tts=tts,
            on_first_frame=self._on_first_frame,
        )

    def _synthesised(self, source: AsyncIterable[str]) -> tuple[AsyncIterable[str], TTSInference]:
        voice: Chan[str] = Chan()
        shown: Chan[str] = Chan()

        async def split() -> None:
            try:
                async for delta in source:
                    voice.send_nowait(delta)
                    shown.send_nowait(delta)
            finally:
                voice.close()
                shown.close()

        self._scope.spawn(split(), name="realtime text")
        tts = TTSInference(
            self._activity.agent,
            transformed(self._activity, voice),
            self._settings,
            aligned=False,
            on_progress=self._session._progress.touch,
        )
        self._scope.spawn(tts.run(), name="tts_node")
        return shown, tts

    def _on_first_frame(self, at: float) -> None:
        if self._started_at is None:
            self._started_at = at
            self._session._update_agent_state("speaking", at=at)

    # -- history ----------------------------------------------------------------------------------

    def _commit(self, message_id: str, playback: SegmentPlayback) -> None:
        if message_id in self._committed or playback.outcome == "skipped":
            return
        self._committed.add(message_id)
        partial = playback.outcome == "partial"
        realtime = self._activity.realtime_llm_session
        truncates = realtime is not None and realtime.realtime_model.capabilities.message_truncation
        if partial and truncates and realtime is not None:
            realtime.truncate(
                message_id=message_id,
                modalities=["text", "audio"] if self._audio_output is not None else ["text"],
                audio_end_ms=int(playback.playback_position * 1000),
                audio_transcript=playback.said,
            )
        if playback.said:
            self._activity.commit(
                ChatMessage(
                    id=message_id,
                    role="assistant",
                    content=[playback.said],
                    interrupted=partial,
                    created_at=self._started_at or time.time(),
                ),
                speech_handle=self._handle,
            )

    def settle(self) -> None:
        """Save what is known: the speech is cut off. Synchronous, idempotent."""
        for message_id, playback in self._played:
            playback.settle()
            self._commit(message_id, playback)
        if self._tools is not None:
            self._tools.cut_off()
            self._tools.commit(reply_allowed=False)

    # -- tools ------------------------------------------------------------------------------------

    def _release_tools(self) -> None:
        if self._tools is not None:
            self._tools.release()

    async def _answer_tools(self) -> None:
        """Give the model the results of its tools, and let it comment on them."""
        tools, activity = self._tools, self._activity
        if tools is None or not tools.outputs:
            return
        silenced = self._handle.interrupted or self._activity.displaced
        event = tools.commit(reply_allowed=not silenced)
        agent = tools.new_agent
        if event is not None and agent is not None and event.has_agent_handoff:
            try:
                self._session.update_agent(agent)
            except RuntimeError as error:
                logger.warning("the handoff that a tool asked for is refused: %s", error)
        realtime = activity.realtime_llm_session
        if realtime is None:
            return
        await self._wait_for_the_floor()
        chat_ctx = realtime.chat_ctx.copy()
        for output in tools.outputs:
            if output.fnc_call_out is not None:
                chat_ctx.insert(output.fnc_call_out)
        async with activity.replies.remote_context_lock:
            try:
                await realtime.update_chat_ctx(chat_ctx)
            except RealtimeError as error:
                logger.warning("the realtime model did not confirm the tool results: %s", error)
        wants_reply = event is not None and event.has_tool_reply and not self._handle.interrupted
        if wants_reply and not realtime.realtime_model.capabilities.auto_tool_reply_generation:
            await self._reply_to_tools(realtime)

    async def _wait_for_the_floor(self) -> None:
        """Until no other speech plays or waits; a closing session or an interruption ends it."""
        scheduler = self._activity.scheduler
        while not scheduler.idle and not self._handle.interrupted and not scheduler.was_cut_off:
            current = scheduler.current_speech
            waits: list[asyncio.Future[Any]] = [self._handle._interrupt_fut]
            waits += [handle._done_fut for handle in (current, *scheduler.queued) if handle]
            await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
            await asyncio.sleep(0)

    async def _reply_to_tools(self, realtime: RealtimeSession[Any]) -> None:
        realtime.interrupt()
        handle = self._handle
        handle._num_steps += 1
        limit = self._session.options.max_tool_steps
        done = handle.num_steps > limit + 1 or self._activity.draining
        self._activity.scheduler.schedule(handle, force=True)
        step_over(self._activity, handle)
        following = RealtimeReply(self._activity, handle, tool_choice="none" if done else NOT_GIVEN)
        await following.request(None, NOT_GIVEN, [])


async def _pump(source: AsyncIterable[Any], target: Chan[Any]) -> None:
    try:
        async for item in source:
            target.send_nowait(item)
    finally:
        target.close()
        await close_node(source)


async def _next(chan: Chan[Any]) -> Any:
    async for item in chan:
        return item
    return None
