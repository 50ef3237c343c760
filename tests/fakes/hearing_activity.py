"""An activity as barge-in and user turns see it: real scheduler and speeches, everything else fake."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

from fakes.hearing import FakeSession, RecordingHooks
from livekit.agents.llm import ChatContext, ChatMessage, StopResponse
from livekit.agents.voice.events import AgentStateChangedEvent
from livekit.agents.voice.hearing.barge_in import BargeIn
from livekit.agents.voice.hearing.user_turns import UserTurns
from livekit.agents.voice.scheduling import SpeechScheduler
from livekit.agents.voice.speech_handle import SpeechHandle


class FakeAudioOutput:
    label = "fake output"

    def __init__(self) -> None:
        self.can_pause = True
        self.paused = False

    def pause(self) -> None:
        self.paused = True

    def resume(self) -> None:
        self.paused = False


class FakeOutput:
    def __init__(self) -> None:
        self.audio: Any = FakeAudioOutput()
        self.audio_enabled = True


class FakeIdle:
    def changed(self) -> None:
        pass


class ActivitySession(FakeSession):
    """The part of a session that barge-in and user turns use."""

    def __init__(self) -> None:
        self._spans: Any = SimpleNamespace(describe_user=lambda span: None)
        super().__init__()
        self.output = FakeOutput()
        self.user_state = "listening"
        self._aec_warmup_active = False
        self._is_closing = False
        self._idle = FakeIdle()
        self.metrics: list[Any] = []
        self.false_interruptions: list[bool] = []
        self.on("agent_false_interruption", lambda ev: self.false_interruptions.append(ev.resumed))

    def _update_agent_state(self, state: str, *, at: float | None = None) -> None:
        if state == self.agent_state:
            return
        old, self.agent_state = self.agent_state, state
        self.emit(
            "agent_state_changed",
            AgentStateChangedEvent(old_state=old, new_state=state),  # type: ignore[arg-type]
        )

    def _update_user_state(self, state: str, *, last_speaking_time: float | None = None) -> None:
        self.user_state = state

    def _run_beside(self, result: object, *, name: str) -> None:
        assert result is None, "the fake output has no coroutine functions"

    def _on_metrics(self, metrics: Any) -> None:
        self.metrics.append(metrics)


class FakeRecognition:
    """What barge-in asks recognition."""

    def __init__(self) -> None:
        self.audio_may_interrupt = True
        self.current_transcript = ""
        self.last_speaking_time: float | None = None
        self.stt_committed = False
        self.overlaps = 0
        self.decision: asyncio.Future[bool] | None = None

    def on_overlap(self) -> None:
        self.overlaps += 1

    def let_audio_interrupt(self) -> None:
        self.audio_may_interrupt = True

    @property
    def end_of_turn_pending(self) -> bool:
        return self.decision is not None and not self.decision.done()

    @property
    def end_of_turn_task(self) -> asyncio.Future[bool] | None:
        return self.decision if self.end_of_turn_pending else None

    async def wait_for_end_of_turn(self) -> bool:
        assert self.decision is not None
        await asyncio.wait((self.decision,))
        return not self.decision.cancelled() and self.decision.result()


class FakeAgent:
    """Its hook does what the test says."""

    def __init__(self) -> None:
        self.id = self.label = "fake_agent"
        self._chat_ctx = ChatContext.empty()
        self.completed: list[str] = []
        self.exceeded: list[Any] = []
        self.hook: Callable[[ChatContext, ChatMessage], Any] | None = None

    async def on_user_turn_completed(self, turn_ctx: ChatContext, new_message: ChatMessage) -> None:
        self.completed.append(new_message.text_content or "")
        if self.hook is not None:
            result = self.hook(turn_ctx, new_message)
            if result is not None:
                await result

    async def on_user_turn_exceeded(self, ev: Any) -> None:
        self.exceeded.append(ev)

    @staticmethod
    def stop(turn_ctx: ChatContext, new_message: ChatMessage) -> None:
        raise StopResponse


class FakeReplies:
    """Replies that are done as soon as the test says so."""

    def __init__(self, activity: FakeActivity) -> None:
        self._activity = activity
        self.made: list[dict[str, Any]] = []
        self.dropped = 0
        self.turns = 0
        self.prepared: SpeechHandle | None = None
        self.user_stopped_at: float | None = None

    def new_turn(self) -> None:
        self.turns += 1

    def user_stopped(self, at: float | None) -> None:
        self.user_stopped_at = at

    def drop_preemptive(self) -> None:
        self.dropped += 1

    def adopt_preemptive(self, message: ChatMessage, chat_ctx: ChatContext) -> SpeechHandle | None:
        if self.prepared is not None:
            self._activity.commit(message)
        return self.prepared

    def generate_reply(self, **kwargs: Any) -> SpeechHandle:
        self.made.append(kwargs)
        if "user_message" in kwargs:
            self._activity.commit(kwargs["user_message"])
        return self._activity.speech()


class FakeActivity:
    """See the module."""

    def __init__(self) -> None:
        self.agent = FakeAgent()
        self.session = ActivitySession()
        self.llm: Any = object()
        self.stt: Any = None
        self.turn_detection: Any = None
        self.server_turn_detection = False
        self.min_endpointing_delay = 0.5
        self.min_consecutive_speech_delay = 0.0
        self.realtime: Any = None
        self.blocked = False
        self.history: list[str] = []
        self.hooks = RecordingHooks()
        self.scheduler = SpeechScheduler(self, owner="fake activity")
        self.scheduler.open()
        self.recognition: Any = FakeRecognition()
        self.replies: Any = FakeReplies(self)
        self.barge_in = BargeIn(self)  # type: ignore[arg-type]
        self.user_turns = UserTurns(self)  # type: ignore[arg-type]

    @property
    def turns_blocked(self) -> bool:
        return self.blocked

    @property
    def output(self) -> FakeAudioOutput:
        audio: FakeAudioOutput = self.session.output.audio
        return audio

    def commit(self, *items: Any, speech_handle: Any = None) -> None:
        self.history += [item.text_content for item in items]

    def create_speech_task(
        self, coro: Any, *, speech_handle: Any = None, name: str | None = None
    ) -> asyncio.Task[Any]:
        return self.scheduler.create_task(coro, speech_handle=speech_handle, name=name)

    async def wait_for_idle(
        self, *, wait_for_agent: bool = True, wait_for_user: bool = True
    ) -> None:
        while not self.scheduler.idle:  # noqa: ASYNC110
            await asyncio.sleep(0.05)

    def on_speech_started(self, handle: SpeechHandle) -> None:
        pass

    def on_generation_ended(self, handle: SpeechHandle) -> None:
        self.barge_in.release(handle)

    def speech(self, *, allow_interruptions: bool = True, playing: bool = False) -> SpeechHandle:
        """Schedule a speech that plays until interrupted, or `end` is called."""
        handle = SpeechHandle.create(allow_interruptions=allow_interruptions)

        handle._ended = asyncio.get_running_loop().create_future()  # type: ignore[attr-defined]

        async def run() -> None:
            waits = (handle._interrupt_fut, handle._ended)  # type: ignore[attr-defined]
            await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
            handle._mark_generation_done()
            if self.session.agent_state == "speaking":
                self.session._update_agent_state("listening")

        self.scheduler.create_task(run(), speech_handle=handle, name="fake speech")
        self.scheduler.schedule(handle)
        if playing:
            self.session._update_agent_state("speaking")
        return handle

    @staticmethod
    def end(handle: SpeechHandle) -> None:
        """The speech has been played."""
        handle._ended.set_result(None)  # type: ignore[attr-defined]

    async def close(self) -> None:
        await self.barge_in.aclose()
        self.scheduler.cut_off()
        await self.scheduler.aclose(1.0)
