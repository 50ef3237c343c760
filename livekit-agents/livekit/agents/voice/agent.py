"""`Agent`: who speaks. Instructions, tools, models and hooks of one role in a conversation."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import AsyncIterable, Callable, Coroutine, Generator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Generic, TypeVar

from ..llm import ChatContext, Tool, ToolError, Toolset, find_function_tools
from ..log import logger
from ..types import NOT_GIVEN, FlushSentinel, NotGivenOr
from ..utils import is_given
from ..utils.misc import camel_to_snake_case
from ._context import current_speech_handle
from .nodes import DefaultNodes
from .session_options import agent_turn_handling

if TYPE_CHECKING:
    from livekit import rtc

    from .. import llm as llm_module, stt as stt_module, tts as tts_module, vad as vad_module
    from ..types import TimedString
    from .agent_activity import AgentActivity
    from .agent_session import AgentSession, ExpressiveOptions
    from .audio_recognition import AudioRecognition
    from .events import UserTurnExceededEvent
    from .tool_options import ToolHandlingOptions
    from .turn import TurnDetectionMode, TurnHandlingOptions

TaskResult_T = TypeVar("TaskResult_T")


@dataclass
class ModelSettings:
    """What a node may need to know of the request it serves."""

    tool_choice: NotGivenOr[llm_module.ToolChoice] = NOT_GIVEN
    """The tool choice of this step; NOT_GIVEN leaves it to the model."""


class Agent:
    """One role in a conversation: instructions, tools, and models that override the session's.

    Subclass it to add function tools (methods decorated with `@function_tool`), hooks (`on_enter`,
    `on_exit`, `on_user_turn_completed`) and nodes (`stt_node`, `llm_node`, `tts_node`, ...).

    For the models and turn handling, leaving an argument out means the session's value, None
    switches that component off for this agent.
    """

    default = DefaultNodes
    """The nodes as they are when nothing is overridden; call them from an override."""

    def __init__(
        self,
        *,
        instructions: str | llm_module.Instructions,
        id: str | None = None,
        chat_ctx: NotGivenOr[ChatContext | None] = NOT_GIVEN,
        tools: list[Tool | Toolset] | None = None,
        stt: NotGivenOr[stt_module.STT[Any] | str | None] = NOT_GIVEN,
        vad: NotGivenOr[vad_module.VAD | None] = NOT_GIVEN,
        turn_handling: NotGivenOr[TurnHandlingOptions] = NOT_GIVEN,
        tool_handling: NotGivenOr[ToolHandlingOptions] = NOT_GIVEN,
        llm: NotGivenOr[
            llm_module.LLM[Any] | llm_module.RealtimeModel | llm_module.DuplexModel | str | None
        ] = NOT_GIVEN,
        tts: NotGivenOr[tts_module.TTS[Any] | str | None] = NOT_GIVEN,
        expressive: NotGivenOr[bool | ExpressiveOptions] = NOT_GIVEN,
        min_consecutive_speech_delay: NotGivenOr[float] = NOT_GIVEN,
        use_tts_aligned_transcript: NotGivenOr[bool] = NOT_GIVEN,
        # deprecated, use turn_handling
        turn_detection: NotGivenOr[TurnDetectionMode | None] = NOT_GIVEN,
        min_endpointing_delay: NotGivenOr[float] = NOT_GIVEN,
        max_endpointing_delay: NotGivenOr[float] = NOT_GIVEN,
        allow_interruptions: NotGivenOr[bool] = NOT_GIVEN,
        mcp_servers: NotGivenOr[list[llm_module.mcp.MCPServer] | None] = NOT_GIVEN,
    ) -> None:
        """Describe the role; nothing runs until a session starts the agent.

        Args:
            instructions: The system prompt; `Instructions` may word it differently for voice and text.
            id: Identifies the agent in handoffs; the class name in snake case by default. A plain
                `Agent` is always "default_agent".
            chat_ctx: The conversation it begins with; copied. Calls of tools it lacks are left out.
            tools: Tools and toolsets besides its `@function_tool` methods.
            stt: Speech to text, or a model string.
            vad: Voice activity detection.
            turn_handling: Laid over the session's, key by key.
            tool_handling: Texts used around tools that outlive their turn; replaces the session's.
            llm: A language model, a realtime or duplex model, or a model string.
            tts: Text to speech, or a model string.
            expressive: Whether, and how, the LLM uses the markup of an expressive voice.
            min_consecutive_speech_delay: Seconds of pause between two speeches.
            use_tts_aligned_transcript: Show the transcript with the timing the TTS reports.
            turn_detection: Deprecated, as the following: use `turn_handling`.
            min_endpointing_delay: Seconds.
            max_endpointing_delay: Seconds.
            allow_interruptions: Whether its speech may be interrupted.
            mcp_servers: Deprecated: pass `llm.mcp.MCPToolset` in `tools`.
        """
        self._id = (
            "default_agent"
            if type(self) is Agent
            else id or camel_to_snake_case(type(self).__name__)
        )
        self._instructions = instructions
        self._tools: list[Tool | Toolset] = [*(tools or []), *find_function_tools(self)]
        given_ctx = chat_ctx if is_given(chat_ctx) and chat_ctx else ChatContext.empty()
        self._chat_ctx = given_ctx.copy(tools=self._tools)
        self._stt = resolve_stt(stt)
        self._vad = vad
        self._llm = resolve_llm(llm)
        self._tts = resolve_tts(tts)
        self._expressive = expressive
        self._turn_handling = agent_turn_handling(
            turn_handling,
            turn_detection=turn_detection,
            min_endpointing_delay=min_endpointing_delay,
            max_endpointing_delay=max_endpointing_delay,
            allow_interruptions=allow_interruptions,
        )
        self._tool_handling = tool_handling
        self._min_consecutive_speech_delay = min_consecutive_speech_delay
        self._use_tts_aligned_transcript = use_tts_aligned_transcript
        if is_given(mcp_servers) and mcp_servers:
            logger.warning(
                "mcp_servers is deprecated, pass llm.mcp.MCPToolset(...) in tools instead"
            )
        self._mcp_servers = None if is_given(mcp_servers) and not mcp_servers else mcp_servers
        self._activity: AgentActivity | None = None

    # -- what was given -------------------------------------------------------------------------

    @property
    def id(self) -> str:
        """Identifies the agent in handoff items; the class name in snake case by default."""
        return self._id

    @property
    def label(self) -> str:
        """The same as `id`."""
        return self._id

    @property
    def instructions(self) -> str | llm_module.Instructions:
        """The system prompt."""
        return self._instructions

    @property
    def tools(self) -> list[Tool | Toolset]:
        """A copy of the list of tools; change it with `update_tools`."""
        return self._tools.copy()

    @property
    def chat_ctx(self) -> ChatContext:
        """A read-only view of this agent's history; change it with `update_chat_ctx`."""
        from ..llm.chat_context import _ReadOnlyChatContext

        return _ReadOnlyChatContext(self._chat_ctx.items)

    @property
    def turn_detection(self) -> NotGivenOr[TurnDetectionMode | None]:
        """How the end of a user turn is found; applied at once when set on a running agent."""
        return self._turn_handling.get("turn_detection", NOT_GIVEN)

    @turn_detection.setter
    def turn_detection(self, value: TurnDetectionMode | None) -> None:
        self._turn_handling["turn_detection"] = value
        if self._activity is not None:
            self._activity.update_options(turn_detection=value)

    @property
    def stt(self) -> NotGivenOr[stt_module.STT[Any] | None]:
        """As given; NOT_GIVEN means the session's."""
        return self._stt

    @property
    def llm(self) -> NotGivenOr[llm_module.LLM[Any] | llm_module.RealtimeModel | None]:
        """As given; NOT_GIVEN means the session's."""
        return self._llm

    @property
    def tts(self) -> NotGivenOr[tts_module.TTS[Any] | None]:
        """As given; NOT_GIVEN means the session's."""
        return self._tts

    @property
    def vad(self) -> NotGivenOr[vad_module.VAD | None]:
        """As given; NOT_GIVEN means the session's."""
        return self._vad

    @property
    def expressive(self) -> NotGivenOr[bool | ExpressiveOptions]:
        """As given; NOT_GIVEN means the session's."""
        return self._expressive

    @property
    def mcp_servers(self) -> NotGivenOr[list[llm_module.mcp.MCPServer] | None]:
        """As given. Deprecated: pass an `MCPToolset` in `tools`."""
        return self._mcp_servers

    @property
    def allow_interruptions(self) -> NotGivenOr[bool]:
        """As given in `turn_handling["interruption"]["enabled"]`."""
        return self._turn_handling.get("interruption", {}).get("enabled", NOT_GIVEN)

    @property
    def interruption_detection(self) -> NotGivenOr[Any]:
        """As given in `turn_handling["interruption"]["mode"]`."""
        return self._turn_handling.get("interruption", {}).get("mode", NOT_GIVEN)

    @property
    def min_endpointing_delay(self) -> NotGivenOr[float]:
        """Seconds, as given in `turn_handling["endpointing"]`."""
        return self._turn_handling.get("endpointing", {}).get("min_delay", NOT_GIVEN)

    @property
    def max_endpointing_delay(self) -> NotGivenOr[float]:
        """Seconds, as given in `turn_handling["endpointing"]`."""
        return self._turn_handling.get("endpointing", {}).get("max_delay", NOT_GIVEN)

    @property
    def min_consecutive_speech_delay(self) -> NotGivenOr[float]:
        """Seconds, as given."""
        return self._min_consecutive_speech_delay

    @property
    def use_tts_aligned_transcript(self) -> NotGivenOr[bool]:
        """As given; NOT_GIVEN means the session's."""
        return self._use_tts_aligned_transcript

    # -- while running --------------------------------------------------------------------------

    def _running_activity(self) -> AgentActivity | None:
        """The present run of this agent, if any; refused to what survived an earlier one."""
        if self._activity is not None:
            self._activity.session._refuse_former_life()
        return self._activity

    def _get_activity_or_raise(self) -> AgentActivity:
        activity = self._running_activity()
        if activity is None:
            raise RuntimeError("no activity context found, the agent is not running")
        return activity

    @property
    def session(self) -> AgentSession[Any]:
        """The session this agent runs in. Raises RuntimeError when it does not run."""
        return self._get_activity_or_raise().session

    @property
    def audio_recognition(self) -> AudioRecognition:
        """How this agent hears. Raises RuntimeError when it does not run."""
        recognition = self._get_activity_or_raise().recognition
        if recognition is None:
            raise RuntimeError("the agent is not listening: its activity has not started yet")
        return recognition

    @property
    def realtime_llm_session(self) -> llm_module.RealtimeSession[Any]:
        """The live session with a realtime model. Raises RuntimeError when there is none."""
        session = self._get_activity_or_raise().realtime_llm_session
        if session is None:
            raise RuntimeError("no realtime LLM session")
        return session

    @property
    def duplex_session(self) -> Any:
        """The live session of a duplex model. Raises RuntimeError when there is none."""
        from ..llm.duplex_adapter import DuplexRealtimeSession

        session = self._get_activity_or_raise().realtime_llm_session
        if not isinstance(session, DuplexRealtimeSession):
            raise RuntimeError("no duplex session: the LLM of this agent is not a DuplexModel")
        return session.duplex_session

    async def update_instructions(self, instructions: str | llm_module.Instructions) -> None:
        """Replace the instructions; on a running agent they count from the next reply on."""
        activity = self._running_activity()
        if activity is None:
            self._instructions = instructions
            return
        await activity.update_instructions(instructions)

    async def update_tools(self, tools: list[Tool | Toolset | Callable[..., Any]]) -> None:
        """Replace the tools. Of two with the same id the last counts.

        Toolsets that are new to a running agent are set up first; those that go may finish the
        calls that run, and are closed with the agent.

        Raises:
            TypeError: For something that is neither a tool nor a toolset.
        """
        from ..llm.tool_context import _resolve_wrapped_tool

        checked: dict[str, Tool | Toolset] = {}
        for tool in tools:
            if not isinstance(tool, (Tool, Toolset)):
                tool = _resolve_wrapped_tool(tool) or tool
            if not isinstance(tool, (Tool, Toolset)):
                raise TypeError(f"Invalid tool type: {type(tool)}. Expected Tool or ToolSet.")
            checked.pop(tool.id, None)
            checked[tool.id] = tool
        activity = self._running_activity()
        if activity is None:
            self._tools = list(checked.values())
            self._chat_ctx = self._chat_ctx.copy(tools=self._tools)
            return
        await activity.update_tools(list(checked.values()))

    async def update_chat_ctx(
        self, chat_ctx: ChatContext, *, exclude_invalid_function_calls: bool = True
    ) -> None:
        """Replace this agent's history by a copy of `chat_ctx`.

        Args:
            exclude_invalid_function_calls: Leave out calls of tools that the agent lacks.
        """
        activity = self._running_activity()
        if activity is None:
            self._chat_ctx = (
                chat_ctx.copy(tools=self._tools)
                if exclude_invalid_function_calls
                else chat_ctx.copy()
            )
            return
        await activity.update_chat_ctx(
            chat_ctx, exclude_invalid_function_calls=exclude_invalid_function_calls
        )

    def update_options(
        self,
        *,
        stt: NotGivenOr[stt_module.STT[Any] | str | None] = NOT_GIVEN,
        vad: NotGivenOr[vad_module.VAD | None] = NOT_GIVEN,
        llm: NotGivenOr[llm_module.LLM[Any] | llm_module.RealtimeModel | str | None] = NOT_GIVEN,
        tts: NotGivenOr[tts_module.TTS[Any] | str | None] = NOT_GIVEN,
        expressive: NotGivenOr[bool | ExpressiveOptions] = NOT_GIVEN,
    ) -> None:
        """Swap models; live, if the agent runs. Nothing is changed if one of them can't be.

        Raises:
            RuntimeError: On a live swap to or from a realtime model.
            ValueError: If a VAD cannot serve the active turn detector.
        """
        new_stt, new_llm, new_tts = resolve_stt(stt), resolve_llm(llm), resolve_tts(tts)
        activity = self._running_activity()
        if activity is not None:
            activity.swap_models(stt=new_stt, vad=vad, llm=new_llm, tts=new_tts)
        if is_given(new_stt):
            self._stt = new_stt
        if is_given(vad):
            self._vad = vad
        if is_given(new_llm):
            self._llm = new_llm
        if is_given(new_tts):
            self._tts = new_tts
        if is_given(expressive):
            self._expressive = expressive

    def _equip_like(self, other: Agent) -> None:
        """Take over another agent's models and turn handling, and its tools besides one's own.

        Before it runs.
        """
        self.update_options(stt=other._stt, vad=other._vad, llm=other._llm, tts=other._tts)
        self._turn_handling = other._turn_handling.copy()
        self._tools = [*other._tools, *self._tools]

    # -- hooks ----------------------------------------------------------------------------------

    async def on_enter(self) -> None:
        """Called when this agent takes over. May speak, use tools and await an `AgentTask`."""

    async def on_exit(self) -> None:
        """Called before this agent hands over or the session closes. May still speak."""

    async def on_user_turn_completed(
        self, turn_ctx: ChatContext, new_message: llm_module.ChatMessage
    ) -> None:
        """Called when the user finished a turn, before the reply is made.

        Changes to `turn_ctx` count for this reply only; changes to `new_message` are kept in the
        history. Raise `StopResponse` to drop the turn.
        """

    async def on_user_turn_exceeded(self, ev: UserTurnExceededEvent) -> None:
        """Called when a user turn passed a `user_turn_limit`. By default the agent cuts in."""
        await self.session.generate_reply(
            user_input=ev.transcript,
            instructions=(
                "The user has been speaking for a long time. Politely cut in: show that you "
                "followed what was said so far, and steer towards what you can help with."
            ),
            allow_interruptions=False,
            tool_choice="none",
        )

    # -- nodes ----------------------------------------------------------------------------------

    def stt_node(
        self, audio: AsyncIterable[rtc.AudioFrame], model_settings: ModelSettings
    ) -> (
        AsyncIterable[stt_module.SpeechEvent | str]
        | Coroutine[Any, Any, AsyncIterable[stt_module.SpeechEvent | str]]
        | Coroutine[Any, Any, None]
    ):
        """Turn the user's audio into speech events. None means this agent does not transcribe."""
        return Agent.default.stt_node(self, audio, model_settings)

    def llm_node(
        self, chat_ctx: ChatContext, tools: list[Tool], model_settings: ModelSettings
    ) -> (
        AsyncIterable[llm_module.ChatChunk | str | FlushSentinel]
        | Coroutine[Any, Any, AsyncIterable[llm_module.ChatChunk | str | FlushSentinel]]
        | Coroutine[Any, Any, str]
        | Coroutine[Any, Any, llm_module.ChatChunk]
        | Coroutine[Any, Any, None]
    ):
        """Produce the reply. `chat_ctx` and `tools` may be changed in place for this turn."""
        return Agent.default.llm_node(self, chat_ctx, tools, model_settings)

    def tts_node(
        self, text: AsyncIterable[str], model_settings: ModelSettings
    ) -> (
        AsyncIterable[rtc.AudioFrame]
        | Coroutine[Any, Any, AsyncIterable[rtc.AudioFrame]]
        | Coroutine[Any, Any, None]
    ):
        """Turn text into audio. None means no audio; the text still counts as said."""
        return Agent.default.tts_node(self, text, model_settings)

    def transcription_node(
        self, text: AsyncIterable[str | TimedString], model_settings: ModelSettings
    ) -> (
        AsyncIterable[str | TimedString]
        | Coroutine[Any, Any, AsyncIterable[str | TimedString]]
        | Coroutine[Any, Any, None]
    ):
        """What this yields is shown to the user and kept in the history."""
        return Agent.default.transcription_node(self, text, model_settings)

    def realtime_audio_output_node(
        self, audio: AsyncIterable[rtc.AudioFrame], model_settings: ModelSettings
    ) -> (
        AsyncIterable[rtc.AudioFrame]
        | Coroutine[Any, Any, AsyncIterable[rtc.AudioFrame]]
        | Coroutine[Any, Any, None]
    ):
        """Change the audio of a realtime model before it is played."""
        return Agent.default.realtime_audio_output_node(self, audio, model_settings)


class AgentTask(Agent, Generic[TaskResult_T]):
    """An agent with an answer: it takes over the conversation until `complete()` is called.

    Await it inside a function tool, `on_enter` or `on_exit`; the awaiting agent resumes when it is
    over. Must be constructed while an event loop runs.
    """

    def __init__(
        self,
        *,
        instructions: str | llm_module.Instructions,
        chat_ctx: NotGivenOr[ChatContext | None] = NOT_GIVEN,
        tools: list[Tool | Toolset] | None = None,
        stt: NotGivenOr[stt_module.STT[Any] | str | None] = NOT_GIVEN,
        vad: NotGivenOr[vad_module.VAD | None] = NOT_GIVEN,
        turn_handling: NotGivenOr[TurnHandlingOptions] = NOT_GIVEN,
        llm: NotGivenOr[llm_module.LLM[Any] | llm_module.RealtimeModel | str | None] = NOT_GIVEN,
        tts: NotGivenOr[tts_module.TTS[Any] | str | None] = NOT_GIVEN,
        preserve_function_call_history: bool = False,
        turn_detection: NotGivenOr[TurnDetectionMode | None] = NOT_GIVEN,
        allow_interruptions: NotGivenOr[bool] = NOT_GIVEN,
        min_endpointing_delay: NotGivenOr[float] = NOT_GIVEN,
        max_endpointing_delay: NotGivenOr[float] = NOT_GIVEN,
        mcp_servers: NotGivenOr[list[llm_module.mcp.MCPServer] | None] = NOT_GIVEN,
    ) -> None:
        """Describe the task; it begins when it is awaited.

        Args:
            preserve_function_call_history: Whether the calls of the task's tools stay in the context
                of the agent that awaited it, and not only what was said.

        The other arguments are those of `Agent`.

        Raises:
            RuntimeError: No event loop runs.
        """
        super().__init__(
            instructions=instructions,
            chat_ctx=chat_ctx,
            tools=tools,
            stt=stt,
            vad=vad,
            turn_handling=turn_handling,
            llm=llm,
            tts=tts,
            turn_detection=turn_detection,
            allow_interruptions=allow_interruptions,
            min_endpointing_delay=min_endpointing_delay,
            max_endpointing_delay=max_endpointing_delay,
            mcp_servers=mcp_servers,
        )
        self._preserve_function_call_history = preserve_function_call_history
        self._fut: asyncio.Future[TaskResult_T] = asyncio.get_running_loop().create_future()
        # nobody has to await a task; a failure that nobody saw is not worth asyncio's complaint
        self._fut.add_done_callback(lambda fut: fut.cancelled() or fut.exception())
        self._awaited = False

    def done(self) -> bool:
        """Whether a result or an error is set."""
        return self._is_done

    @property
    def _is_done(self) -> bool:
        """`done()`, also where a subclass has a tool of that name."""
        return self._fut.done()

    def complete(self, result: TaskResult_T | Exception) -> None:
        """End the task with a result, or with an exception that the awaiting code receives.

        Raises:
            RuntimeError: If the task is done already.
        """
        self._complete(result)

    def _complete(
        self, result: TaskResult_T | Exception, *, is_outcome_of_run: bool = True
    ) -> None:
        """`complete()`, also where a subclass has a tool of that name.

        Args:
            is_outcome_of_run: Whether a `session.run()` may end with it. Not where it only makes
                whoever awaits the task do something else.
        """
        if self._is_done:
            raise RuntimeError(f"{type(self).__name__} is already done")
        if isinstance(result, Exception):
            self._fut.set_exception(result)
        else:
            self._fut.set_result(result)
        handle = current_speech_handle.get()
        if handle is not None and is_outcome_of_run:
            handle._maybe_run_final_output = result

    def cancel(self) -> None:
        """Stop what it says and end the task with a `ToolError`, unless it is done already."""
        self._cancel()

    def _cancel(self) -> None:
        """`cancel()`, also where a subclass has a tool of that name."""
        if self._activity is not None and not self._activity.closed:
            self._activity.interrupt(force=True)
        if not self._is_done:
            self._complete(ToolError(f"AgentTask {self.id} is cancelled"))

    def __await__(self) -> Generator[None, None, TaskResult_T]:
        from .handoff import run_inline

        return run_inline(self).__await__()


def resolve_stt(value: NotGivenOr[stt_module.STT[Any] | str | None]) -> NotGivenOr[Any]:
    """Make an STT of a model string; anything else is passed through."""
    if isinstance(value, str):
        from ..inference import STT

        return _owned(STT.from_model_string(value))
    return value


def resolve_tts(value: NotGivenOr[tts_module.TTS[Any] | str | None]) -> NotGivenOr[Any]:
    """Make a TTS of a model string; anything else is passed through."""
    if isinstance(value, str):
        from ..inference import TTS

        return _owned(TTS.from_model_string(value))
    return value


def resolve_llm(value: Any) -> NotGivenOr[Any]:
    """Make an LLM of a model string, adapt a `DuplexModel`; anything else is passed through."""
    if isinstance(value, str):
        from ..inference import llm_from_model_string

        return _owned(_adapted(llm_from_model_string(value)))
    return _adapted(value)


def _adapted(model: Any) -> Any:
    duplex = sys.modules.get("livekit.agents.llm.duplex")  # loaded by whoever made such a model
    if duplex is not None and isinstance(model, duplex.DuplexModel):
        from ..llm import DuplexRealtimeAdapter

        return DuplexRealtimeAdapter(model)
    return model


def _owned(model: Any) -> Any:
    """Mark a model that the framework made from a string: a close ends it too."""
    model._made_from_string = True
    return model


__all__ = ["Agent", "AgentTask", "ModelSettings", "TaskResult_T"]
