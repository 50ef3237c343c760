"""A call whose hearing, thinking and speaking go through an inference gateway on this machine.

The gateway is the emulator of the tests. It hears with pocketsphinx, speaks with piper, answers by
rules, and can be gone for a while in the middle of a sentence.
"""

from __future__ import annotations

import asyncio
import json
import logging
import sys
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from rules import RulesLLM

from livekit.agents import AgentSession, ChatContext, inference, llm
from livekit.agents.inference._protocol.chat import Delta, ToolCallDelta
from livekit.agents.utils import http_context
from livekit.agents.utils.aio import TaskScope

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "tests"))

from gateway import GatewayEmulator
from gateway.recognizers import Emit, PocketSphinxRecognizer
from gateway.voices import PiperVoice

OUTAGE = 5.0
"""Seconds that the gateway is gone."""

INTO_SENTENCE = 1.2
"""Seconds of the sentence that are spoken before."""

Note = Callable[[str], None]


class GatewayCall:
    """What a call needs of the gateway.

    Args:
        emulator: The gateway.
        note: Shows what happens to it.
    """

    def __init__(self, emulator: GatewayEmulator) -> None:
        self._emulator = emulator
        self._models: list[Any] = []
        self._scope = TaskScope("gateway of the demo")

    @property
    def address(self) -> str:
        """Where it listens."""
        return self._emulator.base_url

    def make_session(self) -> AgentSession[None]:
        """A session all of whose models are behind the gateway."""
        arguments = self._emulator.arguments()
        stt = inference.STT("deepgram/nova-3", language="en", **arguments)
        tts = inference.TTS("rime/mist", **arguments)
        model = inference.LLM("openai/gpt-4.1-mini", **arguments)
        self._models = [stt, tts, model]
        return AgentSession(stt=stt, tts=tts, llm=model, vad=inference.VAD())

    def plan_outage(self, is_speaking: Callable[[], bool], note: Note, *, speed: float) -> None:
        """Be gone for 5 s, in the middle of the caller's second sentence.

        Args:
            is_speaking: Whether the caller is in that sentence.
            note: Shows what happens.
            speed: How much faster than life the call runs.
        """
        self._scope.spawn(self._go_away_for_a_while(is_speaking, note, speed))

    async def _go_away_for_a_while(
        self, is_speaking: Callable[[], bool], note: Note, speed: float
    ) -> None:
        while not is_speaking():  # noqa: ASYNC110 (the caller is no task that could tell)
            await asyncio.sleep(0.02)
        await asyncio.sleep(INTO_SENTENCE / speed)
        await self._emulator.go_away()
        note(f"the gateway is gone, for {OUTAGE:g} s")
        await asyncio.sleep(OUTAGE / speed)
        await self._emulator.come_back()
        note("the gateway is back")

    async def aclose(self) -> None:
        """Close the models."""
        await self._scope.cancel(0.5)
        for model in self._models:
            await model.aclose()


@asynccontextmanager
async def local_gateway(rules: RulesLLM) -> AsyncIterator[GatewayCall]:
    """A gateway for one call.

    Args:
        rules: What it answers by.
    """
    from livekit.plugins import pocketsphinx

    ears = pocketsphinx.STT()
    ears.prewarm()

    def recognizer(emit: Emit, sample_rate: int, endpointing: bool) -> PocketSphinxRecognizer:
        return PocketSphinxRecognizer(emit, sample_rate, ears)

    emulator = GatewayEmulator(make_recognizer=recognizer, voice=PiperVoice(), keep_audio=False)
    emulator.completions.answer = _answer_by(rules)
    async with http_context.open(), emulator:
        call = GatewayCall(emulator)
        try:
            yield call
        finally:
            await call.aclose()


def _answer_by(rules: RulesLLM) -> Callable[[dict[str, Any]], AsyncIterator[Delta]]:
    async def answer(body: dict[str, Any]) -> AsyncIterator[Delta]:
        offered = {tool["function"]["name"] for tool in body.get("tools", ())}
        may_call = body.get("tool_choice") != "none"
        text, call = rules._answer(_context_of(body), offered, may_call=may_call)
        for word in text.split():
            await asyncio.sleep(0.01)
            yield Delta(f"{word} ")
        if call is not None:
            yield Delta(tool_calls=(ToolCallDelta(0, call.call_id, call.name, call.arguments),))
        yield Delta(finish_reason="tool_calls" if call is not None else "stop")

    return answer


def _context_of(body: dict[str, Any]) -> ChatContext:
    """The conversation in a request, as far as the rules look at it."""
    chat_ctx = ChatContext.empty()
    names: dict[str, str] = {}
    for message in body["messages"]:
        for call in message.get("tool_calls", ()):
            names[call["id"]] = call["function"]["name"]
        if message["role"] == "tool":
            chat_ctx.items.append(
                llm.FunctionCallOutput(
                    call_id=message["tool_call_id"],
                    name=names.get(message["tool_call_id"], ""),
                    output=message["content"],
                    is_error=False,
                )
            )
        elif isinstance(message.get("content"), str):
            chat_ctx.add_message(role=message["role"], content=message["content"])
        elif isinstance(message.get("content"), list):
            parts = (json.dumps(part) for part in message["content"])
            chat_ctx.add_message(role=message["role"], content=" ".join(parts))
    return chat_ctx


class ReplayNotes(logging.Handler):
    """Shows in the call what the framework logs about audio that is sent again, or lost."""

    def __init__(self, note: Note) -> None:
        super().__init__(logging.INFO)
        self._note = note

    def emit(self, record: logging.LogRecord) -> None:
        """Show a record if it is about audio."""
        replayed = getattr(record, "replayed_audio_duration", None)
        lost = getattr(record, "dropped_audio_duration", None)
        if replayed is not None:
            self._note(f"connected again: the last {replayed:.1f} s are sent once more")
        if lost is not None:
            self._note(f"{lost:.1f} s of audio are lost")
