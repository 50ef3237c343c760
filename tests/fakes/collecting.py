"""An agent that has a task done when the user says so, and keeps what came of it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

from fakes.llm import FakeLLM, Script
from fakes.session import Recorded, running
from fakes.tools import calls, results
from livekit.agents.llm import function_tool
from livekit.agents.vad import VADEventType
from livekit.agents.voice import Agent, AgentSession, AgentTask
from livekit.agents.voice.run_result import RunResult


class Collector(Agent):
    """Awaits a task in its tool `collect`."""

    def __init__(self, make: Callable[[], AgentTask[Any]]) -> None:
        super().__init__(instructions="collect what is needed")
        self.make = make
        self.task: AgentTask[Any] | None = None
        self.outcome: Any = None

    @function_tool
    async def collect(self) -> str:
        """Collects it."""
        self.task = self.make()
        try:
            self.outcome = await self.task
        except Exception as error:
            self.outcome = error
            raise
        return "collected"


@dataclass
class Collecting:
    """A session in which the task has the floor."""

    session: AgentSession[Any]
    recorded: Recorded
    llm: FakeLLM
    agent: Collector
    modality: str

    @property
    def task(self) -> Any:
        return self.agent.task

    @property
    def outcome(self) -> Any:
        """What the task gave, or raised; None while it goes on."""
        return self.agent.outcome

    async def user(self, text: str, *replies: Script) -> RunResult[Any]:
        """The user says something, and the model answers with these."""
        self.llm.replies[:] = replies
        result = await self.session.run(user_input=text, input_modality=self.modality)
        assert not self.llm.replies, f"the model was not asked for {self.llm.replies}"
        return result

    async def hear(self, text: str, *replies: Script) -> None:
        """The user says it aloud: voice activity, then a transcript. The model answers with these."""
        self.llm.replies[:] = replies
        vad = self.session.vad.streams[-1]  # type: ignore[union-attr]
        vad.send(VADEventType.START_OF_SPEECH, speech_duration=0.05)
        for tenth in range(1, 7):
            await asyncio.sleep(0.1)
            vad.send(
                VADEventType.INFERENCE_DONE,
                speaking=True,
                speech_duration=tenth / 10,
                raw_accumulated_speech=0.1,
            )
        self.session.stt.streams[-1].final(text)  # type: ignore[union-attr]
        await asyncio.sleep(0.25)
        vad.send(
            VADEventType.END_OF_SPEECH, silence_duration=0.25, speech_duration=0.6, speaking=False
        )
        await asyncio.sleep(20.0)
        assert not self.llm.replies, f"the model was not asked for {self.llm.replies}"

    def result(self, call_id: str = "c1") -> str:
        """What the last call of that id got for an answer."""
        [*_, last] = [r for r in results(self.session) if r.startswith(call_id)]
        return last

    def offered(self) -> list[str]:
        """The tools that the last request offered."""
        return [tool.id for tool in self.llm.requests[-1].tools]


@asynccontextmanager
async def collecting(
    make: Callable[[], AgentTask[Any]],
    *first: Script,
    modality: str = "audio",
    greets: bool = True,
    **options: Any,
) -> AsyncIterator[Collecting]:
    """The user has asked for it, the task has begun, and the model has said `first`."""
    llm = FakeLLM(default="go on")
    agent = Collector(make)
    async with running(agent, llm, **options) as (session, recorded):
        made = Collecting(session, recorded, llm, agent, modality)
        opening = first or (("What is it?",) if greets else ())
        await made.user("please", calls("collect#start"), *opening)
        yield made
