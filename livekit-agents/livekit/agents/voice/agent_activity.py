"""`AgentActivity`: one agent on duty. Composed of the rooms that hear, schedule, reply and run tools.

The activity wires them together and knows how to start, pause, resume, drain and end them. It has
one lock, which orders those five; nothing that a forced close needs is ever behind it.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from ..llm import (
    ChatItem,
    RealtimeSession,
    Tool,
    ToolContext,
    Toolset,
)
from ..log import logger
from ..telemetry.traces import tracer
from ..types import NOT_GIVEN, NotGivenOr
from ..utils.aio import TaskScope
from ..utils.aio.task_scope import log_failure
from . import activity_wiring as wiring
from ._context import (
    InlineOwner,
    OnEnterData,
    bound,
    current_speech_handle,
    in_exit_hook,
    inline_owner,
    on_enter_marker,
)
from .activity_changes import ActivityChanges
from .activity_hooks import ActivityRecognitionHooks
from .activity_models import ActivityModels
from .activity_spans import activity_span, start_span
from .closing import Step
from .hearing.barge_in import BargeIn
from .hearing.hooks import notify
from .hearing.modes import resolve_interruption_detector
from .hearing.user_turns import UserTurns
from .replies import Replies
from .replies.tracing import node_span
from .scheduling import SpeechScheduler
from .speech_handle import InterruptionSource, SpeechHandle
from .tool_executor import ToolExecutor

if TYPE_CHECKING:
    from livekit import rtc

    from .agent import Agent
    from .agent_session import AgentSession
    from .audio_recognition import AudioRecognition
    from .realtime_link import RealtimeLink


class ActivityClosedError(Exception):
    """The activity, or its session, is closing: there is nothing left to wait for."""


class AgentActivity(ActivityChanges, ActivityRecognitionHooks, ActivityModels):
    """One run of one agent inside a session."""

    def __init__(self, agent: Agent, sess: AgentSession[Any]) -> None:
        """Resolve the models of the run; nothing is started.

        Raises:
            ValueError: If a realtime model detects turns on its server while interruptions are
                disallowed.
        """
        self._agent = agent
        self._session = sess
        self._lock = asyncio.Lock()
        self.scope = TaskScope(f"activity of {agent.id}")
        self.scheduler = SpeechScheduler(self, owner=f"speech of {agent.id}")
        sess._reply_lock.watch(self.scheduler.authorization_gate)
        self.tool_choice: NotGivenOr[Any] = NOT_GIVEN
        self.recognition: AudioRecognition | None = None
        self.realtime: RealtimeLink | None = None
        self._mcp_toolsets: list[Toolset] = []
        self._former_toolsets: list[Toolset] = []
        self._failed_toolsets: list[Toolset] = []
        self._silence: rtc.AudioFrame | None = None
        self._unsubscribe: list[Callable[[], None]] = []
        self._started = False
        self._draining = False
        self._closed = False
        self._cut = False
        self._turns_blocked = False
        self._paused_for_inline = False
        self.displaced = False
        """Another agent took the floor while an inline task had it: what its tools still bring is
        kept, but nothing is said any more."""
        self._on_enter_task: asyncio.Task[None] | None = None
        self._on_exit_task: asyncio.Task[None] | None = None
        self._on_enter_error: list[Callable[[BaseException], None]] = []
        self.resolve_models()
        self.interruption_detector = resolve_interruption_detector(self)
        self.tool_executor = ToolExecutor(self, options=self.tool_handling)
        self.replies = Replies(self)
        self.barge_in = BargeIn(self)
        self.user_turns = UserTurns(self)

    # -- what it is -----------------------------------------------------------------------------

    @property
    def agent(self) -> Agent:
        """The agent on duty."""
        return self._agent

    @property
    def session(self) -> AgentSession[Any]:
        """The session it works for."""
        return self._session

    @property
    def started(self) -> bool:
        """Whether `start()` has completed."""
        return self._started

    @property
    def closed(self) -> bool:
        """Whether the activity has ended, or was cut off."""
        return self._closed or self._cut

    @property
    def draining(self) -> bool:
        """Whether the activity finishes what it has begun and takes nothing new."""
        return self._draining

    @property
    def paused_for_inline(self) -> bool:
        """Whether an inline task has the floor."""
        return self._paused_for_inline

    @property
    def scheduling_paused(self) -> bool:
        """Whether new speech is refused."""
        return self.scheduler.paused

    @property
    def turns_blocked(self) -> bool:
        """Whether user turns get no reply: paused, or a handoff was requested."""
        return self._turns_blocked or self.scheduler.paused

    def block_user_turns(self) -> None:
        """A handoff was requested: what the user says from now on is for the next agent."""
        self._turns_blocked = True

    @property
    def current_speech(self) -> SpeechHandle | None:
        """The speech that plays, or None."""
        return self.scheduler.current_speech

    @property
    def realtime_llm_session(self) -> RealtimeSession[Any] | None:
        """The live session with a realtime model, or None."""
        return self.realtime.session if self.realtime is not None else None

    @property
    def on_enter_task(self) -> asyncio.Task[None] | None:
        """The `on_enter` hook of this run, once started."""
        return self._on_enter_task

    @property
    def tools(self) -> list[Tool | Toolset]:
        """Session tools, agent tools and MCP tools; with cancellable ones also the two that
        list and cancel running tools. Without toolsets that could not be set up."""
        from .tool_executor import cancel_task, get_running_tasks, has_cancellable_tool

        all_tools = (*self._session.tools, *self._agent._tools, *self._mcp_toolsets)
        tools: list[Tool | Toolset] = [t for t in all_tools if t not in self._failed_toolsets]
        if has_cancellable_tool(tools):
            tools += [cancel_task, get_running_tasks]
        return tools

    @property
    def tool_executors(self) -> list[ToolExecutor]:
        """Where the tools that end with this activity run: here, or in an `AsyncToolset`."""
        from ..llm.async_toolset import executors

        return [self.tool_executor, *executors(wiring.own_toolsets(self))]

    def tool_context(self) -> ToolContext:
        """The tools as one context. Raises ValueError for two tools of one name."""
        return ToolContext(self.tools)

    @property
    def audio_input_started_at(self) -> float | None:
        """Epoch seconds of the first user audio, else of the recording or the session."""
        heard = self.recognition.input_started_at if self.recognition is not None else None
        return heard if heard is not None else self._session._audio_epoch

    # -- start, pause, resume -------------------------------------------------------------------

    async def start(
        self, *, reuse_resources: wiring.Reusable | None = None, trace_context: Any = None
    ) -> None:
        """Go on duty: set up the tools, wire models and hearing, begin `on_enter`. Idempotent."""
        async with self._lock:
            if self._started or self.closed:
                return
            self._agent._activity = self
            with start_span(self, trace_context):
                around = tracer.current_context()
                wiring.prewarm(self)
                with activity_span("setup_toolsets", self):
                    await wiring.set_up_toolsets(self)
                self._refuse_if_cut_off()
                await self._wire(reuse_resources)
            self._started = True
            with tracer.use_context(around):
                self._on_enter_task = self._start_hook("on_enter", self._agent.on_enter)
            run = self._session._global_run_state
            if run is not None:
                run._watch_task(self._on_enter_task)

    async def resume(
        self, *, reuse_resources: wiring.Reusable | None = None, trace_context: Any = None
    ) -> None:
        """Go on after an inline task. `on_enter` is not called again."""
        async with self._lock:
            if self.closed:
                await self.discard(reuse_resources)
                return
            self._paused_for_inline = False
            with (
                tracer.use_context(trace_context),
                activity_span("resume_agent_activity", self),
            ):
                await self._wire(reuse_resources)

    async def _wire(self, reuse: wiring.Reusable | None) -> None:
        self._turns_blocked = False
        # what is begun here goes on for long: it belongs to the session, not to the handoff
        with tracer.use_context(self._session._spans.root_context):
            wiring.subscribe(self)
            await wiring.open_realtime(self, reuse)
            self._refuse_if_cut_off()
            wiring.announce_config(self)
            self.scheduler.open()
            wiring.start_hearing(self, reuse)
            wiring.start_keyterms(self)
        self._session._idle.changed()

    def _refuse_if_cut_off(self) -> None:
        """A start that outlived its session must not open what the close has closed."""
        if self._cut:
            raise ActivityClosedError(f"{self._agent.id} was cut off while it started")

    async def pause(
        self,
        *,
        blocked_tasks: Sequence[asyncio.Task[Any]],
        new_activity: AgentActivity | None = None,
    ) -> wiring.Reusable | None:
        """Give the floor to an inline task: finish speech, stop hearing, keep tools running."""
        async with self._lock:
            if self.closed:
                return None
            with activity_span("pause_agent_activity", self):
                return await self._pause(blocked_tasks, new_activity)

    async def _pause(
        self, blocked_tasks: Sequence[asyncio.Task[Any]], new_activity: AgentActivity | None
    ) -> wiring.Reusable | None:
        unblock = self.scheduler.block(blocked_tasks, current_speech_handle.get())
        try:
            await self._pause_scheduling_task()
        finally:
            unblock()
        self._paused_for_inline = True
        self.scheduler.suspend()
        reuse = wiring.detach_reusable(self, new_activity)
        await self._unwire()
        return reuse

    async def _pause_scheduling_task(
        self, *, blocked_tasks: Sequence[asyncio.Task[Any]] = ()
    ) -> None:
        """Refuse new speech and wait until what was begun is over, or was cut off."""
        assert self._lock.locked(), "drain, pause and aclose hold the activity lock"
        unblock = self.scheduler.block(blocked_tasks)
        try:
            self.scheduler.pause()
            self.replies.drop_preemptive()
            self._session._idle.changed()
            await self.scheduler.wait_settled()
        finally:
            unblock()

    # -- drain and close ------------------------------------------------------------------------

    async def drain(self, *, new_activity: AgentActivity | None = None) -> wiring.Reusable | None:
        """Run `on_exit` once, finish queued speech, take nothing new.

        A hand-over may bound this with the session's `drain_timeout`; a forced close ends it from
        outside, without the lock.

        Returns:
            What `new_activity` can take over: the open STT stream, the realtime session.
        """
        async with self._lock:
            with activity_span("drain_agent_activity", self):
                return await self._drain(new_activity)

    async def _drain(self, new_activity: AgentActivity | None) -> wiring.Reusable | None:
        self._draining = True
        self.replies.drop_preemptive()
        await self._run_on_exit()
        await self._pause_scheduling_task()
        if new_activity is None or self.closed:
            return None
        return wiring.detach_reusable(self, new_activity)

    async def _run_on_exit(self) -> None:
        if self._on_exit_task is None and not self._cut and self._started:
            self.scheduler.open()  # an inline task may have paused it; the farewell is welcome
            with bound(in_exit_hook, True):
                self._on_exit_task = self._start_hook("on_exit", self._agent.on_exit)
        if self._on_exit_task is not None:
            await self.scheduler.wait_for_task(self._on_exit_task)

    def _start_hook(self, name: str, hook: Callable[[], Any]) -> asyncio.Task[None]:
        owner = InlineOwner()
        marker = OnEnterData(self._session, self._agent) if name == "on_enter" else None

        async def run() -> None:
            owner.claim()
            try:
                with node_span(name, self._agent):
                    await hook()
            except Exception as error:
                log_failure("error in %s of %s", name, self._agent.id)
                if name == "on_enter":
                    for callback in self._on_enter_error:
                        callback(error)

        with bound(inline_owner, owner), bound(on_enter_marker, marker):
            return self.create_speech_task(run(), name=f"{self._agent.id}.{name}")

    def on_enter_failed(self, callback: Callable[[BaseException], None]) -> None:
        """Call `callback(error)` if `on_enter` of this run raises."""
        self._on_enter_error.append(callback)

    async def aclose(self) -> None:
        """Go off duty after a drain: end tools, models, hearing, toolsets. Idempotent.

        Waits for tools that are neither cancellable nor finished; each teardown is bounded.
        """
        async with self._lock:
            if self._closed:
                return
            self.scheduler.pause()
            self.replies.drop_preemptive()
            for executor in self.tool_executors:
                executor.cancel_cancellable()
            for executor in self.tool_executors:
                await executor.drain(None)
                executor.cut_off()  # a reply to a late result is none of the next agent's
            # what still waits for the handoff itself is recorded while it can be
            self.scheduler.cut_off()
            self._closed = True
            plan = self._session._teardown_plan()
            await self._unwire(plan)
            for handle in list(self.scheduler.background):
                if handle.allow_interruptions:
                    handle.interrupt()
            await plan.run(*wiring.toolset_steps(self))
            await plan.run(*self.end_steps())
            plan.warn_once()
            self._release_agent()

    async def _unwire(self, plan: Any = None) -> None:
        plan = plan or self._session._teardown_plan()
        await plan.run(*self.hearing_steps(), *self.model_steps())
        self.release_subscriptions()
        await self.barge_in.aclose()
        plan.warn_once()

    async def discard(self, reuse: wiring.Reusable | None) -> None:
        """Close resources that were detached for an activity that never took them."""
        if reuse is not None:
            plan = self._session._teardown_plan()
            await plan.run(*reuse.close_steps(self._session.options.teardown_timeout))
            plan.warn_once()

    def _release_agent(self) -> None:
        self._closed = True
        if self._agent._activity is self:
            self._agent._activity = None
        self._session._idle.changed()

    # -- the parts of a close, lock-free --------------------------------------------------------

    def begin_close(self) -> None:
        """The session closes: open every gate, wake every waiter, end the user's speech."""
        self._turns_blocked = True
        self.scheduler.prepare_close()
        if self.recognition is not None:
            self.recognition.begin_close()
        self.barge_in.on_closing()
        self.replies.drop_preemptive()

    def force_end(self) -> None:
        """Interrupt all speech and cancel the tools that may be: what is left gets an allowance."""
        for executor in self.tool_executors:
            executor.cancel_cancellable()
        try:
            self.interrupt(force=True)
        finally:
            for handle in self.scheduler.live_handles():
                handle._disarm_interruption_timeout()

    def unsettled(self, what: str) -> list[str]:
        """Phrases naming what a drain still waits for: tools first, they are the usual culprits."""
        tools = [tool for executor in self.tool_executors for tool in executor.unfinished()]
        waiting = [str(tool) for tool in tools]
        waiting += [task.get_name() for task in self.scheduler.unsettled()]
        return [f"{name} {what}" for name in waiting]

    def hearing_steps(self) -> list[Any]:
        """Steps that end listening: STT, VAD and detectors. They need no lock."""
        return wiring.hearing_steps(self)

    def model_steps(self) -> list[Any]:
        """Steps that end the realtime session."""
        return wiring.model_steps(self)

    def toolset_steps(self) -> list[Any]:
        """Steps that close the agent's own toolsets and MCP connections."""
        return wiring.toolset_steps(self)

    def end_steps(self) -> list[Any]:
        """Steps that end what is left of the activity itself."""
        return wiring.end_steps(self)

    def release_subscriptions(self) -> None:
        """Stop listening to the models' events."""
        callbacks, self._unsubscribe = self._unsubscribe, []
        for callback in callbacks:
            notify(callback)

    def cut_off(self, *, spare: frozenset[asyncio.Task[Any]] = frozenset()) -> list[SpeechHandle]:
        """End scheduling, speech and tools now: no lock, no waiting. Idempotent.

        What was audibly said and the finished tool results reach the history first. Whoever holds
        the activity lock in a drain or pause unwinds, because what it waits for is over.

        Returns:
            The speeches that were not done.
        """
        self.user_turns.cut_off()
        handles = self.scheduler.cut_off(spare=spare)
        for executor in self.tool_executors:
            executor.cut_off(spare=spare)
        self._cut = True
        self._session._idle.changed()
        return handles

    def reap_steps(self, timeout: float) -> list[Any]:
        """Steps that wait at most `timeout` seconds for what was cut off."""
        return [
            Step("speech that was cut off", lambda: self.scheduler.ending(timeout)),
            Step("tools that were cut off", lambda: self.tool_executor.ending(timeout)),
            Step("tasks that were cut off", lambda: self.scope.ending(timeout)),
        ]

    # -- speech ---------------------------------------------------------------------------------

    def create_speech_task(
        self, coro: Any, *, speech_handle: SpeechHandle | None = None, name: str | None = None
    ) -> asyncio.Task[Any]:
        """Start a task that may create speech. A drain waits for it."""
        return self.scheduler.create_task(
            coro, speech_handle=speech_handle, name=name, activity=self
        )

    def interrupt(
        self, *, force: bool = False, source: InterruptionSource = "programmatic"
    ) -> asyncio.Future[None]:
        """Interrupt what is said and queued; the future resolves when all of it is done.

        Raises:
            RuntimeError: If the current speech disallows it and `force` is False.
        """
        self.replies.drop_preemptive()
        interrupted = self.scheduler.interrupt(force=force, source=source)
        if self.realtime is not None:
            self.realtime.interrupt()
        return _all_done(interrupted)

    def commit(self, *items: ChatItem, speech_handle: SpeechHandle | None = None) -> None:
        """Put items into the agent's and the session's history, and announce the messages.

        Items of a speech that was cut off, or that come after the end, are dropped: survivors
        can't write history.
        """
        gone = speech_handle is not None and speech_handle._was_cut_off and speech_handle.done()
        if self._closed or gone:
            logger.debug("dropping %d items that came after the end", len(items))
            return
        for item in items:
            self._put(item)
            if speech_handle is not None:
                speech_handle._item_added([item])
            self._session._add_to_history(item)

    def _put(self, item: ChatItem) -> None:
        if self.realtime is None:
            self._agent._chat_ctx.insert(item)
            return
        from .realtime_items import fill_place

        fill_place(self._agent._chat_ctx, item)

    def say(
        self,
        text: Any,
        *,
        audio: NotGivenOr[Any] = NOT_GIVEN,
        allow_interruptions: NotGivenOr[bool] = NOT_GIVEN,
        add_to_chat_ctx: bool = True,
    ) -> SpeechHandle:
        """See `AgentSession.say`."""
        return self.replies.say(
            text,
            audio=audio,
            allow_interruptions=allow_interruptions,
            add_to_chat_ctx=add_to_chat_ctx,
        )

    # -- idle -----------------------------------------------------------------------------------

    async def wait_for_idle(
        self, *, wait_for_agent: bool = True, wait_for_user: bool = True
    ) -> None:
        """Return once nobody speaks, is about to speak, or decides whether to.

        Raises:
            ActivityClosedError: When the activity or the session is closing.
        """
        await self._session._idle.wait(self, wait_for_agent, wait_for_user)

    # -- scheduler host -------------------------------------------------------------------------

    def on_speech_started(self, handle: SpeechHandle) -> None:
        """The scheduler made `handle` current."""

    def on_generation_ended(self, handle: SpeechHandle) -> None:
        """The playout of a step is over: a false-interruption pause of it ends, too."""
        self.barge_in.release(handle)
        self._session._idle.changed()

    def __repr__(self) -> str:
        state = "closed" if self.closed else "draining" if self._draining else "on duty"
        return f"<AgentActivity of {self._agent.id}, {state}>"


def _all_done(handles: list[SpeechHandle]) -> asyncio.Future[None]:
    """A future that resolves when every handle is done."""
    fut: asyncio.Future[None] = asyncio.get_running_loop().create_future()
    waiting = {handle for handle in handles if not handle.done()}

    def one_done(handle: SpeechHandle) -> None:
        waiting.discard(handle)
        if not waiting and not fut.done():
            fut.set_result(None)

    if not waiting:
        fut.set_result(None)
    for handle in list(waiting):
        handle.add_done_callback(one_done)
    return fut


__all__ = ["ActivityClosedError", "AgentActivity"]
