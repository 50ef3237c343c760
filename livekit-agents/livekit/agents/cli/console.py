"""The console: one session whose voice, ears and text are those of this terminal."""

from __future__ import annotations

import asyncio
import contextvars
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal, TypeVar

if TYPE_CHECKING:
    from ..voice import AgentSession, io

__all__ = ["AgentsConsole", "ConsoleMode"]

T = TypeVar("T")

ConsoleMode = Literal["text", "audio"]


class AgentsConsole:
    """The console of this process: `AgentSession.start` asks it for the session's I/O."""

    _instance: ClassVar[AgentsConsole | None] = None

    def __init__(self) -> None:
        """Use `get_instance`."""
        self._enabled = False
        self._record = False
        self._mode: ConsoleMode = "audio"
        self._directory = Path("console-recordings") / time.strftime("session-%m-%d-%H%M%S")
        self._lock = threading.Lock()
        self._acquired = threading.Event()
        self._session: AgentSession[Any] | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._context: contextvars.Context | None = None
        self._audio_input: io.AudioInput | None = None
        self._audio_output: io.AudioOutput | None = None
        self._text_output: io.TextOutput | None = None
        self._make_io: Callable[[AgentsConsole], None] = lambda _: None
        self._on_acquired: Callable[[AgentsConsole], None] = lambda _: None
        self._tcp_transport: Any = None
        self._tcp_audio_input: Any = None
        self._tcp_audio_output: Any = None

    @classmethod
    def get_instance(cls) -> AgentsConsole:
        """The one of this process."""
        if cls._instance is None:
            cls._instance = cls()
        return cls._instance

    @property
    def enabled(self) -> bool:
        """Whether this process runs a console."""
        return self._enabled

    @enabled.setter
    def enabled(self, value: bool) -> None:
        self._enabled = value

    @property
    def record(self) -> bool:
        """Whether the session is recorded, and its report written, to `session_directory`."""
        return self._record

    @record.setter
    def record(self, value: bool) -> None:
        self._record = value

    @property
    def session_directory(self) -> Path:
        """Where recordings go."""
        return self._directory

    @property
    def io_acquired(self) -> bool:
        """Whether a session has the console's I/O."""
        return self._acquired.is_set()

    @property
    def io_session(self) -> AgentSession[Any]:
        """The session that has it. Raises RuntimeError when none has."""
        return _acquired(self._session)

    @property
    def io_loop(self) -> asyncio.AbstractEventLoop:
        """The event loop of that session. Raises RuntimeError when there is none."""
        return _acquired(self._loop)

    @property
    def io_context(self) -> contextvars.Context:
        """The context that session was started in. Raises RuntimeError when there is none."""
        return _acquired(self._context)

    def wait_for_io_acquisition(self) -> None:
        """Block until a session has the console's I/O."""
        self._acquired.wait()

    @property
    def console_mode(self) -> ConsoleMode:
        """Whether one talks or types. Setting it rewires the session."""
        return self._mode

    @console_mode.setter
    def console_mode(self, mode: ConsoleMode) -> None:
        with self._lock:
            self._mode = mode
            if self.io_acquired:
                self.io_loop.call_soon_threadsafe(self._wire, context=self.io_context)

    def acquire_io(self, *, loop: asyncio.AbstractEventLoop, session: AgentSession[Any]) -> None:
        """Give a session the console's I/O. For `AgentSession.start`.

        Raises:
            RuntimeError: Another session has it, or `loop` is not the running one.
        """
        if asyncio.get_running_loop() is not loop:
            raise RuntimeError("acquire_io must be called in the event loop of the session")
        with self._lock:
            if self.io_acquired:
                raise RuntimeError("the console's I/O belongs to another session already")
            self._session, self._loop = session, loop
            self._context = contextvars.copy_context()
            self._make_io(self)
            self._wire()
            self._acquired.set()
        self._on_acquired(self)

    def _wire(self) -> None:
        session = self.io_session
        talking = self._mode == "audio"
        session.input.audio = self._audio_input if talking else None
        session.output.audio = self._audio_output if talking else None
        session.output.transcription = self._text_output if talking else None


def _acquired(value: T | None) -> T:
    if value is None:
        raise RuntimeError("no session has the console's I/O yet")
    return value
