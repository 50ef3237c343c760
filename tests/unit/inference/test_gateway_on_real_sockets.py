"""What the kernel knows of a connection after a forced close: nothing.

The rest of the suite proves it on virtual time and a network in memory. Here the peers of several
broken connections are closed side by side, on sockets and in real time.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable, Coroutine
from dataclasses import replace
from typing import Any

import aiohttp
import pytest
from gateway import GatewayEmulator, faults
from gateway.calls import RATE, Caller, calling, emulated, sentence
from gateway.faults import Fault
from gateway.recognizers import speak_tones
from livekit import rtc

from fakes.speaker import Speaker
from livekit.agents import Agent, AgentSession, inference
from livekit.agents.llm import ChatContext
from livekit.agents.utils import http_context
from livekit.agents.utils.aio import Chan, Deadline
from livekit.agents.voice.io import AudioInput

pytestmark = pytest.mark.real_time

_BOUND = 5.5
_ON_WEBSOCKETS = [
    faults.half_open(after_messages=2),
    faults.stall_reads(after_messages=2),
    faults.stall_writes(after_messages=2),
    faults.error(500, then="chatter", after_messages=2),
    faults.no_close_reply(),
    faults.stall_upgrade(),
]
_ON_REQUESTS = [
    faults.half_open(),
    faults.stall_upgrade(),
    faults.completion("stall_headers"),
    faults.completion("stall_mid"),
    faults.completion("drip"),
]

Close = Callable[[], Coroutine[Any, Any, None]]
Work = Callable[
    [GatewayEmulator, aiohttp.ClientSession], contextlib.AbstractAsyncContextManager[Close]
]


@contextlib.asynccontextmanager
async def _recognizing(
    gateway: GatewayEmulator, session: aiohttp.ClientSession
) -> AsyncIterator[Close]:
    async with calling(gateway, session) as call:
        # minutes: more than the buffers of the kernel hold
        pcm = speak_tones(sentence(0, 40)) + bytes(RATE * 2 * 240)
        call.stream.push_frame(rtc.AudioFrame(pcm, RATE, 1, len(pcm) // 2))
        yield call.stream.aclose


@contextlib.asynccontextmanager
async def _speaking(
    gateway: GatewayEmulator, session: aiohttp.ClientSession
) -> AsyncIterator[Close]:
    tts = inference.TTS("deepgram/aura-2", http_session=session, **gateway.arguments())
    tts.stream().push_text("A sentence for a start. " + "And another one, to be spoken. " * 5)
    yield tts.aclose


@contextlib.asynccontextmanager
async def _answering(
    gateway: GatewayEmulator, session: aiohttp.ClientSession
) -> AsyncIterator[Close]:
    token = http_context._factory.set(lambda: session)
    llm = inference.LLM("openai/gpt-4.1-mini", **gateway.arguments())
    chat_ctx = ChatContext.empty()
    chat_ctx.add_message(role="user", content="hello")
    async with llm.chat(chat_ctx=chat_ctx):
        yield llm.aclose
    http_context._factory.reset(token)


async def _break_and_close(route: str, fault: Fault, work: Work) -> None:
    """Let a client work with a broken gateway and close it; then no socket may be open."""
    async with emulated(real_sockets=True) as (gateway, session):
        gateway.inject(route, fault)
        async with work(gateway, session) as close:
            await _until(lambda: gateway.open_sockets > 0, Deadline(5.0), "nobody dialled")
            await asyncio.sleep(0.2)  # the fault strikes
            deadline = Deadline(_BOUND)
            await close()
            await _until(lambda: gateway.open_sockets == 0, deadline, f"a socket after {fault}")
            assert gateway.open_connections == []


async def _until(holds: Callable[[], bool], deadline: Deadline, otherwise: str) -> None:
    while not holds():
        assert (deadline.remaining() or 0.0) > 0, otherwise
        await asyncio.sleep(0.01)


@pytest.mark.parametrize(
    ("route", "work", "broken"),
    [
        pytest.param("stt", _recognizing, _ON_WEBSOCKETS, id="stt"),
        pytest.param("tts", _speaking, _ON_WEBSOCKETS, id="tts"),
        pytest.param("llm", _answering, _ON_REQUESTS, id="llm"),
    ],
)
async def test_a_client_that_is_closed_leaves_no_socket(
    route: str, work: Work, broken: list[Fault]
) -> None:
    await asyncio.gather(*(_break_and_close(route, fault, work) for fault in broken))


# -- sessions --------------------------------------------------------------------------------------


class Microphone(AudioInput):
    """Takes frames as `Caller` pushes them."""

    def __init__(self) -> None:
        super().__init__(label="microphone")
        self._frames: Chan[rtc.AudioFrame] = Chan()

    def push_frame(self, frame: rtc.AudioFrame) -> None:
        self._frames.send_nowait(frame)

    async def __anext__(self) -> rtc.AudioFrame:
        return await self._frames.recv()


async def _close_in_mid_reply(fault: Fault) -> None:
    # Connections of answers that went well may be kept for another request: they are apart.
    async with emulated(real_sockets=True) as (gateway, http), GatewayEmulator() as answering:
        http_context._factory.set(lambda: http)  # of this task only
        session: AgentSession[Any] = AgentSession(
            stt=inference.STT("deepgram/nova-3", **gateway.arguments()),
            llm=inference.LLM("openai/gpt-4.1-mini", **answering.arguments()),
            tts=inference.TTS("deepgram/aura-2", **gateway.arguments()),
            vad=None,
        )
        microphone = Microphone()
        session.input.audio, session.output.audio = microphone, Speaker()
        await session.start(Agent(instructions="be brief"))
        try:
            session.generate_reply(user_input="tell me " + "a lot " * 20)
            await Caller(microphone).be_quiet(0.3)
            await _until(lambda: bool(gateway.of("tts")), Deadline(5.0), "no speech")
            await _until(
                lambda: gateway.of("tts")[0].audio_seconds > 0.1, Deadline(5.0), "no speech"
            )
            for route in ("stt", "tts"):
                gateway.strike(route, fault)
            await Caller(microphone).say(sentence(0)[0])
            deadline = Deadline(_BOUND)
        finally:
            await session.aclose()
        await session.tts.aclose()  # type: ignore[union-attr]
        await _until(lambda: gateway.open_sockets == 0, deadline, f"a socket after {fault}")


async def test_a_session_that_is_closed_in_mid_reply_leaves_no_socket() -> None:
    broken = [replace(fault, after_messages=0) for fault in _ON_WEBSOCKETS[:4]]
    await asyncio.gather(*(_close_in_mid_reply(fault) for fault in broken))
