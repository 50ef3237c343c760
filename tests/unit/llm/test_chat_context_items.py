"""Chat items by themselves, as dicts, and as protobuf messages."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given, settings
from livekit import rtc
from pydantic import ValidationError

from fakes import chat
from fakes.chat import PIXEL, call, context, message, output
from livekit.agents.llm.chat_context import (
    AgentConfigUpdate,
    AgentHandoff,
    AudioContent,
    CacheBreakpoint,
    ChatContext,
    ChatItem,
    ChatMessage,
    ImageContent,
)

EVERYTHING = {"exclude_image": False, "exclude_audio": False, "exclude_timestamp": False}


def test_text_content_joins_texts_only() -> None:
    said = message("user", "a", ImageContent(image=PIXEL), CacheBreakpoint(), "b")
    assert said.raw_text_content == said.text_content == "a\nb"
    assert message("user", ImageContent(image=PIXEL)).text_content is None
    assert message("user", "").text_content == ""


def test_a_bare_text_is_not_a_list_of_parts() -> None:
    with pytest.raises(ValidationError):
        ChatMessage.model_validate({"role": "user", "content": "hello"})


@pytest.mark.parametrize("part", [{"anything": 1}, {"type": "cache_breakpoint", "x": 1}])
def test_a_dict_without_its_fields_is_no_content(part: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        ChatMessage.model_validate({"role": "user", "content": [part]})


def test_an_image_stays_equal_when_it_has_been_encoded() -> None:
    image = ImageContent(image=PIXEL)
    restored = ImageContent.model_validate(image.model_dump())
    image._cache["encoded"] = b"..."
    assert image == restored
    assert image != ImageContent(image=PIXEL), "another id is another image"
    assert image != PIXEL


def test_images_of_equal_pixels_are_equal() -> None:
    def picture(value: int) -> ImageContent:
        frame = rtc.VideoFrame(1, 1, rtc.VideoBufferType.RGBA, bytes([value] * 4))
        return ImageContent(id="i", image=frame)

    assert picture(1) == picture(1)
    assert picture(1) != picture(2)
    assert picture(1) != ImageContent(id="i", image=PIXEL)


@pytest.mark.parametrize(
    ("a", "b"),
    [
        (message("user", "a"), message("user", "b")),
        (message("user", "a"), message("assistant", "a")),
        (message("user", "a"), message("user", "a", interrupted=True)),
        (
            message("user", ImageContent(id="i", image="x")),
            message("user", ImageContent(id="i", image="y")),
        ),
        (
            message("user", AudioContent(frame=[])),
            message("user", AudioContent(frame=[], transcript="x")),
        ),
        (message("user", CacheBreakpoint()), message("user")),
        (call("c"), call("c", arguments="[]")),
        (call("c"), output("c")),
        (output("c"), output("c", is_error=True)),
    ],
)
def test_a_fingerprint_tells_apart_what_matters(a: ChatItem, b: ChatItem) -> None:
    assert len(a._fingerprint()) == 8
    assert a._fingerprint() != b._fingerprint()


@given(chat.items)
def test_a_fingerprint_ignores_time(item: ChatItem) -> None:
    assert item._fingerprint() == chat.timeless(item)._fingerprint()


def test_a_fingerprint_does_not_read_media() -> None:
    frame = rtc.VideoFrame(1, 1, rtc.VideoBufferType.RGBA, bytearray(4))
    seen = message("user", ImageContent(image=frame))
    before = seen._fingerprint()
    frame.data[0] = 7
    assert seen._fingerprint() == before


class TestDict:
    def test_shapes(self) -> None:
        ctx = context(
            message("user", "a", id="m", transcript_confidence=0.5, created_at=1),
            call("c", id="f", arguments='{"x": 1}', created_at=2),
            output("c", "done", id="o", created_at=3),
            AgentHandoff(id="h", new_agent_id="b", created_at=4),
            AgentConfigUpdate(id="u", tools_added=["f"], created_at=5),
        )
        assert ctx.to_dict()["items"] == [
            {
                "id": "m",
                "type": "message",
                "role": "user",
                "content": ["a"],
                "interrupted": False,
                "transcript_confidence": 0.5,
                "extra": {},
                "metrics": {},
            },
            {
                "id": "f",
                "type": "function_call",
                "call_id": "c",
                "arguments": '{"x": 1}',
                "name": "look_up",
                "extra": {},
            },
            {
                "id": "o",
                "type": "function_call_output",
                "name": "look_up",
                "call_id": "c",
                "output": "done",
                "is_error": False,
                "reply_required": True,
            },
            {"id": "h", "type": "agent_handoff", "new_agent_id": "b"},
            {"id": "u", "type": "agent_config_update", "tools_added": ["f"]},
        ]

    def test_media_shapes(self) -> None:
        picture = rtc.VideoFrame(1, 1, rtc.VideoBufferType.RGBA, b"\x01\x02\x03\x04")
        sound = rtc.AudioFrame(b"\x01\x00", 16000, 1, 1)
        ctx = context(
            message(
                "user",
                ImageContent(id="i", image=picture, inference_width=4),
                AudioContent(frame=[sound]),
                CacheBreakpoint(),
            )
        )
        content = ctx.to_dict(exclude_image=False, exclude_audio=False)["items"][0]["content"]
        assert content == [
            {
                "id": "i",
                "type": "image_content",
                "image": {"width": 1, "height": 1, "type": "RGBA", "data": "AQIDBA=="},
                "inference_width": 4,
                "inference_detail": "auto",
            },
            {
                "type": "audio_content",
                "frame": [
                    {
                        "data": "AQA=",
                        "sample_rate": 16000,
                        "num_channels": 1,
                        "samples_per_channel": 1,
                    }
                ],
            },
            {"type": "cache_breakpoint"},
        ]

    def test_leaves_out_what_is_asked_for_without_changing_the_context(self) -> None:
        said = message("user", ImageContent(image=PIXEL), "a", AudioContent(frame=[]))
        ctx = context(said, call("c"), output("c"), AgentConfigUpdate())
        dumped = ctx.to_dict(
            exclude_function_call=True, exclude_metrics=True, exclude_config_update=True
        )
        assert len(dumped["items"]) == 1
        assert dumped["items"][0]["content"] == ["a"]
        assert not {"metrics", "created_at"} & dumped["items"][0].keys()
        assert len(said.content) == 3
        assert [
            part["type"] for part in ctx.to_dict(exclude_image=False)["items"][0]["content"][:1]
        ] == ["image_content"]

    @settings(max_examples=40)
    @given(chat.conversations)
    def test_round_trip_through_json_keeps_everything(self, items: list[ChatItem]) -> None:
        dumped = json.loads(json.dumps(ChatContext(items).to_dict(**EVERYTHING)))
        restored = ChatContext.from_dict(dumped)
        assert restored.to_dict(**EVERYTHING) == ChatContext(items).to_dict(**EVERYTHING)
        without_audio = [
            item
            for item in items
            if not isinstance(item, ChatMessage)
            or not any(isinstance(part, AudioContent) for part in item.content)
        ]
        by_id = {item.id: item for item in restored.items}
        # Audio frames have no equality of their own.
        assert [by_id[item.id] for item in without_audio] == without_audio

    def test_from_dict_ignores_unknown_keys_and_fills_in_times_in_order(self) -> None:
        data = {
            "items": [
                {"type": "message", "role": "user", "content": ["a"], "unheard": 1},
                {"type": "function_call", "call_id": "c", "name": "f", "arguments": "{}"},
            ]
        }
        first, second = ChatContext.from_dict(data).items
        assert 0 < first.created_at <= second.created_at
        assert first.id.startswith("item_")

    def test_from_dict_rejects_an_unknown_type(self) -> None:
        with pytest.raises(ValidationError, match="telegram"):
            ChatContext.from_dict({"items": [{"type": "telegram"}]})


def test_proto_carries_every_item() -> None:
    ctx = context(
        message(
            "assistant",
            "a",
            ImageContent(image=PIXEL),
            id="m",
            extra={"text": "t", "number": 1},
            metrics={"started_speaking_at": 1.5, "e2e_latency": 0.25, "llm_metadata": {}},
            created_at=2.25,
        ),
        call("c", id="f", extra={"k": "v"}),
        output("c", "oops", id="o", is_error=True),
        AgentHandoff(id="h", old_agent_id="a", new_agent_id="b"),
        AgentConfigUpdate(id="u", instructions="i", tools_removed=["x"]),
    )
    said, called, answered, handed, updated = ctx.to_proto().items
    assert said.message.role == 3  # ASSISTANT
    assert [part.text for part in said.message.content] == ["a"]
    assert dict(said.message.extra) == {"text": "t", "number": "1"}
    assert said.message.created_at.ToNanoseconds() == 2_250_000_000
    assert said.message.metrics.started_speaking_at.ToNanoseconds() == 1_500_000_000
    assert said.message.metrics.e2e_latency == 0.25
    assert (called.function_call.call_id, dict(called.function_call.extra)) == ("c", {"k": "v"})
    assert answered.function_call_output.is_error and answered.function_call_output.output == "oops"
    assert (handed.agent_handoff.old_agent_id, handed.agent_handoff.new_agent_id) == ("a", "b")
    assert list(updated.agent_config_update.tools_removed) == ["x"]
    assert updated.agent_config_update.instructions == "i"


@settings(max_examples=40)
@given(chat.conversations)
def test_proto_has_one_entry_per_item(items: list[ChatItem]) -> None:
    proto = ChatContext(items).to_proto()
    kinds = [entry.WhichOneof("item") for entry in proto.items]
    assert kinds == [item.type for item in items]
