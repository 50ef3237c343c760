"""The parts of a reply one by one, as somebody uses them who puts a turn together himself."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterable, AsyncIterator
from typing import Any

import pytest
from livekit import rtc

from fakes.llm import FakeLLM, Reply, call
from fakes.session import now, running
from fakes.speaker import Speaker
from livekit.agents.llm import (
    ChatChunk,
    ChatContext,
    ChoiceDelta,
    FunctionCall,
    FunctionToolCall,
    Tool,
    ToolContext,
    function_tool,
)
from livekit.agents.types import (
    NOT_GIVEN,
    USERDATA_TIMED_TRANSCRIPT,
    FlushSentinel,
    TimedString,
)
from livekit.agents.voice import Agent, ModelSettings, SpeechHandle
from livekit.agents.voice.generation import (
    ToolExecutionOutput,
    forward_generation,
    perform_audio_forwarding,
    perform_llm_inference,
    perform_text_forwarding,
    perform_tool_executions,
    perform_tts_inference,
)
from livekit.agents.voice.io import TextOutput

SETTINGS = ModelSettings()


def frame(seconds: float = 1.0, rate: int = 1000) -> rtc.AudioFrame:
    samples = int(seconds * rate)
    return rtc.AudioFrame(bytes(2 * samples), rate, 1, samples)


async def stream(*items: Any, every: float = 0.0) -> AsyncIterator[Any]:
    for item in items:
        await asyncio.sleep(every)
        yield item


async def all_of(source: AsyncIterable[Any]) -> list[Any]:
    return [item async for item in source]


class Captions(TextOutput):
    def __init__(self) -> None:
        super().__init__(label="captions", next_in_chain=None)
        self.shown: list[str] = []

    async def capture_text(self, text: str) -> None:
        self.shown.append(text)

    def flush(self) -> None:
        self.shown.append("|")


@function_tool
async def look() -> str:
    """Looks."""
    return "rain"


@function_tool
async def forever() -> str:
    """Never ends."""
    await asyncio.Event().wait()
    return ""


# -- the LLM --------------------------------------------------------------------------------------


async def test_the_text_of_a_node_comes_with_its_segments_calls_and_usage() -> None:
    async def node(chat_ctx: ChatContext, tools: list[Tool], settings: ModelSettings) -> Any:
        async def answer() -> AsyncIterator[Any]:
            assert [tool.id for tool in tools] == ["look"]
            yield "one "
            yield FlushSentinel()
            delta = ChoiceDelta(
                content="two",
                tool_calls=[FunctionToolCall(name="look", arguments="{}", call_id="c1")],
            )
            yield ChatChunk(id="x", delta=delta)

        return answer()

    task, data = perform_llm_inference(
        node=node,
        chat_ctx=ChatContext.empty(),
        tool_ctx=ToolContext([look]),
        model_settings=SETTINGS,
        model="m",
        provider="p",
    )
    text = await all_of(data.text_ch)
    assert [t if isinstance(t, str) else "|" for t in text] == ["one ", "|", "two"]
    (made,) = await all_of(data.function_ch)
    assert (made.name, made.id) == ("look", f"{data.id}/fnc_0")
    assert await task is True
    assert data.generated_text == "one two" and data.generated_functions == [made]


async def test_a_node_that_fails_has_its_text_kept_and_its_error_raised() -> None:
    async def node(*_: Any) -> AsyncIterator[str]:
        yield "half an"
        raise OSError("gone")

    task, data = perform_llm_inference(
        node=node, chat_ctx=ChatContext.empty(), tool_ctx=None, model_settings=SETTINGS
    )
    assert await all_of(data.text_ch) == ["half an"]
    with pytest.raises(OSError, match="gone"):
        await task


async def test_a_cancelled_request_closes_its_node_and_ends_its_streams() -> None:
    closed = asyncio.Event()

    async def node(*_: Any) -> AsyncIterator[str]:
        try:
            yield "well"
            await asyncio.Event().wait()
        finally:
            closed.set()

    task, data = perform_llm_inference(
        node=node, chat_ctx=ChatContext.empty(), tool_ctx=None, model_settings=SETTINGS
    )
    reading = asyncio.ensure_future(all_of(data.text_ch))
    await asyncio.sleep(1)
    task.cancel()
    assert await reading == ["well"] and await all_of(data.function_ch) == []
    assert closed.is_set()


async def test_a_tool_that_the_node_adds_may_be_called() -> None:
    async def node(_: Any, tools: list[Tool], __: Any) -> AsyncIterator[Any]:
        tools.append(look)
        delta = ChoiceDelta(
            tool_calls=[FunctionToolCall(name="look", arguments="{}", call_id="c1")]
        )
        yield ChatChunk(id="x", delta=delta)

    tool_ctx = ToolContext.empty()
    task, data = perform_llm_inference(
        node=node, chat_ctx=ChatContext.empty(), tool_ctx=tool_ctx, model_settings=SETTINGS
    )
    await all_of(data.function_ch)
    await task
    assert list(tool_ctx.function_tools) == ["look"]


# -- the voice ------------------------------------------------------------------------------------


async def test_a_text_is_transformed_and_voiced_with_the_times_of_its_words() -> None:
    async def node(text: AsyncIterable[str], _: Any) -> AsyncIterator[rtc.AudioFrame]:
        async for word in text:
            spoken = frame()
            spoken.userdata[USERDATA_TIMED_TRANSCRIPT] = [TimedString(word, 0.0, 1.0)]
            yield spoken

    task, data = perform_tts_inference(
        node=node,
        input=stream("**really** ", "so"),
        model_settings=SETTINGS,
        text_transforms=["filter_markdown"],
    )
    assert "".join(await all_of(data.timed_texts)).strip() == "really so"
    assert len(await all_of(data.audio_ch)) > 0
    assert await task is True and data.ttfb is not None


async def test_a_node_without_a_voice_gives_no_audio() -> None:
    async def node(text: AsyncIterable[str], _: Any) -> None:
        return None

    task, data = perform_tts_inference(
        node=node, input=stream("x"), model_settings=SETTINGS, text_transforms=None
    )
    assert await task is False
    assert await all_of(data.audio_ch) == [] and await all_of(data.timed_texts) == []


async def test_an_unknown_transform_is_refused_when_it_is_applied() -> None:
    with pytest.raises(ValueError, match="shout"):
        perform_tts_inference(
            node=lambda *_: None,  # type: ignore[arg-type, return-value]
            input=stream("x"),
            model_settings=SETTINGS,
            text_transforms=["shout"],  # type: ignore[list-item]
        )


# -- the outputs ----------------------------------------------------------------------------------


async def test_a_transcript_is_handed_on_and_flushed_once() -> None:
    captions, begin = Captions(), now()
    task, out = perform_text_forwarding(text_output=captions, source=stream("a", "b", every=1.0))
    await out.first_text_fut
    assert now() - begin == pytest.approx(1.0)
    await task
    assert captions.shown == ["a", "b", "|"] and out.text == "ab"


async def test_a_cancelled_transcript_is_flushed_too_and_keeps_what_was_shown() -> None:
    captions = Captions()
    task, out = perform_text_forwarding(text_output=captions, source=stream("a", "b", every=1.0))
    await asyncio.sleep(1.5)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert captions.shown == ["a", "|"] and out.text == "a"


async def test_a_transcript_that_fails_raises_and_has_no_first_text() -> None:
    async def broken() -> AsyncIterator[str]:
        raise OSError("no text")
        yield ""

    task, out = perform_text_forwarding(text_output=None, source=broken())
    with pytest.raises(OSError, match="no text"):
        await task
    assert out.first_text_fut.cancelled()


async def test_audio_is_handed_on_after_the_pause_was_looked_at() -> None:
    speaker, begin = Speaker(), now()
    looked: list[float] = []
    task, out = perform_audio_forwarding(
        audio_output=speaker,
        tts_output=stream(frame(), frame(), every=1.0),
        reconcile_playout_pause=lambda: looked.append(now()),
    )
    await out.first_frame_fut
    assert looked == [pytest.approx(begin + 1.0)]
    await task
    played = await speaker.wait_for_playout()
    assert played.playback_position == pytest.approx(2.0) and not played.interrupted


async def test_cancelled_audio_falls_silent_at_once() -> None:
    speaker = Speaker()
    task, out = perform_audio_forwarding(
        audio_output=speaker,
        tts_output=stream(*[frame()] * 60, every=0.5),
        reconcile_playout_pause=lambda: None,
    )
    await out.first_frame_fut
    await asyncio.sleep(3.0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    played = await speaker.wait_for_playout()
    assert played.interrupted and played.playback_position == pytest.approx(3.0)


async def test_audio_that_never_comes_has_no_first_frame_and_leaves_no_listener() -> None:
    speaker = Speaker()
    before = {name: set(handlers) for name, handlers in speaker._events.items()}
    task, out = perform_audio_forwarding(
        audio_output=speaker, tts_output=stream(), reconcile_playout_pause=lambda: None
    )
    await task
    await asyncio.sleep(0)
    assert out.first_frame_fut.cancelled()
    after = {name: set(handlers) for name, handlers in speaker._events.items() if handlers}
    assert after == {name: handlers for name, handlers in before.items() if handlers}


async def test_a_segment_is_played_to_its_end() -> None:
    speaker, captions, began = Speaker(), Captions(), list[float]()
    result = await forward_generation(
        speech_handle=SpeechHandle.create(),
        audio_output=speaker,
        text_output=captions,
        audio_source=stream(frame(), frame()),
        text_source=stream("all ", "of it"),
        on_first_frame=began.append,
        reconcile_playout_pause=lambda: None,
    )
    assert (result.outcome, result.text) == ("full", "all of it")
    assert result.playback_position == pytest.approx(2.0) and not result.interrupted
    assert len(began) == 1 and captions.shown == ["all ", "of it", "|"]


async def test_an_interrupted_segment_tells_how_far_it_got() -> None:
    handle = SpeechHandle.create()
    asyncio.get_running_loop().call_later(3.0, handle.interrupt)
    result = await forward_generation(
        speech_handle=handle,
        audio_output=Speaker(),
        text_output=None,
        audio_source=stream(*[frame()] * 60),
        text_source=stream("a long story"),
        on_first_frame=lambda _: None,
        reconcile_playout_pause=lambda: None,
    )
    assert result.outcome == "partial" and result.interrupted
    assert result.playback_position == pytest.approx(3.0)


async def test_a_segment_whose_voice_fails_is_partial() -> None:
    async def node(text: AsyncIterable[str], _: Any) -> AsyncIterator[rtc.AudioFrame]:
        yield frame()
        raise OSError("the voice is gone")

    task, data = perform_tts_inference(
        node=node, input=stream("x"), model_settings=SETTINGS, text_transforms=None
    )
    result = await forward_generation(
        speech_handle=SpeechHandle.create(),
        audio_output=Speaker(),
        text_output=None,
        audio_source=data.audio_ch,
        text_source=stream("x"),
        on_first_frame=lambda _: None,
        reconcile_playout_pause=lambda: None,
        tts_data=data,
    )
    assert result.outcome == "partial" and isinstance(result.error, OSError)
    with pytest.raises(OSError):
        await task


# -- tools ----------------------------------------------------------------------------------------


class Toolbox:
    """Runs calls, and writes down what the callbacks are told."""

    def __init__(self) -> None:
        self.story: list[str] = []

    def start(self, session: Any, handle: SpeechHandle, *calls: FunctionCall, **kw: Any) -> Any:
        return perform_tool_executions(
            session=session,
            speech_handle=handle,
            tool_ctx=ToolContext([look, forever]),
            tool_choice=kw.get("tool_choice", NOT_GIVEN),
            function_stream=stream(*calls),
            tool_execution_started_cb=lambda made: self.story.append(f"{made.name} started"),
            tool_execution_completed_cb=self._completed,
        )

    def _completed(self, output: ToolExecutionOutput) -> None:
        assert output.fnc_call_out is not None
        self.story.append(f"{output.fnc_call.name}: {output.fnc_call_out.output}")


def fnc(name: str, arguments: str = "{}") -> FunctionCall:
    return FunctionCall(call_id=f"call_{name}", name=name, arguments=arguments)


async def test_calls_run_and_refused_ones_tell_the_model_why() -> None:
    toolbox = Toolbox()
    async with running() as (session, _):
        task, executed = toolbox.start(
            session, SpeechHandle.create(), fnc("look"), fnc("sing"), fnc("look", "[1")
        )
        await task
        assert executed.first_tool_started_fut.done()
        assert not executed.first_tool_started_fut.cancelled()
        assert toolbox.story[0] == "look started" and "look: rain" in toolbox.story
        assert len(executed.output) == 3
        assert any("Unknown function: sing" in line for line in toolbox.story)
        assert not session.history.items or all(
            item.type != "function_call" for item in session.history.items
        )


async def test_no_tool_runs_where_none_is_allowed() -> None:
    toolbox = Toolbox()
    async with running() as (session, _):
        task, executed = toolbox.start(
            session, SpeechHandle.create(), fnc("look"), tool_choice="none"
        )
        await task
        assert toolbox.story == [] and executed.output == []
        assert executed.first_tool_started_fut.cancelled()


async def test_a_session_that_ran_tools_for_somebody_still_answers_and_closes() -> None:
    toolbox = Toolbox()
    llm = FakeLLM([Reply("hello")])
    async with running(Agent(instructions="x"), llm) as (session, recorded):
        task, _ = toolbox.start(session, SpeechHandle.create(), fnc("look"))
        await task
        await session.generate_reply(user_input="hi")
        wedged, _ = toolbox.start(session, SpeechHandle.create(), fnc("forever"))
        await asyncio.sleep(1)
    assert "assistant: hello" in recorded.story
    await asyncio.wait_for(wedged, 1)
    assert toolbox.story[-1].startswith("forever:")


async def test_tools_need_a_running_session() -> None:
    from fakes.session import make_session

    with pytest.raises(RuntimeError, match="isn't running"):
        Toolbox().start(make_session(), SpeechHandle.create(), fnc("look"))


async def test_a_whole_turn_can_be_put_together_from_the_parts() -> None:
    llm = FakeLLM([Reply("let me look", tool_calls=[call("look", "{}")])])
    agent, speaker, toolbox = Agent(instructions="x"), Speaker(), Toolbox()
    async with running(agent, llm) as (session, _):
        handle = SpeechHandle.create()
        thinking, answer = perform_llm_inference(
            node=agent.llm_node,
            chat_ctx=ChatContext.empty(),
            tool_ctx=ToolContext([look]),
            model_settings=SETTINGS,
        )

        async def voice(text: AsyncIterable[str], _: Any) -> AsyncIterator[rtc.AudioFrame]:
            async for _ in text:
                yield frame()

        text = [t async for t in answer.text_ch if isinstance(t, str)]
        speaking, voiced = perform_tts_inference(
            node=voice, input=stream(*text), model_settings=SETTINGS, text_transforms=None
        )
        tools, _ = perform_tool_executions(
            session=session,
            speech_handle=handle,
            tool_ctx=ToolContext([look]),
            tool_choice=NOT_GIVEN,
            function_stream=answer.function_ch,
            tool_execution_started_cb=lambda _: None,
            tool_execution_completed_cb=toolbox._completed,
        )
        result = await forward_generation(
            speech_handle=handle,
            audio_output=speaker,
            text_output=None,
            audio_source=voiced.audio_ch,
            text_source=stream(*text),
            on_first_frame=lambda _: None,
            reconcile_playout_pause=lambda: None,
            tts_data=voiced,
        )
        await asyncio.gather(thinking, speaking, tools)
    assert result.text == "let me look" and toolbox.story == ["look: rain"]
