"""What is reported of connections to the gateway, as metrics events and to OpenTelemetry."""

from __future__ import annotations

from typing import Any

import pytest
from gateway import faults
from gateway.calls import calling, emulated, sentence

from fakes.measurements import Measurements, measurements
from livekit.agents import APIConnectOptions, inference
from livekit.agents.metrics import TTSMetrics
from livekit.agents.telemetry import otel_metrics

__all__ = ["measurements"]

A, B = sentence(0), sentence(10)


async def test_every_connection_of_a_recognizer_is_measured(measurements: Measurements) -> None:
    async with emulated() as (gateway, session):
        gateway.inject("stt", faults.slow_accept(0.25), faults.slow_accept(0.5))
        async with calling(gateway, session) as call:
            call.stt.on("metrics_collected", otel_metrics.collect_usage)
            await call.caller.say(*A)
            gateway.strike("stt", faults.drop())
            await call.caller.be_quiet(2.0)
    acquired = [metrics.acquire_time for metrics in call.heard.metrics if metrics.acquire_time]
    assert acquired == [pytest.approx(0.25, abs=0.01), pytest.approx(0.5, abs=0.01)]
    assert not any(metrics.connection_reused for metrics in call.heard.metrics)
    [point] = measurements.all()["lk.agents.connection.acquire_time"]
    assert (point.count, point.sum) == (2, pytest.approx(0.75, abs=0.02))
    assert point.attributes == {
        "connection_reused": "false",
        "model_name": "deepgram/nova-3",
        "model_provider": "livekit",
    }


async def test_a_voice_tells_new_connections_from_reused_ones(measurements: Measurements) -> None:
    spoken: list[TTSMetrics] = []
    async with emulated() as (gateway, session):
        gateway.inject("tts", faults.slow_accept(0.25))
        tts = inference.TTS("deepgram/aura-2", http_session=session, **gateway.arguments())
        tts.on("metrics_collected", spoken.append)
        tts.on("metrics_collected", otel_metrics.collect_usage)
        for _ in range(2):
            async with tts.stream() as stream:
                stream.push_text("One.")
                stream.end_input()
                async for _audio in stream:
                    pass
        await tts.aclose()
    assert [(m.acquire_time, m.connection_reused) for m in spoken] == [
        (pytest.approx(0.25, abs=0.01), False),
        (0.0, True),
    ]
    points = measurements.all()["lk.agents.connection.acquire_time"]
    assert {p.attributes["connection_reused"]: p.count for p in points} == {"false": 1, "true": 1}


async def test_why_a_recognizer_connects_again_is_counted(measurements: Measurements) -> None:
    async with emulated() as (gateway, session):
        gateway.inject("stt", faults.idle_recycle(20.0), faults.drop(after_audio=2.0))
        async with calling(gateway, session) as call:
            await call.caller.mute(30.0)
            await call.caller.say(*A)
            await call.caller.say(*B)
            await call.caller.be_quiet(2.0)
    assert call.heard.words == A + B
    points = measurements.all()["lk.agents.stt.reconnects"]
    assert {p.attributes["reason"]: p.value for p in points} == {"park": 1, "retry": 1}


async def test_audio_that_is_sent_again_or_never_is_reported(measurements: Measurements) -> None:
    options = APIConnectOptions(max_retry=20, retry_interval=0.5, timeout=5.0)
    arguments: dict[str, Any] = {"conn_options": options, "replay_duration": 2.0}
    async with emulated() as (gateway, session):
        async with calling(gateway, session, **arguments) as call:
            await call.caller.say(*A)
            await gateway.go_away()
            await call.caller.say(*sentence(0, 40))
            await gateway.come_back()
            await call.caller.be_quiet(12.0)
    [lost] = [m.lost_audio_duration for m in call.heard.metrics if m.lost_audio_duration]
    points = measurements.all()
    [counted] = points["lk.agents.stt.lost_audio_duration"]
    assert counted.value == lost > 4.0
    assert counted.attributes["model_name"] == "deepgram/nova-3"


async def test_audio_of_a_broken_connection_is_reported_as_sent_twice(
    measurements: Measurements,
) -> None:
    async with emulated() as (gateway, session):
        gateway.inject("stt", faults.drop(after_audio=1.0))
        async with calling(gateway, session) as call:
            await call.caller.say(*A)
            await call.caller.be_quiet(2.0)
        first, second = gateway.of("stt")
    twice = first.audio_seconds + second.audio_seconds - call.caller.spoken
    [replayed] = [
        m.replayed_audio_duration for m in call.heard.metrics if m.replayed_audio_duration
    ]
    assert replayed == pytest.approx(twice, abs=0.1)
    [counted] = measurements.all()["lk.agents.stt.replayed_audio_duration"]
    assert counted.value == replayed
