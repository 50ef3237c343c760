"""A session that chose no turn detection: which one it gets, what that costs, and when it fails."""

from __future__ import annotations

import asyncio
import multiprocessing
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from livekit import local_inference
from unit.hearing.test_hearing_in_session import Call, call

from fakes.hearing import frame, settle
from fakes.session import make_session, now
from fakes.vad import FakeVAD
from livekit.agents import inference
from livekit.agents.inference.eot import local_model
from livekit.agents.inference.eot.local_model import Heard, RecentAudio
from livekit.agents.ipc import warm_up
from livekit.agents.vad import VADEventType
from livekit.agents.voice import Agent
from livekit.agents.voice.events import EotPredictionEvent

PATIENCE = 20.0
"""Real seconds for a thread to come to its end."""


class Model:
    """Takes the place of the native model: what it answers, and whether it gets stuck."""

    def __init__(self) -> None:
        self.loads = 0
        self.asked: list[Heard] = []
        self.answer = 1.0
        self.broken: Exception | None = None
        self.go_on = threading.Event()
        self.go_on.set()

    def load(self) -> None:
        self.loads += 1
        self.go_on.wait(PATIENCE)
        if self.broken is not None:
            raise self.broken

    def judge(self, heard: Heard) -> float:
        self.asked.append(heard)
        self.go_on.wait(PATIENCE)
        return self.answer


@pytest.fixture
def model(monkeypatch: pytest.MonkeyPatch) -> Iterator[Model]:
    for name in ("LIVEKIT_DEV_MODE", "LIVEKIT_REMOTE_EOT_URL"):
        monkeypatch.delenv(name, raising=False)
    made = Model()
    monkeypatch.setattr(local_model, "load", made.load)
    monkeypatch.setattr(local_model, "judge", made.judge)
    yield made
    made.go_on.set()


async def _threads_have_ended() -> None:
    """Virtual time must not run away from them, however busy the machine is."""
    await settle()
    for thread in threading.enumerate():
        if thread.name == "turn detector":
            thread.join(PATIENCE)
    await settle()


async def _speaks(c: Call, text: str, model: Model) -> float:
    """The user says something and falls silent; returns when."""
    c.session._activity.push_audio(frame())  # type: ignore[union-attr]
    if model.go_on.is_set():
        await _threads_have_ended()
    await c.user_starts()
    c.ear.final(text)
    stopped_at = now()
    await asyncio.sleep(0.2)
    c.vad_stream.send(
        VADEventType.INFERENCE_DONE,
        speaking=True,
        speech_duration=0.6,
        raw_accumulated_silence=0.2,
    )
    if model.go_on.is_set():
        await _threads_have_ended()
    await asyncio.sleep(0.05)
    c.vad_stream.send(
        VADEventType.END_OF_SPEECH, silence_duration=0.25, speech_duration=0.6, speaking=False
    )
    await settle()
    return stopped_at


async def _answered_after(c: Call, stopped_at: float) -> float:
    while not any(line == "agent → thinking" for line in c.story):
        await asyncio.sleep(0.01)
        assert now() - stopped_at < 10, c.story
    return now() - stopped_at


# -- which one ------------------------------------------------------------------------------------


def test_whoever_says_nothing_gets_a_turn_detector_of_their_own() -> None:
    session, other = make_session(), make_session()
    assert isinstance(session.turn_detection, inference.TurnDetector)
    assert session.turn_detection is session.turn_detection
    assert session.turn_detection is not other.turn_detection
    assert session.options.endpointing["min_delay"] == 0.3
    assert session.options.endpointing["max_delay"] == 2.5


@pytest.mark.parametrize("asked", [None, "vad", "manual"])
def test_whoever_says_something_gets_that(asked: Any) -> None:
    session = make_session(turn_handling={"turn_detection": asked})
    assert session.turn_detection is asked
    assert session.options.endpointing["min_delay"] == 0.5
    session = make_session()
    session.update_options(turn_detection=asked)
    assert session.turn_detection is asked


async def test_the_turn_detector_of_a_call(model: Model) -> None:
    async with call() as c:
        activity = c.session._activity
        assert activity is not None and activity.turn_detection is c.session.turn_detection
        assert (activity.min_endpointing_delay, activity.max_endpointing_delay) == (0.3, 2.5)
        c.session.update_agent(Agent(instructions="the next"))
        await asyncio.sleep(0.5)
        following = c.session._activity
        assert following is not activity and following is not None
        assert following.turn_detection is c.session.turn_detection
    assert model.loads == 0, "nobody was heard"


async def test_without_a_vad_silence_decides_and_nobody_warns(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async with call() as c:
        activity = c.session._activity
        assert activity is not None
        activity.agent.update_options(vad=None)
        assert activity.turn_detection is None
        assert activity.min_endpointing_delay == 0.5
        activity.agent.update_options(vad=FakeVAD(min_silence_duration=0.1))
        assert activity.turn_detection is None
        activity.agent.update_options(vad=FakeVAD())
        assert activity.turn_detection is c.session.turn_detection
        assert c.session._activity is activity
        assert activity.recognition is not None
        assert activity.recognition.endpointing.min_delay == 0.3
    assert caplog.text == ""


async def test_one_that_was_asked_for_refuses_a_vad_that_leaves_it_no_time() -> None:
    async with call(turn_handling={"turn_detection": inference.TurnDetector()}) as c:
        with pytest.raises(ValueError, match="too low for the TurnDetector"):
            c.session.current_agent.update_options(vad=FakeVAD(min_silence_duration=0.1))


# -- what it does ---------------------------------------------------------------------------------


@pytest.mark.parametrize(("probability", "delay"), [(0.9, 0.3), (0.1, 2.5)])
async def test_turns_end_when_the_user_sounds_done(
    model: Model, probability: float, delay: float
) -> None:
    model.answer = probability
    async with call() as c:
        predictions: list[EotPredictionEvent] = []
        c.session._activity.on_eot_prediction = predictions.append  # type: ignore
        stopped_at = await _speaks(c, "can you tell me", model)
        assert await _answered_after(c, stopped_at) == pytest.approx(delay, abs=0.03)
        assert [p.probability for p in predictions] == [probability]
        assert predictions[0].threshold == pytest.approx(0.36)
        assert [usage.type for usage in c.session.usage.model_usage].count("eot_usage") == 1
    assert model.loads == 1 and len(model.asked) == 1


# -- what it costs --------------------------------------------------------------------------------


def test_a_session_that_only_reads_does_not_even_import_it() -> None:
    program = """
import asyncio, sys
from livekit.agents import Agent, AgentSession

async def main():
    session = AgentSession()
    await session.start(Agent(instructions="write"))
    await session.aclose()

asyncio.run(main())
print([name for name in sys.modules if ".eot." in name])
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert done.stdout.strip() == "[]", done.stderr


def test_making_one_loads_and_dials_nothing() -> None:
    program = """
import sys
from livekit.agents import inference
inference.TurnDetector()
print([n for n in ("aiohttp", "livekit.local_inference") if n in sys.modules])
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert done.stdout.strip() == "[]", done.stderr


def test_only_the_last_moment_is_kept_as_it_came() -> None:
    recent = RecentAudio()
    for fill in range(150):
        recent.push(frame(0.02, 48000, fill=fill))
    heard = recent.heard()
    samples = np.frombuffer(heard.pcm, dtype=np.int16)
    assert len(samples) == 1.2 * 48000 and (samples[0], samples[-1]) == (90, 149)
    assert len(heard.at_model_rate()) == 19200
    recent.clear()
    assert recent.heard().pcm == b""
    assert len(recent.heard().at_model_rate()) == 0


@pytest.mark.parametrize(("rate", "channels"), [(16000, 2), (48000, 1), (48000, 2), (8000, 1)])
def test_every_format_is_judged_alike(rate: int, channels: int) -> None:
    seconds = np.arange(round(1.2 * rate)) / rate
    tone = (8000 * np.sin(2 * np.pi * 200 * seconds) * (seconds < 1.0)).astype(np.int16)
    heard = Heard(np.repeat(tone, channels).tobytes(), rate, channels)
    expected = np.frombuffer(_tone().tobytes(), dtype=np.int16)
    got = heard.at_model_rate()
    assert len(got) == pytest.approx(len(expected), abs=64)
    assert local_model.judge(heard) == pytest.approx(
        local_inference.EOT().predict(expected), abs=0.1
    )


def _tone() -> Any:
    seconds = np.arange(19200) / 16000
    return (8000 * np.sin(2 * np.pi * 200 * seconds) * (seconds < 1.0)).astype(np.int16)


@pytest.mark.parametrize(
    ("wanted", "has_parent", "loaded"),
    [
        (None, False, ["vad", "eot"]),
        (None, True, ["vad"]),
        ("1", True, ["vad", "eot"]),
        ("off", False, []),
    ],
)
def test_what_a_process_loads_before_it_has_a_job(
    wanted: str | None, has_parent: bool, loaded: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[str] = []
    monkeypatch.setattr(local_inference, "init_vad", lambda: seen.append("vad"))
    monkeypatch.setattr(local_model, "load", lambda: seen.append("eot"))
    monkeypatch.setattr(multiprocessing, "parent_process", lambda: has_parent or None)
    if wanted is None:
        monkeypatch.delenv("LIVEKIT_AGENTS_PRELOAD_LOCAL_INFERENCE", raising=False)
    else:
        monkeypatch.setenv("LIVEKIT_AGENTS_PRELOAD_LOCAL_INFERENCE", wanted)
    warm_up._load_models()
    assert seen == loaded


def _judge_in_child(results: Any) -> None:
    import psutil

    heard = Heard(_tone().tobytes())
    already = local_model._loaded
    probability = local_model.judge(heard)
    results.put((already, probability, psutil.Process().memory_full_info().uss / 2**20))


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere jobs are spawned, not forked")
def test_forked_jobs_share_the_model(tmp_path: Path) -> None:
    program = f"""
import multiprocessing, sys
sys.path.insert(0, {str(Path(__file__).parents[2])!r})
from unit.hearing.test_default_turn_detector import _judge_in_child

if __name__ == "__main__":
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["livekit.agents.ipc.forkserver_preload"])
    results = context.SimpleQueue()
    child = context.Process(target=_judge_in_child, args=(results,))
    child.start()
    print(*results.get())
    child.join()
"""
    script = tmp_path / "parent.py"
    script.write_text(program)
    done = subprocess.run([sys.executable, str(script)], capture_output=True, text=True, timeout=60)
    already, probability, own_mb = done.stdout.split()
    assert already == "True", done.stderr
    assert float(probability) == pytest.approx(local_model.judge(Heard(_tone().tobytes())))
    assert float(own_mb) < 150, "its own copy alone would be 260 MB"


# -- when it fails --------------------------------------------------------------------------------


async def test_a_model_that_can_not_be_loaded_leaves_the_turns_to_silence(
    model: Model, caplog: pytest.LogCaptureFixture
) -> None:
    model.broken = ImportError("no native library for this machine")
    async with call() as c:
        stopped_at = await _speaks(c, "what time is it", model)
        assert await _answered_after(c, stopped_at) == pytest.approx(0.5, abs=0.03)
        activity = c.session._activity
        assert activity is not None and activity.turn_detection is None
        assert (activity.min_endpointing_delay, activity.max_endpointing_delay) == (0.5, 3.0)
        await _speaks(c, "and what day", model)
        await asyncio.sleep(5)
        assert "user: and what day" in c.words
    warnings = [r.message for r in caplog.records if "turn detect" in r.message]
    assert warnings == [
        "turn detection is off, turns end by silence alone: no native library for this machine"
    ]
    assert model.asked == []


async def test_a_model_that_is_stuck_holds_up_no_turn_but_the_first(
    model: Model, caplog: pytest.LogCaptureFixture
) -> None:
    async with call() as c:
        c.session._activity.push_audio(frame())  # type: ignore[union-attr]
        await _threads_have_ended()
        model.go_on.clear()
        stopped_at = await _speaks(c, "what time is it", model)
        assert await _answered_after(c, stopped_at) <= 1.3
        await asyncio.sleep(3)
        c.recorded.events.clear()
        stopped_at = await _speaks(c, "are you there", model)
        assert await _answered_after(c, stopped_at) == pytest.approx(0.3, abs=0.03)
        model.go_on.set()
        await _threads_have_ended()
        c.recorded.events.clear()
        model.answer = 0.0
        stopped_at = await _speaks(c, "once more", model)
        assert await _answered_after(c, stopped_at) == pytest.approx(2.5, abs=0.03)
    assert caplog.text.count("the local turn detector does not answer") == 1


@pytest.mark.parametrize("moment", ["loading", "judging"])
async def test_a_close_does_not_wait_for_the_model(model: Model, moment: str) -> None:
    if moment == "loading":
        model.go_on.clear()
    async with call() as c:
        c.session._activity.push_audio(frame())  # type: ignore[union-attr]
        if moment == "judging":
            await _threads_have_ended()
            model.go_on.clear()
        await _speaks(c, "goodbye", model)
        began = now()
        await c.session.aclose()
        assert now() - began <= 0.1
        assert "user: goodbye" in c.words
        assert c.recorded.closes[0].report.survivors == []


def test_a_program_can_end_while_the_model_is_stuck() -> None:
    program = """
import asyncio, threading, time
from livekit import rtc
from livekit.agents import inference
from livekit.agents.inference.eot import local_model

started = threading.Event()
def stuck():
    started.set()
    threading.Event().wait()
local_model.load = stuck

async def main():
    stream = inference.TurnDetector(version="v1-mini").stream()
    stream.push_audio(rtc.AudioFrame(bytes(640), 16000, 1, 320))
    started.wait(10)
    await stream.aclose()

asyncio.run(main())
print("ended")
"""
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, timeout=30
    )
    assert done.stdout.strip() == "ended", done.stderr


# -- the real model -------------------------------------------------------------------------------


@pytest.mark.real_time
async def test_conversations_share_one_model_which_is_loaded_off_the_loop() -> None:
    streams = [inference.TurnDetector(version="v1-mini").stream() for _ in range(20)]
    for stream in streams:
        stream.push_audio(frame(fill=100))
    await asyncio.wait_for(streams[0].predict(), PATIENCE)
    rss = _rss()
    answers = [stream.predict() for stream in streams]
    events = await asyncio.gather(*answers)
    assert all(0 <= event.end_of_turn_probability <= 1 for event in events)
    assert _rss() - rss < 60, "not a model for each"
    for stream in streams:
        await stream.aclose()


def _rss() -> float:
    import psutil

    return float(psutil.Process().memory_info().rss) / 2**20
