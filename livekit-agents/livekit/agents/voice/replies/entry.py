"""Where speech begins: `say`, `generate_reply`, and replies prepared before the turn is over."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterable, Awaitable, Callable
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any, cast

from ...llm import ChatContext, ChatMessage, RealtimeModel, Tool, ToolContext, Toolset
from ...llm.tool_context import ToolFlag
from ...log import logger
from ...types import NOT_GIVEN, NotGiven, NotGivenOr
from ...utils import is_given
from .._context import current_function_call, on_enter_marker
from ..events import SpeechCreatedEvent
from ..speech_handle import DEFAULT_INPUT_DETAILS, InputDetails, SpeechHandle
from .say import SayTask
from .step import ReplyRequest, run_reply
from .tracing import agent_turn

if TYPE_CHECKING:
    from livekit import rtc

    from ...llm import Instructions, ToolChoice
    from ..agent_activity import AgentActivity
    from ..hearing.hooks import PreemptiveGenerationInfo


TOOL_REPLY_TIMEOUT = 5.0
"""Seconds that a run waits for a realtime model to comment on its tools by itself."""


@dataclass
class _Preemptive:
    """A reply that was begun before the turn was surely over."""

    handle: SpeechHandle
    message: ChatMessage
    transcript: str
    chat_ctx: ChatContext
    tools: list[Any]
    tool_choice: Any


class Replies:
    """The speech entry points of one activity."""

    def __init__(self, activity: AgentActivity) -> None:
        self._activity = activity
        self._preemptive: _Preemptive | None = None
        self._preemptive_attempts = 0
        self._user_stopped_at: float | None = None
        self._tool_reply: asyncio.Future[None] | None = None

    # -- say --------------------------------------------------------------------------------------

    def say(
        self,
        text: str | AsyncIterable[str],
        *,
        audio: NotGivenOr[AsyncIterable[rtc.AudioFrame]] = NOT_GIVEN,
        allow_interruptions: NotGivenOr[bool] = NOT_GIVEN,
        add_to_chat_ctx: bool = True,
    ) -> SpeechHandle:
        """Speak a text. See `AgentSession.say`."""
        activity = self._activity
        output = activity.session.output
        audible = output.audio is not None and output.audio_enabled
        if audible and not is_given(audio) and activity.tts is None and not self._model_says():
            raise RuntimeError(
                "trying to say text without a TTS: give the session or agent a TTS, pass the "
                "audio, or switch audio off with session.output.set_audio_enabled(False)"
            )
        self._refuse_while_paused("say")
        handle = self._create("say", allow_interruptions, DEFAULT_INPUT_DETAILS)
        if self._model_says() and activity.tts is None and not is_given(audio):
            from .realtime import say_with_model

            speak: Callable[[], Awaitable[None]] = partial(
                say_with_model, activity, handle, text, add_to_chat_ctx
            )
        else:
            speak = SayTask(
                activity,
                handle,
                text,
                audio=audio if is_given(audio) else None,
                add_to_chat_ctx=add_to_chat_ctx,
            ).run
        self._begin(handle, speak, name=f"say {handle.id}")
        activity.scheduler.schedule(handle)
        return handle

    def _model_says(self) -> bool:
        model = self._activity.llm
        return isinstance(model, RealtimeModel) and model.capabilities.supports_say

    # -- generate_reply ---------------------------------------------------------------------------

    def generate_reply(
        self,
        *,
        user_message: NotGivenOr[ChatMessage] = NOT_GIVEN,
        chat_ctx: ChatContext | None = None,
        instructions: NotGivenOr[str | Instructions] = NOT_GIVEN,
        tool_choice: NotGivenOr[ToolChoice] = NOT_GIVEN,
        tools: NotGivenOr[list[str]] = NOT_GIVEN,
        allow_interruptions: NotGivenOr[bool] = NOT_GIVEN,
        input_details: InputDetails = DEFAULT_INPUT_DETAILS,
        schedule_speech: bool = True,
        answers_user_at: float | None = None,
    ) -> SpeechHandle:
        """Let the model answer. See `AgentSession.generate_reply`.

        Args:
            schedule_speech: False prepares the reply without playing it, until it is adopted.
            answers_user_at: When the user stopped speaking (`time.time()`).
        """
        activity = self._activity
        if activity.llm is None:
            raise RuntimeError("trying to generate reply without an LLM model")
        chosen = self._tools_for(tools)
        if isinstance(tool_choice, NotGiven):
            in_tool = current_function_call.get() is not None
            tool_choice = cast("ToolChoice", "none") if in_tool else activity.tool_choice
        if schedule_speech:
            self._refuse_while_paused("generate_reply")
        handle = self._create("generate_reply", allow_interruptions, input_details)
        message = user_message if is_given(user_message) else None
        if isinstance(activity.llm, RealtimeModel):
            from .realtime import reply_with_model

            if answers_user_at is not None:
                self.user_stopped(answers_user_at)
            only = NOT_GIVEN if _same_tools(chosen, activity.tools) else chosen
            speak: Callable[[], Awaitable[None]] = partial(
                reply_with_model, activity, handle, message, instructions, tool_choice, only
            )
        else:
            request = ReplyRequest(
                chat_ctx=chat_ctx if chat_ctx is not None else activity.agent._chat_ctx,
                tools=chosen,
                user_message=message,
                instructions=instructions,
                tool_choice=tool_choice,
                answers_user_at=answers_user_at,
            )
            speak = partial(run_reply, activity, handle, request)
        self._begin(handle, speak, name=f"reply {handle.id}")
        if schedule_speech:
            activity.scheduler.schedule(handle)
        return handle

    def _begin(
        self, handle: SpeechHandle, speak: Callable[[], Awaitable[None]], *, name: str
    ) -> None:
        self._activity.create_speech_task(
            agent_turn(self._activity, handle, speak), speech_handle=handle, name=name
        )

    def _create(
        self,
        source: Any,
        allow_interruptions: NotGivenOr[bool],
        input_details: InputDetails,
    ) -> SpeechHandle:
        activity = self._activity
        allowed = allow_interruptions if is_given(allow_interruptions) else NOT_GIVEN
        if activity.server_turn_detection and is_given(allowed) and not allowed:
            logger.warning(
                "the realtime model detects turns on its server, allow_interruptions=False is "
                "ignored"
            )
            allowed = NOT_GIVEN
        handle = SpeechHandle.create(
            allow_interruptions=allowed if is_given(allowed) else activity.allow_interruptions,
            input_details=input_details,
        )
        activity.session.emit(
            "speech_created",
            SpeechCreatedEvent(user_initiated=True, source=source, speech_handle=handle),
        )
        return handle

    def _refuse_while_paused(self, method: str) -> None:
        if self._activity.scheduler.paused:
            raise RuntimeError(
                f"cannot schedule new speech, the speech scheduling is draining/pausing: "
                f"{method}() comes too late for {self._activity.agent.id}"
            )

    def _tools_for(self, ids: NotGivenOr[list[str]]) -> list[Tool | Toolset]:
        """The tools of one reply: all, or the named ones; without those hidden in `on_enter`."""
        tools = self._activity.tools
        if is_given(ids):
            tools = _named(tools, ids)
        marker = on_enter_marker.get()
        if marker is not None and marker.agent is self._activity.agent:
            tools = _without_hidden(tools)
        return tools

    # -- prepared replies -------------------------------------------------------------------------

    def preempt(self, info: PreemptiveGenerationInfo) -> None:
        """Begin a reply to a turn that is probably over. Replaces an earlier attempt."""
        activity = self._activity
        options = activity.preemptive_generation_opts
        current = activity.scheduler.current_speech
        if (
            not options["enabled"]
            or activity.turns_blocked
            or activity.llm is None
            or isinstance(activity.llm, RealtimeModel)
            or (current is not None and not current.interrupted)
        ):
            return
        self.drop_preemptive()
        if self._preemptive_attempts >= options["max_retries"] or self._too_long(info):
            return
        self._preemptive_attempts += 1
        message = ChatMessage(
            role="user",
            content=[info.new_transcript],
            transcript_confidence=info.transcript_confidence,
        )
        chat_ctx = activity.agent._chat_ctx.copy()
        handle = self.generate_reply(user_message=message, chat_ctx=chat_ctx, schedule_speech=False)
        self._preemptive = _Preemptive(
            handle,
            message,
            info.new_transcript,
            chat_ctx.copy(),
            activity.tools,
            activity.tool_choice,
        )

    def _too_long(self, info: PreemptiveGenerationInfo) -> bool:
        if info.started_speaking_at is None:
            return False
        limit = self._activity.preemptive_generation_opts["max_speech_duration"]
        return time.time() - info.started_speaking_at > limit

    def preemptive_stale(self, transcript: str) -> None:
        """The user has said more: a prepared reply to something else is of no use."""
        if self._preemptive is not None and not _same_words(
            self._preemptive.transcript, transcript
        ):
            self.drop_preemptive()

    def new_turn(self) -> None:
        """A user turn is complete: count preemptive attempts from zero."""
        self._preemptive_attempts = 0

    def drop_preemptive(self) -> None:
        """Cancel a prepared reply that nobody has adopted."""
        prepared, self._preemptive = self._preemptive, None
        if prepared is not None and not prepared.handle.scheduled:
            prepared.handle.interrupt(force=True)

    def adopt_preemptive(
        self, user_message: ChatMessage, chat_ctx: ChatContext
    ) -> SpeechHandle | None:
        """Play the prepared reply if it still answers this turn; else drop it.

        Returns:
            The handle, scheduled; None if there is none that fits.
        """
        prepared, self._preemptive = self._preemptive, None
        if prepared is None or prepared.handle.interrupted or prepared.handle.done():
            return None
        fits = (
            _same_words(prepared.transcript, user_message.text_content or "")
            and prepared.chat_ctx.is_equivalent(chat_ctx)
            and _same_tools(prepared.tools, self._activity.tools)
            and prepared.tool_choice == self._activity.tool_choice
        )
        if not fits:
            logger.warning("the prepared reply does not fit the completed turn, making a new one")
            prepared.handle.interrupt(force=True)
            return None
        prepared.message.content = user_message.content
        prepared.message.transcript_confidence = user_message.transcript_confidence
        prepared.message.metrics = user_message.metrics
        self._activity.scheduler.schedule(prepared.handle)
        return prepared.handle

    # -- realtime models --------------------------------------------------------------------------

    def on_generation_created(self, event: Any) -> None:
        """A realtime model began to answer by itself."""
        from .realtime import play_server_generation

        play_server_generation(self._activity, event)

    def user_stopped(self, at: float | None) -> None:
        """The user has said something that the model is to answer; None if that is void.

        Args:
            at: When the user fell silent (`time.time()`).
        """
        self._user_stopped_at = at

    def take_user_stopped(self) -> float | None:
        """When the user fell silent, for the first speech that answers it."""
        at, self._user_stopped_at = self._user_stopped_at, None
        return at

    def expect_tool_reply(self) -> None:
        """The model is about to comment on the results of its tools, and the run waits for that."""
        run = self._activity.session._global_run_state
        if run is None or run.done():
            return
        expected = self._tool_reply = run._guard()
        timer = asyncio.get_running_loop().call_later(TOOL_REPLY_TIMEOUT, _resolve, expected)
        expected.add_done_callback(lambda _: timer.cancel())

    def tool_reply_began(self, handle: SpeechHandle) -> None:
        """The model speaks: if that was waited for, the run waits for its end."""
        expected, self._tool_reply = self._tool_reply, None
        run = self._activity.session._global_run_state
        if expected is not None and not expected.done():
            if run is not None:
                run._watch_handle(handle)
            _resolve(expected)


def _resolve(future: asyncio.Future[None]) -> None:
    if not future.done():
        future.set_result(None)


def _named(tools: list[Tool | Toolset], ids: list[str]) -> list[Tool | Toolset]:
    """The tools with these ids: toolsets first, then single tools of any toolset."""
    context = ToolContext(tools)
    by_id: dict[str, Tool | Toolset] = {tool.id: tool for tool in context.flatten()}
    by_id.update({toolset.id: toolset for toolset in context.toolsets})
    unknown = [id for id in ids if id not in by_id]
    if unknown:
        available = ", ".join(sorted(context.function_tools)) or "none"
        raise ValueError(f"unknown tools {unknown}; available function tools: {available}")
    return [by_id[id] for id in ids]


def _without_hidden(tools: list[Tool | Toolset]) -> list[Tool | Toolset]:
    """The tools without those flagged `IGNORE_ON_ENTER`, also where they are in a toolset."""
    context = ToolContext(tools)
    hidden = [t for t in context.function_tools.values() if t.info.flags & ToolFlag.IGNORE_ON_ENTER]
    if not hidden:
        return tools
    context._exclude(hidden)
    return list(context.flatten())


def _same_tools(old: list[Any], new: list[Any]) -> bool:
    return [tool.id for tool in old] == [tool.id for tool in new]


def _same_words(first: str, second: str) -> bool:
    """Whether two transcripts say the same: case, punctuation and spacing aside."""
    from ...tokenize.basic import split_words

    if first == second:
        return True

    def words(text: str) -> list[str]:
        return [word.casefold() for word, *_ in split_words(text, ignore_punctuation=True)]

    return words(first) == words(second)
