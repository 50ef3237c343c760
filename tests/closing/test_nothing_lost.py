"""What was said is in the history before `close`, and the history can be given to a model."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
from closing.bench import Bench, outputs, said, tool_calls
from closing.checker import check_replayable
from closing.closers import CLOSERS
from closing.drives import realtime
from closing.parking import AWAITS, IGNORES
from closing.scene import Ask, Scene

from fakes.llm import Reply, call
from fakes.session import now
from livekit.agents.llm import ChatMessage, function_tool
from livekit.agents.voice import Agent, CloseReason, RunContext

FORCED = ("aclose()", "participant leaves", "job ends", "shutdown(), then drain=False")


@asynccontextmanager
async def scene_of(
    place: str | tuple[str, ...] = "", how: str = AWAITS, **options: Any
) -> AsyncIterator[Scene]:
    scene = Scene(place, how, **options)
    try:
        await scene.start()
        yield scene
    finally:
        scene.end()
        await scene.session.aclose()


async def check(scene: Scene, **expected: Any) -> float:
    return await scene.checker.check(let_go=scene.parking.let_go, restart=scene.restart, **expected)


class Journal:
    """What was in the history at `close`, and the order of what listeners were told."""

    def __init__(self, scene: Scene) -> None:
        self.order: list[str] = []
        self.at_close: list[str] = []
        scene.session.on("conversation_item_added", self._on_item)
        scene.session.on("close", lambda ev: self._on_close(scene))

    def _on_item(self, ev: Any) -> None:
        if ev.item.type == "message":
            self.order.append(ev.item.text_content)

    def _on_close(self, scene: Scene) -> None:
        self.order.append("close")
        self.at_close = said(scene.session)


# -- the user's words ---------------------------------------------------------------------------------


@pytest.mark.parametrize("closer", FORCED)
@pytest.mark.parametrize("kind", ["final", "interim"])
@pytest.mark.parametrize("stuck", ["", "tool", "on_exit", "TTS stream"])
async def test_the_users_last_words_are_told_before_the_close(
    kind: str, closer: str, stuck: str
) -> None:
    async with scene_of(stuck, IGNORES) as scene:
        journal = Journal(scene)
        if stuck == "tool":
            scene.reply_with_tool("look_up")
        if stuck == "TTS stream":
            scene.say("hello")
        await asyncio.sleep(1)
        await scene.user_speaks()
        getattr(scene.ear, kind)("one last question")
        await asyncio.sleep(0)
        await CLOSERS[closer](scene)
        scene.checker.user_words.append("one last question")
        await check(scene)
        assert "one last question" in journal.at_close
        assert journal.order.index("one last question") < journal.order.index("close")


@pytest.mark.parametrize("timeout", [0.0, 0.5, 2.0])
async def test_a_last_transcript_is_waited_for_as_long_as_the_option_says(timeout: float) -> None:
    async with scene_of(session_close_transcript_timeout=timeout) as scene:
        await scene.user_speaks()
        scene.checker.requested()
        scene.session.shutdown(drain=False)
        began = now()
        assert scene.session._closing_task is not None
        await asyncio.wait([scene.session._closing_task])
        assert now() - began == pytest.approx(timeout, abs=0.1)


async def test_nothing_is_waited_for_once_the_transcript_is_there() -> None:
    async with scene_of() as scene:
        await scene.user_speaks()
        scene.ear.final("that is all")
        scene.checker.user_words.append("that is all")
        await scene.user_stops()
        await asyncio.sleep(0.1)
        scene.checker.requested()
        scene.session.shutdown(drain=False)
        await check(scene, hangs=False)


@pytest.mark.parametrize("stuck", ["on_user_turn_completed", "turn detector's prediction"])
async def test_a_turn_that_user_code_holds_is_kept(stuck: str) -> None:
    from closing.scene import StuckTextDetector

    options = {"detector": StuckTextDetector} if "detector" in stuck else {}
    async with scene_of(stuck, IGNORES, **options) as scene:
        await scene.user_speaks()
        scene.ear.final("hold this")
        scene.checker.user_words.append("hold this")
        await scene.user_stops()
        await scene.reached(3)
        scene.checker.requested()
        scene.session.shutdown(drain=False)
        await check(scene)


async def test_the_words_of_a_reply_that_never_played_are_kept() -> None:
    async with scene_of("LLM stream", IGNORES) as scene:
        scene.reply("first question")
        await scene.reached(1)
        scene.reply("second question")
        await asyncio.sleep(0.1)
        scene.checker.requested()
        scene.session.shutdown(drain=False)
        await check(scene)


async def test_an_error_does_not_lose_words_that_were_final() -> None:
    async with scene_of() as scene:
        await scene.user_speaks()
        scene.ear.final("already said")
        scene.checker.user_words.append("already said")
        await asyncio.sleep(0)
        scene.checker.requested()
        scene.session._close_soon(reason=CloseReason.ERROR)
        await check(scene, hangs=False)


# -- the agent's words --------------------------------------------------------------------------------


def spoken(scene: Scene) -> ChatMessage:
    return [m for m in scene.session.history.messages() if m.role == "assistant"][-1]


@pytest.mark.parametrize("closer", FORCED)
@pytest.mark.parametrize("by", ["say", "reply"])
async def test_what_was_heard_of_an_interrupted_speech_is_kept(by: str, closer: str) -> None:
    async with scene_of() as scene:
        if by == "say":
            scene.say("this is a rather long sentence that is not going to be heard to its end")
        else:
            scene.llm.default = "this is a rather long sentence that nobody hears to its end"
            scene.reply("tell me")
        await asyncio.sleep(1.0)
        await CLOSERS[closer](scene)
        await check(scene, hangs=False)
        message = next(m for m in scene.session.history.messages() if m.role == "assistant")
        assert message.interrupted and (message.text_content or "").startswith("this is a rather")
        assert scene.speaker.audible[0].startswith("this is a rathe")


async def test_what_was_not_heard_is_not_kept() -> None:
    async with scene_of() as scene:
        scene.say("this one plays for a while, and is interrupted")
        scene.say("this one never gets its turn")
        await asyncio.sleep(0.5)
        scene.checker.requested()
        scene.session.shutdown(drain=False)
        await check(scene, hangs=False)
        assert not any("never gets" in text for text in said(scene.session))


@pytest.mark.parametrize(
    "stuck",
    [
        "sink's playout",
        "transcription_node",
        "TTS stream, half-way",
        "text output",
        "LLM stream, half-way",
    ],
)
async def test_what_was_heard_is_kept_although_a_part_is_stuck(stuck: str) -> None:
    async with scene_of(stuck, IGNORES) as scene:
        scene.reply("tell me")
        await asyncio.sleep(3)
        heard = list(scene.speaker.audible)
        scene.checker.requested()
        scene.session.shutdown(drain=False)
        await check(scene)
        if stuck != "text output":  # what was shown is what counts there
            assert heard == [] or spoken(scene).text_content


async def test_the_farewell_is_kept() -> None:
    async with scene_of(farewell="goodbye") as scene:
        scene.checker.requested()
        scene.session.shutdown(drain=False)
        await check(scene, within=1.0)
        assert said(scene.session)[0] == "goodbye"


async def test_what_a_realtime_model_said_is_kept() -> None:
    async with scene_of(realtime=True) as scene:
        await realtime(text="a realtime answer", audio=8.0)(scene)
        await asyncio.sleep(1)
        scene.checker.requested()
        scene.session.shutdown(drain=False)
        await check(scene, hangs=False)
        message = spoken(scene)
        assert said(scene.session)[:1] == ["go"]
        assert any("realtime answer" in text for text in said(scene.session)), message


# -- tools --------------------------------------------------------------------------------------------


class Worker(Agent):
    """One tool that ends, one that does not, and one that goes on in the background."""

    def __init__(self) -> None:
        super().__init__(instructions="work")
        self.free = asyncio.Event()

    @function_tool
    async def quick(self) -> str:
        """Ends."""
        return "a result"

    @function_tool
    async def fails(self) -> str:
        """Fails."""
        raise ValueError("broken")

    @function_tool
    async def slow(self) -> str:
        """Does not end."""
        while not self.free.is_set():
            try:
                await self.free.wait()
            except asyncio.CancelledError:
                pass
        return "too late"

    @function_tool
    async def goes_on(self, ctx: RunContext[Any]) -> str:
        """Goes on in the background."""
        await ctx.update("half of it")
        await self.free.wait()
        return "all of it"


async def test_a_result_is_kept_and_what_was_cut_off_says_so() -> None:
    bench = Bench(tool_calls("quick", "fails", "slow"))
    events: list[Any] = []
    bench.session.on("tool_execution_updated", lambda ev: events.append(ev.update))
    worker = Worker()
    await bench.session.start(worker)
    bench.session.generate_reply(user_input="work")
    await asyncio.sleep(1)
    await bench.closes(within=5.5, let_go=worker.free.set)
    found = outputs(bench.session)
    assert found["quick"].output == "a result" and not found["quick"].is_error
    assert found["fails"].is_error
    assert found["slow"].is_error and not found["slow"].reply_required
    ended = [update for update in events if update.type == "tool_call_ended"]
    assert sorted(update.status for update in ended) == ["cancelled", "done", "error"]
    check_replayable(worker._chat_ctx)


async def test_reports_of_a_background_tool_are_kept() -> None:
    bench = Bench(tool_calls("goes_on"), "working on it")
    worker = Worker()
    await bench.session.start(worker)
    await asyncio.wait_for(bench.session.generate_reply(user_input="work").wait_for_playout(), 10)
    await bench.closes(within=5.5, let_go=worker.free.set)
    texts = [
        item.output for item in bench.session.history.items if item.type == "function_call_output"
    ]
    assert any("half of it" in text for text in texts)
    assert not any("all of it" in text for text in texts)


@pytest.mark.parametrize("drain", [False, True])
async def test_a_result_whose_answer_is_never_spoken_is_kept(drain: bool) -> None:
    bench = Bench(tool_calls("quick"), Reply(hangs=True))
    await bench.session.start(Worker())
    bench.session.generate_reply(user_input="work")
    await asyncio.sleep(1)
    if drain:
        bench.session.shutdown()
        await asyncio.sleep(1)
    await bench.closes(within=5.5)
    assert outputs(bench.session)["quick"].output == "a result"


async def test_a_graceful_close_keeps_what_tools_bring_meanwhile() -> None:
    bench = Bench(tool_calls("goes_on"), "working on it", "and this is all of it")
    worker = Worker()
    await bench.session.start(worker)
    await asyncio.wait_for(bench.session.generate_reply(user_input="work").wait_for_playout(), 10)
    bench.checker.requested()
    bench.session.shutdown()
    await asyncio.sleep(3)
    bench.checker.requested()
    worker.free.set()
    await bench.checker.check(within=5.0, restart=bench.restart)
    assert any(
        "all of it" in item.output
        for item in bench.session.history.items
        if item.type == "function_call_output"
    )


async def test_what_an_inline_task_heard_is_kept_by_its_parent() -> None:
    async with scene_of() as scene:
        scene.llm.replies = [Reply(tool_calls=[call("ask")])]
        scene.reply("ask me")
        await scene.asked.wait()
        await asyncio.sleep(0.1)
        assert isinstance(scene.session.current_agent, Ask)
        await asyncio.wait_for(scene.reply("an answer to the task").wait_for_playout(), 10)
        scene.checker.requested()
        scene.session.shutdown(drain=False)
        await check(scene, hangs=False)
        kept = [m.text_content for m in scene.agent._chat_ctx.messages()]
        assert "an answer to the task" in kept
