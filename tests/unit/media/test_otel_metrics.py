"""Usage and delays as OpenTelemetry measurements."""

from __future__ import annotations

import asyncio
import sys
import types
from contextvars import ContextVar
from typing import Any

import pytest
from livekit import rtc

from fakes.measurements import Measurements, measurements
from fakes.stt import FakeSTT
from livekit.agents import APIConnectionError, metrics
from livekit.agents.llm import ChatContext
from livekit.agents.metrics.base import Metadata
from livekit.agents.telemetry import otel_metrics

__all__ = ["measurements"]

GPT = Metadata(model_name="gpt", model_provider="OpenAI")


def test_llm_usage_and_durations(measurements: Measurements) -> None:
    for _ in range(2):
        otel_metrics.collect_usage(
            metrics.LLMMetrics(
                label="l",
                request_id="r",
                timestamp=1,
                duration=2.0,
                ttft=0.5,
                cancelled=False,
                completion_tokens=10,
                prompt_tokens=20,
                prompt_cached_tokens=0,
                total_tokens=30,
                tokens_per_second=5,
                metadata=GPT,
            )
        )

    points = measurements.all()
    (tokens,) = points["lk.agents.usage.llm_input_tokens"]
    assert tokens.value == 40
    assert dict(tokens.attributes) == {"model_provider": "OpenAI", "model_name": "gpt"}
    assert "lk.agents.usage.llm_input_cached_tokens" not in points
    usage = {
        point.attributes["gen_ai.token.type"]: (point.count, point.sum)
        for point in points["gen_ai.client.token.usage"]
    }
    assert usage == {"input": (2, 40), "output": (2, 20)}
    (duration,) = points["gen_ai.client.operation.duration"]
    assert (duration.sum, duration.attributes["gen_ai.provider.name"]) == (4.0, "openai")
    assert points["gen_ai.client.operation.time_to_first_chunk"][0].sum == 1.0


def test_realtime_speech_and_interruption_usage(measurements: Measurements) -> None:
    realtime = metrics.RealtimeModelMetrics
    otel_metrics.collect_usage(
        realtime(
            request_id="r",
            timestamp=1,
            session_duration=3.5,
            input_tokens=7,
            input_token_details=realtime.InputTokenDetails(audio_tokens=7),
            output_token_details=realtime.OutputTokenDetails(text_tokens=2),
        )
    )
    otel_metrics.collect_usage(
        metrics.TTSMetrics(
            label="t",
            request_id="r",
            timestamp=1,
            ttfb=0.1,
            duration=1,
            audio_duration=2.5,
            cancelled=False,
            characters_count=42,
            streamed=True,
            acquire_time=0.2,
        )
    )
    otel_metrics.collect_usage(
        metrics.STTMetrics(
            label="s",
            request_id="r",
            timestamp=1,
            duration=0,
            audio_duration=5,
            streamed=True,
            connection_reused=True,
        )
    )
    otel_metrics.collect_usage(
        metrics.InterruptionMetrics(
            timestamp=1,
            total_duration=1,
            prediction_duration=1,
            detection_delay=1,
            num_interruptions=1,
            num_backchannels=0,
            num_requests=3,
        )
    )

    points = measurements.all()
    usage = {
        name.rpartition(".")[2]: values[0].value
        for name, values in points.items()
        if name.startswith("lk.agents.usage.")
    }
    assert usage == {
        "llm_input_tokens": 7,
        "llm_input_audio_tokens": 7,
        "llm_output_text_tokens": 2,
        "llm_session_duration": 3.5,
        "tts_characters": 42,
        "tts_audio_duration": 2.5,
        "stt_audio_duration": 5,
        "interruption_num_requests": 3,
    }
    connections = {
        point.attributes["connection_reused"]: point.sum
        for point in points["lk.agents.connection.acquire_time"]
    }
    assert connections == {"false": 0.2, "true": 0.0}
    assert "gen_ai.client.operation.time_to_first_chunk" not in points


def test_turns_are_measured_from_the_history(measurements: Measurements) -> None:
    chat_ctx = ChatContext.empty()
    chat_ctx.add_message(
        role="user", content="hi", metrics={"transcription_delay": 0.3, "end_of_turn_delay": 0.6}
    )
    chat_ctx.add_message(
        role="assistant",
        content="hello",
        metrics={
            "e2e_latency": 1.0,
            "llm_node_ttft": 0.4,
            "llm_metadata": {"model_name": "gpt"},
        },
    )

    otel_metrics.flush_turn_metrics(chat_ctx)

    points = measurements.all()
    assert {name.rpartition(".")[2]: values[0].sum for name, values in points.items()} == {
        "transcription_delay": 0.3,
        "end_of_turn_delay": 0.6,
        "e2e_latency": 1.0,
        "llm_ttft": 0.4,
    }
    assert dict(points["lk.agents.turn.llm_ttft"][0].attributes) == {"model_name": "gpt"}


def test_durations_of_tools_agents_and_blocked_loops(measurements: Measurements) -> None:
    otel_metrics.record_execute_tool_duration(1.0, tool_name="t", error=True)
    otel_metrics.record_invoke_agent_duration(2.0, agent_name="a")
    otel_metrics.record_event_loop_blocked(0.5, severity="error")

    points = measurements.all()
    (tool,) = points["gen_ai.execute_tool.duration"]
    assert dict(tool.attributes) == {"gen_ai.tool.name": "t", "error.type": "tool_error"}
    assert points["gen_ai.invoke_agent.duration"][0].sum == 2.0
    assert points["lk.agents.event_loop.blocked_duration"][0].attributes["severity"] == "error"


def test_measurements_and_spans_tell_their_job(
    measurements: Measurements, monkeypatch: pytest.MonkeyPatch
) -> None:
    from livekit.agents.telemetry import utils
    from livekit.agents.telemetry._job import job_attributes

    room = types.SimpleNamespace(sid="RM_1")
    context = types.SimpleNamespace(
        job=types.SimpleNamespace(id="AJ_1", room=room), _redaction_enabled=True
    )
    variable: ContextVar[Any] = ContextVar("test_job")
    variable.set(context)
    module = types.ModuleType("livekit.agents.job")
    module._JobContextVar = variable  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "livekit.agents.job", module)

    otel_metrics.record_invoke_agent_duration(2.0, agent_name="a")

    (point,) = measurements.all()["gen_ai.invoke_agent.duration"]
    assert (point.attributes["job_id"], point.attributes["room_id"]) == ("AJ_1", "RM_1")
    assert job_attributes() == {"gen_ai.conversation.id": "RM_1"}
    assert utils.redaction_enabled()


def test_audio_that_a_recognizer_got_twice_or_never_is_counted(measurements: Measurements) -> None:
    otel_metrics.count_stt_audio(2.5, "replayed", provider="livekit", model="nova")
    otel_metrics.count_stt_audio(1.0, "lost", provider="livekit", model="nova")
    otel_metrics.count_stt_audio(0.5, "lost", provider="livekit", model="nova")
    points = measurements.all()
    [replayed] = points["lk.agents.stt.replayed_audio_duration"]
    [lost] = points["lk.agents.stt.lost_audio_duration"]
    assert (replayed.value, lost.value) == (2.5, 1.5)
    assert lost.attributes["model_name"] == "nova"


async def test_reconnects_of_a_recognizer_are_counted(measurements: Measurements) -> None:
    stt = FakeSTT(failures=[APIConnectionError("no route"), APIConnectionError("no route")])
    async with stt.stream() as stream:
        stream.push_frame(rtc.AudioFrame(bytes(640), 16000, 1, 320))
        await asyncio.sleep(60)
    [reconnects] = measurements.all()["lk.agents.stt.reconnects"]
    assert reconnects.value == 2
    assert reconnects.attributes["reason"] == "retry"
