"""Shapes of the messages of the GPT-Live protocol. All of them are JSON objects."""

from __future__ import annotations

from typing import Any, Literal, TypedDict

JSON = dict[str, Any]

DelegationTarget = Literal["responses", "client"]
"""Who thinks behind the model that speaks: a model of the Responses API, or the client."""
InputRole = Literal["system", "user", "assistant"]
ServiceTier = str


class AudioFormat(TypedDict):
    """How audio is encoded."""

    type: Literal["audio/pcm"]
    rate: int
    """Samples per second; mono, int16."""


class AudioOutput(TypedDict, total=False):
    """How the model speaks."""

    format: AudioFormat
    voice: str


class AudioConfig(TypedDict, total=False):
    """Audio in both directions."""

    input: JSON
    output: AudioOutput


class InputTextPart(TypedDict):
    """Words of the user or the system."""

    type: Literal["input_text"]
    text: str


class OutputTextPart(TypedDict):
    """Words of the assistant."""

    type: Literal["output_text"]
    text: str


class InputItem(TypedDict):
    """A message of the history."""

    type: Literal["message"]
    role: InputRole
    content: list[InputTextPart | OutputTextPart]


class ResponsesConfig(TypedDict, total=False):
    """The model of the Responses API that thinks, and its options."""

    model: str
    instructions: str
    max_output_tokens: int
    parallel_tool_calls: bool
    reasoning: JSON
    text: JSON
    tool_choice: Any
    tools: list[JSON]


class Delegation(TypedDict, total=False):
    """Who thinks, and how."""

    target: DelegationTarget
    responses: ResponsesConfig


class SessionConfig(TypedDict, total=False):
    """All options of a session."""

    model: str
    instructions: str
    input: list[InputItem]
    audio: AudioConfig
    delegation: Delegation


class SessionUpdateConfig(TypedDict, total=False):
    """Options that can change later."""

    delegation: Delegation


# -- what the client sends -------------------------------------------------------------------------


class SessionStartEvent(TypedDict):
    """The first event."""

    type: Literal["session.start"]
    session: SessionConfig


class SessionUpdateEvent(TypedDict):
    """Some options change."""

    type: Literal["session.update"]
    session: SessionUpdateConfig


class InputAudioAppendEvent(TypedDict):
    """What the user says, in base64."""

    type: Literal["session.input_audio.append"]
    audio: str


class InputAudioMuteEvent(TypedDict):
    """Stop listening."""

    type: Literal["session.input_audio.mute"]


class InputAudioUnmuteEvent(TypedDict):
    """Listen again."""

    type: Literal["session.input_audio.unmute"]


class InstructionsAppendEvent(TypedDict):
    """What the model has to do."""

    type: Literal["session.instructions.append"]
    text: str
    delegation_id: str | None


class ThinkingAppendEvent(TypedDict):
    """What the client is thinking of."""

    type: Literal["session.thinking.append"]
    text: str
    delegation_id: str | None


class CommentaryAppendEvent(TypedDict):
    """What the model may say meanwhile."""

    type: Literal["session.commentary.append"]
    text: str
    delegation_id: str | None


class ResponseItemCreateEvent(TypedDict):
    """An item for the model that thinks."""

    type: Literal["response.item.create"]
    item: JSON


class ResponseCreateEvent(TypedDict):
    """The model that thinks is to go on."""

    type: Literal["response.create"]


class SessionCloseEvent(TypedDict):
    """The last event."""

    type: Literal["session.close"]


ClientEvent = (
    SessionStartEvent
    | SessionUpdateEvent
    | InputAudioAppendEvent
    | InputAudioMuteEvent
    | InputAudioUnmuteEvent
    | InstructionsAppendEvent
    | ThinkingAppendEvent
    | CommentaryAppendEvent
    | ResponseItemCreateEvent
    | ResponseCreateEvent
    | SessionCloseEvent
)


# -- what the server sends -------------------------------------------------------------------------


class SessionResource(TypedDict, total=False):
    """A session, as the server knows it."""

    id: str
    model: str


class SessionStartedEvent(TypedDict):
    """The session has begun."""

    type: Literal["session.started"]
    session: SessionResource


class OutputAudioDeltaEvent(TypedDict, total=False):
    """The next piece of output, silence included, in base64."""

    type: Literal["session.output_audio.delta"]
    delta: str
    start_ms: int


class TranscriptDeltaEvent(TypedDict, total=False):
    """Some words of the model or of the user."""

    type: Literal["session.output_transcript.delta", "session.input_transcript.delta"]
    delta: str
    start_ms: int
    end_ms: int


class DelegationInfo(TypedDict, total=False):
    """A request to the client."""

    id: str
    pending_transcript: str


class SessionDelegationCreatedEvent(TypedDict):
    """The client is asked to think."""

    type: Literal["session.delegation.created"]
    delegation: DelegationInfo


class ResponseUsage(TypedDict, total=False):
    """Tokens of a response of the model that thinks."""

    input_tokens: int
    input_tokens_details: JSON
    output_tokens: int
    output_tokens_details: JSON
    total_tokens: int


class OutputItem(TypedDict, total=False):
    """A call, or a message, of the model that thinks."""

    type: str
    id: str
    call_id: str
    name: str
    arguments: str


class ResponseSnapshot(TypedDict, total=False):
    """A response of the model that thinks."""

    id: str
    status: str
    usage: ResponseUsage
    error: JSON


class ResponsesEvent(TypedDict, total=False):
    """An event of the Responses API."""

    type: str
    response: ResponseSnapshot
    item: OutputItem


class ResponseEventEnvelope(TypedDict):
    """An event of the Responses API, passed on."""

    type: Literal["response.event"]
    event: ResponsesEvent


class Usage(TypedDict, total=False):
    """What the session has used so far."""

    duration_seconds: float


class ContextWindow(TypedDict, total=False):
    """How full the model's memory is."""

    used_tokens: int
    max_tokens: int


class SessionUsageUpdatedEvent(TypedDict, total=False):
    """What the session has used so far."""

    type: Literal["session.usage.updated"]
    usage: Usage
    context_window: ContextWindow


class SessionClosedEvent(TypedDict, total=False):
    """The session is over."""

    type: Literal["session.closed"]
    usage: Usage


class ErrorBody(TypedDict, total=False):
    """What went wrong."""

    type: str
    code: str
    message: str
    event_id: str


class ErrorEvent(TypedDict):
    """Something went wrong."""

    type: Literal["error"]
    error: ErrorBody
