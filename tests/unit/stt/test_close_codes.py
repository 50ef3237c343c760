"""What close codes mean."""

from __future__ import annotations

import pytest

from livekit.agents._close_codes import CloseKind, classify_close, is_idle_end
from livekit.agents._exceptions import APIError, APIStatusError


@pytest.mark.parametrize(
    ("code", "reason", "kind"),
    [
        (2007, "", CloseKind.IDLE),
        ("2007", "", CloseKind.IDLE),
        (1000, "Session closed due to agent INACTIVITY", CloseKind.IDLE),
        (None, "idle timeout", CloseKind.IDLE),
        (1000, "", CloseKind.RECYCLED),
        (1001, "", CloseKind.RECYCLED),
        (1012, "", CloseKind.RECYCLED),
        (None, "", CloseKind.TRANSIENT),
        (-1, "", CloseKind.TRANSIENT),
        (1006, "", CloseKind.TRANSIENT),
        (1011, "", CloseKind.TRANSIENT),
        (1013, "", CloseKind.TRANSIENT),
        (1002, "", CloseKind.PROTOCOL),
        (1008, "", CloseKind.POLICY),
        (4321, "", CloseKind.UNKNOWN),
    ],
)
def test_codes_are_classified(code: int | str | None, reason: str, kind: CloseKind) -> None:
    assert classify_close(code, reason) is kind


def test_only_an_api_error_with_the_idle_code_is_an_idle_end() -> None:
    assert is_idle_end(APIStatusError("", status_code=2007))
    assert is_idle_end(APIError("", body={"code": 2007}))
    assert is_idle_end(APIError("", body={"code": "2007"}))
    assert not is_idle_end(APIError("", body={"code": True}))
    assert not is_idle_end(APIError("", body={"code": "soon"}))
    assert not is_idle_end(APIError("", body="2007"))
    assert not is_idle_end(APIStatusError("", status_code=1006))
    assert not is_idle_end(ValueError(2007))
