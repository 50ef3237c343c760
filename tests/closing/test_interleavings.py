"""Random conversations, closed at a random moment by whoever comes first.

An example is a list of public calls with pauses between them. Nothing is asserted about what the
agent says; everything that must hold after a close is, by the same checker as everywhere.

    make test ARGS="tests/closing/test_interleavings.py --examples 2000"
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from typing import Any

import pytest
from closing.checker import CloseChecker
from hypothesis import HealthCheck, given, settings, strategies as st
from virtual_time import run_test

from fakes.llm import FakeLLM, Reply, call
from fakes.session import make_session
from fakes.speaker import Speaker
from fakes.stt import FakeSTT
from fakes.tts import FakeTTS
from fakes.vad import FakeVAD
from livekit.agents.llm import LLMError, ToolFlag, function_tool
from livekit.agents.vad import VADEventType
from livekit.agents.voice import Agent, AgentTask, CloseReason, RunContext
from livekit.agents.voice.agent_activity import ActivityClosedError

REFUSALS = (RuntimeError, ActivityClosedError)
"""What public calls raise that come too late, or at the wrong moment."""


class Party:
    """A session and everybody who plays with it."""

    def __init__(self, *, hears: bool, **options: Any) -> None:
        self.llm = ToolCallingLLM()
        self.stt, self.vad, self.tts = FakeSTT(), FakeVAD(), FakeTTS()
        hearing = {"stt": self.stt, "vad": self.vad} if hears else {}
        self.hears = hears
        self.session = make_session(
            self.llm, tts=self.tts, aec_warmup_duration=None, **hearing, **options
        )
        self.checker = CloseChecker(self.session, models=[self.llm, self.stt, self.vad, self.tts])
        self.released = asyncio.Event()
        self._clock_runs = False
        self.tasks: set[asyncio.Task[Any]] = set()

    async def start(self, agent: Agent | None = None) -> None:
        self.session.output.audio = Speaker()
        await self.session.start(agent or First(self))

    def joins(self) -> None:
        """Somebody closes, or waits for the close that is going on."""
        if self.session._closing_task is None:
            self.requested()

    def escalates(self) -> None:
        """Somebody closes at once, even if a graceful close is going on."""
        close = self.session._close
        if self.session._closing_task is None or (close is not None and close.graceful):
            self.requested()

    def requested(self) -> None:
        """The clock of a forced close starts, once."""
        if not self._clock_runs:
            self._clock_runs = True
            self.checker.requested()

    def go(self, name: str, waiting: Awaitable[Any]) -> None:
        """Somebody waits for this, beside everything else."""

        self.checker.waiter(name, _refused(waiting))

    async def give_up_soon(self, waiting: Awaitable[Any]) -> None:
        """Wait, but not for long."""
        task = asyncio.ensure_future(waiting)
        self.checker.ours(task)
        try:
            await asyncio.wait_for(task, 0.05)
        except (asyncio.TimeoutError, *REFUSALS):
            pass


async def _refused(waiting: Awaitable[Any]) -> None:
    """Wait, and put up with a refusal."""
    try:
        await waiting
    except REFUSALS:
        pass


class ToolCallingLLM(FakeLLM):
    """Calls the tools that the user names ("tools: ask quick"), or says how it is."""

    def _next(self, request: Any) -> Reply:
        answered = any(item.type == "function_call_output" for item in _since_user(request))
        words = request.user_text.removeprefix("tools: ").split()
        if request.user_text.startswith("tools: ") and not answered:
            offered = {tool.info.name for tool in request.tools if hasattr(tool, "info")}
            return Reply("one moment", tool_calls=[call(w) for w in words if w in offered])
        return Reply(["well, ", "that is ", "how it is"], chunk_delay=0.02)


def _since_user(request: Any) -> list[Any]:
    items = request.chat_ctx.items
    last = max(
        (i for i, item in enumerate(items) if getattr(item, "role", "") == "user"), default=0
    )
    return list(items[last:])


# -- agents -----------------------------------------------------------------------------------------


class Second(Agent):
    def __init__(self, party: Party) -> None:
        super().__init__(instructions="second")
        self.party = party

    async def on_enter(self) -> None:
        self.session.generate_reply(instructions="greet")


class Ask(AgentTask[str]):
    def __init__(self, party: Party, depth: int) -> None:
        super().__init__(instructions="ask")
        self.party = party
        self.depth = depth

    async def on_enter(self) -> None:
        if self.depth:
            try:
                await Ask(self.party, self.depth - 1)
            except Exception as error:
                if not self.done():
                    self.complete(error)
                return
        self.session.say("how many?")
        await asyncio.sleep(0.2)
        if not self.done():
            self.complete("three")

    async def on_exit(self) -> None:
        self.session.say("thank you")


class First(Agent):
    def __init__(self, party: Party) -> None:
        super().__init__(instructions="first")
        self.party = party

    async def on_exit(self) -> None:
        await self.session.say("goodbye")

    @function_tool
    async def quick(self) -> str:
        """Answers at once."""
        return "quick"

    @function_tool
    async def slow(self, ctx: RunContext[Any]) -> str:
        """Answers later."""
        await asyncio.sleep(0.3)
        await ctx.wait_for_playout()
        return "slow"

    @function_tool
    async def reports(self, ctx: RunContext[Any]) -> str:
        """Says how it gets on."""
        await ctx.update("half of it is done")
        await asyncio.sleep(0.5)
        return "all of it is done"

    @function_tool
    async def wedged(self) -> str:
        """Never answers."""
        await asyncio.get_running_loop().create_future()
        return "never"

    @function_tool(flags=ToolFlag.CANCELLABLE)
    async def cancellable(self) -> str:
        """Takes an hour and may be cancelled."""
        await asyncio.sleep(3600)
        return "never"

    @function_tool
    async def stubborn(self) -> str:
        """Ignores its cancellation, and then tries to say something."""
        while not self.party.released.is_set():
            try:
                await self.party.released.wait()
            except asyncio.CancelledError:
                pass
        try:
            self.session.say("still here")
        except RuntimeError:
            pass
        return "too late"

    @function_tool
    async def fails(self) -> str:
        """Fails."""
        raise ValueError("the tool is broken")

    @function_tool
    async def closes(self) -> str:
        """Hangs up."""
        self.party.joins()
        await self.session.aclose()
        return "closed"

    @function_tool
    async def shuts_down(self) -> str:
        """Hangs up after the goodbye."""
        self.session.shutdown()
        return "closing"

    @function_tool
    async def ask(self) -> str:
        """Asks."""
        return f"got {await Ask(self.party, 0)}"

    @function_tool
    async def ask_deeply(self) -> str:
        """Asks one who asks."""
        return f"got {await Ask(self.party, 1)}"

    @function_tool
    async def transfer(self) -> Agent:
        """Hands over."""
        return Second(self.party)

    @function_tool
    async def transfer_by_session(self) -> str:
        """Hands over, the other way."""
        self.session.update_agent(Second(self.party))
        return "transferred"


TOOLS = [
    "quick",
    "slow",
    "reports",
    "wedged",
    "cancellable",
    "stubborn",
    "fails",
    "closes",
    "shuts_down",
    "ask",
    "ask_deeply",
    "transfer",
    "transfer_by_session",
]

# -- public calls -----------------------------------------------------------------------------------

Act = Callable[[Party], Any]


def say(party: Party) -> None:
    party.session.say("this is said")


def say_it_all(party: Party) -> None:
    party.session.say("this can't be interrupted", allow_interruptions=False)


def say_and_wait(party: Party) -> None:
    party.go("say", party.session.say("somebody waits for this").wait_for_playout())


def reply(party: Party) -> None:
    party.session.generate_reply(user_input="how is it?")


def interrupt(party: Party) -> None:
    party.go("interrupt", party.session.interrupt())


def interrupt_by_force(party: Party) -> None:
    party.go("forced interrupt", party.session.interrupt(force=True))


def hand_over(party: Party) -> None:
    party.session.update_agent(Second(party))


def hand_back(party: Party) -> None:
    party.session.update_agent(First(party))


def run(party: Party) -> None:
    party.go("run", party.session.run(user_input="how is it?"))


def wait_for_idle(party: Party) -> None:
    party.go("wait_for_idle", party.session.wait_for_idle())


def drain(party: Party) -> None:
    party.go("drain", party.session.drain())


def claim_the_turn(party: Party) -> None:
    async def claim() -> None:
        async with party.session._claim_user_turn():
            await asyncio.sleep(0.2)
            if not party.checker.closes:  # somebody outside may speak in a second life; not here
                party.session.generate_reply(user_input="typed")

    party.checker.ours(asyncio.ensure_future(_refused(claim())))


def user_starts(party: Party) -> None:
    if party.hears and party.vad.streams:
        stream = party.vad.streams[-1]
        stream.send(VADEventType.START_OF_SPEECH, speech_duration=0.05)
        stream.send(
            VADEventType.INFERENCE_DONE,
            speaking=True,
            speech_duration=0.7,
            raw_accumulated_speech=0.1,
        )


def user_is_heard(party: Party) -> None:
    if party.hears and party.stt.streams:
        party.stt.streams[-1].final("do you hear me")


def user_stops(party: Party) -> None:
    if party.hears and party.vad.streams:
        party.vad.streams[-1].send(
            VADEventType.END_OF_SPEECH, silence_duration=0.25, speech_duration=0.7, speaking=False
        )


def commit(party: Party) -> None:
    party.go("commit", party.session.commit_user_turn())


def clear(party: Party) -> None:
    party.session.clear_user_turn()


def shut_down(party: Party) -> None:
    party.session.shutdown()


def hang_up(party: Party) -> None:
    party.escalates()
    party.session._close_soon(reason=CloseReason.PARTICIPANT_DISCONNECTED)


def close(party: Party) -> None:
    party.joins()
    party.go("aclose", party.session.aclose())


async def close_and_give_up(party: Party) -> None:
    party.joins()
    await party.give_up_soon(party.session.aclose())


def fail(party: Party) -> None:
    party.escalates()
    error = LLMError(
        timestamp=time.time(), label="llm", error=ValueError("gone"), recoverable=False
    )
    for _ in range(4):
        party.session._on_error(error, party.llm)


def start_again(party: Party) -> None:
    party.go("second start", party.session.start(First(party)))


HARMLESS: list[Act] = [
    say,
    say_it_all,
    say_and_wait,
    reply,
    interrupt,
    interrupt_by_force,
    hand_over,
    hand_back,
    run,
    wait_for_idle,
    claim_the_turn,
    user_starts,
    user_is_heard,
    user_stops,
    commit,
    clear,
]
CLOSERS: list[Act] = [shut_down, hang_up, close, close_and_give_up, fail, drain]


def call_tools(*names: str) -> Act:
    def act(party: Party) -> None:
        party.session.generate_reply(user_input=f"tools: {' '.join(names)}", tool_choice="auto")

    act.__name__ = f"call_{'_and_'.join(names)}"
    return act


tool_calls = st.lists(st.sampled_from(TOOLS), min_size=1, max_size=2, unique=True).map(
    lambda names: call_tools(*names)
)
gaps = st.sampled_from([0.0, 0.0, 0.001, 0.03, 0.2, 0.8, 3.0])
"""Seconds between two calls; 0: the next turn of the loop."""

steps = st.tuples(st.one_of(st.sampled_from(HARMLESS), tool_calls), gaps)
endings = st.lists(st.tuples(st.sampled_from(CLOSERS), gaps), min_size=0, max_size=3)
examples = st.tuples(st.lists(steps, max_size=7), endings, st.lists(steps, max_size=2))


async def play(hears: bool, example: Any, options: dict[str, Any]) -> None:
    before, ending, after = example
    party = Party(hears=hears, **options)
    await party.start()
    for act, gap in [*before, *ending, *after]:
        try:
            result = act(party)
            if asyncio.iscoroutine(result):
                await result
        except REFUSALS:
            pass
        await asyncio.sleep(gap)
    party.escalates()
    party.session._close_soon(reason=CloseReason.PARTICIPANT_DISCONNECTED)
    party.requested()  # a graceful close that ended by itself has no other bound
    await party.checker.check(
        let_go=party.released.set, restart=lambda: party.start(Agent(instructions="second life"))
    )


@pytest.mark.parametrize("hears", [False, True], ids=["text", "voice"])
def test_whatever_is_called_when_and_by_whom(hears: bool, request: pytest.FixtureRequest) -> None:
    @settings(
        max_examples=request.config.getoption("--examples"),
        deadline=None,
        suppress_health_check=list(HealthCheck),
        print_blob=True,
    )
    @given(
        example=examples,
        options=st.fixed_dictionaries(
            {},
            optional={
                "forced_drain_timeout": st.sampled_from([0.0, 0.5]),
                "teardown_timeout": st.sampled_from([0.5, 1.0]),
                "drain_timeout": st.sampled_from([0.0, 2.0]),
            },
        ),
    )
    def holds(example: Any, options: dict[str, Any]) -> None:
        run_test(play(hears, example, options))

    holds()
