"""A translation session: what goes through it, and how it closes when its model does not."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
from livekit import rtc

from fakes.room import FakeRtc
from fakes.session import now
from fakes.speaker import Speaker
from fakes.translation import FakeTranslator, frame
from livekit.agents.beta import TranslationSession
from livekit.agents.beta.translation import (
    InputSpeechStarted,
    InputSpeechStopped,
    InputTranscript,
    OutputTranscript,
    TranslationModelError,
    TranslationRoomIO,
    TranslationRoomOptions,
    TranslationTranscribedEvent,
)
from livekit.agents.utils.aio import Chan, TaskScope
from livekit.agents.voice.io import AudioInput, TextOutput

EVENTS = (
    "user_state_changed",
    "user_input_transcribed",
    "translation_transcribed",
    "error",
    "close",
)
BOUND = 2.0
"""Seconds of a teardown; model, outputs and room are torn down side by side."""


class Microphone(AudioInput):
    def __init__(self) -> None:
        super().__init__(label="microphone")
        self.frames: Chan[rtc.AudioFrame] = Chan()

    async def __anext__(self) -> rtc.AudioFrame:
        return await self.frames.__anext__()


class Subtitles(TextOutput):
    def __init__(self) -> None:
        super().__init__(label="subtitles", next_in_chain=None)
        self.shown = ""

    async def capture_text(self, text: str) -> None:
        self.shown += text

    def flush(self) -> None:
        self.shown += "|"


class Talk:
    """A running session with its parts."""

    def __init__(self, model: FakeTranslator, **options: Any) -> None:
        self.model = model
        self.session: TranslationSession[Any] = TranslationSession(model=model, **options)
        self.microphone, self.speaker, self.subtitles = Microphone(), Speaker(), Subtitles()
        self.session.input.audio = self.microphone
        self.session.output.audio = self.speaker
        self.session.output.transcription = self.subtitles
        self.events: list[Any] = []
        for name in EVENTS:
            self.session.on(name, self.events.append)  # type: ignore[arg-type]
        self.played: list[tuple[float, bool]] = []
        self.speaker.on(
            "playback_finished",
            lambda ev: self.played.append((round(ev.playback_position, 3), ev.interrupted)),
        )

    def of(self, kind: str) -> list[Any]:
        return [event for event in self.events if event.type == kind]

    async def close(self) -> tuple[float, Any]:
        """Close; how long it took, and the one event."""
        began = now()
        await self.session.aclose()
        (event,) = self.of("close")
        return now() - began, event


@asynccontextmanager
async def talking(model: FakeTranslator | None = None, **options: Any) -> AsyncIterator[Talk]:
    talk = Talk(model or FakeTranslator(), **options)
    await talk.session.start()
    try:
        yield talk
    finally:
        talk.model.release()
        await talk.session.aclose()
        await asyncio.sleep(0.5)


# -- what goes through it -------------------------------------------------------------------------


async def test_what_is_said_is_heard_by_the_model_and_its_words_are_played_and_shown() -> None:
    async with talking(FakeTranslator(input_transcription=True, turn_reporting=True)) as talk:
        model = talk.model.running
        for _ in range(3):
            talk.microphone.frames.send_nowait(frame())
        await asyncio.sleep(0.1)
        assert len(model.heard) == 3
        model.emit("input_speech_started", InputSpeechStarted())
        assert talk.session.user_state == "speaking"
        model.emit("input_transcript", InputTranscript("good mor", is_final=False))
        model.emit("input_transcript", InputTranscript("good morning", True, language="en"))
        model.emit("input_speech_stopped", InputSpeechStopped())
        model.say(1.0, "Guten ")
        model.emit("output_transcript", OutputTranscript("Morgen", is_final=True))
        await asyncio.sleep(3.0)
    assert talk.played == [(1.0, False)] and talk.subtitles.shown == "Guten Morgen|"
    heard = [(ev.transcript, ev.is_final) for ev in talk.of("user_input_transcribed")]
    assert heard == [("good mor", False), ("good morning", True)]
    shown = [(ev.transcript, ev.is_final, ev.language) for ev in talk.of("translation_transcribed")]
    assert shown == [("Guten ", False, "de"), ("Guten Morgen", True, "de")]
    assert [ev.new_state for ev in talk.of("user_state_changed")] == ["speaking", "listening"]


async def test_a_pause_ends_a_segment_where_the_model_does_not_tell() -> None:
    async with talking(output_segment_timeout=0.3) as talk:
        talk.model.running.say(0.2, "eins")
        await asyncio.sleep(1.0)
        talk.model.running.say(0.5, "zwei")
        await asyncio.sleep(2.0)
    assert talk.played == [(0.2, False), (0.5, False)]
    assert talk.subtitles.shown == "eins|zwei|"


async def test_a_model_that_tells_its_segments_may_pause_inside_them() -> None:
    async with talking(FakeTranslator(output_segmentation=True)) as talk:
        talk.model.running.say(0.2, "eins ")
        await asyncio.sleep(5.0)
        talk.model.running.say(0.2, "zwei", ends=True)
        await asyncio.sleep(1.0)
        assert talk.subtitles.shown == "eins zwei|" and len(talk.played) == 1


async def test_a_text_without_audio_is_ended_by_a_pause() -> None:
    async with talking() as talk:
        talk.model.running.emit("output_transcript", OutputTranscript("nur Text", False))
        await asyncio.sleep(1.0)
        assert talk.subtitles.shown == "nur Text|" and talk.played == []


@pytest.mark.parametrize("error", [OSError("unplugged"), asyncio.CancelledError()])
async def test_an_output_that_fails_costs_its_segment_only(error: BaseException) -> None:
    async with talking() as talk:
        working = talk.speaker.capture_frame

        async def broken(_: rtc.AudioFrame) -> None:
            raise error

        talk.speaker.capture_frame = broken  # type: ignore[method-assign]
        talk.model.running.say(0.5)
        await asyncio.sleep(1.5)
        talk.speaker.capture_frame = working  # type: ignore[method-assign]
        talk.model.running.say(0.5)
        await asyncio.sleep(1.5)
        assert talk.played == [(0.5, False)] and not talk.of("error")


@pytest.mark.parametrize("error", [OSError("no screen"), asyncio.CancelledError()])
async def test_a_screen_that_fails_shows_what_comes_after(error: BaseException) -> None:
    async with talking() as talk:
        working = talk.subtitles.capture_text

        async def broken(_: str) -> None:
            raise error

        talk.subtitles.capture_text = broken  # type: ignore[method-assign]
        talk.model.running.say(0.5, "verloren")
        await asyncio.sleep(1.5)
        talk.subtitles.capture_text = working  # type: ignore[method-assign]
        talk.model.running.say(0.5, "gezeigt")
        await asyncio.sleep(1.5)
        assert talk.subtitles.shown.endswith("gezeigt|") and not talk.of("error")


# -- the language ---------------------------------------------------------------------------------


async def test_a_model_that_can_changes_its_language_as_it_runs() -> None:
    async with talking(FakeTranslator(retargetable=True)) as talk:
        talk.session.set_target_language("fr")
        talk.session.set_target_language("fr")
        assert talk.model.running.languages == ["de", "fr"] and len(talk.model.sessions) == 1


@pytest.mark.parametrize("hangs", [False, True])
async def test_another_model_is_asked_anew_and_the_former_session_is_closed(hangs: bool) -> None:
    async with talking() as talk:
        former = talk.model.running
        former.say(60.0, "ein langer Satz")
        await asyncio.sleep(2.0)
        talk.model.close_hangs = hangs
        talk.session.set_target_language("fr")
        former.say(1.0, "zu spät")
        talk.model.running.say(1.0, "bonjour")
        await asyncio.sleep(4.0)
        assert talk.model.running.languages == ["fr"] and former.closed is not hangs
        assert talk.played == [(2.0, True), (1.0, False)]
        assert talk.subtitles.shown == "ein langer Satz|bonjour|"
        seconds, _ = await talk.close()
        assert seconds <= BOUND + 1.0


@pytest.mark.parametrize("language", ["", "  ", None])
async def test_a_language_that_is_none_is_refused(language: Any) -> None:
    async with talking() as talk:
        with pytest.raises(ValueError, match="target language"):
            talk.session.set_target_language(language)


# -- the close ------------------------------------------------------------------------------------


async def test_a_close_is_quick_and_silent_and_keeps_what_was_written() -> None:
    async with talking() as talk:
        talk.model.running.say(60.0, "ein langer")
        await asyncio.sleep(2.0)
        seconds, event = await talk.close()
        assert seconds < 0.1 and event.reason == "user_initiated" and event.report.clean
        assert talk.played == [(2.0, True)] and talk.subtitles.shown == "ein langer|"
        assert talk.of("translation_transcribed")[-1].is_final
        assert talk.model.running.closed and talk.session.output.audio is None
        await talk.session.aclose()
        assert len(talk.of("close")) == 1


async def test_a_model_whose_stream_never_ends_does_not_hold_the_close() -> None:
    model = FakeTranslator()
    model.stream_never_ends = True
    async with talking(model) as talk:
        seconds, event = await talk.close()
        assert seconds < 0.1 and event.report.clean


async def test_a_stream_that_ignores_its_cancellation_is_left_behind() -> None:
    model = FakeTranslator()
    model.stream_never_ends = model.stream_ignores_cancellation = True
    async with talking(model) as talk:
        seconds, event = await talk.close()
        assert seconds <= BOUND
        assert [s.name for s in event.report.survivors] == ["translated audio"]
        model.running.say(1.0)  # nothing of it is heard any more
        await asyncio.sleep(1.0)
        assert talk.played == []


async def test_a_model_whose_aclose_hangs_does_not_hold_the_close() -> None:
    model = FakeTranslator()
    model.close_hangs = True
    async with talking(model) as talk:
        callers = [asyncio.ensure_future(talk.session.aclose()) for _ in range(3)]
        callers[0].cancel()
        seconds, event = await talk.close()
        assert seconds <= BOUND + 0.1
        assert [step.name for step in event.report.steps if step.outcome == "timeout"] == [
            "model session"
        ]
        await asyncio.wait(callers)


async def test_a_model_whose_aclose_fails_closes_all_the_same() -> None:
    model = FakeTranslator()
    model.close_fails = True
    async with talking(model) as talk:
        seconds, event = await talk.close()
        assert seconds < 0.5
        assert [s.name for s in event.report.steps if s.outcome == "error"] == ["model session"]


@pytest.mark.parametrize("error", [OSError("no network"), asyncio.CancelledError(), None])
async def test_a_stream_that_breaks_off_closes_the_session(error: BaseException | None) -> None:
    async with talking() as talk:
        talk.model.running.break_off(error)
        await asyncio.sleep(1.0)
        (failed,), (closed,) = talk.of("error"), talk.of("close")
        assert failed.source is talk.model and not failed.error.recoverable
        assert closed.reason == "error" and closed.error is failed.error
        if isinstance(error, Exception):
            assert failed.error.error is error


async def test_an_error_that_the_model_recovers_from_is_told_and_no_more() -> None:
    async with talking() as talk:
        error = TranslationModelError(
            timestamp=time.time(), label="x", error=OSError(), recoverable=True
        )
        talk.model.running.emit("error", error)
        await asyncio.sleep(1.0)
        assert len(talk.of("error")) == 1 and not talk.of("close")


async def test_shutdown_lets_the_translation_be_heard() -> None:
    async with talking() as talk:
        talk.model.running.say(3.0, "bis zum Ende")
        await asyncio.sleep(1.0)
        talk.session.shutdown()
        await talk.session._wait_for_close()
        (event,) = talk.of("close")
        assert talk.played == [(3.0, False)] and not event.report.forced


async def test_shutdown_waits_for_ten_seconds_at_most_and_aclose_ends_its_patience() -> None:
    async with talking() as talk:
        talk.model.running.say(60.0)
        talk.session.shutdown()
        began = now()
        await talk.session._wait_for_close()
        assert 10.0 <= now() - began <= 10.5
    async with talking() as talk:
        talk.model.running.say(60.0)
        talk.session.shutdown()
        await asyncio.sleep(1.0)
        seconds, event = await talk.close()
        assert seconds < 0.2 and event.report.escalated


async def test_a_closed_session_starts_again() -> None:
    async with talking() as talk:
        await talk.close()
        talk.session.output.audio = Speaker()
        await talk.session.start()
        assert len(talk.model.sessions) == 2
        with pytest.raises(RuntimeError, match="running already"):
            await talk.session.start()
        await talk.session.aclose()
        assert len(talk.of("close")) == 2


async def test_a_session_that_never_ran_has_nothing_to_close() -> None:
    session = TranslationSession[None](model=FakeTranslator())
    closes: list[Any] = []
    session.on("close", closes.append)
    session.shutdown()
    await session.aclose()
    assert closes == []
    with pytest.raises(ValueError, match="userdata"):
        _ = session.userdata
    with pytest.raises(ValueError, match="room_options need a room"):
        await session.start(room_options=TranslationRoomOptions())
    with pytest.raises(ValueError, match="output_segment_timeout"):
        TranslationSession[None](model=FakeTranslator(), output_segment_timeout=0)


async def test_a_model_that_can_t_begin_fails_the_start() -> None:
    model = FakeTranslator()

    def refuse() -> Any:
        raise ValueError("no key")

    model.session = refuse  # type: ignore[method-assign]
    talk = Talk(model)
    with pytest.raises(ValueError, match="no key"):
        await talk.session.start()
    assert len(talk.of("close")) == 1


class _Job:
    """A job whose room can't be reached."""

    def __init__(self) -> None:
        self._session_shutdown_registered: set[Any] = set()
        self._scope = TaskScope("job")

    async def connect(self) -> None:
        await asyncio.Event().wait()


@pytest.mark.parametrize("cancelled", [False, True])
async def test_a_start_that_hangs_is_ended_by_a_close_or_by_its_caller(
    fake_rtc: FakeRtc, monkeypatch: pytest.MonkeyPatch, cancelled: bool
) -> None:
    talk, job = Talk(FakeTranslator()), _Job()
    monkeypatch.setattr(
        "livekit.agents.beta.translation.translation_session.current_job", lambda: job
    )
    room: Any = fake_rtc.room(connected=False)
    starting = asyncio.ensure_future(talk.session.start(room=room))
    await asyncio.sleep(1.0)
    began = now()
    if cancelled:
        starting.cancel()
    else:
        await talk.session.aclose()
    with pytest.raises(asyncio.CancelledError if cancelled else RuntimeError):
        await starting
    assert now() - began < 0.5 and len(talk.of("close")) == 1
    assert talk.model.running.closed and not room.registered
    await job._scope.cancel(1.0)


# -- in a room ------------------------------------------------------------------------------------


class RoomTalk:
    """A session in a room, in which somebody speaks."""

    def __init__(self, fake_rtc: FakeRtc, **options: Any) -> None:
        self.room = fake_rtc.room()
        self.model = FakeTranslator()
        self.session: TranslationSession[Any] = TranslationSession(model=self.model)
        self.closes: list[Any] = []
        self.session.on("close", self.closes.append)
        self.options = TranslationRoomOptions(**options)

    async def start(self) -> Any:
        await self.session.start(room=self.room, room_options=self.options)  # type: ignore[arg-type]
        return self.session.room_io


async def test_a_participant_is_translated_and_written_for_the_room(fake_rtc: FakeRtc) -> None:
    talk = RoomTalk(fake_rtc)
    room_io = await talk.start()
    caller = talk.room.join()
    track = talk.room.publish(caller)
    await room_io.wait_for_ready()
    assert room_io.linked_participant is caller and room_io.linked_track is track.track
    assert room_io.subscribed_fut.done() and room_io.room is talk.room
    await asyncio.sleep(0.1)
    track.track.push(frame(), frame())
    await asyncio.sleep(0.1)
    assert len(talk.model.running.heard) == 2
    model = talk.model.running
    model.emit("input_transcript", InputTranscript("hello", is_final=True))
    model.say(1.0, "hallo")
    await asyncio.sleep(3.0)
    texts = {
        (writer.sender, writer.text)
        for writer in talk.room.sent.texts
        if writer.attributes["lk.transcription_final"] == "true"
    }
    assert texts == {("caller", "hello"), ("agent", "hallo")}
    await talk.session.aclose()
    assert len(talk.closes) == 1 and not talk.room.registered


async def test_a_track_is_translated_whoever_publishes_it(fake_rtc: FakeRtc) -> None:
    talk = RoomTalk(fake_rtc)
    first, second = talk.room.join("first"), talk.room.join("second")
    talk.room.publish(first)
    other = talk.room.publish(second, source=rtc.TrackSource.SOURCE_SCREENSHARE_AUDIO)
    room_io = await talk.start()
    assert room_io.linked_participant is first
    cleared = talk.model.running.cleared
    room_io.set_track(other.sid)
    assert room_io.linked_participant is second and room_io.linked_track is other.track
    assert talk.model.running.cleared > cleared
    room_io.set_track("TR_later")
    assert room_io.linked_track is None
    later = talk.room.publish(first, sid="TR_later")
    assert room_io.linked_participant is first and room_io.linked_track is later.track
    room_io.unset_track()
    assert room_io.linked_track is later.track
    await talk.session.aclose()
    with pytest.raises(RuntimeError, match="closed"):
        room_io.set_track("TR_x")


@pytest.mark.parametrize("closes", [True, False])
async def test_a_participant_who_hangs_up_closes_the_session(
    fake_rtc: FakeRtc, closes: bool
) -> None:
    talk = RoomTalk(fake_rtc, close_on_disconnect=closes)
    await talk.start()
    caller = talk.room.join()
    talk.room.publish(caller)
    await talk.session.room_io.wait_for_ready()  # type: ignore[union-attr]
    talk.model.running.say(60.0)
    await asyncio.sleep(1.0)
    talk.room.leave(caller)
    await asyncio.sleep(0.5)
    assert [event.reason for event in talk.closes] == ["participant_disconnected"] * closes
    await talk.session.aclose()
    assert len(talk.closes) == 1


async def test_a_room_that_is_gone_ends_the_patience_of_a_shutdown(fake_rtc: FakeRtc) -> None:
    talk = RoomTalk(fake_rtc)
    await talk.start()
    talk.room.publish(talk.room.join())
    await talk.session.room_io.wait_for_ready()  # type: ignore[union-attr]
    talk.model.running.say(60.0)
    await asyncio.sleep(1.0)
    talk.session.shutdown()
    talk.room.disconnect()
    began = now()
    await talk.session._wait_for_close()
    assert now() - began < 1.0 and talk.closes[0].report.escalated


@pytest.mark.parametrize("call", ["publish_track", "stream_text", "close_stream"])
async def test_a_room_that_does_not_answer_does_not_hold_the_close(
    fake_rtc: FakeRtc, call: str
) -> None:
    fake_rtc.native.silent.add(call)
    talk = RoomTalk(fake_rtc)
    talk.model.close_hangs = True
    await talk.start()
    talk.room.publish(talk.room.join())
    await asyncio.sleep(0.5)
    talk.model.running.emit("output_transcript", OutputTranscript("hallo", is_final=False))
    talk.model.running.say(5.0)
    await asyncio.sleep(1.0)
    began = now()
    await talk.session.aclose()
    assert now() - began <= 2 * BOUND + 0.5 and len(talk.closes) == 1
    talk.model.release()
    fake_rtc.native.release()
    await asyncio.sleep(1.0)


async def test_what_can_t_be_used_of_a_room_is_refused(fake_rtc: FakeRtc) -> None:
    talk = RoomTalk(fake_rtc)
    room: Any = talk.room
    with pytest.raises(ValueError, match="TranslationRoomOptions"):
        TranslationRoomIO(talk.session, room, options=True)  # type: ignore[arg-type]
    room_io = TranslationRoomIO(
        talk.session, room, options=TranslationRoomOptions(False, False, False)
    )
    with pytest.raises(RuntimeError, match="not started"):
        await room_io.wait_for_ready()
    await room_io.start()
    assert room_io.audio_input is room_io.audio_output is room_io.transcription_output is None
    assert room_io.subscribed_fut is None and room_io.linked_track is None
    with pytest.raises(RuntimeError, match="started before"):
        await room_io.start()
    await room_io.aclose()
    await room_io.aclose()
    assert not room.registered


def test_events_can_be_dumped() -> None:
    event = TranslationTranscribedEvent(transcript="x", is_final=True)
    assert event.model_dump()["type"] == "translation_transcribed"
