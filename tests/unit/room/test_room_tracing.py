from __future__ import annotations

import asyncio
from collections.abc import Iterator
from typing import Any

import pytest
from livekit import rtc
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from fakes.room import FakeRtc
from fakes.session import make_session
from livekit.agents.telemetry.traces import tracer
from livekit.agents.voice import Agent


@pytest.fixture
def exporter() -> Iterator[InMemorySpanExporter]:
    exporter = InMemorySpanExporter()
    provider = TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    tracer.set_provider(provider)
    yield exporter
    tracer.set_provider(None)


async def test_what_a_start_waits_for_is_traced_as_part_of_it(
    fake_rtc: FakeRtc, exporter: InMemorySpanExporter
) -> None:
    room: Any = fake_rtc.room()
    session = make_session()
    with tracer.start_as_current_span("job"):
        await session.start(Agent(instructions=""), room=room)
    await asyncio.sleep(1.0)
    microphone = room.publish(room.join())
    await session.room_io.wait_for_ready()
    microphone.track.push(rtc.AudioFrame.create(24000, 1, 1200))
    await asyncio.sleep(0.1)
    spans = {span.name: span for span in exporter.get_finished_spans()}
    start = spans["session_start"].context.span_id
    for name in ("wait_for_participant", "publish_audio_output", "wait_for_audio_track"):
        parent = spans[name].parent
        assert parent is not None and parent.span_id == start
    [publication] = room.sent.track_publications.values()
    attributes: Any = spans["publish_audio_output"].attributes
    assert attributes["lk.track_sid"] == publication.sid
    wait = spans["wait_for_audio_track"]
    assert [event.name for event in wait.events] == ["track_subscribed", "first_frame"]
    assert (spans["wait_for_participant"].attributes or {})[
        "lk.room_io.participant_filter"
    ] is False
    await session.aclose()
