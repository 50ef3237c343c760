"""Hearing whether the user is done: in the process, behind the gateway, and when that fails."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator
from typing import Any

import aiohttp
import numpy as np
import pytest
from gateway import GatewayEmulator, faults
from gateway.calls import RATE, emulated
from livekit import local_inference, rtc

from livekit.agents.inference import TurnDetector
from livekit.agents.inference.eot.languages import LOCAL_LANGUAGES, ThresholdOptions
from livekit.agents.inference.eot.stream import TurnDetectorStream
from livekit.agents.language import LanguageCode
from livekit.agents.metrics import EOTInferenceMetrics
from livekit.agents.voice.turn import (
    _StreamingTurnDetector,
    _StreamingTurnDetectorStream,
)

EN, DE, SV = LanguageCode("en"), LanguageCode("de"), LanguageCode("sv")
NOISE = (np.random.default_rng(3).normal(0, 3000, RATE // 10)).astype(np.int16).tobytes()
QUIET = bytes(RATE // 10 * 2)


def _frame(pcm: bytes, rate: int = RATE) -> rtc.AudioFrame:
    return rtc.AudioFrame(pcm, rate, 1, len(pcm) // 2)


@contextlib.asynccontextmanager
async def _listening(
    **options: Any,
) -> AsyncIterator[tuple[TurnDetector, TurnDetectorStream, list[Any]]]:
    detector = TurnDetector(**options)
    metrics: list[EOTInferenceMetrics] = []
    detector.on("metrics_collected", metrics.append)
    stream = detector.stream()
    try:
        yield detector, stream, metrics
    finally:
        await detector.aclose()


def _cloud(gateway: GatewayEmulator, session: aiohttp.ClientSession, **options: Any) -> Any:
    return _listening(version="v1", http_session=session, **gateway.arguments(), **options)


# -- in the process --------------------------------------------------------------------------------


async def test_the_local_model_says_what_the_library_says() -> None:
    async with _listening(version="v1-mini") as (detector, stream, metrics):
        assert isinstance(detector, _StreamingTurnDetector)
        assert isinstance(stream, _StreamingTurnDetectorStream)
        for _ in range(20):
            stream.push_audio(_frame(NOISE))
        event = await stream.predict()
        pcm = np.frombuffer(NOISE * 12, dtype=np.int16)
        expected = local_inference.EOT().predict(pcm)
    assert event.end_of_turn_probability == pytest.approx(expected)
    assert event.inference_duration is not None
    assert [m.num_requests for m in metrics] == [1]
    assert (detector.model, detector.provider) == ("turn-detector-v1-mini", "livekit")


async def test_a_new_question_answers_the_one_before_with_no() -> None:
    async with _listening(version="v1-mini") as (_, stream, _):
        first = stream.predict()
        second = stream.predict()
        assert (await first).end_of_turn_probability == 0.0
        stream.cancel_inference()
        assert (await second).end_of_turn_probability == 0.0
        third = stream.predict()
        stream.flush("committed")
        assert (await third).end_of_turn_probability == 0.0
        await stream.aclose()
        assert (await stream.predict()).end_of_turn_probability == 1.0


async def test_a_local_model_that_fails_lets_the_turn_end(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken() -> None:
        raise RuntimeError("no model")

    monkeypatch.setattr(local_inference, "EOT", broken)
    async with _listening(version="v1-mini") as (_, stream, _):
        assert (await stream.predict()).end_of_turn_probability == 1.0


async def test_audio_of_another_rate_is_resampled_and_of_a_third_refused() -> None:
    async with _listening(version="v1-mini") as (_, stream, _):
        stream.push_audio(_frame(bytes(960 * 2), 48000))
        stream.push_audio(_frame(QUIET))
        stream.push_audio(_frame(QUIET))
        assert 0.0 <= (await stream.predict()).end_of_turn_probability <= 1.0


# -- behind the gateway ----------------------------------------------------------------------------


async def test_the_gateway_answers_and_tells_its_thresholds() -> None:
    async with emulated() as (gateway, session):
        async with _cloud(gateway, session) as (detector, stream, metrics):
            assert await stream.supports_language(DE)
            assert await stream.unlikely_threshold(EN) is None
            stream.push_audio(_frame(NOISE))
            assert (await stream.predict()).end_of_turn_probability == pytest.approx(0.1)
            stream.push_audio(_frame(QUIET))
            assert (await stream.predict()).end_of_turn_probability == pytest.approx(0.9)
            assert await stream.unlikely_threshold(EN) == pytest.approx(0.4)
            assert await stream.unlikely_threshold(SV) == pytest.approx(0.5)
            assert await stream.backchannel_threshold(EN) is None
            assert not stream.is_fallback
            [record] = gateway.of("eot")
        await gateway.until_closed(1.0)
    settings = record.messages[0][1].session_create.settings
    assert settings.sample_rate == RATE
    assert record.audio_seconds == pytest.approx(0.2)
    assert len(metrics) == 2 and detector.model == "turn-detector-v1"


async def test_an_idle_end_is_no_reason_to_fall_back() -> None:
    async with emulated() as (gateway, session):
        gateway.standing["eot"] = faults.idle_recycle(20.0, variant="close_only")
        async with _cloud(gateway, session) as (_, stream, _):
            assert gateway.dials("eot") == 0
            stream.push_audio(_frame(NOISE))
            await asyncio.sleep(60.0)
            assert gateway.open_connections == [] and gateway.dials("eot") == 1
            stream.push_audio(_frame(QUIET))
            assert (await stream.predict()).end_of_turn_probability == pytest.approx(0.9)
            assert not stream.is_fallback


@pytest.mark.parametrize(
    "fault",
    [
        faults.refuse(401),
        faults.refuse(503),
        faults.drop(1002, after_messages=2),
        faults.drop(1011, after_messages=1),
    ],
    ids=str,
)
async def test_when_the_gateway_fails_the_local_model_takes_over(fault: faults.Fault) -> None:
    async with emulated() as (gateway, session):
        gateway.inject("eot", fault)
        async with _cloud(gateway, session) as (detector, stream, _):
            await asyncio.sleep(0.1)
            stream.push_audio(_frame(QUIET))
            await stream.predict()
            await asyncio.sleep(0.1)
            assert stream.is_fallback and stream.model == "turn-detector-v1-mini"
            assert await stream.unlikely_threshold(DE) == pytest.approx(LOCAL_LANGUAGES["de"])
            assert (await stream.predict()).inference_duration is not None
            # the next conversation tries the gateway again
            again = detector.stream()
            again.push_audio(_frame(QUIET))
            assert (await again.predict()).end_of_turn_probability == pytest.approx(0.9)
            assert again.model == detector.model == "turn-detector-v1"
        await gateway.until_closed(1.0)


async def test_a_gateway_that_is_too_slow_is_left() -> None:
    async with emulated() as (gateway, session):
        gateway.inject("eot", faults.stall_writes(after_messages=1))
        async with _cloud(gateway, session) as (_, stream, _):
            asked = stream.predict()
            await asyncio.sleep(stream.prediction_timeout)
            assert not asked.done()
            stream.cancel_inference(timed_out=True)
            assert (await asked).end_of_turn_probability == 0.0
            assert stream.is_fallback
        await gateway.until_closed(1.0)


async def test_without_a_fallback_turns_end_by_silence() -> None:
    async with emulated() as (gateway, session):
        gateway.inject("eot", faults.refuse(503))
        async with _cloud(gateway, session, local_fallback=False) as (_, stream, _):
            asked = stream.predict()
            assert (await asked).end_of_turn_probability == 1.0
            assert stream.is_degraded and not stream.is_fallback
            stream.push_audio(_frame(QUIET))
            assert (await stream.predict()).end_of_turn_probability == 1.0


@pytest.mark.parametrize(
    "fault", [faults.stall_upgrade(), faults.half_open(after_messages=1)], ids=str
)
async def test_closing_takes_a_second_at_most(fault: faults.Fault) -> None:
    async with emulated() as (gateway, session):
        gateway.inject("eot", fault)
        async with _cloud(gateway, session) as (_, stream, _):
            asked = stream.predict()
            await asyncio.sleep(0.2)
            began = asyncio.get_running_loop().time()
            await stream.aclose()
            assert asyncio.get_running_loop().time() - began <= 1.1
            assert (await asked).end_of_turn_probability == 0.0
        await gateway.until_closed(1.0)


# -- options ---------------------------------------------------------------------------------------


def test_which_model_is_meant(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("LIVEKIT_API_KEY", "LIVEKIT_INFERENCE_API_KEY", "LIVEKIT_DEV_MODE"):
        monkeypatch.delenv(name, raising=False)
    assert TurnDetector().model == "turn-detector-v1-mini"
    monkeypatch.setenv("LIVEKIT_DEV_MODE", "1")
    assert TurnDetector().model == "turn-detector-v1-mini", "without credentials"
    assert TurnDetector(api_key="k", api_secret="s").model == "turn-detector-v1"
    with pytest.raises(ValueError, match="api_key is required"):
        TurnDetector(version="v1")
    with pytest.raises(ValueError, match="'v1' or 'v1-mini'"):
        TurnDetector(version="v2")  # type: ignore[arg-type]


def test_thresholds_of_the_user_take_the_place_of_the_calibrated_ones() -> None:
    thresholds = ThresholdOptions("turn-detector-v1-mini", {"german": 0.9})
    assert thresholds.lookup(LanguageCode("de-AT")) == 0.9
    assert thresholds.lookup(None) == thresholds.lookup(SV) == LOCAL_LANGUAGES["en"]
    thresholds.update_overrides(0.2)
    assert thresholds.lookup(DE) == thresholds.lookup(SV) == 0.2
    thresholds.update_overrides(None)
    assert thresholds.lookup(DE) == LOCAL_LANGUAGES["de"]
    detector = TurnDetector(version="v1-mini", unlikely_threshold={"de": 0.5})
    assert detector.describe_options()["threshold_overrides"] == {"de": 0.5}


def test_a_fallback_keeps_what_the_user_meant() -> None:
    thresholds = ThresholdOptions("turn-detector-v1", {"de": 0.8})
    assert thresholds.lookup(DE) is None and thresholds.supports(DE)
    thresholds._set_cloud_defaults({"de": 0.4, "sv": 0.5}, 0.5, {"de": 0.3}, 0.0)
    assert thresholds.lookup(DE) == 0.8
    assert thresholds.lookup_backchannel(DE) == 0.3
    assert thresholds.lookup_backchannel(SV) is None
    thresholds._fall_back()
    assert thresholds.lookup(DE) == pytest.approx(LOCAL_LANGUAGES["de"] * 2)
    assert thresholds.lookup_backchannel(DE) is None
    assert thresholds.lookup(EN) == LOCAL_LANGUAGES["en"]


async def test_questions_carry_the_time_at_which_they_were_asked() -> None:
    async with _listening(version="v1-mini") as (_, stream, _):
        now = time.time()
        event = await stream.predict()
    assert event.last_speaking_time == pytest.approx(now, abs=0.01)
