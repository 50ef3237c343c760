"""Every fault, at every moment of a conversation, for the detectors behind the gateway.

The session is a whole one: what counts is that turns go on ending, that speech over the agent goes on
interrupting, that nobody is told of an error, and that nothing is open after the close. Times are
virtual; ``GATEWAY_TESTS=full`` runs everything, otherwise the middle of a sentence meets every fault
and the other moments some.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from typing import Any

import aiohttp
import pytest
from gateway import GatewayEmulator, faults
from gateway.calls import emulated
from gateway.faults import Fault
from unit.hearing.test_hearing_in_session import Call

from fakes.hearing import frame, settle
from fakes.session import now
from livekit.agents import inference
from livekit.agents.inference.eot import stream as eot_stream
from livekit.agents.inference.eot.transports import Answer
from livekit.agents.utils import http_context
from livekit.agents.vad import VADEventType
from livekit.agents.voice import Agent

FULL = os.environ.get("GATEWAY_TESTS") == "full"
PIECE = 0.1
"""Seconds of audio that the microphone gives at once."""
LOUD, QUIET = 8000, 0

MOMENTS = ("idle", "mid-utterance", "mid-reply", "closing")


@dataclass(frozen=True)
class Case:
    """A fault, and what the next connections meet."""

    fault: Fault
    then: tuple[Fault, ...] = ()
    harmless: bool = False
    """No reason to give the gateway up."""

    def __str__(self) -> str:
        return " then ".join(map(str, (self.fault, *self.then)))


SHARED_CASES = [
    *(Case(faults.drop(how), harmless=True) for how in ("abort", "fin", 1000, 1001, 1012)),
    *(Case(faults.drop(code)) for code in (1002, 1008, 1009, 1011, 1013, 3000)),
    Case(faults.drop(1000, reason="session closed due to agent inactivity"), harmless=True),
    Case(faults.error(2007, then="close"), harmless=True),
    Case(faults.error(2007), harmless=True),
    *(Case(faults.error(code)) for code in (429, 500, 503)),
    Case(faults.error(500, then="close")),
    Case(faults.error(500, then="chatter")),
    Case(faults.malformed(times=3), harmless=True),
    Case(faults.malformed(b"\xff\xff\xff"), harmless=True),
    Case(faults.unknown_messages(), harmless=True),
    Case(faults.huge_frame()),
    Case(faults.stall_writes()),
    Case(faults.stall_reads()),
    Case(faults.half_open()),
    Case(faults.drop(), then=(faults.refuse(401),)),
    Case(faults.drop(), then=(faults.refuse(503),)),
    Case(faults.drop(), then=(faults.refuse(429, retry_after=1.0),)),
    Case(faults.drop(), then=(faults.stall_upgrade(),)),
    # the HTTP library itself tries a second time
    Case(faults.drop(), then=(faults.reset_upgrade(),), harmless=True),
    Case(faults.drop(), then=(faults.reset_upgrade(), faults.reset_upgrade("fin"))),
    Case(faults.drop(), then=(faults.slow_accept(0.2),), harmless=True),
]
_REPRESENTATIVE = {"drop(abort)", "drop(1011)", "error(2007, close)", "error(500, silence)"}
_REPRESENTATIVE |= {"half_open", "stall_writes", "drop(abort) then refuse(503)"}


def _rows(*cases: Case) -> Iterator[Any]:
    for case in cases:
        for moment in MOMENTS:
            if FULL or moment == "mid-utterance" or str(case) in _REPRESENTATIVE:
                yield pytest.param(case, moment, id=f"{moment} {case}")


class Talk(Call):
    """A conversation of which somebody listens to the sound as well."""

    async def sounds(self, seconds: float, fill: int = QUIET) -> None:
        """The microphone gives this."""
        for _ in range(round(seconds / PIECE)):
            activity = self.session._activity
            if activity is not None:
                activity.push_audio(frame(PIECE, fill=fill))
            await asyncio.sleep(PIECE)

    def _vad(self, **event: Any) -> None:
        self.vad_stream.send(VADEventType.INFERENCE_DONE, speaking=True, **event)

    async def begins_to_speak(self, seconds: float = 0.6) -> None:
        """The user speaks, and goes on."""
        self.vad_stream.send(VADEventType.START_OF_SPEECH, speech_duration=0.05)
        for step in range(1, round(seconds / PIECE) + 1):
            await self.sounds(PIECE, LOUD)
            self._vad(speech_duration=PIECE * step, raw_accumulated_speech=PIECE)

    async def stops_speaking(self, text: str) -> float:
        """The user falls silent; returns when."""
        stopped_at = now()
        self.ear.final(text)
        await self.sounds(0.2)
        self._vad(speech_duration=0.6, raw_accumulated_silence=0.2)
        await self.sounds(0.1)
        self.vad_stream.send(
            VADEventType.END_OF_SPEECH, silence_duration=0.3, speech_duration=0.6, speaking=False
        )
        await settle()
        return stopped_at

    async def is_answered(self, stopped_at: float) -> float:
        """Wait until the agent takes its turn; returns how long that took."""
        while self.session.agent_state == "listening":
            assert now() - stopped_at < 5, "the turn never ended"
            await asyncio.sleep(0.01)
        return now() - stopped_at


class Judge:
    """Takes the place of the local model, on the loop."""

    def __init__(self, recent: Any, *, on_answer: Callable[[Answer], None], **_: Any) -> None:
        self.on_answer = on_answer

    def push(self, frame: Any) -> None:
        pass

    flush = end_input = lambda self: None

    def new_request_id(self) -> str:
        return "turn_request_local"

    def ask(self, request_id: str) -> None:
        asyncio.get_running_loop().call_later(0.02, self.on_answer, Answer(request_id, 0.8))

    async def aclose(self) -> None:
        pass


@pytest.fixture(autouse=True)
def _no_threads(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(eot_stream, "LocalTransport", Judge)


@asynccontextmanager
async def talking(
    gateway: GatewayEmulator, session: aiohttp.ClientSession, **options: Any
) -> AsyncIterator[Talk]:
    """A conversation. Whatever happened, it closes in time and leaves nothing open."""
    talk = Talk(**options)
    await talk.session.start(Agent(instructions="be brief"))
    await settle()
    try:
        yield talk
    finally:
        began = now()
        await talk.session.aclose()
        assert now() - began <= 2.2
        [close] = talk.recorded.closes
        assert close.error is None and close.report is not None and close.report.survivors == []
    await gateway.until_closed(2.0)
    await session.close()
    await asyncio.sleep(0.1)
    assert gateway.open_sockets == 0
    assert [ev for ev in talk.recorded.events if ev.type == "error"] == []


# -- turns -----------------------------------------------------------------------------------------

EOT_CASES = [
    *SHARED_CASES,
    Case(faults.closed_early(), harmless=True),
]


@pytest.mark.parametrize(("case", "moment"), list(_rows(*EOT_CASES)))
async def test_turns_end_whatever_happens_to_their_judge(
    case: Case, moment: str, caplog: pytest.LogCaptureFixture
) -> None:
    # seconds of audio: quiet for 1.0, speech to 1.6, silence to 1.9, then the answer
    strikes_at = {"idle": 0.5, "mid-utterance": 1.3, "mid-reply": 2.5, "closing": 1.3}[moment]
    async with emulated() as (gateway, http):
        gateway.inject("eot", replace(case.fault, after_audio=strikes_at), *case.then)
        detector = inference.TurnDetector(version="v1", http_session=http, **gateway.arguments())
        judged: list[Any] = []
        detector.on("metrics_collected", judged.append)
        async with talking(gateway, http, turn_handling={"turn_detection": detector}) as talk:
            await talk.sounds(1.0)
            await talk.begins_to_speak()
            if moment == "closing":
                return
            waits = []
            for text in ("what time is it", "and what day"):
                waits.append(await talk.is_answered(await talk.stops_speaking(text)))
                await talk.sounds(6.0)
                if text == "what time is it":
                    await talk.begins_to_speak()
            stream = talk.session._activity.recognition._parts.streaming_predictor.stream  # type: ignore
            assert [line for line in talk.words if line.startswith("user")] == [
                "user: what time is it",
                "user: and what day",
            ]
            # on time, but for the one question that nobody answered
            assert sorted(waits)[0] <= 0.35 and sorted(waits)[1] <= 1.35, waits
            gave_up = stream.is_fallback
            assert gave_up is not case.harmless, waits
            assert caplog.text.count("turn detection falls back to the local model") == gave_up
            assert stream.model == f"turn-detector-v1{'-mini' * gave_up}"
            assert detector.model == "turn-detector-v1"
            if gave_up:
                assert gateway.dials("eot") == 1 + len(case.then), "nobody comes back"
            else:
                assert gateway.dials("eot") <= 2 + len(case.then)
            assert len(judged) >= 1


# -- speech over the agent -------------------------------------------------------------------------

STORY = "this is a story that takes a long while to tell " * 3

BARGEIN_CASES = [
    *SHARED_CASES,
    Case(faults.error(-1)),
    Case(faults.closed_early(), harmless=True),
]


@pytest.mark.parametrize(("case", "moment"), list(_rows(*BARGEIN_CASES)))
async def test_the_user_gets_a_word_in_whatever_happens_to_the_judge(
    case: Case, moment: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO", logger="livekit.agents")
    async with emulated() as (gateway, http):
        _point_at(gateway, http, monkeypatch)
        options = {"turn_detection": None, "interruption": {"mode": "adaptive"}}
        async with talking(gateway, http, turn_handling=options) as talk:
            activity = talk.session._activity
            assert activity is not None
            detector: Any = activity.interruption_detector
            errors: list[Any] = []
            detector.on("error", errors.append)

            def strike_at(this: str) -> None:
                if this == moment or (this, moment) == ("mid-utterance", "closing"):
                    gateway.inject("bargein", *case.then)
                    gateway.strike_now("bargein", case.fault)

            waits = []
            for text in ("stop please", "enough"):
                talk.session.say(STORY)
                await talk.sounds(1.0)
                assert gateway.dials("bargein") > 0
                if text == "stop please":
                    strike_at("mid-reply")
                await talk.sounds(1.0)
                assert talk.session.agent_state == "speaking"
                first = text == "stop please"
                waits.append(await _is_heard(talk, strike_at if first else lambda this: None))
                if moment == "closing":
                    return
                await talk.is_answered(await talk.stops_speaking(text))
                while talk.session.agent_state != "listening":
                    await talk.sounds(0.1)
                if text == "stop please":
                    strike_at("idle")
                    await talk.sounds(2.0)
            lost = not _survives(case, moment)
            assert waits[0] <= (1.3 if lost and moment != "idle" else 0.35), waits
            assert waits[1] <= (1.3 if lost else 0.35), waits
            assert [error.recoverable for error in errors] == [False] * lost
            assert (activity.recognition._parts.listening._interruption is None) is lost  # type: ignore
            assert caplog.text.count("audio activity interrupts from now on") == lost
            assert gateway.dials("bargein") <= 2 + len(case.then)


def _survives(case: Case, moment: str) -> bool:
    """Whether the detector is asked again: not when it owed an answer, for it is not asked twice."""
    if moment == "mid-utterance" and case.fault.kind in ("drop", "error"):
        routine = case.fault.options.get("how") in (1000, 1001, 1012)
        return routine and not case.fault.options.get("reason")
    return case.harmless


async def _is_heard(talk: Talk, strike_at: Callable[[str], None]) -> float:
    """The user speaks until the agent is silent; returns how long that took."""
    began_at = now()
    talk.vad_stream.send(VADEventType.START_OF_SPEECH, speech_duration=0.05)
    await settle()
    strike_at("mid-utterance")
    for step in range(1, 40):
        if talk.session.agent_state != "speaking":
            break
        await talk.sounds(PIECE, LOUD)
        talk._vad(speech_duration=PIECE * step, raw_accumulated_speech=PIECE)
        await settle()
    return now() - began_at


def _point_at(
    gateway: GatewayEmulator, http: aiohttp.ClientSession, monkeypatch: pytest.MonkeyPatch
) -> None:
    arguments = gateway.arguments()
    monkeypatch.setenv("LIVEKIT_INFERENCE_URL", arguments["base_url"])
    monkeypatch.setenv("LIVEKIT_INFERENCE_API_KEY", arguments["api_key"])
    monkeypatch.setenv("LIVEKIT_INFERENCE_API_SECRET", arguments["api_secret"])
    http_context._factory.set(lambda: http)
