"""Ways in which a session may refuse to close, on public API only, for any livekit-agents.

    python benchmarks/hangs.py NAME [COUNT] [PATIENCE]

starts COUNT sessions, gets them stuck in the way NAME, asks all of them to close at once, waits
PATIENCE seconds at most, and prints one JSON object of figures. It looks at nothing but what any
user of the package sees: events, calls that return, streams that the fake models still have open.
"""

from __future__ import annotations

import asyncio
import json
import logging
import os
import statistics
import sys
import threading
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Any

from scenarios import fakes

PATIENCE = 12.0
SETTLE = 1.0
"""Seconds between the last start and the close, in which everything gets stuck."""


@dataclass
class Stage:
    """What the parts of all sessions of a run share: where they get stuck, and how."""

    place: str
    how: str = "sleeps"
    streams: set[Any] = field(default_factory=set)
    """Streams and realtime sessions of models that have begun and not ended."""
    over: bool = False

    async def at(self, place: str) -> None:
        """Code of the user or of a plugin is at `place`: here it may get stuck."""
        if place != self.place or self.over:
            return
        if self.how == "raises":
            raise RuntimeError("broken")
        if self.how == "cancels itself":
            raise asyncio.CancelledError
        if self.how == "in a thread":
            await asyncio.to_thread(threading.Event().wait)
        while True:
            try:
                await asyncio.sleep(3600)
            except asyncio.CancelledError:
                if self.how != "ignores":
                    raise

    async def streaming(self, stream: Any, place: str, run: Awaitable[None]) -> None:
        """A provider's `_run`, counted while it lasts."""
        self.streams.add(stream)
        try:
            await self.at(place)
            await run
        finally:
            if asyncio.iscoroutine(run):
                run.close()
            try:
                await self.at(f"{place} cleanup")
            finally:
                self.streams.discard(stream)


class Parts:
    """Fake models, a sink and agents that get stuck at the place of the stage."""

    def __init__(self, stage: Stage) -> None:
        from livekit.agents import Agent, AgentTask, llm, stt

        kit = fakes()
        self.stage, self.kit = stage, kit

        class LLMStream(kit.LLMStream):
            async def _run(self) -> None:
                await stage.streaming(self, "llm", super()._run())

        class LLM(kit.LLM):
            def chat(self, *, chat_ctx: Any, tools: Any = None, conn_options: Any, **_: Any) -> Any:
                return LLMStream(
                    self, chat_ctx=chat_ctx, tools=tools or [], conn_options=conn_options
                )

        class TTSStream(kit.TTSStream):
            async def _run(self, output_emitter: Any) -> None:
                await stage.streaming(self, "tts", super()._run(output_emitter))

            async def aclose(self) -> None:
                await stage.at("tts aclose")
                await super().aclose()

        class TTS(kit.TTS):
            def stream(self, *, conn_options: Any = None) -> Any:
                return TTSStream(tts=self, conn_options=conn_options)

        class STTStream(kit.STTStream):
            async def _run(self) -> None:
                self.talk()
                await stage.streaming(self, "stt", super()._run())

            def talk(self) -> None:
                """Hear what the scenario wants the user to have said."""

                def send(kind: Any, *text: str) -> None:
                    said = [stt.SpeechData(language="en", text=text) for text in text]
                    self._event_ch.send_nowait(stt.SpeechEvent(type=kind, alternatives=said))

                kinds = stt.SpeechEventType
                if stage.place in ("turn hook", "mid-utterance"):
                    send(kinds.START_OF_SPEECH)
                    send(kinds.INTERIM_TRANSCRIPT, "good")
                if stage.place == "turn hook":
                    send(kinds.FINAL_TRANSCRIPT, "good evening")
                    send(kinds.END_OF_SPEECH)

            async def aclose(self) -> None:
                await stage.at("stt aclose")
                await super().aclose()

        class STT(kit.STT):
            def stream(self, *, conn_options: Any = None, **_: Any) -> Any:
                return STTStream(stt=self, conn_options=conn_options)

        class Out(kit.Out):
            async def capture_frame(self, frame: Any) -> None:
                await super().capture_frame(frame)
                await stage.at("sink")

            def flush(self) -> None:
                if stage.place == "playout" and not stage.over:
                    self._open = False  # so that nothing reports the end
                super().flush()

        class Tools(llm.Toolset):
            async def setup(self) -> Any:
                await super().setup()
                await stage.at("toolset setup")
                return self

            async def aclose(self) -> None:
                await stage.at("toolset aclose")
                await super().aclose()

        class Inner(AgentTask[str]):
            def __init__(self) -> None:
                super().__init__(instructions="Ask.")

            async def on_enter(self) -> None:
                if stage.place == "nested task":
                    await Innermost()
                await stage.at("inline task")

        class Innermost(AgentTask[str]):
            def __init__(self) -> None:
                super().__init__(instructions="Ask more.")

        class Main(Agent):
            def __init__(self) -> None:
                super().__init__(instructions="Be brief.", tools=[Tools(id="tools")])

            async def on_enter(self) -> None:
                await stage.at("on_enter")

            async def on_exit(self) -> None:
                if stage.place == "mid-utterance":
                    await self.session.say("goodbye")
                if stage.place == "on_exit closes":
                    await self.session.aclose()
                await stage.at("on_exit")

            async def on_user_turn_completed(self, turn_ctx: Any, new_message: Any) -> None:
                await stage.at("turn hook")

            async def stt_node(self, audio: Any, model_settings: Any) -> Any:
                try:
                    async for event in Agent.default.stt_node(self, audio, model_settings):
                        yield event
                finally:
                    await stage.at("stt node cleanup")

            @llm.function_tool
            async def wedge(self) -> str:
                """Looks something up."""
                if stage.place in ("inline task", "nested task"):
                    return await Inner()
                if stage.place == "tool closes":
                    await self.session.aclose()
                if stage.place == "tool drains":
                    await self.session.drain()
                await stage.at("tool")
                return "done"

        self.LLM, self.TTS, self.STT, self.Out, self.Main = LLM, TTS, STT, Out, Main
        self.Realtime = realtime_model(stage)

    def session(self) -> Any:
        from livekit.agents import AgentSession

        kit = self.kit
        if self.stage.place.startswith("realtime"):
            session: Any = AgentSession(llm=self.Realtime(), vad=None)
        else:
            session = AgentSession(
                stt=self.STT(), llm=self.LLM(), tts=self.TTS(), vad=None, turn_detection="stt"
            )
        session.input.audio, session.output.audio = kit.Mic(), self.Out()
        return session


def realtime_model(stage: Stage) -> Any:
    """A realtime model that never answers, and may not close."""
    from livekit.agents import llm

    class Session(llm.RealtimeSession):  # type: ignore[type-arg]
        def __init__(self, model: Any) -> None:
            super().__init__(model)
            stage.streams.add(self)

        @property
        def chat_ctx(self) -> Any:
            return llm.ChatContext.empty()

        @property
        def tools(self) -> Any:
            return llm.ToolContext.empty()

        def generate_reply(self, **_: Any) -> Any:
            return asyncio.get_running_loop().create_future()

        async def aclose(self) -> None:
            try:
                await stage.at("realtime aclose")
            finally:
                stage.streams.discard(self)

        async def update_instructions(self, instructions: str) -> None: ...
        async def update_chat_ctx(self, chat_ctx: Any) -> None: ...
        async def update_tools(self, tools: Any) -> None: ...
        def update_options(self, **_: Any) -> None: ...
        def push_audio(self, frame: Any) -> None: ...
        def push_video(self, frame: Any) -> None: ...
        def commit_audio(self) -> None: ...
        def clear_audio(self) -> None: ...
        def interrupt(self) -> None: ...
        def truncate(self, **_: Any) -> None: ...

    class Model(llm.RealtimeModel):
        def __init__(self) -> None:
            super().__init__(
                capabilities=llm.RealtimeCapabilities(
                    message_truncation=False,
                    turn_detection=True,
                    user_transcription=False,
                    auto_tool_reply_generation=False,
                    audio_output=True,
                    manual_function_calls=False,
                )
            )

        def session(self, **_: Any) -> Any:
            return Session(self)

        async def aclose(self) -> None: ...

    return Model


# -- what happens before the close -------------------------------------------------------------------


async def nothing(session: Any) -> None:
    """A session that only listens."""


async def hello(session: Any) -> None:
    session.generate_reply(user_input="hello")


async def hello_and_answer(session: Any) -> None:
    await session.generate_reply(user_input="hello")


async def tool(session: Any) -> None:
    session.generate_reply(user_input="wedge")


async def uninterruptible(session: Any) -> None:
    session.say("please listen to the end", allow_interruptions=False)


async def run(session: Any) -> None:
    session.run(user_input="wedge")


async def handoff(session: Any) -> None:
    from livekit.agents import Agent

    session.update_agent(Agent(instructions="Go on."))


async def queue(session: Any) -> None:
    session.generate_reply(user_input="hello")
    for _ in range(3):
        session.say("and another thing")


async def handlers_that_raise(session: Any) -> None:
    def broken(_: Any) -> None:
        raise TypeError("broken")

    session.on("close", broken)


# -- who closes ------------------------------------------------------------------------------------


async def aclose(session: Any) -> None:
    await session.aclose()


async def shutdown(session: Any) -> None:
    session.shutdown(drain=False)


async def changes_its_mind(session: Any) -> None:
    session.shutdown()
    await asyncio.sleep(0.5)
    session.shutdown(drain=False)


async def drains_and_waits(session: Any) -> None:
    session.shutdown()
    await session.aclose()


async def gives_up_and_tries_again(session: Any) -> None:
    try:
        await asyncio.wait_for(session.aclose(), 1.0)
    except asyncio.TimeoutError:
        pass
    await session.aclose()


async def ten_at_once(session: Any) -> None:
    closing = [asyncio.ensure_future(session.aclose()) for _ in range(9)]
    session.shutdown(drain=False)
    await asyncio.wait(closing)


async def itself(session: Any) -> None:
    """The tool that runs closes the session."""


@dataclass(frozen=True)
class Hang:
    """One way: what is stuck where, what happened before, who closes."""

    title: str
    place: str = ""
    how: str = "sleeps"
    before: Callable[[Any], Awaitable[None]] = nothing
    closer: Callable[[Any], Awaitable[None]] = aclose


HANGS = {
    "silent": Hang("nothing: it only listens"),
    "clean": Hang("nothing: after an answer", before=hello_and_answer),
    "tool": Hang("a tool sleeps", "tool", before=tool),
    "tool_ignores": Hang("a tool ignores cancellation", "tool", "ignores", tool),
    "tool_thread": Hang("a tool waits for a thread", "tool", "in a thread", tool),
    "tool_closes": Hang("a tool calls aclose()", "tool closes", before=tool, closer=itself),
    "tool_drains": Hang("a tool calls drain()", "tool drains", before=tool),
    "on_enter": Hang("on_enter sleeps", "on_enter"),
    "on_exit": Hang("on_exit sleeps", "on_exit"),
    "on_exit_ignores": Hang("on_exit ignores cancellation", "on_exit", "ignores"),
    "on_exit_cancels": Hang("on_exit raises CancelledError", "on_exit", "cancels itself"),
    "on_exit_closes": Hang("on_exit calls aclose()", "on_exit closes"),
    "turn_hook": Hang("on_user_turn_completed sleeps", "turn hook"),
    "llm": Hang("the LLM goes silent", "llm", before=hello),
    "llm_ignores": Hang("the LLM ignores cancellation", "llm", "ignores", hello),
    "tts": Hang("the TTS goes silent", "tts", before=hello),
    "tts_aclose": Hang("a TTS stream's aclose() hangs", "tts aclose", before=hello),
    "tts_ignores": Hang("the TTS ignores cancellation", "tts", "ignores", hello),
    "sink": Hang("the sink takes no frames", "sink", before=hello),
    "playout": Hang("playback never finishes", "playout", before=hello),
    "uninterruptible": Hang(
        "playback never finishes, uninterruptible", "playout", before=uninterruptible
    ),
    "queue": Hang("playback never finishes, with a queue", "playout", before=queue),
    "stt_aclose": Hang("an STT stream's aclose() hangs", "stt aclose"),
    "stt_cleanup": Hang("an STT stream's cleanup hangs", "stt cleanup"),
    "stt_raises": Hang("an STT stream's aclose() raises", "stt aclose", "raises"),
    "stt_node": Hang("an stt_node hangs in its finally", "stt node cleanup"),
    "realtime_silent": Hang("a realtime model never answers", "realtime", before=hello),
    "realtime_aclose": Hang("a realtime session's aclose() hangs", "realtime aclose"),
    "realtime_raises": Hang("a realtime session's aclose() raises", "realtime aclose", "raises"),
    "toolset_aclose": Hang("a toolset's aclose() hangs", "toolset aclose"),
    "toolset_ignores": Hang(
        "a toolset's aclose() ignores cancellation", "toolset aclose", "ignores"
    ),
    "starting": Hang("start() hangs in a toolset", "toolset setup"),
    "inline_task": Hang("a tool awaits an AgentTask that hangs", "inline task", before=tool),
    "nested_task": Hang("an AgentTask awaits another one", "nested task", before=tool),
    "handoff": Hang("a handoff waits for an on_exit", "on_exit", before=handoff),
    "run": Hang("run() is in progress", "tool", before=run),
    "mid_utterance": Hang("the user leaves mid-utterance, on_exit speaks", "mid-utterance"),
    "handler": Hang("a close handler raises TypeError", before=handlers_that_raise),
    "shutdown": Hang("a tool sleeps; shutdown(drain=False)", "tool", "sleeps", tool, shutdown),
    "escalated": Hang(
        "a tool sleeps; shutdown(), then drain=False", "tool", "sleeps", tool, changes_its_mind
    ),
    "drain_joined": Hang(
        "a tool sleeps; shutdown(), then aclose()", "tool", "sleeps", tool, drains_and_waits
    ),
    "waiter_gives_up": Hang(
        "a tool sleeps; aclose() cancelled after 1 s, then again",
        "tool",
        "sleeps",
        tool,
        gives_up_and_tries_again,
    ),
    "race": Hang("a tool sleeps; ten close at once", "tool", "sleeps", tool, ten_at_once),
}


MIXED = [hang for hang in HANGS.values() if hang.closer is not itself]
MIXED_TITLE = "all of these, mixed"


# -- one run --------------------------------------------------------------------------------------


async def measure(hangs: list[Hang], count: int, patience: float) -> dict[str, Any]:
    """Get `count` sessions stuck, in these ways by turns; close them, and look at what is left."""
    stages = [Stage(hang.place, hang.how) for hang in hangs]
    casts = [Parts(stage) for stage in stages]
    closed: dict[Any, float] = {}
    all_closed = asyncio.Event()
    events = 0
    cpu_began = time.process_time()
    cpu: float | None = None
    sessions, starting = [], []

    def on_close(session: Any) -> None:
        nonlocal events, cpu
        events += 1
        closed.setdefault(session, time.perf_counter())
        if len(closed) == count:
            cpu = time.process_time() - cpu_began
            all_closed.set()

    for number in range(count):
        hang, parts = hangs[number % len(hangs)], casts[number % len(hangs)]
        session = parts.session()
        session.on("close", lambda _, session=session: on_close(session))
        start = asyncio.ensure_future(session.start(parts.Main()))
        starting.append(start)
        if hang.place != "toolset setup":
            await start
            await hang.before(session)
        sessions.append(session)
    began = time.perf_counter()
    if hangs[0].closer is not itself:
        await asyncio.sleep(SETTLE)
        began = time.perf_counter()
    cpu_began = time.process_time()
    closing = [
        asyncio.ensure_future(hangs[number % len(hangs)].closer(session))
        for number, session in enumerate(sessions)
    ]
    everything = [*closing, asyncio.ensure_future(all_closed.wait())]
    await asyncio.wait(everything, timeout=patience)
    waiting = [task for task in closing if not task.done()]
    returned = time.perf_counter() - began
    await asyncio.sleep(0.3)  # what is only a matter of turns of the loop
    ours = {asyncio.current_task(), *everything, *starting}
    tasks = [task for task in asyncio.all_tasks() if task not in ours]
    times = sorted(moment - began for moment in closed.values())
    left_behind = sum(len(stage.streams) for stage in stages if stage.how == "ignores")
    orphaned = sum(len(stage.streams) for stage in stages) - left_behind * (len(hangs) > 1)
    return {
        "title": hangs[0].title if len(hangs) == 1 else MIXED_TITLE,
        "how": hangs[0].how if len(hangs) == 1 else "mixed",
        "of": count,
        "closed": len(closed),
        "close_events": events,
        "never_returned": len(waiting),
        "median_s": statistics.median(times) if times else None,
        "last_s": times[-1] if times else None,
        "cpu_s": cpu,
        "returned_s": None if waiting else returned,
        "orphaned_streams": orphaned,
        "left_behind": left_behind,
        "tasks_left": len(tasks),
        "restarts": await restarts(stages[0], sessions[0]) if sessions[0] in closed else False,
        "patience": patience,
    }


async def restarts(stage: Stage, session: Any) -> bool:
    """Whether a session that was closed can be started, used and closed again."""
    from livekit.agents import Agent

    stage.over = True

    async def live() -> None:
        await session.start(Agent(instructions="Be brief."))
        if not stage.place.startswith("realtime"):
            await session.generate_reply(user_input="hello")
        await session.aclose()

    task = asyncio.ensure_future(live())
    await asyncio.wait([task], timeout=6.0)
    return task.done() and not task.cancelled() and task.exception() is None


def main() -> None:
    """Run the scenario named on the command line."""
    logging.disable(logging.CRITICAL)
    name, count, patience = [*sys.argv[1:], *["1", str(PATIENCE)][len(sys.argv) - 2 :]]
    loop = asyncio.new_event_loop()
    loop.set_exception_handler(lambda *_: None)
    hangs = MIXED if name == "mixed" else [HANGS[name]]
    result = loop.run_until_complete(measure(hangs, int(count), float(patience)))
    print(json.dumps(result), flush=True)
    os._exit(0)  # sessions that never close must not hold up the next measurement


if __name__ == "__main__":
    main()
