"""Offline speech recognition with PocketSphinx and the US English model it ships.

::

    from livekit.plugins import pocketsphinx

    session = AgentSession(stt=pocketsphinx.STT(), ...)
"""

from livekit.agents import Plugin

from .log import logger
from .stt import STT, SpeechStream
from .version import __version__

__all__ = ["STT", "SpeechStream", "__version__"]


class PocketSphinxPlugin(Plugin):
    """Makes the package known. Nothing is downloaded: the model comes with ``pocketsphinx``."""

    def __init__(self) -> None:
        super().__init__(__name__, __version__, __package__ or "", logger)


Plugin.register_plugin(PocketSphinxPlugin())
