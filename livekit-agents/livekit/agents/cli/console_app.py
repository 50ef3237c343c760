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
from .keyboard import KeyReader, LineReader
from .proto import CliArgs
from .serve import run_worker

if TYPE_CHECKING:
    from ..voice import AgentSession, io
    from .console_line import FileLine

__all__ = ["ConsoleOptions", "run_console"]

_SHORTCUTS = "Ctrl+T toggles between talking and typing, Ctrl+C ends"
_CTRL_T = "\x14"


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
    if options.text:
        return _TextFront(console)
    from .sound_card import SoundCard

    return _SoundFront(console, SoundCard(options.input_device, options.output_device))


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
        try:
            await server.simulate_job("console-room", agent_identity="console", fake_job=True)
            assert server._run is not None
            executor = next(iter(server._run.active_executors()), None)
            scope = TaskScope("console")
            ends = [scope.spawn(self._front.left.wait(), name="wait for the user")]
            if executor is not None:
                ends.append(scope.spawn(executor.join(), name="wait for the job"))  # type: ignore[arg-type]
            await asyncio.wait(ends, return_when=asyncio.FIRST_COMPLETED)
            await scope.cancel(0.5)
            if executor is not None and executor.error:
                self._front.failed = True
        finally:
            self._front.end()


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
        self.view.follow(session, heard=console.console_mode == "audio")
        session.on("close", lambda _: self.leave())
        self.started(session)


def _synchronise(console: AgentsConsole, output: io.AudioOutput) -> None:
    """Play through `output`; what is cut off is remembered as far as it was heard."""
    from ..voice import TranscriptSynchronizer

    sync = TranscriptSynchronizer(next_in_chain_audio=output, next_in_chain_text=None)
    console._audio_output, console._text_output = sync.audio_output, sync.text_output


class _TextFront(_Front):
    """One types, and reads the answers."""

    def __init__(self, console: AgentsConsole) -> None:
        super().__init__(console)
        self._scope = TaskScope("console")
        self._lines: asyncio.Queue[str | None] | None = None

    def started(self, session: AgentSession[Any]) -> None:
        loop = asyncio.get_running_loop()
        lines: asyncio.Queue[str | None] = asyncio.Queue()

        def put(line: str | None) -> None:
            try:
                loop.call_soon_threadsafe(lines.put_nowait, line)
            except RuntimeError:
                pass  # the session's loop has ended

        if sys.stdin.isatty():
            self.view.show("note", "type what you say; an empty line or Ctrl+D ends")
        self._scope.spawn(self._converse(session, lines), name="typed conversation")
        LineReader(put, lambda: put(None)).start()

    async def _converse(self, session: AgentSession[Any], lines: asyncio.Queue[str | None]) -> None:
        try:
            while (line := await lines.get()) is not None and line.strip():
                try:
                    await session.run(user_input=line)
                except RuntimeError as error:
                    self.view.show("note", f"{error}")
                    return
        finally:
            self.leave()


class _FileFront(_Front):
    """The caller is a recording."""

    def __init__(self, console: AgentsConsole, line: FileLine) -> None:
        super().__init__(console)
        self._line = line
        self._scope = TaskScope("console")

    def make_io(self, console: AgentsConsole) -> None:
        from ..voice import TranscriptSynchronizer

        # what is cut off is remembered as far as it was heard
        sync = TranscriptSynchronizer(
            next_in_chain_audio=self._line.output, next_in_chain_text=None
        )
        console._audio_input = self._line.input
        console._audio_output = sync.audio_output
        console._text_output = sync.text_output

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


class _SoundFront(_Front):
    """Microphone and loudspeaker; Ctrl+T switches to typing and back."""

    def __init__(self, console: AgentsConsole, card: Any) -> None:
        super().__init__(console)
        self._card = card
        self._keys = KeyReader(self._pressed)
        self._typed: list[str] = []

    def begin(self, loop: asyncio.AbstractEventLoop) -> None:
        super().begin(loop)
        self._keys.__enter__()
        self.view.show("note", f"talk to the agent; {_SHORTCUTS}. ? shows this again")

    def end(self) -> None:
        self._keys.__exit__()

    def make_io(self, console: AgentsConsole) -> None:
        console._audio_input, speaker = self._card.open()
        _synchronise(console, speaker)

    def _pressed(self, key: str) -> None:
        if key == _CTRL_T:
            typing = self.console.console_mode == "audio"
            self.console.console_mode = "text" if typing else "audio"
            self.view.show("note", "type a line" if typing else "talk")
        elif self.console.console_mode == "text":
            self._type(key)
        elif key == "?":
            self.view.show("note", _SHORTCUTS)

    def _type(self, key: str) -> None:
        if key == "\n":
            line, self._typed = "".join(self._typed), []
            sys.stdout.write("\r")
            if line.strip() and self.console.io_acquired:
                self._say(line)
        elif key == "\x7f":
            self._typed = self._typed[:-1]
        else:
            self._typed.append(key)
        sys.stdout.write("\r\033[K" + "".join(self._typed))
        sys.stdout.flush()

    def _say(self, line: str) -> None:
        session = self.console.io_session
        call: Callable[[], Any] = lambda: session.run(user_input=line)  # noqa: E731
        self.console.io_loop.call_soon_threadsafe(call, context=self.console.io_context)
