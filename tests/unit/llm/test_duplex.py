"""Duplex models: telling speech from silence, cutting it into generations, closing."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field
from typing import Any

import pytest
from hypothesis import given, strategies as st
from livekit import rtc

from fakes.duplex import FakeDuplexModel, FakeDuplexSession, settle, tone
from livekit.agents import llm
from livekit.agents.llm._audio_gates import rms
from livekit.agents.types import TimedString

# -- gates


def run(gate: llm.AudioGate, *levels: float, duration: float = 0.1) -> list[bool]:
    return [gate.update(tone(level, duration)) for level in levels]


def test_loudness() -> None:
    assert rms(tone(0.5)) == pytest.approx(0.5, abs=1e-4)
    assert rms(tone(0.0)) == 0.0
    assert rms(rtc.AudioFrame(b"", 24000, 1, 0)) == 0.0


def test_a_fixed_gate_opens_well_above_silence_and_closes_after_a_while() -> None:
    gate = llm.FixedGate(0.01, min_silence_duration=0.3)
    assert run(gate, 0.0, 0.029, 0.031) == [False, False, True]
    assert run(gate, 0.019, 0.019, 0.019, 0.0, 0.0, 0.0) == [True] * 5 + [False]
    gate.update(tone(0.5))
    gate.deactivate()
    assert run(gate, 0.02) == [False]


def test_a_gate_s_floor_is_never_zero() -> None:
    assert run(llm.FixedGate(0.0), 0.0002, 0.0004) == [False, True]


def test_an_adaptive_gate_learns_the_noise_of_the_quietest_stretch() -> None:
    gate = llm.AdaptiveNoiseGate(min_silence_duration=0.5, window=10.0)
    assert run(gate, 0.02)[0]  # it knows of no noise yet
    assert not run(gate, *[0.0001] * 5)[-1]
    gate = llm.AdaptiveNoiseGate(min_silence_duration=0.5, activation_ratio=3.0)
    for _ in range(20):
        gate.update(tone(0.0002))
    assert not run(gate, 0.0005)[0]
    assert run(gate, 0.01)[0]


def test_an_adaptive_gate_forgets_a_stretch_after_a_while() -> None:
    gate = llm.AdaptiveNoiseGate(min_silence_duration=0.5, activation_ratio=100.0, window=2.0)
    run(gate, *[0.001] * 10)
    assert gate._noise_floor() == pytest.approx(0.001, rel=0.1)
    run(gate, *[0.005] * 24)
    assert gate._noise_floor() == pytest.approx(0.005, rel=0.1)


@given(st.lists(st.sampled_from([0.0, 0.0002, 0.001, 0.01, 0.2]), max_size=60))
def test_an_adaptive_gate_s_floor_is_that_of_the_quietest_stretch(levels: list[float]) -> None:
    gate = llm.AdaptiveNoiseGate(min_silence_duration=0.3, window=2.0)
    heard: list[tuple[float, float] | None] = []  # (end, level) while closed, None while open
    for index, level in enumerate(levels):
        is_open = gate.update(tone(level))
        heard.append(None if is_open else (index, rms(tone(level))))
    stretches = [
        (index, (sum(part[1] ** 2 for part in last if part) / 3) ** 0.5)
        for index in range(2, len(heard))
        if None not in (last := heard[index - 2 : index + 1])
    ]
    recent = [loud for index, loud in stretches if index >= len(levels) - 21]
    if recent:
        assert gate._noise_floor() == pytest.approx(min(recent), rel=1e-3, abs=1e-9)


# -- generations


@dataclass
class Said:
    """A generation, read to the end."""

    user_initiated: bool
    text: list[str] = field(default_factory=list)
    frames: int = 0
    calls: list[str] = field(default_factory=list)
    modalities: list[str] = field(default_factory=list)
    messages: int = 0


class Bench:
    def __init__(self, **capabilities: bool) -> None:
        self.model = FakeDuplexModel(**capabilities)
        self.adapter = llm.DuplexRealtimeAdapter(
            self.model, gate=lambda: llm.FixedGate(0.01, min_silence_duration=0.2)
        )
        self.session = self.adapter.session()
        self.duplex: FakeDuplexSession = self.model.sessions[0]
        self.events: list[llm.GenerationCreatedEvent] = []
        self.errors: list[llm.RealtimeModelError] = []
        self.session.on("generation_created", self.events.append)
        self.session.on("error", self.errors.append)

    async def said(self) -> list[Said]:
        """The generations since last time. All of them have to have ended."""
        events = list(self.events)
        self.events.clear()
        return [await asyncio.wait_for(read(event), 0.001) for event in events]


async def read(event: llm.GenerationCreatedEvent) -> Said:
    said = Said(event.user_initiated)
    async for message in event.message_stream:
        said.messages += 1
        said.modalities = list(await message.modalities)
        said.text += [text async for text in message.text_stream]
        said.frames += len([frame async for frame in message.audio_stream])
    said.calls = [call.name async for call in event.function_stream]
    return said


LOUD, QUIET = 0.5, 0.001


async def test_each_burst_of_speech_is_a_generation() -> None:
    bench = Bench()
    await bench.duplex.speak(QUIET, LOUD, LOUD, QUIET, QUIET, QUIET, LOUD, QUIET, QUIET)
    assert await bench.said() == [
        Said(False, [], 3, [], ["audio", "text"], 1),
        Said(False, [], 2, [], ["audio", "text"], 1),
    ]
    await bench.session.aclose()


async def test_a_burst_ends_when_no_frame_comes() -> None:
    bench = Bench()
    await bench.duplex.speak(LOUD)
    reading = asyncio.ensure_future(read(bench.events[0]))
    began = asyncio.get_running_loop().time()
    assert (await reading).frames == 1
    assert asyncio.get_running_loop().time() - began == pytest.approx(0.9)  # 0.8 s + the frame
    bench.events.clear()
    await bench.duplex.speak(LOUD)
    assert len(bench.events) == 1  # the gate was closed too
    await bench.session.aclose()


async def test_words_go_with_the_audio_that_speaks_them() -> None:
    bench = Bench()
    bench.duplex.say("one ", 100, 200)
    bench.duplex.say("far away", 900, 950)
    await bench.duplex.speak(QUIET, LOUD, LOUD, start_ms=0)
    bench.duplex.say("two", 250, 300)
    await bench.duplex.speak(QUIET, QUIET, start_ms=300)
    (said,) = await bench.said()
    assert said.text == ["one ", "two"]
    one, two = said.text
    assert isinstance(one, TimedString) and (one.start_time, one.end_time) == (0.0, 0.1)
    assert isinstance(two, TimedString) and (two.start_time, two.end_time) == (0.15, 0.2)
    await bench.duplex.speak(QUIET, QUIET, LOUD, start_ms=600)
    await bench.duplex.speak(QUIET, QUIET, start_ms=900)
    assert [said.text for said in await bench.said()] == [["far away"]]
    await bench.session.aclose()


async def test_words_come_at_most_a_little_before_their_audio() -> None:
    bench = Bench()
    await bench.duplex.speak(LOUD, start_ms=0)
    bench.duplex.say("later", 450, 500)
    (message,) = [m async for m in _first(bench.events[0].message_stream)]
    assert message.text_stream.empty()  # type: ignore[attr-defined]
    await bench.duplex.speak(LOUD, start_ms=100)
    assert not message.text_stream.empty()  # type: ignore[attr-defined]
    await bench.session.aclose()


async def _first(stream: Any) -> Any:
    yield await stream.__anext__()


async def test_words_without_a_place_join_the_burst_or_wait_for_the_next() -> None:
    bench = Bench()
    bench.duplex.say("hello ")
    await bench.duplex.speak(QUIET, LOUD)
    bench.duplex.say("world")
    await bench.duplex.speak(QUIET, QUIET)
    (said,) = await bench.said()
    assert said.text == ["hello ", "world"] and not isinstance(said.text[0], TimedString)
    await bench.session.aclose()


async def test_words_that_nothing_speaks_become_text() -> None:
    bench = Bench()
    bench.duplex.say("hello ")
    bench.duplex.say("world")
    await bench.duplex.speak(*[QUIET] * 29)
    assert bench.events == []
    await bench.duplex.speak(QUIET)
    assert await bench.said() == [Said(False, ["hello ", "world"], 0, [], ["text"], 1)]
    await bench.session.aclose()


async def test_words_whose_audio_has_passed_become_text() -> None:
    bench = Bench()
    await bench.duplex.speak(LOUD, QUIET, QUIET, QUIET, start_ms=0)
    (_,) = await bench.said()
    bench.duplex.say("too late", 0, 100)
    assert [said.text for said in await bench.said()] == [["too late"]]
    await bench.duplex.speak(LOUD, start_ms=400)
    bench.duplex.say("even later", 100, 200)
    _open, alone = bench.events
    assert (await read(alone)).text == ["even later"]
    await bench.session.aclose()


def call(name: str) -> llm.FunctionCall:
    return llm.FunctionCall(call_id=f"call_{name}", name=name, arguments="{}")


async def test_calls_join_the_burst_or_stand_alone() -> None:
    bench = Bench()
    bench.duplex.emit("function_call", call("alone"))
    await bench.duplex.speak(LOUD)
    bench.duplex.emit("function_call", call("joined"))
    await bench.duplex.speak(QUIET, QUIET)
    alone, joined = await bench.said()
    assert (alone.calls, alone.messages) == (["alone"], 0)
    assert (joined.calls, joined.messages) == (["joined"], 1)
    await bench.session.aclose()


async def test_a_reconnect_ends_the_burst_and_fails_the_reply() -> None:
    bench = Bench()
    seen: list[Any] = []
    bench.session.on("session_reconnected", seen.append)
    await bench.duplex.speak(LOUD, start_ms=5000)
    bench.duplex.say("cut off", 6000, 6100)
    reply = bench.session.generate_reply()
    bench.duplex.reconnect()
    assert [said.text for said in await bench.said()] == [[], ["cut off"]] and len(seen) == 1
    with pytest.raises(llm.RealtimeError, match="connection was lost"):
        await reply
    await bench.duplex.speak(LOUD, start_ms=0)
    assert len(bench.events) == 1
    await bench.session.aclose()


# -- replies


async def test_the_next_burst_is_the_reply() -> None:
    bench = Bench()
    await bench.duplex.speak(LOUD)
    reply = bench.session.generate_reply(instructions="greet")
    bench.duplex.say("not me", 0, 0)
    bench.duplex.emit("function_call", call("f"))
    await bench.duplex.speak(QUIET, QUIET)
    assert not reply.done()
    await bench.duplex.speak(LOUD)
    assert (await reply) is bench.events[-1] and bench.events[-1].user_initiated
    assert [event.user_initiated for event in bench.events[:-1]] == [False] * (
        len(bench.events) - 1
    )
    assert bench.duplex.requests == ["greet"]
    await bench.session.aclose()


async def test_a_reply_that_does_not_come_fails() -> None:
    bench = Bench()
    with pytest.raises(llm.RealtimeError, match="nothing was said for 10 s"):
        await bench.session.generate_reply()
    first = bench.session.generate_reply()
    second = bench.session.generate_reply()
    with pytest.raises(llm.RealtimeError, match="another reply"):
        await first
    await bench.session.aclose()
    with pytest.raises(llm.RealtimeError, match="closed"):
        await second
    with pytest.raises(llm.RealtimeError, match="closed"):
        await bench.session.generate_reply()


async def test_a_model_may_refuse_to_reply() -> None:
    bench = Bench()
    bench.model.reply_error = llm.RealtimeError("busy", code="x")
    with pytest.raises(llm.RealtimeError, match="busy") as raised:
        await bench.session.generate_reply()
    assert raised.value.code == "x"
    with pytest.raises(llm.RealtimeError, match="decides by itself"):
        llm.DuplexSession._generate_reply(bench.duplex)
    await bench.session.aclose()


async def test_a_cancelled_reply_is_forgotten() -> None:
    bench = Bench()
    bench.session.generate_reply().cancel()
    await bench.duplex.speak(LOUD)
    assert not bench.events[0].user_initiated
    await bench.session.aclose()


# -- configuration


def test_the_adapter_presents_the_model() -> None:
    model = FakeDuplexModel(mutable_tools=True)
    adapter = llm.DuplexRealtimeAdapter(model)
    can = adapter.capabilities
    assert (adapter.model, adapter.provider, adapter.duplex_model) == (
        "fake-duplex",
        "unknown",
        model,
    )
    assert can.turn_detection and can.audio_output and can.supports_overlapping_speech
    assert can.user_transcription and can.auto_tool_reply_generation and can.mutable_tools
    assert not (can.message_truncation or can.manual_function_calls or can.supports_say)
    assert not (can.per_response_tool_choice or can.mutable_instructions)


async def test_the_gate_is_the_argument_s_or_the_model_s_or_adapts() -> None:
    model = FakeDuplexModel()
    assert isinstance(llm.DuplexRealtimeAdapter(model)._new_gate(), llm.AdaptiveNoiseGate)
    own = llm.FixedGate(0.1)
    model.audio_gate = lambda: own  # type: ignore[method-assign]
    assert llm.DuplexRealtimeAdapter(model)._new_gate() is own
    given_gate = llm.FixedGate(0.2)
    adapter = llm.DuplexRealtimeAdapter(model, gate=lambda: given_gate)
    assert adapter._new_gate() is given_gate
    await adapter.aclose()
    assert model.closed


async def test_the_first_configuration_lets_the_model_connect() -> None:
    bench = Bench()
    chat_ctx = llm.ChatContext.empty()
    chat_ctx.add_message(role="system", content="be brief")
    hello = chat_ctx.add_message(role="user", content="hello")
    assert not bench.duplex._configured.is_set()
    await bench.session._update_session(instructions="be brief", chat_ctx=chat_ctx, tools=[])
    assert bench.duplex._configured.is_set()
    assert (bench.duplex.instructions, bench.duplex.items) == ("be brief", [hello])
    assert bench.session.chat_ctx.items == [hello]
    assert bench.session.tools == llm.ToolContext.empty()
    bench.session.update_options(tool_choice="none")
    assert bench.duplex.tool_choice == "none"
    frame = tone(0.1)
    bench.session.push_audio(frame)
    assert bench.duplex.heard == [frame]
    await bench.session.aclose()


async def test_a_first_configuration_that_fails_closes_the_session() -> None:
    bench = Bench()
    bench.model.configure_error = llm.RealtimeError("too long")
    with pytest.raises(llm.RealtimeError, match="too long"):
        await bench.session._update_session(instructions="x")
    assert bench.duplex.closed and bench.duplex._configured.is_set()


async def test_a_later_configuration_that_fails_is_logged(caplog: pytest.LogCaptureFixture) -> None:
    bench = Bench()
    await bench.session._update_session(instructions="x", tools=[])
    bench.model.configure_error = llm.RealtimeError("too late")
    await bench.session._update_session(instructions="y", tools=[])
    assert "failed to update the instructions" in caplog.text and not bench.duplex.closed
    await bench.session.aclose()


async def test_only_what_is_new_is_told(caplog: pytest.LogCaptureFixture) -> None:
    bench = Bench()
    chat_ctx = llm.ChatContext.empty()
    hello = chat_ctx.add_message(role="user", content="hello")
    await bench.session.update_chat_ctx(chat_ctx)
    await bench.duplex.speak(LOUD)
    (message,) = [m async for m in _first(bench.events[0].message_stream)]
    bench.duplex.emit("function_call", call("f"))
    chat_ctx.add_message(role="assistant", content="hi", id=message.message_id)
    chat_ctx.items.append(llm.FunctionCall(call_id="call_f", name="f", arguments="{}"))
    output = llm.FunctionCallOutput(call_id="call_f", output="x", is_error=False)
    chat_ctx.items.append(output)
    await bench.session.update_chat_ctx(chat_ctx)
    assert bench.duplex.items == [hello, output]
    assert caplog.records == []

    changed = llm.ChatContext([hello.model_copy(update={"content": ["bye"]})])
    await bench.session.update_chat_ctx(changed)
    assert "can't change" in caplog.text and "can't remove" in caplog.text
    assert bench.duplex.items == [hello, output]
    await bench.session.aclose()


async def test_what_a_duplex_model_cannot_be_told_is_nothing() -> None:
    bench = Bench()
    bench.session.interrupt()
    bench.session.commit_audio()
    bench.session.clear_audio()
    bench.session.truncate(message_id="x", modalities=["audio"], audio_end_ms=1)
    await bench.session.aclose()


async def test_other_events_are_passed_on() -> None:
    bench = Bench()
    seen: list[str] = []
    for name in (
        "input_speech_started",
        "input_speech_stopped",
        "input_audio_transcription_completed",
        "metrics_collected",
    ):
        bench.session.on(name, lambda *_, name=name: seen.append(name))
        bench.duplex.emit(name, object())
    bench.duplex._report_connection_acquired(0.5)
    assert len(seen) == 5 and seen[-1] == "metrics_collected"
    await bench.session.aclose()


# -- closing


def now() -> float:
    return asyncio.get_running_loop().time()


async def test_a_failing_audio_stream_is_the_end() -> None:
    bench = Bench()
    await bench.duplex.speak(LOUD)
    await bench.duplex.fail(RuntimeError("socket closed"))
    assert [(e.recoverable, str(e.error)) for e in bench.errors] == [(False, "socket closed")]
    assert (await bench.said())[0].frames == 1
    await bench.session.aclose()


async def test_closing_ends_everything_at_once() -> None:
    bench = Bench()
    await bench.duplex.speak(LOUD)
    bench.duplex.say("late", 5000, 5100)
    began = now()
    await asyncio.gather(bench.session.aclose(), bench.session.aclose())
    assert now() == began and bench.duplex.closed
    assert [said.text for said in await bench.said()] == [[], ["late"]]
    bench.duplex.say("nobody listens")
    bench.duplex.emit("function_call", call("f"))
    assert bench.events == [] and bench.errors == []


@pytest.mark.parametrize("how", ["hangs", "fails", "keeps speaking"])
async def test_closing_ends_whatever_the_model_does(how: str) -> None:
    bench = Bench()
    bench.model.close_hangs = how == "hangs"
    bench.model.close_error = RuntimeError("no") if how == "fails" else None
    bench.duplex.ignores_cancellation = how != "fails"
    await bench.duplex.speak(LOUD)
    began = now()
    await bench.session.aclose()
    assert now() - began <= 5.0
    bench.events.clear()
    if how == "hangs":
        await bench.duplex.speak(LOUD, LOUD)
    assert bench.events == []
    bench.duplex.release()
    await settle()
