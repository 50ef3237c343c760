"""Voice sessions: agents that hear, take turns, reply and hang up. Imported on first use."""

from typing import TYPE_CHECKING

from .._lazy import attach

if TYPE_CHECKING:
    from . import avatar, io, room_io, run_result
    from .agent import Agent, AgentTask, ModelSettings
    from .agent_session import (
        AgentSession,
        ExpressiveOptions,
        NonverbalOptions,
        RecordingOptions,
        SpeechSteeringOptions,
        VoiceActivityVideoSampler,
    )
    from .audio_recognition import AudioRecognition
    from .closing import CloseReport
    from .events import (
        AgentEvent,
        AgentFalseInterruptionEvent,
        AgentStateChangedEvent,
        CloseEvent,
        CloseReason,
        ConversationItemAddedEvent,
        ErrorEvent,
        FunctionToolsExecutedEvent,
        MetricsCollectedEvent,
        RunContext,
        SessionUsageUpdatedEvent,
        SpeechCreatedEvent,
        ToolCallEnded,
        ToolCallStarted,
        ToolCallUpdated,
        ToolExecutionUpdatedEvent,
        ToolReplyUpdated,
        UserInputTranscribedEvent,
        UserStateChangedEvent,
        UserTranscriptionTimeoutEvent,
        UserTurnExceededEvent,
    )
    from .keyterm_detection import KeytermDetectionOptions, KeytermsOptions, STTContextOptions
    from .remote_session import RemoteSession
    from .room_io import (
        _ParticipantAudioOutput,
        _ParticipantStreamTranscriptionOutput,
        _ParticipantTranscriptionOutput,
    )
    from .run_result import RunOutputOptions
    from .speech_handle import SpeechHandle
    from .transcription import TranscriptSynchronizer, text_transforms

__all__ = [
    "_ParticipantAudioOutput",
    "_ParticipantStreamTranscriptionOutput",
    "_ParticipantTranscriptionOutput",
    "Agent",
    "AgentEvent",
    "AgentFalseInterruptionEvent",
    "AgentSession",
    "AgentStateChangedEvent",
    "AgentTask",
    "AudioRecognition",
    "CloseEvent",
    "CloseReason",
    "CloseReport",
    "ConversationItemAddedEvent",
    "ErrorEvent",
    "ExpressiveOptions",
    "FunctionToolsExecutedEvent",
    "KeytermDetectionOptions",
    "KeytermsOptions",
    "MetricsCollectedEvent",
    "ModelSettings",
    "NonverbalOptions",
    "RecordingOptions",
    "RunContext",
    "RemoteSession",
    "RunOutputOptions",
    "STTContextOptions",
    "SessionUsageUpdatedEvent",
    "SpeechCreatedEvent",
    "SpeechHandle",
    "SpeechSteeringOptions",
    "ToolCallEnded",
    "ToolCallStarted",
    "ToolCallUpdated",
    "ToolExecutionUpdatedEvent",
    "ToolReplyUpdated",
    "TranscriptSynchronizer",
    "UserInputTranscribedEvent",
    "UserStateChangedEvent",
    "UserTranscriptionTimeoutEvent",
    "UserTurnExceededEvent",
    "VoiceActivityVideoSampler",
    "avatar",
    "io",
    "room_io",
    "run_result",
    "text_transforms",
]

if not TYPE_CHECKING:  # a type checker shall know the names above and no others
    __getattr__, __dir__ = attach(
        __name__,
        {
            **dict.fromkeys(["Agent", "AgentTask", "ModelSettings"], ".agent"),
            **dict.fromkeys(
                [
                    "AgentSession",
                    "ExpressiveOptions",
                    "NonverbalOptions",
                    "RecordingOptions",
                    "SpeechSteeringOptions",
                    "VoiceActivityVideoSampler",
                ],
                ".agent_session",
            ),
            **dict.fromkeys(
                [
                    "AgentEvent",
                    "AgentFalseInterruptionEvent",
                    "AgentStateChangedEvent",
                    "CloseEvent",
                    "CloseReason",
                    "ConversationItemAddedEvent",
                    "ErrorEvent",
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
                    "UserStateChangedEvent",
                    "UserTranscriptionTimeoutEvent",
                    "UserTurnExceededEvent",
                ],
                ".events",
            ),
            **dict.fromkeys(
                ["KeytermDetectionOptions", "KeytermsOptions", "STTContextOptions"],
                ".keyterm_detection",
            ),
            **dict.fromkeys(
                [
                    "_ParticipantAudioOutput",
                    "_ParticipantStreamTranscriptionOutput",
                    "_ParticipantTranscriptionOutput",
                ],
                ".room_io",
            ),
            "AudioRecognition": ".audio_recognition",
            "CloseReport": ".closing",
            "RemoteSession": ".remote_session",
            "RunOutputOptions": ".run_result",
            "SpeechHandle": ".speech_handle",
            "TranscriptSynchronizer": ".transcription",
            "io": ".io:",
            "avatar": ".avatar:",
            "room_io": ".room_io:",
            "run_result": ".run_result:",
            "text_transforms": ".transcription.text_transforms:",
        },
    )
