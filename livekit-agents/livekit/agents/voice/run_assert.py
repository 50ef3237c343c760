"""`result.expect`: assertions over the events of a run, with a cursor that moves through them."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Literal, TypeVar, overload

from ..llm import ChatMessage, FunctionCall, FunctionCallOutput
from ..types import NOT_GIVEN, NotGivenOr
from ..utils import is_given
from ..utils.env import resolve_env_int

if TYPE_CHECKING:
    from ..llm import LLM, ChatRole
    from .agent import Agent
    from .run_result import (
        AgentHandoffEvent,
        ChatMessageEvent,
        FunctionCallEvent,
        FunctionCallOutputEvent,
        RunEvent,
        RunResult,
    )

EventType = Literal["message", "function_call", "function_call_output", "agent_handoff"]

lk_evals_verbose = resolve_env_int("LIVEKIT_EVALS_VERBOSE")
"""Non-zero prints the events of each run that is looked at, and successful judgements."""

T = TypeVar("T")


def describe(events: Sequence[RunEvent], marked: int | None = None) -> str:
    """The events as a list, the marked one with an arrow."""
    lines = []
    for index, event in enumerate(events):
        arrow = ">>>" if index == marked else "   "
        lines.append(f"{arrow} [{index}] {_describe_one(event)}")
    return "\n".join(lines) or "    (no events)"


def _describe_one(event: RunEvent) -> str:
    item = event.item
    if isinstance(item, ChatMessage):
        return f"message from {item.role}: {item.text_content!r}"
    if isinstance(item, FunctionCall):
        return f"function call {item.name}({item.arguments})"
    if isinstance(item, FunctionCallOutput):
        kind = "error" if item.is_error else "output"
        return f"function call {kind} of {item.name}: {item.output!r}"
    return f"handoff from {item.old_agent_id} to {item.new_agent_id}"


class EventAssert:
    """One event, of any type."""

    def __init__(self, event: RunEvent, parent: RunAssert, index: int = -1) -> None:
        self._event = event
        self._parent = parent
        self._index = index

    def event(self) -> RunEvent:
        """The event itself."""
        return self._event

    def _fail(self, message: str) -> None:
        __tracebackhide__ = True
        self._parent._fail(message, self._index)

    def is_message(self, *, role: NotGivenOr[ChatRole] = NOT_GIVEN) -> ChatMessageAssert:
        """A message, of that role if one is given. Raises AssertionError otherwise."""
        __tracebackhide__ = True
        event: Any = self._event
        if event.type != "message":
            self._fail(f"expected a message, got a {event.type}")
        if is_given(role) and event.item.role != role:
            self._fail(f"expected a message from {role!r}, got one from {event.item.role!r}")
        return ChatMessageAssert(event, self._parent, self._index)

    def is_function_call(
        self,
        *,
        name: NotGivenOr[str] = NOT_GIVEN,
        arguments: NotGivenOr[dict[str, Any]] = NOT_GIVEN,
    ) -> FunctionCallAssert:
        """A function call; of the arguments, those given have to be equal."""
        __tracebackhide__ = True
        event: Any = self._event
        if event.type != "function_call":
            self._fail(f"expected a function call, got a {event.type}")
        if is_given(name) and event.item.name != name:
            self._fail(f"expected a call of {name!r}, got one of {event.item.name!r}")
        if is_given(arguments):
            actual = json.loads(event.item.arguments or "{}")
            for key, value in arguments.items():
                if key not in actual or actual[key] != value:
                    self._fail(f"expected the argument {key}={value!r}, got {actual.get(key)!r}")
        return FunctionCallAssert(event, self._parent, self._index)

    def is_function_call_output(
        self, *, output: NotGivenOr[str] = NOT_GIVEN, is_error: NotGivenOr[bool] = NOT_GIVEN
    ) -> FunctionCallOutputAssert:
        """The output of a function call."""
        __tracebackhide__ = True
        event: Any = self._event
        if event.type != "function_call_output":
            self._fail(f"expected the output of a function call, got a {event.type}")
        if is_given(output) and event.item.output != output:
            self._fail(f"expected the output {output!r}, got {event.item.output!r}")
        if is_given(is_error) and event.item.is_error != is_error:
            self._fail(f"expected is_error={is_error}, got {event.item.is_error}")
        return FunctionCallOutputAssert(event, self._parent, self._index)

    def is_agent_handoff(
        self, *, new_agent_type: NotGivenOr[type[Agent]] = NOT_GIVEN
    ) -> AgentHandoffAssert:
        """A handoff, to an agent of that type if one is given."""
        __tracebackhide__ = True
        event: Any = self._event
        if event.type != "agent_handoff":
            self._fail(f"expected a handoff, got a {event.type}")
        if is_given(new_agent_type) and not isinstance(event.new_agent, new_agent_type):
            self._fail(
                f"expected a handoff to a {new_agent_type.__name__}, got one to a "
                f"{type(event.new_agent).__name__}"
            )
        return AgentHandoffAssert(event, self._parent, self._index)


class _TypedAssert:
    def __init__(self, event: Any, parent: RunAssert, index: int) -> None:
        self._event = event
        self._parent = parent
        self._index = index


class FunctionCallAssert(_TypedAssert):
    """A function call."""

    def event(self) -> FunctionCallEvent:
        """The event itself."""
        return self._event  # type: ignore[no-any-return]


class FunctionCallOutputAssert(_TypedAssert):
    """The output of a function call."""

    def event(self) -> FunctionCallOutputEvent:
        """The event itself."""
        return self._event  # type: ignore[no-any-return]


class AgentHandoffAssert(_TypedAssert):
    """A handoff."""

    def event(self) -> AgentHandoffEvent:
        """The event itself."""
        return self._event  # type: ignore[no-any-return]


class ChatMessageAssert(_TypedAssert):
    """A message."""

    def event(self) -> ChatMessageEvent:
        """The event itself."""
        return self._event  # type: ignore[no-any-return]

    async def judge(self, llm_v: LLM[Any], *, intent: str) -> ChatMessageAssert:
        """Let a model judge, strictly, whether the message does what it should.

        Args:
            llm_v: The judge.
            intent: What the message should do, in plain words.

        Raises:
            AssertionError: If it does not, or the message or the intent is empty, or the judge
                gives no verdict.
        """
        __tracebackhide__ = True
        text = self._event.item.text_content
        if not text:
            self._parent._fail("an empty message can't be judged", self._index)
        if not intent:
            self._parent._fail("say in `intent` what the message should do", self._index)
        success, reason = await _judge(llm_v, text or "", intent)
        if not success:
            self._parent._fail(f"the message does not do what it should: {reason}", self._index)
        if lk_evals_verbose:
            print(f"judged as fulfilled: {intent!r}: {reason}")
        return self


async def _judge(llm_v: LLM[Any], text: str, intent: str) -> tuple[bool, str]:
    from ..llm import ChatContext, function_tool

    @function_tool
    async def verdict(success: bool, reason: str) -> None:
        """Give the verdict.

        Args:
            success: Whether the message fulfils the intent.
            reason: Why, in one sentence.
        """

    chat_ctx = ChatContext.empty()
    chat_ctx.add_message(
        role="system",
        content=(
            "You check messages of a voice agent in a test. Decide whether the message fulfils "
            "the intent. Be strict: when in doubt it does not. Call `verdict` once."
        ),
    )
    chat_ctx.add_message(role="user", content=f"Intent: {intent}\n\nMessage: {text}")
    extra = {} if "gpt-5" in llm_v.model else {"temperature": 0.0}
    async with llm_v.chat(
        chat_ctx=chat_ctx, tools=[verdict], tool_choice="required", extra_kwargs=extra
    ) as stream:
        response = await stream.collect()
    if not response.tool_calls:
        return False, "the judge gave no verdict"
    arguments = json.loads(response.tool_calls[0].arguments)
    return bool(arguments.get("success")), str(arguments.get("reason", ""))


class EventRangeAssert:
    """A stretch of events, to be searched."""

    def __init__(self, events: Sequence[RunEvent], parent: RunAssert, rng: slice) -> None:
        self._events = list(events)
        self._parent = parent
        self._start = rng.indices(len(parent._events))[0]

    def _first(self, method: str, **conditions: Any) -> Any:
        __tracebackhide__ = True
        for offset, event in enumerate(self._events):
            candidate = EventAssert(event, self._parent, self._start + offset)
            try:
                return getattr(candidate, method)(**conditions)
            except AssertionError:
                continue
        wanted = ", ".join(f"{k}={v!r}" for k, v in conditions.items() if is_given(v))
        self._parent._fail(f"no event here satisfies {method}({wanted})", None)

    def contains_message(self, *, role: NotGivenOr[ChatRole] = NOT_GIVEN) -> ChatMessageAssert:
        """The first message that matches. Raises AssertionError if none does."""
        __tracebackhide__ = True
        return self._first("is_message", role=role)  # type: ignore[no-any-return]

    def contains_function_call(
        self,
        *,
        name: NotGivenOr[str] = NOT_GIVEN,
        arguments: NotGivenOr[dict[str, Any]] = NOT_GIVEN,
    ) -> FunctionCallAssert:
        """The first function call that matches. Raises AssertionError if none does."""
        __tracebackhide__ = True
        return self._first("is_function_call", name=name, arguments=arguments)  # type: ignore[no-any-return]

    def contains_function_call_output(
        self, *, output: NotGivenOr[str] = NOT_GIVEN, is_error: NotGivenOr[bool] = NOT_GIVEN
    ) -> FunctionCallOutputAssert:
        """The first output that matches. Raises AssertionError if none does."""
        __tracebackhide__ = True
        return self._first("is_function_call_output", output=output, is_error=is_error)  # type: ignore[no-any-return]

    def contains_agent_handoff(
        self, *, new_agent_type: NotGivenOr[type[Agent]] = NOT_GIVEN
    ) -> AgentHandoffAssert:
        """The first handoff that matches. Raises AssertionError if none does."""
        __tracebackhide__ = True
        return self._first("is_agent_handoff", new_agent_type=new_agent_type)  # type: ignore[no-any-return]


class RunAssert(EventRangeAssert):
    """All events of a run, and a cursor."""

    def __init__(self, run_result: RunResult[Any]) -> None:
        """Made by `RunResult.expect`."""
        self._events: list[RunEvent] = run_result.events
        self._parent = self
        self._start = 0
        self._cursor = 0
        if lk_evals_verbose:
            print(f"events of the run:\n{describe(self._events)}")

    def _fail(self, message: str, index: int | None) -> None:
        __tracebackhide__ = True
        raise AssertionError(f"{message}\n{describe(self._events, index)}")

    @overload
    def __getitem__(self, s: slice) -> EventRangeAssert: ...

    @overload
    def __getitem__(self, s: int) -> EventAssert: ...

    def __getitem__(self, s: int | slice) -> EventAssert | EventRangeAssert:
        __tracebackhide__ = True
        if isinstance(s, slice):
            return EventRangeAssert(self._events[s], self, s)
        if not isinstance(s, int):
            raise TypeError(f"events are addressed by int or slice, not {type(s).__name__}")
        index = s if s >= 0 else len(self._events) + s
        if not 0 <= index < len(self._events):
            self._fail(f"there is no event {s}", None)
        return EventAssert(self._events[index], self, index)

    def next_event(self, *, type: EventType | None = None) -> Any:
        """The next event; with a type, the next of that type. Raises AssertionError at the end."""
        __tracebackhide__ = True
        while self._cursor < len(self._events):
            index = self._cursor
            self._cursor += 1
            event = EventAssert(self._events[index], self, index)
            if type is None:
                return event
            if self._events[index].type == type:
                return getattr(event, f"is_{type}")()
        wanted = "event" if type is None else type
        self._fail(f"expected another {wanted}, but there is none", None)

    def skip_next_event_if(
        self,
        *,
        type: EventType,
        role: NotGivenOr[ChatRole] = NOT_GIVEN,
        name: NotGivenOr[str] = NOT_GIVEN,
        arguments: NotGivenOr[dict[str, Any]] = NOT_GIVEN,
        output: NotGivenOr[str] = NOT_GIVEN,
        is_error: NotGivenOr[bool] = NOT_GIVEN,
        new_agent_type: NotGivenOr[Any] = NOT_GIVEN,
    ) -> Any:
        """Move past the next event if it matches, and return it; else stay, and return None."""
        if self._cursor >= len(self._events):
            return None
        conditions: dict[str, dict[str, Any]] = {
            "message": {"role": role},
            "function_call": {"name": name, "arguments": arguments},
            "function_call_output": {"output": output, "is_error": is_error},
            "agent_handoff": {"new_agent_type": new_agent_type},
        }
        event = EventAssert(self._events[self._cursor], self, self._cursor)
        try:
            matched = getattr(event, f"is_{type}")(**conditions[type])
        except AssertionError:
            return None
        self._cursor += 1
        return matched

    def skip_next(self, count: int = 1) -> RunAssert:
        """Move past some events. Raises AssertionError if there are fewer."""
        __tracebackhide__ = True
        if self._cursor + count > len(self._events):
            left = len(self._events) - self._cursor
            self._fail(f"can't skip {count} events, {left} are left", None)
        self._cursor += count
        return self

    def no_more_events(self) -> None:
        """Nothing else happened. Raises AssertionError otherwise."""
        __tracebackhide__ = True
        if self._cursor < len(self._events):
            self._fail("expected no more events", self._cursor)


__all__ = [
    "AgentHandoffAssert",
    "ChatMessageAssert",
    "EventAssert",
    "EventRangeAssert",
    "FunctionCallAssert",
    "FunctionCallOutputAssert",
    "RunAssert",
    "lk_evals_verbose",
]
