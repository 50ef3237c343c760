"""Every fault, at every moment of a call, for every client.

What must hold: a spoken sentence comes out whole and once, nothing is reported that the caller
could not notice, and after a close no connection is open. Times are virtual; with
``GATEWAY_TESTS=full`` in the environment the whole matrix runs, also on real sockets.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Iterator
from dataclasses import dataclass, replace

import aiohttp
import pytest
from gateway import GatewayEmulator, faults
from gateway.calls import Call, calling, emulated, sentence
from gateway.faults import Fault
from gateway.voices import ToneVoice

from livekit.agents import APIConnectOptions, APIError, inference, tts as tts_module
from livekit.agents.llm import ChatContext, LLMError
from livekit.agents.stt import SpeechEventType
from livekit.agents.utils import http_context

A, B, C = sentence(0, 4), sentence(10, 4), sentence(20, 4)
_SPEECH = 4 * 0.26
_GENEROUS = APIConnectOptions(max_retry=3, retry_interval=0.5, timeout=4.0)


@dataclass(frozen=True)
class Case:
    """A fault, and how many errors it makes where."""

    fault: Fault
    idle: int = 1
    """Recoverable errors when nobody is speaking."""
    speaking: int = 1
    """Recoverable errors in the middle of a sentence."""
    reply: int | None = None
    """Recoverable errors while the agent speaks; as when idle by default."""
    patience: float = 3.0
    """Seconds until it is over, at the latest."""
    then: tuple[Fault, ...] = ()
    """What the next connections meet."""

    def __str__(self) -> str:
        return " then ".join(map(str, (self.fault, *self.then)))


STT_CASES = [
    *(Case(faults.drop(how)) for how in ("abort", "fin", 1000, 1001, 1011, 1012, 1013, 3000)),
    *(Case(faults.drop(code)) for code in (1002, 1008, 1009)),
    Case(faults.drop(1000, reason="idle timeout"), idle=0),
    Case(faults.error(2007, then="close"), idle=0),
    Case(faults.error("2007"), idle=0),
    *(Case(faults.error(code)) for code in (429, 500, 503, "overloaded", -1)),
    Case(faults.error(500, then="chatter")),
    Case(faults.closed_early()),
    Case(faults.malformed(), idle=0, speaking=0),
    Case(faults.malformed("[1]", times=5)),
    Case(faults.unknown_messages(), idle=0, speaking=0),
    Case(faults.huge_frame()),
    # only the sentence that nobody answers for gives it away
    Case(faults.stall_writes(), idle=1, speaking=1, patience=25.0),
    # noticed by a ping, half a minute after the last sign of life: then it is a routine end
    Case(faults.stall_reads(), reply=0, patience=35.0),
    Case(faults.half_open(), reply=0, patience=35.0),
    Case(faults.drop(), 2, 2, then=(faults.refuse(503),)),
    Case(faults.drop(), 2, 2, then=(faults.refuse(429, retry_after=1.0),), patience=5.0),
    Case(faults.drop(), 2, 2, then=(faults.stall_upgrade(),), patience=9.0),
    Case(faults.drop(), 1, 1, then=(faults.slow_accept(2.0),), patience=5.0),
    Case(faults.drop(), 2, 2, then=(faults.reset_upgrade(), faults.reset_upgrade("fin"))),
    Case(faults.drop(), 3, 3, then=(faults.drop(after_messages=1), faults.refuse(500))),
]


FULL = os.environ.get("GATEWAY_TESTS") == "full"
NETWORKS = ["memory", "sockets"] if FULL else ["memory"]


@pytest.fixture(params=NETWORKS)
def real_sockets(request: pytest.FixtureRequest) -> bool:
    """Whether bytes go through the kernel."""
    return bool(request.param == "sockets")


_REPRESENTATIVE = {"drop(abort)", "drop(1011)", "error(2007, close)", "error(500, silence)"}
_REPRESENTATIVE |= {"closed_early", "half_open", "stall_writes", "malformed({bad, 1)"}


def _is_run(case: Case, moment: str) -> bool:
    """Every fault runs in the middle of a sentence; elsewhere one of each kind will do."""
    return FULL or moment == "mid-utterance" or str(case) in _REPRESENTATIVE


def _stt_rows() -> Iterator[object]:
    for case in STT_CASES:
        for moment in ("idle", "mid-utterance", "mid-reply", "closing"):
            if not _is_run(case, moment):
                continue
            yield pytest.param(case, moment, id=f"{moment} {case}")


@pytest.mark.parametrize(("case", "moment"), list(_stt_rows()))
async def test_recognition(case: Case, moment: str, real_sockets: bool) -> None:
    async with emulated(real_sockets=real_sockets) as (gateway, session):
        strikes_at = {
            "idle": 1.0,
            "mid-utterance": 1.5 + _SPEECH / 2,
            "mid-reply": 1.5 + _SPEECH + 1.0,
            "closing": 1.5 + _SPEECH / 2,
        }[moment]
        gateway.inject("stt", replace(case.fault, after_audio=strikes_at), *case.then)
        async with calling(gateway, session, conn_options=_GENEROUS, frame=0.1) as call:
            await _converse(call, case, moment)
            await call.stream.aclose()
            await _nothing_is_open(gateway, session)
        heard = call.heard
    assert all(error.recoverable for error in heard.errors)
    if moment == "closing":
        return
    assert heard.words == A + B + C
    by_moment = {
        "idle": case.idle,
        "mid-utterance": case.speaking,
        "mid-reply": case.idle if case.reply is None else case.reply,
    }
    expected = by_moment[moment]
    assert len(heard.errors) == expected, [str(error.error) for error in heard.errors]
    kinds = heard.kinds()
    assert kinds.count(SpeechEventType.START_OF_SPEECH) == 3
    assert kinds.count(SpeechEventType.END_OF_SPEECH) == 3
    times = [time for pair in heard.times for time in pair]
    assert times == sorted(times)


async def _converse(call: Call, case: Case, moment: str) -> None:
    caller = call.caller
    await caller.be_quiet(1.5)
    if moment == "idle":
        await caller.mute(case.patience)
    await caller.say(*A)
    if moment == "closing":
        return
    for words in (B, C):
        await caller.be_quiet(1.5)
        await caller.mute(case.patience)
        await caller.say(*words)
    await caller.be_quiet(1.5)
    if case.fault.kind == "stall_writes":
        await caller.mute(case.patience)


async def _nothing_is_open(gateway: GatewayEmulator, session: aiohttp.ClientSession) -> None:
    """Neither a WebSocket, nor, without the connections kept for other requests, a socket."""
    await gateway.until_closed(5.5)
    await session.close()
    await asyncio.sleep(0.1)
    assert gateway.open_sockets == 0


# -- synthesis -------------------------------------------------------------------------------------

TEXT = "Hello there, my friend. How do you do?"
SECONDS = ToneVoice().duration("Hello there, my friend.") + ToneVoice().duration("How do you do?")

TTS_CASES = [
    *(Case(faults.drop(how)) for how in ("abort", "fin", 1000, 1001, 1008, 1011, 1013, 3000)),
    Case(faults.error(2007, then="close")),
    Case(faults.error("2007")),
    *(Case(faults.error(code)) for code in (429, 500, "overloaded")),
    Case(faults.error(500, then="chatter")),
    Case(faults.closed_early()),
    Case(faults.malformed(), speaking=0),
    Case(faults.malformed(times=5)),
    Case(faults.unknown_messages(), speaking=0),
    Case(faults.huge_frame()),
    Case(faults.stall_writes(), idle=1, patience=5.0),
    Case(faults.stall_reads(), patience=35.0),
    Case(faults.half_open(), patience=35.0),
    Case(faults.drop(), 1, 2, then=(faults.refuse(503),)),
    Case(faults.drop(), 1, 2, then=(faults.stall_upgrade(),)),
    Case(faults.drop(), 0, 1, then=(faults.slow_accept(1.0),)),
]
_TRIGGERS = {
    "idle": {"after_segments": 1},
    "mid-utterance": {"after_messages": 2},
    "mid-reply": {"after_audio": 0.1},
    "closing": {"after_messages": 2},
}


def _tts_rows() -> Iterator[object]:
    for case in TTS_CASES:
        for moment in _TRIGGERS:
            if _is_run(case, moment):
                yield pytest.param(case, moment, id=f"{moment} {case}")


@pytest.mark.parametrize(("case", "moment"), list(_tts_rows()))
async def test_synthesis(case: Case, moment: str, real_sockets: bool) -> None:
    idle_errors = case.idle if case.then or case.fault.kind == "stall_writes" else 0
    async with emulated(real_sockets=real_sockets) as (gateway, session):
        gateway.inject("tts", replace(case.fault, **_TRIGGERS[moment]), *case.then)
        tts = inference.TTS("deepgram/aura-2", http_session=session, **gateway.arguments())
        errors: list[tts_module.TTSError] = []
        tts.on("error", errors.append)
        if moment == "closing":
            stream = tts.stream(conn_options=_GENEROUS)
            stream.push_text(TEXT)
            await asyncio.sleep(0.2)
            await stream.aclose()
        elif moment == "idle":
            assert await _length_of(tts, "One.") == pytest.approx(4 * 0.06, abs=0.01)
            await asyncio.sleep(case.patience)
            assert await _length_of(tts, TEXT) == pytest.approx(SECONDS, abs=0.01)
            assert [error.recoverable for error in errors] == [True] * idle_errors
        elif moment == "mid-utterance":
            assert await _length_of(tts, TEXT) == pytest.approx(SECONDS, abs=0.01)
            assert [error.recoverable for error in errors] == [True] * case.speaking
        else:
            await _break_in_mid_speech(tts, case, errors)
        await tts.aclose()
        await _nothing_is_open(gateway, session)


async def _length_of(tts: inference.TTS, text: str) -> float:
    async with tts.stream(conn_options=_GENEROUS) as stream:
        stream.push_text(text)
        stream.end_input()
        return sum([audio.frame.duration async for audio in stream])


async def _break_in_mid_speech(
    tts: inference.TTS, case: Case, errors: list[tts_module.TTSError]
) -> None:
    if case.speaking == 0:
        assert await _length_of(tts, TEXT) == pytest.approx(SECONDS, abs=0.01)
        assert errors == []
        return
    with pytest.raises(APIError):
        await _length_of(tts, TEXT)
    assert [error.recoverable for error in errors] == [False]
    if not case.then:
        assert await _length_of(tts, "One.") == pytest.approx(4 * 0.06, abs=0.01)


# -- completions -----------------------------------------------------------------------------------

LLM_FAULTS = [
    faults.refuse(500),
    faults.refuse(503),
    faults.refuse(429, retry_after=1.0),
    faults.reset_upgrade(),
    faults.reset_upgrade("fin"),
    faults.stall_upgrade(),
    faults.slow_accept(2.0),
    *map(faults.completion, ("stall_headers", "stall_mid", "drop_mid", "bad_sse", "truncate")),
    faults.completion("sse_error", obj={"message": "overloaded"}),
]
_HARMLESS = ("slow_accept", "truncate")
_AFTER_FIRST_WORD = ("stall_mid", "drop_mid", "bad_sse")


@pytest.mark.parametrize("moment", ["first request", "later request", "closing"])
@pytest.mark.parametrize("fault", LLM_FAULTS, ids=str)
async def test_completion(fault: Fault, moment: str, real_sockets: bool) -> None:
    async with emulated(real_sockets=real_sockets) as (gateway, session):
        token = http_context._factory.set(lambda: session)
        llm = inference.LLM("openai/gpt-4.1-mini", **gateway.arguments())
        errors: list[LLMError] = []
        llm.on("error", errors.append)
        if moment == "later request":
            assert await _answer_of(llm) == "You said: hello"
        gateway.inject("llm", fault)
        if moment == "closing":
            stream = llm.chat(chat_ctx=_hello(), conn_options=_GENEROUS)
            await asyncio.sleep(0.2)
            await stream.aclose()
            errors.clear()
        elif fault.kind in _AFTER_FIRST_WORD:
            with pytest.raises(APIError):
                await _answer_of(llm)
            assert [error.recoverable for error in errors] == [False]
        else:
            assert await _answer_of(llm) == "You said: hello"
            assert [error.recoverable for error in errors] == [True] * (fault.kind not in _HARMLESS)
        await llm.aclose()
        http_context._factory.reset(token)
        await _nothing_is_open(gateway, session)


def _hello() -> ChatContext:
    chat_ctx = ChatContext.empty()
    chat_ctx.add_message(role="user", content="hello")
    return chat_ctx


async def _answer_of(llm: inference.LLM) -> str:
    return (await llm.chat(chat_ctx=_hello(), conn_options=_GENEROUS).collect()).text
