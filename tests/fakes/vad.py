"""A voice activity detector that does what the test says.

It sees speech by *timeline* (stretches of the pushed audio, whatever the frames contain), or says
what the test makes it say (`FakeVADStream.send`). It can fail, hang while closing and ignore its
cancellation.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from typing import Any

from livekit import rtc

from livekit.agents.vad import VAD, VADCapabilities, VADEvent, VADEventType, VADStream

FOREVER = float("inf")


class FakeVAD(VAD):
    """See the module.

    Args:
        speech: Start and end of every stretch of speech, in seconds of a stream's audio.
        min_speech_duration: Speech after which it is reported.
        min_silence_duration: Silence after which its end is reported.
        update_interval: Seconds between inference events.
        inference_duration: What events say it took.
        fail_after: Seconds of audio after which streams fail.
        hang_on_close: Seconds that the cleanup takes; `FOREVER`: until cancelled again.
        ignore_cancellation: The stream goes on after being cancelled, for ever.
        setup: Called with every new stream.
    """

    def __init__(
        self,
        *,
        speech: Sequence[tuple[float, float]] = (),
        min_speech_duration: float = 0.05,
        min_silence_duration: float = 0.25,
        update_interval: float = 0.1,
        inference_duration: float = 0.0,
        fail_after: float = FOREVER,
        hang_on_close: float = 0.0,
        ignore_cancellation: bool = False,
        setup: Callable[[FakeVADStream], None] = lambda stream: None,
    ) -> None:
        super().__init__(capabilities=VADCapabilities(update_interval=update_interval))
        self.speech = tuple(speech)
        self.min_speech_duration = min_speech_duration
        self.min_silence_duration = min_silence_duration
        self.inference_duration = inference_duration
        self.fail_after = fail_after
        self.hang_on_close = hang_on_close
        self.ignore_cancellation = ignore_cancellation
        self.setup = setup
        self.streams: list[FakeVADStream] = []

    @property
    def open_streams(self) -> list[FakeVADStream]:
        return [stream for stream in self.streams if not stream._task.done()]

    def stream(self) -> FakeVADStream:
        stream = FakeVADStream(self)
        self.streams.append(stream)
        self.setup(stream)
        return stream


class FakeVADStream(VADStream):
    """A stream of `FakeVAD`."""

    _vad: FakeVAD

    def __init__(self, vad: FakeVAD) -> None:
        super().__init__(vad)
        self.items: list[rtc.AudioFrame | VADStream._FlushSentinel] = []
        self.flushes = 0
        self.duration = 0.0
        self._samples = 0
        self._speaking_since: float | None = None
        self._utterance: list[rtc.AudioFrame] = []
        self._judged_until = 0.0

    # -- what the test makes happen ---------------------------------------------------------------

    def send(self, *events: VADEvent | VADEventType, **fields: Any) -> None:
        """The detector says this, now."""
        for event in events:
            self._event_ch.send_nowait(
                self._event(event, **fields) if isinstance(event, VADEventType) else event
            )

    # -- the detector -----------------------------------------------------------------------------

    async def _main_task(self) -> None:
        while True:
            try:
                async for item in self._input_ch:
                    self._take(item)
                return
            except asyncio.CancelledError:
                if not self._vad.ignore_cancellation:
                    raise
            finally:
                if self._vad.hang_on_close:
                    await _sleep(self._vad.hang_on_close)
            await _sleep_stubbornly(self._vad)

    def _take(self, item: rtc.AudioFrame | VADStream._FlushSentinel) -> None:
        self.items.append(item)
        if not isinstance(item, rtc.AudioFrame):
            self.flushes += 1
            self._speaking_since = None
            self._utterance.clear()
            return
        self.duration += item.duration
        self._samples += item.samples_per_channel
        if self.duration > self._vad.fail_after:
            raise RuntimeError("the detector broke")
        self._utterance.append(item)
        while self.duration >= self._judged_until + self._vad.capabilities.update_interval - 1e-6:
            self._judged_until += self._vad.capabilities.update_interval
            self._judge(item)

    def _judge(self, frame: rtc.AudioFrame) -> None:
        now = self._judged_until
        inside = [s for s, e in self._vad.speech if s + self._vad.min_speech_duration <= now < e]
        self.send(VADEventType.INFERENCE_DONE, frames=[frame], probability=float(any(inside)))
        if self._speaking_since is None:
            started = [s for s, e in self._vad.speech if s + self._onset(s, e) <= now + 1e-6 <= e]
            if started:
                self._speaking_since = started[0]
                self.send(VADEventType.START_OF_SPEECH, frames=list(self._utterance))
            else:
                self._utterance.clear()
            return
        end = max((e for s, e in self._vad.speech if s <= self._speaking_since), default=0.0)
        if now + 1e-6 >= end + self._vad.min_silence_duration:
            silence = now - end
            self.send(
                VADEventType.END_OF_SPEECH,
                frames=list(self._utterance),
                silence_duration=silence,
                speech_duration=end - self._speaking_since,
                speaking=False,
            )
            self._speaking_since = None
            self._utterance.clear()

    def _onset(self, start: float, end: float) -> float:
        return min(self._vad.min_speech_duration, end - start)

    def _event(self, type: VADEventType, **fields: Any) -> VADEvent:
        speaking = self._speaking_since is not None
        defaults: dict[str, Any] = {
            "samples_index": self._samples,
            "timestamp": self.duration,
            "speech_duration": self.duration - self._speaking_since
            if self._speaking_since is not None
            else 0.0,
            "silence_duration": 0.0,
            "speaking": speaking or type is VADEventType.START_OF_SPEECH,
            "inference_duration": self._vad.inference_duration,
        }
        return VADEvent(type=type, **{**defaults, **fields})


async def _sleep(seconds: float) -> None:
    if seconds == FOREVER:
        await asyncio.get_running_loop().create_future()
    elif seconds:
        await asyncio.sleep(seconds)


async def _sleep_stubbornly(vad: FakeVAD) -> None:
    while vad.ignore_cancellation:
        try:
            await _sleep(FOREVER)
        except asyncio.CancelledError:
            pass
