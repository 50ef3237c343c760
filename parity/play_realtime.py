"""Calls with a realtime model: its replies, transcripts, tools, interruptions, and what it is told."""

from __future__ import annotations

import asyncio
import json
import sys
from collections.abc import Callable, Coroutine
from typing import Any

from close_fakes import RATE
from conversations import SPOKEN, Host
from livekit import rtc
from stages import WideStage

from livekit.agents import llm, utils
from livekit.agents.llm import (
    GenerationCreatedEvent,
    InputSpeechStartedEvent,
    InputSpeechStoppedEvent,
    InputTranscriptionCompleted,
    MessageGeneration,
    RealtimeCapabilities,
)

PATIENCE = 20.0
"""Seconds that a scene may take."""

Play = Callable[[WideStage], Coroutine[Any, Any, None]]

SCENES: dict[str, Play] = {}


def scene(play: Play) -> Play:
    """Register a scene under the name of its function."""
    SCENES[play.__name__] = play
    return play


class TalkingModel(llm.RealtimeModel):
    """Speaks when asked to, a word each 50 ms; calls the tools that it is asked for."""

    def __init__(self, stage: WideStage, **capabilities: bool) -> None:
        options = {
            "message_truncation": True,
            "turn_detection": True,
            "user_transcription": True,
            "auto_tool_reply_generation": False,
            "audio_output": True,
            "manual_function_calls": True,
            **capabilities,
        }
        super().__init__(capabilities=RealtimeCapabilities(**options))
        self.stage = stage
        self.talk: Talk | None = None

    def session(self, *, turn_detection_disabled: bool = False) -> Any:
        self.talk = Talk(self)
        return self.talk

    async def aclose(self) -> None:
        pass


class Talk(llm.RealtimeSession):
    """One session of it."""

    def __init__(self, model: TalkingModel) -> None:
        super().__init__(model)
        self._note = model.stage.note
        self._context = llm.ChatContext.empty()
        self._tools = llm.ToolContext.empty()
        self._replying: set[asyncio.Task[None]] = set()
        self._count = 0

    @property
    def chat_ctx(self) -> llm.ChatContext:
        return self._context.copy()

    @property
    def tools(self) -> llm.ToolContext:
        return self._tools.copy()

    async def update_instructions(self, instructions: str) -> None:
        self._note(f"model: instructions {instructions}")

    async def update_chat_ctx(self, chat_ctx: llm.ChatContext) -> None:
        self._context = chat_ctx.copy()
        kinds = [item.type for item in chat_ctx.items if item.type != "agent_config_update"]
        self._note(f"model: context {kinds}")

    async def update_tools(self, tools: list[llm.Tool]) -> None:
        self._tools = llm.ToolContext(tools)
        self._note(f"model: tools {sorted(self._tools.function_tools)}")

    def update_options(self, *, tool_choice: Any = None) -> None:
        self._note("model: options")

    def push_audio(self, frame: rtc.AudioFrame) -> None:
        pass

    def push_video(self, frame: rtc.VideoFrame) -> None:
        pass

    def generate_reply(
        self, *, instructions: Any = None, tool_choice: Any = None, **_: Any
    ) -> asyncio.Future[GenerationCreatedEvent]:
        given = instructions if isinstance(instructions, str) else None
        self._note(f"model: asked, {given}, {tool_choice if tool_choice == 'none' else 'free'}")
        last = next((m for m in reversed(self._context.items) if m.type == "message"), None)
        said = (last.text_content or "") if last is not None else ""
        calls = [] if self._answered_calls() else [w[5:] for w in said.split() if w[:5] == "call:"]
        reply: asyncio.Future[GenerationCreatedEvent] = asyncio.Future()
        asyncio.get_running_loop().call_later(
            0.01,
            lambda: reply.done() or reply.set_result(self._generate(True, "Certainly.", calls)),
        )
        return reply

    def _answered_calls(self) -> bool:
        return any(item.type == "function_call_output" for item in self._context.items[-2:])

    def _generate(
        self, asked: bool, words: str, calls: list[str], seconds: float = 0.2
    ) -> GenerationCreatedEvent:
        self._count += 1
        texts, sounds = utils.aio.Chan[str](), utils.aio.Chan[rtc.AudioFrame]()
        messages, functions = (
            utils.aio.Chan[MessageGeneration](),
            utils.aio.Chan[llm.FunctionCall](),
        )
        modalities: asyncio.Future[Any] = asyncio.Future()
        modalities.set_result(["audio", "text"])
        if words:
            messages.send_nowait(
                MessageGeneration(
                    message_id=f"message_{self._count}",
                    text_stream=texts,
                    audio_stream=sounds,
                    modalities=modalities,
                )
            )
        messages.close()
        for number, name in enumerate(calls):
            call_id = f"call_{self._count}_{number}"
            functions.send_nowait(llm.FunctionCall(call_id=call_id, name=name, arguments="{}"))
        functions.close()
        task = asyncio.ensure_future(self._speak(words, texts, sounds, seconds))
        self._replying.add(task)
        event = GenerationCreatedEvent(
            message_stream=messages, function_stream=functions, user_initiated=asked
        )
        self.emit("generation_created", event)
        return event

    async def _speak(self, words: str, texts: Any, sounds: Any, seconds: float) -> None:
        try:
            for word in words.split(" "):
                texts.send_nowait(f"{word} ")
            for _ in range(round(seconds * 20)):
                sounds.send_nowait(rtc.AudioFrame(bytes(2 * RATE // 20), RATE, 1, RATE // 20))
                await asyncio.sleep(0.01)
        finally:
            texts.close()
            sounds.close()

    def hear(self, words: str, answer: str, seconds: float = 0.2) -> None:
        """The user has said something, and it answers by itself."""
        self.begin()
        self.end()
        self.emit(
            "input_audio_transcription_completed",
            InputTranscriptionCompleted(item_id="item", transcript=words, is_final=True),
        )
        self._generate(False, answer, [], seconds)

    def begin(self) -> None:
        """The user begins to speak."""
        self.emit("input_speech_started", InputSpeechStartedEvent())

    def end(self) -> None:
        """The user stops."""
        event = InputSpeechStoppedEvent(user_transcription_enabled=True)
        self.emit("input_speech_stopped", event)

    def commit_audio(self) -> None:
        self._note("model: commit")

    def clear_audio(self) -> None:
        self._note("model: clear")

    def interrupt(self) -> None:
        self._note("model: interrupt")

    def truncate(self, *, message_id: str, modalities: Any, audio_end_ms: int, **_: Any) -> None:
        self._note(f"model: truncate {message_id}")

    async def aclose(self) -> None:
        for task in self._replying:
            task.cancel()
        self._note("model: closed")


async def _start(stage: WideStage, agent: Any = None, **options: Any) -> tuple[Any, Talk]:
    model = TalkingModel(stage)
    session = await stage.start(agent, stt=None, tts=None, llm=model, vad=None, **options)
    assert model.talk is not None
    return session, model.talk


AS_IT_DOES: dict[str, Any] = {"turn_handling": {"turn_detection": "realtime_llm"}}


@scene
async def asked_for_replies(stage: WideStage) -> None:
    session, _ = await _start(stage, **AS_IT_DOES)
    await session.generate_reply(instructions="Greet.")
    await session.generate_reply(user_input="typed words")
    await stage.end()


@scene
async def answering_by_itself(stage: WideStage) -> None:
    _, talk = await _start(stage, **AS_IT_DOES)
    talk.hear("hello", "Hello to you.")
    await stage.until(SPOKEN)
    talk.hear("and now", "Now this.")
    await stage.until(SPOKEN, 2)
    await stage.end()


@scene
async def using_a_tool(stage: WideStage) -> None:
    async def take_a_while() -> None:
        await asyncio.sleep(0.5)

    session, _ = await _start(stage, Host(stage, tool=take_a_while), **AS_IT_DOES)
    await session.generate_reply(user_input="call:work")
    await stage.until("new_state=speaking", 2, settle=1.0)
    await stage.end()


@scene
async def asked_for_words_only(stage: WideStage) -> None:
    session, _ = await _start(stage, **AS_IT_DOES)
    await session.generate_reply(user_input="call:work", tool_choice="none")
    await stage.until(SPOKEN)
    await stage.end()


@scene
async def interrupted_by_the_user(stage: WideStage) -> None:
    _, talk = await _start(stage, pace=3, **AS_IT_DOES)
    talk.hear("tell me", "A long story that goes on and on.", seconds=2)
    await stage.until("new_state=speaking")
    talk.begin()
    await asyncio.sleep(0.3)
    talk.end()
    await asyncio.sleep(0.5)
    await stage.end()


@scene
async def interrupted_by_the_program(stage: WideStage) -> None:
    session, talk = await _start(stage, pace=3, **AS_IT_DOES)
    talk.hear("tell me", "A long story that goes on and on.", seconds=2)
    await stage.until("new_state=speaking")
    await session.interrupt()
    await asyncio.sleep(0.5)
    await stage.end()


@scene
async def closed_while_it_speaks(stage: WideStage) -> None:
    _, talk = await _start(stage, pace=3, **AS_IT_DOES)
    talk.hear("tell me", "A long story that goes on and on.", seconds=2)
    await stage.until("new_state=speaking")
    await stage.end()


@scene
async def turns_by_hand(stage: WideStage) -> None:
    session, _ = await _start(stage, turn_handling={"turn_detection": "manual"})
    session.clear_user_turn()
    session.commit_user_turn()
    await stage.until(SPOKEN)
    await stage.end()


@scene
async def handed_over(stage: WideStage) -> None:
    session, talk = await _start(stage, **AS_IT_DOES)
    talk.hear("hello", "Hello to you.")
    await stage.until(SPOKEN)
    session.update_agent(Host(stage, name="second"))
    await stage.until("second enters")
    await session.generate_reply(user_input="hello")
    await stage.end()


@scene
async def an_agent_that_changes(stage: WideStage) -> None:
    agent = Host(stage)
    await _start(stage, agent, **AS_IT_DOES)
    await agent.update_instructions("Something else.")
    await agent.update_tools([])
    context = agent.chat_ctx.copy()
    context.add_message(role="user", content="from elsewhere")
    await agent.update_chat_ctx(context)
    await stage.end()


async def _play(name: str, stage: WideStage) -> list[str]:
    try:
        await asyncio.wait_for(SCENES[name](stage), PATIENCE)
    except asyncio.TimeoutError:
        stage.note("never ended")
    return stage.noted


async def main() -> dict[str, list[str]]:
    """Play all scenes side by side."""
    noted = await asyncio.gather(*(_play(name, WideStage()) for name in SCENES))
    return dict(zip(SCENES, noted, strict=True))


if __name__ == "__main__":
    json.dump(asyncio.run(main()), sys.stdout)
