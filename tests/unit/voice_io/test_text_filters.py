"""What is spoken of written text: no marks, no emoji, whatever the chunks."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable

import pytest
from hypothesis import given, settings, strategies as st

from livekit.agents.voice.transcription.filters import filter_emoji, filter_markdown
from livekit.agents.voice.transcription.text_transforms import apply_text_transforms, replace


async def _stream(chunks: list[str]) -> AsyncIterator[str]:
    for chunk in chunks:
        yield chunk


async def filtered(transform: Callable[..., AsyncIterator[str]], chunks: list[str]) -> str:
    return "".join([chunk async for chunk in transform(_stream(chunks))])


@pytest.mark.parametrize(
    ("written", "spoken"),
    [
        ("# Menu\n- soup\n- **bread**\n", "Menu\nsoup\nbread\n"),
        ("> quoted *softly*", "quoted softly"),
        ("see [our page](https://example.org) now", "see our page now"),
        ("![a cat](cat.png) sleeps", "a cat sleeps"),
        ("use `ls -l` here", "use ls -l here"),
        ("~~no~~ yes", " yes"),
        ("above\n---\nbelow", "above\nbelow"),
        ("5 * 3 is 15", "5 * 3 is 15"),
        ("snake_case and __init__ stay", "snake_case and __init__ stay"),
        ("a [lone bracket", "a [lone bracket"),
        ("***both*** and _one_", "both and one"),
    ],
)
async def test_marks_go_and_words_stay(written: str, spoken: str) -> None:
    assert await filtered(filter_markdown, [written]) == spoken
    assert await filtered(filter_markdown, list(written)) == spoken


@settings(max_examples=200)
@given(
    st.lists(
        st.sampled_from(
            ["plain ", "**bold** ", "*it* ", "`code` ", "[a](b) ", "~~x~~ ", "5 * 3 ", "\n", "# h\n",
             "- item\n", "a_b ", ", ", "end. "]
        ),
        max_size=10,
    ),
    st.integers(1, 7),
)  # fmt: skip
async def test_chunks_do_not_change_what_is_spoken(parts: list[str], size: int) -> None:
    text = "".join(parts)
    chunks = [text[i : i + size] for i in range(0, len(text), size)]
    assert await filtered(filter_markdown, chunks) == await filtered(filter_markdown, [text])


async def test_emoji_are_not_spoken() -> None:
    assert await filtered(filter_emoji, ["fine 👍🏽", " 1\ufe0f\u20e3 ☀️ ok"]) == "fine  1  ok"


@given(st.text("abcx ", max_size=30), st.integers(1, 5))
async def test_replacing_does_not_depend_on_chunks(text: str, size: int) -> None:
    transform = replace({"abc": "1", "ab": "2", "cx": "3"})
    chunks = [text[i : i + size] for i in range(0, len(text), size)]
    assert await filtered(transform, chunks) == await filtered(transform, [text])


async def test_the_longest_key_wins_and_output_is_not_replaced_again() -> None:
    assert await filtered(replace({"SQL": "sequel", "s": "z"}), ["sql is"]) == "sequel iz"
    assert await filtered(replace({"a": "b", "b": "c"}, case_sensitive=True), ["aB"]) == "bB"


async def test_transforms_run_from_left_to_right_and_wrong_ones_are_refused() -> None:
    text = apply_text_transforms(
        _stream(["**hi** 👍"]), ["filter_markdown", "filter_emoji", replace({"hi": "hello"})]
    )
    assert "".join([chunk async for chunk in text]) == "hello "
    with pytest.raises(ValueError, match="unknown text transform"):
        apply_text_transforms(_stream([]), ["filter_latex"])  # type: ignore[list-item]
    with pytest.raises(ValueError, match="a name or a callable"):
        apply_text_transforms(_stream([]), [3])  # type: ignore[list-item]
