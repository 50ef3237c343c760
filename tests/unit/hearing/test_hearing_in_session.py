"""Hearing at work in a session: real scheduler, replies and close, scripted models."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest

from fakes.hearing import FakeTextDetector, settle
from fakes.llm import FakeLLM
from fakes.session import Recorded, make_session, now
from fakes.speaker import Speaker
from fakes.stt import FOREVER, FakeRecognizeStream, FakeSTT
from fakes.tts import FakeTTS
from fakes.vad import FakeVAD, FakeVADStream
from livekit.agents.vad import VADEventType
from livekit.agents.voice import Agent, AgentSession


class Call:
    """A session on the phone."""

    def __init__(self, **options: Any) -> None:
        self.stt: FakeSTT = options.pop("stt", None) or FakeSTT()
        self.vad: FakeVAD = options.pop("vad", None) or FakeVAD()
        self.llm = FakeLLM(default="a rather long answer to that")
        options.setdefault("aec_warmup_duration", None)
        self.speaker = Speaker(can_pause=options.pop("can_pause", True))
        self.session: AgentSession[Any] = make_session(
            self.llm, stt=self.stt, vad=self.vad, tts=FakeTTS(), **options
        )
        self.session.output.audio = self.speaker
        self.recorded = Recorded(self.session)

    @property
    def ear(self) -> FakeRecognizeStream:
        return self.stt.streams[-1]

    @property
    def vad_stream(self) -> FakeVADStream:
        return self.vad.streams[-1]

    @property
    def story(self) -> list[str]:
        return self.recorded.story

    @property
    def words(self) -> list[str]:
        return [f"{m.role}: {m.text_content}" for m in self.session.history.messages()]

    async def user_starts(self, duration: float = 0.6) -> None:
        self.vad_stream.send(VADEventType.START_OF_SPEECH, speech_duration=0.05)
        for step in range(1, 7):
            await asyncio.sleep(duration / 6)
            self.vad_stream.send(
                VADEventType.INFERENCE_DONE,
                speaking=True,
                speech_duration=duration * step / 6,
                raw_accumulated_speech=0.1,
            )
        await settle()

    async def user_stops(self) -> None:
        await asyncio.sleep(0.25)
        self.vad_stream.send(
            VADEventType.END_OF_SPEECH, silence_duration=0.25, speech_duration=0.6, speaking=False
        )
        await settle()

    async def user_says(self, text: str) -> None:
        await self.user_starts()
        self.ear.final(text)
        await self.user_stops()


@asynccontextmanager
async def call(agent: Agent | None = None, **options: Any) -> AsyncIterator[Call]:
    made = Call(**options)
    await made.session.start(agent or Agent(instructions="be brief"))
    await settle()
    try:
        yield made
    finally:
        await made.session.aclose()


# -- conversation ---------------------------------------------------------------------------------


async def test_a_voice_turn_in_the_order_listeners_see_it() -> None:
    async with call() as c:
        await c.user_says("what time is it")
        await asyncio.sleep(1)
        assert [line for line in c.story if line != "agent → listening"][1:] == [
            "user → speaking",
            "user_input_transcribed",
            "speech_created",
            "user → listening",
            "user: what time is it",
            "agent → thinking",
            "agent → speaking",
        ]


async def test_a_reply_that_was_prepared_early_tells_how_long_the_user_waited() -> None:
    async with call() as c:
        await c.user_says("what time is it")
        await asyncio.sleep(3)
        _, answer = c.session.history.messages()
        assert answer.role == "assistant"
        assert 0.0 < answer.metrics["e2e_latency"] < 2.0


async def test_cutting_the_agent_off() -> None:
    async with call() as c:
        handle = c.session.say("this is going to take quite a while to say")
        await asyncio.sleep(0.5)
        begun = len(c.story)
        await c.user_says("stop please")
        await asyncio.sleep(1)
        assert handle.interrupted
        assert c.speaker.log[:3] == ["paused", "cleared", "resumed"]
        seen = c.story[begun:]
        order = ["user → speaking", "agent → listening", "user_input_transcribed"]
        assert [line for line in seen if line in order][:3] == order
        assert any(line.endswith("(interrupted)") for line in seen)
        assert "user: stop please" in c.words


async def test_a_cough_does_not_end_the_speech() -> None:
    async with call() as c:
        handle = c.session.say("this is going to take quite a while to say")
        await asyncio.sleep(0.5)
        await c.user_starts()
        assert c.speaker.paused
        assert c.session.agent_state == "listening"
        await c.user_stops()
        await asyncio.sleep(2.1)
        assert c.story[-2:] == ["agent → speaking", "agent_false_interruption"]
        await handle
        assert not handle.interrupted
        assert c.speaker.log == ["paused", "resumed"]


async def test_a_speaker_that_can_not_pause_is_cleared_at_once() -> None:
    async with call(can_pause=False) as c:
        handle = c.session.say("this is going to take quite a while to say")
        await asyncio.sleep(0.5)
        await c.user_starts()
        assert handle.interrupted
        assert "cleared" in c.speaker.log
        await c.user_stops()


async def test_the_next_agent_hears_with_one_stream() -> None:
    async with call() as c:
        c.session.update_agent(Agent(instructions="the next one"))
        await asyncio.sleep(1)
        assert c.stt.open_streams == [c.ear]
        await c.user_says("are you the next")
        await asyncio.sleep(1)
        assert "user: are you the next" in c.words
    assert (c.stt.open_streams, c.vad.open_streams) == ([], [])


async def test_live_changes_of_models_leave_nothing_behind() -> None:
    agent = Agent(instructions="be brief")
    async with call(agent) as c:
        new_stt, new_vad = FakeSTT(), FakeVAD()
        agent.update_options(stt=new_stt, vad=new_vad)
        await settle()
        c.vad = new_vad
        await c.user_starts()
        new_stt.streams[0].final("heard by the new one")
        await c.user_stops()
        await asyncio.sleep(1)
        assert "user: heard by the new one" in c.words
        assert c.stt.open_streams == []
    assert (new_stt.open_streams, new_vad.open_streams) == ([], [])


# -- closing --------------------------------------------------------------------------------------


async def closed_in(c: Call, *, drain: bool = False) -> float:
    began = now()
    if drain:
        c.session.shutdown(drain=True)
    await c.session.aclose()
    assert len(c.recorded.closes) == 1
    assert c.session._activity is None
    return now() - began


async def test_a_silent_call_closes_at_once() -> None:
    async with call() as c:
        assert await closed_in(c) < 0.02
    assert (c.stt.open_streams, c.vad.open_streams) == ([], [])


@pytest.mark.parametrize("drain", [False, True])
async def test_hanging_up_in_the_middle_of_a_sentence_keeps_it(drain: bool) -> None:
    async with call() as c:
        await c.user_starts()
        c.ear.interim("I only wanted to")
        await settle()
        assert await closed_in(c, drain=drain) <= 2.5
    assert c.words == ["user: I only wanted to"]
    close = c.story.index("close")
    assert "user: I only wanted to" in c.story[:close]


async def test_the_final_that_comes_during_the_close_is_kept() -> None:
    async with call() as c:
        await c.user_starts()
        stream = c.ear
        asyncio.get_running_loop().call_later(1.0, lambda: stream.final("and goodbye"))
        assert 1.0 <= await closed_in(c) < 1.1
    assert c.words == ["user: and goodbye"]


async def test_on_exit_can_speak_although_the_user_never_fell_silent() -> None:
    class Polite(Agent):
        async def on_exit(self) -> None:
            await self.session.say("goodbye")

    async with call(Polite(instructions="be polite")) as c:
        await c.user_starts()
        assert await closed_in(c, drain=True) < 5
    assert "assistant: goodbye" in c.words


async def test_a_paused_speech_does_not_hold_up_a_drain() -> None:
    async with call() as c:
        handle = c.session.say("one last thing")
        await asyncio.sleep(0.2)
        await c.user_starts()
        assert c.speaker.paused
        assert await closed_in(c, drain=True) < 5
        assert handle.done()
    assert not c.speaker.paused


@pytest.mark.parametrize("drain", [False, True])
async def test_a_stuck_detector_is_nobodys_problem(drain: bool) -> None:
    detector = FakeTextDetector()
    detector.delay = FOREVER
    async with call(turn_handling={"turn_detection": detector}) as c:
        await c.user_says("hello")
        assert await closed_in(c, drain=drain) < 0.6
    assert c.words == ["user: hello"]


@pytest.mark.parametrize("part", ["stt", "vad"])
@pytest.mark.parametrize("how", ["hangs", "ignores"])
async def test_a_part_that_does_not_let_go_costs_one_step(part: str, how: str) -> None:
    options: dict[str, Any] = {"hang_on_close": 3600} if how == "hangs" else {}
    if how == "ignores":
        options["ignore_cancellation"] = True
    made: Any = FakeSTT(**options) if part == "stt" else FakeVAD(**options)
    async with call(**{part: made}) as c:
        await settle()
        assert await closed_in(c) <= 2.1
    made.ignore_cancellation = False
    for stream in made.open_streams:
        stream._task.cancel()
    await settle()


async def test_a_stuck_turn_hook_is_cut_off_and_its_words_are_kept() -> None:
    class Stuck(Agent):
        async def on_user_turn_completed(self, turn_ctx: Any, new_message: Any) -> None:
            await asyncio.sleep(3600)

    async with call(Stuck(instructions="think")) as c:
        await c.user_says("are you there")
        await asyncio.sleep(1)
        assert await closed_in(c) <= 5.6
    assert c.words == ["user: are you there"]


async def test_clearing_right_before_the_close_orphans_nothing() -> None:
    async with call() as c:
        await settle()
        c.session.clear_user_turn()
        await closed_in(c)
    assert c.stt.open_streams == []


async def test_a_handler_that_raises_does_not_make_the_agent_deaf() -> None:
    async with call() as c:

        def broken(_: Any) -> None:
            raise TypeError("handler bug")

        for event in ("user_state_changed", "user_input_transcribed"):
            c.session.on(event, broken)
        await c.user_says("still there")
        await asyncio.sleep(1)
        assert "user: still there" in c.words
