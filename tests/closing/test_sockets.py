"""Closing with real sockets: no connection outlives a forced close, and none is opened after it.

The providers are servers on loopback, and connections are counted on their side. Their clients are
written like published plugins (`fakes/socket_plugins.py`).

Real sockets on virtual time are sound here because both ends live on this one loop. The kernel puts
what one end writes into the other's receive buffer before `send` returns, so the selector reports
it at the next look; and the loop of `virtual_time.py` looks, and even waits a little, before it lets
its clock jump to a timer. Time therefore never passes while anything is under way on a socket, and
forty minutes of silence after a hang-up pass in an instant, in which every timer that would have
dialled again does.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import pytest
import virtual_time
from livekit import rtc

from fakes.llm import FakeLLM, Reply
from fakes.session import Recorded, make_session, now
from fakes.socket_plugins import Manners, SocketRealtime, SocketSTT, SocketTTS
from fakes.socket_server import SpeechServer
from livekit.agents import utils
from livekit.agents.llm import FunctionToolCall, RealtimeModelError, function_tool
from livekit.agents.stt import STTError
from livekit.agents.voice import Agent, AgentSession, CloseReason, io


@pytest.fixture(autouse=True)
def _less_patience(monkeypatch: pytest.MonkeyPatch) -> None:
    """Loopback needs next to none; the usual patience is for peers in other processes."""
    monkeypatch.setattr(virtual_time, "SOCKET_PATIENCE", 0.001)


BOUND = 9.5
"""Seconds that a whole forced close may take with the default options."""

AFTERWARDS = 40 * 60.0
"""Seconds of watching: longer than the half hour after which providers drop silent connections."""


class Microphone(io.AudioInput):
    """A frame of silence every 100 ms while `on`; after that nothing, and no end."""

    def __init__(self) -> None:
        super().__init__(label="microphone")
        self.on = True

    async def __anext__(self) -> rtc.AudioFrame:
        await asyncio.sleep(0.1)
        if not self.on:
            await asyncio.get_running_loop().create_future()
        return rtc.AudioFrame(bytes(2 * 1600), 16000, 1, 1600)


class Speaker(io.AudioOutput):
    """A sink that plays at once, or is stuck."""

    def __init__(self) -> None:
        super().__init__(
            label="speaker", capabilities=io.AudioOutputCapabilities(pause=True), sample_rate=24000
        )
        self.takes_frames = self.finishes = True
        self._playing = False

    async def capture_frame(self, frame: rtc.AudioFrame) -> None:
        await super().capture_frame(frame)
        if not self._playing:
            self._playing = True
            self.on_playback_started(created_at=time.time())
        if not self.takes_frames:
            await asyncio.get_running_loop().create_future()

    def flush(self) -> None:
        super().flush()
        if self._playing and self.finishes:
            self._finish()

    def clear_buffer(self) -> None:
        if self._playing and self.finishes:
            self._finish()

    def _finish(self) -> None:
        self._playing = False
        asyncio.get_running_loop().call_soon(
            lambda: self.on_playback_finished(playback_position=0.1, interrupted=False)
        )


class Receptionist(Agent):
    """Gets stuck where a test wants it to."""

    def __init__(self, free: asyncio.Event) -> None:
        super().__init__(instructions="Be brief.")
        self.free = free
        self.leaves = True
        self.obeys = True

    @function_tool
    async def look_up(self) -> str:
        """Never finds anything."""
        while not self.free.is_set():
            try:
                await self.free.wait()
            except asyncio.CancelledError:
                if self.obeys:
                    raise
        return "too late"

    async def on_exit(self) -> None:
        if not self.leaves:
            await self.free.wait()


class Listener(Receptionist):
    """Hears by a node of its own, so that it takes over no stream of the agent before it."""

    async def stt_node(self, audio: Any, model_settings: Any) -> Any:
        async for event in Agent.default.stt_node(self, audio, model_settings):
            yield event


@dataclass
class Scene:
    """A call: a server, clients with manners, an agent and its audio."""

    server: SpeechServer
    hearing: Manners = field(default_factory=Manners)
    speaking: Manners = field(default_factory=Manners)
    microphone: Microphone = field(default_factory=Microphone)
    speaker: Speaker = field(default_factory=Speaker)
    free: asyncio.Event = field(default_factory=asyncio.Event)
    replies: list[Any] = field(default_factory=list)
    realtime: bool = False
    pooled: bool = False

    def __post_init__(self) -> None:
        self.agent = Receptionist(self.free)
        self.hearing.free = self.speaking.free = self.free

    def make_session(self, **options: Any) -> AgentSession[Any]:
        url = self.server.url
        if self.realtime:
            session = make_session(SocketRealtime(url, self.speaking), **options)  # type: ignore[arg-type]
        else:
            self.stt = SocketSTT(url, self.hearing)
            self.tts = SocketTTS(url, self.speaking, pooled=self.pooled)
            llm = FakeLLM(self.replies, default="at your service")
            session = make_session(llm, stt=self.stt, tts=self.tts, **options)
        session.input.audio, session.output.audio = self.microphone, self.speaker
        return session

    def calls_a_tool(self) -> None:
        call = FunctionToolCall(name="look_up", arguments="{}", call_id="c1")
        self.replies = [Reply(tool_calls=[call])]


@asynccontextmanager
async def scene(**options: Any) -> AsyncIterator[Scene]:
    """A scene with its server and the HTTP session that plugins share."""
    async with SpeechServer().serving() as server, utils.http_context.open():
        scene = Scene(server, **options)
        yield scene
        scene.free.set()
        await asyncio.sleep(70)  # what had been stuck ends


def tool_sleeps(scene: Scene) -> None:
    scene.calls_a_tool()


def tool_ignores_cancellation(scene: Scene) -> None:
    scene.calls_a_tool()
    scene.agent.obeys = False


def sink_takes_no_frames(scene: Scene) -> None:
    scene.speaker.takes_frames = False


def sink_never_finishes(scene: Scene) -> None:
    scene.speaker.finishes = False


def answer_never_ends(scene: Scene) -> None:
    scene.server.falls_silent = True


def on_exit_hangs(scene: Scene) -> None:
    scene.agent.leaves = False


def stt_aclose_hangs(scene: Scene) -> None:
    scene.hearing.closing = "aclose hangs"


def stt_cleanup_hangs(scene: Scene) -> None:
    scene.hearing.closing = "cleanup hangs"


def model_aclose_hangs(scene: Scene) -> None:
    scene.speaking.closing = "aclose hangs"
    scene.server.falls_silent = True  # the stream is in use when the close comes


def model_cleanup_hangs(scene: Scene) -> None:
    scene.speaking.closing = "cleanup hangs"
    scene.server.falls_silent = True


def stt_ignores_cancellation(scene: Scene) -> None:
    scene.hearing.closing = "ignores cancellation"


def model_ignores_cancellation(scene: Scene) -> None:
    scene.speaking.closing = "ignores cancellation"
    scene.server.falls_silent = True


def pooled_connection_is_stuck(scene: Scene) -> None:
    scene.pooled = True
    model_ignores_cancellation(scene)


def goodbyes_are_ignored(scene: Scene) -> None:
    scene.server.ignores_goodbyes = True


def handshakes_hang(scene: Scene) -> None:
    scene.server.holds_handshakes = True


def handshakes_are_refused(scene: Scene) -> None:
    scene.server.refuses = 503


def everything_is_stuck(scene: Scene) -> None:
    for stuck in (sink_takes_no_frames, on_exit_hangs, stt_cleanup_hangs, model_cleanup_hangs):
        stuck(scene)
    scene.server.ignores_goodbyes = True


def nothing(scene: Scene) -> None:
    """All is well."""


STUCK: list[Callable[[Scene], None]] = [
    nothing,
    sink_takes_no_frames,
    sink_never_finishes,
    answer_never_ends,
    on_exit_hangs,
    model_aclose_hangs,
    model_cleanup_hangs,
    model_ignores_cancellation,
    goodbyes_are_ignored,
    handshakes_hang,
    handshakes_are_refused,
    everything_is_stuck,
]
PIPELINE_ONLY = [
    tool_sleeps,
    tool_ignores_cancellation,
    stt_aclose_hangs,
    stt_cleanup_hangs,
    stt_ignores_cancellation,
    pooled_connection_is_stuck,
]


async def aclose(session: AgentSession[Any]) -> None:
    await session.aclose()


async def shutdown_now(session: AgentSession[Any]) -> None:
    session.shutdown(drain=False)


async def participant_leaves(session: AgentSession[Any]) -> None:
    session._close_soon(reason=CloseReason.PARTICIPANT_DISCONNECTED)


async def participant_leaves_during_a_drain(session: AgentSession[Any]) -> None:
    session.shutdown()
    await asyncio.sleep(0)
    session._close_soon(reason=CloseReason.PARTICIPANT_DISCONNECTED)


async def a_model_fails_for_good(session: AgentSession[Any]) -> None:
    for _ in range(session.conn_options.max_unrecoverable_errors + 1):
        common: dict[str, Any] = {
            "timestamp": time.time(),
            "label": "x",
            "error": RuntimeError("broken"),
            "recoverable": False,
        }
        if session.stt is not None:
            session.stt.emit("error", STTError(**common))
        else:
            activity = session._activity
            assert activity is not None and activity.realtime_llm_session is not None
            activity.realtime_llm_session.emit("error", RealtimeModelError(**common))


CLOSERS = [
    aclose,
    shutdown_now,
    participant_leaves,
    participant_leaves_during_a_drain,
    a_model_fails_for_good,
]


async def close(session: AgentSession[Any], closer: Callable[[Any], Any] = aclose) -> float:
    """Close it; returns the seconds it took."""
    began = now()
    await closer(session)
    closing = session._closing_task
    if closing is not None:
        await asyncio.wait([closing])
    assert not session._started
    return now() - began


async def nobody_calls(server: SpeechServer) -> None:
    """After a close: no connection is open, and none is opened for forty minutes."""
    await asyncio.sleep(0.01)  # the way of the last packet to the server
    dialled = len(server.calls)
    assert server.open == [], "connections are still open after the close"
    await asyncio.sleep(AFTERWARDS)
    assert server.open == []
    assert len(server.calls) == dialled, "somebody dialled again after the close"


def rows() -> list[Any]:
    pairs = [(False, stuck) for stuck in STUCK + PIPELINE_ONLY] + [(True, stuck) for stuck in STUCK]
    return [
        pytest.param(
            realtime, stuck, id=f"{'realtime' if realtime else 'pipeline'}-{stuck.__name__}"
        )
        for realtime, stuck in pairs
    ]


@pytest.mark.parametrize("closer", CLOSERS, ids=lambda closer: closer.__name__)
@pytest.mark.parametrize(("realtime", "stuck"), rows())
async def test_no_connection_outlives_a_forced_close(
    realtime: bool, stuck: Callable[[Scene], None], closer: Callable[[Any], Any]
) -> None:
    async with scene(realtime=realtime) as here:
        stuck(here)
        session = here.make_session()
        recorded = Recorded(session)
        await session.start(here.agent)
        session.generate_reply(user_input="hello")
        await asyncio.sleep(1.5)
        assert here.server.calls, "the clients never dialled"
        took = await close(session, closer)
        assert took <= BOUND
        assert len(recorded.closes) == 1
        await nobody_calls(here.server)


async def test_a_call_over_sockets_works() -> None:
    async with scene() as here:
        session = here.make_session(turn_handling={"endpointing": {"min_delay": 0.2}})
        await session.start(here.agent)
        await asyncio.sleep(0.1)
        await here.server.hear("good evening")
        await asyncio.sleep(5)
        said = [message.text_content for message in session.history.messages()]
        assert said == ["good evening", "at your service"]
        (call,) = here.server.of("tts")
        assert "".join(said.get("text", "") for said in call.heard) == "at your service"
        assert here.server.of("stt")[0].audio_bytes > 2 * 16000 * 4
        assert here.server.open == ["stt"]
        assert await close(session) < 0.1
        await nobody_calls(here.server)


async def test_a_realtime_call_over_sockets_works() -> None:
    async with scene(realtime=True) as here:
        session = here.make_session()
        await session.start(here.agent)
        await session.generate_reply(instructions="greet")
        assert session.history.messages()[-1].text_content == "at your service"
        assert here.server.open == ["realtime"]
        assert await close(session) < 0.1
        await nobody_calls(here.server)


async def test_the_stt_is_disconnected_at_once_although_a_tool_is_stuck() -> None:
    async with scene() as here:
        here.calls_a_tool()
        session = here.make_session()
        await session.start(here.agent)
        session.generate_reply(user_input="hello")
        await asyncio.sleep(1)
        closing = asyncio.ensure_future(session.aclose())
        await asyncio.sleep(0.1)
        assert here.server.open == [] and not closing.done()
        await closing
        await nobody_calls(here.server)


async def test_a_graceful_close_listens_until_the_drain_is_over() -> None:
    async with scene() as here:
        here.calls_a_tool()
        session = here.make_session()
        await session.start(here.agent)
        session.generate_reply(user_input="hello")
        await asyncio.sleep(1)
        session.shutdown()
        await asyncio.sleep(60)
        assert here.server.open == ["stt"]
        here.free.set()
        await close(session)
        await nobody_calls(here.server)


async def test_a_session_that_is_started_again_connects_again_and_closes_again() -> None:
    async with scene() as here:
        session = here.make_session()
        for life in range(1, 4):
            await session.start(Receptionist(here.free))
            await session.generate_reply(user_input="hello")
            assert here.server.open == ["stt"]
            assert len(here.server.of("stt")) == life == len(here.server.of("tts"))
            await close(session)
            session.input.audio, session.output.audio = here.microphone, here.speaker
        await nobody_calls(here.server)


async def test_idle_connections_of_a_pool_belong_to_the_voice() -> None:
    """The session closes what it uses; the voice was given to it, and may serve the next one."""
    async with scene(pooled=True) as here:
        session = here.make_session()
        await session.start(here.agent)
        await session.generate_reply(user_input="hello")
        await close(session)
        assert here.server.open == ["tts"]
        await here.tts.aclose()
        await nobody_calls(here.server)


async def test_a_socket_that_its_stream_forgot_ends_with_the_session() -> None:
    async with scene() as here:
        here.hearing.socket = "forgotten"
        here.calls_a_tool()
        session = here.make_session()
        recorded = Recorded(session)
        await session.start(here.agent)
        session.generate_reply(user_input="hello")
        await asyncio.sleep(1)
        assert here.server.open == ["stt"]
        assert await close(session) <= BOUND
        (closed,) = recorded.closes
        assert closed.report is not None and not closed.report.survivors
        await nobody_calls(here.server)


async def test_a_socket_kept_for_the_next_stream_lasts_as_long_as_the_session() -> None:
    async with scene() as here:
        here.hearing.socket = "kept"
        session = here.make_session(turn_handling={"endpointing": {"min_delay": 0.2}})
        await session.start(here.agent)
        await asyncio.sleep(1)
        session.update_agent(Listener(here.free))
        await asyncio.sleep(1)
        assert here.stt.streams == 2
        assert here.server.open == ["stt"] and len(here.server.of("stt")) == 1
        await here.server.hear("good evening")
        await asyncio.sleep(5)
        said = [message.text_content for message in session.history.messages()]
        assert said == ["good evening", "at your service"]
        await close(session)
        await nobody_calls(here.server)


async def test_a_socket_that_a_model_reads_for_all_its_streams_belongs_to_the_model() -> None:
    async with scene() as here:
        here.hearing.socket = "shared"
        session = here.make_session(turn_handling={"endpointing": {"min_delay": 0.2}})
        for _ in range(2):
            session.input.audio, session.output.audio = here.microphone, here.speaker
            await session.start(Receptionist(here.free))
            await asyncio.sleep(1)
            await here.server.hear("good evening")
            await asyncio.sleep(5)
            assert session.history.messages()[-2].text_content == "good evening"
            await close(session)
            assert here.server.open == ["stt"] and len(here.server.of("stt")) == 1
        await here.stt.aclose()
        await nobody_calls(here.server)


IDLE = 2007


@pytest.mark.parametrize("code", [IDLE, 1000, 1011])
@pytest.mark.parametrize("kind", ["stt", "realtime"])
async def test_a_server_that_hangs_up_during_the_close_is_not_called_back(
    kind: str, code: int
) -> None:
    async with scene(realtime=kind == "realtime") as here:
        session = here.make_session()
        await session.start(here.agent)
        await asyncio.sleep(1)
        closing = asyncio.ensure_future(session.aclose())
        await here.server.hang_up(kind, code=code, reason="session closed due to agent inactivity")
        await closing
        await nobody_calls(here.server)


@pytest.mark.parametrize("closer", CLOSERS, ids=lambda closer: closer.__name__)
async def test_a_stream_that_waits_for_its_next_attempt_makes_none_after_the_close(
    closer: Callable[[Any], Any],
) -> None:
    async with scene() as here:
        session = here.make_session()
        await session.start(here.agent)
        await asyncio.sleep(1)
        here.server.refuses = 503
        await here.server.hang_up("stt", code=1011)
        await asyncio.sleep(1)
        assert len(here.server.of("stt")) >= 2, "it did not try again before the close"
        await close(session, closer)
        await nobody_calls(here.server)


@pytest.mark.parametrize("closer", CLOSERS, ids=lambda closer: closer.__name__)
async def test_idleness_is_no_error_and_an_idle_stream_makes_no_call_after_the_close(
    closer: Callable[[Any], Any],
) -> None:
    async with scene() as here:
        session = here.make_session()
        recorded = Recorded(session)
        await session.start(here.agent)
        await asyncio.sleep(1)
        here.microphone.on = False
        await asyncio.sleep(1800)
        await here.server.hang_up("stt", code=IDLE, reason="session closed due to agent inactivity")
        await asyncio.sleep(600)
        assert len(here.server.of("stt")) == 1, "nobody spoke, so there was nothing to dial for"
        assert "error" not in recorded.story
        await close(session, closer)
        here.microphone.on = True
        await nobody_calls(here.server)


async def test_an_idle_stream_dials_again_for_the_next_word() -> None:
    async with scene() as here:
        session = here.make_session()
        await session.start(here.agent)
        await asyncio.sleep(1)
        await here.server.hang_up("stt", code=IDLE, reason="session closed due to agent inactivity")
        await asyncio.sleep(1)  # the microphone goes on
        assert here.server.open == ["stt"] and len(here.server.of("stt")) == 2
        await close(session)
        await nobody_calls(here.server)


async def test_what_ignores_its_cancellation_is_named_and_cut_off_from_the_network() -> None:
    async with scene() as here:
        stt_ignores_cancellation(here)
        session = here.make_session()
        recorded = Recorded(session)
        await session.start(here.agent)
        await asyncio.sleep(1)
        assert await close(session) <= BOUND
        report = recorded.closes[0].report
        assert report is not None and report.finished_at is not None
        assert [s.name for s in report.survivors] == ["SocketRecognizeStream._main_task"]
        await nobody_calls(here.server)
