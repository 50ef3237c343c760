"""Debugging aid: keep synthesized speech as WAV files when `LK_DUMP_TTS` is set to a number != 0."""

from __future__ import annotations

import re
import time
from pathlib import Path

from livekit import rtc

from ..log import logger
from ..utils.env import resolve_env_int

lk_dump_tts: int = resolve_env_int("LK_DUMP_TTS")
"""Whether to write each segment to the folder `lk_dump`. Read once, when this is imported."""

_FOLDER = Path("lk_dump")


def dump_segment(
    frames: list[rtc.AudioFrame], *, label: str, request_id: str, segment_id: str
) -> None:
    """Write a segment to `lk_dump/{label}_{request_id}[_{segment_id}]_{time}.wav`.

    Blocks while it writes. A failure is logged and otherwise ignored: it must not cost the speech.
    """
    parts = [label, request_id, *([segment_id] if segment_id else [])]
    parts.append(time.strftime("%Y-%m-%d_%H-%M-%S"))
    name = re.sub(r"[^\w.-]", "-", "_".join(parts))
    try:
        _FOLDER.mkdir(exist_ok=True)
        (_FOLDER / f"{name}.wav").write_bytes(rtc.combine_audio_frames(frames).to_wav_bytes())
    except Exception:
        logger.exception("could not write the speech dump %s.wav", name)
