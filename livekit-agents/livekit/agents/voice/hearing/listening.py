"""Everything that hears the user: STT, VAD, detectors. One frame in, all of them fed.

This is the owner of every stream that hearing ever opens: replaced ones are closed in the
background, and `aclose` ends all of them side by side.
"""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol, cast

from ...utils.aio import Survivor
from ..turn import is_streaming_detector
from .detector_driver import InterruptionDriver
from .hooks import AnsweringMachineListener, notify
from .modes import MIN_SILENCE_FOR_STREAMING_DETECTOR, leaves_no_time
from .prediction import StreamingPredictor, TextPredictor
from .stt_pump import STTPump
from .teardown import Closers, side_by_side
from .vad_driver import VADDriver

if TYPE_CHECKING:
    from livekit import rtc

    from ...inference import OverlappingSpeechEvent
    from ...stt import SpeechEvent
    from ...vad import VAD, VADEvent
    from ..io import STTNode
    from ..turn import TurnDetectionMode, _TurnDetector
    from .overlap import InterruptionDetector, OverlapSignal

__all__ = ["DetachedHearing", "Listening", "ListeningEvents", "check_vad"]


class ListeningEvents(Protocol):
    """Who is told what was heard."""

    def on_stt_event(self, ev: SpeechEvent) -> None:
        """The STT heard something."""
        ...

    def on_stt_failure(self, error: Exception) -> None:
        """The STT node broke in a way that the STT has not reported."""
        ...

    def on_vad_event(self, ev: VADEvent) -> None:
        """The VAD heard something."""
        ...

    def on_vad_lost(self) -> None:
        """The VAD ended or was taken away."""
        ...

    def on_verdict(self, ev: OverlappingSpeechEvent) -> None:
        """A detector judged speech over the agent."""
        ...

    def on_interruption_detector_changed(
        self, send: Callable[[OverlapSignal], None] | None
    ) -> None:
        """Where the detector takes its signals now; None if there is none."""
        ...

    def on_turn_detector_lost(self) -> None:
        """The streaming turn detector can't judge any more."""
        ...

    @property
    def amd(self) -> AnsweringMachineListener | None:
        """The answering machine detection that runs, if any."""
        ...


def check_vad(vad: VAD | None, detection: TurnDetectionMode | None) -> None:
    """Refuse a VAD that is too quick for a streaming turn detector.

    Raises:
        ValueError: Its `min_silence_duration` leaves the detector no time to answer.
    """
    if vad is None or not is_streaming_detector(detection):
        return
    if leaves_no_time(vad):
        silence = getattr(vad, "min_silence_duration", None)
        raise ValueError(
            f"vad min_silence_duration={silence}s is too low for the TurnDetector. It must be at "
            f"least {MIN_SILENCE_FOR_STREAMING_DETECTOR}s, so that the detector can be asked "
            "before the VAD ends the speech."
        )


@dataclass
class DetachedHearing:
    """Open streams on their way from one agent to the next."""

    pump: STTPump | None = None
    predictor: StreamingPredictor | None = None

    @property
    def empty(self) -> bool:
        """Whether all of it was adopted, or closed."""
        return self.pump is None and self.predictor is None

    async def aclose(self, timeout: float = 2.0) -> list[Survivor]:
        """Close what nobody adopted, within `timeout` seconds. Idempotent."""
        closing: list[Coroutine[Any, Any, list[Survivor]]] = []
        pump, self.pump = self.pump, None
        predictor, self.predictor = self.predictor, None
        if pump is not None:
            closing.append(pump.aclose(timeout))
        if predictor is not None:
            closers = Closers("detached hearing")
            closers.close("turn detector stream", predictor.stream.aclose)
            closing.append(closers.finish(timeout))
        return await side_by_side(*closing)


def _nobody_listens() -> None:
    """Between two agents: the next one will ask."""


class Listening:
    """Owns the streams, feeds them, and passes on what they report."""

    def __init__(self, events: ListeningEvents) -> None:
        self._events = events
        self._closers = Closers("hearing")
        self._pump: STTPump | None = None
        self._node: STTNode | None = None
        self._vad: VADDriver | None = None
        self._interruption: InterruptionDriver | None = None
        self._predictor: StreamingPredictor | None = None
        self._text_predictor: TextPredictor | None = None
        self._started = False
        self._closed = False

    # -- what there is --------------------------------------------------------------------------

    @property
    def pump(self) -> STTPump | None:
        """The STT's pump."""
        return self._pump

    @property
    def has_stt(self) -> bool:
        """Whether there is a node that transcribes."""
        return self._node is not None

    @property
    def vad(self) -> VAD | None:
        """The VAD that listens."""
        return None if self._vad is None else self._vad.vad

    @property
    def text_predictor(self) -> TextPredictor | None:
        """Reads the conversation for the end of a turn."""
        return self._text_predictor

    @property
    def streaming_predictor(self) -> StreamingPredictor | None:
        """Listens for the end of a turn."""
        return self._predictor

    # -- audio ----------------------------------------------------------------------------------

    def push(self, frame: rtc.AudioFrame, stt_frame: rtc.AudioFrame) -> None:
        """Let everybody hear a frame; the STT hears `stt_frame` instead."""
        if self._pump is not None:
            self._pump.push(stt_frame)
        if self._vad is not None:
            self._vad.push(frame)
        if self._interruption is not None:
            self._interruption.push(frame)
        if self._predictor is not None:
            self._predictor.push_audio(frame)
        if (amd := self._events.amd) is not None:
            notify(amd.push_audio, frame)

    def flush_vad(self) -> None:
        """Make the VAD forget the speech it is in."""
        if self._vad is not None:
            self._vad.flush()

    # -- starting and replacing -----------------------------------------------------------------

    def start(
        self,
        *,
        node: STTNode | None,
        vad: VAD | None,
        interruption: InterruptionDetector | None,
        detection: TurnDetectionMode | None,
        adopt: DetachedHearing | None,
    ) -> None:
        """Open all streams, taking over those of `adopt`. Needs a running loop."""
        self._started = True
        if adopt is not None and adopt.pump is not None and node is not None:
            self._node = node
            self._pump, adopt.pump = adopt.pump, None
            self._pump.rebind(node)
            self._pump.attach(self._events.on_stt_event, self._events.on_stt_failure)
        else:
            self.set_stt(node)
        self.set_vad(vad)
        self.set_interruption_detector(interruption)
        if adopt is not None and adopt.predictor is not None and is_streaming_detector(detection):
            predictor, adopt.predictor = adopt.predictor, None
            self._listen_with(predictor)
        else:
            self.set_turn_detection(detection)

    def set_stt(self, node: STTNode | None) -> None:
        """Transcribe with another node, or not at all; the old stream closes in the background."""
        old, self._pump, self._node = self._pump, None, node
        if node is not None and self._started and not self._closed:
            self._pump = STTPump(node)
            self._pump.attach(self._events.on_stt_event, self._events.on_stt_failure)
            self._pump.start()
        if old is not None:
            old.detach()
            self._retire("stt pump", old.aclose)

    def restart_stt(self) -> None:
        """Open a new STT stream, so that audio the old one still holds can't leak into new turns."""
        self.set_stt(self._node)

    def set_vad(self, vad: VAD | None) -> None:
        """Listen with another VAD, or none. The new one hears before the old one is closed."""
        old, new = self._vad, None
        if vad is not None and not self._closed:
            new = VADDriver(vad, self._events.on_vad_event, self._events.on_vad_lost)
            new.start()
        self._vad = new
        if old is not None:
            old.detach()
            self._retire("vad", old.aclose)

    def set_interruption_detector(self, detector: InterruptionDetector | None) -> None:
        """Judge speech over the agent with `detector`, or not at all."""
        old, self._interruption = self._interruption, None
        if old is not None:
            self._events.on_interruption_detector_changed(None)
            self._retire("interruption detector", old.aclose)
        if detector is None or self._closed:
            return
        new = InterruptionDriver(
            detector, self._events.on_verdict, lambda: self.set_interruption_detector(None)
        )
        new.start()
        self._interruption = new
        self._events.on_interruption_detector_changed(new.send)

    def set_turn_detection(self, detection: TurnDetectionMode | None) -> None:
        """Ask another turn detector, or none."""
        old, self._predictor, self._text_predictor = self._predictor, None, None
        if detection is None or isinstance(detection, str) or self._closed:
            pass
        elif is_streaming_detector(detection):
            self._listen_with(StreamingPredictor(detection.stream()))
        else:
            self._text_predictor = TextPredictor(cast("_TurnDetector", detection))
        if old is not None:
            self._retire("turn detector stream", old.stream.aclose)

    def _listen_with(self, predictor: StreamingPredictor) -> None:
        self._predictor = predictor
        predictor.when_lost(self._events.on_turn_detector_lost)

    def _retire(self, name: str, aclose: Callable[..., Any]) -> None:
        self._closers.close(name, aclose)

    def detach(self, *, keep_stt: bool, keep_turn_detector: bool) -> DetachedHearing:
        """Hand over open streams to the next agent; the rest stays to be closed."""
        detached = DetachedHearing()
        if keep_stt and self._pump is not None:
            self._pump.detach()
            detached.pump, self._pump = self._pump, None
        if keep_turn_detector and self._predictor is not None:
            self._predictor.forget()
            self._predictor.when_lost(_nobody_listens)
            detached.predictor, self._predictor = self._predictor, None
        return detached

    def begin_close(self) -> None:
        """The session closes: what breaks from now on stays broken."""
        if self._pump is not None:
            self._pump.stop_reconnecting()

    # -- closing --------------------------------------------------------------------------------

    async def aclose(self, timeout: float) -> list[Survivor]:
        """End all streams side by side, at most `timeout` seconds, whatever they do. Idempotent."""
        self._closed = True
        closing = [
            part.aclose(timeout)
            for part in (self._pump, self._vad, self._interruption)
            if part is not None
        ]
        if self._predictor is not None:
            self._retire("turn detector stream", self._predictor.stream.aclose)
        self._pump = self._vad = self._interruption = self._predictor = None
        return await side_by_side(*closing, self._closers.finish(timeout))
