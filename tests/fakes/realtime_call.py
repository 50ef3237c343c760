"""A session with a realtime model on the line, and a loudspeaker in virtual time."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from livekit.agents.llm import ChatItem, FunctionCall, RealtimeModel
from livekit.agents.voice import Agent, AgentSession, TranscriptSynchronizer

from .realtime import FakeRealtimeModel, FakeRealtimeSession
from .session import Recorded
from .speaker import Speaker


class RealtimeCall:
    """A session, its events, its loudspeaker, and the server behind the model."""

    def __init__(
        self, model: RealtimeModel, *, speaks: bool = True, paced: bool = False, **options: Any
    ) -> None:
        self.model = model
        options = {"vad": None, "aec_warmup_duration": None, **options}
        self.session: AgentSession[Any] = AgentSession(llm=model, **options)
        self.recorded = Recorded(self.session)
        self.speaker = Speaker()
        self._sync: TranscriptSynchronizer | None = None
        if speaks:
            self.session.output.audio = self.speaker
        if paced:
            self._sync = TranscriptSynchronizer(
                next_in_chain_audio=self.speaker, next_in_chain_text=None
            )
            self.session.output.audio = self._sync.audio_output
            self.session.output.transcription = self._sync.text_output

    async def hang_up(self) -> None:
        await self.session.aclose()
        if self._sync is not None:
            await self._sync.aclose()

    @property
    def server(self) -> FakeRealtimeSession:
        """The newest session of the model."""
        assert isinstance(self.model, FakeRealtimeModel)
        return self.model.sessions[-1]

    @property
    def story(self) -> list[str]:
        return self.recorded.story

    @property
    def said(self) -> list[str]:
        """The messages of the history."""
        return [
            f"{m.role}{' (interrupted)' if m.interrupted else ''}: {m.text_content}"
            for m in self.session.history.messages()
        ]

    @property
    def outputs(self) -> list[str]:
        """The outputs of tools in the history."""
        return outputs_of(self.session.history.items)


def outputs_of(items: list[ChatItem]) -> list[str]:
    return [item.output for item in items if item.type == "function_call_output"]


def calls(name: str, call_id: str = "c1", arguments: str = "{}") -> FunctionCall:
    return FunctionCall(call_id=call_id, name=name, arguments=arguments)


@asynccontextmanager
async def realtime_call(
    *replies: Any,
    agent: Agent | None = None,
    model: RealtimeModel | None = None,
    capabilities: dict[str, bool] | None = None,
    **options: Any,
) -> AsyncIterator[RealtimeCall]:
    """A started session whose model answers with `replies`."""
    call = RealtimeCall(model or FakeRealtimeModel(replies, **(capabilities or {})), **options)
    await call.session.start(agent or Agent(instructions="be brief"))
    try:
        yield call
    finally:
        await call.hang_up()
