"""A phone call with the receptionist that you can watch, and listen to afterwards.

    make demo                          a scripted caller
    make demo CALLER=path.wav          anybody's recording, any format and rate
    make demo FAST=1                   without waiting for real time
    make demo GATEWAY=1                hearing, thinking and speaking through an inference gateway
    make demo GATEWAY=1 FAULT=outage   which is gone for 5 s in the middle of a sentence

A caller's voice is fed to the agent as 20 ms frames. The agent hears, answers, is interrupted,
calls tools; then the caller hangs up in the middle of a slow look-up. Written to out/: call.wav
(caller left, agent right), transcript.txt, timeline.html.

Exit code: 0 if the session closed within its bound and left nothing behind, 1 if not, 2 if the
recording can't be used.
"""

from __future__ import annotations

import argparse
import asyncio
import logging
import os
import sys
import time
from collections.abc import Callable
from pathlib import Path

from livekit import rtc
from phone.call_log import CallLog
from phone.callers import (
    CallerFileError,
    CallState,
    RecordedCaller,
    ScriptedCaller,
    read_recording,
)
from phone.display import Display
from phone.line import SAMPLE_RATE, PhoneLine
from phone.timeline import write_timeline
from receptionist import Receptionist, make_session, receptionist_rules

from livekit.agents import AgentSession
from livekit.agents.voice import TranscriptSynchronizer

FAST = 3.0
"""How much faster than life a fast call runs: recognition and synthesis have to keep up."""


class Call(CallState):
    """One call, from the first ring to what is left of it."""

    def __init__(
        self, display: Display, *, speed: float, session: AgentSession[None] | None = None
    ) -> None:
        self._display = display
        self._next_frame: Callable[[], bytes | None] | None = None
        self.line = PhoneLine(self._caller_frame, speed=speed)
        self.log = CallLog(self._now, display.show)
        self.session = session if session is not None else make_session()
        self._hung_up: float | None = None

    def _now(self) -> float:
        """Seconds since the call began. The line's clock stops with the call, the close goes on."""
        after = time.monotonic() - self._hung_up if self._hung_up is not None else 0.0
        return self.line.seconds + after

    def _caller_frame(self) -> bytes | None:
        assert self._next_frame is not None
        return self._next_frame()

    @property
    def agent_speaking(self) -> bool:
        """Whether the caller hears the agent."""
        return self.line.output.playing

    @property
    def looking_up(self) -> bool:
        """Whether the slow look-up runs."""
        return "find_reservation" in self.log.tools_running

    async def run(self, caller: Callable[[], bytes | None]) -> None:
        """Carry the call, then close the session as a hang-up does."""
        self._next_frame = caller
        self.log.follow(self.session)
        self.session.input.audio = self.line.input
        # what was cut off is remembered as far as it was heard
        sync = TranscriptSynchronizer(next_in_chain_audio=self.line.output, next_in_chain_text=None)
        self.session.output.audio = sync.audio_output
        self.session.output.transcription = sync.text_output
        await self.session.start(Receptionist())
        await self.line.run()
        self._hung_up = time.monotonic()
        self.log.hung_up_at = self.line.seconds
        self.log.add("note", "the caller hangs up")
        await self.session.aclose()
        await sync.aclose()


def open_sockets() -> int:
    """How many sockets this process has open."""
    count = 0
    for fd in Path("/proc/self/fd").iterdir() if Path("/proc/self/fd").exists() else ():
        try:
            count += os.readlink(fd).startswith("socket:")
        except OSError:
            continue  # it was the descriptor of this very listing
    return count


def synthesise(text: str) -> bytes:
    """The scripted caller's voice, the same in every call, as PCM at the line's rate."""
    from livekit.plugins import piper

    frames = piper.Voice.load().synthesize(text, noise_scale=0.0, noise_w=0.0)
    resampler: rtc.AudioResampler | None = None
    pcm = bytearray()
    for frame in frames:
        if resampler is None:
            resampler = rtc.AudioResampler(frame.sample_rate, SAMPLE_RATE)
        for piece in resampler.push(frame):
            pcm += bytes(piece.data)
    for piece in resampler.flush() if resampler is not None else ():
        pcm += bytes(piece.data)
    return bytes(pcm)


async def run(options: argparse.Namespace) -> int:
    """Run the call and write what is left of it. Returns the exit code."""
    display = Display()
    recording = read_recording(options.caller) if options.caller else None
    # the native media library opens sockets of its own for as long as the process lives
    rtc.AudioResampler(SAMPLE_RATE, SAMPLE_RATE // 2)
    sockets_before = open_sockets()
    speed = FAST if options.fast else 1.0
    if options.gateway:
        call = await call_through_gateway(display, recording, options, speed=speed)
        return finish(call, display, options.out, sockets=open_sockets() - sockets_before)
    call = Call(display, speed=speed)
    if recording is not None:
        display.title(f"{options.caller.name} calls the receptionist")
        await call.run(RecordedCaller(recording, call))
    else:
        display.title("A caller calls the receptionist")
        await call.run(ScriptedCaller(synthesise, call))
    return finish(call, display, options.out, sockets=open_sockets() - sockets_before)


async def call_through_gateway(
    display: Display, recording: bytes | None, options: argparse.Namespace, *, speed: float
) -> Call:
    """The same call, with all models behind a gateway on this machine."""
    from phone.gateway import ReplayNotes, local_gateway

    async with local_gateway(receptionist_rules()) as gateway:
        call = Call(display, speed=speed, session=gateway.make_session())
        display.title(f"A caller calls the receptionist, by way of {gateway.address}")

        def note(text: str) -> None:
            call.log.add("note", text)

        notes = ReplayNotes(note)
        logger = logging.getLogger("livekit.agents")
        logger.setLevel(logging.INFO)
        logger.addHandler(notes)
        caller: RecordedCaller | ScriptedCaller
        if recording is not None:
            caller = RecordedCaller(recording, call)
        else:
            caller = scripted = ScriptedCaller(synthesise, call)
            if options.fault == "outage":
                gateway.plan_outage(lambda: scripted.turn == 2, note, speed=speed)
        try:
            await call.run(caller)
        finally:
            logger.removeHandler(notes)
    return call


def finish(call: Call, display: Display, out: Path, *, sockets: int) -> int:
    """Show what closing took, write the files, and judge the close."""
    report = call.log.report
    assert report is not None, "a session that was started always emits its close"
    options = call.session.options
    bound = options.forced_drain_timeout + 2 * options.teardown_timeout + 0.5
    display.close(report, bound=bound)
    tasks = asyncio.all_tasks() - {asyncio.current_task()}
    names = ", ".join(sorted(task.get_name() for task in tasks))
    display.line(f"  left open: {sockets} sockets, {len(tasks)} tasks{names and f' ({names})'}")
    out.mkdir(parents=True, exist_ok=True)
    call.line.write_wav(out / "call.wav")
    (out / "transcript.txt").write_text(transcript(call.log), encoding="utf-8")
    write_timeline(out / "timeline.html", call.line, call.log, bound=bound)
    display.line(f"\n{out}/call.wav  {out}/transcript.txt  {out}/timeline.html")
    took = (report.finished_at or float("inf")) - report.requested_at
    clean = took <= bound and not report.survivors and not tasks and sockets <= 0
    return 0 if clean else 1


def transcript(log: CallLog) -> str:
    """The conversation as text."""
    who = {"heard": "caller", "said": "agent", "tool": "tool", "tool_end": "tool", "note": "*"}
    lines = [
        f"[{entry.at:6.2f}] {who[entry.kind]}: {entry.text}"
        + (f" ({entry.detail})" if entry.detail else "")
        for entry in log.entries
        if entry.kind in who
    ]
    return "\n".join(lines) + "\n"


def main() -> int:
    """Parse the command line and run the call."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--caller", type=Path, help="a recording of the caller, any audio file")
    parser.add_argument("--fast", action="store_true", help="don't wait for real time")
    parser.add_argument("--gateway", action="store_true", help="all models behind a gateway")
    parser.add_argument(
        "--fault", choices=("outage",), help="what happens to the gateway during the call"
    )
    parser.add_argument("--out", type=Path, default=Path("out"), help="where to write the results")
    options = parser.parse_args()
    if options.fault and not (options.gateway and options.caller is None):
        parser.error("--fault needs --gateway, and the scripted caller")
    logging.basicConfig(level=logging.WARNING, format="%(levelname)s %(message)s")
    logging.getLogger().handlers[0].setLevel(logging.WARNING)
    try:
        return asyncio.run(run(options))
    except CallerFileError as error:
        print(error, file=sys.stderr)
        return 2


if __name__ == "__main__":
    sys.exit(main())
