"""Turns that a VAD finds, interruptions, tools, nodes, outputs: what a session does, and says of it."""

from __future__ import annotations

import asyncio
import json
import sys
import uuid
from collections.abc import AsyncIterator, Callable, Coroutine
from typing import Any

from close_fakes import RATE, ScriptedLLM
from conversations import SPOKEN, Host
from livekit import rtc
from stages import Kind, WideStage

from livekit.agents import (
    Agent,
    APIConnectOptions,
    RunContext,
    StopResponse,
    ToolError,
    function_tool,
    llm,
)

PATIENCE = 20.0
"""Seconds that a scene may take."""

STORY = "A long long story to tell."

Play = Callable[[WideStage], Coroutine[Any, Any, None]]

SCENES: dict[str, Play] = {}


def scene(play: Play) -> Play:
    """Register a scene under the name of its function."""
    SCENES[play.__name__] = play
    return play


# -- turns ------------------------------------------------------------------------------------------


@scene
async def a_turn(stage: WideStage) -> None:
    await stage.start()
    await stage.hear("hello there")
    await stage.until(SPOKEN)
    await stage.end()


@scene
async def a_turn_of_two_sentences(stage: WideStage) -> None:
    await stage.start()
    await stage.hear("hello")
    await asyncio.sleep(0.2)
    await stage.hear("my friend")
    await stage.until(SPOKEN)
    await stage.end()


@scene
async def words_that_come_late(stage: WideStage) -> None:
    await stage.start()
    stage.vad.begin()
    stage.vad.go_on(0.3)
    await asyncio.sleep(0.1)
    stage.vad.end()
    await asyncio.sleep(0.1)
    stage.ears.catch(Kind.FINAL_TRANSCRIPT, "late words")
    await stage.until(SPOKEN)
    await stage.end()


@scene
async def turns_by_hand(stage: WideStage) -> None:
    session = await stage.start(turn_handling={"turn_detection": "manual"})
    await stage.hear("by hand")
    await asyncio.sleep(0.3)
    session.commit_user_turn()
    await stage.until(SPOKEN)
    await stage.hear("forget this")
    await asyncio.sleep(0.2)
    session.clear_user_turn()
    await asyncio.sleep(0.3)
    session.commit_user_turn()
    await asyncio.sleep(0.5)
    await stage.end()


@scene
async def a_reply_prepared_in_advance(stage: WideStage) -> None:
    await stage.start(
        turn_handling={
            "turn_detection": "vad",
            "preemptive_generation": {"enabled": True},
            "endpointing": {"min_delay": 0.6},
        }
    )
    await stage.hear("hello there")
    await stage.until(SPOKEN)
    await stage.end()


@scene
async def a_reply_prepared_in_time(stage: WideStage) -> None:
    await stage.start(
        turn_handling={"turn_detection": "vad", "preemptive_generation": {"enabled": False}}
    )
    await stage.hear("hello there")
    await stage.until(SPOKEN)
    await stage.end()


@scene
async def a_turn_that_is_stopped(stage: WideStage) -> None:
    class Silent(Host):
        async def on_user_turn_completed(self, turn_ctx: Any, new_message: Any) -> None:
            stage.note("told")
            raise StopResponse

    await stage.start(Silent(stage))
    await stage.hear("hello")
    await asyncio.sleep(1.5)
    await stage.end()


@scene
async def a_turn_that_is_changed(stage: WideStage) -> None:
    class Editor(Host):
        async def on_user_turn_completed(self, turn_ctx: Any, new_message: Any) -> None:
            new_message.content = ["changed call:work"]
            turn_ctx.add_message(role="assistant", content="a memo")

    await stage.start(Editor(stage))
    await stage.hear("hello")
    await stage.until(SPOKEN)
    await stage.end()


@scene
async def the_user_is_away(stage: WideStage) -> None:
    await stage.start(user_away_timeout=0.5)
    await asyncio.sleep(1)
    await stage.hear("back")
    await asyncio.sleep(2)
    await stage.end()


@scene
async def deaf_for_a_while(stage: WideStage) -> None:
    session = await stage.start()
    session.input.set_audio_enabled(False)
    await asyncio.sleep(0.2)
    session.input.set_audio_enabled(True)
    await asyncio.sleep(0.2)
    await stage.hear("hello")
    await stage.until(SPOKEN)
    await stage.end()


# -- interruptions ----------------------------------------------------------------------------------


async def _interrupted(stage: WideStage, words: str | None, **turn_handling: Any) -> None:
    session = await stage.start(
        pace=3, seconds=1, turn_handling={"turn_detection": "vad", **turn_handling}
    )
    session.say(STORY)
    await stage.until("new_state=speaking")
    stage.vad.begin()
    await asyncio.sleep(0.05)
    for seconds in (0.3, 0.6, 0.9):
        stage.vad.go_on(seconds)
        await asyncio.sleep(0.1)
    if words is not None:
        stage.ears.catch(Kind.FINAL_TRANSCRIPT, words)
    await asyncio.sleep(0.2)
    stage.vad.end()
    await stage.until(SPOKEN, 1 if words is None else 2)
    await stage.end()


@scene
async def a_noise(stage: WideStage) -> None:
    await _interrupted(stage, None)


@scene
async def a_noise_that_ends_the_speech(stage: WideStage) -> None:
    await _interrupted(stage, None, interruption={"resume_false_interruption": False})


@scene
async def words_over_the_agent(stage: WideStage) -> None:
    await _interrupted(stage, "hey you")


@scene
async def a_noise_too_short_to_matter(stage: WideStage) -> None:
    await _interrupted(stage, None, interruption={"min_duration": 2.0})


@scene
async def too_few_words_at_first(stage: WideStage) -> None:
    session = await stage.start(
        pace=3,
        seconds=1,
        turn_handling={"turn_detection": "vad", "interruption": {"min_words": 2}},
    )
    session.say(STORY)
    await stage.until("new_state=speaking")
    stage.vad.begin()
    stage.vad.go_on(0.7)
    stage.ears.catch(Kind.INTERIM_TRANSCRIPT, "yes")
    await asyncio.sleep(0.2)
    stage.ears.catch(Kind.INTERIM_TRANSCRIPT, "yes but wait")
    await asyncio.sleep(0.1)
    stage.vad.go_on(0.9)
    await asyncio.sleep(0.1)
    stage.ears.catch(Kind.FINAL_TRANSCRIPT, "yes but wait")
    await asyncio.sleep(0.05)
    stage.vad.end()
    await stage.until(SPOKEN, 2)
    await stage.end()


@scene
async def not_to_be_interrupted(stage: WideStage) -> None:
    session = await stage.start(pace=3, seconds=1)
    speech = session.say(STORY, allow_interruptions=False)
    await stage.until("new_state=speaking")
    stage.vad.begin()
    await asyncio.sleep(0.05)
    stage.vad.go_on(0.6)
    await asyncio.sleep(0.2)
    stage.ears.catch(Kind.FINAL_TRANSCRIPT, "unheard")
    await asyncio.sleep(0.05)
    stage.vad.end()
    try:
        speech.interrupt()
    except RuntimeError:
        stage.note("refused")
    await speech
    await asyncio.sleep(1)
    await stage.end()


@scene
async def all_speeches_interrupted(stage: WideStage) -> None:
    session = await stage.start(pace=5, seconds=1)
    speeches = [session.say("One two three."), session.say("Four.")]
    await stage.until("new_state=speaking")
    await session.interrupt()
    stage.note(f"interrupted: {[speech.interrupted for speech in speeches]}")
    await stage.until(SPOKEN)
    await stage.end()


# -- tools ------------------------------------------------------------------------------------------


class Craftsman(Host):
    """Has tools of all kinds."""

    @function_tool
    async def nothing(self) -> None:
        """Give nothing."""

    @function_tool
    async def failing(self) -> None:
        """Fail with words for the model."""
        raise ToolError("that can't be done")

    @function_tool
    async def stopping(self) -> None:
        """Want no reply."""
        raise StopResponse

    @function_tool
    async def number(self) -> int:
        """Give a number."""
        return 5

    @function_tool
    async def thing(self) -> object:
        """Give what no model understands."""
        return object()

    @function_tool
    async def demanding(self, amount: int) -> int:
        """Want an argument."""
        return amount


@scene
async def tools_of_all_kinds(stage: WideStage) -> None:
    session = await stage.start(Craftsman(stage))
    for name in ("nothing", "failing", "stopping", "number", "thing", "unknown"):
        await session.generate_reply(user_input=f"call:{name}")
        await asyncio.sleep(0.3)
    await session.generate_reply(user_input="call:nothing call:number")
    await stage.end()


@scene
async def a_tool_without_its_argument(stage: WideStage) -> None:
    session = await stage.start(Craftsman(stage))
    await session.generate_reply(user_input="call:demanding")
    await stage.end()


@scene
async def a_tool_that_hands_over(stage: WideStage) -> None:
    class Second(Host):
        async def on_enter(self) -> None:
            stage.note(f"second knows: {','.join(item.type for item in self.chat_ctx.items)}")
            await self.session.generate_reply(instructions="Greet.")

    async def hand_over() -> tuple[Agent, str]:
        return Second(stage, name="second"), "over to you"

    session = await stage.start(Host(stage, tool=hand_over))
    await session.generate_reply(user_input="call:work")
    await stage.until(SPOKEN)
    await stage.end()


@scene
async def words_from_a_tool(stage: WideStage) -> None:
    class Talker(Host):
        @function_tool
        async def talk(self, context: RunContext[Any]) -> str:
            """Say something meanwhile."""
            context.session.say("One moment.")
            await context.wait_for_playout()
            stage.note(f"in {context.function_call.name}")
            return "ok"

    session = await stage.start(Talker(stage))
    await session.generate_reply(user_input="call:talk")
    await stage.until(SPOKEN, 2)
    await stage.end()


class Caller(ScriptedLLM):
    """Says something, and calls a tool, as long as it may."""

    def __init__(self, stage: WideStage, words: str, rounds: int) -> None:
        super().__init__()
        self._stage, self._words, self._rounds = stage, words, rounds

    def chat(self, *, chat_ctx: Any, tools: Any = None, **options: Any) -> Any:
        choice = options.get("tool_choice")
        self._stage.note(
            f"asked with {len(tools or [])} tools, "
            f"{choice if isinstance(choice, str) else 'free'} choice, "
            f"{[item.type for item in chat_ctx.items if item.type != 'agent_config_update']}"
        )
        if not self._rounds or choice == "none":
            return super().chat(chat_ctx=chat_ctx, tools=tools, **options)
        self._rounds -= 1
        return _Calling(
            self, self._words, chat_ctx=chat_ctx, tools=tools, conn_options=APIConnectOptions()
        )


class _Calling(llm.LLMStream):
    def __init__(self, model: Caller, words: str, **options: Any) -> None:
        super().__init__(model, **options)
        self._words = words

    async def _run(self) -> None:
        call = llm.FunctionToolCall(name="work", arguments="{}", call_id=uuid.uuid4().hex)
        for delta in (
            *(llm.ChoiceDelta(role="assistant", content=word) for word in self._words.split(" ")),
            llm.ChoiceDelta(role="assistant", tool_calls=[call]),
        ):
            self._event_ch.send_nowait(llm.ChatChunk(id="reply", delta=delta))


@scene
async def words_before_a_tool(stage: WideStage) -> None:
    stage.model = Caller(stage, "Let me see.", 1)
    session = await stage.start()
    await session.generate_reply(user_input="go")
    await stage.end()


@scene
async def too_many_rounds_of_tools(stage: WideStage) -> None:
    stage.model = Caller(stage, "", 9)
    session = await stage.start(max_tool_steps=2)
    speech = session.generate_reply(user_input="go")
    await speech
    stage.note(f"steps: {speech.num_steps}")
    await stage.end()


# -- what an agent says -----------------------------------------------------------------------------


@scene
async def ways_to_say(stage: WideStage) -> None:
    async def words() -> AsyncIterator[str]:
        for word in ("one ", "two."):
            yield word

    async def sound() -> AsyncIterator[rtc.AudioFrame]:
        for _ in range(3):
            yield rtc.AudioFrame(bytes(2 * RATE // 10), RATE, 1, RATE // 10)

    session = await stage.start()
    await session.say(words())
    await session.say("With audio.", audio=sound())
    await session.say("Not kept.", add_to_chat_ctx=False)
    await session.say("")
    await session.say("  ")
    await stage.end()


@scene
async def nodes_of_ones_own(stage: WideStage) -> None:
    class Own(Host):
        async def llm_node(self, chat_ctx: Any, tools: Any, model_settings: Any) -> Any:
            asked = chat_ctx.items[-1].text_content
            if asked == "nothing":
                return None
            if asked == "text":
                return "A plain text."

            async def chunks() -> AsyncIterator[Any]:
                yield "From "
                yield "a node, "
                delta = llm.ChoiceDelta(role="assistant", content="in chunks.")
                yield llm.ChatChunk(id="chunk", delta=delta)

            return chunks()

        async def transcription_node(self, text: Any, model_settings: Any) -> Any:
            async for piece in text:
                yield piece.upper() if isinstance(piece, str) else piece

    session = await stage.start(Own(stage))
    for asked in ("nothing", "text", "chunks"):
        await session.generate_reply(user_input=asked)
    await stage.end()


@scene
async def a_voice_without_sound(stage: WideStage) -> None:
    class Mute(Host):
        async def tts_node(self, text: Any, model_settings: Any) -> Any:
            async for _ in text:
                pass
            return
            yield

    session = await stage.start(Mute(stage))
    await session.generate_reply(user_input="hello")
    await stage.end()


@scene
async def outputs_switched_off(stage: WideStage) -> None:
    session = await stage.start()
    session.output.set_audio_enabled(False)
    await session.generate_reply(user_input="hello")
    await session.say("Only written.")
    session.output.set_audio_enabled(True)
    await session.say("Both.")
    session.output.set_transcription_enabled(False)
    await session.say("Only spoken.")
    await stage.end()


@scene
async def what_a_speech_tells(stage: WideStage) -> None:
    def state(speech: Any) -> str:
        return (
            f"done={speech.done()} interrupted={speech.interrupted} steps={speech.num_steps} "
            f"interruptible={speech.allow_interruptions} "
            f"items={[item.type for item in speech.chat_items]}"
        )

    session = await stage.start(pace=1)
    speech = session.say("One.")
    stage.note(f"speech: {state(speech)}")
    speech.add_done_callback(lambda _: stage.note("callback"))
    await speech.wait_for_playout()
    stage.note(f"speech: {state(speech)}")
    reply = session.generate_reply(user_input="x", instructions="Be kind.", tool_choice="none")
    await reply
    stage.note(f"speech: {state(reply)}")
    reply.interrupt()
    stage.note(f"speech: {state(reply)}")
    await stage.end()


# -- agents -----------------------------------------------------------------------------------------


@scene
async def another_agent(stage: WideStage) -> None:
    session = await stage.start()
    session.update_agent(Host(stage, name="second"))
    await stage.until("second enters")
    await session.generate_reply(user_input="hello")
    await stage.end()


@scene
async def an_agent_that_changes(stage: WideStage) -> None:
    agent = Host(stage)
    session = await stage.start(agent)
    await agent.update_instructions("Something else.")
    stage.note(f"instructions: {agent.instructions}")
    await agent.update_tools([])
    stage.note(f"tools: {len(agent.tools)}")
    await session.generate_reply(user_input="call:work")
    context = agent.chat_ctx.copy()
    context.add_message(role="user", content="from elsewhere")
    await agent.update_chat_ctx(context)
    stage.note(f"context: {[item.type for item in agent.chat_ctx.items]}")
    try:
        agent.chat_ctx.add_message(role="user", content="written to a view")
    except RuntimeError:
        stage.note("refused")
    await stage.end()


@scene
async def under_test(stage: WideStage) -> None:
    class Asker(Host):
        @function_tool
        async def wrap(self) -> str:
            """Work."""
            return "wrapped"

    session = await stage.start(Asker(stage))
    for asked in ("hello", "call:wrap", "call:wrap call:work"):
        result = await session.run(user_input=asked)
        stage.note(f"run: {[event.type for event in result.events]}")
    result.expect.contains_function_call(name="wrap")
    result.expect.contains_function_call_output(output="wrapped")
    result.expect[-1].is_message(role="assistant")
    try:
        result.expect.next_event().is_message()
    except AssertionError:
        stage.note("expected otherwise")
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
