"""Which models and options an activity works with: the agent's where given, else the session's."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, cast

from ..llm import LLM, RealtimeModel
from ..types import NOT_GIVEN, NotGiven, NotGivenOr
from ..utils import is_given
from .hearing.modes import resolve_server_turn_detection, resolve_turn_detection
from .session_options import (
    DEFAULT_EXPRESSIVE_OPTIONS,
    ExpressiveOptions,
    resolve_expressive_options,
)
from .session_start import in_text_simulation
from .turn import (
    EndpointingOptions,
    PreemptiveGenerationOptions,
    TurnDetectionMode,
    _StreamingTurnDetector,
    is_streaming_detector,
    resolve_endpointing,
)

if TYPE_CHECKING:
    from .. import stt as stt_module, tts as tts_module, vad as vad_module
    from .agent import Agent
    from .agent_session import AgentSession
    from .tool_options import ToolHandlingOptions


class ActivityModels:
    """The resolved side of an `AgentActivity`. Models are read at call time: they can be swapped."""

    if TYPE_CHECKING:
        _agent: Agent
        _session: AgentSession[Any]

    def resolve_models(self) -> None:
        """Decide, once per activity, who detects turns.

        Raises:
            ValueError: If a realtime model detects turns on its server while interruptions are
                disallowed.
        """
        self.server_turn_detection: bool = resolve_server_turn_detection(self)
        if self.server_turn_detection and not self.allow_interruptions:
            raise ValueError(
                "the realtime model detects turns on its server, which always lets the user "
                "interrupt: allow interruptions, or set turn_detection to 'vad' or 'manual'"
            )
        self._turn_detection: TurnDetectionMode | None = self.choose_turn_detection()

    def choose_turn_detection(self) -> TurnDetectionMode | None:
        """The turn detection that works with the parts there are now."""
        return resolve_turn_detection(self, text_only=in_text_simulation())

    def _of(self, name: str) -> Any:
        given = getattr(self._agent, name)
        return getattr(self._session, name) if isinstance(given, NotGiven) else given

    @property
    def stt(self) -> stt_module.STT[Any] | None:
        """The STT in use."""
        return cast("stt_module.STT[Any] | None", self._of("_stt"))

    @property
    def llm(self) -> LLM[Any] | RealtimeModel | None:
        """The LLM or realtime model in use."""
        return cast("LLM[Any] | RealtimeModel | None", self._of("_llm"))

    @property
    def tts(self) -> tts_module.TTS[Any] | None:
        """The TTS in use."""
        return cast("tts_module.TTS[Any] | None", self._of("_tts"))

    @property
    def vad(self) -> vad_module.VAD | None:
        """The VAD in use."""
        return cast("vad_module.VAD | None", self._of("_vad"))

    @property
    def using_default_vad(self) -> bool:
        """Whether the VAD is the one a session gets when none is chosen."""
        return self._session._default_vad and isinstance(self._agent._vad, NotGiven)

    @property
    def mcp_servers(self) -> list[Any] | None:
        """MCP servers given the deprecated way."""
        return cast("list[Any] | None", self._of("_mcp_servers"))

    @property
    def tool_handling(self) -> NotGivenOr[ToolHandlingOptions]:
        """The agent's tool handling, else the session's; they are not merged."""
        given = self._agent._tool_handling
        return given if is_given(given) else self._session._tool_handling

    @property
    def turn_detection(self) -> TurnDetectionMode | None:
        """The validated turn detection; None chooses by what is there."""
        return self._turn_detection

    @property
    def explicit_turn_detection(self) -> NotGivenOr[TurnDetectionMode | None]:
        """What the user asked for, on the agent or on the session; NOT_GIVEN if nobody did."""
        if "turn_detection" in self._agent._turn_handling:
            return self._agent._turn_handling["turn_detection"]
        return self._session.options.turn_handling.get("turn_detection", NOT_GIVEN)

    def default_turn_detector(self) -> _StreamingTurnDetector:
        """What finds turns where nobody asked for anything."""
        return self._session._default_turn_detector()

    @property
    def using_default_turn_detector(self) -> bool:
        """Whether turns are found by the detector that a session gets when none is chosen."""
        chosen = self.explicit_turn_detection
        return isinstance(chosen, NotGiven) and is_streaming_detector(self._turn_detection)

    def _interruption(self, key: str, default: Any) -> Any:
        agent = cast("dict[str, Any]", self._agent._turn_handling.get("interruption", {}))
        session = cast("dict[str, Any]", self._session.options.interruption)
        return agent.get(key, session.get(key, default))

    @property
    def allow_interruptions(self) -> bool:
        """Whether speech may be interrupted unless it says otherwise."""
        return bool(self._interruption("enabled", True))

    @property
    def interruption_enabled(self) -> bool:
        """The same as `allow_interruptions`."""
        return self.allow_interruptions

    @property
    def interruption_mode(self) -> NotGivenOr[str]:
        """ "adaptive" or "vad" where the agent or session chose one."""
        return cast("NotGivenOr[str]", self._interruption("mode", NOT_GIVEN))

    @property
    def endpointing_opts(self) -> EndpointingOptions:
        """Endpointing: defaults of the validated mode, then session keys, then agent keys."""
        return resolve_endpointing(
            self._session.options.endpointing_overrides,
            self._agent._turn_handling.get("endpointing", {}),
            streaming=is_streaming_detector(self._turn_detection),
        )

    @property
    def min_endpointing_delay(self) -> float:
        """Seconds to wait when the turn looks complete; never the learned value."""
        return self.endpointing_opts["min_delay"]

    @property
    def max_endpointing_delay(self) -> float:
        """Seconds to wait when a detector doubts that the turn is complete."""
        return self.endpointing_opts["max_delay"]

    @property
    def preemptive_generation_opts(self) -> PreemptiveGenerationOptions:
        """The session's options with the agent's keys laid over them."""
        return cast(
            PreemptiveGenerationOptions,
            {
                **self._session.options.preemptive_generation,
                **self._agent._turn_handling.get("preemptive_generation", {}),
            },
        )

    @property
    def min_consecutive_speech_delay(self) -> float:
        """Seconds of pause between two speeches."""
        given = self._agent._min_consecutive_speech_delay
        return given if is_given(given) else self._session.options.min_consecutive_speech_delay

    @property
    def use_tts_aligned_transcript(self) -> bool:
        """Whether the transcript takes its timing from the TTS."""
        given = self._agent._use_tts_aligned_transcript
        return bool(given if is_given(given) else self._session.options.use_tts_aligned_transcript)

    @property
    def expressive_options(self) -> ExpressiveOptions | None:
        """How to use the markup of an expressive voice; None when expressive speech is off.

        Read anew for every reply, so a change counts from the next one.
        """
        given = self._agent._expressive
        wanted = self._session._expressive if isinstance(given, NotGiven) else given
        if wanted is False or (model := self.tts) is None:
            return None
        provider_key = model.markup._provider_key()
        if not provider_key or not _converts_markup(model):
            return None
        return resolve_expressive_options(
            wanted, provider_key=provider_key, default=DEFAULT_EXPRESSIVE_OPTIONS
        )


def _converts_markup(tts: tts_module.TTS[Any]) -> bool:
    """Whether the framework lowers the common markup to the provider's own on the way to the TTS."""
    from ..tts import StreamAdapter

    if isinstance(tts, StreamAdapter) or not tts.capabilities.streaming:
        return True
    package = f"{__name__.rpartition('.voice.')[0]}.inference"
    return any(base.__module__.startswith(package) for base in type(tts).__mro__)
