from __future__ import annotations

from typing import Any

import pytest

from livekit.agents.types import NOT_GIVEN
from livekit.agents.voice.room_io import (
    AudioInputOptions,
    AudioOutputOptions,
    RoomInputOptions,
    RoomOptions,
    RoomOutputOptions,
    TextInputOptions,
    TextOutputOptions,
    VideoInputOptions,
)


def test_everything_but_video_is_on_unless_it_is_exactly_false() -> None:
    options = RoomOptions()
    assert options.get_text_input_options() == TextInputOptions()
    assert options.get_audio_input_options() == AudioInputOptions()
    assert options.get_video_input_options() is None
    assert isinstance(options.get_audio_output_options(), AudioOutputOptions)
    assert options.get_text_output_options() == TextOutputOptions()
    nothing: Any = None
    assert RoomOptions(audio_input=nothing).get_audio_input_options() is not None
    assert RoomOptions(video_input=nothing).get_video_input_options() is None
    assert RoomOptions(video_input=True).get_video_input_options() == VideoInputOptions()
    off = RoomOptions(text_input=False, audio_input=False, audio_output=False, text_output=False)
    assert off.get_text_input_options() is off.get_audio_input_options() is None
    assert off.get_audio_output_options() is off.get_text_output_options() is None
    own = AudioInputOptions(sample_rate=16000)
    assert RoomOptions(audio_input=own).get_audio_input_options() is own


def test_deprecated_options_mean_the_same_and_warn(caplog: pytest.LogCaptureFixture) -> None:
    old = RoomInputOptions(
        audio_sample_rate=16000,
        text_enabled=False,
        video_enabled=True,
        participant_identity="ann",
        pre_connect_audio=False,
        close_on_disconnect=False,
    )
    options = RoomOptions._ensure_options(NOT_GIVEN, room_input_options=old)
    assert "deprecated" in caplog.text
    audio = options.get_audio_input_options()
    assert audio == AudioInputOptions(sample_rate=16000, pre_connect_audio=False)
    assert options.get_text_input_options() is None
    assert options.get_video_input_options() is not None
    assert options.participant_identity == "ann" and not options.close_on_disconnect
    assert options.get_audio_output_options() is not None, "the other half keeps its defaults"

    out = RoomOutputOptions(transcription_enabled=False, audio_track_name="voice")
    options = RoomOptions._ensure_options(NOT_GIVEN, room_output_options=out)
    assert options.get_text_output_options() is None
    voice = options.get_audio_output_options()
    assert voice is not None and voice.track_name == "voice"


def test_new_options_win_and_anything_else_is_refused() -> None:
    new = RoomOptions(audio_output=False)
    ensure: Any = RoomOptions._ensure_options
    assert ensure(new, room_input_options=RoomInputOptions()) is new
    with pytest.raises(ValueError, match="RoomOptions"):
        ensure({"audio_input": False})
    with pytest.raises(ValueError, match="close_after_absence"):
        RoomOptions(close_after_absence=-1.0)
