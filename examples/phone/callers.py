"""Who calls: a script spoken by a synthesised voice, or anybody's recording."""

from __future__ import annotations

import array
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from .line import FRAME, SAMPLE_RATE, SAMPLES, SILENCE

SILENT_BELOW = 100
"""A recording whose loudest sample is below this (of 32768) has nobody in it."""


class CallerFileError(Exception):
    """The recording can't be used; the message says why, in one line."""


class CallState(Protocol):
    """What a caller can tell of the other end."""

    @property
    def agent_speaking(self) -> bool: ...

    @property
    def looking_up(self) -> bool: ...


@dataclass(frozen=True)
class Turn:
    """Something the caller says once a condition has held for a while."""

    text: str
    when: Callable[[CallState], bool]
    after: float
    """Seconds for which `when` has to hold."""


def _agent_silent(state: CallState) -> bool:
    return not state.agent_speaking


def _agent_speaking(state: CallState) -> bool:
    return state.agent_speaking


def _looking_up(state: CallState) -> bool:
    return state.looking_up and not state.agent_speaking


SCRIPT = (
    Turn("What are your opening hours?", _agent_silent, 1.0),
    Turn(  # cuts the answer short
        "I would like to book a table for two people tomorrow evening.", _agent_speaking, 2.5
    ),
    Turn("Can you look up my reservation please?", _agent_silent, 1.5),
)

HANG_UP = Turn("", _looking_up, 2.0)
"""The caller loses patience in the middle of the look-up."""


class ScriptedCaller:
    """Speaks the turns of a script when their time has come, and hangs up after the last.

    Args:
        voice: Synthesises a text to int16 PCM at the line's rate.
        state: The other end, as the caller hears it.
    """

    def __init__(self, voice: Callable[[str], bytes], state: CallState) -> None:
        self._state = state
        self._turns = deque((turn, voice(turn.text)) for turn in SCRIPT)
        self._speaking = b""
        self._held = 0.0
        self._agent_answered = False
        self._agent_was_silent = True

    @property
    def turn(self) -> int:
        """Number of the sentence that is being spoken, from 1; 0 in between."""
        return len(SCRIPT) - len(self._turns) if self._speaking else 0

    def __call__(self) -> bytes | None:
        """The next frame, or None: hung up."""
        if self._speaking:
            frame, self._speaking = self._speaking[: 2 * SAMPLES], self._speaking[2 * SAMPLES :]
            return frame.ljust(2 * SAMPLES, b"\0")
        # a reply that goes on for a moment after it was interrupted is no answer
        self._agent_answered |= self._agent_was_silent and self._state.agent_speaking
        self._agent_was_silent |= not self._state.agent_speaking
        turn, pcm = self._turns[0] if self._turns else (HANG_UP, b"")
        holds = self._agent_answered and turn.when(self._state)
        self._held = self._held + FRAME if holds else 0.0
        if self._held >= turn.after:
            if turn is HANG_UP:
                return None
            self._turns.popleft()
            self._speaking, self._held = pcm, 0.0
            self._agent_answered = self._agent_was_silent = False
        return SILENCE


class RecordedCaller:
    """Plays a recording, hears the last answer to its end, and hangs up."""

    PATIENCE = 4.0
    """Seconds of silence from the agent after which a caller who has said all hangs up."""

    def __init__(self, pcm: bytes, state: CallState) -> None:
        self._pcm = pcm
        self._position = 0
        self._state = state
        self._silent = 0.0

    def __call__(self) -> bytes | None:
        """The next frame, or None: hung up."""
        frame = self._pcm[self._position : self._position + 2 * SAMPLES]
        self._position += len(frame)
        if frame:
            return frame.ljust(2 * SAMPLES, b"\0")
        self._silent = 0.0 if self._state.agent_speaking else self._silent + FRAME
        return None if self._silent >= self.PATIENCE else SILENCE


def read_recording(path: Path) -> bytes:
    """Read an audio file of any format and rate as int16 mono PCM at the line's rate.

    Raises:
        CallerFileError: It does not exist, is not audio, is empty, or nobody speaks in it.
    """
    if not path.is_file():
        raise CallerFileError(f"{path}: there is no such file")
    if path.stat().st_size == 0:
        raise CallerFileError(f"{path}: the file is empty")
    pcm = _decode(path)
    if not pcm:
        raise CallerFileError(f"{path}: the file holds no audio")
    samples = array.array("h")
    samples.frombytes(pcm)
    if max(max(samples), -min(samples)) < SILENT_BELOW:
        raise CallerFileError(f"{path}: the recording is silent")
    return pcm


def _decode(path: Path) -> bytes:
    import av
    from av.audio.resampler import AudioResampler

    try:
        with av.open(str(path)) as container:
            if not container.streams.audio:
                raise CallerFileError(f"{path}: this is not an audio file")
            resampler = AudioResampler(format="s16", layout="mono", rate=SAMPLE_RATE)
            pcm = bytearray()
            for frame in container.decode(container.streams.audio[0]):
                for piece in resampler.resample(frame):
                    pcm += bytes(piece.planes[0])[: 2 * piece.samples]
            for piece in resampler.resample(None):
                pcm += bytes(piece.planes[0])[: 2 * piece.samples]
            return bytes(pcm)
    except av.error.FFmpegError as error:
        raise CallerFileError(f"{path}: this is not an audio file ({error.strerror})") from None
