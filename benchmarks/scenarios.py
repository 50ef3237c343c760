"""The measured scenarios, on public API only, so that they run with any livekit-agents.

python benchmarks/scenarios.py NAME     prints one JSON object of figures
"""

from __future__ import annotations

import asyncio
import json
import logging
import resource
import statistics
import sys
import time
from collections.abc import Awaitable, Callable
from typing import Any

AGENT_FILE_IMPORTS = (
    "from livekit.agents import Agent, AgentSession, AgentServer, JobContext, RunContext, cli, "
    "function_tool, inference"
)


def resident_mb() -> float:
    """Memory in use now, in MB."""
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * resource.getpagesize() / 2**20


def peak_mb() -> float:
    """The most memory used so far, in MB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


# -- imports ----------------------------------------------------------------------------------------


def package() -> dict[str, float]:
    """`import livekit.agents` alone."""
    return _timed_import("import livekit.agents")


def agent_file() -> dict[str, float]:
    """What an agent file imports."""
    return _timed_import(AGENT_FILE_IMPORTS)


def floor() -> dict[str, float]:
    """What any agent needs whoever writes the framework."""
    return _timed_import("from livekit import rtc; import aiohttp, pydantic")


def _timed_import(statement: str) -> dict[str, float]:
    began = time.perf_counter()
    exec(statement, {})
    return {"seconds": time.perf_counter() - began, "resident_mb": peak_mb()}


# -- sessions ---------------------------------------------------------------------------------------


def fakes() -> Any:
    """Instant models and sinks, made of public base classes."""
    from livekit import rtc

    from livekit.agents import Agent, llm, stt, tts
    from livekit.agents.voice import io

    class InstantStream(llm.LLMStream):
        async def _run(self) -> None:
            last = self._chat_ctx.items[-1]
            text = getattr(last, "text_content", "") or ""
            delta = llm.ChoiceDelta(role="assistant", content="certainly, one moment please")
            if "wedge" in text:
                call = llm.FunctionToolCall(name="wedge", arguments="{}", call_id="call_1")
                delta = llm.ChoiceDelta(role="assistant", tool_calls=[call])
            self._event_ch.send_nowait(llm.ChatChunk(id="1", delta=delta))

    class InstantLLM(llm.LLM):
        def chat(
            self, *, chat_ctx: Any, tools: Any = None, conn_options: Any = None, **_: Any
        ) -> Any:
            return InstantStream(
                self, chat_ctx=chat_ctx, tools=tools or [], conn_options=conn_options
            )

    class InstantSynthesis(tts.SynthesizeStream):
        async def _run(self, output_emitter: Any) -> None:
            output_emitter.initialize(
                request_id="1",
                sample_rate=24000,
                num_channels=1,
                mime_type="audio/pcm",
                stream=True,
            )
            output_emitter.start_segment(segment_id="1")
            async for item in self._input_ch:
                if isinstance(item, str):
                    output_emitter.push(bytes(2 * 2400))
            output_emitter.end_segment()

    class InstantTTS(tts.TTS):
        def __init__(self) -> None:
            super().__init__(
                capabilities=tts.TTSCapabilities(streaming=True), sample_rate=24000, num_channels=1
            )

        def synthesize(self, text: str, **_: Any) -> Any:
            raise ValueError("this voice only streams")

        def stream(self, *, conn_options: Any = None) -> Any:
            return InstantSynthesis(tts=self, conn_options=conn_options)

    open_streams: set[Any] = set()

    class QuietStream(stt.RecognizeStream):
        async def _run(self) -> None:
            open_streams.add(self)
            try:
                async for _ in self._input_ch:
                    pass
            finally:
                open_streams.discard(self)

    class QuietSTT(stt.STT):
        def __init__(self) -> None:
            super().__init__(
                capabilities=stt.STTCapabilities(streaming=True, interim_results=False)
            )

        async def _recognize_impl(self, *_: Any, **__: Any) -> Any:
            raise ValueError("this recogniser only streams")

        def stream(self, *, conn_options: Any = None, **_: Any) -> Any:
            return QuietStream(stt=self, conn_options=conn_options)

    class Microphone(io.AudioInput):
        def __init__(self) -> None:
            super().__init__(label="microphone")
            self.frames: asyncio.Queue[Any] = asyncio.Queue()

        async def __anext__(self) -> Any:
            return await self.frames.get()

    class Speaker(io.AudioOutput):
        def __init__(self) -> None:
            super().__init__(
                label="speaker",
                capabilities=io.AudioOutputCapabilities(pause=True),
                sample_rate=24000,
            )
            self.first_frame: asyncio.Future[float] | None = None
            self._open = False

        async def capture_frame(self, frame: Any) -> None:
            await super().capture_frame(frame)
            if not self._open:
                self._open = True
                self.on_playback_started(created_at=time.time())
            if self.first_frame is not None and not self.first_frame.done():
                self.first_frame.set_result(time.perf_counter())

        def flush(self) -> None:
            super().flush()
            if self._open:
                self._open = False
                asyncio.get_running_loop().call_soon(
                    lambda: self.on_playback_finished(playback_position=0.1, interrupted=False)
                )

        def clear_buffer(self) -> None:
            """Everything has been played already."""

    class Wedged(Agent):
        def __init__(self) -> None:
            super().__init__(instructions="Be brief.")

        @llm.function_tool
        async def wedge(self) -> str:
            """Never returns."""
            await asyncio.sleep(3600)
            return "never"

    class Kit:
        LLM, TTS, STT = InstantLLM, InstantTTS, QuietSTT
        Mic, Out, Agent = Microphone, Speaker, Wedged
        LLMStream, TTSStream, STTStream = InstantStream, InstantSynthesis, QuietStream
        streams = open_streams
        silence = rtc.AudioFrame(bytes(2 * 480), 24000, 1, 480)

    return Kit


def new_session(kit: Any, **options: Any) -> Any:
    """A session with instant models."""
    from livekit.agents import AgentSession

    return AgentSession(stt=kit.STT(), llm=kit.LLM(), tts=kit.TTS(), **options)


async def clean_close() -> dict[str, float]:
    """Closing a session in which nothing is pending."""
    kit = fakes()
    times = []
    for _ in range(20):
        session = new_session(kit, vad=None)
        session.output.audio = kit.Out()
        await session.start(kit.Agent())
        await session.generate_reply(user_input="hello")
        began = time.perf_counter()
        await session.aclose()
        times.append(time.perf_counter() - began)
        if sum(times) > 12:
            break
    return {"median_ms": statistics.median(times) * 1000, "rounds": len(times)}


async def wedged_close(count: int = 100, patience: float = 12.0) -> dict[str, float]:
    """A hang-up in `count` sessions, each with a tool that never returns."""
    kit = fakes()
    closed: list[float] = []
    sessions = []
    for _ in range(count):
        session = new_session(kit, vad=None)
        session.input.audio = kit.Mic()
        session.on("close", lambda _: closed.append(time.perf_counter()))
        await session.start(kit.Agent())
        session.generate_reply(user_input="wedge")
        sessions.append(session)
    await asyncio.sleep(1)
    began = time.perf_counter()
    closing = [asyncio.ensure_future(session.aclose()) for session in sessions]
    await asyncio.wait(closing, timeout=patience)
    return {
        "closed": len(closed),
        "of": count,
        "last_s": (max(closed) - began) if closed else float("nan"),
        "orphaned_streams": len(kit.streams),
    }


async def first_frame() -> dict[str, float]:
    """From the user's text to the first audio frame."""
    kit = fakes()
    session = new_session(kit, vad=None)
    session.output.audio = speaker = kit.Out()
    await session.start(kit.Agent())
    times = []
    for round_number in range(60):
        speaker.first_frame = asyncio.get_running_loop().create_future()
        began = time.perf_counter()
        handle = session.generate_reply(user_input="hello")
        times.append(await speaker.first_frame - began)
        await handle
        if round_number == 9:
            times.clear()
    await _close_somehow(session)
    return {"median_ms": statistics.median(times) * 1000}


async def idle_cpu(sessions: int = 5, seconds: float = 8.0, **options: Any) -> dict[str, float]:
    """CPU of a session that listens to silence, 20 ms frames, with the default VAD and detector."""
    kit = fakes()
    running = [await _listening(kit, **options) for _ in range(sessions)]
    await _hear_silence(kit, running, 2.0)  # loads the models
    began_cpu, began = time.process_time(), time.perf_counter()
    await _hear_silence(kit, running, seconds)
    used = (time.process_time() - began_cpu) / (time.perf_counter() - began)
    for session in running:
        await _close_somehow(session)
    return {"percent_per_session": 100 * used / sessions}


async def idle_cpu_plain() -> dict[str, float]:
    """The same without a turn detector."""
    return await idle_cpu(turn_handling={"turn_detection": None})


async def listening_memory(sessions: int = 10, **options: Any) -> dict[str, float]:
    """Memory of a process with one session that listens, and of each further one."""
    kit = fakes()
    running = [await _listening(kit, **options)]
    await _hear_silence(kit, running, 2.0)
    first = resident_mb()
    for _ in range(sessions):
        running.append(await _listening(kit, **options))
    await _hear_silence(kit, running, 2.0)
    after = resident_mb()
    for session in running:
        await _close_somehow(session)
    return {"process_mb": first, "mb_per_session": (after - first) / sessions}


async def listening_memory_plain() -> dict[str, float]:
    """The same without a turn detector."""
    return await listening_memory(turn_handling={"turn_detection": None})


async def _listening(kit: Any, **options: Any) -> Any:
    session = new_session(kit, **options)
    session.input.audio = kit.Mic()
    await session.start(kit.Agent())
    return session


async def _hear_silence(kit: Any, sessions: list[Any], seconds: float) -> None:
    began, ticks = time.perf_counter(), 0
    while time.perf_counter() - began < seconds:
        for session in sessions:
            session.input.audio.frames.put_nowait(kit.silence)
        ticks += 1
        await asyncio.sleep(max(0.0, began + ticks * 0.02 - time.perf_counter()))


async def memory(sessions: int = 50) -> dict[str, float]:
    """Memory of a running session."""
    kit = fakes()
    running = []

    async def start() -> None:
        session = new_session(kit, vad=None)
        session.input.audio, session.output.audio = kit.Mic(), kit.Out()
        await session.start(kit.Agent())
        running.append(session)

    for _ in range(5):
        await start()
    before = resident_mb()
    for _ in range(sessions):
        await start()
    after = resident_mb()
    return {"mb_per_session": (after - before) / sessions}


async def churn(rounds: int = 200) -> dict[str, float]:
    """Sessions started and closed in a row: what is left, and whether memory stays flat."""
    import os

    kit = fakes()
    times = []

    async def one() -> None:
        session = new_session(kit, vad=None)
        session.input.audio, session.output.audio = kit.Mic(), kit.Out()
        await session.start(kit.Agent())
        await session.generate_reply(user_input="hello")
        began = time.perf_counter()
        await session.aclose()
        times.append(time.perf_counter() - began)

    for _ in range(20):
        await one()
    times.clear()
    before_mb, before_fds = resident_mb(), len(os.listdir("/proc/self/fd"))
    began = time.perf_counter()
    for _ in range(rounds):
        await one()
        if time.perf_counter() - began > 60:
            break
    return {
        "rounds": len(times),
        "tasks_left": len(asyncio.all_tasks()) - 1,
        "fds_left": len(os.listdir("/proc/self/fd")) - before_fds,
        "mb_grown": resident_mb() - before_mb,
        "close_median_ms": statistics.median(times) * 1000,
    }


async def _close_somehow(session: Any) -> None:
    await asyncio.wait([asyncio.ensure_future(session.aclose())], timeout=6)


# -- the inference gateway --------------------------------------------------------------------------


async def gateway_audio(frames: int = 6000) -> dict[str, float]:
    """CPU that a frame of 20 ms takes on its way to the gateway."""
    seconds = await _recognize("quiet", frames)
    return {"us_per_frame": seconds / frames * 1e6}


async def gateway_transcripts(frames: int = 6000) -> dict[str, float]:
    """CPU that a transcript of ten words takes on its way back."""
    plain = await _recognize("quiet", frames)
    with_transcripts = await _recognize("talkative", frames)
    transcripts = frames * 0.02 / 0.05
    return {"us_per_transcript": max(0.0, with_transcripts - plain) / transcripts * 1e6}


def _start_gateway() -> tuple[Any, dict[str, str]]:
    """An emulated gateway in a process of its own, and its addresses."""
    import os
    import subprocess
    from pathlib import Path

    script = Path(__file__).parent / "gateway_peer.py"
    python = os.environ.get("GATEWAY_PEER_PYTHON", sys.executable)
    process = subprocess.Popen(
        [python, str(script)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    return process, json.loads(process.stdout.readline())


async def _recognize(peer: str, frames: int) -> float:
    """CPU seconds for a stream of audio, from its first frame to its final transcript."""
    import aiohttp
    from livekit import rtc

    from livekit.agents import inference, stt

    process, address = _start_gateway()
    frame = rtc.AudioFrame(b"\x10\x00\xf0\xff" * 160, 16000, 1, 320)
    try:
        async with aiohttp.ClientSession() as session:
            recognizer = inference.STT(
                "deepgram/nova-3",
                base_url=address[peer],
                api_key=address["api_key"],
                api_secret=address["api_secret"],
                http_session=session,
            )
            stream = recognizer.stream()
            for _ in range(100):  # connects, and warms up
                stream.push_frame(frame)
                await asyncio.sleep(0.005)
            began = time.process_time()
            for _ in range(frames):
                stream.push_frame(frame)
                await asyncio.sleep(0)
            stream.end_input()
            async for event in stream:
                if event.type is stt.SpeechEventType.FINAL_TRANSCRIPT:
                    break
            took = time.process_time() - began
            await stream.aclose()
            return took
    finally:
        process.stdin.close()
        process.wait(timeout=10)


SCENARIOS: dict[str, Callable[[], dict[str, float] | Awaitable[dict[str, float]]]] = {
    "floor": floor,
    "package": package,
    "agent_file": agent_file,
    "clean_close": clean_close,
    "wedged_close": wedged_close,
    "first_frame": first_frame,
    "idle_cpu": idle_cpu,
    "idle_cpu_plain": idle_cpu_plain,
    "listening_memory": listening_memory,
    "listening_memory_plain": listening_memory_plain,
    "memory": memory,
    "churn": churn,
    "gateway_audio": gateway_audio,
    "gateway_transcripts": gateway_transcripts,
}


def main() -> None:
    """Run the scenario named on the command line."""
    logging.disable(logging.CRITICAL)
    result = SCENARIOS[sys.argv[1]]()
    if asyncio.iscoroutine(result):
        loop = asyncio.new_event_loop()
        result = loop.run_until_complete(result)
    print(json.dumps(result), flush=True)
    import os

    os._exit(0)  # sessions that never close must not hold up the next measurement


if __name__ == "__main__":
    main()
