"""What a running session can be asked to do: speak, answer, listen, hand over, change."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterable, AsyncIterator
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any, TypeVar, cast

from ..llm import ChatContext, ChatMessage
from ..types import NOT_GIVEN, NotGiven, NotGivenOr
from ..utils import is_given
from .session_base import SessionBase
from .session_options import ExpressiveOptions, warn_deprecated_aliases
from .speech_handle import InputDetails, SpeechHandle
from .turn import check_turn_detection

if TYPE_CHECKING:
    from livekit import rtc

    from .. import llm as llm_module
    from .agent import Agent
    from .agent_activity import AgentActivity
    from .agent_session import AgentSession
    from .idle import IdleWatch
    from .run_result import RunOutputOptions, RunResult
    from .turn import EndpointingOptions, TurnDetectionMode

Run_T = TypeVar("Run_T")


class SessionConversation(SessionBase):
    """The side of an `AgentSession` that the conversation itself is steered with."""

    if TYPE_CHECKING:
        _closing_task: asyncio.Task[None] | None
        _expressive: bool | ExpressiveOptions
        _idle: IdleWatch

    def say(
        self,
        text: str | AsyncIterable[str],
        *,
        audio: NotGivenOr[AsyncIterable[rtc.AudioFrame]] = NOT_GIVEN,
        allow_interruptions: NotGivenOr[bool] = NOT_GIVEN,
        add_to_chat_ctx: bool = True,
    ) -> SpeechHandle:
        """Speak a given text.

        Args:
            text: What to say, whole or as a stream.
            audio: Audio to play instead of synthesising it.
            allow_interruptions: Whether the user may interrupt; the agent's setting by default.
            add_to_chat_ctx: Whether it goes to the history.

        Raises:
            RuntimeError: When the session does not run or is closing, or when there is no way to
                make audio of the text.
        """
        handle = self._activity_for_speech("say").say(
            text,
            audio=audio,
            allow_interruptions=allow_interruptions,
            add_to_chat_ctx=add_to_chat_ctx,
        )
        self._watch(handle)
        return handle

    def generate_reply(
        self,
        *,
        user_input: NotGivenOr[str | ChatMessage] = NOT_GIVEN,
        instructions: NotGivenOr[str | llm_module.Instructions] = NOT_GIVEN,
        tool_choice: NotGivenOr[llm_module.ToolChoice] = NOT_GIVEN,
        tools: NotGivenOr[list[str]] = NOT_GIVEN,
        allow_interruptions: NotGivenOr[bool] = NOT_GIVEN,
        chat_ctx: NotGivenOr[ChatContext] = NOT_GIVEN,
        input_modality: Any = "text",
    ) -> SpeechHandle:
        """Let the LLM answer.

        Args:
            user_input: What the user said; becomes a user message in the history.
            instructions: Extra instructions for this reply.
            tool_choice: Whether and which tools to use.
            tools: Ids of the only tools this reply may use.
            allow_interruptions: Whether the user may interrupt; the agent's setting by default.
            chat_ctx: The context to answer from; the agent's history by default.
            input_modality: How the input came in: "text" or "audio".

        Raises:
            RuntimeError: When the session does not run or is closing, or has no LLM.
            TypeError: If `user_input` is something else.
            ValueError: For an unknown tool id.
        """
        activity = self._activity_for_speech("generate_reply")
        message: NotGivenOr[ChatMessage] = NOT_GIVEN
        if isinstance(user_input, str):
            message = ChatMessage(role="user", content=[user_input])
        elif isinstance(user_input, ChatMessage):
            message = user_input
        elif is_given(user_input):
            raise TypeError(
                f"user_input must be text or a ChatMessage, got {type(user_input).__name__}"
            )
        handle = activity.replies.generate_reply(
            user_message=message,
            chat_ctx=chat_ctx if is_given(chat_ctx) else None,
            instructions=instructions,
            tool_choice=tool_choice,
            tools=tools,
            allow_interruptions=allow_interruptions,
            input_details=InputDetails(modality=input_modality),
        )
        self._watch(handle)
        return handle

    def run(
        self,
        *,
        user_input: str,
        input_modality: Any = "text",
        output_type: type[Run_T] | None = None,
        output_options: NotGivenOr[RunOutputOptions | None] = NOT_GIVEN,
    ) -> RunResult[Run_T]:
        """Answer `user_input` and collect what happens; await the result. For tests and batch use.

        Raises:
            RuntimeError: When a run is unfinished ("nested runs are not supported"), or as
                `generate_reply` does.
        """
        from .run_result import start_run

        return start_run(
            cast("AgentSession[Any]", self),
            user_input=user_input,
            input_modality=input_modality,
            output_type=output_type,
            output_options=output_options,
        )

    def interrupt(self, *, force: bool = False) -> asyncio.Future[None]:
        """Interrupt what is said and queued; the future resolves when the history is up to date.

        Raises:
            RuntimeError: When the session does not run, or the current speech disallows it and
                `force` is False.
        """
        return self._activity_or_raise().interrupt(force=force)

    def commit_user_turn(
        self,
        *,
        transcript_timeout: float = 2.0,
        stt_flush_duration: float = 2.0,
        skip_reply: bool = False,
    ) -> asyncio.Future[str]:
        """End the user's turn now; the future gives its transcript.

        Args:
            transcript_timeout: Seconds to wait for a final transcript.
            stt_flush_duration: Seconds of silence pushed into an STT that can't be flushed, when
                no audio comes in.
            skip_reply: Keep the words in the history but don't answer.
        """
        return self._activity_or_raise().commit_user_turn(
            transcript_timeout=transcript_timeout,
            stt_flush_duration=stt_flush_duration,
            skip_reply=skip_reply,
        )

    def clear_user_turn(self) -> None:
        """Forget what the user has said in the pending turn."""
        self._activity_or_raise().clear_user_turn()

    def update_agent(self, agent: Agent) -> None:
        """Hand over to `agent`: the present one finishes and says goodbye, in the background.

        Raises:
            RuntimeError: When the session is closing or was closed.
        """
        self._refuse_former_life()
        if self._is_closing or (self._closing_task is not None and not self._started):
            raise RuntimeError("AgentSession is closing, cannot use update_agent()")
        self._current_agent = agent
        if self._activity is None:
            return
        self._activity.block_user_turns()
        transition = self._handoffs.request(agent)
        if self._global_run_state is not None:
            self._global_run_state._watch_task(transition)

    def update_options(
        self,
        *,
        endpointing_opts: NotGivenOr[EndpointingOptions] = NOT_GIVEN,
        turn_detection: NotGivenOr[TurnDetectionMode | None] = NOT_GIVEN,
        keyterms: NotGivenOr[list[str]] = NOT_GIVEN,
        expressive: NotGivenOr[bool | ExpressiveOptions] = NOT_GIVEN,
        min_endpointing_delay: NotGivenOr[float] = NOT_GIVEN,
        max_endpointing_delay: NotGivenOr[float] = NOT_GIVEN,
    ) -> None:
        """Change options of the running session; applied at once.

        `turn_detection=None` lets silence decide, as the parts of the session allow. `keyterms` replaces
        the static ones. `min_endpointing_delay` and `max_endpointing_delay` are deprecated.

        Raises:
            ValueError: `turn_detection` is text that names no mode.
        """
        check_turn_detection(turn_detection)
        warn_deprecated_aliases(
            min_endpointing_delay=min_endpointing_delay,
            max_endpointing_delay=max_endpointing_delay,
        )
        delays = {"min_delay": min_endpointing_delay, "max_delay": max_endpointing_delay}
        given = {key: value for key, value in delays.items() if is_given(value)}
        if given:
            endpointing_opts = cast("EndpointingOptions", given)
        if is_given(endpointing_opts):
            new = {k: v for k, v in endpointing_opts.items() if v is not None}
            self._options.endpointing_overrides = cast(
                "EndpointingOptions", {**self._options.endpointing_overrides, **new}
            )
            self._options.turn_handling["endpointing"] = cast(
                "EndpointingOptions", {**self._options.endpointing, **new}
            )
        if not isinstance(turn_detection, NotGiven):
            self._options.turn_handling["turn_detection"] = turn_detection
        if is_given(keyterms):
            self._keyterms.set_static_keyterms(keyterms)
        if not isinstance(expressive, NotGiven):
            self._expressive = expressive
        if self._activity is not None:
            self._activity.update_options(
                endpointing_opts=endpointing_opts, turn_detection=turn_detection
            )

    def reset_away_timer(self) -> None:
        """Somebody is there: leave "away" and start the away timer anew."""
        if not self._started or self._is_closing or self._options.user_away_timeout is None:
            return
        if self._state.user == "away":
            self._state.set_user("listening")
        self._state.arm_away()

    async def wait_for_idle(self) -> AgentActivity:
        """Return the current activity once nobody speaks, is about to, or decides whether to.

        Raises:
            RuntimeError: When the session does not run.
            ActivityClosedError: When it is closing.
        """
        return await self._idle.wait_for_session()

    @asynccontextmanager
    async def _claim_user_turn(self) -> AsyncIterator[None]:
        """Act for the user: the user counts as speaking meanwhile. Re-entrant."""
        claim = self._state.claim_user_turn()
        try:
            yield
        finally:
            activity = self._activity
            self._state.release_user_turn(
                claim, silent=activity is None or activity.scheduler.user_silent.is_open
            )
            self._idle.changed()
