"""The base of recognizers: requests with retries, events, hooks, data."""

from __future__ import annotations

import asyncio
import logging
import pickle
import subprocess
import sys
from typing import Any, Literal

import pytest
from livekit import rtc

from fakes.stt import FakeSTT
from livekit.agents import stt as stt_module
from livekit.agents._exceptions import APIConnectionError, APIStatusError
from livekit.agents.language import LanguageCode
from livekit.agents.stt import (
    STT,
    RecognizeStream,
    SpeakerContext,
    SpeechData,
    SpeechEvent,
    SpeechEventType,
    SpeechStream,
    STTCapabilities,
    STTError,
    stt as stt_submodule,
)
from livekit.agents.types import APIConnectOptions

AUDIO = rtc.AudioFrame.create(16000, 1, 8000)


def collect(stt: STT[Any]) -> tuple[list[Any], list[Any]]:
    errors: list[Any] = []
    metrics: list[Any] = []
    stt.on("error", errors.append)
    stt.on("metrics_collected", metrics.append)
    return errors, metrics


async def test_a_request_reports_what_it_measured() -> None:
    stt = FakeSTT(transcripts=["hello"])
    errors, metrics = collect(stt)
    event = await stt.recognize([AUDIO, AUDIO])
    assert event.alternatives[0].text == "hello"
    (m,) = metrics
    assert (m.audio_duration, m.streamed, m.request_id) == (1.0, False, "fake-request")
    assert m.label == "fakes.stt.FakeSTT" and m.duration >= 0
    assert errors == []


async def test_a_request_is_retried(caplog: pytest.LogCaptureFixture) -> None:
    stt = FakeSTT(failures=[APIConnectionError("a"), APIConnectionError("b")], transcripts=["ok"])
    errors, metrics = collect(stt)
    began = asyncio.get_running_loop().time()
    assert (await stt.recognize(AUDIO)).alternatives[0].text == "ok"
    assert 1.05 <= asyncio.get_running_loop().time() - began <= 2.1
    assert [e.recoverable for e in errors] == [True, True]
    assert len(metrics) == 1
    records = [r for r in caplog.records if r.message.startswith("failed to recognize speech: ")]
    assert [r.attempt for r in records] == [1, 2]  # type: ignore[attr-defined]


async def test_a_request_gives_up_after_the_last_retry() -> None:
    stt = FakeSTT(fail_always=APIConnectionError("down"))
    errors, _ = collect(stt)
    with pytest.raises(
        APIConnectionError, match="failed to recognize speech after 3 attempts"
    ) as e:
        await stt.recognize(AUDIO, conn_options=APIConnectOptions(max_retry=2))
    assert e.value.__cause__ is stt.fail_always
    assert [e.recoverable for e in errors] == [True, True, False]


@pytest.mark.parametrize(
    ("error", "max_retry"),
    [
        (APIConnectionError("down"), 0),
        (APIStatusError("bad key", status_code=401), 3),
        (asyncio.TimeoutError(), 3),
        (ZeroDivisionError(), 3),
    ],
)
async def test_a_request_that_is_not_retried_raises_what_happened(
    error: Exception, max_retry: int
) -> None:
    stt = FakeSTT(fail_always=error)
    errors, _ = collect(stt)
    with pytest.raises(type(error)) as e:
        await stt.recognize(AUDIO, conn_options=APIConnectOptions(max_retry=max_retry))
    assert e.value is error
    assert [(e.recoverable, e.error) for e in errors] == [(False, error)]
    assert len(stt.recognized) == 1


def test_streaming_is_optional_and_the_error_says_what_to_do() -> None:
    class Requests(FakeSTT):
        def stream(self, **kwargs: Any) -> Any:
            return STT.stream(self, **kwargs)

    with pytest.raises(NotImplementedError, match="StreamAdapter"):
        Requests().stream()


def test_hooks_warn_once_about_what_is_ignored(caplog: pytest.LogCaptureFixture) -> None:
    stt = FakeSTT()
    for _ in range(3):
        stt._update_session_keyterms(["LiveKit"])
        stt._push_conversation_item(object())
    warnings = [r.message for r in caplog.records if r.levelno == logging.WARNING]
    assert len(warnings) == 2 and "keyterms" in warnings[0] and "conversation" in warnings[1]

    caplog.clear()
    able = FakeSTT(capabilities=STTCapabilities(True, True, keyterms=True, chat_context=True))
    able._update_session_keyterms(["LiveKit"])
    able._push_conversation_item(object())
    assert caplog.records == []


async def test_a_recognizer_is_a_context_manager() -> None:
    async with FakeSTT() as stt:
        assert stt.closed == 0
    assert stt.closed == 1


def test_a_recognizer_can_name_further_events() -> None:
    class Mine(STT[Literal["mine"]]):
        async def _recognize_impl(self, buffer: Any, **kwargs: Any) -> SpeechEvent:
            raise AssertionError

    mine = Mine(capabilities=STTCapabilities(False, False))
    heard: list[Any] = []
    mine.on("mine", heard.append)
    mine.emit("mine", 1)
    assert heard == [1]
    assert (mine.model, mine.provider) == ("unknown", "unknown")
    assert mine.label.endswith(".Mine") and mine.capabilities.offline_recognize
    assert (mine.metrics_metadata.model_name, mine.metrics_metadata.model_provider) == (
        "unknown",
        "unknown",
    )


def test_handlers_get_as_many_arguments_as_they_take() -> None:
    stt = FakeSTT()
    heard: list[Any] = []
    stt.on("error", lambda: heard.append("none"))
    stt.on("error", lambda *all: heard.append(all))
    stt.on("error", lambda one, *, keyword=None: heard.append(one))
    stt.emit("error", 1, 2)
    stt.emit("metrics_collected", 1)
    assert heard == ["none", (1, 2), 1]

    async def coroutine(_: Any) -> None: ...

    with pytest.raises(ValueError):
        stt.on("error", coroutine)


def test_languages_of_a_transcript_are_normalized() -> None:
    data = SpeechData(
        "English",  # type: ignore[arg-type]
        "hi",
        source_languages=["deu"],  # type: ignore[list-item]
        target_languages=[LanguageCode("fr-FR")],
    )
    assert data.language == "en" and isinstance(data.language, LanguageCode)
    assert data.source_languages == ["de"] and data.target_languages == ["fr-FR"]
    assert (data.start_time, data.end_time, data.confidence, data.words) == (0.0, 0.0, 0.0, None)


def test_events_say_when_they_were_made() -> None:
    first = SpeechEvent(SpeechEventType.START_OF_SPEECH)
    second = pickle.loads(pickle.dumps(first))
    assert second.created_at == first.created_at > 1e9
    assert (first.request_id, first.alternatives, first.speech_end_time) == ("", [], None)


def test_an_error_event_keeps_the_exception_out_of_dumps() -> None:
    error = STTError(timestamp=1.0, label="x", error=ValueError("secret"), recoverable=True)
    assert error.model_dump() == {
        "type": "stt_error",
        "timestamp": 1.0,
        "label": "x",
        "recoverable": True,
    }


def test_a_speaker_context_is_known_by_what_it_does() -> None:
    class Mood:
        def to_instructions(self) -> str:
            return "The user sounds tired."

    assert isinstance(Mood(), SpeakerContext)
    assert not isinstance(object(), SpeakerContext)


def test_names_are_where_plugins_look_for_them() -> None:
    assert SpeechStream is RecognizeStream
    assert stt_submodule.STT is STT and stt_submodule.SpeechEvent is SpeechEvent
    for name in stt_module.__all__:
        assert getattr(stt_module, name) is not None


def test_the_package_is_imported_lazily() -> None:
    code = (
        "import sys, livekit.agents.stt;"
        "assert not [m for m in sys.modules if m.startswith('livekit.agents.stt.')];"
        "from livekit.agents.stt import stt, STT; assert stt.STT is STT;"
        "assert 'livekit.agents.metrics.base' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
