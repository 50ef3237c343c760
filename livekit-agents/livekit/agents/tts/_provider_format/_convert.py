"""Lowering the common markup to what each provider understands."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass

from ._dialects import DIALECTS, Dialect
from ._tags import Tag, rewrite

_MARKERS = ("expression", "break", "sound")
"""Types of `expr` that stand alone and never wrap words."""

_LONG_PAUSE = 1.0
_DEFAULT_PAUSE = 0.5
_DURATION = re.compile(r"(\d+(?:\.\d+)?)\s*(ms|s)?", re.IGNORECASE)

_SPACES_AFTER_CUE = re.compile(r"\] {2,}")

_CARTESIA_PROSODY = {
    "slow": '<speed ratio="0.85"/>',
    "fast": '<speed ratio="1.2"/>',
    "soft": '<volume ratio="0.9"/>',
    "loud": '<volume ratio="1.3"/>',
}
_CARTESIA_RESET = {
    "slow": '<speed ratio="1.0"/>',
    "fast": '<speed ratio="1.0"/>',
    "soft": '<volume ratio="1.0"/>',
    "loud": '<volume ratio="1.0"/>',
}


def normalize_markup(provider: str, text: str) -> str:
    """Close the tags that stand alone but were left open, as language models do.

    Safe on pieces of a text: a tag that isn't complete yet is left for the next call.
    """
    dialect = DIALECTS.get(provider)
    if dialect is None or "<" not in text:
        return text
    opened: list[bool] = []  # for each open `expr`: whether its end tag stays

    def close(tag: Tag) -> str:
        if tag.name != "expr":
            return "" if tag.kind == "close" else _self_closed(tag)
        if tag.kind == "close":
            return tag.raw if not opened or opened.pop() else ""
        if tag.kind == "open":
            opened.append(tag.type not in _MARKERS)
            return tag.raw if opened[-1] else _self_closed(tag)
        return tag.raw

    return _keeping_ends(text, ("expr", *dialect.self_closing), close)


def convert_markup(provider: str, text: str) -> str:
    """Rewrite the common markup into a provider's own.

    What the provider can't express vanishes; the words inside stay. Text for an unknown provider
    is returned as it is.
    """
    dialect = DIALECTS.get(provider)
    if dialect is None or "<" not in text:
        return text
    return _Conversion(dialect).run(text)


def _keeping_ends(text: str, names: tuple[str, ...], replace: Callable[[Tag], str]) -> str:
    """Rewrite a piece of a longer text, whose first and last spaces therefore matter."""
    return rewrite(text, names, replace, at_line_start=False, at_text_end=False)


def _self_closed(tag: Tag) -> str:
    return tag.raw if tag.kind == "empty" else f"{tag.raw[:-1].rstrip()}/>"


def _pause_seconds(label: str) -> float:
    found = _DURATION.search(label)
    if found is None:
        return _LONG_PAUSE if "long" in label.lower() else _DEFAULT_PAUSE
    value = float(found[1])
    return value / 1000 if (found[2] or "s").lower() == "ms" else value


@dataclass(frozen=True)
class _Wrapper:
    end: str
    """Text in place of its end tag."""
    upper_case: bool = False


class _Conversion:
    """One text on its way into one dialect."""

    def __init__(self, dialect: Dialect) -> None:
        self._dialect = dialect
        self._open: list[_Wrapper] = []  # innermost last

    def run(self, text: str) -> str:
        """The text in the dialect; what was left open is closed at its end."""
        # The tags of some dialects share their names with the markers, and are meant the same way.
        markers = [name for name in self._dialect.native_tags if name in _MARKERS]
        if self._dialect.key == "cartesia":
            markers = []
        converted = rewrite(
            text,
            ("expr", *markers),
            self._replace,
            transform=self._words,
        )
        closed = converted + "".join(wrapper.end for wrapper in reversed(self._open))
        return _SPACES_AFTER_CUE.sub("] ", closed)

    def _words(self, text: str) -> str:
        shouted = any(wrapper.upper_case for wrapper in self._open)
        return text.upper() if shouted else text

    def _replace(self, tag: Tag) -> str:
        if tag.kind == "close":
            if tag.name != "expr" or not self._open:
                return ""
            return self._open.pop().end
        if tag.type == "expression":
            return self._expression(tag)
        if tag.type == "sound":
            return self._sound(tag.value)
        if tag.type == "break":
            return self._break(tag.value)
        if tag.type == "prosody":
            return self._prosody(tag)
        if tag.type == "spell":
            start, end = ("<spell>", "</spell>") if self._dialect.spells else ("", "")
            return self._wrap(tag, start, end)
        return self._wrap(tag, "", "")

    def _expression(self, tag: Tag) -> str:
        label = tag.value
        if not label or not self._dialect.expressions:
            return ""
        if self._dialect.key == "gemini":
            return tag.raw  # becomes part of the plugin's style instructions
        if self._dialect.key == "cartesia":
            return f'<emotion value="{label}"/>'
        if self._dialect.key == "fishaudio" and not label.lower().startswith("very "):
            return f"[very {label}]"
        return f"[{label}]"

    def _sound(self, label: str) -> str:
        sound = self._dialect.sound(label)
        if sound is None:
            return ""
        return f"<{sound}>" if self._dialect.key == "gemini" else f"[{sound}]"

    def _break(self, label: str) -> str:
        is_long = _pause_seconds(label) >= _LONG_PAUSE
        if self._dialect.key in ("cartesia", "inworld"):
            return f'<break time="{label or "500ms"}"/>'
        if self._dialect.key == "xai":
            return "[long-pause]" if is_long else "[pause]"
        if self._dialect.key == "fishaudio":
            return "[long-break]" if is_long else "[break]"
        if self._dialect.key == "fishaudio_drama":
            return "[pause]" if is_long else "[short pause]"
        return "<short pause>"

    def _prosody(self, tag: Tag) -> str:
        if self._dialect.key == "inworld":
            # It knows no prosody, but takes any description of how to speak.
            return self._wrap(tag, f"[{tag.value}] " if tag.value else "", "", alone=True)
        tone = self._dialect.tone(tag.value)
        if tone is None:
            return self._wrap(tag, "", "")
        if self._dialect.key == "cartesia":
            return self._wrap(tag, _CARTESIA_PROSODY[tone], _CARTESIA_RESET[tone], alone=True)
        if self._dialect.key == "fishaudio":
            return self._wrap(tag, f"[{tone}] ", "", alone=True)
        if self._dialect.key == "gemini":
            if tag.kind == "open":
                self._open.append(_Wrapper("", upper_case=True))
            return ""
        return self._wrap(tag, f"<{tone}>", f"</{tone}>")

    def _wrap(self, tag: Tag, start: str, end: str, *, alone: bool = False) -> str:
        """Open a wrapper. One without words makes sense only to dialects where it stands alone."""
        if tag.kind == "open":
            self._open.append(_Wrapper(end))
            return start
        return start.rstrip() if alone else ""
