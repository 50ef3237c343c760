"""Helpers for plugins that handle XML-like markup in text themselves."""

from __future__ import annotations

from collections.abc import Iterable

from ._provider_format._strip import split_tags
from ._provider_format._tags import Tag, rewrite

LEADING_WS = r"(?P<pre>[^\S\r\n]*)"
"""Pattern for the spaces before a tag, to put in front of a pattern that removes it."""


def convert_expression_tags(text: str) -> str:
    """Turn `<expression value="happy"/>` into `[happy]`, the cue that several providers take."""

    def cue(tag: Tag) -> str:
        return f"[{tag.value}]" if tag.value and tag.kind != "close" else ""

    return rewrite(text, ("expression",), cue)


def extract_and_strip(
    text: str, *, xml_tags: Iterable[str], at_line_start: bool = True
) -> tuple[str, list[dict[str, str]]]:
    """Take XML tags out of a text; the words they wrap stay, and no space is doubled.

    Args:
        text: What to clean.
        xml_tags: Names of the tags.
        at_line_start: Whether the text begins a line, so that no space is left before it.

    Returns:
        The clean text, and `{"type": name, "value": first attribute}` of each tag in order.
    """
    return split_tags(text, xml_tags, at_line_start=at_line_start)
