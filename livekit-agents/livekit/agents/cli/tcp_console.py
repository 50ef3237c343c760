"""A console on the other end of a TCP connection: its microphone and loudspeaker, as session I/O.

Audio travels at 48 kHz in both directions, next to the messages of a remote session.
"""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING

from livekit import rtc

from ..job import JobExecutorType
from ..utils.aio import Chan, ChanClosed
from ..voice import io
from .console import AgentsConsole
from .console_app import _ConsoleJob, _Front, _synchronise
from .errors import CLIError
from .proto import CliArgs
from .serve import run_worker

if TYPE_CHECKING:
    from livekit.protocol.agent_pb import agent_session as pb

    from ..voice.remote_session import TcpSessionTransport
    from ..worker import AgentServer

__all__ = ["AGENT_SAMPLE_RATE", "WIRE_SAMPLE_RATE", "TcpAudioInput", "TcpAudioOutput"]

WIRE_SAMPLE_RATE = 48000
"""Of the audio on the connection, in Hz; mono."""

AGENT_SAMPLE_RATE = 24000
"""Of the audio that the session gets and gives, in Hz; mono."""

_LABEL = "TCP Console"
_LATE = 5.0
"""Seconds beyond the length of a segment after which it is finished without the peer's word."""


class TcpAudioInput(io.AudioInput):
    """What the other end's microphone hears, at 24 kHz."""

    def __init__(self) -> None:
        """Frames that come before somebody listens are dropped."""
        super().__init__(label=_LABEL)
        self._frames: Chan[rtc.AudioFrame] = Chan()
        self._resampler = rtc.AudioResampler(WIRE_SAMPLE_RATE, AGENT_SAMPLE_RATE)
        self._loop: asyncio.AbstractEventLoop | None = None

    def push_frame(self, frame: rtc.AudioFrame) -> None:
        """Take a frame from the connection, in any thread."""
        if self._loop is None:
            return
        try:
            self._loop.call_soon_threadsafe(self._push, frame)
        except RuntimeError:
            pass  # the session's loop has ended

    def close(self) -> None:
        """Nothing more will come. From any thread."""
        if self._loop is None:
            self._frames.close()
            return
        try:
            self._loop.call_soon_threadsafe(self._frames.close)
        except RuntimeError:
            pass

    async def __anext__(self) -> rtc.AudioFrame:
        self._loop = asyncio.get_running_loop()
        try:
            return await self._frames.recv()
        except ChanClosed:
            raise StopAsyncIteration from None

    def _push(self, frame: rtc.AudioFrame) -> None:
        if self._frames.closed:
            return
        if frame.sample_rate == AGENT_SAMPLE_RATE:
            self._frames.send_nowait(frame)
            return
        for resampled in self._resampler.push(frame):
            self._frames.send_nowait(resampled)


class TcpAudioOutput(io.AudioOutput):
    """The other end's loudspeaker; can pause.

    A segment is finished when the other end says so, is cut off by `clear_buffer`, or is given up
    some seconds after it must have been over: the other end may be gone.
    """

    def __init__(self, transport: TcpSessionTransport) -> None:
        """Set up, for the running event loop or the one of the session.

        Args:
            transport: To the other end.
        """
        super().__init__(
            label=_LABEL,
            capabilities=io.AudioOutputCapabilities(pause=True),
            sample_rate=AGENT_SAMPLE_RATE,
        )
        self._transport = transport
        self._resampler = rtc.AudioResampler(AGENT_SAMPLE_RATE, WIRE_SAMPLE_RATE)
        self._loop: asyncio.AbstractEventLoop | None = None
        self._pushed = 0.0
        self._began_at: float | None = None
        self._flushed = False
        self._paused_at: float | None = None
        self._give_up: asyncio.TimerHandle | None = None

    async def capture_frame(self, frame: rtc.AudioFrame) -> None:
        """Send a frame to be played."""
        self._loop = asyncio.get_running_loop()
        first = not self._capturing
        await super().capture_frame(frame)
        if first:
            self._pushed, self._began_at, self._flushed = 0.0, time.monotonic(), False
            self.on_playback_started(created_at=time.time())
        self._pushed += frame.duration
        for resampled in self._resampler.push(frame):
            self._send_frame(resampled)

    def flush(self) -> None:
        """The segment is complete: the other end shall tell when it has been played."""
        if not self._capturing:
            return
        super().flush()
        for resampled in self._resampler.flush():
            self._send_frame(resampled)
        self._resampler = rtc.AudioResampler(AGENT_SAMPLE_RATE, WIRE_SAMPLE_RATE)
        self._flushed = True
        message = self._message()
        message.audio_playback_flush.SetInParent()
        self._transport.send_message_threadsafe(message)
        if self._loop is not None:
            left = max(0.0, self._pushed - self._position()) + _LATE
            self._give_up = self._loop.call_later(left, self._finish, False)

    def clear_buffer(self) -> None:
        """Fall silent at once."""
        message = self._message()
        message.audio_playback_clear.SetInParent()
        self._transport.send_message_threadsafe(message)
        if self._capturing:  # cut off before its end was known
            super().flush()
        self._finish(True)

    def pause(self) -> None:
        """The other end plays what it has; nothing more is counted as played."""
        self._paused_at = time.monotonic()

    def resume(self) -> None:
        """Go on."""
        if self._paused_at is not None and self._began_at is not None:
            self._began_at += time.monotonic() - self._paused_at
        self._paused_at = None

    def notify_playout_finished(self) -> None:
        """The other end has played everything. From any thread."""
        if self._loop is None:
            return
        try:
            self._loop.call_soon_threadsafe(self._finish, False)
        except RuntimeError:
            pass  # the session's loop has ended

    def _position(self) -> float:
        if self._began_at is None:
            return 0.0
        now = self._paused_at if self._paused_at is not None else time.monotonic()
        return min(max(0.0, now - self._began_at), self._pushed)

    def _finish(self, interrupted: bool) -> None:
        if self._give_up is not None:
            self._give_up.cancel()
            self._give_up = None
        if not interrupted and not self._flushed:
            return
        position = self._position() if interrupted else self._pushed
        self._began_at, self._flushed = None, False
        while self._pending_playback_count > 0:
            self.on_playback_finished(playback_position=position, interrupted=interrupted)

    def _send_frame(self, frame: rtc.AudioFrame) -> None:
        message = self._message()
        message.audio_output.data = bytes(frame.data)
        message.audio_output.sample_rate = frame.sample_rate
        message.audio_output.num_channels = frame.num_channels
        message.audio_output.samples_per_channel = frame.samples_per_channel
        self._transport.send_message_threadsafe(message)

    @staticmethod
    def _message() -> pb.AgentSessionMessage:
        from livekit.protocol.agent_pb import agent_session

        return agent_session.AgentSessionMessage()


class _TcpFront(_Front):
    """The session's I/O is on the connection; nothing is printed but logs."""

    def __init__(self, console: AgentsConsole, host: str, port: int) -> None:
        super().__init__(console)
        self._address = (host, port)

    def make_io(self, console: AgentsConsole) -> None:
        from ..voice.remote_session import TcpSessionTransport

        class Transport(TcpSessionTransport):
            async def start(self) -> None:
                try:
                    await super().start()
                except OSError as error:
                    raise CLIError(
                        f"the program of the console can't be reached at {self._host}:{self._port} "
                        f"({error}): start it first, it says where it listens"
                    ) from None

        transport = Transport(*self._address)
        output = TcpAudioOutput(transport)
        _synchronise(console, output)
        console._tcp_transport = transport
        console._tcp_audio_input = console._audio_input = TcpAudioInput()
        console._tcp_audio_output = output

    def end(self) -> None:
        if self.console._tcp_audio_input is not None:
            self.console._tcp_audio_input.close()

    def _acquired(self, console: AgentsConsole) -> None:
        console.io_session.on("close", lambda _: self.leave())


def run_tcp_console(server: AgentServer, *, address: str, record: bool, log_level: str) -> int:
    """Run the console of a program that listens at `address`. Returns the exit status.

    Raises:
        CLIError: The address is none.
    """
    host, _, port = address.rpartition(":")
    if not port.isdecimal() or not 0 < int(port) < 65536:
        raise CLIError(f"{address!r} is no address: expected HOST:PORT")
    console = AgentsConsole.get_instance()
    console.enabled = True
    console.record = record
    front = _TcpFront(console, host or "127.0.0.1", int(port))
    server._job_executor_type = JobExecutorType.THREAD
    status = run_worker(
        server,
        CliArgs(log_level=log_level, dev=True),
        unregistered=True,
        beside=_ConsoleJob(front).run,
    )
    return status or (1 if front.failed else 0)
