"""GPT-Live behind the gateway: a model that listens and speaks at once."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
from gateway import Fault, GatewayEmulator, faults
from gateway.calls import QUICK, emulated, sentence
from gateway.live_route import LiveSession
from gateway.recognizers import speak_tones
from hypothesis import given, settings, strategies as st
from livekit import rtc

from fakes.realtime_line import hear_out, silence
from livekit.agents import inference
from livekit.agents.llm import (
    ChatContext,
    ChatItem,
    DuplexRealtimeAdapter,
    FunctionCallOutput,
    RealtimeError,
    function_tool,
)
from livekit.agents.llm._realtime import gpt_live_codec as codec
from livekit.agents.llm._realtime.gpt_live import GPTLiveModel
from livekit.agents.llm._realtime.openai_codec import BadEvent
from livekit.agents.metrics import LLMMetrics, RealtimeModelMetrics
from livekit.agents.types import APIConnectOptions

EVENTS = (
    "transcript_delta",
    "function_call",
    "input_speech_started",
    "input_speech_stopped",
    "input_audio_transcription_completed",
    "session_reconnected",
    "metrics_collected",
    "error",
    "delegation_created",
)
CLOSE_BOUND = 2.0


@function_tool
async def look_up(name: str) -> str:
    """Look somebody up."""
    return name


class Line:
    """A session, the gateway and what happened between them."""

    def __init__(self, gateway: GatewayEmulator, model: inference.DuplexModel) -> None:
        self.gateway = gateway
        self.model = model
        self.session = model.session()
        self.events: list[tuple[str, Any]] = []
        for name in EVENTS:
            self.session.on(name, self._recorder(name))

    def _recorder(self, name: str) -> Any:
        return lambda event: self.events.append((name, event))

    def of(self, name: str) -> list[Any]:
        return [event for kind, event in self.events if kind == name]

    @property
    def errors(self) -> list[bool]:
        return [error.recoverable for error in self.of("error")]

    @property
    def server(self) -> LiveSession:
        return self.gateway.live.sessions[-1]

    async def configure(self, *items: ChatItem, tools: Any = (look_up,)) -> None:
        await self.session._update_session(
            instructions="be brief", items=list(items), tools=list(tools)
        )
        await asyncio.sleep(0.5)


@asynccontextmanager
async def live_line(**options: Any) -> AsyncIterator[Line]:
    async with emulated() as (gateway, http):
        options = {"conn_options": QUICK, **gateway.arguments(), **options}
        model = inference.DuplexModel("openai/gpt-live-1", http_session=http, **options)
        line = Line(gateway, model)
        try:
            yield line
        finally:
            await line.session.aclose()
            await model.aclose()
        await gateway.until_closed(0.5)


def messages(*texts: str) -> list[ChatItem]:
    chat_ctx = ChatContext()
    for text in texts:
        chat_ctx.add_message(role="user", content=text)
    return list(chat_ctx.items)


def answer(call_id: str) -> FunctionCallOutput:
    return FunctionCallOutput(call_id=call_id, name="look_up", output="42", is_error=False)


# -- starting --------------------------------------------------------------------------------------


async def test_a_session_connects_at_once_and_starts_when_it_is_configured() -> None:
    async with live_line(voice="cedar", provider="azure") as line:
        line.session.push_audio(silence(0.3))
        line.session.append_commentary("one moment")
        await asyncio.sleep(1.0)
        (record,) = line.gateway.of("live/sessions")
        assert record.query == {"model": "openai/gpt-live-1"}
        assert record.headers["X-LiveKit-Inference-Provider"] == "azure"
        assert line.server.kinds == [] and line.session.session_id is None
        await line.configure(*messages("hi"))
        assert line.session.session_id == line.server.wire.session_id
        assert line.server.kinds[0] == "session.start"
        config = line.server.config
        assert config["instructions"] == "be brief"
        assert config["audio"]["output"]["voice"] == "cedar"
        assert config["input"] == [
            {"type": "message", "role": "user", "content": [{"type": "input_text", "text": "hi"}]}
        ]
        assert [tool["name"] for tool in config["delegation"]["responses"]["tools"]] == ["look_up"]
        assert line.server.appended == [("commentary", "one moment", None)]
        assert record.audio_seconds == pytest.approx(0.3)
        assert line.errors == []


async def test_only_the_newest_messages_start_a_session() -> None:
    async with live_line() as line:
        await line.configure(*messages(*(str(n) for n in range(200))))
        told = [item["content"][0]["text"] for item in line.server.config["input"]]
        assert told == [str(n) for n in range(72, 200)]


async def test_a_session_that_does_not_begin_is_tried_again() -> None:
    async with live_line() as line:
        line.gateway.live.never_starts = True
        await line.configure()
        await asyncio.sleep(3.0)
        line.gateway.live.never_starts = False
        await asyncio.sleep(5.0)
        assert line.errors == [True] and len(line.gateway.live.sessions) == 2
        assert line.session.session_id is not None


def test_options_that_make_no_sense_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    def make(**options: Any) -> None:
        inference.DuplexModel("openai/gpt-live-1", api_key="k", api_secret="s", **options)

    make(extra_kwargs={"delegation": "client"})
    for wrong in (
        {"delegation": "nobody"},
        {"responses_options": {"colour": "red"}},
        {"delegation": "client", "responses_options": {"model": "m"}},
        {"speed": 2},
    ):
        with pytest.raises(ValueError):
            make(extra_kwargs=wrong)
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    with pytest.raises(ValueError, match="OPENAI_API_KEY"):
        GPTLiveModel()


# -- speaking and listening ------------------------------------------------------------------------


async def test_it_is_heard_while_it_hears() -> None:
    async with live_line() as line:
        await line.configure()
        await line.server.say("good day")
        words = sentence(1, 3)
        pcm = speak_tones(words, 24000)
        line.session.push_audio(rtc.AudioFrame(pcm, 24000, 1, len(pcm) // 2))
        line.session.push_audio(silence(0.7))
        await asyncio.sleep(0.5)
        assert len(line.of("input_speech_started")) == 1 and not line.of("input_speech_stopped")
        line.session.push_audio(silence(1.0))
        await asyncio.sleep(0.5)
        assert len(line.of("input_speech_stopped")) == 1
        heard = line.of("input_audio_transcription_completed")
        assert [h.transcript for h in heard if h.is_final] == [" ".join(words)]
        assert len({h.item_id for h in heard}) == 1 and not heard[0].is_final
        said = line.of("transcript_delta")
        assert "".join(delta.text for delta in said) == "good day "
        assert said[0].start_ms < said[0].end_ms == said[1].start_ms
        frame = await line.session.audio_stream.recv()
        assert (frame.frame.sample_rate, frame.start_ms) == (24000, 0)


async def test_a_muted_microphone_stays_muted_on_the_next_connection() -> None:
    async with live_line() as line:
        await line.configure()
        line.session.mute_input()
        line.session.mute_input()
        await asyncio.sleep(0.1)
        assert line.server.muted and line.server.kinds.count("session.input_audio.mute") == 1
        line.gateway.strike("live/sessions", faults.drop())
        line.session.append_thinking("hm")
        await asyncio.sleep(1.0)
        assert len(line.gateway.live.sessions) == 2 and line.server.muted
        line.session.unmute_input()
        await asyncio.sleep(0.1)
        assert not line.server.muted


# -- thinking --------------------------------------------------------------------------------------


async def test_the_model_that_thinks_goes_on_when_all_its_calls_are_answered() -> None:
    async with live_line() as line:
        await line.configure()
        await line.server.think(("look_up", "c1"), ("look_up", "c2"))
        await asyncio.sleep(0.1)
        assert [call.call_id for call in line.of("function_call")] == ["c1", "c2"]
        await line.session._append_items([answer("c1"), answer("unheard of")])
        await asyncio.sleep(0.1)
        assert line.server.continued == 0
        await line.session._append_items([answer("c2")])
        await asyncio.sleep(0.1)
        assert line.server.continued == 1
        assert [item["call_id"] for item in line.server.items] == ["c1", "c2"]
        (metrics,) = [m for m in line.of("metrics_collected") if isinstance(m, LLMMetrics)]
        assert (metrics.prompt_tokens, metrics.prompt_cached_tokens) == (50, 10)
        assert (metrics.completion_tokens, metrics.reasoning_tokens) == (20, 5)


async def test_an_answer_before_the_end_of_the_response_waits_for_it() -> None:
    async with live_line() as line:
        await line.configure()
        item = {"type": "function_call", "id": "i", "call_id": "c", "name": "f", "arguments": "{}"}
        await line.server._backend("response.created", response={"id": "r"})
        await line.server._backend("response.output_item.done", item=item)
        await asyncio.sleep(0.1)
        await line.session._append_items([answer("c")])
        await asyncio.sleep(0.1)
        assert line.server.continued == 0
        await line.server._backend("response.completed", response={"id": "r"})
        await asyncio.sleep(0.1)
        assert line.server.continued == 1


async def test_tools_change_later_and_instructions_do_not() -> None:
    async with live_line() as line:
        await line.configure(tools=[])
        await line.session._update_tools([look_up])
        line.session._update_options(tool_choice="required")
        await line.session._update_instructions("be brief")
        with pytest.raises(RealtimeError, match="append_instructions"):
            await line.session._update_instructions("be long")
        await asyncio.sleep(0.1)
        responses = line.server.config["delegation"]["responses"]
        assert [tool["name"] for tool in responses["tools"]] == ["look_up"]
        assert responses["tool_choice"] == "required"


async def test_a_client_that_thinks_is_asked_and_answers() -> None:
    async with live_line(extra_kwargs={"delegation": "client"}) as line:
        assert not line.session.capabilities.mutable_tools
        with pytest.raises(RealtimeError, match="no tools"):
            await line.session._update_tools([look_up])
        await line.configure(tools=[])
        assert line.server.config["delegation"] == {"target": "client"}
        delegation = {"id": "d1", "pending_transcript": "how late is it"}
        await line.server.send("session.delegation.created", delegation=delegation)
        await asyncio.sleep(0.1)
        (asked,) = line.of("delegation_created")
        assert (asked.id, asked.pending_transcript) == ("d1", "how late is it")
        line.session.append_thinking("the clock says noon", delegation_id=asked.id)
        with pytest.raises(RealtimeError):
            line.session._generate_reply()
        await asyncio.sleep(0.1)
        assert line.server.appended == [("thinking", "the clock says noon", "d1")]


# -- connections -----------------------------------------------------------------------------------


async def test_a_lost_connection_is_replaced_by_a_session_that_knows_what_was_said() -> None:
    async with live_line() as line:
        await line.configure(*messages("hi"))
        await line.server.say("good day")
        await asyncio.sleep(0.5)
        line.gateway.strike("live/sessions", faults.drop())
        line.session.append_thinking("hm")
        await asyncio.sleep(2.0)
        assert line.errors == [True] and len(line.of("session_reconnected")) == 1
        told = [item["content"][0]["text"] for item in line.server.config["input"]]
        assert told == ["hi", "good day "]


async def test_an_answer_to_a_call_of_an_earlier_session_is_told_in_words() -> None:
    async with live_line() as line:
        await line.configure()
        await line.server.think(("look_up", "c1"))
        await asyncio.sleep(0.1)
        line.gateway.strike("live/sessions", faults.drop())
        line.session.append_thinking("hm")
        await asyncio.sleep(2.0)
        assert len(line.gateway.live.sessions) == 2
        await line.session._append_items([answer("c1")])
        await asyncio.sleep(0.1)
        (item,) = line.server.items
        assert item["content"][0]["text"] == "look_up returned: 42"
        assert line.server.continued == 1


async def test_what_is_added_while_there_is_no_connection_is_told_once() -> None:
    async with live_line() as line:
        await line.configure()
        line.gateway.inject("live/sessions", faults.refuse(503))
        line.gateway.strike("live/sessions", faults.drop())
        line.session.append_thinking("hm")
        await asyncio.sleep(0.15)
        await line.session._append_items(messages("meanwhile"))
        await asyncio.sleep(5.0)
        assert [item["content"][0]["text"] for item in line.server.config["input"]] == ["meanwhile"]
        assert line.server.items == []
        await line.session._append_items(messages("later"))
        await asyncio.sleep(0.1)
        assert [item["content"][0]["text"] for item in line.server.items] == ["later"]


async def test_an_old_session_is_replaced_without_an_error() -> None:
    async with live_line(max_session_duration=30.0) as line:
        await line.configure()
        await asyncio.sleep(40.0)
        assert line.errors == [] and len(line.gateway.live.sessions) == 2


@pytest.mark.parametrize(
    "fault",
    [faults.refuse(401), faults.refuse(503), faults.stall_upgrade(), faults.drop(1011)],
    ids=str,
)
async def test_a_gateway_that_does_not_serve_is_given_up(fault: Fault) -> None:
    options = APIConnectOptions(max_retry=2, retry_interval=1.0, timeout=5.0)
    async with live_line(conn_options=options) as line:
        line.gateway.standing["live/sessions"] = fault
        await line.configure()
        await asyncio.sleep(30.0)
        assert line.errors[-1] is False and all(line.errors[:-1])
        assert [frame async for frame in line.session.audio_stream] == []
        with pytest.raises(RealtimeError, match="over"):
            line.session._generate_reply(instructions="speak")


# -- closing ---------------------------------------------------------------------------------------


async def test_a_close_reports_what_the_session_has_cost() -> None:
    async with live_line() as line:
        await line.configure()
        await line.server.send("session.usage.updated", usage={"duration_seconds": 2.0})
        await line.server.send("session.usage.updated", usage={"duration_seconds": 3.5})
        await asyncio.sleep(0.1)
        await asyncio.sleep(9.9)
        began = asyncio.get_running_loop().time()
        await line.session.aclose()
        assert asyncio.get_running_loop().time() - began < 0.2
        spent = [m for m in line.of("metrics_collected") if isinstance(m, RealtimeModelMetrics)]
        seconds = [m.session_duration for m in spent if m.session_duration]
        assert seconds[:2] == [2.0, 1.5] and sum(seconds) == pytest.approx(11.0, abs=0.3)
        assert line.gateway.of("live/sessions")[0].close_code == 1000


@pytest.mark.parametrize(
    "fault",
    [
        None,
        faults.half_open(),
        faults.stall_reads(),
        faults.stall_writes(),
        faults.drop(),
        faults.no_close_reply(),
        faults.error(500, then="chatter"),
    ],
    ids=str,
)
@pytest.mark.parametrize("configured", [True, False])
async def test_a_close_is_bounded_whatever_the_server_does(
    fault: Fault | None, configured: bool
) -> None:
    async with live_line() as line:
        await (line.configure() if configured else asyncio.sleep(0.5))
        if fault is not None:
            line.gateway.strike("live/sessions", fault)
            line.session.append_thinking("hm")
            await asyncio.sleep(0.05)
        errors, began = list(line.errors), asyncio.get_running_loop().time()
        await asyncio.gather(line.session.aclose(), line.session.aclose())
        assert asyncio.get_running_loop().time() - began <= CLOSE_BOUND
        async for _ in line.session.audio_stream:
            pass
        await line.gateway.until_closed(0.5)
        dials = line.gateway.dials("live/sessions")
        await asyncio.sleep(60.0)
        assert (line.gateway.dials("live/sessions"), line.errors) == (dials, errors)
        line.session.push_audio(silence(1.0))


async def test_a_close_while_it_dials_is_immediate() -> None:
    async with live_line() as line:
        line.gateway.standing["live/sessions"] = faults.stall_upgrade()
        await asyncio.sleep(0.1)
        began = asyncio.get_running_loop().time()
        await line.session.aclose()
        assert asyncio.get_running_loop().time() - began <= 0.5


# -- as a realtime model ---------------------------------------------------------------------------


async def test_what_it_says_becomes_replies_of_a_realtime_model() -> None:
    async with emulated() as (gateway, http):
        model = inference.DuplexModel(
            "openai/gpt-live-1", http_session=http, conn_options=QUICK, **gateway.arguments()
        )
        session = DuplexRealtimeAdapter(model).session()
        generations: list[Any] = []
        session.on("generation_created", generations.append)
        await session._update_session(instructions="be brief", tools=[look_up])
        await asyncio.sleep(0.5)
        server = gateway.live.sessions[-1]
        reply = session.generate_reply(instructions="greet")
        await asyncio.sleep(0.2)
        assert server.appended == [("instructions", "greet", None)]
        await server.say("good day")
        event = await reply
        texts, seconds, _ = await hear_out(event)
        assert event.user_initiated and texts == ["good day "]
        assert seconds > 0.4
        await server.think(("look_up", "c1"))
        await asyncio.sleep(0.1)
        assert (await hear_out(generations[-1]))[2] == ["look_up"]
        await session.aclose()
        await gateway.until_closed(0.5)


# -- whatever a server may send --------------------------------------------------------------------

_JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(
                ["id", "type", "item", "response", "usage", "call_id", "name", "error"]
            ),
            inner | st.sampled_from(["function_call", "response.completed", "response.created"]),
            max_size=4,
        )
    ),
    max_leaves=6,
)
_FIELDS = ["delta", "start_ms", "end_ms", "session", "delegation", "event", "usage", "error"]


@given(
    kind=st.sampled_from(sorted(codec._READERS)),
    fields=st.dictionaries(st.sampled_from(_FIELDS), _JSON, max_size=5),
)
@settings(max_examples=200, deadline=None)
def test_reading_a_live_event_yields_one_or_says_that_it_is_none(
    kind: str, fields: dict[str, Any]
) -> None:
    event = json.loads(json.dumps({**fields, "type": kind}))
    try:
        codec.decode(event)
    except BadEvent:
        pass


@given(
    events=st.lists(
        st.builds(
            lambda kind, fields: {**fields, "type": kind},
            st.sampled_from(sorted({*codec._READERS} - {"error", "session.closed"})),
            st.dictionaries(st.sampled_from(_FIELDS), _JSON, max_size=5),
        ),
        max_size=12,
    )
)
@settings(max_examples=30, deadline=None)
async def test_no_sequence_of_events_breaks_a_live_session(events: list[dict[str, Any]]) -> None:
    async with live_line() as line:
        await line.configure()
        for event in events:
            await line.server.wire.send_raw(json.dumps(event))
        await asyncio.sleep(0.1)
        await line.session.aclose()
        async for _ in line.session.audio_stream:
            pass
        assert all(line.errors)
