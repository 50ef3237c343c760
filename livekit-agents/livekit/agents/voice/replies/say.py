"""Speaks a given text: one segment, no LLM, no tools."""

from __future__ import annotations

import time
from collections.abc import AsyncIterable
from typing import TYPE_CHECKING, Any

from ...llm import ChatMessage
from ...types import NOT_GIVEN
from ...utils.aio import TaskScope
from ...utils.aio.task_scope import log_failure
from .inference import TextSegment, TTSInference, timed_or_raw
from .segment import SegmentPlayback, Stage
from .step import CHILD_GRACE, settle_state, voiced

if TYPE_CHECKING:
    from livekit import rtc

    from ..agent_activity import AgentActivity
    from ..speech_handle import SpeechHandle


class SayTask:
    """One `say()`. Commits what was heard, however it ends."""

    def __init__(
        self,
        activity: AgentActivity,
        handle: SpeechHandle,
        text: str | AsyncIterable[str],
        *,
        audio: AsyncIterable[rtc.AudioFrame] | None,
        add_to_chat_ctx: bool,
    ) -> None:
        self._activity = activity
        self._session = activity.session
        self._handle = handle
        self._text = text
        self._audio = audio
        self._add_to_chat_ctx = add_to_chat_ctx
        self._scope = TaskScope(f"say {handle.id}")
        output = self._session.output
        self._audio_output = output.audio if output.audio_enabled else None
        self._text_output = output.transcription if output.transcription_enabled else None
        self._playback: SegmentPlayback | None = None
        self._started_at: float | None = None
        self._authorized_at: float | None = None
        self._committed = False

    async def run(self) -> None:
        """Speak. Failures end up in `handle.exception()`."""
        forget = self._handle._on_cut_off(self.settle)
        try:
            await self._activity.scheduler.wait_for_authorization(self._handle)
            if not self._handle.interrupted:
                self._authorized_at = time.time()
                await self._play()
                self._commit()
        except Exception as error:
            self._handle._set_error(error)
            log_failure("saying a text failed", speech_id=self._handle.id)
        finally:
            forget()
            self.settle()  # whoever cancelled it, and whatever broke it
            if self._session.agent_state == "speaking" and self._started_at is not None:
                self._session._update_agent_state("listening")
            await self._scope.cancel(CHILD_GRACE)
            settle_state(self._activity, self._handle)

    async def _play(self) -> None:
        from ..agent import ModelSettings

        settings = ModelSettings(tool_choice=NOT_GIVEN)
        segment = TextSegment(spoken=self._audio_output is not None and self._audio is None)
        self._scope.spawn(self._feed(segment), name="say text")
        tts: TTSInference | None = None
        frames: Any = self._audio if self._audio_output is not None else None
        text: Any = segment.transcript
        if segment.voice is not None:
            tts = voiced(self._activity, segment.voice, settings)
            self._scope.spawn(tts.run(), name="tts_node")
            frames = tts.frames
            if tts.timed is not None:
                text = timed_or_raw(tts, segment.transcript)
        self._playback = SegmentPlayback(
            Stage.of(self._activity, self._handle, settings),
            self._handle,
            audio_output=self._audio_output,
            text_output=self._text_output,
            frames=frames,
            text=text,
            tts=tts,
            on_first_frame=self._on_first_frame,
            segment=segment,
        )
        await self._playback.play()
        error = self._playback.error or (tts.error if tts is not None else None)
        if error is not None:
            self._handle._set_error(error)

    async def _feed(self, segment: TextSegment) -> None:
        try:
            if isinstance(self._text, str):
                segment.push(self._text)
            else:
                async for delta in self._text:
                    segment.push(delta)
        except Exception as error:
            self._handle._set_error(error)
            log_failure("the text given to say() failed")
        finally:
            segment.end()

    def _on_first_frame(self, at: float) -> None:
        self._started_at = at
        self._session._update_agent_state("speaking", at=at)

    def settle(self) -> None:
        """Save what is known: the speech is cut off. Synchronous, idempotent."""
        if self._playback is not None:
            self._playback.settle()
            self._commit()

    def _commit(self) -> None:
        playback = self._playback
        if self._committed or playback is None:
            return
        self._committed = True
        if not (playback.said and self._add_to_chat_ctx):
            return
        message = ChatMessage(
            role="assistant",
            content=[playback.said],
            interrupted=playback.interrupted,
            created_at=self._started_at or self._authorized_at or time.time(),
        )
        if self._started_at is not None:
            message.metrics["started_speaking_at"] = self._started_at
            message.metrics["stopped_speaking_at"] = time.time()
        self._activity.commit(message, speech_handle=self._handle)
        self._tell_model(message)

    def _tell_model(self, message: ChatMessage) -> None:
        """A realtime model did not speak this itself: tell it what its agent has said."""
        link = self._activity.realtime
        if link is not None and link.capabilities.mutable_chat_context:
            link.in_background(
                link.change_context(lambda chat_ctx: chat_ctx.insert(message)), "what was said"
            )
