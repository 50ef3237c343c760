from __future__ import annotations

import pytest

from fakes.room import FakeRtc


@pytest.fixture
def fake_rtc(monkeypatch: pytest.MonkeyPatch) -> FakeRtc:
    """`livekit.rtc` without its native layer."""
    return FakeRtc(monkeypatch)
