"""Comparing chat contexts, taking thoughts out of streamed text, preparing images."""

from __future__ import annotations

import base64
import io
import logging

import PIL.Image
import pytest
from hypothesis import given, settings, strategies as st
from livekit import rtc

from livekit.agents.llm import ChatContext, ChatMessage, FunctionCall, ImageContent
from livekit.agents.llm.utils import (
    ThinkingTokenFilter,
    compute_chat_ctx_diff,
    serialize_image,
    strip_thinking_tokens,
)

# -- differences


def context(*items: str) -> ChatContext:
    """Messages named by their first letter, the rest being their text; "(x)" is a call."""
    return ChatContext(
        [
            FunctionCall(id=item[1], call_id=item, name="f", arguments="{}")
            if item.startswith("(")
            else ChatMessage(id=item[0], role="user", content=[item[1:]])
            for item in items
        ]
    )


def test_differences_between_contexts() -> None:
    ops = compute_chat_ctx_diff(context("a", "b", "c1", "(d)"), context("x", "a", "c2", "y", "(d)"))
    assert ops.to_remove == ["b"]
    assert ops.to_create == [(None, "x"), ("c", "y")]
    assert ops.to_update == [("a", "c")]


def test_an_item_that_moved_is_removed_and_created() -> None:
    ops = compute_chat_ctx_diff(context("a", "b", "c"), context("b", "c", "a"))
    assert (ops.to_remove, ops.to_create, ops.to_update) == (["a"], [("c", "a")], [])


IDS = st.lists(st.sampled_from("abcdefgh"), unique=True)


@given(IDS, IDS)
def test_applying_the_differences_gives_the_new_context(old: list[str], new: list[str]) -> None:
    ops = compute_chat_ctx_diff(context(*old), context(*new))
    result = [item for item in old if item not in ops.to_remove]
    for previous, item in ops.to_create:
        result.insert(0 if previous is None else result.index(previous) + 1, item)
    assert result == new
    assert len(old) - len(ops.to_remove) == _longest_common(old, new)


def _longest_common(old: list[str], new: list[str]) -> int:
    lengths = [[0] * (len(new) + 1) for _ in range(len(old) + 1)]
    for i, a in enumerate(old):
        for j, b in enumerate(new):
            lengths[i + 1][j + 1] = (
                lengths[i][j] + 1 if a == b else max(lengths[i][j + 1], lengths[i + 1][j])
            )
    return lengths[-1][-1]


# -- thoughts


def spoken(chunks: list[str], **tags: str) -> str:
    state = ThinkingTokenFilter(**tags)
    seen = [strip_thinking_tokens(chunk, state) for chunk in chunks]
    seen.append(strip_thinking_tokens(None, state, final=True))
    return "".join(part or "" for part in seen)


@pytest.mark.parametrize(
    ("chunks", "visible"),
    [
        (["Hello"], "Hello"),
        (["<think>hm</think>Hello"], "Hello"),
        (["a<th", "ink>hm", "</thi", "nk>b"], "ab"),
        (["a <", "b"], "a <b"),
        (["a<think", "er>b"], "a<thinker>b"),
        (["a", "<think>never ends"], "a"),
        (["<think>1</think>a<think>2</think>b"], "ab"),
        (["half a tag <thi"], "half a tag <thi"),
        (["</think>x"], "</think>x"),
    ],
)
def test_thoughts_are_taken_out(chunks: list[str], visible: str) -> None:
    assert spoken(chunks) == visible


@settings(deadline=None)
@given(st.lists(st.sampled_from(["<think>", "</think>", "<", "think>", "a", " "])), st.data())
def test_how_text_is_cut_into_chunks_makes_no_difference(
    parts: list[str], data: st.DataObject
) -> None:
    text = "".join(parts)
    cuts = sorted(data.draw(st.lists(st.integers(0, len(text)), max_size=5)))
    chunks = [text[i:j] for i, j in zip([0, *cuts], [*cuts, len(text)], strict=True)]
    assert spoken(chunks) == spoken([text])


def test_nothing_visible_is_none_but_an_empty_chunk_stays_empty() -> None:
    state = ThinkingTokenFilter()
    assert strip_thinking_tokens("<think>", state) is None
    assert strip_thinking_tokens("x", state) is None
    assert strip_thinking_tokens("", state) == ""
    assert strip_thinking_tokens(None, state) is None


def test_other_tags_and_structured_content() -> None:
    assert spoken(["<r>x</r>y"], start_tag="<r>", end_tag="</r>") == "y"
    parts = [{"type": "text", "text": "<think>x</think>a"}, {"type": "text", "text": "b"}, {}]
    assert strip_thinking_tokens(parts, ThinkingTokenFilter()) == "ab"


# -- images

PNG = base64.b64encode(b"png bytes").decode()


def test_links_are_passed_on() -> None:
    image = ImageContent(
        image="https://example.com/x.png", mime_type="image/png", inference_detail="low"
    )
    serialized = serialize_image(image)
    assert serialized.external_url == "https://example.com/x.png"
    assert (serialized.mime_type, serialized.data_bytes) == ("image/png", None)
    assert serialized.inference_detail == "low"


def test_data_urls_are_decoded(caplog: pytest.LogCaptureFixture) -> None:
    url = f"data:image/png;base64,{PNG}"
    serialized = serialize_image(ImageContent(image=url))
    assert (serialized.mime_type, serialized.data_bytes) == ("image/png", b"png bytes")
    assert caplog.records == []
    with caplog.at_level(logging.WARNING):
        assert serialize_image(ImageContent(image=url, mime_type="image/webp")).mime_type == (
            "image/webp"
        )
    assert len(caplog.records) == 1


@pytest.mark.parametrize(
    ("url", "text"),
    [
        ("data:image/tiff;base64,AAAA", "unsupported image type 'image/tiff'"),
        ("data:image/png;base64", "malformed"),
        ("data:image/png;base64,A", "base64"),
    ],
)
def test_bad_data_urls_are_refused(url: str, text: str) -> None:
    with pytest.raises(ValueError, match=text):
        serialize_image(ImageContent(image=url))


def frame(width: int, height: int) -> rtc.VideoFrame:
    return rtc.VideoFrame(
        width, height, rtc.VideoBufferType.RGBA, bytes([200, 10, 10, 255]) * width * height
    )


def test_frames_become_jpegs() -> None:
    image = ImageContent(image=frame(64, 32))
    serialized = serialize_image(image)
    assert serialized.mime_type == "image/jpeg" and serialized.data_bytes is not None
    with PIL.Image.open(io.BytesIO(serialized.data_bytes)) as picture:
        assert (picture.format, picture.size) == ("JPEG", (64, 32))
    assert serialize_image(image) is serialized  # encoded once
    assert serialize_image(image, use_cache=False) is not serialized


def test_frames_are_scaled_to_fit() -> None:
    image = ImageContent(image=frame(64, 32), inference_width=16, inference_height=16)
    data = serialize_image(image).data_bytes
    assert data is not None
    with PIL.Image.open(io.BytesIO(data)) as picture:
        assert picture.size == (16, 8)
