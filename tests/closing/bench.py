"""A healthy session with a scripted LLM, for tests that bring their own agents."""

from __future__ import annotations

from typing import Any

from closing.checker import CloseChecker

from fakes.llm import FakeLLM, Reply, call
from fakes.session import make_session
from fakes.speaker import Speaker
from fakes.stt import FakeSTT
from fakes.tts import FakeTTS
from fakes.vad import FakeVAD
from livekit.agents.llm import FunctionCallOutput
from livekit.agents.voice import Agent, AgentSession


class Bench:
    """A session with a scripted LLM and plain agents, watched by the checker."""

    def __init__(self, *replies: Any, **options: Any) -> None:
        self.llm = FakeLLM(list(replies), default="well")
        self.stt, self.vad, self.tts = FakeSTT(), FakeVAD(), FakeTTS()
        self.session = make_session(
            self.llm,
            stt=self.stt,
            vad=self.vad,
            tts=self.tts,
            aec_warmup_duration=None,
            **options,
        )
        self.checker = CloseChecker(self.session, models=[self.llm, self.stt, self.vad, self.tts])
        self.session.output.audio = Speaker()

    async def closes(self, **expected: Any) -> float:
        """Close by force, and check it."""
        self.checker.requested()
        self.session.shutdown(drain=False)
        return await self.checker.check(restart=self.restart, **expected)

    async def restart(self) -> None:
        self.llm.replies = []
        self.session.output.audio = Speaker()
        await self.session.start(Agent(instructions="second life"))


def tool_calls(*names: str) -> Reply:
    return Reply(tool_calls=[call(name) for name in names])


def outputs(session: AgentSession[Any]) -> dict[str, FunctionCallOutput]:
    """The tool outputs of the history, by the name of the tool."""
    items = session.history.items
    return {item.name: item for item in items if item.type == "function_call_output"}


def said(session: AgentSession[Any]) -> list[str]:
    """The messages of the history."""
    return [message.text_content or "" for message in session.history.messages()]
