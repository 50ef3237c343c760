"""A package with the places that the change goes to, and nothing else. Written for these tests."""

from __future__ import annotations

from pathlib import Path

FILES = {
    "voice/agent_session.py": '''\
from __future__ import annotations

import asyncio

from .. import llm, utils
from ..job import get_job
from ..log import logger
from .events import CloseEvent, CloseReason


class AgentSession:
    def __init__(
        self,
        *,
        max_steps: int = 3,
        session_close_transcript_timeout: float = 2.0,
        # the rest
        loop: asyncio.AbstractEventLoop | None = None,
    ) -> None:
        """A session.

        Args:
            max_steps: How many.
        """
        self._closing_task: asyncio.Task[None] | None = None
        self._closing: bool = False
        self._lock = asyncio.Lock()

    def _close_soon(self, *, reason, drain=False, error=None) -> None:
        if self._closing_task:
            return
        self._closing_task = asyncio.create_task(
            self._aclose_impl(error=error, drain=drain, reason=reason)
        )

    async def aclose(self) -> None:
        await self._aclose_impl(reason=CloseReason.USER_INITIATED)

    def _on_error(self, error) -> None:
        if self._closing_task or error.recoverable:
            return

        def done(_) -> None:
            self._closing_task = None

        self._closing_task = asyncio.create_task(self._aclose_impl(error=error, reason="e"))
        self._closing_task.add_done_callback(done)

    async def _aclose_impl(self, *, reason, drain=False, error=None) -> None:
        await self._aclose_locked(reason=reason, drain=drain, error=error)

    async def _aclose_locked(self, *, reason, drain, error) -> None:
        async with self._lock:  # one at a time
            await self._teardown_activity(reason=reason, drain=drain)
            self.emit("close", CloseEvent(error=error, reason=reason))
            await self._session_host.aclose()
            await self._room_io.aclose()

    async def _teardown_activity(self, *, reason, drain) -> None:
        await self._amd.aclose()
        activity = self._activity
        while agent_task := activity.agent:
            await agent_task._wait_for_inactive()
        await activity.interrupt(force=True)
        await activity.drain()
        await activity.current_speech
        self.input.audio = None
        self.input.video = None
        self.output.audio = None
        self.output.transcription = None
        if (
            reason != CloseReason.ERROR
            and (audio_recognition := activity._audio_recognition) is not None
        ):
            audio_recognition._commit_user_turn(audio_detached=True)
        await activity.aclose()
        await utils.aio.cancel_and_wait(self._forward_audio_atask)
        await utils.aio.cancel_and_wait(self._forward_video_atask)
        await self._recorder_io.aclose()
        await self._ivr_activity.aclose()
        toolsets = list(self._tools)
        await asyncio.gather(
            *(toolset.aclose() for toolset in toolsets),
            return_exceptions=True,
        )
''',
    "voice/agent_activity.py": """\
from __future__ import annotations

import asyncio
from typing import Any

from .. import llm, utils
from ..log import logger


class AgentActivity:
    async def drain(self, *, new_activity=None):
        async def _on_exit() -> None:
            await self._agent.on_exit()

        async with self._lock:
            await self._on_exit_task
            await self._pause_scheduling_task()
            return await self._detach_reusable_resources(new_activity)

    async def _pause_scheduling_task(self) -> None:
        await self._session._keyterm_detector.aclose()
        await asyncio.shield(self._scheduling_atask)

    async def _close_session(self) -> None:
        await self._rt_session.aclose()
        await self._audio_recognition._aclose()
        await self._cancel_speech_pause(
            old_task=self._task,
            interrupt=False,  # not now
        )

    async def aclose(self) -> None:
        async with self._lock:
            await self._session._keyterm_detector.aclose()
            await self._tool_executor.drain()
            await self._close_session()
            await asyncio.gather(*self._interrupt_background_speeches(force=False))
            await utils.aio.cancel_and_wait(self._scheduling_atask)
            toolsets = list(self._agent.tools)
            await asyncio.gather(
                *(toolset.aclose() for toolset in toolsets), return_exceptions=True
            )
            await self._tool_executor.aclose()
""",
    "stt/stt.py": """\
from __future__ import annotations

import asyncio
import time

from .._exceptions import APIError
from ..log import logger


class RecognizeStream:
    async def _main_task(self) -> None:
        last_start_time = time.time()
        while True:
            try:
                return await self._run()
            except APIError as e:
                # why
                if time.time() - last_start_time > self._conn_options.timeout:
                    self._num_retries = 0
                retry_interval = 1
                await asyncio.sleep(retry_interval)
""",
    "ipc/job_proc_lazy_main.py": """\
from __future__ import annotations

import asyncio

from ..log import logger


class _JobProc:
    async def _shutdown_job(self) -> None:
        await self.anything_else()
        if session := self._session:
            try:
                await asyncio.wait_for(session.aclose(), timeout=60)
            except asyncio.TimeoutError:
                logger.error("too long")
""",
}


def plant(root: Path) -> Path:
    """Write the package under `root`, as an installed one; returns its folder."""
    package = root / "site-packages" / "livekit" / "agents"
    for name, source in FILES.items():
        path = package / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(source)
    return package


def replace(package: Path, name: str, old: str, new: str) -> None:
    """Somebody changes a file of the package."""
    path = package / name
    source = path.read_text()
    assert source.count(old) == 1, f"{old!r} is {source.count(old)} times in {name}"
    path.write_text(source.replace(old, new))


def snapshot(package: Path) -> dict[str, bytes]:
    """All files of the package."""
    return {
        str(path.relative_to(package)): path.read_bytes()
        for path in package.rglob("*")
        if path.is_file()
    }
