"""Calls that are hard to close. Public API, small fakes.

Each scenario prepares a call and hangs up; `run` tells whether the session closed: `close` emitted
once, every closer back, nothing listening any more, and what the scenario itself checks.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterable, Awaitable, Callable, Coroutine
from dataclasses import dataclass
from typing import Any

from close_fakes import (
    Behave,
    BrokenToolset,
    Ears,
    Microphone,
    ScriptedLLM,
    Speaker,
    Voice,
    forever,
    nothing,
    stream_of,
    stubborn,
)

from livekit.agents import Agent, AgentSession, AgentTask, APIError, function_tool
from livekit.agents.voice.agent_session import SessionConnectOptions

Check = Callable[[], Awaitable[None]]
Scenario = Callable[["Call"], Coroutine[Any, Any, "Check | None"]]

LIMIT = 7.0
"""Seconds within which a session must have closed, whatever happens."""

SCENARIOS: dict[str, Scenario] = {}


def scenario(title: str) -> Callable[[Scenario], Scenario]:
    """Register a scenario under what it is about."""

    def register(function: Scenario) -> Scenario:
        SCENARIOS[title] = function
        return function

    return register


class Helper(Agent):
    """An agent whose tools and hooks do what a scenario wants."""

    def __init__(
        self,
        call: Call,
        *,
        at_enter: Behave = nothing,
        at_exit: Behave = nothing,
        at_turn: Behave = nothing,
        tool: Behave = forever,
        **options: Any,
    ) -> None:
        super().__init__(instructions="Help.", **options)
        self._at_enter, self._at_exit, self._at_turn = at_enter, at_exit, at_turn
        self._tool = call.mark(tool)

    async def on_enter(self) -> None:
        await self._at_enter()

    async def on_exit(self) -> None:
        await self._at_exit()

    async def on_user_turn_completed(self, turn_ctx: Any, new_message: Any) -> None:
        await self._at_turn()

    @function_tool
    async def work(self) -> str:
        """Do what the scenario wants."""
        await self._tool()
        return "done"

    @function_tool
    async def more_work(self) -> str:
        """Do it again."""
        await self._tool()
        return "done"


class Question(AgentTask[str]):
    """A task whose hooks and tool do what a scenario wants."""

    def __init__(
        self,
        call: Call,
        *,
        at_enter: Behave = nothing,
        at_exit: Behave = nothing,
        tool: Behave = forever,
    ) -> None:
        super().__init__(instructions="Ask.")
        self._at_enter, self._at_exit = call.mark(at_enter), at_exit
        self._tool = call.mark(tool)

    async def on_enter(self) -> None:
        await self._at_enter()

    async def on_exit(self) -> None:
        await self._at_exit()

    @function_tool
    async def work(self) -> str:
        """Do what the scenario wants."""
        await self._tool()
        return "done"


class Call:
    """A session in the middle of a call, and how its close goes."""

    def __init__(self, patience: float) -> None:
        self.patience = patience
        self.closes: list[float] = []
        self.closers: list[asyncio.Task[Any]] = []
        self.began = asyncio.get_running_loop().time()
        self.expect_closes = 1
        self._emitted = asyncio.Event()
        self._reached = 0
        self._wanted = 0
        self._progress = asyncio.Event()

    async def start(
        self,
        agent: Agent | None = None,
        *,
        ears: Ears | None = None,
        llm: ScriptedLLM | None = None,
        voice: Voice | None = None,
        speaker: Speaker | None = None,
        microphone: Microphone | None = None,
        **options: Any,
    ) -> AgentSession[Any]:
        """Start the session, with whatever is healthy unless given."""
        self.ears = ears or Ears()
        self.session: AgentSession[Any] = AgentSession(
            stt=self.ears,
            llm=llm or ScriptedLLM(),
            tts=voice or Voice(),
            vad=None,
            turn_handling={"turn_detection": "stt"},
            user_away_timeout=None,
            **options,
        )
        self.attach(speaker, microphone)
        self.session.on("close", self._on_close)
        await self.session.start(agent or Helper(self))
        await asyncio.sleep(0.1)
        return self.session

    def attach(self, speaker: Speaker | None = None, microphone: Microphone | None = None) -> None:
        """Give the session ears and a mouth."""
        self.session.input.audio = microphone or Microphone()
        self.session.output.audio = speaker or Speaker()

    def mark(self, behave: Behave) -> Behave:
        """The same, noticed by `ask` when it begins."""

        async def marked() -> None:
            self._reached += 1
            self._progress.set()
            await behave()

        return marked

    async def ask(self, words: str = "call:work", *, times: int = 1) -> None:
        """The user says something, and marked things begin, so many times."""
        self._wanted = self._reached + times
        self.session.generate_reply(user_input=words)
        await self.reach(0)

    async def reach(self, times: int = 1) -> None:
        """Marked things have begun, so many since the last time."""
        self._wanted += times
        while self._reached < self._wanted:
            self._progress.clear()
            await self._progress.wait()
        self._wanted = self._reached
        await asyncio.sleep(0.05)

    def hang_up(self, *closers: Coroutine[Any, Any, Any]) -> None:
        """The clock runs from here. Without `closers`: `aclose()`."""
        self.began = asyncio.get_running_loop().time()
        for closer in closers or (self.session.aclose(),):
            self.closers.append(asyncio.ensure_future(closer))

    async def until_closed(self) -> None:
        """Until the event is out and every closer is back."""
        await self.closed(self.expect_closes)
        await asyncio.wait(self.closers)
        await asyncio.sleep(0.02)

    async def closed(self, times: int = 1) -> None:
        """Until the event was emitted this often."""
        while len(self.closes) < times:
            self._emitted.clear()
            await self._emitted.wait()

    def _on_close(self, _: object) -> None:
        self.closes.append(asyncio.get_running_loop().time())
        self._emitted.set()


@dataclass
class Result:
    """How one close went."""

    title: str
    closed: bool
    seconds: float
    remark: str = ""


async def run(title: str, patience: float = 10.0) -> Result:
    """Play a scenario; a close that takes longer than `patience` seconds hangs."""
    call = Call(patience)
    loop = asyncio.get_running_loop()
    try:
        check = await asyncio.wait_for(SCENARIOS[title](call), patience)
        took = loop.time() - call.began
        await asyncio.wait_for(call.until_closed(), patience - min(took, patience - 0.1))
        seconds = loop.time() - call.began
        if seconds > LIMIT:
            return Result(title, False, seconds, "late")
        if len(call.closes) != call.expect_closes:
            return Result(title, False, seconds, f"`close` emitted {len(call.closes)} times")
        if call.ears.open:
            return Result(title, False, seconds, "a speech stream is still open")
        if check is not None:
            await asyncio.wait_for(check(), patience)
    except asyncio.TimeoutError:
        return Result(title, False, loop.time() - call.began, "hangs")
    except Exception as error:
        return Result(title, False, loop.time() - call.began, str(error) or repr(error))
    return Result(title, True, seconds)


async def run_all(patience: float = 10.0) -> list[Result]:
    """Play all scenarios side by side."""
    return await asyncio.gather(*(run(title, patience) for title in SCENARIOS))


# -- tools ----------------------------------------------------------------------------------------------


@scenario("a tool sleeps")
async def _(call: Call) -> None:
    await call.start()
    await call.ask()
    call.hang_up()


@scenario("a tool sleeps; the caller hangs up (`shutdown(drain=False)`)")
async def _(call: Call) -> None:
    session = await call.start()
    await call.ask()
    call.hang_up(nothing())
    session.shutdown(drain=False)


@scenario("two tools sleep")
async def _(call: Call) -> None:
    await call.start()
    await call.ask("call:work call:more_work", times=2)
    call.hang_up()


@scenario("a tool ignores cancellation")
async def _(call: Call) -> None:
    await call.start(Helper(call, tool=stubborn))
    await call.ask()
    call.hang_up()


@scenario("a tool awaits `aclose()`")
async def _(call: Call) -> Check:
    back = asyncio.Event()

    async def hang_up() -> None:
        call.hang_up(nothing())
        await call.session.aclose()
        back.set()

    await call.start(Helper(call, tool=hang_up))
    await call.ask()

    async def check() -> None:
        await asyncio.wait_for(back.wait(), 1)

    return check


@scenario("a tool awaits `aclose()` while another sleeps")
async def _(call: Call) -> None:
    first = True

    async def hang_up() -> None:
        nonlocal first
        first, was_first = False, first
        if was_first:
            call.hang_up(nothing())
            await call.session.aclose()
        await forever()

    await call.start(Helper(call, tool=hang_up))
    await call.ask("call:work call:more_work", times=2)


# -- hooks ----------------------------------------------------------------------------------------------


@scenario("`on_enter` waits for ever")
async def _(call: Call) -> None:
    await call.start(Helper(call, at_enter=forever))
    call.hang_up()


@scenario("`on_exit` waits for ever")
async def _(call: Call) -> None:
    await call.start(Helper(call, at_exit=forever))
    call.hang_up()


@scenario("`on_exit` ignores cancellation")
async def _(call: Call) -> None:
    await call.start(Helper(call, at_exit=stubborn))
    call.hang_up()


@scenario("`on_exit` raises `CancelledError`")
async def _(call: Call) -> None:
    async def cancelled() -> None:
        raise asyncio.CancelledError

    await call.start(Helper(call, at_exit=cancelled))
    call.hang_up()


@scenario("`on_exit` says goodbye to a speaker that never finishes")
async def _(call: Call) -> None:
    async def goodbye() -> None:
        await call.session.say("Goodbye.", allow_interruptions=False)

    await call.start(Helper(call, at_exit=goodbye), speaker=Speaker(mute=True))
    call.hang_up()


@scenario("`on_user_turn_completed` waits for ever")
async def _(call: Call) -> None:
    await call.start(Helper(call, at_turn=call.mark(forever)))
    call.ears.hear("hello")
    await call.reach()
    call.hang_up()


@scenario("`on_enter` awaits `aclose()`")
async def _(call: Call) -> None:
    async def leave() -> None:
        await asyncio.sleep(0.1)
        call.hang_up(nothing())
        await call.session.aclose()

    await call.start(Helper(call, at_enter=call.mark(leave)))
    await call.reach()
    await asyncio.sleep(0.2)


@scenario("`on_exit` awaits `aclose()`")
async def _(call: Call) -> None:
    async def leave() -> None:
        await call.session.aclose()

    await call.start(Helper(call, at_exit=leave))
    call.hang_up()


# -- inline tasks ---------------------------------------------------------------------------------------


@scenario("an AgentTask's `on_enter` waits for ever")
async def _(call: Call) -> None:
    async def ask() -> None:
        await Question(call, at_enter=forever)

    await call.start(Helper(call, at_enter=ask))
    call.hang_up()


@scenario("an AgentTask's `on_exit` waits for ever")
async def _(call: Call) -> None:
    async def ask() -> None:
        await Question(call, at_exit=forever)

    await call.start(Helper(call, tool=ask))
    await call.ask(times=2)
    call.hang_up()


@scenario("an AgentTask inside an AgentTask, a tool of the inner one sleeps")
async def _(call: Call) -> None:
    async def outer() -> None:
        await Question(call, at_enter=inner)

    async def inner() -> None:
        await Question(call)

    await call.start(Helper(call, tool=outer))
    await call.ask(times=3)
    await call.ask()
    call.hang_up()


@scenario("an AgentTask awaited by a tool; its own tool ignores cancellation")
async def _(call: Call) -> None:
    async def ask() -> None:
        await Question(call, tool=stubborn)

    await call.start(Helper(call, tool=ask))
    await call.ask(times=2)
    await call.ask()
    call.hang_up()


# -- handoffs -------------------------------------------------------------------------------------------


@scenario("a handoff waits for the old agent's tool")
async def _(call: Call) -> None:
    session = await call.start()
    await call.ask()
    session.update_agent(Helper(call))
    await asyncio.sleep(0.1)
    call.hang_up()


@scenario("a handoff waits for the old agent's `on_exit`")
async def _(call: Call) -> None:
    session = await call.start(Helper(call, at_exit=call.mark(forever)))
    session.update_agent(Helper(call))
    await call.reach()
    call.hang_up()


@scenario("after a handoff, the new agent's `on_enter` waits for ever")
async def _(call: Call) -> None:
    session = await call.start()
    session.update_agent(Helper(call, at_enter=call.mark(forever)))
    await call.reach()
    call.hang_up()


@scenario("a handoff waits for a toolset of the old agent to close")
async def _(call: Call) -> None:
    session = await call.start(Helper(call, tools=[BrokenToolset(forever)]))
    session.update_agent(Helper(call))
    await asyncio.sleep(0.1)
    call.hang_up()


# -- models, nodes and sinks ----------------------------------------------------------------------------


@scenario("the LLM ignores cancellation")
async def _(call: Call) -> None:
    await call.start(llm=ScriptedLLM(before=call.mark(stubborn)))
    await call.ask("hello")
    call.hang_up()


@scenario("the TTS ignores cancellation")
async def _(call: Call) -> None:
    await call.start(voice=Voice(before=call.mark(stubborn)))
    await call.ask("hello")
    call.hang_up()


@scenario("the STT ignores cancellation")
async def _(call: Call) -> Check:
    await call.start(ears=Ears(at_end=stubborn))
    call.hang_up()
    call.ears.open.clear()  # what ignores its cancellation can't be closed by anyone
    return nothing


@scenario("`llm_node` ignores cancellation")
async def _(call: Call) -> None:
    class Stuck(Helper):
        async def llm_node(self, chat_ctx: Any, tools: Any, settings: Any) -> str:
            await call.mark(stubborn)()
            return ""

    await call.start(Stuck(call))
    await call.ask("hello")
    call.hang_up()


@scenario("`tts_node` ignores cancellation")
async def _(call: Call) -> None:
    class Stuck(Helper):
        async def tts_node(self, text: AsyncIterable[str], settings: Any) -> Any:
            async for _ in text:
                await call.mark(stubborn)()
            yield

    await call.start(Stuck(call))
    await call.ask("hello")
    call.hang_up()


@scenario("`stt_node` cleans up for ever")
async def _(call: Call) -> Check:
    class Stuck(Helper):
        async def stt_node(self, audio: Any, settings: Any) -> Any:
            try:
                async for event in Agent.default.stt_node(self, audio, settings):
                    yield event
            finally:
                await stubborn()

    await call.start(Stuck(call))
    call.hang_up()
    return nothing


@scenario("`transcription_node` ignores cancellation")
async def _(call: Call) -> None:
    class Stuck(Helper):
        def transcription_node(self, text: Any, settings: Any) -> Any:
            return stream_of(text, call.mark(stubborn))

    await call.start(Stuck(call))
    await call.ask("hello")
    call.hang_up()


@scenario("a speaker that never finishes; graceful, then `aclose()`")
async def _(call: Call) -> None:
    session = await call.start(speaker=Speaker(mute=True))
    session.say("Goodbye.", allow_interruptions=False)
    await asyncio.sleep(0.2)
    session.shutdown()
    call.hang_up()


@scenario("a speaker that takes no frame; graceful, then forced")
async def _(call: Call) -> None:
    session = await call.start(speaker=Speaker(at_frame=stubborn))
    session.say("Goodbye.")
    await asyncio.sleep(0.2)
    session.shutdown()
    await asyncio.sleep(0.1)
    call.hang_up(nothing())
    session.shutdown(drain=False)


@scenario("a microphone whose `on_detached` raises")
async def _(call: Call) -> None:
    class Fragile(Microphone):
        def on_detached(self) -> None:
            raise RuntimeError("no such device")

    await call.start(microphone=Fragile())
    call.hang_up()


# -- toolsets, recorder, handlers -----------------------------------------------------------------------


@scenario("a toolset of the session never closes")
async def _(call: Call) -> None:
    await call.start(tools=[BrokenToolset(forever)])
    call.hang_up()


@scenario("a toolset of the agent ignores cancellation while it closes")
async def _(call: Call) -> None:
    await call.start(Helper(call, tools=[BrokenToolset(stubborn)]))
    call.hang_up()


@scenario("the recorder never closes")
async def _(call: Call) -> None:
    class Recorder:
        async def aclose(self) -> None:
            await forever()

    session = await call.start()
    session._recorder_io = Recorder()  # type: ignore[assignment]  # a job sets it
    call.hang_up()


@scenario("a `close` handler raises `TypeError`")
async def _(call: Call) -> Check:
    told: list[object] = []

    def broken(_: object) -> None:
        raise TypeError("not what it expected")

    session = await call.start()
    session.on("close", broken)
    session.on("close", told.append)
    with contextlib.suppress(TypeError):
        call.hang_up()

    async def check() -> None:
        assert told, "the next handler was not called"

    return check


# -- several closers ------------------------------------------------------------------------------------


@scenario("a tool sleeps; graceful, then three `aclose()`")
async def _(call: Call) -> None:
    session = await call.start()
    await call.ask()
    session.shutdown()
    call.hang_up(session.aclose(), session.aclose(), session.aclose())


@scenario("a tool sleeps; graceful, then forced")
async def _(call: Call) -> None:
    session = await call.start()
    await call.ask()
    session.shutdown()
    await asyncio.sleep(0.1)
    call.hang_up(nothing())
    session.shutdown(drain=False)


@scenario("the first `aclose()` is given up after a second")
async def _(call: Call) -> None:
    session = await call.start()
    await call.ask()

    async def give_up() -> None:
        with contextlib.suppress(asyncio.TimeoutError):
            await asyncio.wait_for(session.aclose(), 1)

    call.hang_up(give_up())


@scenario("an AgentTask waits; graceful, then `aclose()`")
async def _(call: Call) -> None:
    async def ask() -> None:
        await Question(call, at_enter=forever)

    session = await call.start(Helper(call, at_enter=ask))
    session.shutdown()
    await asyncio.sleep(0.1)
    call.hang_up()


# -- errors and restart ---------------------------------------------------------------------------------


async def _fail() -> None:
    raise APIError("the model is gone", retryable=False)


@scenario("an unrecoverable error while a tool sleeps")
async def _(call: Call) -> None:
    model = ScriptedLLM()
    await call.start(llm=model, conn_options=SessionConnectOptions(max_unrecoverable_errors=0))
    await call.ask()
    model.before = call.mark(_fail)
    call.hang_up(nothing())
    await call.ask("hello")


@scenario("an unrecoverable error during a graceful close that waits for a tool")
async def _(call: Call) -> None:
    session = await call.start(conn_options=SessionConnectOptions(max_unrecoverable_errors=0))
    await call.ask()
    session.shutdown()
    await asyncio.sleep(0.1)
    call.hang_up(nothing())
    call.ears.failure.set_result(APIError("the provider is gone", retryable=False))


@scenario("started again after a forced close, and closed again")
async def _(call: Call) -> None:
    session = await call.start()
    await call.ask()
    call.expect_closes = 2
    session.shutdown(drain=False)
    await call.closed()
    await asyncio.sleep(0.1)
    call.attach()
    await session.start(Helper(call))
    await asyncio.sleep(0.1)
    call.hang_up(nothing())
    session.shutdown()


@scenario("started again after `shutdown()`, and shut down again")
async def _(call: Call) -> None:
    session = await call.start()
    call.expect_closes = 2
    session.shutdown()
    await call.closed()
    await asyncio.sleep(0.1)
    call.attach()
    await session.start(Helper(call))
    await asyncio.sleep(0.1)
    call.hang_up(nothing())
    session.shutdown()


# -- speech providers -----------------------------------------------------------------------------------


@scenario("a tool sleeps, and the speech provider drops the idle connection (2007)")
async def _(call: Call) -> Check:
    await call.start()
    await call.ask()
    call.hang_up()
    await asyncio.sleep(0.1)
    call.ears.failure.set_result(APIError("session closed due to agent inactivity (2007)"))

    async def check() -> None:
        assert call.ears.connected == 1, f"connected {call.ears.connected} times"

    return check
