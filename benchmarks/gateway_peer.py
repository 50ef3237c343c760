"""The gateway that `scenarios.py` measures clients against: an emulator in a process of its own.

Prints one JSON line with its two addresses: at ``quiet`` it only listens, at ``talkative`` it
answers every chunk of audio with an interim transcript of ten words. Ends with its standard input.
"""

from __future__ import annotations

import asyncio
import json
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "tests"))

from gateway import GatewayEmulator
from gateway.recognizers import Emit
from gateway.server import KEY, SECRET

from livekit.agents.inference._protocol.stt import (
    Transcript,
    TranscriptKind,
    Word,
)

WORDS = tuple(Word(f"word{n}", n * 0.3, n * 0.3 + 0.2, 0.9) for n in range(10))
TEXT = " ".join(word.text for word in WORDS)


class _Ears:
    def __init__(self, emit: Emit, *, talkative: bool) -> None:
        self._emit = emit
        self._talkative = talkative

    def feed(self, pcm: bytes) -> None:
        if self._talkative:
            self._emit(Transcript(TranscriptKind.INTERIM, TEXT, duration=3.0, words=WORDS))

    def finalize(self) -> bool:
        self._emit(Transcript(TranscriptKind.FINAL, TEXT, words=WORDS))
        return True

    async def aclose(self) -> None:
        pass


def _emulator(*, talkative: bool) -> GatewayEmulator:
    return GatewayEmulator(
        make_recognizer=lambda emit, rate, endpointing: _Ears(emit, talkative=talkative),
        keep_audio=False,
    )


async def main() -> None:
    """Serve until the standard input ends."""
    async with _emulator(talkative=False) as quiet, _emulator(talkative=True) as talkative:
        addresses = {
            "quiet": quiet.base_url,
            "talkative": talkative.base_url,
            "api_key": KEY,
            "api_secret": SECRET,
        }
        print(json.dumps(addresses), flush=True)
        await asyncio.get_running_loop().run_in_executor(None, sys.stdin.read)


if __name__ == "__main__":
    asyncio.run(main())
