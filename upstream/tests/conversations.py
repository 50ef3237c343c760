"""Ordinary conversations, recorded as sequences of what a user of a session can notice.

    python conversations.py > before.json

The same must come out before and after the change.
"""

from __future__ import annotations

import asyncio
import json
import logging
import re
import sys
from collections.abc import Callable, Coroutine
from typing import Any, get_args

from close_fakes import Behave, Ears, Microphone, ScriptedLLM, Speaker, Voice, nothing

from livekit.agents import (
    Agent,
    AgentSession,
    AgentTask,
    APIConnectionError,
    APIError,
    StopResponse,
    function_tool,
)
from livekit.agents.voice.events import EventTypes

Play = Callable[["Stage"], Coroutine[Any, Any, None]]

CONVERSATIONS: dict[str, Play] = {}

PATIENCE = 20.0
"""Seconds that a conversation may take."""

SPOKEN = "agent_state_changed old_state=speaking new_state=listening"

FIELDS = (
    "old_state",
    "new_state",
    "source",
    "user_initiated",
    "transcript",
    "is_final",
    "reason",
    "resumed",
)


def conversation(play: Play) -> Play:
    """Register a conversation under the name of its function."""
    CONVERSATIONS[play.__name__] = play
    return play


class Host(Agent):
    """Notes its hooks; tools and hooks do what a conversation wants."""

    def __init__(
        self,
        stage: Stage,
        *,
        name: str = "host",
        at_enter: Behave = nothing,
        at_exit: Behave = nothing,
        at_turn: Behave = nothing,
        tool: Callable[[], Any] = nothing,
    ) -> None:
        super().__init__(instructions=f"You are the {name}.", id=name)
        self._stage, self._tool = stage, tool
        self._at_enter, self._at_exit, self._at_turn = at_enter, at_exit, at_turn

    async def on_enter(self) -> None:
        self._stage.note(f"{self.id} enters")
        await self._at_enter()

    async def on_exit(self) -> None:
        self._stage.note(f"{self.id} exits")
        await self._at_exit()
        self._stage.note(f"{self.id} has exited")

    async def on_user_turn_completed(self, turn_ctx: Any, new_message: Any) -> None:
        self._stage.note(f"{self.id} is told: {new_message.text_content}")
        await self._at_turn()

    @function_tool
    async def work(self) -> Any:
        """Do something."""
        self._stage.note(f"{self.id} works")
        return await self._tool() or "done"

    @function_tool
    async def more_work(self) -> str:
        """Do something else."""
        self._stage.note(f"{self.id} works more")
        await asyncio.sleep(0.05)
        return "done too"


class Ask(AgentTask[str]):
    """Says a question and is content with any answer."""

    def __init__(self, stage: Stage, answer: str = "yes") -> None:
        super().__init__(instructions="Ask.")
        self._stage, self._answer = stage, answer

    async def on_enter(self) -> None:
        self._stage.note("the question begins")
        await self.session.say("Really?")
        self.complete(self._answer)

    async def on_exit(self) -> None:
        self._stage.note("the question ends")


class NotingSpeaker(Speaker):
    """Notes what it is asked to do."""

    def __init__(self, stage: Stage, **options: Any) -> None:
        super().__init__(**options)
        self._stage = stage
        self._frames = 0

    async def capture_frame(self, frame: Any) -> None:
        self._frames += 1
        await super().capture_frame(frame)

    def flush(self) -> None:
        self._stage.note("speaker: flush")
        super().flush()

    def clear_buffer(self) -> None:
        self._stage.note("speaker: clear")
        super().clear_buffer()

    def on_attached(self) -> None:
        self._stage.note("speaker: attached")

    def on_detached(self) -> None:
        self._stage.note("speaker: detached")


class Stage:
    """A session, and what is noticed of it."""

    def __init__(self) -> None:
        self.noted: list[str] = []
        self._something = asyncio.Event()
        self.ears = Ears()
        self.model = ScriptedLLM()

    def note(self, what: str) -> None:
        """Something was noticed."""
        self.noted.append(what)
        self._something.set()

    async def until(self, what: str, times: int = 1, *, settle: float = 0.2) -> None:
        """Until this was noticed so often, and things have had a while to settle."""
        while sum(what in line for line in self.noted) < times:
            self._something.clear()
            await self._something.wait()
        await asyncio.sleep(settle)

    async def start(self, agent: Agent | None = None, *, pace: float = 0, **options: Any) -> Any:
        """Start the session."""
        self.session: AgentSession[Any] = AgentSession(
            stt=self.ears,
            llm=self.model,
            tts=Voice(),
            vad=None,
            turn_handling={"turn_detection": "stt"},
            user_away_timeout=None,
            **options,
        )
        for event in get_args(EventTypes):
            self.session.on(event, self._noticer(event))
        self.attach(pace)
        await self.session.start(agent or Host(self))
        await asyncio.sleep(0.1)
        return self.session

    def attach(self, pace: float = 0) -> None:
        """Give the session ears and a mouth."""
        self.session.input.audio = Microphone()
        self.session.output.audio = NotingSpeaker(self, pace=pace)

    async def end(self) -> None:
        """Close, and note how the session stands then."""
        await self.session.aclose()
        self.stand()

    def stand(self) -> None:
        """Note how the session stands."""
        session = self.session
        self.note(f"states: {session.agent_state}, {session.user_state}")
        for item in session.history.items:
            self.note(f"history: {_item(item)}")
        self.note(f"listening: {len(self.ears.open)}")

    def _noticer(self, event: str) -> Callable[[Any], None]:
        def notice(data: Any) -> None:
            fields = {field: getattr(data, field, None) for field in FIELDS}
            parts = [f"{f}={_plain(v)}" for f, v in fields.items() if v is not None]
            if hasattr(data, "item"):
                parts.append(_item(data.item))
            if hasattr(data, "function_calls"):
                parts += [call.name for call in data.function_calls]
                parts += [str(out and out.output) for out in data.function_call_outputs]
            if (error := getattr(data, "error", None)) is not None:
                parts.append(f"{type(error).__name__} {getattr(error, 'recoverable', '')}")
            if event == "metrics_collected":
                parts = [type(data.metrics).__name__]
            if event != "session_usage_updated":
                self.note(" ".join([event, *parts]))

        return notice


def _plain(value: Any) -> Any:
    return value if isinstance(value, (str, bool)) else type(value).__name__


def _item(item: Any) -> str:
    parts = [item.type]
    for field in ("role", "text_content", "interrupted", "name", "output", "is_error"):
        if getattr(item, field, None) not in (None, ""):
            parts.append(f"{field}={getattr(item, field)}")
    for field in ("old_agent_id", "new_agent_id"):
        if getattr(item, field, None) is not None:
            parts.append(f"{field}={getattr(item, field)}")
    return " ".join(parts)


@conversation
async def saying(stage: Stage) -> None:
    session = await stage.start()
    await session.say("One.")
    await session.say("Two.")
    await stage.end()


@conversation
async def nothing_at_all(stage: Stage) -> None:
    await stage.start()
    await stage.end()
    await stage.end()


@conversation
async def replying(stage: Stage) -> None:
    session = await stage.start()
    await session.generate_reply(user_input="hello")
    await session.generate_reply(user_input="again")
    await stage.end()


@conversation
async def using_a_tool(stage: Stage) -> None:
    session = await stage.start()
    await session.generate_reply(user_input="call:work")
    await stage.end()


@conversation
async def using_two_tools(stage: Stage) -> None:
    session = await stage.start()
    await session.generate_reply(user_input="call:work call:more_work")
    await stage.end()


@conversation
async def using_a_tool_that_fails(stage: Stage) -> None:
    async def fail() -> None:
        raise ValueError("out of order")

    session = await stage.start(Host(stage, tool=fail))
    await session.generate_reply(user_input="call:work")
    await stage.end()


@conversation
async def interrupted_by_the_program(stage: Stage) -> None:
    session = await stage.start(pace=20)
    speech = session.say("A long story, which nobody wants to hear to its end.")
    await stage.until("new_state=speaking")
    await session.interrupt()
    await speech
    await session.say("Well.")
    await stage.end()


@conversation
async def interrupted_in_the_queue(stage: Stage) -> None:
    session = await stage.start(pace=3)
    speeches = [session.say(word) for word in ("One.", "Two.", "Three.")]
    speeches[1].interrupt()
    for speech in speeches:
        await speech
    await stage.end()


@conversation
async def closed_while_speaking(stage: Stage) -> None:
    session = await stage.start(pace=20)
    session.say("A long story.")
    await stage.until("new_state=speaking")
    await stage.end()


@conversation
async def closed_while_queued(stage: Stage) -> None:
    session = await stage.start(pace=20)
    session.say("A long story.")
    session.say("And another one.")
    await stage.until("new_state=speaking")
    await stage.end()


@conversation
async def taking_turns(stage: Stage) -> None:
    await stage.start()
    for times, words in enumerate(("hello", "and then"), 1):
        stage.ears.hear(words)
        await stage.until(SPOKEN, times)
    await stage.end()


@conversation
async def a_turn_that_is_stopped(stage: Stage) -> None:
    async def stop() -> None:
        raise StopResponse

    await stage.start(Host(stage, at_turn=stop))
    stage.ears.hear("hello")
    await stage.until("is told")
    await stage.end()


@conversation
async def a_last_sentence_before_the_close(stage: Stage) -> None:
    await stage.start()
    stage.ears.hear("one more thing")
    await stage.until("user_state_changed old_state=speaking", settle=0)
    await stage.end()


@conversation
async def committing_by_hand(stage: Stage) -> None:
    session = await stage.start()
    stage.ears.hear("by hand")
    await stage.until("user_state_changed old_state=speaking", settle=0)
    session.commit_user_turn()
    await stage.until(SPOKEN)
    await stage.end()


@conversation
async def handed_over(stage: Stage) -> None:
    async def goodbye() -> None:
        await stage.session.say("Goodbye.")

    async def hello() -> None:
        await stage.session.say("Hello.")

    session = await stage.start(Host(stage, at_exit=goodbye))
    session.update_agent(Host(stage, name="second", at_enter=hello))
    await stage.until(SPOKEN, 2)
    await session.generate_reply(user_input="call:work")
    await stage.end()


@conversation
async def handed_over_by_a_tool(stage: Stage) -> None:
    async def hand_over() -> tuple[Agent, str]:
        return Host(stage, name="second"), "over to you"

    session = await stage.start(Host(stage, tool=hand_over))
    session.generate_reply(user_input="call:work")
    await stage.until("second enters")
    await session.generate_reply(user_input="hello")
    await stage.end()


@conversation
async def a_question_in_a_tool(stage: Stage) -> None:
    async def ask() -> str:
        return await Ask(stage)

    session = await stage.start(Host(stage, tool=ask))
    await session.generate_reply(user_input="call:work")
    await session.generate_reply(user_input="thanks")
    await stage.end()


@conversation
async def a_question_at_the_begin(stage: Stage) -> None:
    async def ask() -> None:
        stage.note(f"answer: {await Ask(stage)}")

    session = await stage.start(Host(stage, at_enter=ask))
    await stage.until("answer: yes")
    await session.generate_reply(user_input="hello")
    await stage.end()


@conversation
async def shut_down_with_a_goodbye(stage: Stage) -> None:
    async def goodbye() -> None:
        await stage.session.say("Goodbye.")

    closed = asyncio.Event()
    session = await stage.start(Host(stage, at_exit=goodbye), pace=3)
    session.on("close", lambda _: closed.set())
    session.say("A last word.")
    session.shutdown()
    await closed.wait()
    await asyncio.sleep(0.1)
    stage.stand()


@conversation
async def shut_down_and_waited_for(stage: Stage) -> None:
    session = await stage.start(pace=3)
    session.say("A last word.")
    session.shutdown()
    await asyncio.sleep(0.1)
    await stage.end()


@conversation
async def shut_down_by_a_tool(stage: Stage) -> None:
    async def leave() -> str:
        stage.session.shutdown()
        return "leaving"

    closed = asyncio.Event()
    session = await stage.start(Host(stage, tool=leave))
    session.on("close", lambda _: closed.set())
    session.generate_reply(user_input="call:work")
    await closed.wait()
    await asyncio.sleep(0.1)
    stage.stand()


@conversation
async def shut_down_at_once(stage: Stage) -> None:
    closed = asyncio.Event()
    session = await stage.start(pace=20)
    session.on("close", lambda _: closed.set())
    session.say("A long story.")
    await stage.until("new_state=speaking")
    session.shutdown(drain=False)
    await closed.wait()
    await asyncio.sleep(0.1)
    stage.stand()


@conversation
async def a_tool_that_ends_during_the_close(stage: Stage) -> None:
    session = await stage.start(Host(stage, tool=lambda: asyncio.sleep(1)))
    session.generate_reply(user_input="call:work")
    await stage.until("host works")
    await stage.end()


@conversation
async def a_dropped_connection(stage: Stage) -> None:
    await stage.start()
    stage.ears.failure.set_result(APIConnectionError("dropped"))
    await stage.until("error source=Ears")
    while stage.ears.connected < 2:  # noqa: ASYNC110
        await asyncio.sleep(0.02)
    stage.ears.hear("still there")
    await stage.until(SPOKEN)
    await stage.end()


@conversation
async def a_model_that_fails(stage: Stage) -> None:
    async def fail() -> None:
        raise APIError("the model is gone", retryable=False)

    closed = asyncio.Event()
    session = await stage.start()
    session.on("close", lambda _: closed.set())
    stage.model.before = fail
    for _ in range(4):
        await session.generate_reply(user_input="hello")
    await closed.wait()
    await asyncio.sleep(0.1)
    stage.stand()


@conversation
async def started_again(stage: Stage) -> None:
    session = await stage.start()
    await session.generate_reply(user_input="hello")
    await stage.end()
    stage.attach()
    await session.start(Host(stage, name="second"))
    await asyncio.sleep(0.1)
    await session.generate_reply(user_input="hello again")
    await stage.end()


@conversation
async def under_test(stage: Stage) -> None:
    session = await stage.start()
    result = await session.run(user_input="call:work")
    for event in result.events:
        stage.note(f"run: {event.type} {_item(event.item)}")
    await stage.end()


class _Warnings(logging.Handler):
    def __init__(self) -> None:
        super().__init__(logging.WARNING)
        self.lines: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.lines.append(f"{record.levelname} {re.sub(r'[0-9.]+', 'N', record.getMessage())}")


async def _play(name: str, stage: Stage) -> None:
    try:
        await asyncio.wait_for(CONVERSATIONS[name](stage), PATIENCE)
    except asyncio.TimeoutError:
        stage.note("never ended")


async def record(only: list[str]) -> dict[str, list[str]]:
    """Play conversations side by side; what was noticed of each, and what was logged of all."""
    warnings = _Warnings()
    logging.getLogger("livekit.agents").addHandler(warnings)
    stages = {name: Stage() for name in CONVERSATIONS if not only or name in only}
    await asyncio.gather(*(_play(name, stage) for name, stage in stages.items()))
    noted = {name: stage.noted for name, stage in stages.items()}
    return {**noted, "warnings and errors": sorted(warnings.lines)}


if __name__ == "__main__":
    json.dump(asyncio.run(record(sys.argv[1:])), sys.stdout, indent=1)
