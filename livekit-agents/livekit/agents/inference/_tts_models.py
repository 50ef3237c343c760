"""Models that the gateway serves for speech synthesis, and their options.

The gateway checks the options; here they are typed for editors.
"""

from __future__ import annotations

from typing import Any, Literal

from typing_extensions import NotRequired, TypedDict

CartesiaModels = Literal[
    "cartesia",
    "cartesia/sonic-3.5",
    "cartesia/sonic-3",
    "cartesia/sonic-2",
    "cartesia/sonic-turbo",
    "cartesia/sonic",
    "cartesia/sonic-3-latest",
    "cartesia/sonic-latest",
]
DeepgramModels = Literal["deepgram", "deepgram/aura", "deepgram/aura-2"]
RimeModels = Literal["rime", "rime/coda", "rime/mistv2", "rime/mistv3", "rime/mist"]
InworldModels = Literal[
    "inworld",
    "inworld/inworld-tts-2",
    "inworld/inworld-tts-1.5-max",
    "inworld/inworld-tts-1.5-mini",
    "inworld/inworld-tts-1.5",
    "inworld/inworld-tts-1-max",
    "inworld/inworld-tts-1",
]
XaiModels = Literal["xai/tts-1"]
FishAudioModels = Literal[
    "fishaudio",
    "fishaudio/s2.1-pro",
    "fishaudio/s2.1-pro-free",
    "fishaudio/s2-pro",
    "fishaudio/drama-3",
]
TTSModels = (
    CartesiaModels | DeepgramModels | RimeModels | InworldModels | XaiModels | FishAudioModels
)

TTSEncoding = Literal["pcm_s16le"]


class FallbackModel(TypedDict):
    """A model that the gateway tries when the ones before it fail."""

    model: str
    voice: str
    extra_kwargs: NotRequired[dict[str, Any]]
    """Its options."""


FallbackModelType = FallbackModel | str


class CartesiaOptions(TypedDict, total=False):
    """Options of Cartesia's models."""

    emotion: str
    speed: Literal["slow", "normal", "fast"] | float
    volume: float
    duration: float
    max_buffer_delay_ms: int
    add_timestamps: bool
    add_phoneme_timestamps: bool
    use_normalized_timestamps: bool


class DeepgramOptions(TypedDict, total=False):
    """Options of Deepgram's models."""

    mip_opt_out: bool


class RimeOptions(TypedDict, total=False):
    """Options of Rime's models."""

    speed_alpha: float
    pause_between_brackets: bool
    phonemize_between_brackets: bool
    inline_speed_alpha: str
    no_text_normalization: bool


class InworldOptions(TypedDict, total=False):
    """Options of Inworld's models."""

    speaking_rate: float
    temperature: float
    delivery_mode: Literal["DELIVERY_MODE_UNSPECIFIED", "STABLE", "BALANCED", "CREATIVE"]
    timestamp_type: Literal["TIMESTAMP_TYPE_UNSPECIFIED", "WORD", "CHARACTER"]
    apply_text_normalization: Literal["APPLY_TEXT_NORMALIZATION_UNSPECIFIED", "ON", "OFF"]


class XaiOptions(TypedDict, total=False):
    """Options of xAI's models."""

    bit_rate: Literal[32000, 64000, 96000, 128000, 192000]
    speed: float
    optimize_streaming_latency: Literal[0, 1, 2]


class FishAudioOptions(TypedDict, total=False):
    """Options of Fish Audio's models."""

    speed: float
    volume: float
    temperature: float
    top_p: float
    early_stop_threshold: float
    normalize_loudness: bool
    normalize: bool
    condition_on_previous_chunks: bool
    latency: Literal["normal", "balanced", "low"]
    chunk_length: int
    max_new_tokens: int
    min_chunk_length: int


# -- what is known about models --------------------------------------------------------------------


def aligns_text(provider: str, extra: dict[str, Any]) -> bool:
    """Whether speech comes with the times of its words, with these options."""
    if provider == "cartesia":
        return bool(extra.get("add_timestamps"))
    if provider == "inworld":
        return extra.get("timestamp_type") in ("WORD", "CHARACTER")
    if provider == "assemblyai":
        return extra.get("word_timestamps") is not False
    return False


def markup_key(model: str) -> str:
    """Name of the dialect of expressive markup that a model understands; "" for none."""
    provider = model.split("/", 1)[0]
    if provider == "inworld":
        return provider if "tts-2" in model else ""
    if provider == "fishaudio" and "drama" in model:
        return "fishaudio_drama"
    return provider
