"""What the next connection hears of the audio that the one before did not answer for."""

from __future__ import annotations

import logging
from typing import Any

import numpy as np
import pytest
from gateway import GatewayEmulator, faults
from gateway.calls import RATE, Call, calling, emulated, sentence

from livekit.agents import APIConnectOptions, inference
from livekit.agents.stt import SpeechEventType
from livekit.agents.telemetry import otel_metrics

PATIENT = APIConnectOptions(max_retry=20, retry_interval=0.5, timeout=5.0)
A, B = sentence(0), sentence(10)


def babble(seconds: float) -> bytes:
    """Loud audio without words, no piece of which is like another."""
    return np.random.default_rng(1).normal(0, 4000, int(seconds * RATE)).astype("<i2").tobytes()


@pytest.fixture
def lost(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """Seconds that were counted as lost, each time."""
    amounts: list[float] = []

    def count(seconds: float, fate: str, **_: Any) -> None:
        if fate == "lost":
            amounts.append(seconds)

    monkeypatch.setattr(otel_metrics, "count_stt_audio", count)
    return amounts


def warned(caplog: pytest.LogCaptureFixture) -> list[float]:
    """Seconds that warnings say were lost."""
    return [
        record.dropped_audio_duration  # type: ignore[attr-defined]
        for record in caplog.records
        if hasattr(record, "dropped_audio_duration") and record.levelno == logging.WARNING
    ]


async def _lose_the_gateway(call: Call, gateway: GatewayEmulator, pcm: bytes) -> None:
    """Speak while nobody is there, and wait until all that was kept is heard."""
    await call.caller.be_quiet(0.5)
    await gateway.go_away()
    await call.caller.play(pcm)
    await gateway.come_back()
    await call.caller.be_quiet(12.0)


@pytest.mark.parametrize(("duration", "kept"), [(None, 10.0), (4.0, 4.0), (25.0, 15.0)])
async def test_of_speech_in_an_outage_the_last_seconds_are_heard_and_the_lost_ones_are_told(
    duration: float | None, kept: float, lost: list[float], caplog: pytest.LogCaptureFixture
) -> None:
    options: dict[str, Any] = {} if duration is None else {"replay_duration": duration}
    pcm = babble(15.0)
    async with emulated() as (gateway, session):
        async with calling(gateway, session, conn_options=PATIENT, **options) as call:
            await _lose_the_gateway(call, gateway, pcm)
        received = bytes(gateway.of("stt")[-1].pcm)
    # how much of the silence before and after is kept is of no importance
    tail = pcm[len(pcm) - int(kept * RATE) * 2 :]
    assert received.count(tail) == 1
    if kept == 15.0:
        assert lost == warned(caplog) == []
    else:
        assert lost == warned(caplog) == [pytest.approx(15.0 - kept, abs=0.05)]
        # not even the frame before it
        before = pcm[len(pcm) - len(tail) - 3200 : len(pcm) - len(tail)]
        assert before not in received


async def test_speech_that_a_deaf_gateway_took_is_in_the_same_ring(
    lost: list[float], caplog: pytest.LogCaptureFixture
) -> None:
    pcm = babble(12.0)
    async with emulated() as (gateway, session):
        gateway.inject("stt", faults.stall_writes(after_messages=1))
        async with calling(gateway, session, conn_options=PATIENT) as call:
            await call.caller.play(pcm[: 9 * RATE * 2])
            await gateway.go_away()
            await call.caller.play(pcm[9 * RATE * 2 :])
            await gateway.come_back()
            await call.caller.be_quiet(5.0)
        received = bytes(gateway.of("stt")[-1].pcm)
    assert received.startswith(pcm[2 * RATE * 2 :])
    assert lost == warned(caplog) == [pytest.approx(2.0, abs=0.05)]


async def test_silence_takes_no_room_among_the_words_of_a_long_outage(lost: list[float]) -> None:
    async with emulated() as (gateway, session):
        async with calling(gateway, session, conn_options=PATIENT) as call:
            await call.caller.be_quiet(0.5)
            await gateway.go_away()
            await call.caller.say(*A)
            await call.caller.be_quiet(15.0)
            await call.caller.say(*B)
            await call.caller.be_quiet(5.0)
            await gateway.come_back()
            await call.caller.be_quiet(12.0)
        heard = call.heard
    assert heard.finals == [" ".join(A), " ".join(B)]
    [(first, _), (second, _)] = heard.times
    assert (first, second) == (pytest.approx(0.5, abs=0.05), pytest.approx(16.8, abs=0.05))
    assert lost == []


async def test_with_replaying_off_nothing_is_sent_twice() -> None:
    async with emulated() as (gateway, session):
        gateway.inject("stt", faults.drop(after_audio=0.7))
        async with calling(gateway, session, replay_duration=0) as call:
            await call.caller.say(*A)
            await call.caller.be_quiet(2.0)
            await call.caller.say(*B)
            await call.caller.be_quiet(1.0)
        first, second = gateway.of("stt")
    assert first.audio_seconds + second.audio_seconds <= call.caller.spoken + 1e-6
    assert call.heard.words[-5:] == B
    assert A[0] not in call.heard.words
    kinds = call.heard.kinds()
    starts, ends = SpeechEventType.START_OF_SPEECH, SpeechEventType.END_OF_SPEECH
    assert kinds.count(starts) == kinds.count(ends) == 3


async def test_with_replaying_off_the_first_word_after_a_quiet_time_is_still_whole() -> None:
    async with emulated() as (gateway, session):
        gateway.inject("stt", faults.idle_recycle(5.0))
        async with calling(gateway, session, replay_duration=0) as call:
            await call.caller.mute(8.0)
            await call.caller.be_quiet(2.0)
            await call.caller.say(*A)
            await call.caller.be_quiet(1.0)
    assert call.heard.words == A and call.heard.errors == []


@pytest.mark.parametrize("after", [11.5, 14.0, 17.0])
async def test_an_utterance_longer_than_the_ring_survives_a_broken_connection(
    after: float, lost: list[float], caplog: pytest.LogCaptureFixture
) -> None:
    """Its beginning is no longer there to be sent again, but it had been understood already."""
    words = sentence(0, 42) + sentence(0, 36)  # 20 s without a pause
    async with emulated() as (gateway, session):
        gateway.inject("stt", faults.drop(after_audio=after))
        async with calling(gateway, session, replay_duration=4.0) as call:
            await call.caller.say(*words)
            await call.caller.be_quiet(2.0)
        heard = call.heard
    assert heard.words == words
    assert len(heard.finals) == 2
    assert heard.kinds().count(SpeechEventType.START_OF_SPEECH) == 1
    assert heard.kinds().count(SpeechEventType.END_OF_SPEECH) == 1
    (_, first_end), (second_start, _) = heard.times
    assert first_end <= second_start + 0.05
    assert lost == warned(caplog) == []


async def test_a_gateway_that_falls_silent_in_mid_speech_is_given_up_before_words_are_lost(
    lost: list[float],
) -> None:
    async with emulated() as (gateway, session):
        async with calling(gateway, session) as call:
            await call.caller.say(*A)
            await call.caller.be_quiet(1.0)
            gateway.strike("stt", faults.half_open())
            said = list(A)
            for number in range(8):  # 15 s
                said += sentence(number * 5, 6)
                await call.caller.say(*sentence(number * 5, 6))
                await call.caller.be_quiet(0.4)
            await call.caller.be_quiet(2.0)
        first, second = gateway.of("stt")
    assert call.heard.words == said and lost == []
    assert second.opened_at - first.opened_at < 12.0
    assert [error.recoverable for error in call.heard.errors] == [True]


async def test_a_gateway_that_takes_noise_for_no_speech_is_suspected_early_only_once() -> None:
    bursts = (babble(1.0) + bytes(RATE * 2)) * 20
    async with emulated() as (gateway, session):
        async with calling(gateway, session, conn_options=PATIENT) as call:
            await call.caller.say(*A)
            await call.caller.be_quiet(1.0)
            for _ in range(6):
                gateway.inject("stt", faults.stall_writes(after_messages=1))
            gateway.strike("stt", faults.stall_writes())
            await call.caller.play(bursts)  # 40 s
    assert 2 <= gateway.dials("stt") <= 3


def test_how_much_is_kept_can_be_set_for_any_recognizer() -> None:
    stt = inference.STT(api_key="k", api_secret="s")
    assert stt.replay_duration == 10.0
    stt.replay_duration = 30
    assert stt.replay_duration == 30.0
    with pytest.raises(ValueError, match="replay_duration must be a number of seconds"):
        stt.replay_duration = -1.0
