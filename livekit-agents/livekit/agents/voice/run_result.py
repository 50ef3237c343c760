"""Runs: answering one input and collecting what happened, to be asserted on in tests."""

from __future__ import annotations

import asyncio
import contextlib
import inspect
from collections.abc import Awaitable, Callable, Generator, Iterator
from contextvars import ContextVar
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Generic, Literal, TypeVar
from weakref import WeakKeyDictionary

from typing_extensions import TypedDict

from ..llm import AgentHandoff, ChatItem, ChatMessage, FunctionCall, FunctionCallOutput
from ..llm.tool_context import CONFIRM_DUPLICATE_PARAM
from ..log import logger
from ..types import NOT_GIVEN, NotGivenOr
from ..utils import is_given
from .run_assert import (
    AgentHandoffAssert,
    ChatMessageAssert,
    EventAssert,
    EventRangeAssert,
    FunctionCallAssert,
    FunctionCallOutputAssert,
    RunAssert,
    lk_evals_verbose,
)

if TYPE_CHECKING:
    from .agent import Agent
    from .agent_session import AgentSession
    from .handoff import InlineCall
    from .run_context import RunContext
    from .speech_handle import SpeechHandle

Run_T = TypeVar("Run_T")


class UnexpectedModelBehavior(RuntimeError):
    """A run ended without the output that was asked for."""


class RunOutputOptions(TypedDict, total=False):
    """What to do when a run ends without any output."""

    max_retries: int
    retry_instructions: str


@dataclass
class ChatMessageEvent:
    """A message was said."""

    item: ChatMessage
    type: Literal["message"] = "message"


@dataclass
class FunctionCallEvent:
    """A tool was called."""

    item: FunctionCall
    type: Literal["function_call"] = "function_call"


@dataclass
class FunctionCallOutputEvent:
    """A tool returned."""

    item: FunctionCallOutput
    type: Literal["function_call_output"] = "function_call_output"


@dataclass
class AgentHandoffEvent:
    """Another agent took over."""

    item: AgentHandoff
    old_agent: Agent | None
    new_agent: Agent
    type: Literal["agent_handoff"] = "agent_handoff"


RunEvent = ChatMessageEvent | FunctionCallEvent | FunctionCallOutputEvent | AgentHandoffEvent


class RunResult(Generic[Run_T]):
    """What one input caused. Await it to wait until everything it watches is over.

    A run watches the speeches made while it is active, handoffs, and the `on_enter` of new agents.
    """

    def __init__(
        self,
        *,
        user_input: str | None = None,
        output_type: type[Run_T] | None = None,
        output_options: NotGivenOr[RunOutputOptions | None] = NOT_GIVEN,
        session: AgentSession[Any] | None = None,
    ) -> None:
        """Made by `AgentSession.run`.

        Args:
            user_input: What the user said.
            output_type: The type that `final_output` has to have; None accepts what comes.
            output_options: How to ask again when no such output came.
            session: Where it runs.
        """
        self._user_input = user_input
        self._output_type = output_type
        self._output_options = output_options
        self._session = session
        self._fut: asyncio.Future[None] = asyncio.get_event_loop().create_future()
        self._fut.add_done_callback(lambda fut: fut.cancelled() or fut.exception())
        self._watched: set[Any] = set()
        self._events: list[RunEvent] = []
        self._last_handle: SpeechHandle | None = None
        self._output: Any = _NOTHING
        self._retries = 0
        self._assert: RunAssert | None = None

    # -- what came of it --------------------------------------------------------------------------

    @property
    def events(self) -> list[RunEvent]:
        """What happened, in the order of its items' creation; without the user's own input."""
        return self._events

    @property
    def expect(self) -> RunAssert:
        """Assertions over the events; keeps its position between uses."""
        if self._assert is None:
            self._assert = RunAssert(self)
        return self._assert

    @property
    def final_output(self) -> Run_T:
        """What the last `AgentTask.complete()` gave.

        Raises:
            RuntimeError: If the run is not done, or nothing was completed.
        """
        if not self.done():
            raise RuntimeError("the run is not done yet; await it first")
        if self._output is _NOTHING:
            raise RuntimeError("the run ended without a final output: no AgentTask completed in it")
        return self._output  # type: ignore[no-any-return]

    def done(self) -> bool:
        """Whether everything it watched is over."""
        return self._fut.done()

    def __await__(self) -> Generator[None, None, RunResult[Run_T]]:
        async def wait() -> RunResult[Run_T]:
            if not self._fut.done():
                await asyncio.wait((self._fut,))
            self._fut.result()
            return self

        return wait().__await__()

    # -- watching ---------------------------------------------------------------------------------

    def _watch_handle(self, handle: SpeechHandle, *, seen_before: bool = False) -> None:
        if self.done() or handle in self._watched:
            return
        self._watched.add(handle)
        handle._add_item_added_callback(self._item_added)
        if not seen_before:
            for item in handle.chat_items:
                self._item_added(item)
        handle.add_done_callback(self._handle_done)

    def _watch_task(self, task: asyncio.Future[Any]) -> None:
        if self.done() or task in self._watched:
            return
        self._watched.add(task)
        task.add_done_callback(self._unwatch)

    def _guard(self) -> asyncio.Future[None]:
        """Keep the run open until the returned future is resolved.

        An inline task that the calling task awaits lifts it: the run may end to let the user speak.
        """
        guard: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        _guard_owners[guard] = asyncio.current_task()
        self._watch_task(guard)
        return guard

    def _handle_done(self, handle: SpeechHandle) -> None:
        if handle not in self._watched:
            return
        self._last_handle = handle
        output = handle._maybe_run_final_output
        if output is not None:
            self._output = output
        self._unwatch(handle)

    def _unwatch(self, watched: Any) -> None:
        self._watched.discard(watched)
        if hasattr(watched, "_remove_item_added_callback"):
            watched._remove_item_added_callback(self._item_added)
        if not self._watched and not self.done():
            self._finish()

    def _suspend(self, call: InlineCall) -> Any:
        """Let the run finish while an inline task waits for the user."""
        suspended = [
            watched
            for watched in (
                call.handle,
                call.parent.on_enter_task,
                call.owner,
                *(w for w in self._watched if _guard_owners.get(w) is call.owner),
                *(executor.replies.task for executor in call.parent.tool_executors),
            )
            if watched is not None and watched in self._watched
        ]
        if call.handle is not None and call.handle not in suspended:
            suspended.append(call.handle)
        for watched in suspended:
            self._unwatch(watched)
        return suspended

    def _resume(self, suspended: Any) -> None:
        """Watch again what an inline task had suspended, in whichever run is active now.

        What it had made before is an event of the run that was active then.
        """
        for watched in suspended:
            if watched.done():
                continue
            if hasattr(watched, "chat_items"):
                self._watch_handle(watched, seen_before=True)
            else:
                self._watch_task(watched)

    def _item_added(self, item: ChatItem) -> None:
        if self.done():
            return
        event: RunEvent | None = None
        if isinstance(item, ChatMessage):
            if item.role != "user":
                event = ChatMessageEvent(item=item)
        elif isinstance(item, FunctionCall):
            event = FunctionCallEvent(item=item)
        elif isinstance(item, FunctionCallOutput):
            event = FunctionCallOutputEvent(item=item)
        if event is not None:
            self._insert(event)

    def _agent_handoff(
        self, *, item: AgentHandoff, old_agent: Agent | None, new_agent: Agent
    ) -> None:
        if not self.done():
            self._insert(AgentHandoffEvent(item=item, old_agent=old_agent, new_agent=new_agent))

    def _insert(self, event: RunEvent) -> None:
        if any(known.item.id == event.item.id for known in self._events):
            return
        position = len(self._events)
        while position and self._events[position - 1].item.created_at > event.item.created_at:
            position -= 1
        self._events.insert(position, event)

    # -- ending -----------------------------------------------------------------------------------

    def _finish(self) -> None:
        handle = self._last_handle
        closing = self._session is not None and self._session._is_closing
        if closing and handle is not None and handle.interrupted:
            return  # cut short by the close, which fails the run at its end
        error = handle.exception() if handle is not None and handle.done() else None
        if error is None and isinstance(self._output, BaseException):
            error = self._output
        if error is not None:
            self._fail(error)
            return
        if self._output_type is not None and not isinstance(self._output, self._output_type):
            if self._output is _NOTHING and self._retry():
                return
            got = "nothing" if self._output is _NOTHING else type(self._output).__name__
            self._fail(
                UnexpectedModelBehavior(
                    f"expected an output of type {self._output_type.__name__}, got {got}"
                )
            )
            return
        self._fut.set_result(None)

    def _retry(self) -> bool:
        """Ask the model again to produce the output; False when there is no retry left."""
        options = self._output_options if is_given(self._output_options) else RunOutputOptions()
        if options is None or self._session is None:
            return False
        if self._retries >= options.get("max_retries", 2):
            return False
        self._retries += 1
        logger.warning("the run ended without an output, asking again (%d)", self._retries)
        self._session.generate_reply(
            instructions=options.get(
                "retry_instructions",
                "The task is not complete yet. Go on, and complete it with the matching tool.",
            )
        )
        return True

    def _fail(self, error: BaseException) -> None:
        if not self.done():
            self._watched.clear()
            self._fut.set_exception(error)


_NOTHING = object()

_guard_owners: WeakKeyDictionary[Any, asyncio.Task[Any] | None] = WeakKeyDictionary()
"""Which task holds a run open; a guard may pass from run to run."""


def start_run(
    session: AgentSession[Any],
    *,
    user_input: str,
    input_modality: Any,
    output_type: type[Run_T] | None,
    output_options: NotGivenOr[RunOutputOptions | None],
) -> RunResult[Run_T]:
    """See `AgentSession.run`."""
    current = session._global_run_state
    if current is not None and not current.done():
        raise RuntimeError("nested runs are not supported")
    run: RunResult[Run_T] = RunResult(
        user_input=user_input,
        output_type=output_type,
        output_options=output_options,
        session=session,
    )
    session._global_run_state = run
    try:
        session.generate_reply(user_input=user_input, input_modality=input_modality)
    except BaseException:
        session._global_run_state = None
        raise
    return run


# -- mocks ------------------------------------------------------------------------------------------

MockTools = dict[type["Agent"], dict[str, Callable[..., Any]]]

_mocks: ContextVar[MockTools | None] = ContextVar("lk_mock_tools", default=None)


def mock_tools(
    agent: type[Agent],
    mocks: dict[str, Callable[..., Any]],
    *,
    session: AgentSession[Any] | None = None,
) -> Any:
    """Run other functions in place of an agent's tools.

    Args:
        agent: The exact type of the agent.
        mocks: Tool name -> function, sync or async, with any subset of the tool's parameters.
        session: Set the mocks of this session instead of returning a context manager; an empty
            dict removes them.
    """
    if session is not None:
        if mocks:
            session._tool_mocks[agent] = dict(mocks)
        else:
            session._tool_mocks.pop(agent, None)
        return None
    return _mocked(agent, mocks)


@contextlib.contextmanager
def _mocked(agent: type[Agent], mocks: dict[str, Callable[..., Any]]) -> Iterator[None]:
    token = _mocks.set({**(_mocks.get() or {}), agent: dict(mocks)})
    try:
        yield
    finally:
        _mocks.reset(token)


def find_mock(
    session: AgentSession[Any], tool_name: str
) -> Callable[[Any, tuple[Any, ...], dict[str, Any], RunContext[Any]], Awaitable[Any]] | None:
    """The mock for a tool of the session's current agent, or None. Context mocks come first."""
    agent_type: Any = type(session._current_agent)
    for mocks in (_mocks.get() or {}, session._tool_mocks):
        mock = mocks.get(agent_type, {}).get(tool_name)
        if mock is not None:
            return _runner(mock)
    return None


def _runner(mock: Callable[..., Any]) -> Callable[..., Awaitable[Any]]:
    async def run(
        tool: Any, args: tuple[Any, ...], kwargs: dict[str, Any], ctx: RunContext[Any]
    ) -> Any:
        given = inspect.signature(tool).bind(*args, **kwargs).arguments
        given.pop(CONFIRM_DUPLICATE_PARAM, None)  # tools don't get to see it either
        given.update(_contexts(mock, ctx))
        wanted = inspect.signature(mock).parameters
        takes_all = any(p.kind is p.VAR_KEYWORD for p in wanted.values())
        chosen = {name: value for name, value in given.items() if takes_all or name in wanted}
        output = mock(**chosen)
        return await output if inspect.isawaitable(output) else output

    return run


def _contexts(mock: Callable[..., Any], ctx: RunContext[Any]) -> dict[str, Any]:
    """The run context for the parameters of a mock that ask for it, whatever their names."""
    from ..llm._schema import type_hints
    from ..llm.utils import context_class

    try:
        hints = type_hints(mock)
    except Exception:  # names of a test that can't be resolved: it gets what the tool gets
        return {}
    classes = {name: context_class(hint) for name, hint in hints.items() if name != "return"}
    return {name: ctx for name, kind in classes.items() if kind and isinstance(ctx, kind)}


__all__ = [
    "AgentHandoffAssert",
    "AgentHandoffEvent",
    "ChatMessageAssert",
    "ChatMessageEvent",
    "EventAssert",
    "EventRangeAssert",
    "FunctionCallAssert",
    "FunctionCallEvent",
    "FunctionCallOutputAssert",
    "FunctionCallOutputEvent",
    "MockTools",
    "RunAssert",
    "RunEvent",
    "RunOutputOptions",
    "RunResult",
    "Run_T",
    "UnexpectedModelBehavior",
    "find_mock",
    "lk_evals_verbose",
    "mock_tools",
    "start_run",
]
