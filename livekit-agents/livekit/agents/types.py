"""Small types and protocol constants that every part of the framework shares."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeAlias, TypeVar

if TYPE_CHECKING:
    from pydantic import GetCoreSchemaHandler
    from pydantic_core import CoreSchema

ATTRIBUTE_TRANSCRIPTION_SEGMENT_ID = "lk.segment_id"
"""Text stream attribute: the utterance a piece of transcript belongs to."""
ATTRIBUTE_TRANSCRIPTION_TRACK_ID = "lk.transcribed_track_id"
"""Text stream attribute: the audio track that was transcribed."""
ATTRIBUTE_TRANSCRIPTION_FINAL = "lk.transcription_final"
"""Text stream attribute: ``"true"`` when the transcript will not change any more."""
ATTRIBUTE_TRANSCRIPTION_EXPRESSION = "lk.expression"
"""Text stream attribute: how the segment is spoken."""

ATTRIBUTE_PUBLISH_ON_BEHALF = "lk.publish_on_behalf"
"""Participant attribute: identity of the agent an avatar publishes for."""
ATTRIBUTE_AGENT_STATE = "lk.agent.state"
"""Participant attribute: initializing, idle, listening, thinking or speaking."""
ATTRIBUTE_AGENT_NAME = "lk.agent.name"
"""Participant attribute: the name the agent was dispatched under."""

ATTRIBUTE_SIMULATOR = "lk.simulator"
"""Participant attribute: the participant is a simulated user."""
ATTRIBUTE_SIMULATOR_DISPATCH = "lk.simulator.dispatch"
"""Participant attribute: the dispatch of a simulated user."""
ATTRIBUTE_SIMULATION_ENABLED = "lk.simulation.enabled"
"""Job attribute: the job belongs to a simulation."""
ATTRIBUTE_SIMULATION_RUN_ID = "lk.simulation.run_id"
"""Job attribute: the simulation run."""
ATTRIBUTE_SIMULATION_JOB_ID = "lk.simulation.job_id"
"""Job attribute: the job inside the simulation run."""

ATTRIBUTE_REDACTION_ENABLED = "lk.redaction.enabled"
"""Attribute: personal data is to be removed from what is recorded."""

TOPIC_CHAT = "lk.chat"
"""Text stream topic of typed chat messages."""
TOPIC_TRANSCRIPTION = "lk.transcription"
"""Text stream topic of transcripts."""

CLIENT_PROTOCOL_TRANSCRIPTION_STREAMS = 3
"""First client protocol version that understands transcripts sent as text streams."""

USERDATA_TIMED_TRANSCRIPT = "lk.timed_transcripts"
"""Key in `rtc.AudioFrame.userdata`: list of `TimedString` spoken in the frame."""
USERDATA_TTS_STARTED_TIME = "lk.tts_started_time"
"""Key in `rtc.AudioFrame.userdata`: epoch seconds at which the synthesis was requested."""


def recording_enabled(options: Mapping[str, Any]) -> bool:
    """Whether anything is recorded: ``audio``, ``traces``, ``logs`` or ``transcript`` is truthy."""
    return any(options.get(key) for key in ("audio", "traces", "logs", "transcript"))


class FlushSentinel:
    """Marks, between pieces of text, a place where what came before is to be spoken at once."""


class NotGiven:
    """Type of `NOT_GIVEN`, the marker of an argument that was left out.

    It differs from ``None``, which many arguments accept as a value. Every instance means the
    same: test with `livekit.agents.utils.is_given`, not with ``is``.
    """

    __slots__ = ()

    def __bool__(self) -> bool:
        return False

    def __repr__(self) -> str:
        return "NOT_GIVEN"

    @classmethod
    def __get_pydantic_core_schema__(
        cls, source: type[Any], handler: GetCoreSchemaHandler
    ) -> CoreSchema:
        from pydantic_core import core_schema

        return core_schema.is_instance_schema(cls)


NOT_GIVEN = NotGiven()
"""Default of arguments for which ``None`` is a meaningful value."""

_T = TypeVar("_T")

NotGivenOr: TypeAlias = _T | NotGiven
"""``NotGivenOr[T]``: a ``T``, or `NOT_GIVEN`."""


@dataclass(frozen=True)
class APIConnectOptions:
    """How patiently a provider is called.

    Raises:
        ValueError: a field is negative.
    """

    max_retry: int = 3
    """Attempts after the first one; 0 disables retries."""

    retry_interval: float = 2.0
    """Seconds between attempts."""

    timeout: float = 10.0
    """Seconds for one attempt to connect or answer. Advice to the provider's client: the base
    classes do not impose it."""

    def __post_init__(self) -> None:
        for name in ("max_retry", "retry_interval", "timeout"):
            value = getattr(self, name)
            if value < 0:
                raise ValueError(f"{name} must be greater than or equal to 0, got {value!r}")

    def _interval_for_retry(self, num_retries: int) -> float:
        """Seconds to wait before retry number ``num_retries`` (0 is the first, nearly at once)."""
        return 0.1 if num_retries == 0 else self.retry_interval


DEFAULT_API_CONNECT_OPTIONS = APIConnectOptions()
"""Three retries, 2 s apart, 10 s each."""


class TimedString(str):
    """A piece of text with the time at which it was or will be spoken.

    String operations return plain ``str``: the extra attributes stay with this object.

    Attributes:
        start_time: seconds, when the first sound is spoken.
        end_time: seconds, when the last sound ends.
        confidence: 0 to 1.
        start_time_offset: seconds to add to get from stream time to session time.
        speaker_id: who speaks, when the provider tells speakers apart.
    """

    start_time: NotGivenOr[float]
    end_time: NotGivenOr[float]
    confidence: NotGivenOr[float]
    start_time_offset: NotGivenOr[float]
    speaker_id: str | None

    def __new__(
        cls,
        text: str,
        start_time: NotGivenOr[float] = NOT_GIVEN,
        end_time: NotGivenOr[float] = NOT_GIVEN,
        confidence: NotGivenOr[float] = NOT_GIVEN,
        start_time_offset: NotGivenOr[float] = NOT_GIVEN,
        speaker_id: str | None = None,
    ) -> TimedString:
        self = super().__new__(cls, text)
        self.start_time = start_time
        self.end_time = end_time
        self.confidence = confidence
        self.start_time_offset = start_time_offset
        self.speaker_id = speaker_id
        return self
