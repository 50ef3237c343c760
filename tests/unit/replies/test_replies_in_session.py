"""What is said, what is kept of it, and what survives an interruption at each moment."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterable, AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given, settings, strategies as st
from livekit import rtc

from fakes.llm import FakeLLM, Reply
from fakes.session import Recorded, make_session, now
from fakes.speaker import Speaker
from fakes.tts import FakeTTS
from livekit.agents.llm import FunctionToolCall, function_tool
from livekit.agents.types import FlushSentinel
from livekit.agents.voice import Agent, AgentSession, TranscriptSynchronizer


def call(name: str, call_id: str = "c1", text: str = "") -> Reply:
    return Reply(text, tool_calls=[FunctionToolCall(name=name, arguments="{}", call_id=call_id)])


@asynccontextmanager
async def speaking(
    agent: Agent | None = None, llm: FakeLLM | None = None, *, paced: bool = False, **options: Any
) -> AsyncIterator[tuple[AgentSession[Any], Recorded, Speaker]]:
    """A session that speaks through a loudspeaker in virtual time."""
    speaker = Speaker()
    options.setdefault("tts", FakeTTS())
    session = make_session(llm, tts_text_transforms=None, aec_warmup_duration=None, **options)
    recorded = Recorded(session)
    session.output.audio = speaker
    sync: TranscriptSynchronizer | None = None
    if paced:
        sync = TranscriptSynchronizer(next_in_chain_audio=speaker, next_in_chain_text=None)
        session.output.audio = sync.audio_output
        session.output.transcription = sync.text_output
    await session.start(agent or Agent(instructions="be brief"))
    try:
        yield session, recorded, speaker
    finally:
        await session.aclose()
        if sync is not None:
            await sync.aclose()


def said(session: AgentSession[Any]) -> list[str]:
    return [
        f"{m.role}{' (interrupted)' if m.interrupted else ''}: {m.text_content}"
        for m in session.history.messages()
    ]


LONG = "this answer goes on and on until somebody has heard enough of it"


async def test_interrupted_before_its_turn_keeps_only_the_users_words() -> None:
    async with speaking(llm=FakeLLM(default=LONG)) as (session, _, _):
        session.say("first of all a long announcement that takes its time")
        handle = session.generate_reply(user_input="hello")
        await asyncio.sleep(0.1)
        handle.interrupt()
        await handle
        assert said(session) == ["user: hello"]


async def test_interrupted_while_playing_keeps_what_was_heard() -> None:
    async with speaking(llm=FakeLLM(default=LONG), paced=True) as (session, recorded, speaker):
        handle = session.generate_reply(user_input="hello")
        await asyncio.sleep(1.5)
        await session.interrupt()
        assert handle.done() and speaker.log[-1] == "cleared"
        _user, assistant = session.history.messages()
        heard = assistant.text_content or ""
        assert assistant.interrupted and 0 < len(heard) < len(LONG) and LONG.startswith(heard)
        assert recorded.story[-1] == "agent → listening"


async def test_interrupted_while_only_tools_are_left_keeps_the_words_whole() -> None:
    class Slow(Agent):
        @function_tool
        async def look(self) -> str:
            """Looks."""
            await asyncio.sleep(3)
            return "seen"

    llm = FakeLLM([call("look", text="let me look"), "never"])
    async with speaking(Slow(instructions="x"), llm) as (session, _, _):
        handle = session.generate_reply(user_input="look")
        await asyncio.sleep(2)
        session.interrupt()
        await handle
        assert said(session) == ["user: look", "assistant: let me look"]
        await asyncio.sleep(5)
        outputs = [i for i in session.history.items if i.type == "function_call_output"]
        assert [o.output for o in outputs] == ["seen"] and not outputs[0].reply_required
        assert len(llm.requests) == 1


async def test_interrupted_models_end_at_once_though_a_tool_goes_on() -> None:
    free = asyncio.Event()

    class Clerk(Agent):
        @function_tool
        async def look_up(self) -> str:
            """Takes its time."""
            await free.wait()
            return "found"

    call_first = Reply(
        "one moment ", [FunctionToolCall(name="look_up", arguments="{}", call_id="c")]
    )
    llm = FakeLLM([replace(call_first, hangs=True)])
    tts = FakeTTS(silent_after=0.0)
    async with speaking(Clerk(instructions="be brief"), llm, tts=tts) as (session, _, _):
        handle = session.generate_reply(user_input="where is my order?")
        await asyncio.sleep(1)
        assert (tts.running, len(llm.running)) == (1, 1)
        handle.interrupt()
        await asyncio.sleep(0.1)
        assert (tts.running, len(llm.running)) == (0, 0)
        assert not handle.done()
        free.set()
        await handle
        assert [
            item.output for item in session.history.items if item.type == "function_call_output"
        ] == ["found"]


@settings(max_examples=30, deadline=None)
@given(st.floats(0.0, 6.0), st.booleans())
async def test_an_interruption_at_any_time_keeps_a_prefix(moment: float, close: bool) -> None:
    async with speaking(llm=FakeLLM(default=LONG), paced=True) as (session, _, speaker):
        session.generate_reply(user_input="hello")
        await asyncio.sleep(moment)
        if close:
            await session.aclose()
        else:
            await session.interrupt()
        texts = [m.text_content or "" for m in session.history.messages() if m.role == "assistant"]
        assert all(LONG.startswith(text) for text in texts)
        assert speaker._pending_playback_count == 0
        assert session.history.messages()[0].text_content == "hello"


async def test_flush_marks_cut_a_reply_into_segments_of_one_message() -> None:
    class Cutting(Agent):
        async def llm_node(self, *_: Any) -> AsyncIterator[str | FlushSentinel]:  # type: ignore[override]
            yield "one moment. "
            yield FlushSentinel()
            await asyncio.sleep(5)
            yield "here it is."

    async with speaking(Cutting(instructions="x")) as (session, recorded, speaker):
        await session.generate_reply(user_input="go")
        assert speaker.captured_playout_segments == 2
        assert said(session)[-1] == "assistant: one moment. here it is."
        assert recorded.story.count("agent → speaking") == 1


@pytest.mark.parametrize("result", ["a whole text", None, 42])
async def test_an_llm_node_may_return_a_text_nothing_or_nonsense(
    result: Any, caplog: pytest.LogCaptureFixture
) -> None:
    class Plain(Agent):
        async def llm_node(self, *_: Any) -> Any:
            return result

    async with speaking(Plain(instructions="x")) as (session, _, _):
        await session.generate_reply(user_input="go")
        expected = ["user: go"] + (["assistant: a whole text"] if result == "a whole text" else [])
        assert said(session) == expected
    assert ("expected an async iterable" in caplog.text) == (result == 42)


async def test_a_failing_voice_is_on_the_handle_and_later_speech_works() -> None:
    class Hoarse(Agent):
        broken = True

        async def tts_node(self, text: AsyncIterable[str], settings: Any) -> Any:  # type: ignore[override]
            async for chunk in text:
                if Hoarse.broken:
                    raise ValueError("no voice")
                yield rtc.AudioFrame(bytes(4800 * len(chunk) // len(chunk)), 24000, 1, 2400)

    async with speaking(Hoarse(instructions="x")) as (session, _, _):
        handle = await session.say("hello")
        assert isinstance(handle.exception(), ValueError)
        Hoarse.broken = False
        handle = await session.say("again")
        assert handle.exception() is None
        assert said(session)[-1] == "assistant: again"


async def test_without_audio_the_agent_answers_in_text_at_once() -> None:
    async with speaking(llm=FakeLLM(default=LONG)) as (session, _, speaker):
        session.output.set_audio_enabled(False)
        began = now()
        await session.generate_reply(user_input="hello")
        assert now() == began and speaker.captured_playout_segments == 0
        assert said(session)[-1] == f"assistant: {LONG}"


async def test_tools_of_one_step_run_side_by_side() -> None:
    class Busy(Agent):
        @function_tool
        async def one(self) -> str:
            """One."""
            await asyncio.sleep(2)
            return "first"

        @function_tool
        async def two(self) -> str:
            """Two."""
            await asyncio.sleep(1)
            return "second"

    calls = [
        FunctionToolCall(name="one", arguments="{}", call_id="a"),
        FunctionToolCall(name="two", arguments="{}", call_id="b"),
        FunctionToolCall(name="three", arguments="{}", call_id="c"),
        FunctionToolCall(name="two", arguments="[broken", call_id="d"),
    ]
    llm = FakeLLM([Reply(tool_calls=calls), "done"])
    async with speaking(Busy(instructions="x"), llm) as (session, recorded, _):
        began = now()
        handle = session.generate_reply(user_input="go")
        await asyncio.sleep(2.05)
        assert now() - began < 2.1
        await handle
        outputs = {i.call_id: i for i in session.history.items if i.type == "function_call_output"}
        assert (outputs["a"].output, outputs["b"].output) == ("first", "second")
        assert outputs["c"].output.startswith("Unknown function: three - available tools: ")
        assert outputs["d"].is_error
        assert recorded.story.count("tool_call_started") == 2
        assert recorded.story.count("function_tools_executed") == 1


async def test_rounds_of_tools_are_limited() -> None:
    class Loop(Agent):
        @function_tool
        async def again(self) -> str:
            """Again."""
            return "and again"

    llm = FakeLLM([call("again", f"c{n}") for n in range(4)] + ["enough"])
    async with speaking(Loop(instructions="x"), llm, max_tool_steps=3) as (session, _, _):
        await session.generate_reply(user_input="go")
        assert [r.tool_choice for r in llm.requests][-1] == "none"
        assert len(llm.requests) == 5
        assert said(session)[-1] == "assistant: enough"


@pytest.mark.parametrize("node", ["llm_node", "tts_node", "transcription_node"])
async def test_a_node_that_ignores_cancellation_holds_up_nobody(node: str) -> None:
    free = asyncio.Event()

    class Stubborn(Agent):
        async def _stubborn(self) -> None:
            while not free.is_set():
                try:
                    await free.wait()
                except asyncio.CancelledError:
                    pass

    async def stuck(self: Any, *_: Any) -> Any:
        await self._stubborn()
        return None

    setattr(Stubborn, node, stuck)
    session = make_session(FakeLLM(default=LONG), tts=FakeTTS(), tts_text_transforms=None)
    recorded = Recorded(session)
    session.output.audio = Speaker()
    await session.start(Stubborn(instructions="x"))
    session.generate_reply(user_input="hello")
    await asyncio.sleep(1)
    began = now()
    await session.aclose()
    assert now() - began <= 6.0
    assert len(recorded.closes) == 1
    events, items = len(recorded.events), len(session.history.items)
    free.set()
    await asyncio.sleep(1)
    assert (len(recorded.events), len(session.history.items)) == (events, items)


class Deaf(Speaker):
    """A sink that breaks its promises."""

    def __init__(self, how: str) -> None:
        super().__init__()
        self.how = how

    async def capture_frame(self, frame: rtc.AudioFrame) -> None:
        if self.how == "blocks":
            await asyncio.sleep(3600)
        if self.how == "raises":
            raise OSError("unplugged")
        await super().capture_frame(frame)

    def _finish(self, interrupted: bool) -> None:
        if self.how != "never finishes":
            super()._finish(interrupted)


@pytest.mark.parametrize("how", ["blocks", "raises", "never finishes"])
async def test_a_broken_sink_neither_holds_the_close_nor_later_speech(how: str) -> None:
    session = make_session(FakeLLM(default=LONG), tts=FakeTTS(), tts_text_transforms=None)
    recorded = Recorded(session)
    session.output.audio = sink = Deaf(how)
    await session.start(Agent(instructions="x"))
    session.generate_reply(user_input="hello")
    await asyncio.sleep(1)
    began = now()
    await session.aclose()
    assert now() - began <= 6.0
    assert len(recorded.closes) == 1
    assert sink._pending_playback_count == 0
    session.output.audio = Speaker()
    await session.start(Agent(instructions="x"))
    await session.say("all is well again")
    assert said(session)[-1] == "assistant: all is well again"
    await session.aclose()
