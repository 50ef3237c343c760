"""The traces of user turns."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator
from typing import Any

import pytest
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from fakes.hearing import Ears, FakeTextDetector, final, settle
from fakes.hearing_activity import FakeActivity
from livekit.agents.telemetry import set_tracer_provider, tracer
from livekit.agents.voice.hearing.hooks import EndOfTurnInfo


@pytest.fixture
def exporter() -> Iterator[InMemorySpanExporter]:
    made = InMemorySpanExporter()
    provider = TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(made))
    set_tracer_provider(provider)
    yield made
    tracer.set_provider(None)


def named(exporter: InMemorySpanExporter, name: str) -> list[ReadableSpan]:
    return [span for span in exporter.get_finished_spans() if span.name == name]


def attributes(span: ReadableSpan) -> dict[str, Any]:
    return dict(span.attributes or {})


async def test_a_turn_its_wait_and_its_detection(exporter: InMemorySpanExporter) -> None:
    ears = Ears(detection=FakeTextDetector(probability=0.9))
    ears.hooks.on_turn = lambda info: info.span.end()
    await ears.speaks(1.0)
    ev = final("hello", confidence=0.8)
    ev.request_id = "req-1"
    await ears.hears(ev)
    await ears.pauses()
    await asyncio.sleep(1)
    await ears.close()

    turn, wait = named(exporter, "user_turn")[0], named(exporter, "eou_wait")[0]
    detection = named(exporter, "eou_detection")[0]
    started = ears.hooks.turns[0].metrics.started_speaking_at
    assert turn.start_time == int((started or 0) * 1e9)
    seen = attributes(turn)
    assert seen["lk.pii.user_transcript"] == "hello"
    assert seen["lk.transcript_confidence"] == 0.8
    assert seen["lk.provider_request_ids"] == ("req-1",)
    assert json.loads(seen["lk.stt.events"])[0]["transcript_length"] == 5
    assert wait.parent is not None and wait.parent.span_id == turn.context.span_id
    assert attributes(wait)["lk.eou.outcome"] == "committed"
    assert attributes(wait)["lk.eou.wait_duration"] == pytest.approx(0.5)
    assert attributes(wait)["lk.eou.source"] == "vad"
    assert attributes(detection)["lk.eou.endpointing_delay"] == pytest.approx(0.5)
    assert detection.parent is not None and detection.parent.span_id == wait.context.span_id
    assert attributes(detection)["lk.eou.probability"] == 0.9
    assert "hello" in attributes(detection)["lk.pii.chat_ctx"]


async def test_resuming_ends_the_wait_and_counts(exporter: InMemorySpanExporter) -> None:
    ears = Ears()
    ears.hooks.on_turn = lambda info: info.span.end()
    for _ in range(2):
        await ears.speaks(0.5)
        await ears.hears(final("word"))
        await ears.pauses()
    await asyncio.sleep(1)
    await ears.close()
    outcomes = [attributes(span)["lk.eou.outcome"] for span in named(exporter, "eou_wait")]
    assert outcomes == ["user_resumed", "committed"]
    assert attributes(named(exporter, "user_turn")[0])["lk.eou.resume_count"] == 1


async def test_more_words_arm_the_same_wait_again(exporter: InMemorySpanExporter) -> None:
    ears = Ears(vad=False)
    ears.hooks.on_turn = lambda info: info.span.end()
    await ears.hears(final("one"))
    await ears.hears(final("two"))
    await asyncio.sleep(1)
    await ears.close()
    (wait,) = named(exporter, "eou_wait")
    assert attributes(wait)["lk.eou.rearm_count"] == 1
    assert [event.name for event in wait.events] == ["rearmed"]


async def test_no_span_stays_open(exporter: InMemorySpanExporter) -> None:
    ears = Ears(detection="manual")
    await ears.speaks(0.5)
    await ears.hears(final("forget"))
    ears.recognition.clear_user_turn()
    await ears.pauses()
    await ears.close()
    assert len(named(exporter, "user_turn")) == 2  # the cleared one, and the silence after it


async def test_the_turn_ends_with_its_hook(exporter: InMemorySpanExporter) -> None:
    activity = FakeActivity()
    activity.agent.hook = activity.agent.stop
    span = tracer.start_span("user_turn")
    activity.user_turns.on_end_of_turn(
        EndOfTurnInfo(new_transcript="hi", transcript_confidence=1.0, span=span)
    )
    await settle()
    (hook,) = named(exporter, "on_user_turn_completed")
    assert hook.parent is not None
    assert hook.parent.span_id == span.get_span_context().span_id
    assert [event.name for event in hook.events] == ["stop_response"]
    assert len(named(exporter, "user_turn")) == 1
    await activity.close()
