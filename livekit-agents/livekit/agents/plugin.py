"""Registration of provider packages."""

from __future__ import annotations

import logging
import threading
from abc import ABC
from typing import ClassVar, Literal

from livekit import rtc

EventTypes = Literal["plugin_registered",]


class Plugin(ABC):  # noqa: B024 (a base class by name; it has nothing a plugin must define)
    """A provider package (``livekit.plugins.<name>``) that makes itself known on import.

    Attributes:
        registered_plugins: every plugin imported so far, in order of import.
        emitter: emits ``"plugin_registered"`` with the plugin.
    """

    registered_plugins: ClassVar[list[Plugin]] = []
    emitter: ClassVar[rtc.EventEmitter[EventTypes]] = rtc.EventEmitter()

    def __init__(
        self, title: str, version: str, package: str, logger: logging.Logger | None = None
    ) -> None:
        """Describe the package.

        Args:
            title: module name, by custom the package's ``__name__``.
            version: version of the distribution.
            package: the package's ``__package__``; may be empty.
            logger: the package's logger.
        """
        self._title = title
        self._version = version
        self._package = package
        self._logger = logger

    @classmethod
    def register_plugin(cls, plugin: Plugin) -> None:
        """Add a plugin to `registered_plugins` and announce it.

        Raises:
            RuntimeError: called on another than the main thread. Processes inherit their plugins
                from what the main thread imported, so an import made later elsewhere would be lost.
        """
        if threading.current_thread() is not threading.main_thread():
            raise RuntimeError(
                "Plugins must be registered on the main thread: import "
                f"{plugin.title!r} at the top of the file that defines the agent"
            )
        cls.registered_plugins.append(plugin)
        cls.emitter.emit("plugin_registered", plugin)

    def download_files(self) -> None:
        """Download what the plugin needs at run time, such as model weights. Does nothing here."""
        return None

    @property
    def package(self) -> str:
        """The package's ``__package__``."""
        return self._package

    @property
    def title(self) -> str:
        """Module name of the plugin."""
        return self._title

    @property
    def version(self) -> str:
        """Version of the distribution."""
        return self._version

    @property
    def logger(self) -> logging.Logger | None:
        """The plugin's logger, if it has one."""
        return self._logger
