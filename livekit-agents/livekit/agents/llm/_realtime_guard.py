"""Keeping the promises of a realtime session on its behalf: everything it starts comes to an end."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterable, Awaitable, Callable, Coroutine
from typing import TYPE_CHECKING, Any, Literal, TypeAlias, TypeVar

from .._streams import report_survivors
from ..log import logger
from ..types import NOT_GIVEN, NotGivenOr
from ..utils import is_given
from ..utils.aio import Chan, ChanClosed, Survivor, TaskScope, wait_until
from .realtime import GenerationCreatedEvent, MessageGeneration, RealtimeError

if TYPE_CHECKING:
    from .realtime import RealtimeSession
    from .tool_context import Tool, ToolChoice

T = TypeVar("T")

REPLY_TIMEOUT = 15.0
"""Seconds until a requested reply has to have begun. Longer than the plugins' own limits."""

UPDATE_TIMEOUT = 15.0
"""Seconds until a change has to be acknowledged. Longer than the plugins' own limits."""

CLOSE_TIMEOUT = 5.0
"""Seconds that closing a session may take when nobody asks for less."""

_KILL = 0.25
"""Seconds for a cancelled close to react."""


class RealtimeSessionGuard:
    """Stands between a `RealtimeSession` and who listens to it.

    The streams of a generation end, and its modalities resolve, at the latest when the session is
    closed; requested replies begin, and changes are acknowledged, or fail within a bound; closing
    takes no longer than it may. This holds even when the session's own code hangs.
    """

    def __init__(self, session: RealtimeSession[Any]) -> None:
        """Guard a session. Its owner uses the guard for whatever it has to wait for.

        Args:
            session: The session; everything else is asked of it directly.
        """
        self._session = session
        self._label = session.realtime_model.label
        self._generations: set[_GuardedGeneration] = set()
        self._promises: set[asyncio.Future[Any]] = set()
        self._scope = TaskScope(f"{self._label} (session)")
        self._closing: asyncio.Task[list[Survivor]] | None = None
        self._close_scope = TaskScope(f"{self._label} (closing the session)")

    def generation(self, ev: GenerationCreatedEvent) -> GenerationCreatedEvent:
        """The same generation with streams that are sure to end.

        Called again with the same event, it returns the same object: a reply is announced by an
        event and by a future.
        """
        guarded: GenerationCreatedEvent | None = getattr(ev, _GUARDED, None)
        if guarded is not None:
            return guarded
        generation = _GuardedGeneration(ev, self._generations.discard)
        setattr(ev, _GUARDED, generation.event)
        if self._closing is not None:
            generation.end()
        else:
            self._generations.add(generation)
        return generation.event

    def generate_reply(
        self,
        *,
        instructions: NotGivenOr[str] = NOT_GIVEN,
        tool_choice: NotGivenOr[ToolChoice] = NOT_GIVEN,
        tools: NotGivenOr[list[Tool]] = NOT_GIVEN,
        timeout: float = REPLY_TIMEOUT,
    ) -> asyncio.Future[GenerationCreatedEvent]:
        """As `RealtimeSession.generate_reply`, with a limit to the wait for the response to begin.

        Args:
            instructions: For this response alone.
            tool_choice: Whether it has to call tools, or must not.
            tools: Tools for this response alone.
            timeout: Seconds after which the future fails and the response is given up.
        """
        if self._closing is not None:
            return self._refused()
        options = {"instructions": instructions, "tool_choice": tool_choice, "tools": tools}
        asked = self._session.generate_reply(
            **{name: value for name, value in options.items() if is_given(value)}  # type: ignore[arg-type]
        )
        return self.reply(asked, timeout=timeout)

    def reply(
        self, asked: asyncio.Future[GenerationCreatedEvent], *, timeout: float = REPLY_TIMEOUT
    ) -> asyncio.Future[GenerationCreatedEvent]:
        """Limit the wait for a reply that was asked of the session directly.

        Args:
            asked: What `generate_reply` or `say` of the session returned.
            timeout: Seconds after which the returned future fails and the response is given up.
        """
        if self._closing is not None:
            asked.cancel()
            return self._refused()
        return self._promise(asked, timeout, "begin a reply", self.generation, self._unwanted)

    def _unwanted(self, _: GenerationCreatedEvent) -> None:
        """A response began although nobody waits for it any more."""
        try:
            self._session.interrupt()
        except Exception:
            logger.exception("%s: dropping a late reply failed", self._label)

    def update(
        self, change: Coroutine[Any, Any, T], *, timeout: float = UPDATE_TIMEOUT
    ) -> asyncio.Future[T]:
        """Limit the wait until the session acknowledges a change.

        Args:
            change: For instance `session.update_tools(tools)`. It is started here.
            timeout: Seconds after which the returned future fails and the change is given up.

        Returns:
            Fails with what the change failed with, or with `RealtimeError`.
        """
        if self._closing is not None:
            change.close()
            return self._refused()
        task = self._scope.spawn(change, name=f"{self._label} update", log_errors=False)
        return self._promise(task, timeout, "acknowledge a change", lambda outcome: outcome)

    def _promise(
        self,
        asked: asyncio.Future[T],
        timeout: float,
        what: str,
        convert: Callable[[T], T],
        unwanted: Callable[[T], None] | None = None,
    ) -> asyncio.Future[T]:
        """A future with the outcome of `asked` that fails in time, and at the close."""
        loop = asyncio.get_running_loop()
        promised: asyncio.Future[T] = loop.create_future()
        timer = loop.call_later(timeout, self._is_late, promised, what, timeout)

        def answered(_: asyncio.Future[T]) -> None:
            failed = asked.cancelled() or asked.exception() is not None
            if promised.done():  # it came too late
                if unwanted is not None and not failed:
                    unwanted(asked.result())
            elif asked.cancelled():
                promised.set_exception(RealtimeError(f"{self._label} did not {what}: it gave up"))
            elif (error := asked.exception()) is not None:
                promised.set_exception(error)
            else:
                promised.set_result(convert(asked.result()))

        def settled(_: asyncio.Future[T]) -> None:
            _retrieve(promised)
            timer.cancel()
            self._promises.discard(promised)
            if not asked.done():
                asked.cancel()

        asked.add_done_callback(answered)
        promised.add_done_callback(settled)
        self._promises.add(promised)
        return promised

    def _refused(self) -> asyncio.Future[Any]:
        refused: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        refused.set_exception(_closed())
        _retrieve(refused)
        return refused

    def _is_late(self, promised: asyncio.Future[Any], what: str, timeout: float) -> None:
        if not promised.done():
            promised.set_exception(
                RealtimeError(f"{self._label} did not {what} within {timeout:g} s")
            )

    @property
    def closing(self) -> bool:
        """Whether `aclose` was called."""
        return self._closing is not None

    def ended(self, ev: GenerationCreatedEvent) -> bool:
        """Whether the provider has ended a guarded generation: no message and no call comes."""
        streams = (ev.message_stream, ev.function_stream)
        return all(isinstance(stream, Chan) and stream.closed for stream in streams)

    def end(self, ev: GenerationCreatedEvent) -> None:
        """Nobody wants the rest of a guarded generation: end its streams now."""
        for generation in list(self._generations):
            if generation.event is ev:
                generation.end()

    def _fail_promises(self) -> None:
        for promised in list(self._promises):
            if not promised.done():
                promised.set_exception(_closed())

    def _end_generations(self) -> None:
        """End all streams that are still open."""
        for generation in list(self._generations):
            generation.end()

    async def aclose(self, timeout: float = CLOSE_TIMEOUT) -> list[Survivor]:
        """Close the session, whatever its code does, and end everything it left open.

        Failures are logged, not raised. Idempotent; later calls wait for the first one.

        Args:
            timeout: Seconds until a close that does not end is cancelled and abandoned.

        Returns:
            What ignored its cancellation; it has been logged.
        """
        if self._closing is None:
            self._closing = self._close_scope.spawn(self._close(timeout))
        # Cancelling who waits must not cut the close short.
        return await asyncio.shield(self._closing)

    async def _close(self, timeout: float) -> list[Survivor]:
        kill = min(_KILL, timeout / 2)
        self._fail_promises()
        try:
            closing = self._scope.spawn(self._close_session(), name=f"{self._label}.aclose")
            await wait_until(closing, timeout - kill)
        finally:
            survivors = await self._scope.cancel(kill)
            self._end_generations()
        report_survivors(survivors)
        return survivors

    async def _close_session(self) -> None:
        try:
            await self._session.aclose()
        except Exception:
            logger.exception("%s: closing the session failed", self._label)


_GUARDED = "_guarded"


class _Channel(Chan[T]):
    """A stream that is read ahead; a failure of its source is raised after the last item."""

    failure: Exception | None = None

    async def __anext__(self) -> T:
        try:
            return await self.recv()
        except ChanClosed:
            pass
        if self.failure is not None:
            raise self.failure
        raise StopAsyncIteration


class _GuardedGeneration:
    """A generation whose streams are read ahead, so that they can be ended from here."""

    def __init__(
        self, ev: GenerationCreatedEvent, on_end: Callable[[_GuardedGeneration], None]
    ) -> None:
        self._on_end = on_end
        self._scope = TaskScope("generation of a realtime model")
        self._channels: set[_Channel[Any]] = set()
        self._modalities: set[asyncio.Future[_Modalities]] = set()
        self.event = GenerationCreatedEvent(
            message_stream=self._guard(ev.message_stream, self._guard_message),
            function_stream=self._guard(ev.function_stream, _as_it_is),
            user_initiated=ev.user_initiated,
            response_id=ev.response_id,
        )

    def end(self) -> None:
        """End what has not ended by itself. What was read so far can still be taken."""
        for channel in list(self._channels):
            channel.close()
        for modalities in list(self._modalities):
            if not modalities.done():
                modalities.set_result([*_ANY])
        self._scope.cancel_soon()
        self._on_end(self)

    def _guard(self, source: AsyncIterable[T], convert: Callable[[T], T]) -> AsyncIterable[T]:
        channel: _Channel[T] = _Channel()
        self._channels.add(channel)
        self._scope.spawn(self._pump(source, channel, convert), name="realtime stream")
        return channel

    def _guard_message(self, message: MessageGeneration) -> MessageGeneration:
        return MessageGeneration(
            message_id=message.message_id,
            text_stream=self._guard(message.text_stream, _as_it_is),
            audio_stream=self._guard(message.audio_stream, _as_it_is),
            modalities=self._guard_modalities(message.modalities),
        )

    def _guard_modalities(self, given: Awaitable[_Modalities]) -> asyncio.Future[_Modalities]:
        promised: asyncio.Future[_Modalities] = asyncio.get_running_loop().create_future()
        promised.add_done_callback(self._modalities_known)
        self._modalities.add(promised)
        source = given if asyncio.isfuture(given) else self._scope.spawn(_wait_for(given))
        # A callback, because giving up a task that awaits the plugin's future would cancel that.
        source.add_done_callback(lambda told: _copy_modalities(told, promised))
        return promised

    async def _pump(
        self, source: AsyncIterable[T], channel: _Channel[T], convert: Callable[[T], T]
    ) -> None:
        try:
            async for item in source:
                if channel.closed:
                    break
                channel.send_nowait(convert(item))
        except Exception as e:
            channel.failure = e
        finally:
            channel.close()
            self._channels.discard(channel)
            self._end_if_complete()

    def _modalities_known(self, promised: asyncio.Future[_Modalities]) -> None:
        _retrieve(promised)
        self._modalities.discard(promised)
        self._end_if_complete()

    def _end_if_complete(self) -> None:
        if not self._channels and not self._modalities:
            self._on_end(self)


_Modalities: TypeAlias = list[Literal["text", "audio"]]

_ANY: _Modalities = ["audio", "text"]
"""Assumed of a message whose plugin has not told."""


def _closed() -> RealtimeError:
    return RealtimeError("the realtime session is closed")


def _retrieve(future: asyncio.Future[Any]) -> None:
    """Take a failure, so that asyncio doesn't complain when nobody else does."""
    if not future.cancelled():
        future.exception()


def _as_it_is(item: T) -> T:
    return item


async def _wait_for(awaitable: Awaitable[T]) -> T:
    return await awaitable


def _copy_modalities(
    told: asyncio.Future[_Modalities], promised: asyncio.Future[_Modalities]
) -> None:
    error = None if told.cancelled() else told.exception()
    if promised.done():
        return
    if error is not None:
        promised.set_exception(error)
    else:
        promised.set_result([*_ANY] if told.cancelled() else told.result())
