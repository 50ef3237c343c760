"""What a language model is told about marking up its answers."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from ._dialects import DIALECTS, Dialect

_HEADER = """\
Your answers are spoken aloud. You can shape how they sound with tags that are never read out:
<expr type="..." label="..."/>. Use only the types and labels below, sparingly, and only where a \
person would really speak that way. Never mention the tags."""

_PROSODY_MEANING = {
    "slow": "slower",
    "fast": "faster",
    "hurried": "in a hurry",
    "soft": "softly",
    "loud": "loudly",
    "shouting": "shouting",
    "whisper": "in a whisper",
    "whispering": "in a whisper",
    "emphasis": "with stress on these words",
    "build-intensity": "with growing intensity",
    "decrease-intensity": "with fading intensity",
    "higher-pitch": "in a higher voice",
    "lower-pitch": "in a lower voice",
    "sing-song": "in a sing-song voice",
    "singing": "sung",
    "laugh-speak": "while laughing",
}

_DISFLUENCIES = """\
Speak as people do: an occasional "um", "well" or a restarted phrase is welcome where it fits."""

_PACES = {
    "slow": "Speak slowly: short sentences, and a pause after each thought.",
    "fast": "Speak briskly: keep sentences tight and leave out pauses.",
}


def llm_instructions(provider: str, steering: Mapping[str, Any] | None = None) -> str | None:
    """Text that teaches a language model a provider's markup.

    Args:
        provider: Dialect key.
        steering: `nonverbal_sounds` (False, or a mapping of categories to False) leaves sounds out;
            `disfluencies` set to False leaves out the invitation to hesitate.

    Returns:
        The text, or None for a provider without markup.
    """
    dialect = DIALECTS.get(provider)
    if dialect is None:
        return None
    sections = [_HEADER]
    if dialect.expressions:
        sections.append(_EXPRESSION)
    sections.append(_BREAK)
    sections.extend(_sound_section(dialect, steering))
    sections.extend(_prosody_section(dialect, steering))
    if dialect.spells:
        sections.append(_SPELL)
    if steering is None or steering.get("disfluencies", True):
        sections.append(_DISFLUENCIES)
    return "\n\n".join([*sections, _examples(dialect, steering)])


def steering_instructions(provider: str, steering: Mapping[str, Any] | None) -> str:
    """Guidelines for delivery that differ from the defaults, as a list; "" when none does.

    Args:
        provider: Dialect key.
        steering: `disfluencies` (True by default), `pace` ("slow", "normal" or "fast") and
            `nonverbal_sounds`.
    """
    dialect = DIALECTS.get(provider)
    if dialect is None or not steering:
        return ""
    guidelines = []
    if steering.get("disfluencies", True) is False:
        guidelines.append("Speak fluently: no filler words, no restarts.")
    if (pace := _PACES.get(steering.get("pace", "normal"))) is not None:
        guidelines.append(pace)
    if isinstance(sounds := steering.get("nonverbal_sounds"), Mapping):
        removed = [name for name in dialect.sounds if sounds.get(name, True) is False]
        if removed:
            names = ", ".join(name.replace("_", " ") for name in removed)
            guidelines.append(f"Make no sounds of these kinds: {names}.")
    if not guidelines:
        return ""
    return "\n".join(["Delivery guidelines:", *(f"- {line}" for line in guidelines)])


_EXPRESSION = """\
Feeling: <expr type="expression" label="..."/> before a sentence says how it is spoken. The label \
is a short description of your own, such as "warm", "excited" or "quietly amused"."""

_BREAK = """\
Pause: <expr type="break" label="500ms"/>. The label is a length, in ms or s."""

_SPELL = """\
Spelling: <expr type="spell">AB12</expr> reads the characters one by one: codes, numbers, names."""


def _sound_section(dialect: Dialect, steering: Mapping[str, Any] | None) -> Iterator[str]:
    sounds = _allowed_sounds(dialect, steering)
    if sounds:
        yield f'Sound: <expr type="sound" label="..."/>, where it is made. Labels: {", ".join(sounds)}.'


def _prosody_section(dialect: Dialect, steering: Mapping[str, Any] | None) -> Iterator[str]:
    tones = _allowed_tones(dialect, steering)
    if not tones:
        return
    labels = "; ".join(f"{tone} ({_PROSODY_MEANING.get(tone, tone)})" for tone in tones)
    if dialect.prosody_wraps:
        yield (
            'Delivery: <expr type="prosody" label="...">some words</expr> changes how the words '
            f"inside are spoken. Always close it. Labels: {labels}."
        )
    else:
        yield (
            'Delivery: <expr type="prosody" label="..."/> changes how everything after it is '
            f"spoken. Labels: {labels}."
        )


def _examples(dialect: Dialect, steering: Mapping[str, Any] | None) -> str:
    lines = []
    if dialect.expressions:
        lines.append('<expr type="expression" label="warm"/>Welcome back! How have you been?')
    sounds = _allowed_sounds(dialect, steering)
    if sounds:
        lines.append(f'<expr type="sound" label="{sounds[0]}"/> I did not see that coming.')
    tones = _allowed_tones(dialect, steering)
    if tones and dialect.prosody_wraps:
        lines.append(f'I mean it: <expr type="prosody" label="{tones[0]}">do take care</expr>.')
    elif tones:
        lines.append(f'<expr type="prosody" label="{tones[0]}"/>Let me go through it step by step.')
    lines.append('Let me see. <expr type="break" label="600ms"/> Yes, that works.')
    return "\n".join(["Examples:", *lines])


def _is_allowed(category: str, steering: Mapping[str, Any] | None) -> bool:
    choice = True if steering is None else steering.get("nonverbal_sounds", True)
    if isinstance(choice, Mapping):
        return choice.get(category, True) is not False
    return choice is not False


def _allowed_sounds(dialect: Dialect, steering: Mapping[str, Any] | None) -> list[str]:
    return [
        sound
        for category, sounds in dialect.sounds.items()
        if _is_allowed(category, steering)
        for sound in sounds
    ]


def _allowed_tones(dialect: Dialect, steering: Mapping[str, Any] | None) -> list[str]:
    return [
        tone
        for tone in dialect.prosody
        if tone not in dialect.prosody_category
        or _is_allowed(dialect.prosody_category[tone], steering)
    ]
