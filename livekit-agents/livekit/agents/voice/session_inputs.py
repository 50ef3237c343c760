"""Moves what the user says and shows from `session.input` to the agent on duty."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterable, Callable
from typing import TYPE_CHECKING, Any

from ..log import logger
from ..utils.aio import Survivor, TaskScope

if TYPE_CHECKING:
    from livekit import rtc

    from .agent_session import AgentSession


class InputForwarder:
    """One direction of input: runs a loop over the present source and replaces it cleanly."""

    def __init__(self, name: str, deliver: Callable[[Any], None]) -> None:
        self._name = name
        self._deliver = deliver
        self._scope = TaskScope(f"{name} input")
        self._task: asyncio.Task[None] | None = None

    def set_source(self, source: AsyncIterable[Any] | None) -> None:
        """Forward from `source` from now on; the previous loop is cancelled and joined."""
        previous, self._task = self._task, None
        if previous is not None:
            previous.cancel()
        if source is not None and not self._scope.closed:
            self._task = self._scope.spawn(self._run(source), name=f"forward {self._name}")

    async def _run(self, source: AsyncIterable[Any]) -> None:
        async for item in source:
            if self._task is not asyncio.current_task():
                return  # replaced, or the session closed, while the source ignored its cancellation
            self._deliver(item)

    async def aclose(self, timeout: float) -> list[Survivor]:
        """End every loop, the replaced ones too."""
        self._task = None
        return await self._scope.cancel(timeout)


class SessionInputs:
    """Audio and video of one life of a session."""

    def __init__(self, session: AgentSession[Any]) -> None:
        self._session = session
        self._audio = InputForwarder("audio", self._on_audio)
        self._video = InputForwarder("video", self._on_video)

    def refresh_audio(self) -> None:
        """The audio input was set or removed."""
        self._audio.set_source(self._session.input.audio)

    def refresh_video(self) -> None:
        """The video input was set or removed."""
        self._video.set_source(self._session.input.video)

    def _on_audio(self, frame: rtc.AudioFrame) -> None:
        activity = self._session._activity
        if activity is not None:
            activity.push_audio(frame)

    def _on_video(self, frame: rtc.VideoFrame) -> None:
        session = self._session
        if session._activity is None:
            return
        sampler = session._video_sampler
        try:
            wanted = sampler is None or sampler(frame, session)
        except Exception:
            logger.exception("error in the video sampler, the frame is dropped")
            return
        if wanted:
            session._activity.push_video(frame)

    async def aclose(self, timeout: float) -> list[Survivor]:
        """Stop forwarding; returns loops that ignored it."""
        survivors = await self._audio.aclose(timeout / 2)
        return survivors + await self._video.aclose(timeout / 2)
