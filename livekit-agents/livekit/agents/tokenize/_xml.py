"""Lets a tokenizer that knows nothing of XML cut text with XML tags in it."""

from __future__ import annotations

import re
from collections.abc import Callable

from ..log import logger
from ._sentences import normalize

_Token = tuple[str, int, int]

_TAG = re.compile(r"<(?P<closing>/?)(?P<name>[A-Za-z]\w*)[^<>]*?(?P<empty>/?)>")
_MAX_PARTIAL_TAG_LEN = 256
_PARTIAL_TAG = re.compile(rf"<(?:/?[A-Za-z][^<>]{{0,{_MAX_PARTIAL_TAG_LEN}}}|/)?\Z")
"""The beginning of a tag at the end of a text. `3 < 5` isn't one, a final `<` may become one."""


class XmlAwareTokenizer:
    """Applies a tokenizer to the text between the tags, and puts the tags back.

    Every token covers its piece of the source completely, tags included: an opening tag belongs to
    the text after it, a closing tag to the text before it. Tokens are joined until every tag
    opened in them is closed.
    """

    def __init__(self, tokenize: Callable[[str], list[str] | list[_Token]]) -> None:
        """Wrap `tokenize`."""
        self._tokenize = tokenize

    def __call__(self, text: str) -> list[_Token]:
        """Return text, start and end of the tokens of `text`; one token if anything goes wrong."""
        if "<" not in text:
            return _with_offsets(self._tokenize(text), text)
        try:
            return self._split(text)
        except Exception:
            logger.exception("could not cut text with XML tags, leaving it whole")
            return [(text, 0, len(text))]

    def _split(self, text: str) -> list[_Token]:
        source = _TaggedText(text)
        tokens: list[_Token] = []
        start = 0
        visible = _with_offsets(self._tokenize(source.visible), source.visible)
        for number, (token, token_start, token_end) in enumerate(visible, start=1):
            is_last = number == len(visible)
            end = len(text) if is_last else source.end_of(token_end)
            if not is_last and _has_open_tag(text[start:end]):
                continue
            is_raw = token == source.visible[token_start:token_end]
            raw = text[start:end]
            tokens.append((raw if is_raw else normalize(raw), start, end))
            start = end
        return tokens or [(text, 0, len(text))]


class _TaggedText:
    """A text and what is visible of it: everything but its tags."""

    def __init__(self, text: str) -> None:
        self._tags = {tag.start(): tag for tag in _TAG.finditer(text)}
        self._positions: list[int] = []
        position = 0
        spans = [tag.span() for tag in self._tags.values()]
        if partial := _PARTIAL_TAG.search(text, spans[-1][1] if spans else 0):
            spans.append(partial.span())
        for start, end in [*spans, (len(text), len(text))]:
            self._positions.extend(range(position, start))
            position = end
        self.visible = "".join([text[index] for index in self._positions])

    def end_of(self, visible_end: int) -> int:
        """Where in the text a token ends whose visible part ends at `visible_end`."""
        position = end = self._positions[visible_end - 1] + 1
        while tag := self._tags.get(position):
            position = tag.end()
            if tag["closing"]:
                end = position
        return end


def _has_open_tag(text: str) -> bool:
    open_tags: list[str] = []
    for tag in _TAG.finditer(text):
        name = tag["name"]
        if not tag["closing"]:
            if not tag["empty"]:
                open_tags.append(name)
        elif name in open_tags:
            # Closes what was opened inside it as well: markup of a model isn't always well formed.
            del open_tags[len(open_tags) - 1 - open_tags[::-1].index(name) :]
    return bool(open_tags)


def _with_offsets(tokens: list[str] | list[_Token], source: str) -> list[_Token]:
    located: list[_Token] = []
    end = 0
    for token in tokens:
        if isinstance(token, str):
            start = max(source.find(token, end), end)
            token = (token, start, min(start + len(token), len(source)))
        located.append(token)
        end = token[2]
    return located
