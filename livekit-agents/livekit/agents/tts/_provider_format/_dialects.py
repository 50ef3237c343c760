"""What each provider's markup can express. Tables only; the wording and the syntax live elsewhere."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ... import tokenize


@dataclass(frozen=True)
class Dialect:
    """The markup of one provider."""

    key: str
    native_tags: tuple[str, ...]
    """Names of its XML tags; all are removed from transcripts."""
    self_closing: tuple[str, ...] = ()
    """Those of them that never wrap words."""
    expressions: bool = True
    """Whether any description of a feeling is understood."""
    sounds: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    """Non-speech sounds by category."""
    sound_aliases: Mapping[str, str] = field(default_factory=dict)
    """Other words for a sound -> the provider's word."""
    any_sound: bool = False
    """Whether sounds outside the list are worth trying, too."""
    prosody: tuple[str, ...] = ()
    """Ways to speak some words."""
    prosody_aliases: Mapping[str, str] = field(default_factory=dict)
    prosody_wraps: bool = True
    """Whether prosody wraps words; otherwise it holds from where it stands."""
    prosody_category: Mapping[str, str] = field(default_factory=dict)
    """Prosody that goes with a category of sounds, and is switched off with it."""
    spells: bool = False
    """Whether words can be spelled out."""
    max_input_len: int | None = None
    """Characters that one request may have."""

    def sound(self, label: str) -> str | None:
        """The provider's word for a sound, or None."""
        label = label.strip().lower()
        label = self.sound_aliases.get(label, label)
        known = any(label in words for words in self.sounds.values())
        return label if known or (self.any_sound and label) else None

    def tone(self, label: str) -> str | None:
        """The provider's word for a kind of prosody, or None."""
        label = label.strip().lower()
        label = self.prosody_aliases.get(label, label)
        return label if label in self.prosody else None


_FISH_SOUNDS = {
    "laughing": ("laughing", "chuckling"),
    "breathing": ("gasping",),
    "sighing": ("sighing",),
    "crying": ("sobbing",),
    "vocalizing": ("groaning",),
    "reflex_sounds": ("clear throat", "yawning"),
}
_FISH_ALIASES = {
    "laugh": "laughing",
    "chuckle": "chuckling",
    "gasp": "gasping",
    "sigh": "sighing",
    "sob": "sobbing",
    "cry": "sobbing",
    "crying": "sobbing",
    "groan": "groaning",
    "yawn": "yawning",
    "clearing throat": "clear throat",
}
_GEMINI_SOUNDS = {
    "laughing": ("laugh", "chuckle", "giggle"),
    "breathing": ("breath", "gasp"),
    "sighing": ("sigh",),
    "crying": ("cry",),
    "vocalizing": ("argh",),
    "reflex_sounds": ("cough",),
}
_XAI_PROSODY = (
    "emphasis",
    "whisper",
    "soft",
    "loud",
    "build-intensity",
    "decrease-intensity",
    "higher-pitch",
    "lower-pitch",
    "slow",
    "fast",
    "sing-song",
    "singing",
    "laugh-speak",
)
_XAI_MOODS = (
    "happy",
    "sad",
    "angry",
    "excited",
    "calm",
    "surprised",
    "sympathetic",
    "curious",
    "sarcastic",
    "confident",
    "playful",
    "nervous",
)

DIALECTS: dict[str, Dialect] = {
    dialect.key: dialect
    for dialect in (
        Dialect(
            key="cartesia",
            native_tags=("emotion", "speed", "volume", "break", "spell"),
            self_closing=("emotion", "speed", "volume", "break"),
            prosody=("slow", "fast", "soft", "loud"),
            prosody_wraps=False,
            spells=True,
            max_input_len=400,
        ),
        Dialect(
            key="inworld",
            native_tags=("expression", "sound", "break"),
            self_closing=("expression", "sound", "break"),
            sounds={
                "laughing": ("laugh",),
                "breathing": ("breathe",),
                "sighing": ("sigh",),
                "reflex_sounds": ("cough", "clear throat", "yawn"),
            },
            any_sound=True,
            max_input_len=900,
        ),
        Dialect(
            key="xai",
            native_tags=(*_XAI_PROSODY, *_XAI_MOODS, "sound", "break"),
            expressions=False,
            sounds={
                "laughing": ("laugh", "chuckle", "giggle"),
                "breathing": ("breath", "inhale", "exhale"),
                "sighing": ("sigh",),
                "crying": ("cry",),
                "vocalizing": ("hum-tune",),
                "mouth_sounds": ("tsk", "tongue-click", "lip-smack"),
            },
            sound_aliases={"breathe": "breath"},
            prosody=_XAI_PROSODY,
            prosody_category={
                "laugh-speak": "laughing",
                "sing-song": "vocalizing",
                "singing": "vocalizing",
            },
            max_input_len=1000,
        ),
        Dialect(
            key="fishaudio",
            native_tags=("expression", "sound", "break", "emphasis"),
            self_closing=("expression", "sound", "break"),
            sounds=_FISH_SOUNDS,
            sound_aliases=_FISH_ALIASES,
            prosody=("emphasis", "whispering", "soft", "shouting", "hurried"),
            prosody_aliases={
                "whisper": "whispering",
                "shout": "shouting",
                "loud": "shouting",
                "fast": "hurried",
            },
        ),
        Dialect(
            key="fishaudio_drama",
            native_tags=(
                "expression",
                "sound",
                "break",
                "whisper",
                "soft",
                "slow",
                "fast",
                "emphasis",
                "stress",
                "forceful",
            ),
            self_closing=("expression", "sound", "break"),
            sounds=_FISH_SOUNDS,
            sound_aliases=_FISH_ALIASES,
            prosody=("whisper", "soft", "slow", "fast", "emphasis"),
            prosody_aliases={"whispering": "whisper", "hurried": "fast"},
        ),
        Dialect(
            key="gemini",
            native_tags=(*(s for words in _GEMINI_SOUNDS.values() for s in words), "short pause"),
            sounds=_GEMINI_SOUNDS,
            sound_aliases={
                "laughs": "laugh",
                "laughing": "laugh",
                "chuckles": "chuckle",
                "chuckling": "chuckle",
                "giggles": "giggle",
                "giggling": "giggle",
                "breathe": "breath",
                "breathing": "breath",
                "gasps": "gasp",
                "gasping": "gasp",
                "sighs": "sigh",
                "sighing": "sigh",
                "cries": "cry",
                "crying": "cry",
                "coughs": "cough",
                "coughing": "cough",
            },
            prosody=("emphasis",),
        ),
    )
}
"""All dialects by key."""


def max_input_len(provider: str) -> int | None:
    """Characters that one request to a provider may have; None when it sets no limit."""
    dialect = DIALECTS.get(provider)
    return dialect.max_input_len if dialect else None


def supported_nonverbals(provider: str) -> dict[str, list[str]]:
    """The sounds a provider can make, by category."""
    dialect = DIALECTS.get(provider)
    return {name: list(words) for name, words in dialect.sounds.items()} if dialect else {}


def sentence_tokenizer(provider: str, *, expressive: bool) -> tokenize.SentenceTokenizer:
    """Make the tokenizer that cuts text for a provider.

    Args:
        provider: Dialect key.
        expressive: The text is marked up: tags are kept whole, and sentences are joined up to the
            provider's limit, so that markup has its context.
    """
    from ... import tokenize

    limit = max_input_len(provider)
    return tokenize.blingfire.SentenceTokenizer(
        max_token_len=limit,
        min_token_len=limit if expressive else None,
        xml_aware=expressive,
    )
