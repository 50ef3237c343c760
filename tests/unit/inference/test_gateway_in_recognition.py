"""The gateway's STT behind the pump of a session: what happens when a stream fails for good."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterable, AsyncIterator
from typing import Any

from gateway import faults
from gateway.calls import RATE, Caller, emulated, sentence

from livekit.agents import APIConnectOptions, inference
from livekit.agents.stt import SpeechEvent, SpeechEventType
from livekit.agents.utils.aio import TaskScope
from livekit.agents.voice.audio_recognition import published_stream
from livekit.agents.voice.hearing.stt_pump import STTPump

A, B = sentence(0), sentence(10)


class _Microphone:
    """A pump, as `Caller` wants a stream."""

    def __init__(self, pump: STTPump) -> None:
        self.push_frame = pump.push


@contextlib.asynccontextmanager
async def _listening(
    stt: inference.STT, conn_options: APIConnectOptions
) -> AsyncIterator[tuple[Caller, list[SpeechEvent]]]:
    async def node(audio: AsyncIterable[Any], settings: Any) -> AsyncIterator[SpeechEvent]:
        async with stt.stream(conn_options=conn_options) as stream:
            scope = TaskScope("node")

            async def forward() -> None:
                async for frame in audio:
                    stream.push_frame(frame)

            with published_stream(stream):
                forwarding = scope.spawn(forward(), log_errors=False)
                try:
                    async for event in stream:
                        yield event
                finally:
                    forwarding.cancel()

    pump = STTPump(node)
    events: list[SpeechEvent] = []
    pump.attach(events.append)
    pump.start()
    try:
        yield Caller(_Microphone(pump)), events
    finally:
        await pump.aclose()


def _words(events: list[SpeechEvent]) -> list[str]:
    finals = [e for e in events if e.type is SpeechEventType.FINAL_TRANSCRIPT]
    return " ".join(event.alternatives[0].text for event in finals).split()


async def test_a_sentence_survives_the_end_of_the_stream_that_heard_it() -> None:
    options = APIConnectOptions(max_retry=1, retry_interval=0.5, timeout=5.0)
    async with emulated() as (gateway, session):
        stt = inference.STT("deepgram/nova-3", http_session=session, **gateway.arguments())
        errors: list[Any] = []
        stt.on("error", errors.append)
        async with _listening(stt, options) as (caller, events):
            await caller.be_quiet(1.0)
            gateway.standing["stt"] = faults.refuse(503)
            gateway.strike("stt", faults.drop(after_audio=1.6))
            await caller.say(*A)
            await caller.be_quiet(1.0)
            assert any(not error.recoverable for error in errors)
            gateway.standing.clear()
            await caller.be_quiet(2.0)
            await caller.say(*B)
            await caller.be_quiet(1.0)
        await gateway.until_closed()
    assert _words(events) == A + B


async def test_an_outage_of_five_seconds_in_a_sentence_loses_nothing_with_default_options() -> None:
    async with emulated() as (gateway, session):
        stt = inference.STT("deepgram/nova-3", http_session=session, **gateway.arguments())
        async with _listening(stt, APIConnectOptions()) as (caller, events):
            await caller.be_quiet(1.0)
            await caller.say(*A[:2])
            await gateway.go_away()
            await caller.say(*A[2:])
            await caller.be_quiet(5.0 - 3 * 0.26)
            await gateway.come_back()
            await caller.be_quiet(8.0)
        await gateway.until_closed()
    assert _words(events) == A


async def test_closing_while_the_gateway_is_gone_takes_no_time() -> None:
    async with emulated() as (gateway, session):
        stt = inference.STT("deepgram/nova-3", http_session=session, **gateway.arguments())
        loop = asyncio.get_running_loop()
        async with _listening(stt, APIConnectOptions()) as (caller, _):
            await caller.be_quiet(1.0)
            await gateway.go_away()
            await caller.play(bytes(RATE * 2))
            began = loop.time()
        assert loop.time() - began < 0.5
