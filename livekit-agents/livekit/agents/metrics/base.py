"""What the parts of a session measure about themselves, one model per kind of part.

All durations and delays are in seconds, all timestamps are Unix times. Each model is emitted as
the argument of a `"metrics_collected"` event.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, model_validator
from typing_extensions import Self


class _CompactRepr(BaseModel):
    """A model whose `repr` leaves out the fields that hold their default."""

    # built when first used: importing this module stays cheap
    model_config = ConfigDict(defer_build=True)

    def __repr_args__(self) -> Iterable[tuple[str | None, Any]]:
        fields = type(self).model_fields
        for name, value in super().__repr_args__():
            if name not in fields or value != fields[name].get_default(call_default_factory=True):
                yield name, value


class Metadata(_CompactRepr):
    """Which model the numbers are about."""

    model_name: str | None = None
    model_provider: str | None = None


class _BaseMetrics(_CompactRepr):
    metadata: Metadata | None = None


class LLMMetrics(_BaseMetrics):
    """One LLM request."""

    type: Literal["llm_metrics"] = "llm_metrics"
    label: str
    request_id: str
    timestamp: float
    duration: float
    """From sending the request to the end of the response."""
    ttft: float
    """Time to first token; -1 when there was none."""
    cancelled: bool
    completion_tokens: int
    prompt_tokens: int
    prompt_cached_tokens: int
    cache_creation_tokens: int = 0
    reasoning_tokens: int = 0
    """Already contained in `completion_tokens`."""
    total_tokens: int
    tokens_per_second: float
    speech_id: str | None = None


class STTMetrics(_BaseMetrics):
    """Speech recognised: one request, or a stretch of a stream."""

    type: Literal["stt_metrics"] = "stt_metrics"
    label: str
    request_id: str
    timestamp: float
    duration: float
    """Length of the request; 0 for a stream."""
    audio_duration: float
    input_tokens: int = 0
    output_tokens: int = 0
    total_tokens: int = 0
    """The sum of input and output tokens unless given."""
    input_audio_tokens: int = 0
    streamed: bool
    acquire_time: float = 0.0
    """Time it took to get a connection."""
    connection_reused: bool = False
    replayed_audio_duration: float = 0.0
    """Audio sent once more because the connection that took it broke."""
    lost_audio_duration: float = 0.0
    """Audio that was never sent because there was no connection for too long."""

    @model_validator(mode="after")
    def _add_up_tokens(self) -> Self:
        if "total_tokens" not in self.model_fields_set:
            self.total_tokens = self.input_tokens + self.output_tokens
        return self


class TTSMetrics(_BaseMetrics):
    """One text synthesised, or one segment of a stream."""

    type: Literal["tts_metrics"] = "tts_metrics"
    label: str
    request_id: str
    timestamp: float
    ttfb: float
    """Time to first audio; -1 when there was none."""
    duration: float
    audio_duration: float
    cancelled: bool
    characters_count: int
    input_tokens: int = 0
    output_tokens: int = 0
    streamed: bool
    acquire_time: float = 0.0
    """Time it took to get a connection."""
    connection_reused: bool = False
    segment_id: str | None = None
    speech_id: str | None = None


class VADMetrics(_BaseMetrics):
    """A stretch of voice activity detection."""

    type: Literal["vad_metrics"] = "vad_metrics"
    label: str
    timestamp: float
    idle_time: float
    """Time since speech was last heard."""
    inference_duration_total: float
    inference_count: int


class EOUMetrics(_BaseMetrics):
    """How long it took to decide that the user had finished."""

    type: Literal["eou_metrics"] = "eou_metrics"
    timestamp: float
    end_of_utterance_delay: float
    """From the end of speech to the decision that the turn is over."""
    transcription_delay: float
    """From the end of speech to its final transcript."""
    on_user_turn_completed_delay: float
    """Time spent in the agent's `on_user_turn_completed`."""
    speech_id: str | None = None


class EOTInferenceMetrics(_BaseMetrics):
    """End-of-turn predictions by a model."""

    type: Literal["eot_inference_metrics"] = "eot_inference_metrics"
    timestamp: float
    total_duration: float
    """From the request to the prediction, transport included."""
    prediction_duration: float
    """Time the model took."""
    detection_delay: float
    """From the end of speech to the prediction."""
    num_requests: int = 1


class InterruptionMetrics(_BaseMetrics):
    """Predictions whether the user means to interrupt the agent."""

    type: Literal["interruption_metrics"] = "interruption_metrics"
    timestamp: float
    total_duration: float
    """From the request to the prediction, transport included."""
    prediction_duration: float
    """Time the model took."""
    detection_delay: float
    """From the start of the overlapping speech to the prediction."""
    num_interruptions: int
    num_backchannels: int
    num_requests: int


class DecisionMetrics(_BaseMetrics):
    """One decision made by a model on the side, such as whether to answer."""

    type: Literal["decision_metrics"] = "decision_metrics"
    label: str
    request_id: str
    timestamp: float
    duration: float
    input_tokens: int | None = None
    output_tokens: int | None = None


class AvatarMetrics(_BaseMetrics):
    """How an avatar joined and plays."""

    type: Literal["avatar_metrics"] = "avatar_metrics"
    timestamp: float
    playback_latency: float = 0
    session_started_time: float | None = None
    avatar_joined_time: float | None = None


class RealtimeModelMetrics(_BaseMetrics):
    """One response of a realtime (speech-to-speech) model, or its session time."""

    class CachedTokenDetails(BaseModel):
        """Input tokens that the provider had in its cache, by kind."""

        audio_tokens: int = 0
        text_tokens: int = 0
        image_tokens: int = 0

    class InputTokenDetails(BaseModel):
        """Input tokens by kind; `cached_tokens` are contained in the others."""

        audio_tokens: int = 0
        text_tokens: int = 0
        image_tokens: int = 0
        cached_tokens: int = 0
        cached_tokens_details: RealtimeModelMetrics.CachedTokenDetails | None = None

    class OutputTokenDetails(BaseModel):
        """Output tokens by kind."""

        text_tokens: int = 0
        audio_tokens: int = 0
        image_tokens: int = 0

    type: Literal["realtime_model_metrics"] = "realtime_model_metrics"
    label: str = ""
    request_id: str
    timestamp: float
    """When the response was created."""
    duration: float = 0.0
    session_duration: float = 0.0
    """Connection time to bill, for providers that count it."""
    ttft: float = -1
    """Time to first audio; -1 when there was none."""
    cancelled: bool = False
    input_tokens: int = 0
    output_tokens: int = 0
    total_tokens: int = 0
    tokens_per_second: float = 0.0
    input_token_details: InputTokenDetails
    output_token_details: OutputTokenDetails
    acquire_time: float = 0.0
    """Time it took to get a connection."""
    connection_reused: bool = False


AgentMetrics = (
    STTMetrics
    | LLMMetrics
    | TTSMetrics
    | VADMetrics
    | EOUMetrics
    | RealtimeModelMetrics
    | InterruptionMetrics
    | EOTInferenceMetrics
    | DecisionMetrics
    | AvatarMetrics
)
"""Any of the metrics of this module."""
