"""Calls with one model of a plugin, through a real session, to a provider that does not help."""

from __future__ import annotations

import asyncio
import time
from dataclasses import dataclass, field
from typing import Any

from livekit import rtc
from parts import IMPATIENT
from provider import Provider

from fakes.llm import FakeLLM, Reply
from fakes.speaker import Speaker
from fakes.vad import FakeVAD
from livekit.agents import APIError
from livekit.agents.llm import FunctionToolCall, function_tool
from livekit.agents.voice import Agent, AgentSession, CloseEvent, io
from livekit.agents.voice.agent_session import SessionConnectOptions

PATIENCE = 10.0
"""Seconds that a session gets to close by itself, when its model has failed for good."""

ALLOWANCE = 5.5
"""Seconds after the request by which a forced close has let go of everything."""

_CONNECTS = 5.0
_FRAME = 320


@dataclass
class Outcome:
    """What was seen of one call."""

    errors: list[str] = field(default_factory=list)
    """Types of what the session reported, each once."""
    unrecoverable: bool = False
    """Whether one of them was final."""
    typed: bool = True
    """Whether all that was final was an `APIError`."""
    reason: str = ""
    """Why the session closed; nothing if it did not."""
    by_itself: bool = False
    seconds: float = 0.0
    """From the request, or from the start, to the close event."""
    connected: int = 0
    """Connections at the provider when the close was asked for."""
    websockets: int = 0
    wedged: bool = False
    """Whether a tool that ignores its cancellation was running then."""
    released: float = -1.0
    """Seconds from the request until the provider had no connection left; -1: it never did."""
    failure: str = ""
    """What a call into the package raised that should not have."""


class Microphone(io.AudioInput):
    """Real time: 20 ms of noise after 20 ms."""

    def __init__(self) -> None:
        super().__init__(label="microphone")
        self._due = 0.0
        self._noise = bytes((index * 7919 + 13) % 7 for index in range(2 * _FRAME))

    async def __anext__(self) -> rtc.AudioFrame:
        now = time.monotonic()
        self._due = max(self._due + 0.02, now - 0.1)
        await asyncio.sleep(max(0.0, self._due - now))
        return rtc.AudioFrame(self._noise, 16000, 1, _FRAME)


class Clerk(Agent):
    """Its tool can't be ended by any means but `free`."""

    def __init__(self, free: asyncio.Event) -> None:
        super().__init__(instructions="Be brief.")
        self.stuck = asyncio.Event()
        self._free = free

    @function_tool
    async def look_up(self) -> str:
        """Never finds anything."""
        self.stuck.set()
        while not self._free.is_set():
            try:
                await self._free.wait()
            except asyncio.CancelledError:
                pass
        return "too late"


_WEDGE = Reply(
    "One moment, please. ", [FunctionToolCall(name="look_up", arguments="{}", call_id="c")]
)


class Call:
    """A session with one model of a plugin; the others are fakes that never fail.

    Args:
        kind: Of the model, as in `parts.KINDS`.
        model: The model.
        provider: Who is at the other end of all its connections.
        free: Lets the tool end, when all is over.
    """

    def __init__(
        self, kind: str, model: Any, provider: Provider, free: asyncio.Event, *, wedge: bool
    ) -> None:
        self.kind = kind
        self.provider = provider
        self.outcome = Outcome()
        self.agent = Clerk(free)
        answer = _WEDGE if wedge else "certainly"
        options: dict[str, Any] = {"vad": None, "llm": FakeLLM(default=answer)}
        if not wedge:
            options["conn_options"] = SessionConnectOptions(
                IMPATIENT, IMPATIENT, IMPATIENT, max_unrecoverable_errors=0
            )
        options[{"STT": "stt", "TTS": "tts", "VAD": "vad"}.get(kind, "llm")] = model
        if kind == "STT":
            options["vad"] = FakeVAD(speech=[(0.1, 0.7)])
        self.session: AgentSession[None] = AgentSession(**options)
        if kind in ("STT", "realtime", "VAD"):
            self.session.input.audio = Microphone()
        if kind in ("TTS", "realtime"):
            self.session.output.audio = Speaker()
        self.closed = asyncio.Event()
        self.session.on("error", self._on_error)
        self.session.on("close", self._on_close)
        self._began = time.monotonic()

    async def fail(self) -> Outcome:
        """The provider turns the model away: the session must learn of it, and close."""
        try:
            await self._start()
            try:
                await asyncio.wait_for(self.closed.wait(), PATIENCE)
                self.outcome.by_itself = True
            except asyncio.TimeoutError:
                self._began = time.monotonic()
            await asyncio.wait_for(self.session.aclose(), 2 * ALLOWANCE)
        except Exception as error:
            self.outcome.failure = f"{type(error).__name__}: {error}"
        return self.outcome

    async def hang(self) -> Outcome:
        """The provider is silent, a tool is wedged, the caller hangs up."""
        outcome = self.outcome
        try:
            await self._start()
            if self.kind not in ("LLM", "realtime"):
                await asyncio.wait_for(self.agent.stuck.wait(), _CONNECTS)
            await self._connected()
            await asyncio.sleep(0.3)
            outcome.connected = len(self.provider.open)
            outcome.websockets = sum(c.websocket for c in self.provider.open)
            outcome.wedged = self.agent.stuck.is_set()
            self._began = time.monotonic()
            watching = asyncio.ensure_future(self._watch_connections())
            await asyncio.wait_for(self.session.aclose(), 3 * ALLOWANCE)
            await watching
        except Exception as error:
            outcome.failure = f"{type(error).__name__}: {error}"
        return outcome

    async def _connected(self) -> None:
        """Wait until what the model dials has got through the door."""
        for _ in range(int(_CONNECTS / 0.02)):
            if any(connection.path for connection in self.provider.open):
                break
            await asyncio.sleep(0.02)

    async def _start(self) -> None:
        self._began = time.monotonic()
        await self.session.start(self.agent)
        try:
            self.session.generate_reply(user_input="Please look up my order.")
        except RuntimeError:
            await asyncio.wait_for(
                self.closed.wait(), PATIENCE
            )  # it has failed, and closes already

    async def _watch_connections(self) -> None:
        while time.monotonic() - self._began < 2 * ALLOWANCE:
            if not self.provider.open:
                self.outcome.released = time.monotonic() - self._began
                return
            await asyncio.sleep(0.01)

    def _on_error(self, event: Any) -> None:
        cause = getattr(event.error, "error", event.error)
        name = type(cause).__name__
        if name not in self.outcome.errors:
            self.outcome.errors.append(name)
        if not getattr(event.error, "recoverable", False):
            self.outcome.unrecoverable = True
            self.outcome.typed = self.outcome.typed and isinstance(cause, APIError)

    def _on_close(self, event: CloseEvent) -> None:
        self.outcome.reason = event.reason.value
        self.outcome.seconds = time.monotonic() - self._began
        self.closed.set()
