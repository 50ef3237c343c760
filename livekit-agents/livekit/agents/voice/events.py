"""What a session tells its listeners: one pydantic model per event.

Every event has `type`, equal to its name, and `created_at` in seconds since the epoch.
"""

from __future__ import annotations

import time
from enum import Enum, unique
from typing import Annotated, Any, Literal

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    SerializeAsAny,
    field_serializer,
    model_validator,
)
from typing_extensions import Self

from ..language import LanguageCode
from ..llm import AgentHandoff, ChatMessage, FunctionCall, FunctionCallOutput
from ..log import logger
from ..metrics import AgentMetrics, AgentSessionUsage
from .closing import CloseReport
from .run_context import RunContext, Userdata_T
from .speech_handle import SpeechHandle

UserState = Literal["speaking", "listening", "away"]
AgentState = Literal["initializing", "idle", "listening", "thinking", "speaking"]

EventTypes = Literal[
    "user_state_changed",
    "agent_state_changed",
    "user_input_transcribed",
    "user_transcription_timeout",
    "conversation_item_added",
    "agent_false_interruption",
    "overlapping_speech",
    "function_tools_executed",
    "metrics_collected",
    "session_usage_updated",
    "speech_created",
    "tool_execution_updated",
    "error",
    "close",
    "debug_message",
]


@unique
class CloseReason(str, Enum):
    """Why a session closed."""

    ERROR = "error"
    JOB_SHUTDOWN = "job_shutdown"
    PARTICIPANT_DISCONNECTED = "participant_disconnected"
    USER_INITIATED = "user_initiated"
    TASK_COMPLETED = "task_completed"


def _created_at() -> Any:
    # looked up at run time, so that a test that sets the clock sets it here too
    return Field(default_factory=lambda: time.time())


class _Event(BaseModel):
    # built when first used: importing this module stays cheap
    model_config = ConfigDict(defer_build=True, arbitrary_types_allowed=True)


class UserStateChangedEvent(_Event):
    """The user began or stopped speaking, went away, or came back."""

    type: Literal["user_state_changed"] = "user_state_changed"
    old_state: UserState
    new_state: UserState
    created_at: float = _created_at()


class AgentStateChangedEvent(_Event):
    """The agent began to listen, think or speak."""

    type: Literal["agent_state_changed"] = "agent_state_changed"
    old_state: AgentState
    new_state: AgentState
    created_at: float = _created_at()


class UserInputTranscribedEvent(_Event):
    """Something the user said was transcribed; interim texts are replaced by a final one."""

    type: Literal["user_input_transcribed"] = "user_input_transcribed"
    transcript: str
    is_final: bool
    item_id: str | None = None
    speaker_id: str | None = None
    language: LanguageCode | None = None
    created_at: float = _created_at()


class UserTranscriptionTimeoutEvent(_Event):
    """The user spoke for `speech_duration` seconds and no transcript came."""

    type: Literal["user_transcription_timeout"] = "user_transcription_timeout"
    speech_duration: float
    vad_speech_started_at: float
    created_at: float = _created_at()


class UserTurnExceededEvent(_Event):
    """The user has spoken longer than `user_turn_limit` allows. Argument of the agent's hook."""

    type: Literal["user_turn_exceeded"] = "user_turn_exceeded"
    transcript: str
    accumulated_transcript: str
    accumulated_word_count: int
    duration: float
    created_at: float = _created_at()


class EotPredictionEvent(_Event):
    """A turn detector said how likely the turn is over. Sent to remote sessions only."""

    type: Literal["eot_prediction"] = "eot_prediction"
    probability: float
    threshold: float
    inference_duration: float
    delay: float
    created_at: float = _created_at()


class AgentFalseInterruptionEvent(_Event):
    """The user seemed to interrupt but said nothing; `resumed`: the agent went on speaking."""

    type: Literal["agent_false_interruption"] = "agent_false_interruption"
    resumed: bool
    created_at: float = _created_at()

    # deprecated fields
    message: ChatMessage | None = None
    extra_instructions: str | None = None

    def __getattribute__(self, name: str) -> Any:
        if name in ("message", "extra_instructions"):
            logger.warning("AgentFalseInterruptionEvent.%s is deprecated and always None", name)
        return super().__getattribute__(name)


class MetricsCollectedEvent(_Event):
    """Deprecated: use `session_usage_updated` and `ChatMessage.metrics`."""

    type: Literal["metrics_collected"] = "metrics_collected"
    metrics: AgentMetrics
    created_at: float = _created_at()


class SessionUsageUpdatedEvent(_Event):
    """What the models have used so far changed."""

    type: Literal["session_usage_updated"] = "session_usage_updated"
    usage: AgentSessionUsage
    created_at: float = _created_at()


class ConversationItemAddedEvent(_Event):
    """A message or a handoff was added to the history."""

    type: Literal["conversation_item_added"] = "conversation_item_added"
    item: Annotated[ChatMessage | AgentHandoff, Field(discriminator="type")]
    created_at: float = _created_at()


class FunctionToolsExecutedEvent(_Event):
    """The tools of one step are done. A handler may still cancel the reply or the handoff."""

    type: Literal["function_tools_executed"] = "function_tools_executed"
    function_calls: list[FunctionCall]
    function_call_outputs: list[FunctionCallOutput]
    created_at: float = _created_at()
    _reply_required: bool = True
    _handoff_required: bool = False

    @model_validator(mode="after")
    def verify_lists_length(self) -> Self:
        """Calls and outputs are parallel. Raises ValueError otherwise."""
        if len(self.function_calls) != len(self.function_call_outputs):
            raise ValueError(
                "function_calls and function_call_outputs must have the same length, got "
                f"{len(self.function_calls)} and {len(self.function_call_outputs)}"
            )
        return self

    def zipped(self) -> list[tuple[FunctionCall, FunctionCallOutput]]:
        """Each call with its output."""
        return list(zip(self.function_calls, self.function_call_outputs, strict=True))

    def cancel_tool_reply(self) -> None:
        """Don't let the agent comment on the results."""
        for output in self.function_call_outputs:
            output.reply_required = False

    def cancel_agent_handoff(self) -> None:
        """Stay with the present agent."""
        self._handoff_required = False

    @property
    def has_tool_reply(self) -> bool:
        """Whether the agent will comment on the results."""
        return any(output.reply_required for output in self.function_call_outputs)

    @property
    def has_agent_handoff(self) -> bool:
        """Whether another agent will take over."""
        return self._handoff_required


class SpeechCreatedEvent(_Event):
    """A speech was requested.

    `user_initiated` is False for what a realtime model began by itself.
    """

    type: Literal["speech_created"] = "speech_created"
    user_initiated: bool
    source: Literal["say", "generate_reply"]
    speech_handle: SpeechHandle = Field(..., exclude=True)
    created_at: float = _created_at()


class ToolCallStarted(_Event):
    """A tool is about to run."""

    type: Literal["tool_call_started"] = "tool_call_started"
    function_call: FunctionCall


class ToolCallUpdated(_Event):
    """A running tool reported progress."""

    type: Literal["tool_call_updated"] = "tool_call_updated"
    id: str
    call_id: str
    message: str
    silent: bool = False


class ToolCallEnded(_Event):
    """A tool has ended; exactly once per started call."""

    type: Literal["tool_call_ended"] = "tool_call_ended"
    id: str
    call_id: str
    message: str | None = None
    status: Literal["done", "error", "cancelled"]


class ToolReplyUpdated(_Event):
    """What became of a deferred reply to results of tools that outlived their turn."""

    type: Literal["tool_reply_updated"] = "tool_reply_updated"
    update_ids: list[str]
    status: Literal["scheduled", "completed", "interrupted", "skipped"]
    speech_id: str


class ToolExecutionUpdatedEvent(_Event):
    """A tool started, progressed or ended, or a reply to it did."""

    type: Literal["tool_execution_updated"] = "tool_execution_updated"
    update: Annotated[
        ToolCallStarted | ToolCallUpdated | ToolCallEnded | ToolReplyUpdated,
        Field(discriminator="type"),
    ]
    created_at: float = _created_at()


class ErrorEvent(_Event):
    """A component failed. `error.recoverable` says whether it is still being retried."""

    type: Literal["error"] = "error"
    error: Any
    source: Any
    created_at: float = _created_at()

    @field_serializer("source")
    def _dump_source(self, source: Any) -> Any:
        if isinstance(source, BaseModel):
            return source.model_dump()
        model, provider = getattr(source, "model", None), getattr(source, "provider", None)
        if isinstance(model, str) and isinstance(provider, str):
            return {"model": model, "provider": provider}
        return repr(source)

    @field_serializer("error")
    def _dump_error(self, error: Any) -> Any:
        return error.model_dump() if isinstance(error, BaseModel) else repr(error)


class CloseEvent(_Event):
    """The session has closed. Emitted exactly once per run, whatever happened."""

    type: Literal["close"] = "close"
    error: SerializeAsAny[BaseModel] | None = None
    """The component error that closed it: an LLM, STT, TTS, realtime or detector error model."""
    reason: CloseReason
    report: CloseReport | None = None
    """What the close did; completed in place until `aclose()` returns."""
    created_at: float = _created_at()


AgentEvent = Annotated[
    UserInputTranscribedEvent
    | UserStateChangedEvent
    | UserTranscriptionTimeoutEvent
    | AgentStateChangedEvent
    | AgentFalseInterruptionEvent
    | MetricsCollectedEvent
    | SessionUsageUpdatedEvent
    | ConversationItemAddedEvent
    | FunctionToolsExecutedEvent
    | SpeechCreatedEvent
    | ToolExecutionUpdatedEvent
    | ErrorEvent
    | CloseEvent,
    Field(discriminator="type"),
]

__all__ = [
    "AgentEvent",
    "AgentFalseInterruptionEvent",
    "AgentState",
    "AgentStateChangedEvent",
    "CloseEvent",
    "CloseReason",
    "ConversationItemAddedEvent",
    "EotPredictionEvent",
    "ErrorEvent",
    "EventTypes",
    "FunctionToolsExecutedEvent",
    "MetricsCollectedEvent",
    "RunContext",
    "SessionUsageUpdatedEvent",
    "SpeechCreatedEvent",
    "ToolCallEnded",
    "ToolCallStarted",
    "ToolCallUpdated",
    "ToolExecutionUpdatedEvent",
    "ToolReplyUpdated",
    "UserInputTranscribedEvent",
    "UserState",
    "UserStateChangedEvent",
    "UserTranscriptionTimeoutEvent",
    "UserTurnExceededEvent",
    "Userdata_T",
]
