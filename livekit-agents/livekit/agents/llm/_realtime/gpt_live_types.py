"""Shapes of the events of the GPT-Live protocol, as JSON objects."""

from __future__ import annotations

from typing import Any, Literal

JSON = dict[str, Any]

DelegationTarget = Literal["responses", "client"]
InputRole = Literal["system", "user", "assistant"]
ServiceTier = str
ClientEvent = JSON

AudioConfig = JSON
AudioFormat = JSON
AudioOutput = JSON
CommentaryAppendEvent = JSON
ContextWindow = JSON
Delegation = JSON
DelegationInfo = JSON
ErrorBody = JSON
ErrorEvent = JSON
InputAudioAppendEvent = JSON
InputAudioMuteEvent = JSON
InputAudioUnmuteEvent = JSON
InputItem = JSON
InputTextPart = JSON
InstructionsAppendEvent = JSON
OutputAudioDeltaEvent = JSON
OutputItem = JSON
OutputTextPart = JSON
ResponseCreateEvent = JSON
ResponseEventEnvelope = JSON
ResponseItemCreateEvent = JSON
ResponseSnapshot = JSON
ResponseUsage = JSON
ResponsesConfig = JSON
ResponsesEvent = JSON
SessionCloseEvent = JSON
SessionClosedEvent = JSON
SessionConfig = JSON
SessionDelegationCreatedEvent = JSON
SessionResource = JSON
SessionStartEvent = JSON
SessionStartedEvent = JSON
SessionUpdateConfig = JSON
SessionUpdateEvent = JSON
SessionUsageUpdatedEvent = JSON
ThinkingAppendEvent = JSON
TranscriptDeltaEvent = JSON
Usage = JSON
