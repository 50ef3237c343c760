"""Ending a turn because somebody asked for it: get the last transcript, then decide."""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING, Protocol

from ...language import LanguageCode
from ...log import logger
from ...stt import SpeechData, SpeechEvent, SpeechEventType
from ...utils.aio import TaskScope, wait_until
from .hooks import RecognitionHooks, notify
from .user_turn import CommitRequest, UserTurn

if TYPE_CHECKING:
    from .end_of_turn import EndOfTurn

__all__ = ["CommitHost", "TurnCommit"]

DEFAULT_TRANSCRIPT_TIMEOUT = 2.0
RECENT_FINAL = 0.5
"""A final this many seconds old is taken for the last one."""


class CommitHost(Protocol):
    """What a commit can have done to the STT."""

    @property
    def can_flush_stt(self) -> bool:
        """Whether the STT can be told that the utterance is over."""
        ...

    def flush_stt(self) -> bool:
        """Tell it; False if it could not be told."""
        ...

    def push_silence(self, duration: float) -> None:
        """Let the STT hear `duration` seconds of silence."""
        ...


class TurnCommit:
    """Commits the turn on request; at most one commit is under way.

    Args:
        hooks: Told of a guess that has to pass for final.
        host: Reaches the STT.
        turn: The turn.
        end_of_turn: Decides.
        scope: Owns the task.
    """

    def __init__(
        self,
        hooks: RecognitionHooks,
        host: CommitHost,
        *,
        turn: UserTurn,
        end_of_turn: EndOfTurn,
        scope: TaskScope,
    ) -> None:
        self._hooks = hooks
        self._host = host
        self._turn = turn
        self._end_of_turn = end_of_turn
        self._scope = scope
        self._task: asyncio.Task[None] | None = None
        self._result: asyncio.Future[str] | None = None
        self._final: asyncio.Future[None] | None = None

    def final_received(self) -> None:
        """A final transcript came; wakes the commit that waits for one."""
        if self._final is not None and not self._final.done():
            self._final.set_result(None)

    def start(
        self,
        *,
        audio_detached: bool,
        transcript_timeout: float | None,
        flush_duration: float,
        skip_reply: bool,
    ) -> asyncio.Future[str]:
        """Commit the turn, replacing a commit under way, whose future is cancelled.

        Returns:
            The transcript, once the end of the turn is being decided.
        """
        self.cancel()
        result = self._result = asyncio.get_running_loop().create_future()
        if transcript_timeout is None:
            transcript_timeout = DEFAULT_TRANSCRIPT_TIMEOUT
        commit = self._commit(
            result, audio_detached, transcript_timeout, flush_duration, skip_reply
        )
        task = self._task = self._scope.spawn(commit, name="commit user turn", log_errors=False)
        task.add_done_callback(lambda done: _pass_on_failure(done, result))
        return result

    def cancel(self) -> None:
        """Drop the commit under way; its future is cancelled."""
        if self._task is not None:
            self._task.cancel()
            self._task = None
        if self._result is not None:
            self._result.cancel()
            self._result = None

    async def _commit(
        self,
        result: asyncio.Future[str],
        audio_detached: bool,
        transcript_timeout: float,
        flush_duration: float,
        skip_reply: bool,
    ) -> None:
        if self._needs_transcript():
            await self.collect(
                audio_detached=audio_detached,
                timeout=transcript_timeout,
                flush_duration=flush_duration,
            )
        self.promote_interim()
        turn = self._turn
        turn.request = CommitRequest(skip_reply=skip_reply)
        transcript = turn.words.text
        self._end_of_turn.evaluate("manual", skip_reply=skip_reply)
        turn.committed = True
        if not result.done():
            result.set_result(transcript)

    def _needs_transcript(self) -> bool:
        last_final_at = self._turn.words.last_final_at
        return (
            self._host.can_flush_stt
            or last_final_at is None
            or time.time() - last_final_at > RECENT_FINAL
        )

    async def collect(self, *, audio_detached: bool, timeout: float, flush_duration: float) -> None:
        """Make the STT finish, and wait for its final transcript, at most `timeout` seconds."""
        final = self._final = asyncio.get_running_loop().create_future()
        if not self._host.flush_stt() and audio_detached:
            self._host.push_silence(flush_duration)
        try:
            late = await wait_until(final, timeout)
        finally:
            if self._final is final:
                self._final = None
        if late and self._turn.words.interim:
            logger.warning(
                "final transcript not received after timeout",
                extra={"timeout": timeout, "lk.pii.interim": self._turn.words.interim},
            )

    def promote_interim(self) -> None:
        """Let the pending guess pass for final: better than losing it."""
        words = self._turn.words
        if not words.interim:
            return
        ev = SpeechEvent(
            type=SpeechEventType.FINAL_TRANSCRIPT,
            alternatives=[SpeechData(language=LanguageCode(""), text=words.interim)],
        )
        notify(self._hooks.on_final_transcript, ev)
        words.promote_interim()
        words.last_final_at = time.time()


def _pass_on_failure(task: asyncio.Task[None], result: asyncio.Future[str]) -> None:
    if task.cancelled():
        result.cancel()
        return
    if (error := task.exception()) is not None:
        if result.done():
            logger.error("committing the user turn failed", exc_info=error)
        else:
            result.set_exception(error)
