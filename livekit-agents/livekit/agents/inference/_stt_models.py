"""Models that the gateway serves for speech recognition, and their options.

The gateway checks the options; here they are typed for editors.
"""

from __future__ import annotations

from typing import Any, Literal

from typing_extensions import Required, TypedDict

DeepgramModels = Literal[
    "deepgram/nova-3",
    "deepgram/nova-3-medical",
    "deepgram/nova-2",
    "deepgram/nova-2-medical",
    "deepgram/nova-2-conversationalai",
    "deepgram/nova-2-phonecall",
]
DeepgramFluxModels = Literal[
    "deepgram/flux-general", "deepgram/flux-general-en", "deepgram/flux-general-multi"
]
CartesiaModels = Literal["cartesia/ink-whisper", "cartesia/ink-2"]
AssemblyAIModels = Literal[
    "assemblyai/universal-streaming",
    "assemblyai/universal-streaming-multilingual",
    "assemblyai/u3-rt-pro",
    "assemblyai/universal-3-5-pro",
    "assemblyai/universal-3-6-pro",
]
XaiModels = Literal["xai/stt-1"]
SpeechmaticsModels = Literal[
    "speechmatics/enhanced", "speechmatics/standard", "speechmatics/linden-1"
]
InworldModels = Literal["inworld/inworld-stt-1"]
GoogleModels = Literal["google/gemini-3.5-transcribe-live"]
OpenAIModels = Literal["openai/gpt-live-transcribe"]
STTModels = (
    DeepgramModels
    | DeepgramFluxModels
    | CartesiaModels
    | AssemblyAIModels
    | XaiModels
    | SpeechmaticsModels
    | InworldModels
    | GoogleModels
    | OpenAIModels
    | Literal["auto"]
)

STTLanguages = Literal["multi", "en", "de", "es", "fr", "ja", "pt", "zh", "hi"]
STTEncoding = Literal["pcm_s16le"]


class FallbackModel(TypedDict, total=False):
    """A model that the gateway tries when the ones before it fail."""

    model: Required[str]
    extra_kwargs: dict[str, Any]
    """Its options."""


FallbackModelType = FallbackModel | str


class CartesiaOptions(TypedDict, total=False):
    """Options of Cartesia's models. Lengths in the unit that their name says."""

    min_volume: float
    max_silence_duration_secs: float
    turn_start_threshold: float
    turn_eager_end_threshold: float
    turn_end_threshold: float
    turn_end_timeout_ms: int
    keyterm: str | list[str]


class DeepgramOptions(TypedDict, total=False):
    """Options of Deepgram's Nova models. `endpointing` is in milliseconds."""

    filler_words: bool
    interim_results: bool
    endpointing: int
    punctuate: bool
    smart_format: bool
    keywords: list[tuple[str, float]]
    keyterm: str | list[str]
    profanity_filter: bool
    numerals: bool
    mip_opt_out: bool
    vad_events: bool
    diarize: bool
    dictation: bool
    detect_language: bool
    no_delay: bool
    utterance_end: bool
    redact: str | list[str]
    replace: str | list[str]
    search: str | list[str]
    tag: str | list[str]
    channels: int
    version: str
    callback: str
    callback_method: str
    extra: str


class DeepgramFluxOptions(TypedDict, total=False):
    """Options of Deepgram's Flux models, which find the end of a turn themselves."""

    eager_eot_threshold: float
    eot_threshold: float
    eot_timeout_ms: int
    keyterm: str | list[str]
    mip_opt_out: bool
    tag: str | list[str]
    detect_language: bool
    language_hint: str | list[str]


class AssemblyaiOptions(TypedDict, total=False):
    """Options of AssemblyAI's models."""

    format_turns: bool
    end_of_turn_confidence_threshold: float
    min_end_of_turn_silence_when_confident: int
    max_turn_silence: int
    keyterms_prompt: list[str]
    language_detection: bool
    inactivity_timeout: float
    prompt: str
    speaker_labels: bool
    agent_context: str
    previous_context_n_turns: int
    voice_focus: Literal["near-field", "far-field"]
    voice_focus_threshold: float
    mode: Literal["min_latency", "balanced", "max_accuracy"]


class SpeechmaticsOptions(TypedDict, total=False):
    """Options of Speechmatics' models."""

    domain: str
    output_locale: str
    max_delay: float
    max_delay_mode: str
    diarization: str
    max_speakers: int
    speaker_sensitivity: float
    prefer_current_speaker: bool
    end_of_utterance_silence_trigger: float
    enable_partials: bool
    enable_entities: bool
    punctuation_overrides: dict[str, Any]
    audio_filtering_config: dict[str, Any]
    transcript_filtering_config: dict[str, Any]
    additional_vocab: list[dict[str, Any]]


class XaiOptions(TypedDict, total=False):
    """Options of xAI's models. `endpointing` is in milliseconds."""

    diarize: bool
    endpointing: int
    format: bool
    interim_results: bool


class InworldOptions(TypedDict, total=False):
    """Options of Inworld's models."""

    enable_voice_profile: bool
    voice_profile_top_n: int
    include_word_timestamps: bool
    audio_encoding: Literal["LINEAR16", "AUTO_DETECT"]
    inactivity_timeout_seconds: int
    end_of_turn_confidence_threshold: float
    min_end_of_turn_silence_when_confident: int
    prompts: list[str]
    vad_threshold: float


class GoogleOptions(TypedDict, total=False):
    """Options of Google's models."""

    language_codes: list[str]
    custom_vocabulary: list[str]


class OpenAIOptions(TypedDict, total=False):
    """Options of OpenAI's models."""

    languages: list[str]
    prompt: str
    keywords: list[str]
    delay: Literal["minimal", "low", "medium", "high", "xhigh"]
    noise_reduction: Literal["near_field", "far_field"]


# -- what is known about models --------------------------------------------------------------------

DEFAULT_SAMPLE_RATE = 16000
_OPENAI_SAMPLE_RATE = 24000

_CHAT_CONTEXT = frozenset(
    {"assemblyai/u3-rt-pro", "assemblyai/universal-3-5-pro", "assemblyai/universal-3-6-pro"}
)
_WORD_ALIGNED_PROVIDERS = ("deepgram", "assemblyai")
_WORD_ALIGNED = frozenset(
    {"cartesia/ink-whisper", "xai/stt-1", "speechmatics/enhanced", "speechmatics/standard"}
)
_KEYTERM_KEYS = {
    "speechmatics": "additional_vocab",
    "deepgram": "keyterm",
    "assemblyai": "keyterms_prompt",
    "openai": "keywords",
}
_DIARIZATION_KEYS = ("diarize", "speaker_labels", "diarization")


def provider_of(model: str | None) -> str:
    """The part of a model's name before the slash."""
    return (model or "").split("/", 1)[0]


def sample_rate_of(model: str | None) -> int:
    """Sample rate in Hz that a model wants."""
    return _OPENAI_SAMPLE_RATE if provider_of(model) == "openai" else DEFAULT_SAMPLE_RATE


def needs_endpointing(model: str | None) -> bool:
    """Whether a model finds no end of an utterance by itself, so that the client has to."""
    provider = provider_of(model)
    return provider == "openai" or (
        provider == "speechmatics" and model not in ("speechmatics", "speechmatics/linden-1")
    )


def aligns_words(model: str | None) -> bool:
    """Whether transcripts of a model have times for each word."""
    if model in _WORD_ALIGNED:
        return True
    return provider_of(model) in _WORD_ALIGNED_PROVIDERS and "/" in (model or "")


def takes_chat_context(model: str | None) -> bool:
    """Whether a model can be told what the agent said."""
    return model in _CHAT_CONTEXT


def keyterm_key(model: str | None) -> str | None:
    """Name of the option that takes terms to listen for, if the model has one."""
    return _KEYTERM_KEYS.get(provider_of(model)) if model is not None else None


def diarizes(extra: dict[str, Any]) -> bool:
    """Whether options ask for speakers to be told apart."""
    values = (extra.get(key) for key in _DIARIZATION_KEYS)
    return any(
        bool(value) and not (isinstance(value, str) and value.lower() == "none") for value in values
    )


def merge_keyterms(key: str, own: Any, session: list[str]) -> list[Any]:
    """The user's terms, then those of the session that are not among them.

    Args:
        key: The option's name; decides the form of a term.
        own: The user's value of the option, if any.
        session: Terms that the framework expects to hear.
    """
    terms = [] if own is None else [own] if isinstance(own, (str, dict)) else list(own)
    if key == "additional_vocab":
        known = {term.get("content") if isinstance(term, dict) else term for term in terms}
        return terms + [{"content": t} for t in dict.fromkeys(session) if t not in known]
    merged: list[Any] = []
    for term in [*terms, *session]:
        if term not in merged:
            merged.append(term)
    return merged


def split_model(model: str) -> tuple[str, str | None]:
    """Split ``"provider/model:suffix"`` at the last colon."""
    name, colon, suffix = model.rpartition(":")
    return (name, suffix or None) if colon else (model, None)
