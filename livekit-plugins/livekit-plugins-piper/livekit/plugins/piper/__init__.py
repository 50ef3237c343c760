"""Offline speech synthesis with Piper.

::

    from livekit.plugins import piper

    session = AgentSession(tts=piper.TTS(), ...)

`piper-tts` is licensed under the GPL-3.0, which is why this is a package of its own.
"""

from livekit.agents import Plugin

from ._voice import Voice, VoiceNotFoundError
from .log import logger
from .tts import TTS, ChunkedStream, SynthesizeStream
from .version import __version__

__all__ = [
    "TTS",
    "ChunkedStream",
    "SynthesizeStream",
    "Voice",
    "VoiceNotFoundError",
    "__version__",
]


class PiperPlugin(Plugin):
    """Makes the package known. Nothing is downloaded: voices are files or packages."""

    def __init__(self) -> None:
        super().__init__(__name__, __version__, __package__ or "", logger)


Plugin.register_plugin(PiperPlugin())
