"""Finding and replacing markup tags in text, with white space that looks as if nothing was there."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import lru_cache
from typing import Literal

_HORIZONTAL = " \t\u00a0"
_CLOSING_PUNCTUATION = ",.!?;:…"
_ATTRIBUTE = re.compile(r"""([\w-]+)\s*=\s*(?:"([^"]*)"|'([^']*)'|([^\s"'/>]+))""")


@dataclass(frozen=True)
class Tag:
    """A tag as it stands in the text."""

    name: str
    """Lower-case."""
    kind: Literal["open", "close", "empty"]
    attributes: dict[str, str]
    raw: str

    @property
    def type(self) -> str:
        """What it marks: the `type` of an `expr`, the name of any other tag."""
        return self.attributes.get("type", "").lower() if self.name == "expr" else self.name

    @property
    def value(self) -> str:
        """The label of an `expr`; what another tag's first attribute says."""
        if self.name == "expr":
            return self.attributes.get("label", "").strip()
        return next(iter(self.attributes.values()), "").strip()


@lru_cache(maxsize=32)
def tag_pattern(names: tuple[str, ...]) -> re.Pattern[str]:
    """A pattern for complete tags of these names."""
    alternatives = "|".join(re.escape(name) for name in sorted(names, key=len, reverse=True))
    return re.compile(rf"<(/?)({alternatives})((?:\s[^<>]*?)?)\s*(/?)>", re.IGNORECASE)


def parse_tag(match: re.Match[str]) -> Tag:
    """The tag found by a `tag_pattern`."""
    slash, name, attributes, empty = match.groups()
    return Tag(
        name=name.lower(),
        kind="close" if slash else "empty" if empty else "open",
        attributes={
            found[1].lower(): found[2] or found[3] or found[4] or ""
            for found in _ATTRIBUTE.finditer(attributes)
        },
        raw=match[0],
    )


class Writer:
    """Joins text around tags that were removed: no space is doubled, and none is left hanging."""

    def __init__(self, *, at_line_start: bool) -> None:
        self._parts: list[str] = []
        self._at_line_start = at_line_start
        self._in_hole = False  # a tag was removed, and no visible text has followed yet
        self._space = ""  # white space around the hole

    def text(self, text: str) -> None:
        """Add text as it is."""
        if self._in_hole:
            visible = text.lstrip(_HORIZONTAL)
            before, after = self._space, text[: len(text) - len(visible)]
            self._space = before or after
            if not visible:
                return
            hangs = visible[0] in _CLOSING_PUNCTUATION and not after
            if not (self._at_line_start or visible[0] in "\r\n" or hangs):
                self._parts.append(self._space)
            text = visible
            self._in_hole, self._space = False, ""
        if text:
            self._parts.append(text)
            tail = text.rstrip(_HORIZONTAL)
            self._at_line_start = tail.endswith(("\n", "\r")) or (not tail and self._at_line_start)

    def remove(self) -> None:
        """Note that a tag stood here."""
        if self._in_hole:
            return
        self._in_hole = True
        while self._parts:
            last = self._parts.pop()
            kept = last.rstrip(_HORIZONTAL)
            self._space = last[len(kept) :] + self._space
            if kept:
                self._parts.append(kept)
                break

    def result(self, *, at_text_end: bool) -> str:
        """The text, with the space before a removed tag at its end only if more text follows."""
        if not at_text_end and not self._at_line_start:
            self._parts.append(self._space)
        return "".join(self._parts)


def rewrite(
    text: str,
    names: Iterable[str],
    replace: Callable[[Tag], str],
    *,
    transform: Callable[[str], str] = lambda text: text,
    at_line_start: bool = True,
    at_text_end: bool = True,
) -> str:
    """Replace the tags of some names; a replacement "" removes the tag.

    Args:
        text: Where to look.
        names: Names of tags.
        replace: Gives the text in place of a tag.
        transform: Applied to the text between tags, in turn with `replace`.
        at_line_start: Whether the text begins a line: then no space stays before its first word.
        at_text_end: Whether nothing follows: then no space stays before a removed tag at its end.
    """
    writer = Writer(at_line_start=at_line_start)
    position = 0
    for match in tag_pattern(tuple(names)).finditer(text):
        writer.text(transform(text[position : match.start()]))
        replacement = replace(parse_tag(match))
        if replacement:
            writer.text(replacement)
        else:
            writer.remove()
        position = match.end()
    writer.text(transform(text[position:]))
    return writer.result(at_text_end=at_text_end)
