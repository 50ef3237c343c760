"""The shapes each provider's API takes, spelled out."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given, strategies as st
from livekit import rtc

from fakes import chat
from fakes.chat import PIXEL, call, context, message, output
from livekit.agents.llm.chat_context import (
    AudioContent,
    CacheBreakpoint,
    ChatContext,
    ImageContent,
)

CAT = "https://example.com/cat.jpg"
PIXEL_BASE64 = PIXEL.partition(",")[2]
PIXEL_BYTES = b"\x89PNG\r\n\x1a\n"
MARK = CacheBreakpoint()


def converted(ctx: ChatContext, fmt: str, **options: Any) -> list[dict[str, Any]]:
    return ctx.to_provider_format(fmt, **options)[0]


def content_of(fmt: str, *content: Any, **options: Any) -> Any:
    """What becomes of the content of a user's message."""
    (entry,) = converted(context(message("user", *content)), fmt, **options)
    return entry.get("content", entry.get("parts"))


def weather() -> ChatContext:
    """A question that takes two calls, one of which fails."""
    return context(
        message("system", "be kind"),
        message("user", "weather?"),
        message("assistant", "let me see", id="m"),
        call("c1", id="m/0", name="weather", arguments='{"city": "Rome"}'),
        call("c2", id="m/1", name="weather", arguments='{"city": "Oz"}'),
        output("c1", "sunny", name="weather"),
        output("c2", "no such city", name="weather", is_error=True),
        message("assistant", "sunny in Rome"),
    )


class TestOpenAI:
    def test_a_conversation_with_tools(self) -> None:
        def tool_call(call_id: str, arguments: str) -> dict[str, Any]:
            function = {"name": "weather", "arguments": arguments}
            return {"id": call_id, "type": "function", "function": function}

        assert converted(weather(), "openai") == [
            {"role": "system", "content": "be kind"},
            {"role": "user", "content": "weather?"},
            {
                "role": "assistant",
                "content": "let me see",
                "tool_calls": [
                    tool_call("c1", '{"city": "Rome"}'),
                    tool_call("c2", '{"city": "Oz"}'),
                ],
            },
            {"role": "tool", "tool_call_id": "c1", "content": "sunny"},
            {"role": "tool", "tool_call_id": "c2", "content": "no such city"},
            {"role": "assistant", "content": "sunny in Rome"},
        ]

    def test_calls_without_a_message_make_an_assistant_message(self) -> None:
        entry, _ = converted(context(call("c"), output("c")), "openai")
        assert entry.keys() == {"role", "tool_calls"}

    def test_an_empty_context_stays_empty(self) -> None:
        assert converted(ChatContext(), "openai") == []
        assert converted(ChatContext(), "openai.responses") == []

    def test_extra_of_known_providers_is_replayed(self) -> None:
        extra = {"google": {"thought_signature": "s"}, "xai": None, "livekit": {}, "mine": 1}
        ctx = context(
            message("assistant", "hi", id="m", extra=extra),
            call("c", id="m/0", extra={"livekit": {"x": 1}}),
            output("c"),
        )
        entry = converted(ctx, "openai")[0]
        assert entry["extra_content"] == {"google": {"thought_signature": "s"}}
        assert entry["tool_calls"][0]["extra_content"] == {"livekit": {"x": 1}}

    def test_texts_are_joined_and_images_come_first(self) -> None:
        image = ImageContent(image=PIXEL, inference_detail="high")
        assert content_of("openai", "a", AudioContent(frame=[]), MARK, "", "b") == "a\n\nb"
        assert content_of("openai", "a", image, "b", ImageContent(image=CAT)) == [
            {"type": "image_url", "image_url": {"url": PIXEL, "detail": "high"}},
            {"type": "image_url", "image_url": {"url": CAT, "detail": "auto"}},
            {"type": "text", "text": "a\nb"},
        ]
        assert len(content_of("openai", image)) == 1
        assert content_of("openai") == ""

    def test_a_frame_is_encoded_once_as_jpeg(self) -> None:
        frame = rtc.VideoFrame(2, 2, rtc.VideoBufferType.RGBA, bytes(16))
        ctx = context(message("user", ImageContent(image=frame)))
        first, again = converted(ctx, "openai"), converted(ctx, "openai.responses")
        url = first[0]["content"][0]["image_url"]["url"]
        assert url.startswith("data:image/jpeg;base64,/9j/")
        assert again[0]["content"][0]["image_url"] == url


class TestResponses:
    def test_a_conversation_with_tools(self) -> None:
        assert converted(weather(), "openai.responses") == [
            {"role": "system", "content": "be kind"},
            {"role": "user", "content": "weather?"},
            {"role": "assistant", "content": "let me see"},
            {
                "call_id": "c1",
                "type": "function_call",
                "name": "weather",
                "arguments": '{"city": "Rome"}',
            },
            {
                "call_id": "c2",
                "type": "function_call",
                "name": "weather",
                "arguments": '{"city": "Oz"}',
            },
            {"type": "function_call_output", "call_id": "c1", "output": "sunny"},
            {"type": "function_call_output", "call_id": "c2", "output": "no such city"},
            {"role": "assistant", "content": "sunny in Rome"},
        ]

    def test_images_are_flat(self) -> None:
        assert content_of("openai.responses", "a", ImageContent(image=CAT)) == [
            {"type": "input_image", "image_url": CAT, "detail": "auto"},
            {"type": "input_text", "text": "a"},
        ]

    def test_the_phase_of_an_assistant_message_is_replayed(self) -> None:
        extra = {"openai": {"phase": "commentary"}}
        ctx = context(
            message("assistant", "a", extra=extra),
            message("user", "b", extra=extra),
            message("assistant", "c", extra={"openai": "?"}),
        )
        phases = [entry.get("phase") for entry in converted(ctx, "openai.responses")]
        assert phases == ["commentary", None, None]

    def test_an_assistant_message_is_never_marked(self) -> None:
        ctx = context(message("assistant", "a", MARK), message("user", "a", MARK))
        first, second = converted(ctx, "openai.responses", prompt_cache_breakpoints=True)
        assert first["content"] == "a"
        assert second["content"] == [
            {
                "type": "input_text",
                "text": "a",
                "prompt_cache_breakpoint": {"mode": "explicit"},
            }
        ]


class TestCacheBreakpoints:
    def parts(self, *content: Any) -> Any:
        """Content with markers, tagged parts written as ("text", "tag")."""
        result = content_of("openai", *content, prompt_cache_breakpoints=True)
        if isinstance(result, str):
            return result
        return [
            (part.get("text", "image"), "*" if "prompt_cache_breakpoint" in part else "")
            for part in result
        ]

    def test_a_marker_tags_the_part_before_it(self) -> None:
        assert self.parts("a", MARK, "b") == [("a", "*"), ("\nb", "")]
        assert self.parts("a", "b", MARK) == [("a\nb", "*")]
        image = ImageContent(image=CAT)
        assert self.parts("a", image, MARK, "b") == [("a", ""), ("image", "*"), ("\nb", "")]

    def test_leading_and_repeated_markers_do_nothing(self) -> None:
        assert self.parts(MARK, "a", "b") == "a\nb"
        assert self.parts(MARK, "a", MARK, MARK, "b") == [("a", "*"), ("\nb", "")]
        assert self.parts("", MARK, "a") == "\na"

    @given(st.lists(st.sampled_from(["a", "", "b\n"]) | st.just(MARK), max_size=8))
    def test_the_text_is_the_same_as_without_markers(self, content: list[Any]) -> None:
        parts = self.parts(*content)
        marked = parts if isinstance(parts, str) else "".join(text for text, _ in parts)
        assert marked == content_of("openai", *content)
        assert isinstance(parts, str) or any(tag for _, tag in parts)

    @given(chat.contents)
    def test_markers_are_skipped_unless_asked_for(self, content: list[Any]) -> None:
        unmarked = [part for part in content if part != MARK]
        assert content_of("openai", *content) == content_of("openai", *unmarked)


class TestAnthropic:
    def test_a_conversation_with_tools(self) -> None:
        entries, data = weather().to_provider_format("anthropic")
        assert data.system_messages == ["be kind"]

        def tool_use(call_id: str, city: str) -> dict[str, Any]:
            return {"id": call_id, "type": "tool_use", "name": "weather", "input": {"city": city}}

        def tool_result(call_id: str, content: str, is_error: bool) -> dict[str, Any]:
            return {
                "tool_use_id": call_id,
                "type": "tool_result",
                "content": content,
                "is_error": is_error,
            }

        assert entries == [
            {"role": "user", "content": [{"text": "weather?", "type": "text"}]},
            {
                "role": "assistant",
                "content": [
                    {"text": "let me see", "type": "text"},
                    tool_use("c1", "Rome"),
                    tool_use("c2", "Oz"),
                ],
            },
            {
                "role": "user",
                "content": [
                    tool_result("c1", "sunny", False),
                    tool_result("c2", "no such city", True),
                ],
            },
            {"role": "assistant", "content": [{"text": "sunny in Rome", "type": "text"}]},
        ]

    def test_images_keep_their_place(self) -> None:
        image = ImageContent(image=PIXEL)
        assert content_of("anthropic", "a", image, ImageContent(image=CAT), "", "b") == [
            {"text": "a", "type": "text"},
            {
                "type": "image",
                "source": {"type": "base64", "data": PIXEL_BASE64, "media_type": "image/png"},
            },
            {"type": "image", "source": {"type": "url", "url": CAT}},
            {"text": "b", "type": "text"},
        ]

    @pytest.mark.parametrize(
        ("text", "as_blocks"),
        [
            ('[{"type": "text", "text": "x"}]', True),
            ('[{"type": "image", "source": {"type": "url", "url": "u"}}]', True),
            ('[{"type": "image", "data": "not a block of this API"}]', False),
            ('[{"type": "hotel", "text": "x"}]', False),
            ('[{"no": "type"}]', False),
            ("[1, 2]", False),
            ("[]", False),
            ("[not json", False),
            ('{"type": "text"}', False),
            ("plain", False),
        ],
    )
    def test_outputs_that_are_content_blocks_are_sent_as_such(
        self, text: str, as_blocks: bool
    ) -> None:
        entries = converted(context(call("c"), output("c", text)), "anthropic")
        assert entries[-1]["content"][0]["content"] == (json.loads(text) if as_blocks else text)

    def test_the_user_comes_first(self) -> None:
        empty = {"role": "user", "content": [{"text": "(empty)", "type": "text"}]}
        assert converted(ChatContext(), "anthropic") == [empty]
        ctx = context(message("system", "x"), message("assistant", "hi"))
        assert converted(ctx, "anthropic")[0] == empty
        assert len(converted(ctx, "anthropic", inject_dummy_user_message=False)) == 1

    def test_the_user_may_be_given_the_last_word(self) -> None:
        ctx = context(message("user", "a"), message("assistant", "b"))
        trailing = converted(ctx, "anthropic", inject_trailing_user_message=True)
        assert trailing[-1] == {"role": "user", "content": [{"text": ".", "type": "text"}]}
        asked = context(message("user", "a"))
        assert len(converted(asked, "anthropic", inject_trailing_user_message=True)) == 1


class TestGoogle:
    def test_a_conversation_with_tools(self) -> None:
        entries, data = weather().to_provider_format("google", thought_signatures={"c1": b"sig"})
        assert data.system_messages == ["be kind"]

        def function_call(call_id: str, city: str) -> dict[str, Any]:
            return {"id": call_id, "name": "weather", "args": {"city": city}}

        def function_response(call_id: str, **response: str) -> dict[str, Any]:
            inner = {"id": call_id, "name": "weather", "response": response}
            return {"function_response": inner}

        assert entries == [
            {"role": "user", "parts": [{"text": "weather?"}]},
            {
                "role": "model",
                "parts": [
                    {"text": "let me see"},
                    {"function_call": function_call("c1", "Rome"), "thought_signature": b"sig"},
                    {"function_call": function_call("c2", "Oz")},
                ],
            },
            {
                "role": "user",
                "parts": [
                    function_response("c1", output="sunny"),
                    function_response("c2", error="no such city"),
                ],
            },
            {"role": "model", "parts": [{"text": "sunny in Rome"}]},
            {"role": "user", "parts": [{"text": "."}]},
        ]

    def test_images(self) -> None:
        parts = content_of("google", ImageContent(image=PIXEL), ImageContent(image=CAT))
        assert parts == [
            {"inline_data": {"data": PIXEL_BYTES, "mime_type": "image/png"}},
            {"file_data": {"file_uri": CAT, "mime_type": "image/jpeg"}},
        ]

    def test_outputs_never_share_a_turn_with_the_user(self) -> None:
        ctx = context(call("c"), output("c"), message("user", "and now?"))
        assert [len(entry["parts"]) for entry in converted(ctx, "google")] == [1, 1, 1]

    def test_an_empty_last_message_does_not_count_as_the_users_turn(self) -> None:
        ctx = context(message("user", "a"), message("assistant", "b"), message("user", ""))
        assert converted(ctx, "google")[-1] == {"role": "user", "parts": [{"text": "."}]}

    @pytest.mark.parametrize(
        ("ctx", "added"),
        [
            (context(), 1),
            (context(message("user", "a")), 0),
            (context(call("c"), output("c")), 0),
        ],
    )
    def test_the_placeholder_only_where_the_user_is_not_last(
        self, ctx: ChatContext, added: int
    ) -> None:
        with_it = converted(ctx, "google")
        assert (
            len(with_it) - len(converted(ctx, "google", inject_dummy_user_message=False)) == added
        )

    def test_dynamic_instructions_can_stay_in_the_conversation(self) -> None:
        ctx = context(
            message("system", "be kind"),
            message("system", "noon", id="lk.agent_task.instructions.dynamic"),
        )
        entries, data = ctx.to_provider_format("google", merge_dynamic_instructions=False)
        assert data.system_messages == ["be kind"]
        assert entries[0]["parts"] == [{"text": "<instructions>\nnoon\n</instructions>"}]


class TestBedrock:
    def test_a_conversation_with_tools(self) -> None:
        entries, data = weather().to_provider_format("aws")
        assert data.system_messages == ["be kind"]

        def tool_use(call_id: str, city: str) -> dict[str, Any]:
            return {"toolUse": {"toolUseId": call_id, "name": "weather", "input": {"city": city}}}

        def tool_result(call_id: str, text: str, status: str) -> dict[str, Any]:
            result = {"toolUseId": call_id, "content": [{"text": text}], "status": status}
            return {"toolResult": result}

        assert entries == [
            {"role": "user", "content": [{"text": "weather?"}]},
            {
                "role": "assistant",
                "content": [{"text": "let me see"}, tool_use("c1", "Rome"), tool_use("c2", "Oz")],
            },
            {
                "role": "user",
                "content": [
                    tool_result("c1", "sunny", "success"),
                    tool_result("c2", "no such city", "error"),
                ],
            },
            {"role": "assistant", "content": [{"text": "sunny in Rome"}]},
        ]

    def test_images_are_bytes_of_a_known_format(self) -> None:
        assert content_of("aws", ImageContent(image=PIXEL)) == [
            {"image": {"format": "png", "source": {"bytes": PIXEL_BYTES}}}
        ]
        with pytest.raises(ValueError, match="URL"):
            content_of("aws", ImageContent(image=CAT))

    def test_the_user_comes_first(self) -> None:
        empty = {"role": "user", "content": [{"text": "(empty)"}]}
        assert converted(context(message("assistant", "hi")), "aws")[0] == empty


class TestMistral:
    def test_a_conversation_with_tools(self) -> None:
        entries, data = weather().to_provider_format("mistralai")
        assert data.instructions == "be kind"
        assert entries == [
            {"type": "message.input", "role": "user", "content": "weather?"},
            {"type": "message.output", "role": "assistant", "content": "let me see"},
            {
                "type": "function.call",
                "tool_call_id": "c1",
                "name": "weather",
                "arguments": '{"city": "Rome"}',
            },
            {
                "type": "function.call",
                "tool_call_id": "c2",
                "name": "weather",
                "arguments": '{"city": "Oz"}',
            },
            {"type": "function.result", "tool_call_id": "c1", "result": "sunny"},
            {"type": "function.result", "tool_call_id": "c2", "result": "no such city"},
            {"type": "message.output", "role": "assistant", "content": "sunny in Rome"},
            {"type": "message.input", "role": "user", "content": "(empty)"},
        ]

    def test_images_come_first(self) -> None:
        assert content_of("mistralai", "a", ImageContent(image=CAT), "b") == [
            {"type": "image_url", "image_url": CAT},
            {"type": "text", "text": "a\nb"},
        ]

    def test_instructions_alone_still_make_a_request(self) -> None:
        ctx = context(message("developer", "be kind"))
        entries, data = ctx.to_provider_format("mistralai")
        assert data.instructions == "be kind" and len(entries) == 1
        assert converted(ctx, "mistralai", inject_dummy_user_message=False) == []
