"""Changes to the text that is synthesised. The transcript is never touched by them."""

from __future__ import annotations

import re
from collections.abc import AsyncIterable, AsyncIterator, Callable, Sequence
from typing import Any, Literal

from .filters import filter_emoji, filter_markdown

TextTransforms = (
    Literal["filter_markdown", "filter_emoji"] | Callable[[AsyncIterable[str]], AsyncIterable[str]]
)
"""A built-in filter by name, or a function from a stream of text to another one."""

_BUILT_IN: dict[str, Callable[[AsyncIterable[str]], AsyncIterable[str]]] = {
    "filter_markdown": filter_markdown,
    "filter_emoji": filter_emoji,
}


def apply_text_transforms(
    text: AsyncIterable[str], transforms: Sequence[TextTransforms]
) -> AsyncIterable[str]:
    """Apply transforms from left to right.

    A stream whose first item is not a `str` passes untouched.

    Raises:
        ValueError: For an unknown name, or something that can't be called.
    """
    chain = [_resolve(transform) for transform in transforms]
    return _Transformed(text, chain)


def _resolve(transform: Any) -> Callable[[AsyncIterable[str]], AsyncIterable[str]]:
    if isinstance(transform, str):
        if transform not in _BUILT_IN:
            known = ", ".join(_BUILT_IN)
            raise ValueError(f"unknown text transform {transform!r}; known ones are {known}")
        return _BUILT_IN[transform]
    if not callable(transform):
        raise ValueError(
            f"a text transform is a name or a callable, got a {type(transform).__name__}"
        )
    return transform  # type: ignore[no-any-return]


class _Transformed(AsyncIterable[str]):
    def __init__(self, text: AsyncIterable[str], chain: list[Any]) -> None:
        self._text = text
        self._chain = chain

    async def __aiter__(self) -> AsyncIterator[str]:
        source = self._text.__aiter__()
        try:
            first = await source.__anext__()
        except StopAsyncIteration:
            return
        stream: AsyncIterable[str] = _resumed(first, source)
        if isinstance(first, str):
            for transform in self._chain:
                stream = transform(stream)
        async for chunk in stream:
            yield chunk


async def _resumed(first: str, rest: AsyncIterator[str]) -> AsyncIterator[str]:
    yield first
    async for chunk in rest:
        yield chunk


def replace(
    replacements: dict[str, str], case_sensitive: bool = False
) -> Callable[[AsyncIterable[str]], AsyncIterable[str]]:
    """A transform that replaces literal texts: longest first, in one pass.

    Args:
        replacements: What to replace, by what. Output is never replaced again.
        case_sensitive: Whether the case of the text has to match.
    """
    keys = sorted((key for key in replacements if key), key=len, reverse=True)
    if not keys:
        return lambda text: text
    fold = (lambda text: text) if case_sensitive else str.lower
    values = {fold(key): replacements[key] for key in reversed(keys)}
    flags = 0 if case_sensitive else re.IGNORECASE
    pattern = re.compile("|".join(map(re.escape, keys)), flags)
    prefixes = {fold(key)[:length] for key in keys for length in range(1, len(key))}
    longest = max(map(len, keys))

    def held(text: str) -> int:
        """How many characters at the end may begin a key."""
        for length in range(min(longest - 1, len(text)), 0, -1):
            if fold(text[-length:]) in prefixes:
                return length
        return 0

    async def transform(text: AsyncIterable[str]) -> AsyncIterator[str]:
        pending = ""
        async for chunk in text:
            pending += chunk
            keep = held(pending)
            done, tail = pending[: len(pending) - keep], pending[len(pending) - keep :]
            # a match may reach from what is complete into what is held back
            matches = list(pattern.finditer(pending))
            if matches and matches[-1].end() > len(done) > matches[-1].start():
                start = matches[-1].start()
                done, tail = pending[:start], pending[start:]
            pending = tail
            if done:
                yield pattern.sub(lambda match: values[fold(match.group(0))], done)
        if pending:
            yield pattern.sub(lambda match: values[fold(match.group(0))], pending)

    return transform


__all__ = ["TextTransforms", "apply_text_transforms", "replace"]
