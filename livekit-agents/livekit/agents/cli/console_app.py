"""Runs a server in the console: one job, without a room, whose session talks to this terminal."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..job import JobExecutorType
from ..log import logger
from ..utils.aio import TaskScope
from ..worker import AgentServer
from .console import AgentsConsole
from .console_view import ConsoleView
from .errors import CLIError
from .keyboard import KeyReader, LineEditor, LineReader
from .proto import CliArgs
from .readchar import key
from .serve import run_worker

if TYPE_CHECKING:
    from ..voice import AgentSession, io
    from .console_line import FileLine
    from .sound_card import SoundCard

__all__ = ["ConsoleOptions", "run_console"]

_SHORTCUTS = "Ctrl+T toggles between talking and typing, ? shows this, Ctrl+C ends"


class ConsoleOptions:
    """What the command line says about the console."""

    def __init__(
        self,
        *,
        text: bool = False,
        input_device: str | None = None,
        output_device: str | None = None,
        input_file: Path | None = None,
        output_file: Path | None = None,
        record: bool = False,
        log_level: str = "INFO",
    ) -> None:
        self.text = text
        self.input_device = input_device
        self.output_device = output_device
        self.input_file = input_file
        self.output_file = output_file
        self.record = record
        self.log_level = log_level


def run_console(server: AgentServer, options: ConsoleOptions) -> int:
    """Run the console until one leaves it. Returns the exit status of the process.

    Raises:
        CLIError: Sound or files are not usable.
    """
    console = AgentsConsole.get_instance()
    console.enabled = True
    console.record = options.record
    console.console_mode = "text" if options.text else "audio"
    front = _front(console, options)
    server._job_executor_type = JobExecutorType.THREAD
    return run_worker(
        server,
        CliArgs(log_level=options.log_level, dev=True),
        unregistered=True,
        beside=_ConsoleJob(front).run,
    ) or (1 if front.failed else 0)


def _front(console: AgentsConsole, options: ConsoleOptions) -> _Front:
    if options.input_file is not None:
        from .console_line import FileLine

        return _FileFront(console, FileLine(options.input_file, options.output_file))
    if options.text and not sys.stdin.isatty():
        return _PipeFront(console)

    def find_card() -> SoundCard:
        from .sound_card import SoundCard

        return SoundCard(options.input_device, options.output_device)

    return _TerminalFront(console, find_card)


class _ConsoleJob:
    """Starts the job of the console, and ends with it or with its user."""

    def __init__(self, front: _Front) -> None:
        self._front = front

    async def run(self, server: AgentServer) -> None:
        """Run along with the server."""
        started = asyncio.Event()
        server.once("worker_started", started.set)
        if server._run is not None and server._run.started:
            started.set()
        await started.wait()
        self._front.begin(asyncio.get_running_loop())
        scope = TaskScope("console")
        try:
            await server.simulate_job("console-room", agent_identity="console", fake_job=True)
            assert server._run is not None
            executor = next(iter(server._run.active_executors()), None)
            ends = [scope.spawn(self._front.left.wait(), name="wait for the user")]
            if executor is not None:
                ends.append(scope.spawn(executor.join(), name="wait for the job"))  # type: ignore[arg-type]
            await asyncio.wait(ends, return_when=asyncio.FIRST_COMPLETED)
            if executor is not None and executor.error:
                self._front.failed = True
        finally:
            self._front.end()
            await scope.cancel(0.5)


class _Front:
    """One way to talk to the session. Runs in two event loops: the server's, and the session's."""

    def __init__(self, console: AgentsConsole) -> None:
        self.console = console
        self.view = ConsoleView()
        self.failed = False
        self.left = asyncio.Event()
        self._loop: asyncio.AbstractEventLoop | None = None
        console._make_io = self.make_io
        console._on_acquired = self._acquired

    def begin(self, loop: asyncio.AbstractEventLoop) -> None:
        """The server runs; `loop` is its."""
        self._loop = loop

    def end(self) -> None:
        """The console ends."""

    def make_io(self, console: AgentsConsole) -> None:
        """Provide audio in and out, in the loop of the session."""

    def started(self, session: AgentSession[Any]) -> None:
        """A session begins; called in its loop."""

    def leave(self) -> None:
        """The user wants to leave. From any thread."""
        if self._loop is not None:
            try:
                self._loop.call_soon_threadsafe(self.left.set)
            except RuntimeError:
                pass  # it has ended already

    def _acquired(self, console: AgentsConsole) -> None:
        session = console.io_session
        self.view.follow(session)
        session.on("close", lambda _: self.leave())
        self.started(session)


def _synchronise(console: AgentsConsole, output: io.AudioOutput) -> None:
    """Play through `output`; what is cut off is remembered as far as it was heard."""
    from ..voice import TranscriptSynchronizer

    sync = TranscriptSynchronizer(next_in_chain_audio=output, next_in_chain_text=None)
    console._audio_output, console._text_output = sync.audio_output, sync.text_output


class _Typed:
    """Lines that were typed, told to the session one after the other."""

    def __init__(self, front: _Front, session: AgentSession[Any]) -> None:
        self._front = front
        self._session = session
        self._loop = asyncio.get_running_loop()
        self._lines: asyncio.Queue[str | None] = asyncio.Queue()
        self._scope = TaskScope("console")
        self._scope.spawn(self._converse(), name="typed conversation")

    def put(self, line: str | None) -> None:
        """Somebody typed a line; None or an empty one: they have nothing more to say."""
        try:
            self._loop.call_soon_threadsafe(self._lines.put_nowait, line)
        except RuntimeError:
            pass  # the session's loop has ended

    async def _converse(self) -> None:
        try:
            while (line := await self._lines.get()) is not None and line.strip():
                try:
                    await self._session.run(user_input=line)
                except RuntimeError as error:
                    self._front.view.show("note", f"{error}")
                    if self._session._is_closing:
                        return
        finally:
            self._front.leave()


class _PipeFront(_Front):
    """Lines come from a pipe or a file, and the answers go to stdout."""

    def started(self, session: AgentSession[Any]) -> None:
        typed = _Typed(self, session)
        LineReader(typed.put, lambda: typed.put(None)).start()


class _FileFront(_Front):
    """The caller is a recording."""

    def __init__(self, console: AgentsConsole, line: FileLine) -> None:
        super().__init__(console)
        self._line = line
        self._scope = TaskScope("console")

    def make_io(self, console: AgentsConsole) -> None:
        console._audio_input = self._line.input
        _synchronise(console, self._line.output)

    def started(self, session: AgentSession[Any]) -> None:
        self._scope.spawn(self._carry(), name="call from a file")

    async def _carry(self) -> None:
        try:
            await self._line.run()
        except CLIError as error:
            self.failed = True
            logger.error("%s", error)
        finally:
            self._line.write()
            self.leave()


class _TerminalFront(_Front):
    """Microphone and loudspeaker, or the keyboard; Ctrl+T switches between the two.

    Args:
        find_card: Finds the sound card; called when one first wants to talk. Raises CLIError.
    """

    def __init__(self, console: AgentsConsole, find_card: Callable[[], SoundCard]) -> None:
        super().__init__(console)
        self._find_card = find_card
        self._card: SoundCard | None = None
        if console.console_mode == "audio":
            self._card = find_card()  # before anything is started
        self._opened = False
        self._keys = KeyReader(self._pressed, self.leave)
        self._line = LineEditor()
        self._typed: _Typed | None = None
        self._early: list[str | None] = []

    def begin(self, loop: asyncio.AbstractEventLoop) -> None:
        super().begin(loop)
        self._keys.__enter__()
        typing = self.console.console_mode == "text"
        what = "type what you say; an empty line or Ctrl+D ends" if typing else "talk to the agent"
        self.view.show("note", f"{what}; {_SHORTCUTS}")

    def end(self) -> None:
        self._keys.__exit__()

    def make_io(self, console: AgentsConsole) -> None:
        if self._card is not None:
            self._open(self._card)

    def _open(self, card: SoundCard) -> None:
        self._opened = True
        self.console._audio_input, speaker = card.open()
        _synchronise(self.console, speaker)

    def started(self, session: AgentSession[Any]) -> None:
        self._typed = _Typed(self, session)
        for line in self._early:  # typed before the agent was there
            self._typed.put(line)

    def _pressed(self, pressed: str) -> None:
        if pressed == key.CTRL_T:
            self._toggle()
        elif self.console.console_mode == "text":
            self._type(pressed)
        elif pressed == "?":
            self.view.show("note", _SHORTCUTS)

    def _toggle(self) -> None:
        console = self.console
        if console.console_mode == "audio":
            console.console_mode = "text"
            self.view.show("note", "type a line")
            return
        try:
            self._card = self._card or self._find_card()
        except CLIError as error:
            self.view.show("note", f"{error}")
            return
        if not self._opened and console.io_acquired:
            console.io_loop.call_soon_threadsafe(self._open, self._card, context=console.io_context)
        console.console_mode = "audio"
        self.view.show("note", "talk")

    def _type(self, pressed: str) -> None:
        if pressed == "?" and not self._line.text:
            self.view.show("note", _SHORTCUTS)
            return
        line: str | None = None
        if pressed != key.CTRL_D or self._line.text:
            line = self._line.press(pressed)
            self.view.prompt(self._line.text)
            if line is None:
                return
        if self._typed is not None:
            self._typed.put(line)
        else:
            self._early.append(line)
