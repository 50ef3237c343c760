"""A session in which everything that can get stuck calls `Parking.at`.

A place is a name that some code below passes to `at`; a drive is what brings the session there.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterable, AsyncIterator, Awaitable, Callable, Coroutine
from contextlib import asynccontextmanager
from typing import Any

from closing.checker import CloseChecker
from closing.parking import SURVIVOR, Parking
from livekit import rtc

from fakes.hearing import FakeInterruptionDetector, FakeStreamingDetector, frame
from fakes.llm import FakeLLM, FakeLLMStream, Reply, call
from fakes.mcp_memory import MemoryServer
from fakes.realtime import FakeRealtimeModel, FakeRealtimeSession
from fakes.session import EVENTS, make_session
from fakes.speaker import Speaker
from fakes.stt import FakeRecognizeStream, FakeSTT
from fakes.tts import FakeSynthesizeStream, FakeTTS, heard
from fakes.vad import FakeVAD, FakeVADStream
from livekit.agents.inference import TurnDetector
from livekit.agents.inference.eot.local_model import Heard
from livekit.agents.inference.eot.local_transport import LocalTransport
from livekit.agents.inference.eot.stream import TurnDetectorStream
from livekit.agents.llm import Toolset, function_tool
from livekit.agents.llm.async_toolset import AsyncToolset
from livekit.agents.llm.tool_context import ToolFlag
from livekit.agents.stt import STTCapabilities
from livekit.agents.vad import VADEventType
from livekit.agents.voice import Agent, AgentSession, AgentTask, RunContext, SpeechHandle
from livekit.agents.voice.closing import Step
from livekit.agents.voice.io import AudioInput, TextOutput

# -- models, sinks and sources ----------------------------------------------------------------------


class _LLMStream(FakeLLMStream):
    async def _run(self) -> None:
        llm = self._fake
        assert isinstance(llm, StuckLLM)
        if self._request.user_text in llm.spare:
            return await super()._run()
        if await llm.parking.at(f"{llm.name} stream"):
            llm.replies.insert(0, SURVIVOR)
        await super()._run()
        if await llm.parking.at(f"{llm.name} stream, half-way"):
            await super()._run()
        return None

    async def aclose(self) -> None:
        try:
            await super().aclose()
        finally:
            llm = self._fake
            assert isinstance(llm, StuckLLM)
            if self._request.user_text not in llm.spare:
                await llm.parking.at(f"{llm.name} stream's aclose")


class StuckLLM(FakeLLM):
    """A `FakeLLM` whose streams may get stuck."""

    spare = frozenset({"prepare"})

    def __init__(self, parking: Parking, *, name: str = "LLM", **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.parking = parking
        self.name = name

    def off(self, event: Any, callback: Any) -> None:
        super().off(event, callback)
        self.parking.at_sync("model's off")

    def chat(self, **kwargs: Any) -> FakeLLMStream:
        stream = super().chat(**kwargs)
        stream.__class__ = _LLMStream
        return stream


class _TTSStream(FakeSynthesizeStream):
    async def _run(self, output_emitter: Any) -> None:
        tts = self._tts
        assert isinstance(tts, StuckTTS)
        await tts.parking.at("TTS stream")
        await super()._run(output_emitter)
        await tts.parking.at("TTS stream, half-way")

    async def aclose(self) -> None:
        try:
            await super().aclose()
        finally:
            tts = self._tts
            assert isinstance(tts, StuckTTS)
            await tts.parking.at("TTS stream's aclose")


class StuckTTS(FakeTTS):
    """A `FakeTTS` whose streams may get stuck."""

    def __init__(self, parking: Parking) -> None:
        super().__init__()
        self.parking = parking

    def stream(self, **kwargs: Any) -> FakeSynthesizeStream:
        stream = super().stream(**kwargs)
        stream.__class__ = _TTSStream
        return stream  # type: ignore[return-value]


class _STTStream(FakeRecognizeStream):
    async def _run(self) -> None:
        stt = self._stt
        assert isinstance(stt, StuckSTT)
        try:
            if await stt.parking.at("STT stream"):
                self.final(SURVIVOR)
            await super()._run()
        finally:
            if await stt.parking.at("STT stream's cleanup"):
                self.final(SURVIVOR)

    async def aclose(self) -> None:
        stt = self._stt
        assert isinstance(stt, StuckSTT)
        await stt.parking.at("STT stream's aclose")
        await super().aclose()


class StuckSTT(FakeSTT):
    """A `FakeSTT` whose streams may get stuck."""

    def __init__(self, parking: Parking) -> None:
        super().__init__(
            capabilities=STTCapabilities(streaming=True, interim_results=True, keyterms=True)
        )
        self.parking = parking

    def stream(self, **kwargs: Any) -> FakeRecognizeStream:
        stream = super().stream(**kwargs)
        stream.__class__ = _STTStream
        return stream


class _VADStream(FakeVADStream):
    async def _main_task(self) -> None:
        vad = self._vad
        assert isinstance(vad, StuckVAD)
        try:
            await vad.parking.at("VAD stream")
            await super()._main_task()
        finally:
            await vad.parking.at("VAD stream's cleanup")


class StuckVAD(FakeVAD):
    """A `FakeVAD` whose streams may get stuck."""

    def __init__(self, parking: Parking) -> None:
        super().__init__()
        self.parking = parking

    def stream(self) -> FakeVADStream:
        stream = super().stream()
        stream.__class__ = _VADStream
        return stream


class StuckDetector(FakeStreamingDetector):
    """A streaming turn detector whose stream may get stuck."""

    def __init__(self, parking: Parking) -> None:
        super().__init__()
        self.parking = parking

    def stream(self, *, conn_options: Any = None) -> Any:
        stream = super().stream(conn_options=conn_options)
        parking, aclose = self.parking, stream.aclose

        async def stuck_aclose() -> None:
            stream.closed = True
            await parking.at("turn detector's aclose")
            await aclose()

        stream.aclose = stuck_aclose  # type: ignore[method-assign]
        return stream


class StuckLocalDetector(TurnDetector):
    """The detector that sessions have by default, whose model gets stuck in its thread."""

    def __init__(self, parking: Parking) -> None:
        super().__init__(version="v1-mini")
        self.parking = parking

    def stream(self, **options: Any) -> TurnDetectorStream:
        stream = super().stream(**options)
        stream._local = lambda: LocalTransport(  # type: ignore[method-assign]
            stream._recent,
            on_answer=stream._on_answer,
            on_failure=stream._on_local_failure,
            on_unusable=stream._on_local_unusable,
            model=self,
        )
        return stream

    def load(self) -> None:
        self.parking.at_in_thread("turn detector's loading")

    def judge(self, heard: Heard) -> float:
        self.parking.at_in_thread("turn detector's judgement")
        return 1.0


class StuckTextDetector:
    """A turn detector that reads, each of whose questions may get stuck."""

    model, provider = "text-detector", "fake"

    def __init__(self, parking: Parking) -> None:
        self.parking = parking

    async def unlikely_threshold(self, language: Any) -> float | None:
        await self.parking.at("turn detector's threshold")
        return 0.5

    async def supports_language(self, language: Any) -> bool:
        await self.parking.at("turn detector's language")
        return True

    async def predict_end_of_turn(self, chat_ctx: Any, *, timeout: float | None = None) -> float:
        await self.parking.at("turn detector's prediction")
        return 1.0


class StuckInterruptionDetector(FakeInterruptionDetector):
    """An interruption detector whose stream may get stuck."""

    def __init__(self, parking: Parking) -> None:
        super().__init__()
        self.parking = parking

    def stream(self, *, conn_options: Any = None) -> Any:
        stream = super().stream(conn_options=conn_options)
        parking, aclose = self.parking, stream.aclose

        async def stuck_aclose() -> None:
            stream.closed = True
            await parking.at("interruption detector's aclose")
            await aclose()

        stream.aclose = stuck_aclose  # type: ignore[method-assign]
        return stream


class _RealtimeSession(FakeRealtimeSession):
    @property
    def parking(self) -> Parking:
        model = self._fake
        assert isinstance(model, StuckRealtime)
        return model.parking

    async def update_chat_ctx(self, chat_ctx: Any) -> None:
        if any(message.role == "user" for message in chat_ctx.messages()):
            await self.parking.at("realtime update_chat_ctx")
        await super().update_chat_ctx(chat_ctx)

    async def update_instructions(self, instructions: str) -> None:
        await self.parking.at("realtime update_instructions")
        await super().update_instructions(instructions)

    def interrupt(self) -> None:
        super().interrupt()
        self.parking.at_sync("realtime interrupt")

    async def aclose(self) -> None:
        self.closed = True
        await self.parking.at("realtime aclose")
        await super().aclose()


class StuckRealtime(FakeRealtimeModel):
    """A realtime model whose sessions may get stuck."""

    def __init__(self, parking: Parking, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.parking = parking

    def session(self, *, turn_detection_disabled: bool = False) -> FakeRealtimeSession:
        session = super().session(turn_detection_disabled=turn_detection_disabled)
        session.__class__ = _RealtimeSession
        return session


class TapeSpeaker(Speaker):
    """A loudspeaker that remembers what was audible, and whose every method may get stuck."""

    def __init__(self, parking: Parking) -> None:
        super().__init__()
        self.parking = parking
        self._tape: list[tuple[list[rtc.AudioFrame], float]] = []
        self._frames: list[rtc.AudioFrame] = []

    @property
    def audible(self) -> list[str]:
        """What was heard of each segment that is over."""
        return [text for frames, end in self._tape if (text := heard(_first(frames, end)))]

    async def capture_frame(self, frame: rtc.AudioFrame) -> None:
        if not self._filling:
            self._frames = []
        self._frames.append(frame)
        await super().capture_frame(frame)
        await self.parking.at("sink's capture_frame")

    def flush(self) -> Any:
        super().flush()
        return self.parking.at_sync("sink's flush")

    def clear_buffer(self) -> Any:
        super().clear_buffer()
        return self.parking.at_sync("sink's clear_buffer")

    def pause(self) -> Any:
        super().pause()
        return self.parking.at_sync("sink's pause")

    def resume(self) -> Any:
        super().resume()
        return self.parking.at_sync("sink's resume")

    def on_detached(self) -> Any:
        super().on_detached()
        return self.parking.at_sync("sink's on_detached")

    def _finish(self, interrupted: bool) -> None:
        self._tape.append((self._frames, self._position()))
        if self.parking.stuck_at("sink's playout"):
            self._disarm()
            self._playing_since = None
            return
        super()._finish(interrupted)


def _first(frames: list[rtc.AudioFrame], seconds: float) -> list[rtc.AudioFrame]:
    taken: list[rtc.AudioFrame] = []
    for piece in frames:
        if seconds < piece.duration - 1e-6:
            samples = int(seconds * piece.sample_rate)
            if samples:
                data = bytes(piece.data)[: samples * 2 * piece.num_channels]
                taken.append(rtc.AudioFrame(data, piece.sample_rate, piece.num_channels, samples))
            break
        taken.append(piece)
        seconds -= piece.duration
    return taken


class Screen(TextOutput):
    """A text output that may get stuck."""

    def __init__(self, parking: Parking) -> None:
        super().__init__(label="screen", next_in_chain=None)
        self.parking = parking
        self.shown = ""

    async def capture_text(self, text: str) -> None:
        await self.parking.at("text output")
        self.shown += text

    def flush(self) -> Any:
        return self.parking.at_sync("text output's flush")

    def on_detached(self) -> Any:
        super().on_detached()
        return self.parking.at_sync("text output's on_detached")


class Microphone(AudioInput):
    """A source that may get stuck; otherwise silent."""

    def __init__(self, parking: Parking) -> None:
        super().__init__(label="microphone")
        self.parking = parking

    async def __anext__(self) -> rtc.AudioFrame:
        if not await self.parking.at("source"):
            await asyncio.sleep(10)
        return frame()

    def on_detached(self) -> Any:
        super().on_detached()
        return self.parking.at_sync("source's on_detached")


class Drawer(Toolset):
    """A toolset whose set-up and end may get stuck."""

    def __init__(self, parking: Parking, owner: str) -> None:
        super().__init__(id=f"drawer of the {owner}")
        self.parking = parking
        self.owner = owner

    async def setup(self) -> Any:
        await self.parking.at(f"{self.owner}'s toolset set-up")
        return await super().setup()

    async def aclose(self) -> None:
        await self.parking.at(f"{self.owner}'s toolset aclose")
        await super().aclose()


class StuckServer(MemoryServer):
    """An MCP server, in the same process, whose connection may get stuck."""

    def __init__(self, parking: Parking) -> None:
        super().__init__()
        self.parking = parking

    @asynccontextmanager
    async def client_streams(self) -> AsyncIterator[Any]:
        await self.parking.at("MCP server's connection")
        async with super().client_streams() as streams:
            try:
                yield streams
            finally:
                await self.parking.at("MCP server's goodbye")


class Pocket(AsyncToolset):
    """A toolset whose calls outlive their turn."""

    def __init__(self, parking: Parking) -> None:
        super().__init__(id="pocket")
        self.parking = parking

    @function_tool
    async def search(self) -> str:
        """Searches."""
        await self.parking.at("tool of an async toolset")
        return SURVIVOR


class Part:
    """Something else that a session has and ends: a recorder, a room, a host."""

    linked_participant = "the user"

    def __init__(self, parking: Parking) -> None:
        self.parking = parking

    async def aclose(self, patience: float = 0.0) -> None:
        await self.parking.at("part's aclose")

    def _begin_close(self) -> list[Step]:
        return [Step("part", self.aclose)]

    def _linked_and_subscribed(self) -> bool:
        return True

    def on_eot_prediction(self, ev: Any) -> None:
        pass


# -- agents -----------------------------------------------------------------------------------------


class Ask(AgentTask[str]):
    """An inline task. `depth` more are nested in its `on_enter`."""

    def __init__(self, scene: Scene, depth: int = 0) -> None:
        super().__init__(instructions="ask")
        self.scene = scene
        self.depth = depth

    async def on_enter(self) -> None:
        if self.depth:
            await Ask(self.scene, self.depth - 1)
        self.scene.asked.set()
        if await self.scene.parking.at("inline task's on_enter"):
            await self.scene.misbehave()

    async def on_exit(self) -> None:
        self.scene.exits.append(f"ask {self.depth}")
        if await self.scene.parking.at("inline task's on_exit"):
            await self.scene.misbehave()

    @function_tool
    async def look_up(self) -> str:
        """Looks something up."""
        await self.scene.parking.at("inline task's tool")
        return "found"


class Second(Agent):
    """The agent after a handoff."""

    def __init__(self, scene: Scene) -> None:
        super().__init__(instructions="second", tools=[Drawer(scene.parking, "next agent")])
        self.scene = scene

    async def on_enter(self) -> None:
        await self.scene.parking.at("next agent's on_enter")


class Stuck(Agent):
    """The first agent: every method and node of it may get stuck."""

    def __init__(self, scene: Scene) -> None:
        super().__init__(instructions="first", tools=[Drawer(scene.parking, "agent")])
        self.scene = scene
        self.at = scene.parking.at

    async def on_enter(self) -> None:
        await self._hook("on_enter")
        if "on_enter's inline task" in self.scene.parking.places:
            self.scene.parking.reached.set()
            await Ask(self.scene)

    async def on_exit(self) -> None:
        self.scene.exits.append("first")
        if self.scene.closes_from == "on_exit":
            return await self.session.aclose()
        if self.scene.farewell:
            self.session.say(self.scene.farewell)
        return await self._hook("on_exit")

    async def on_user_turn_completed(self, turn_ctx: Any, new_message: Any) -> None:
        await self._hook("on_user_turn_completed")

    async def on_user_turn_exceeded(self, ev: Any) -> None:
        await self._hook("on_user_turn_exceeded")

    async def _hook(self, name: str) -> None:
        if await self.at(name):
            await self.scene.misbehave()

    # -- nodes

    async def stt_node(self, audio: Any, model_settings: Any) -> AsyncIterator[Any]:
        try:
            if await self.at("stt_node"):
                yield SURVIVOR
            async for event in Agent.default.stt_node(self, audio, model_settings):
                yield event
        finally:
            await self.at("stt_node's cleanup")

    async def llm_node(self, chat_ctx: Any, tools: Any, model_settings: Any) -> AsyncIterator[Any]:
        prepared = chat_ctx.messages()[-1].text_content == "prepare"
        try:
            if not prepared and await self.at("llm_node"):
                yield SURVIVOR
            async for chunk in Agent.default.llm_node(self, chat_ctx, tools, model_settings):
                yield chunk
        finally:
            if not prepared:
                await self.at("llm_node's cleanup")

    async def tts_node(
        self, text: AsyncIterable[str], model_settings: Any
    ) -> AsyncIterator[rtc.AudioFrame]:
        try:
            await self.at("tts_node")
            async for piece in Agent.default.tts_node(self, text, model_settings):
                yield piece
        finally:
            await self.at("tts_node's cleanup")

    async def transcription_node(
        self, text: AsyncIterable[Any], model_settings: Any
    ) -> AsyncIterator[Any]:
        if await self.at("transcription_node"):
            yield SURVIVOR
        async for delta in text:
            yield delta

    async def realtime_audio_output_node(
        self, audio: AsyncIterable[rtc.AudioFrame], model_settings: Any
    ) -> AsyncIterator[rtc.AudioFrame]:
        await self.at("realtime_audio_output_node")
        async for piece in audio:
            yield piece

    # -- tools

    @function_tool
    async def look_up(self) -> str:
        """Looks something up."""
        if await self.at("tool"):
            await self.scene.misbehave()
        return SURVIVOR

    @function_tool
    def compute(self) -> str:
        """Computes something, in a thread."""
        self.scene.parking.at_in_thread("tool in a thread")
        return SURVIVOR

    @function_tool
    async def look_up_later(self, ctx: RunContext[Any]) -> str:
        """Looks something up while the conversation goes on."""
        await ctx.update("looking")
        if await self.at("tool in the background"):
            await self.scene.misbehave()
            await ctx.update(SURVIVOR)
        return SURVIVOR

    @function_tool
    async def ask(self) -> str:
        """Asks the user in an inline task."""
        return await Ask(self.scene, self.scene.depth)

    @function_tool
    async def ask_in_a_gather(self) -> str:
        """Asks the user in an inline task, beside something else."""
        child = asyncio.ensure_future(self.at("gather in a tool"))
        await asyncio.gather(self.scene.checker.ours(child), asyncio.sleep(3600))
        return SURVIVOR

    @function_tool
    async def transfer(self) -> Agent:
        """Hands over."""
        await self.at("tool that hands over")
        return Second(self.scene)

    @function_tool
    async def finish_playout(self, ctx: RunContext[Any]) -> str:
        """Speaks to the end, then works."""
        await ctx.wait_for_playout()
        return "played"

    @function_tool
    async def take_the_floor(self, ctx: RunContext[Any]) -> str:
        """Wants the user's attention."""
        await ctx.update("one moment", silent=True)
        async with ctx.foreground():
            await self.at("tool that has the floor")
        return SURVIVOR

    @function_tool
    async def fill_in(self, ctx: RunContext[Any]) -> str:
        """Says something while it works."""
        async with ctx.with_filler("still working", delay=0.1, interval=0.5):
            await self.at("tool with a filler")
        return SURVIVOR

    @function_tool(flags=ToolFlag.CANCELLABLE)
    async def look_up_until_cancelled(self) -> str:
        """Looks something up, and may be stopped at any time."""
        await self.at("cancellable tool")
        return SURVIVOR

    @function_tool
    async def hang_up_later(self, ctx: RunContext[Any]) -> str:
        """Closes the session from inside a tool, when it is time."""
        await ctx.update("one moment", silent=True)
        await self.scene.hang_up.wait()
        await self.session.aclose()
        return SURVIVOR


# -- the scene --------------------------------------------------------------------------------------


class Scene:
    """A session with everything, and one place in it that gets stuck.

    Args:
        realtime: With a realtime model in place of the STT, LLM and TTS.
        options: Of the session.
    """

    def __init__(
        self,
        place: str | tuple[str, ...],
        how: str,
        *,
        realtime: bool = False,
        farewell: str = "",
        **options: Any,
    ) -> None:
        self.parking = parking = Parking(place, how)
        self.farewell = farewell
        self.depth = options.pop("depth", 0)
        self.closes_from = ""
        self.exits: list[str] = []
        self.helpers: list[asyncio.Task[None]] = []
        self.asked = asyncio.Event()
        self.hang_up = asyncio.Event()
        self.llm = StuckLLM(
            parking,
            by_text={
                "prepare": Reply(tool_calls=[call("hang_up_later")]),
                "are you there?": "yes",
            },
            default="a long answer to a short question",
        )
        self.stt = StuckSTT(parking)
        self.vad = StuckVAD(parking)
        self.tts = StuckTTS(parking)
        self.realtime = StuckRealtime(parking) if realtime else None
        self.interruption_detector = StuckInterruptionDetector(parking)
        self.keyterm_llm = StuckLLM(parking, name="keyterm LLM")
        self.amd_llm = StuckLLM(parking, name="AMD LLM")
        self.speaker = TapeSpeaker(parking)
        self.screen = Screen(parking)
        options.setdefault("aec_warmup_duration", None)
        options.setdefault("tools", [Drawer(parking, "session"), Pocket(parking)])
        if options.pop("mcp", False):
            from livekit.agents.llm.mcp import MCPToolset

            self.server = StuckServer(parking)
            options["tools"].append(MCPToolset(id="mcp", mcp_server=self.server))
        if options.pop("keyterms", False):
            detection = {"enabled": True, "llm": self.keyterm_llm}
            options["stt_context_options"] = {"keyterm_detection": detection}
        detector = options.pop("detector", None)
        if detector is not None:
            options["turn_handling"] = {"turn_detection": detector(parking)}
        broken_handlers = options.pop("broken_handlers", False)
        if realtime:
            models: dict[str, Any] = {"llm": self.realtime}
            self.session: AgentSession[Any] = AgentSession(vad=None, **models, **options)
        else:
            self.session = make_session(
                self.llm, stt=self.stt, vad=self.vad, tts=self.tts, **options
            )
        self.checker = CloseChecker(
            self.session,
            models=[self.realtime] if realtime else [self.llm, self.stt, self.vad, self.tts],
            sink=self.speaker,
        )
        self.agent = Stuck(self)
        if broken_handlers:
            for name in EVENTS:
                self.session.on(name, _broken)  # type: ignore[arg-type]

    def attach(self) -> None:
        """Give the session ears and a voice; a close takes them away."""
        self.session.input.audio = Microphone(self.parking)
        self.session.output.audio = self.speaker
        self.session.output.transcription = self.screen

    async def start(self) -> None:
        """Start the conversation."""
        self.attach()
        await self.session.start(self.agent)

    async def restart(self) -> None:
        """Start it again, healthy, with another agent and on the same lines."""
        self.parking.over = True
        self.llm.replies = []
        if self.realtime is not None:
            self.realtime.replies = ["yes"]
        self.attach()
        await self.session.start(Agent(instructions="second life"))

    def help(self, coro: Coroutine[Any, Any, None]) -> None:
        """Something else that the program does meanwhile."""
        self.helpers.append(self.checker.ours(asyncio.ensure_future(coro)))

    def end(self) -> None:
        """The test is over."""
        self.parking.let_go()
        for helper in self.helpers:
            helper.cancel()

    async def reached(self, patience: float) -> None:
        """Wait until something is stuck, if it gets stuck before the close at all."""
        waiting = asyncio.ensure_future(self.parking.reached.wait())
        await asyncio.wait([waiting], timeout=patience)
        waiting.cancel()

    async def misbehave(self) -> None:
        """What a survivor tries when it goes on."""
        session = self.session
        attempts: dict[str, Callable[[], Any]] = {
            "say": lambda: session.say(SURVIVOR),
            "generate_reply": lambda: session.generate_reply(user_input=SURVIVOR),
            "update_agent": lambda: session.update_agent(Second(self)),
            "commit_user_turn": session.commit_user_turn,
            "interrupt": session.interrupt,
        }
        for name, attempt in attempts.items():
            try:
                attempt()
            except RuntimeError:
                continue
            self.parking.misdeeds.append(name)

    # -- what brings it there

    @property
    def ear(self) -> FakeRecognizeStream:
        return self.stt.streams[-1]

    async def user_speaks(self) -> None:
        """The user begins to speak."""
        vad = self.vad.streams[-1]
        vad.send(VADEventType.START_OF_SPEECH, speech_duration=0.05)
        for step in range(1, 7):
            await asyncio.sleep(0.1)
            vad.send(
                VADEventType.INFERENCE_DONE,
                speaking=True,
                speech_duration=0.1 * step,
                raw_accumulated_speech=0.1,
            )

    async def user_stops(self) -> None:
        """The user falls silent."""
        await asyncio.sleep(0.25)
        self.vad.streams[-1].send(
            VADEventType.END_OF_SPEECH, silence_duration=0.25, speech_duration=0.6, speaking=False
        )

    def say(self, text: str, **options: Any) -> SpeechHandle:
        """Say something, and wait for it elsewhere."""
        handle = self.session.say(text, **options)
        self.checker.waiter("speech", handle.wait_for_playout())
        return handle

    def reply(self, text: str, **options: Any) -> SpeechHandle:
        """Let the agent reply to a text, and wait for it elsewhere."""
        handle = self.session.generate_reply(user_input=text, **options)
        self.checker.user_words.append(text)
        self.checker.waiter("reply", handle.wait_for_playout())
        return handle

    def reply_with_tool(self, *names: str, text: str = "go on") -> SpeechHandle:
        """Let the agent reply with tool calls."""
        self.llm.replies = [self.tool_call(*names)]
        return self.reply(text)

    def tool_call(self, *names: str) -> Reply:
        """An answer of the LLM that calls tools."""
        return Reply(tool_calls=[call(name) for name in names])


def _broken(*_: Any) -> None:
    raise TypeError("a broken handler")


Drive = Callable[[Scene], Awaitable[None]]

__all__ = [
    "Ask",
    "Drive",
    "Part",
    "Scene",
    "Second",
    "StuckDetector",
    "StuckLocalDetector",
    "StuckTextDetector",
]
