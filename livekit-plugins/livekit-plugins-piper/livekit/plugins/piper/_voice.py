"""The synthesizer itself: text to samples. Plain calls that take their time: for a worker thread."""

from __future__ import annotations

import functools
import json
import os
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from livekit import rtc

from ._files import VoiceFiles, find_voice

if TYPE_CHECKING:
    import onnxruntime
    from piper import PiperVoice

_MAX_THREADS = 4
"""More don't make a sentence noticeably faster."""


@dataclass(frozen=True)
class Speaking:
    """How a text is spoken.

    Attributes:
        speed: 1.0 is the voice's own; 2.0 takes half the time.
        volume: Factor on the samples.
        speaker: Number of the speaker, in a voice with several.
        noise_scale: Variation of the sound; None is the voice's own.
        noise_w: Variation of the lengths of sounds; None is the voice's own.
        sentence_silence: Seconds of silence between sentences.
    """

    speed: float = 1.0
    volume: float = 1.0
    speaker: int | None = None
    noise_scale: float | None = None
    noise_w: float | None = None
    sentence_silence: float = 0.15

    def __post_init__(self) -> None:
        if not 0.25 <= self.speed <= 4.0:
            raise ValueError(f"speed must be between 0.25 and 4, got {self.speed}")
        for name in ("volume", "noise_scale", "noise_w", "sentence_silence"):
            value = getattr(self, name)
            if value is not None and value < 0:
                raise ValueError(f"{name} must not be negative, got {value}")


class Cancelled(Exception):
    """Synthesis was stopped by `Job.cancel`."""


class Job:
    """One synthesis, which any thread can stop, also in the middle of a sentence."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._cancelled = False
        self._run_options: onnxruntime.RunOptions | None = None

    @property
    def cancelled(self) -> bool:
        """Whether `cancel` was called."""
        return self._cancelled

    def cancel(self) -> None:
        """Stop. What runs raises `Cancelled` within milliseconds; so does what is begun later."""
        with self._lock:
            self._cancelled = True
            if self._run_options is not None:
                self._run_options.terminate = True

    def begin(self) -> onnxruntime.RunOptions:
        """The options with which the model must be run so that `cancel` reaches it."""
        import onnxruntime

        with self._lock:
            if self._cancelled:
                raise Cancelled
            if self._run_options is None:
                self._run_options = onnxruntime.RunOptions()
            return self._run_options


class Voice:
    """A voice that is loaded when it is first needed. May be used by several threads at once."""

    def __init__(self, files: VoiceFiles) -> None:
        self.files = files
        self._lock = threading.Lock()
        self._model: tuple[PiperVoice, _StoppableSession] | None = None

    @staticmethod
    def load(voice: str | Path | None = None) -> Voice:
        """Find a voice and read its model, once per process: half a second and some 100 MB.

        Args:
            voice: As for `TTS`.

        Raises:
            VoiceNotFoundError: There is no such voice.
            ValueError: Its description can't be used.
        """
        found = shared_voice(find_voice(voice))
        found.prepare()
        return found

    @property
    def sample_rate(self) -> int:
        """Of its speech, which is mono, in Hz."""
        return self.files.sample_rate

    @property
    def num_speakers(self) -> int:
        """How many speakers it has, numbered from 0."""
        return self.files.num_speakers

    def prepare(self) -> None:
        """Read the model, unless that was done."""
        self._loaded()

    def synthesize(
        self,
        text: str,
        *,
        speed: float = 1.0,
        volume: float = 1.0,
        speaker: int | None = None,
        noise_scale: float | None = None,
        noise_w: float | None = None,
    ) -> Iterator[rtc.AudioFrame]:
        """Speak a text without a stream. Blocks: some 100 ms per second of speech.

        Args:
            text: Any number of sentences.
            speed: Above 1 is faster.
            volume: Factor on the samples.
            speaker: Number of the speaker, for voices with several.
            noise_scale: Variation of the sound; 0 speaks the same way every time.
            noise_w: Variation of the lengths of sounds; 0 speaks the same way every time.

        Yields:
            One mono int16 frame per sentence.
        """
        speaking = Speaking(
            speed=speed,
            volume=volume,
            speaker=speaker,
            noise_scale=noise_scale,
            noise_w=noise_w,
        )
        for pcm in self._sentences(text, speaking, Job()):
            yield rtc.AudioFrame(pcm, self.sample_rate, 1, len(pcm) // 2)

    def speak(self, text: str, speaking: Speaking, job: Job) -> bytes:
        """Speak `text`: mono int16 at the voice's rate. Empty if nothing in it can be spoken.

        Raises:
            Cancelled: `job` was cancelled.
        """
        silence = self.silence(speaking.sentence_silence)
        return silence.join(self._sentences(text, speaking, job))

    def silence(self, seconds: float) -> bytes:
        """Samples of silence."""
        return bytes(2 * round(seconds * self.sample_rate))

    def duration(self, pcm: bytes) -> float:
        """Length of samples in seconds."""
        return len(pcm) / 2 / self.sample_rate

    def _sentences(self, text: str, speaking: Speaking, job: Job) -> Iterator[bytes]:
        from piper import SynthesisConfig

        piper, session = self._loaded()
        config = SynthesisConfig(
            speaker_id=speaking.speaker,
            length_scale=piper.config.length_scale / speaking.speed,
            noise_scale=speaking.noise_scale,
            noise_w_scale=speaking.noise_w,
            volume=speaking.volume,
        )
        sentences = iter(piper.synthesize(text, config))
        while True:
            session.options = job.begin()
            try:
                sentence = next(sentences, None)
            except Exception:
                if job.cancelled:
                    raise Cancelled from None
                raise
            if sentence is None:
                return
            yield sentence.audio_int16_bytes

    def _loaded(self) -> tuple[PiperVoice, _StoppableSession]:
        with self._lock:
            if self._model is None:
                self._model = _load(self.files)
            return self._model


@functools.lru_cache(maxsize=4)
def shared_voice(files: VoiceFiles) -> Voice:
    """The voice that all who use these files share."""
    return Voice(files)


class _StoppableSession(threading.local):
    """An inference session whose runs get the options of the job that the thread works for.

    Piper calls the session without options; they are what makes a run stoppable. Each thread has
    options of its own.
    """

    def __init__(self, session: onnxruntime.InferenceSession) -> None:
        self._session = session
        self.options: onnxruntime.RunOptions | None = None

    def run(self, outputs: Any, inputs: Any) -> Any:
        """As of the session."""
        return self._session.run(outputs, inputs, self.options)


def _load(files: VoiceFiles) -> tuple[PiperVoice, _StoppableSession]:
    import onnxruntime
    from piper import PiperConfig, PiperVoice

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = min(_MAX_THREADS, os.cpu_count() or 1)
    # Threads that wait for work by spinning would take the processor from the rest of the agent.
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    session = _StoppableSession(
        onnxruntime.InferenceSession(
            str(files.model), sess_options=options, providers=["CPUExecutionProvider"]
        )
    )
    config = PiperConfig.from_dict(json.loads(files.config.read_text(encoding="utf-8")))
    return PiperVoice(session=session, config=config), session
