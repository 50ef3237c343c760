"""Offline speech synthesis with Piper.

::

    from livekit.plugins import piper

    session = AgentSession(tts=piper.TTS(), ...)

Piper (the package ``piper-tts``) is licensed under the GNU General Public License 3.0.
"""

from livekit.agents import Plugin

from ._files import VoiceNotFoundError
from ._voice import Voice
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
