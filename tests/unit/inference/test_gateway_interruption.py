"""Judging speech over the agent through the gateway, on an emulated network and virtual time."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from typing import Any

import aiohttp
import pytest
from gateway import GatewayEmulator, faults
from gateway.calls import RATE, emulated
from livekit import rtc

from livekit.agents import APIConnectOptions, APIStatusError
from livekit.agents.inference import (
    AdaptiveInterruptionDetector,
    InterruptionDetectionError,
    OverlappingSpeechEvent,
)
from livekit.agents.inference._overlap_audio import OverlapAudio, Requests, frames_of
from livekit.agents.inference._protocol import bargein as protocol
from livekit.agents.inference.interruption import (
    InterruptionWSDetectedMessage,
    InterruptionWSMessage,
)
from livekit.agents.metrics import InterruptionMetrics
from livekit.agents.voice.hearing.overlap import (
    AgentSpeechEnded,
    AgentSpeechStarted,
    OverlapEnded,
    OverlapStarted,
)

LOUD = b"\x00\x20" * (RATE // 50)
QUIET = bytes(2 * (RATE // 50))


@dataclass
class Judge:
    """A detector's stream and what came of it."""

    stream: Any
    events: list[OverlappingSpeechEvent] = field(default_factory=list)
    errors: list[InterruptionDetectionError] = field(default_factory=list)
    metrics: list[InterruptionMetrics] = field(default_factory=list)
    failure: Exception | None = None

    async def hear(self, frame: bytes, seconds: float) -> None:
        for _ in range(round(seconds / 0.02)):
            with contextlib.suppress(RuntimeError):
                self.stream.push_frame(rtc.AudioFrame(frame, RATE, 1, len(frame) // 2))
            await asyncio.sleep(0.02)

    def overlap(self, speech_duration: float = 0.1) -> None:
        self.stream.send(OverlapStarted(speech_duration, time.time()))


@contextlib.asynccontextmanager
async def judging(
    gateway: GatewayEmulator, session: aiohttp.ClientSession, **options: Any
) -> AsyncIterator[Judge]:
    detector = AdaptiveInterruptionDetector(http_session=session, **gateway.arguments(), **options)
    judge = Judge(detector.stream())
    detector.on("error", judge.errors.append)
    detector.on("metrics_collected", judge.metrics.append)

    async def read() -> None:
        try:
            async for event in judge.stream:
                judge.events.append(event)
        except Exception as error:
            judge.failure = error

    reading = asyncio.ensure_future(read())
    try:
        yield judge
    finally:
        await detector.aclose()
        await reading


async def test_loud_speech_over_the_agent_is_an_interruption() -> None:
    async with emulated() as (gateway, session), judging(gateway, session) as judge:
        judge.stream.send(AgentSpeechStarted())
        await judge.hear(QUIET, 2.0)
        judge.overlap()
        await judge.hear(LOUD, 0.3)
        [event] = judge.events
        [record] = gateway.of("bargein")
    assert event.is_interruption and event.probability == pytest.approx(0.0)
    assert event.num_requests == 1
    assert event.model_dump()["speech_input"] is None
    # one second from before the speech, and the speech so far
    assert len(event.speech_input) / RATE == pytest.approx(1.12, abs=0.03)
    assert record.kinds() == ["SessionCreate", "SessionClose"]
    assert record.messages[0][1].min_frames == 2
    assert [m.num_interruptions for m in judge.metrics] == [1]


async def test_quiet_speech_over_the_agent_is_none_once_it_is_over() -> None:
    async with emulated() as (gateway, session), judging(gateway, session) as judge:
        judge.stream.send(AgentSpeechStarted())
        judge.overlap()
        await judge.hear(QUIET, 0.5)
        assert judge.events == []
        judge.stream.send(OverlapEnded(ended_at=time.time()))
        await asyncio.sleep(0.1)
        [event] = judge.events
        assert not event.is_interruption and event.num_requests == 5
        judge.overlap()
        await judge.hear(QUIET, 0.3)
        judge.stream.send(OverlapEnded(ended_at=time.time(), agent_ended=True))
        judge.stream.send(AgentSpeechEnded())
        await asyncio.sleep(0.1)
        assert judge.events[1].agent_ended
    assert [(m.num_interruptions, m.num_backchannels) for m in judge.metrics] == [(0, 1), (0, 0)]


async def test_nothing_is_sent_while_the_agent_is_silent() -> None:
    async with emulated() as (gateway, session), judging(gateway, session) as judge:
        await judge.hear(LOUD, 1.0)
        judge.overlap()
        await judge.hear(LOUD, 1.0)
        assert gateway.records == []


@pytest.mark.parametrize(
    "fault",
    [
        faults.idle_recycle(20.0),
        faults.idle_recycle(20.0, variant="error_only"),
        faults.idle_recycle(20.0, variant="close_only"),
    ],
    ids=str,
)
async def test_an_idle_end_is_no_reason_to_give_up_judging(fault: faults.Fault) -> None:
    async with emulated() as (gateway, session), judging(gateway, session) as judge:
        gateway.standing["bargein"] = fault
        for _ in range(3):
            judge.stream.send(AgentSpeechStarted())
            await asyncio.sleep(30.0)
            assert gateway.open_connections == []
            judge.overlap()
            await judge.hear(LOUD, 0.3)
            judge.stream.send(AgentSpeechEnded())
            await asyncio.sleep(30.0)
    assert len(judge.events) == 3
    assert judge.errors == [] and judge.failure is None


@pytest.mark.parametrize(
    ("fault", "status"),
    [
        (faults.refuse(429), 429),
        (faults.refuse(500), 500),
        (faults.stall_writes(after_messages=1), 408),
        (faults.error(503, after_messages=2), 503),
        (faults.drop(1011, after_messages=2), 1011),
    ],
    ids=str,
)
async def test_a_failure_ends_judging_and_says_so(fault: faults.Fault, status: int) -> None:
    async with emulated() as (gateway, session), judging(gateway, session) as judge:
        gateway.standing["bargein"] = fault
        judge.stream.send(AgentSpeechStarted())
        judge.overlap()
        await judge.hear(LOUD, 2.0)
        await gateway.until_closed()
    assert isinstance(judge.failure, APIStatusError) and judge.failure.status_code == status
    assert [error.recoverable for error in judge.errors] == [False]


@pytest.mark.parametrize("fault", [faults.malformed(), faults.unknown_messages()], ids=str)
async def test_odd_messages_do_not_end_judging(fault: faults.Fault) -> None:
    async with emulated() as (gateway, session), judging(gateway, session) as judge:
        gateway.inject("bargein", fault)
        judge.stream.send(AgentSpeechStarted())
        judge.overlap()
        await judge.hear(LOUD, 0.3)
    assert len(judge.events) == 1 and judge.errors == []


@pytest.mark.parametrize(
    "fault", [faults.half_open(after_messages=2), faults.stall_upgrade()], ids=str
)
async def test_closing_takes_a_second_at_most(fault: faults.Fault) -> None:
    async with emulated() as (gateway, session), judging(gateway, session) as judge:
        gateway.inject("bargein", fault)
        judge.stream.send(AgentSpeechStarted())
        judge.overlap()
        await judge.hear(LOUD, 0.3)
        began = asyncio.get_running_loop().time()
        await judge.stream.aclose()
        assert asyncio.get_running_loop().time() - began <= 1.1
        await gateway.until_closed(1.0)
    assert judge.errors == []


async def test_changed_options_apply_from_the_next_connection_on() -> None:
    options = APIConnectOptions(max_retry=0)
    async with emulated() as (gateway, session), judging(gateway, session) as judge:
        judge.stream.send(AgentSpeechStarted())
        await asyncio.sleep(0.1)
        judge.stream._model.update_options(threshold=0.6, min_interruption_duration=0.2)
        judge.overlap()
        await judge.hear(LOUD, 0.3)
        first, second = gateway.of("bargein")
    assert options.max_retry == 0
    created = second.messages[0][1]
    assert (created.threshold, created.min_frames) == (0.6, 8)
    assert not first.is_open


def test_bad_options_are_refused_before_anything_is_connected() -> None:
    with pytest.raises(ValueError, match=r"max_audio_duration must be at most 3\.0"):
        AdaptiveInterruptionDetector(max_audio_duration=3.5, api_key="k", api_secret="s")


def test_audio_is_kept_only_while_it_may_be_judged() -> None:
    audio = OverlapAudio(max_duration=3.0, prefix=1.0, interval=0.1)
    second = bytes(RATE * 2)
    assert audio.push(second) is None and not audio.overlap_started(0.1)
    audio.agent_started()
    assert audio.push(second * 5) is None
    assert audio.overlap_started(0.5)
    window = audio.push(bytes(2))
    assert window is not None and len(window) == int(1.5 * RATE) * 2 + 2
    assert audio.push(bytes(2)) is None
    assert audio.push(bytes(int(0.1 * RATE) * 2)) is not None
    audio.overlap_ended()
    assert audio.push(second) is None


def test_only_answers_to_the_last_requests_count() -> None:
    requests = Requests(lambda created_at: created_at)
    for number in range(12):
        requests.add(number)
    assert requests.answered(1) is None
    assert requests.answered(5) == 5
    assert requests.oldest_unanswered == 6
    assert requests.count == 12
    requests.clear()
    assert requests.answered(5) is None and requests.oldest_unanswered is None


def test_durations_are_counted_in_frames() -> None:
    assert [frames_of(s) for s in (0.025, 0.05, 0.051, 0.2)] == [1, 2, 3, 8]


def test_messages_on_the_wire_have_models_for_tools_that_look_at_them() -> None:
    written = protocol.encode_server(protocol.InferenceDone(7, 0.1, (0.5,), is_interruption=True))
    read = InterruptionWSMessage.validate_json(written)
    assert isinstance(read, InterruptionWSDetectedMessage)
    assert (read.created_at, read.probabilities) == (7, [0.5])
