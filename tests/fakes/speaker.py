"""A loudspeaker in virtual time that can be paused."""

from __future__ import annotations

import asyncio
import time

from livekit import rtc

from livekit.agents.voice.io import AudioOutput, AudioOutputCapabilities


class Speaker(AudioOutput):
    """Plays what it is given at the speed of the clock, one segment after another."""

    def __init__(self, *, can_pause: bool = True) -> None:
        super().__init__(label="speaker", capabilities=AudioOutputCapabilities(pause=can_pause))
        self.log: list[str] = []
        self._queued = 0.0
        self._played = 0.0
        self._playing_since: float | None = None
        self._paused = False
        self._filling = False
        self._timer: asyncio.TimerHandle | None = None

    @property
    def paused(self) -> bool:
        return self._paused

    async def capture_frame(self, frame: rtc.AudioFrame) -> None:
        await super().capture_frame(frame)
        if not self._filling:
            self._filling = True
            self._queued = self._played = 0.0
            self._start()
        self._queued += frame.duration

    def _start(self) -> None:
        if self._paused or self._playing_since is not None:
            return
        if self._played == 0.0:
            self.on_playback_started(created_at=time.time())
        self._playing_since = time.time()

    def _position(self) -> float:
        since = self._playing_since
        running = 0.0 if since is None else time.time() - since
        return min(self._played + running, self._queued)

    def flush(self) -> None:
        super().flush()
        if self._filling:
            self._filling = False
            self._arm()

    def _arm(self) -> None:
        if self._playing_since is not None and not self._filling and self._timer is None:
            left = self._queued - self._position()
            self._timer = asyncio.get_running_loop().call_later(left, self._finish, False)

    def _finish(self, interrupted: bool) -> None:
        position = self._position()
        self._disarm()
        self._playing_since, self._queued = None, 0.0
        self._filling = False
        self.on_playback_finished(playback_position=position, interrupted=interrupted)

    def _disarm(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def clear_buffer(self) -> None:
        self.log.append("cleared")
        if self._pending_playback_count:
            self._finish(True)

    def pause(self) -> None:
        super().pause()
        self.log.append("paused")
        self._paused = True
        self._played = self._position()
        self._playing_since = None
        self._disarm()

    def resume(self) -> None:
        super().resume()
        if self._paused:
            self.log.append("resumed")
        self._paused = False
        if self._pending_playback_count:
            self._start()
            self._arm()
