"""Changes of a running activity: models, instructions, tools, context, and the user's turn."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any, cast

from ..llm import LLM, AgentConfigUpdate, ChatContext, RealtimeModel, Tool, ToolContext, Toolset
from ..types import NOT_GIVEN, NotGivenOr
from ..utils import is_given
from . import activity_wiring as wiring

if TYPE_CHECKING:
    from .agent import Agent
    from .agent_activity import AgentActivity
    from .agent_session import AgentSession
    from .audio_recognition import AudioRecognition
    from .realtime_link import RealtimeLink
    from .replies import Replies


class ActivityChanges:
    """The side of an `AgentActivity` that changes while it runs."""

    if TYPE_CHECKING:
        _agent: Agent
        _session: AgentSession[Any]
        realtime: RealtimeLink | None
        recognition: AudioRecognition | None
        replies: Replies
        tool_choice: NotGivenOr[Any]

        @property
        def llm(self) -> LLM[Any] | RealtimeModel | None:
            """The LLM or realtime model in use."""

        @property
        def tools(self) -> list[Tool | Toolset]:
            """Session tools, agent tools and MCP tools."""

        def tool_context(self) -> ToolContext:
            """The tools as one context."""

    @property
    def _whole(self) -> AgentActivity:
        return cast("AgentActivity", self)

    def swap_models(
        self,
        *,
        stt: NotGivenOr[Any],
        vad: NotGivenOr[Any],
        llm: NotGivenOr[Any],
        tts: NotGivenOr[Any],
    ) -> None:
        """Swap models of the running activity. See `Agent.update_options`."""
        wiring.check_swap(self._whole, vad=vad, llm=llm)
        agent = self._agent
        for name, value in (("_stt", stt), ("_vad", vad), ("_llm", llm), ("_tts", tts)):
            if is_given(value):
                setattr(agent, name, value)
        wiring.apply_swap(self._whole, stt=is_given(stt), vad=is_given(vad))

    async def update_instructions(self, instructions: Any) -> None:
        """See `Agent.update_instructions`."""
        self._agent._instructions = instructions
        self._record_config(AgentConfigUpdate(instructions=wiring.in_words(instructions)))
        if self.realtime is not None:
            from .replies.realtime import spoken

            await self.realtime.guard.update(
                self.realtime.session.update_instructions(spoken(instructions))
            )
        else:
            wiring.put_instructions(self._whole)

    async def update_tools(self, tools: list[Tool | Toolset]) -> None:
        """See `Agent.update_tools`."""
        before = set(ToolContext(self._agent._tools).function_tools)
        await wiring.change_toolsets(self._whole, tools)
        self._agent._tools = tools
        after = set(ToolContext(tools).function_tools)
        if before != after:
            self._record_config(
                AgentConfigUpdate(
                    tools_added=sorted(after - before), tools_removed=sorted(before - after)
                )
            )
        if self.realtime is not None:
            available = self.tool_context().flatten()
            await self.realtime.guard.update(self.realtime.session.update_tools(available))
        if isinstance(self.llm, LLM):
            await self.update_chat_ctx(self._agent._chat_ctx)

    async def update_chat_ctx(
        self, chat_ctx: ChatContext, *, exclude_invalid_function_calls: bool = True
    ) -> None:
        """See `Agent.update_chat_ctx`."""
        new = chat_ctx.copy(tools=self.tools) if exclude_invalid_function_calls else chat_ctx.copy()
        self._agent._chat_ctx = new
        if self.realtime is not None:
            await self.realtime.replace_context(new)
        else:
            wiring.put_instructions(self._whole)

    def _record_config(self, update: AgentConfigUpdate) -> None:
        self._agent._chat_ctx.insert(update)
        self._session._history.insert(update)

    def update_options(
        self,
        *,
        tool_choice: NotGivenOr[Any] = NOT_GIVEN,
        endpointing_opts: NotGivenOr[Any] = NOT_GIVEN,
        turn_detection: NotGivenOr[Any] = NOT_GIVEN,
        min_endpointing_delay: NotGivenOr[float] = NOT_GIVEN,
        max_endpointing_delay: NotGivenOr[float] = NOT_GIVEN,
    ) -> None:
        """Change the running activity: tool choice, endpointing, turn detection."""
        if is_given(tool_choice):
            self.tool_choice = tool_choice
            if self.realtime is not None:
                self.realtime.set_tool_choice(tool_choice)
        wiring.update_hearing(
            self._whole,
            endpointing_opts,
            turn_detection,
            min_endpointing_delay,
            max_endpointing_delay,
        )

    def clear_user_turn(self) -> None:
        """Drop what the user has said in the pending turn."""
        if self.recognition is not None:
            self.recognition.clear_user_turn()
        self.replies.user_stopped(None)
        if self.realtime is not None:
            self.realtime.clear_audio()

    def commit_user_turn(
        self, *, transcript_timeout: float, stt_flush_duration: float, skip_reply: bool = False
    ) -> asyncio.Future[str]:
        """End the user's turn now. See `AgentSession.commit_user_turn`."""
        if self.realtime is not None:
            self.realtime.commit_audio()
            if not skip_reply:
                self._session.generate_reply(input_modality="audio")
                skip_reply = True
        if self.recognition is None:
            nothing: asyncio.Future[str] = asyncio.get_running_loop().create_future()
            nothing.set_result("")
            return nothing
        return self.recognition.commit_user_turn(
            transcript_timeout=transcript_timeout,
            stt_flush_duration=stt_flush_duration,
            skip_reply=skip_reply,
            audio_detached=not self._session._hears,
        )
