"""Model requests, tools and agents on spans, in the form of the semantic conventions."""

from __future__ import annotations

import contextvars
import json
from collections.abc import Iterator, Mapping
from typing import Any

import pytest
from livekit import rtc
from opentelemetry.sdk.trace import TracerProvider

from livekit.agents import APIStatusError, llm
from livekit.agents.telemetry import gen_ai, set_tracer_provider, tracer
from livekit.agents.telemetry.trace_types import GenAIOperationName


@pytest.fixture(autouse=True)
def provider() -> Iterator[None]:
    set_tracer_provider(TracerProvider())
    yield
    tracer.set_provider(None)
    gen_ai.set_capture_content(True)


def attributes_of(span: Any) -> Mapping[str, Any]:
    attributes: Mapping[str, Any] = span.attributes
    return dict(attributes)


@llm.function_tool
async def get_weather(city: str) -> str:
    """What the weather is like.

    Args:
        city: where
    """
    return "sunny"


def call(arguments: str = '{"city": "Oslo"}') -> llm.FunctionCall:
    return llm.FunctionCall(call_id="c1", name="get_weather", arguments=arguments)


def conversation() -> llm.ChatContext:
    chat_ctx = llm.ChatContext.empty()
    chat_ctx.add_message(role="system", content="Be kind.")
    chat_ctx.add_message(
        role="user",
        content=[
            "What is this?",
            llm.ImageContent(image="https://example.com/cat.png"),
            llm.ImageContent(image="data:image/png;base64,AAAA"),
            llm.AudioContent(frame=[rtc.AudioFrame.create(8000, 1, 8)], transcript="hm"),
            llm.AudioContent(frame=[rtc.AudioFrame.create(8000, 1, 8)]),
        ],
    )
    chat_ctx.items.append(call())
    chat_ctx.items.append(
        llm.FunctionCallOutput(call_id="c1", name="get_weather", output="sunny", is_error=False)
    )
    chat_ctx.items.append(llm.AgentHandoff(new_agent_id="b"))
    chat_ctx.add_message(role="assistant", content="A cat.")
    return chat_ctx


def test_a_conversation_as_messages() -> None:
    assert gen_ai.to_system_instructions(conversation()) == [
        {"type": "text", "content": "Be kind."}
    ]
    assert gen_ai.to_input_messages(conversation()) == [
        {
            "role": "user",
            "parts": [
                {"type": "text", "content": "What is this?"},
                {"type": "uri", "modality": "image", "uri": "https://example.com/cat.png"},
                {"type": "blob", "modality": "image", "content": ""},
                {"type": "text", "content": "hm"},
                {"type": "blob", "modality": "audio", "content": ""},
            ],
        },
        {
            "role": "assistant",
            "parts": [
                {
                    "type": "tool_call",
                    "id": "c1",
                    "name": "get_weather",
                    "arguments": {"city": "Oslo"},
                }
            ],
        },
        {
            "role": "tool",
            "parts": [
                {
                    "type": "tool_call_response",
                    "id": "c1",
                    "name": "get_weather",
                    "response": "sunny",
                }
            ],
        },
        {"role": "assistant", "parts": [{"type": "text", "content": "A cat."}]},
    ]


def test_a_response_as_a_message() -> None:
    (message,) = gen_ai.to_output_messages(text="Let me see", function_calls=[call("{bad")])

    assert message["finish_reason"] == "tool_call"
    assert [part["type"] for part in message["parts"]] == ["text", "tool_call"]
    assert message["parts"][1]["arguments"] == "{bad"
    assert gen_ai.to_output_messages(text="Hi")[0]["finish_reason"] == "stop"
    assert gen_ai.to_output_messages(text="") == []


def test_what_a_model_is_told_on_the_way_is_a_part_of_the_conversation() -> None:
    chat_ctx = llm.ChatContext.empty()
    chat_ctx.add_message(role="user", content="Hello.")
    chat_ctx.add_message(role="system", content="Say goodbye.")

    assert gen_ai.to_system_instructions(chat_ctx) == []
    assert [message["role"] for message in gen_ai.to_input_messages(chat_ctx)] == ["user", "system"]


def test_calls_belong_to_the_message_they_follow() -> None:
    chat_ctx = llm.ChatContext.empty()
    chat_ctx.add_message(role="assistant", content="One moment.")
    chat_ctx.items.extend([call(), call()])
    chat_ctx.items.append(
        llm.FunctionCallOutput(call_id="c1", name="", output='{"celsius": 3}', is_error=False)
    )

    said, answered = gen_ai.to_input_messages(chat_ctx)
    assert [part["type"] for part in said["parts"]] == ["text", "tool_call", "tool_call"]
    assert answered["parts"] == [
        {"type": "tool_call_response", "id": "c1", "response": {"celsius": 3}}
    ]


def test_the_output_of_a_tool_that_failed_is_no_result() -> None:
    span = tracer.start_span("function_tool")
    gen_ai.set_tool_result(span, result="not today", is_error=True)

    assert attributes_of(span) == {"error.type": "tool_error"}


def test_an_error_with_an_http_status_is_known_by_it() -> None:
    span = tracer.start_span("llm_request")
    gen_ai.set_error_type(span, APIStatusError("too fast", status_code=429))

    assert attributes_of(span) == {"error.type": "429"}


def test_tools_as_definitions() -> None:
    class Search(llm.ProviderTool):
        pass

    function, search = gen_ai.to_tool_definitions([get_weather, Search(id="web_search")])

    assert (function["type"], function["name"]) == ("function", "get_weather")
    assert "parameters" not in function
    assert search == {"type": "web_search", "name": "web_search"}


@pytest.mark.parametrize(
    ("calls", "interrupted", "reason"),
    [([], False, "stop"), ([call()], False, "tool_call"), ([call()], True, "error")],
)
def test_finish_reasons(calls: list[llm.FunctionCall], interrupted: bool, reason: str) -> None:
    assert gen_ai.finish_reason_for(function_calls=calls, interrupted=interrupted) == reason


def test_requests_responses_and_usage() -> None:
    span = tracer.start_span("llm_request")
    gen_ai.set_request_attributes(
        span, operation=GenAIOperationName.CHAT, provider="api.openai.com", model="m", stream=True
    )
    gen_ai.set_response_attributes(
        span, response_id="r1", model="m-1", finish_reasons=["stop"], time_to_first_chunk=0.25
    )
    gen_ai.set_usage_attributes(
        span,
        llm.CompletionUsage(
            completion_tokens=3, prompt_tokens=4, prompt_cached_tokens=2, total_tokens=7
        ),
    )

    attributes = attributes_of(span)
    assert attributes["gen_ai.operation.name"] == "chat"
    assert attributes["gen_ai.provider.name"] == "openai"
    assert attributes["gen_ai.request.stream"] is True
    assert "gen_ai.output.type" not in attributes
    assert attributes["gen_ai.response.finish_reasons"] == ("stop",)
    assert attributes["gen_ai.usage.input_tokens"] == 4
    assert attributes["gen_ai.usage.cache_read.input_tokens"] == 2


def test_content_is_recorded_unless_switched_off(monkeypatch: pytest.MonkeyPatch) -> None:
    def record() -> Mapping[str, Any]:
        span = tracer.start_span("s")
        gen_ai.set_content_attributes(
            span,
            system_instructions=gen_ai.to_system_instructions(conversation()),
            input_messages=gen_ai.to_input_messages(conversation()),
            output_messages=[],
        )
        gen_ai.set_tool_attributes(span, name="t", call_id="c1", arguments="{}")
        gen_ai.set_tool_result(span, result="ok", is_error=False)
        return attributes_of(span)

    attributes = record()
    assert json.loads(attributes["gen_ai.system_instructions"])[0]["content"] == "Be kind."
    assert attributes["gen_ai.tool.call.arguments"] == "{}"
    assert attributes["gen_ai.tool.call.result"] == '"ok"'
    assert "gen_ai.output.messages" not in attributes

    gen_ai.set_capture_content(False)
    assert record() == {
        "gen_ai.operation.name": "execute_tool",
        "gen_ai.tool.name": "t",
        "gen_ai.tool.call.id": "c1",
        "gen_ai.tool.type": "function",
    }

    monkeypatch.setattr(gen_ai, "_capture_content", None)
    assert gen_ai.capture_content_enabled()
    monkeypatch.setenv("OTEL_INSTRUMENTATION_GENAI_CAPTURE_MESSAGE_CONTENT", "FALSE")
    assert not gen_ai.capture_content_enabled()


def test_agents_and_workflows() -> None:
    agent = tracer.start_span("agent_turn")
    gen_ai.set_agent_attributes(
        agent, operation=GenAIOperationName.INVOKE_AGENT, agent_name="host", model="m"
    )
    workflow = tracer.start_span("agent_session")
    gen_ai.set_workflow_attributes(workflow, name="agent_session")
    gen_ai.set_error_type(workflow, TimeoutError())

    assert attributes_of(agent)["gen_ai.agent.name"] == "host"
    assert attributes_of(workflow) == {
        "gen_ai.operation.name": "invoke_workflow",
        "gen_ai.workflow.name": "agent_session",
        "error.type": "TimeoutError",
    }


def test_request_attributes_belong_to_their_context() -> None:
    contextvars.copy_context().run(gen_ai.set_llm_request_attributes, {"a": 1})
    assert gen_ai.llm_request_attributes() == {}

    def inside() -> dict[str, Any]:
        gen_ai.set_llm_request_attributes({"a": 1})
        gen_ai.set_llm_request_attributes({"b": 2})
        return gen_ai.llm_request_attributes()

    assert contextvars.copy_context().run(inside) == {"b": 2}


def test_who_describes_a_request_is_tracked() -> None:
    gen_ai.mark_inference_span_recorded()
    with gen_ai.track_inference_span(model="m") as outer:
        with gen_ai.track_inference_span() as inner:
            gen_ai.mark_inference_span_recorded()
        recorded = (outer.recorded, inner.recorded)

    assert recorded == (False, True)
    assert outer.model == "m"
