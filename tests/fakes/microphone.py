"""An audio input that a test speaks into."""

from __future__ import annotations

from livekit import rtc

from livekit.agents.utils.aio import Chan, ChanClosed
from livekit.agents.voice.io import AudioInput


class Microphone(AudioInput):
    """Takes frames as a `gateway.calls.Caller` pushes them."""

    def __init__(self) -> None:
        super().__init__(label="microphone")
        self._frames: Chan[rtc.AudioFrame] = Chan()

    def push_frame(self, frame: rtc.AudioFrame) -> None:
        self._frames.send_nowait(frame)

    async def __anext__(self) -> rtc.AudioFrame:
        try:
            return await self._frames.recv()
        except ChanClosed:
            raise StopAsyncIteration from None
