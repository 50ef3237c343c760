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


async def test_who_comes_and_goes_is_an_event_of_the_session(
    fake_rtc: FakeRtc, exporter: InMemorySpanExporter
) -> None:
    room: Any = fake_rtc.room()
    interceptors: list[Any] = []
    room.local_participant.add_rpc_interceptor = interceptors.append
    session = make_session()
    await session.start(Agent(instructions=""), room=room)
    caller = room.join(attributes={"sip.callID": "7", "sip.phoneNumber": "555"})
    room.emit("connection_state_changed", rtc.ConnectionState.CONN_CONNECTED)
    await asyncio.sleep(0.1)
    room.leave(caller)
    await asyncio.sleep(5.0)
    (span,) = [span for span in exporter.get_finished_spans() if span.name == "agent_session"]
    events = [event.name for event in span.events if "state_changed" not in event.name]
    assert events == ["participant_linked", "participant_disconnected"]
    states = [e for e in span.events if e.name == "connection_state_changed"]
    assert {dict(e.attributes or {})["lk.connection_state"] for e in states} == {"CONN_CONNECTED"}
    attributes = dict(span.attributes or {})
    assert attributes["lk.sip.callID"] == "7" and attributes["lk.pii.sip.phoneNumber"] == "555"
    left = next(e for e in span.events if e.name == "participant_disconnected")
    assert dict(left.attributes or {})["lk.disconnect_reason"] == "CLIENT_INITIATED"
    assert interceptors and len(set(map(id, interceptors))) == 1
