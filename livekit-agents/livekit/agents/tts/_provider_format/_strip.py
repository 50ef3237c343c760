"""Removing markup from what people read, and keeping what it said."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Sequence

from ...types import ATTRIBUTE_TRANSCRIPTION_EXPRESSION, TimedString
from .._mood import match_mood
from ._dialects import DIALECTS
from ._tags import Tag, rewrite, tag_pattern

_EXPR_NAMES = ("expr",)
_ALL_NAMES = ("expr", *sorted({n for dialect in DIALECTS.values() for n in dialect.native_tags}))

_MAX_HELD = 256
"""Characters after which something that looked like markup is taken for text."""

_CUT_OFF_EXPR = re.compile(r"[ \t]*<expr\b[^<>]*$", re.IGNORECASE)
_PARTIAL_TAG = re.compile(r"<(?:/?[A-Za-z][^<>]*|/)?$")


def split_all_markup(
    text: str, *, at_line_start: bool = True, at_text_end: bool = True
) -> tuple[str, list[dict[str, str]]]:
    """Take the tags of every dialect out of a text. Wrapped words stay; brackets aren't touched.

    Args:
        text: What to clean.
        at_line_start: Whether the text begins a line, so that no space is left before it.
        at_text_end: Whether nothing follows, so that no space is left after it.

    Returns:
        The clean text, and `{"type": ..., "value": ...}` of each tag in order.
    """
    return _split(text, _ALL_NAMES, at_line_start=at_line_start, at_text_end=at_text_end)


def strip_all_markup(text: str, *, at_line_start: bool = True, at_text_end: bool = True) -> str:
    """The clean text of `split_all_markup`."""
    return split_all_markup(text, at_line_start=at_line_start, at_text_end=at_text_end)[0]


def split_expr_markup(
    text: str, *, at_line_start: bool = True, at_text_end: bool = True
) -> tuple[str, list[dict[str, str]]]:
    """As `split_all_markup`, for `expr` tags only. One cut off at the end goes, too."""
    if at_text_end:
        text = _CUT_OFF_EXPR.sub("", text)
    return _split(text, _EXPR_NAMES, at_line_start=at_line_start, at_text_end=at_text_end)


def strip_expr_markup(text: str, *, at_line_start: bool = True, at_text_end: bool = True) -> str:
    """The clean text of `split_expr_markup`."""
    return split_expr_markup(text, at_line_start=at_line_start, at_text_end=at_text_end)[0]


def split_tags(
    text: str, names: Iterable[str], *, at_line_start: bool = True
) -> tuple[str, list[dict[str, str]]]:
    """As `split_all_markup`, for tags of the given names."""
    return _split(text, tuple(names), at_line_start=at_line_start, at_text_end=True)


def _split(
    text: str, names: tuple[str, ...], *, at_line_start: bool, at_text_end: bool
) -> tuple[str, list[dict[str, str]]]:
    tags: list[dict[str, str]] = []
    if "<" not in text:
        return text, tags

    def note(tag: Tag) -> str:
        if tag.kind != "close":
            tags.append({"type": tag.type, "value": tag.value})
        return ""

    clean = rewrite(text, names, note, at_line_start=at_line_start, at_text_end=at_text_end)
    return clean, tags


def expression_attribute(tags: Iterable[dict[str, str]]) -> dict[str, str] | None:
    """The attribute that tells a client how a transcript was meant, from the tags found in it.

    Returns:
        `{"lk.expression": json}` with `expression` (the first one, in the model's words) and `mood`
        (a word out of a fixed list), or None without an expression.
    """
    for tag in tags:
        if tag["type"] in ("expression", "emotion") and tag["value"]:
            value = {"expression": tag["value"], "mood": match_mood(tag["value"])}
            return {
                ATTRIBUTE_TRANSCRIPTION_EXPRESSION: json.dumps(
                    value, separators=(",", ":"), ensure_ascii=False
                )
            }
    return None


class TranscriptMarkupStripper:
    """Removes the markup of every dialect from a text that arrives in pieces."""

    def __init__(self) -> None:
        self._held = ""
        self._at_line_start = True
        self._tags: list[dict[str, str]] = []

    @property
    def tags(self) -> list[dict[str, str]]:
        """The tags removed so far, as `{"type": ..., "value": ...}`."""
        return self._tags

    def push(self, chunk: str) -> str:
        """Add a piece of text; returns what is clean and complete.

        What may be the beginning of a tag, and spaces and tags at the end, wait for more text.
        """
        text = self._held + chunk
        if "<" not in text and text[-1:] not in ("", " ", "\t"):
            self._held = ""
            return self._passed(text)
        cut = _visible_end(text)
        self._held = text[cut:]
        return self._clean(text[:cut], at_text_end=False) if cut else ""

    def flush(self) -> str:
        """Return what still waited, and begin a new text. The tags are kept."""
        text, self._held = self._held, ""
        clean = self._clean(text, at_text_end=True)
        self._at_line_start = True
        return clean

    def expression_attribute(self) -> dict[str, str] | None:
        """`expression_attribute` of the tags removed so far."""
        return expression_attribute(self._tags)

    def _clean(self, text: str, *, at_text_end: bool) -> str:
        clean, tags = split_all_markup(
            text, at_line_start=self._at_line_start, at_text_end=at_text_end
        )
        self._tags.extend(tags)
        return self._passed(clean)

    def _passed(self, text: str) -> str:
        if text:
            self._at_line_start = text.endswith(("\n", "\r"))
        return text


def _visible_end(text: str) -> int:
    """Where the trailing spaces, tags, and beginnings of a tag start."""
    partial = _PARTIAL_TAG.search(text)
    end = len(text)
    if partial is not None and end - partial.start() <= _MAX_HELD:
        end = partial.start()
    tags = list(tag_pattern(_ALL_NAMES).finditer(text, 0, end))
    while True:
        visible = len(text[:end].rstrip(" \t"))
        if tags and tags[-1].end() == visible:
            end = tags.pop().start()
        else:
            return visible


def drop_bracket_cues(
    tokens: Sequence[TimedString], held: list[TimedString], *, final: bool = False
) -> list[TimedString]:
    """Remove `[…]` cues from timed words; their neighbours keep their times.

    Args:
        tokens: The next words, or characters.
        held: Empty at first; keeps the tokens of a cue that isn't complete between calls. After
            256 characters it is taken for text and released.
        final: Whether nothing follows: what is held is released.

    Returns:
        The words to show.
    """
    shown: list[TimedString] = []
    for token in tokens:
        if held:
            held.append(token)
        elif "[" in token:
            start = token.index("[")
            _show(_retimed(token, token[:start]), shown)
            held.append(_retimed(token, token[start:]))
        else:
            _show(token, shown)
        while held and "]" in held[-1]:
            last = held[-1]
            rest = last[last.index("]") + 1 :]
            held.clear()
            start = rest.find("[")
            _show(_retimed(last, rest if start < 0 else rest[:start]), shown)
            if start >= 0:
                held.append(_retimed(last, rest[start:]))
        if sum(map(len, held)) > _MAX_HELD:
            shown.extend(held)
            held.clear()
    if final:
        shown.extend(held)
        held.clear()
    return shown


def _show(token: TimedString, shown: list[TimedString]) -> None:
    """Add a word, without a second space where a cue stood in between."""
    if shown and shown[-1].endswith(" ") and token.startswith(" "):
        token = _retimed(token, token.lstrip(" "))
    if token:
        shown.append(token)


def _retimed(token: TimedString, text: str) -> TimedString:
    return TimedString(
        text,
        start_time=token.start_time,
        end_time=token.end_time,
        confidence=token.confidence,
        start_time_offset=token.start_time_offset,
        speaker_id=token.speaker_id,
    )
