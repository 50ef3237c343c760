"""Models that translate speech while it is spoken, and the sessions one has with them."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import AsyncIterable
from dataclasses import dataclass
from types import TracebackType
from typing import TYPE_CHECKING, Any, Generic, Literal, TypeVar

from pydantic import BaseModel, ConfigDict, Field

from ..._emitter import IsolatedEmitter
from ..._model import NamedModel
from ..._streams import qualified_name

if TYPE_CHECKING:
    from livekit import rtc
    from typing_extensions import Self

TEvent = TypeVar("TEvent")

TranslationEventTypes = Literal[
    "input_speech_started",
    "input_speech_stopped",
    "input_transcript",
    "output_transcript",
    "output_speech_stopped",
    "error",
]
"""Events of a `TranslationModelSession`; each comes with the object of the same name."""


@dataclass
class TranslationCapabilities:
    """What a model tells beside the translated audio."""

    input_transcription: bool = False
    """It writes down what was said."""
    output_transcription: bool = False
    """It writes down the translation."""
    turn_reporting: bool = False
    """It tells when the speaker begins and stops."""
    output_segmentation: bool = False
    """It tells when an utterance of the translation is complete. Otherwise a pause ends it."""
    retargetable: bool = False
    """The target language of a running session can be changed."""


@dataclass
class TranslatedAudioFrame:
    """A piece of the translation as it is to be heard."""

    frame: rtc.AudioFrame
    language: str | None = None


@dataclass
class InputSpeechStarted:
    """The speaker began to speak."""


@dataclass
class InputSpeechStopped:
    """The speaker fell silent."""


@dataclass
class InputTranscript:
    """What was said. Interim texts of an utterance replace each other; the final one is whole."""

    text: str
    is_final: bool
    language: str | None = None
    speaker_id: str | None = None


@dataclass
class OutputTranscript:
    """The next piece of the translation. The final piece, which may be empty, ends an utterance."""

    text: str
    is_final: bool
    language: str | None = None


@dataclass
class OutputSpeechStopped:
    """All audio of an utterance of the translation has been given."""


class TranslationModelError(BaseModel):
    """A session has failed; argument of the `"error"` event."""

    model_config = ConfigDict(arbitrary_types_allowed=True)

    type: Literal["translation_model_error"] = "translation_model_error"
    timestamp: float
    label: str
    """Which model."""
    error: Exception = Field(..., exclude=True)
    recoverable: bool
    """True if the session tries again by itself, False if it can't go on."""


class TranslationModel(NamedModel, ABC):
    """A model that translates speech as it is spoken. A plugin overrides `session`."""

    def __init__(
        self,
        *,
        capabilities: TranslationCapabilities,
        target_language: str,
        source_language: str | None = None,
    ) -> None:
        """Name what the model can do, and the languages.

        Args:
            capabilities: What it tells beside the audio.
            target_language: To translate to.
            source_language: To translate from; None: whatever is spoken.

        Raises:
            ValueError: There is no target language.
        """
        self._label = qualified_name(self)
        self._capabilities = capabilities
        self._target_language = check_language(target_language)
        self._source_language = source_language

    @property
    def capabilities(self) -> TranslationCapabilities:
        """What it tells beside the audio."""
        return self._capabilities

    @property
    def target_language(self) -> str:
        """The language it translates to."""
        return self._target_language

    @property
    def source_language(self) -> str | None:
        """The language it translates from; None: whatever is spoken."""
        return self._source_language

    @abstractmethod
    def session(self) -> TranslationModelSession[Any]:
        """Begin to translate; sessions are independent of each other. Does not wait."""

    def update_options(self, *, target_language: str) -> None:
        """Change the language of sessions to come.

        Raises:
            ValueError: The language is empty.
        """
        self._target_language = check_language(target_language)

    async def aclose(self) -> None:
        """Free what the model holds."""

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        exc_tb: TracebackType | None,
    ) -> None:
        await self.aclose()


class TranslationModelSession(
    IsolatedEmitter["TranslationEventTypes | TEvent"], ABC, Generic[TEvent]
):
    """A running translation. Emits `TranslationEventTypes`, and whatever its plugin adds."""

    def __init__(self, translation_model: TranslationModel) -> None:
        """Begin a session with a model."""
        super().__init__()
        self._translation_model = translation_model

    @property
    def translation_model(self) -> TranslationModel:
        """The model."""
        return self._translation_model

    @property
    def capabilities(self) -> TranslationCapabilities:
        """What it tells beside the audio."""
        return self._translation_model.capabilities

    @property
    @abstractmethod
    def audio_stream(self) -> AsyncIterable[TranslatedAudioFrame]:
        """The translation as it is to be heard, of one sample rate. For one reader.

        Ends with the session, and raises what it failed with.
        """

    @abstractmethod
    def push_audio(self, frame: rtc.AudioFrame) -> None:
        """Translate this, too. Any sample rate; does nothing once closed."""

    def clear_audio(self) -> None:
        """Drop what was pushed and is not translated yet: somebody else speaks now."""

    def update_options(self, *, target_language: str) -> None:
        """Change the target language. Only with the capability `retargetable`.

        Raises:
            RuntimeError: The model has not that capability.
        """
        raise RuntimeError(
            f"{self._translation_model.label} can't change the language of a running session"
        )

    @abstractmethod
    async def aclose(self) -> None:
        """End the session; `audio_stream` ends, too. Idempotent."""


def check_language(language: str) -> str:
    """The language, if it is one.

    Raises:
        ValueError: It is empty, or no string.
    """
    if not isinstance(language, str) or not language.strip():
        raise ValueError(f"a target language such as 'de' or 'es-MX' is needed, got {language!r}")
    return language


__all__ = [
    "InputSpeechStarted",
    "InputSpeechStopped",
    "InputTranscript",
    "OutputSpeechStopped",
    "OutputTranscript",
    "TEvent",
    "TranslatedAudioFrame",
    "TranslationCapabilities",
    "TranslationEventTypes",
    "TranslationModel",
    "TranslationModelError",
    "TranslationModelSession",
]
