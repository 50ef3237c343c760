"""How a job ends, whatever hangs or fails in it: on virtual time, so that bounds are exact."""

from __future__ import annotations

import asyncio
import functools
import logging
from collections.abc import Awaitable, Callable
from typing import Any

import pytest
from livekit import rtc
from livekit.protocol import agent, models

from fakes.llm import FakeLLM, Reply
from fakes.translation import FakeTranslator
from livekit.agents import Agent, AgentSession, JobContext, get_job_context
from livekit.agents.beta import TranslationSession
from livekit.agents.ipc import mock_room
from livekit.agents.ipc.job_end import EndCause
from livekit.agents.ipc.job_run import JobFunctions, JobRun
from livekit.agents.ipc.supervision import JobEndBudgets
from livekit.agents.job import (
    JobAcceptArguments,
    JobExecutorType,
    JobProcess,
    RunningJobInfo,
)
from livekit.agents.llm import FunctionToolCall, Toolset, function_tool
from livekit.agents.utils import http_context

Entrypoint = Callable[[JobContext], Awaitable[Any]]


async def forever() -> None:
    await asyncio.Event().wait()


_let_go: list[asyncio.Event] = []


async def stubborn() -> None:
    """Ignores its cancellation, until the job is over."""
    let_go = asyncio.Event()
    _let_go.append(let_go)
    while not let_go.is_set():
        try:
            await let_go.wait()
        except asyncio.CancelledError:
            continue


class Room(mock_room.MockRoom):
    """A mock room that is left as a test wants it."""

    def __init__(self, leave: Callable[[], Awaitable[None]]) -> None:
        super().__init__()
        self.handlers: dict[str, Any] = {}
        self.leave = leave
        self.left_at: float | None = None

    def on(self, event: str, callback: Any = None) -> Any:
        self.handlers[event] = callback
        return callback

    async def disconnect(self) -> None:
        self.left_at = asyncio.get_running_loop().time()
        await self.leave()


async def nothing() -> None:
    """Leaves at once."""


class Ending:
    """One job, and what its end did, with times since the reason for it."""

    def __init__(
        self,
        entrypoint: Entrypoint,
        *,
        session_end: Entrypoint | None = None,
        leave: Callable[[], Awaitable[None]] = nothing,
        tell: Callable[[], Awaitable[None]] = nothing,
        fake: bool = True,
    ) -> None:
        self.steps: list[str] = []
        self.errors: list[str] = []
        self.told_at: float | None = None
        self.room = Room(leave)
        self._tell = tell
        self._began = 0.0
        self.job = JobRun(
            RunningJobInfo(
                accept_arguments=JobAcceptArguments("", "agent", ""),
                job=agent.Job(id="AJ_1", room=models.Room(name="room", sid="RM_1")),
                url="",
                token="",
                worker_id="AW_1",
                fake_job=fake,
            ),
            proc=JobProcess(
                executor_type=JobExecutorType.PROCESS, user_arguments=None, http_proxy=None
            ),
            functions=JobFunctions(None, entrypoint, session_end),
            budgets=JobEndBudgets(session_end=30.0 if session_end is not None else 0.0),
            inference_executor=None,
            announce=self.steps.append,
            failed=self.errors.append,
            tell=self._told,
        )

    async def _told(self) -> None:
        self.told_at = self.now
        await self._tell()

    @property
    def now(self) -> float:
        return asyncio.get_running_loop().time() - self._began

    async def run(self, cause: EndCause | None = None, *, after: float = 1.0) -> float:
        """Run the job, end it after a second. Returns how long the end took."""
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(mock_room, "create_mock_room", lambda: self.room)
            patch.setattr(rtc, "Room", lambda: self.room)
            task = asyncio.get_running_loop().create_task(self.job.run())
            await asyncio.sleep(after)
            self._began = asyncio.get_running_loop().time()
            if cause is not None:
                self.job.end(cause)
            await task
            took = self.now
        while _let_go:
            _let_go.pop().set()
        return took


ASKED = EndCause("parent process shutdown", by_worker=True)
LOST = EndCause("the worker is gone", worker_lost=True)


def recorder(called: list[str]) -> Entrypoint:
    """An entrypoint that does nothing but register a callback."""

    async def entrypoint(ctx: JobContext) -> None:
        async def callback(reason: str) -> None:
            assert get_job_context() is ctx
            http_context.http_session()
            called.append(reason)

        ctx.add_shutdown_callback(callback)

    return entrypoint


async def test_a_job_ends_at_once_and_its_callbacks_are_told_why() -> None:
    called: list[str] = []
    ending = Ending(recorder(called))
    assert await ending.run(ASKED) < 0.1
    assert called == ["parent process shutdown"]
    assert ending.told_at is not None and ending.room.left_at is not None


async def test_the_first_reason_counts() -> None:
    called: list[str] = []

    async def entrypoint(ctx: JobContext) -> None:
        await recorder(called)(ctx)
        ctx.shutdown("first")
        ctx.shutdown("second")

    await Ending(entrypoint).run(ASKED)
    assert called == ["first"]


async def test_leaving_the_room_is_a_reason_to_end() -> None:
    called: list[str] = []
    ending = Ending(recorder(called))
    asyncio.get_running_loop().call_later(0.5, lambda: ending.room.handlers["disconnected"]())
    await ending.run(None)
    assert called == ["room disconnected"]


async def test_a_crash_ends_the_job_and_is_told() -> None:
    async def entrypoint(ctx: JobContext) -> None:
        await recorder(called)(ctx)
        raise ValueError("a bug")

    called: list[str] = []
    ending = Ending(entrypoint)
    await ending.run(None)
    assert called == ["job crashed"] and ending.errors == ["ValueError: a bug"]


async def test_a_session_that_is_closed_while_it_starts_makes_the_job_no_failure() -> None:
    class Slow(Toolset):
        async def setup(self) -> Slow:
            await forever()
            return self

    async def entrypoint(ctx: JobContext) -> None:
        await recorder(called)(ctx)
        session: AgentSession[None] = AgentSession(llm=FakeLLM(), vad=None)
        asyncio.get_running_loop().call_later(0.5, session.shutdown)
        await session.start(agent=Agent(instructions="", tools=[Slow(id="slow")]))

    called: list[str] = []
    ending = Ending(entrypoint)
    await ending.run(None)
    assert called == ["session closed"] and ending.errors == []


async def _callback_ran_after(
    entrypoint_body: Callable[[JobContext], Awaitable[Any]], cause: EndCause = ASKED, **kwargs: Any
) -> float:
    called: list[str] = []

    async def entrypoint(ctx: JobContext) -> None:
        await recorder(called)(ctx)
        await entrypoint_body(ctx)

    ending = Ending(entrypoint, **kwargs)
    took = await ending.run(cause)
    assert called == [cause.reason]
    assert ending.told_at is not None, "the server was told"
    return took


async def _quiet(_: JobContext) -> None:
    """Nothing hangs here."""


async def test_an_entrypoint_that_does_not_return_is_cancelled_after_its_time() -> None:
    assert await _callback_ran_after(lambda _: forever()) == pytest.approx(15.0, abs=0.1)


async def test_an_entrypoint_that_ignores_its_cancellation_is_left_behind() -> None:
    assert await _callback_ran_after(lambda _: stubborn()) == pytest.approx(17.0, abs=0.1)


@pytest.mark.parametrize("hook", [forever, stubborn])
async def test_a_session_end_hook_has_its_limit(hook: Callable[[], Awaitable[None]]) -> None:
    took = await _callback_ran_after(_quiet, session_end=lambda _: hook())
    assert took == pytest.approx(30.0 if hook is forever else 32.0, abs=0.1)


async def test_a_session_end_hook_may_fail_or_cancel_itself() -> None:
    async def fail(_: JobContext) -> None:
        raise RuntimeError("no")

    async def cancelled(_: JobContext) -> None:
        raise asyncio.CancelledError

    assert await _callback_ran_after(_quiet, session_end=fail) < 0.1
    assert await _callback_ran_after(_quiet, session_end=cancelled) < 0.1


@pytest.mark.parametrize("leave", [forever, stubborn])
async def test_leaving_the_room_has_its_limit(leave: Callable[[], Awaitable[None]]) -> None:
    took = await _callback_ran_after(_quiet, leave=leave)
    assert took == pytest.approx(5.0 if leave is forever else 7.0, abs=0.1)


async def test_a_worker_that_can_t_be_told_keeps_nobody() -> None:
    assert await _callback_ran_after(_quiet, tell=forever) == pytest.approx(2.0, abs=0.1)


async def test_the_server_is_told_before_the_room_is_left_and_callbacks_run_after() -> None:
    order: list[str] = []

    async def leave() -> None:
        order.append("left")

    async def tell() -> None:
        order.append("told")

    async def entrypoint(ctx: JobContext) -> None:
        async def callback() -> None:
            order.append("callback")

        ctx.add_shutdown_callback(callback)

    async def session_end(_: JobContext) -> None:
        order.append("session end")

    await Ending(entrypoint, leave=leave, tell=tell, session_end=session_end).run(ASKED)
    assert order == ["session end", "told", "left", "callback"]


@pytest.mark.parametrize(
    ("cause", "limit"),
    [(ASKED, 10.0), (EndCause("room disconnected"), 60.0), (LOST, 5.0)],
)
async def test_callbacks_share_one_time_and_none_keeps_another(
    cause: EndCause, limit: float, caplog: pytest.LogCaptureFixture
) -> None:
    called: list[str] = []

    async def entrypoint(ctx: JobContext) -> None:
        async def hang() -> None:
            await forever()

        async def fail() -> None:
            raise RuntimeError("no")

        async def cancelled() -> None:
            raise asyncio.CancelledError

        async def slow() -> None:
            await asyncio.sleep(limit - 1)
            called.append("slow")

        for callback in (hang, fail, cancelled, slow):
            ctx.add_shutdown_callback(callback)

    assert await Ending(entrypoint).run(cause) == pytest.approx(limit, abs=0.1)
    assert called == ["slow"]
    assert any("hang did not end within" in r.getMessage() for r in caplog.records)


async def test_what_needs_the_room_is_done_before_it_is_left() -> None:
    called: list[tuple[str, float | None]] = []

    async def remove_avatar() -> None:
        called.append(("avatar", ending.room.left_at))
        await forever()

    async def post_webhook() -> None:
        called.append(("webhook", ending.room.left_at))

    remove_avatar._needs_room = True  # type: ignore[attr-defined]

    async def entrypoint(ctx: JobContext) -> None:
        ctx.add_shutdown_callback(post_webhook)
        ctx.add_shutdown_callback(remove_avatar)

    ending = Ending(entrypoint)
    took = await ending.run(ASKED)
    assert [name for name, _ in called] == ["avatar", "webhook"]
    assert called[0][1] is None and called[1][1] is not None and took <= 3.0


async def test_a_worker_that_asks_during_callbacks_makes_them_hurry() -> None:
    async def entrypoint(ctx: JobContext) -> None:
        ctx.add_shutdown_callback(forever)
        ctx.shutdown("done")

    ending = Ending(entrypoint)
    asyncio.get_running_loop().call_later(20.0, lambda: ending.job.end(ASKED))
    took = await ending.run(None, after=0.0)
    assert took == pytest.approx(30.0, abs=0.1)


async def test_callbacks_of_all_shapes_are_understood() -> None:
    called: list[Any] = []

    class Callback:
        async def __call__(self, reason: str) -> None:
            called.append(reason)

        async def method(self) -> None:
            called.append("method")

    async def two(prefix: str, reason: str) -> None:
        called.append(prefix + reason)

    async def append(what: str) -> None:
        called.append(what)

    async def entrypoint(ctx: JobContext) -> None:
        ctx.add_shutdown_callback(Callback())
        ctx.add_shutdown_callback(Callback().method)
        ctx.add_shutdown_callback(functools.partial(two, "because of "))
        ctx.add_shutdown_callback(lambda: append("lambda"))
        ctx.add_shutdown_callback(append)

    await Ending(entrypoint).run(EndCause("it"))
    assert sorted(called) == ["because of it", "it", "it", "lambda", "method"]


class LooksUp(Agent):
    """Calls a tool that never returns, as soon as it is there."""

    def __init__(self) -> None:
        super().__init__(instructions="You look things up.")

    async def on_enter(self) -> None:
        self.session.generate_reply(user_input="look it up")

    @function_tool
    async def look_up(self) -> str:
        """Never returns."""
        await stubborn()
        return ""


def wedged_session(**options: Any) -> AgentSession[None]:
    call = FunctionToolCall(name="look_up", arguments="{}", call_id="call_1")
    return AgentSession(llm=FakeLLM([Reply(tool_calls=[call])]), **options)


async def test_a_session_with_a_wedged_tool_is_closed_within_its_own_bound() -> None:
    async def entrypoint(ctx: JobContext) -> None:
        await wedged_session().start(agent=LooksUp())

    took = await _callback_ran_after(entrypoint)
    assert 5.0 <= took < 6.0


async def test_a_session_that_may_take_longer_than_the_job_is_cut_short() -> None:
    closed: list[float] = []

    async def entrypoint(ctx: JobContext) -> None:
        session = wedged_session(forced_drain_timeout=1000.0)
        session.on("close", lambda _: closed.append(1.0))
        await session.start(agent=LooksUp())

    took = await _callback_ran_after(entrypoint)
    assert closed == [1.0]
    assert 60.0 <= took < 65.0


async def test_all_sessions_of_a_job_close_side_by_side() -> None:
    reasons: list[str] = []

    async def entrypoint(ctx: JobContext) -> None:
        for _ in range(3):
            session = wedged_session()
            session.on("close", lambda event: reasons.append(event.reason.value))
            await session.start(agent=LooksUp(), record=False)

    took = await _callback_ran_after(entrypoint)
    assert sorted(reasons) == ["job_shutdown", "job_shutdown", "user_initiated"]
    assert took < 6.0


async def test_a_lost_worker_still_lets_the_session_close_and_callbacks_run() -> None:
    async def entrypoint(ctx: JobContext) -> None:
        await wedged_session().start(agent=LooksUp())

    assert await _callback_ran_after(entrypoint, LOST) < 7.0


async def test_participants_and_requests_end_with_the_job() -> None:
    cancelled: list[str] = []

    async def entrypoint(ctx: JobContext) -> None:
        async def greet(ctx: JobContext, participant: Any) -> None:
            try:
                await forever()
            except asyncio.CancelledError:
                cancelled.append(participant.identity)
                raise

        ctx.add_participant_entrypoint(greet)
        with pytest.raises(ValueError, match="entrypoint for participants already"):
            ctx.add_participant_entrypoint(greet)
        await ctx.connect()

    await Ending(entrypoint).run(ASKED)
    assert cancelled == ["mock_user"]


async def test_log_records_of_a_job_carry_its_fields(caplog: pytest.LogCaptureFixture) -> None:
    logging.getLogger().addHandler(caplog.handler)

    async def entrypoint(ctx: JobContext) -> None:
        ctx.log_context_fields = {"customer": 7, "kept": "job"}
        logging.getLogger("user").warning("hello", extra={"kept": "record"})

    try:
        await Ending(entrypoint).run(ASKED)
    finally:
        logging.getLogger().removeHandler(caplog.handler)
    (record,) = {id(r): r for r in caplog.records if r.getMessage() == "hello"}.values()
    assert record.__dict__["customer"] == 7 and record.__dict__["kept"] == "record"


async def test_a_close_that_nothing_can_end_does_not_keep_the_job(
    caplog: pytest.LogCaptureFixture,
) -> None:
    sessions: list[AgentSession[None]] = []

    async def entrypoint(ctx: JobContext) -> None:
        session = AgentSession[None](llm=FakeLLM())
        sessions.append(session)
        await session.start(agent=Agent(instructions="x"))
        close = session._aclose_impl

        async def close_late(**how: Any) -> None:
            await stubborn()
            await close(**how)

        session._aclose_impl = close_late  # type: ignore[method-assign]

    took = await _callback_ran_after(entrypoint)
    await sessions[0].aclose()
    assert took == pytest.approx(65.0, abs=0.5)
    assert any("can't be closed" in r.getMessage() for r in caplog.records)


async def test_a_job_that_can_do_nothing_any_more_ends(caplog: pytest.LogCaptureFixture) -> None:
    called: list[str] = []
    ending = Ending(recorder(called), fake=False)
    assert await ending.run(None, after=0.0) == pytest.approx(70.0, abs=0.1)
    assert called == ["the entrypoint left nothing to do"]
    warnings = [r.getMessage() for r in caplog.records]
    assert any("was not established within 10 seconds" in line for line in warnings)


async def test_a_job_in_a_room_goes_on_when_its_entrypoint_has_returned() -> None:
    called: list[str] = []

    async def entrypoint(ctx: JobContext) -> None:
        await recorder(called)(ctx)
        await ctx.connect()

    ending = Ending(entrypoint, fake=False)
    await ending.run(ASKED, after=1000.0)
    assert called == ["parent process shutdown"]


async def test_a_room_that_is_still_being_joined_is_left_when_it_is() -> None:
    gate = asyncio.Event()

    async def entrypoint(ctx: JobContext) -> None:
        async def connect(*_: Any, **__: Any) -> None:
            await gate.wait()

        ctx.room.connect = connect  # type: ignore[method-assign]
        ctx.shutdown("changed my mind")
        await ctx.connect()

    ending = Ending(entrypoint, fake=False)
    asyncio.get_running_loop().call_later(18.0, gate.set)
    took = await ending.run(None, after=0.0)
    assert took == pytest.approx(18.0, abs=0.1)
    assert ending.room.left_at is not None


@pytest.mark.parametrize("hangs", [False, True])
async def test_a_translation_ends_with_its_job_before_the_room_is_left(hangs: bool) -> None:
    closes: list[tuple[str, bool]] = []
    model = FakeTranslator()
    model.close_hangs = hangs

    async def entrypoint(ctx: JobContext) -> None:
        session = TranslationSession[None](model=model)
        session.on(
            "close", lambda ev: closes.append((ev.reason.value, ending.room.left_at is None))
        )
        await session.start()

    ending = Ending(entrypoint)
    took = await ending.run(ASKED)
    assert closes == [("job_shutdown", True)] and took < 5.0
    model.release()
    await asyncio.sleep(0.1)
