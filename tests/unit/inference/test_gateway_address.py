"""Where the gateway is, who asks, and what one clear error says when that is unknown."""

from __future__ import annotations

import time
from types import SimpleNamespace
from typing import Any

import jwt
import pytest

from livekit.agents import job
from livekit.agents.inference import _utils
from livekit.agents.inference._utils import Gateway
from livekit.agents.types import NOT_GIVEN

SECRET = "s" * 32


@pytest.fixture(autouse=True)
def _no_settings(monkeypatch: pytest.MonkeyPatch) -> None:
    for kind in ("", "INFERENCE_"):
        for name in ("API_KEY", "API_SECRET", "URL"):
            monkeypatch.delenv(f"LIVEKIT_{kind}{name}", raising=False)
    monkeypatch.delenv("LIVEKIT_WORKER_TOKEN", raising=False)


def _resolve(**given: Any) -> Gateway:
    arguments: dict[str, Any] = {
        "base_url": NOT_GIVEN,
        "api_key": "key",
        "api_secret": SECRET,
        **given,
    }
    return Gateway.resolve(**arguments)


@pytest.mark.parametrize("missing", ["api_key", "api_secret"])
@pytest.mark.parametrize("given", [NOT_GIVEN, None, ""])
def test_a_missing_credential_is_named_with_the_variable_that_would_set_it(
    missing: str, given: Any
) -> None:
    with pytest.raises(ValueError, match=f"{missing} is required.*LIVEKIT_{missing.upper()}"):
        _resolve(**{missing: given})


def test_credentials_of_the_gateway_come_before_those_of_the_project(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("LIVEKIT_API_KEY", "project")
    monkeypatch.setenv("LIVEKIT_API_SECRET", "project-secret")
    monkeypatch.setenv("LIVEKIT_INFERENCE_API_KEY", "gateway")
    gateway = _resolve(api_key=NOT_GIVEN, api_secret=NOT_GIVEN)
    assert (gateway.api_key, gateway.api_secret) == ("gateway", "project-secret")
    monkeypatch.setenv("LIVEKIT_INFERENCE_API_KEY", "")
    assert _resolve(api_key=NOT_GIVEN).api_key == "project"
    assert "project-secret" not in repr(gateway)


def test_the_address_comes_from_the_argument_then_the_environment(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    assert _resolve().base_url == "https://agent-gateway.livekit.cloud/v1"
    monkeypatch.setenv("LIVEKIT_URL", "wss://p.staging.livekit.cloud")
    assert _resolve().base_url == "https://agent-gateway.staging.livekit.cloud/v1"
    monkeypatch.setenv("LIVEKIT_INFERENCE_URL", "http://127.0.0.1:9/v1/")
    assert _resolve().base_url == "http://127.0.0.1:9/v1"
    assert _resolve(base_url="ws://h/v1").base_url == "ws://h/v1"


@pytest.mark.parametrize("url", ["", "localhost:80", "ftp://x", "http://", "http://[::1"])
def test_a_base_url_that_is_none_is_refused(url: str) -> None:
    with pytest.raises(ValueError, match="LIVEKIT_INFERENCE_URL"):
        _resolve(base_url=url)


@pytest.mark.parametrize(
    ("base", "expected"),
    [
        ("https://h/v1", "wss://h/v1/stt?model=deepgram%2Fnova-3"),
        ("http://h/v1/", "ws://h/v1/stt?model=deepgram%2Fnova-3"),
        ("ws://h", "ws://h/stt?model=deepgram%2Fnova-3"),
    ],
)
def test_websockets_use_the_scheme_of_websockets(base: str, expected: str) -> None:
    assert _resolve(base_url=base).websocket_url("/stt", model="deepgram/nova-3") == expected
    assert "?" not in _resolve(base_url=base).websocket_url("/stt")


def test_a_token_allows_inference_for_ten_minutes_and_nothing_else() -> None:
    token = _resolve().token()
    now = time.time()
    claims = jwt.decode(token, SECRET, algorithms=["HS256"])
    assert now - 2 <= claims.pop("nbf") <= now
    assert now + 598 <= claims.pop("exp") <= now + 600
    assert claims == {"sub": "agent", "iss": "key", "inference": {"perform": True}}


def test_outside_of_a_job_only_the_client_and_the_priority_are_told() -> None:
    headers = _utils.get_inference_headers(inference_class="low")
    assert headers.pop("User-Agent").startswith("LiveKit Agents/1.8.9")
    assert headers == {"X-LiveKit-Inference-Priority": "low"}


def _job(**changes: Any) -> Any:
    context = {
        "job": SimpleNamespace(id="J", room=SimpleNamespace(sid="RM")),
        "agent": SimpleNamespace(sid="PA"),
        "room": SimpleNamespace(isconnected=lambda: True),
        "inference_headers": {},
    }
    return SimpleNamespace(**{**context, **changes})


@pytest.fixture
def in_job() -> Any:
    tokens = []

    def enter(context: Any) -> None:
        tokens.append(job._JobContextVar.set(context))

    yield enter
    for token in reversed(tokens):
        job._JobContextVar.reset(token)


def test_inside_a_job_headers_name_it_and_each_request(
    in_job: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LIVEKIT_WORKER_TOKEN", "wt")
    in_job(_job(inference_headers={"X-LiveKit-Inference-Priority": "low"}))
    first, second = (_utils.get_inference_headers(inference_class="priority") for _ in "12")
    sessions = [headers.pop("X-LiveKit-Session-ID") for headers in (first, second)]
    assert sessions[0] != sessions[1] and sessions[0].startswith("inference_")
    assert first == second
    del first["User-Agent"]
    assert first == {
        "X-LiveKit-Inference-Priority": "low",
        "X-LiveKit-Room-ID": "RM",
        "X-LiveKit-Job-ID": "J",
        "X-LiveKit-Worker-Token": "wt",
        "X-LiveKit-Agent-ID": "PA",
    }


def test_what_a_job_does_not_know_yet_is_left_out(in_job: Any) -> None:
    in_job(
        _job(
            job=SimpleNamespace(id="", room=SimpleNamespace(sid=None)),
            room=SimpleNamespace(isconnected=lambda: False),
        )
    )
    assert set(_utils.get_inference_headers()) == {"User-Agent", "X-LiveKit-Session-ID"}


def test_request_ids_name_their_connection_if_it_has_a_name() -> None:
    assert _utils.create_inference_request_id("inference_1", "tts").startswith("inference_1_tts_")
    request_id = _utils.create_inference_request_id(None, "eot", fallback_prefix="turn_request_")
    assert request_id.startswith("turn_request_") and len(request_id) == len("turn_request_") + 12


def test_limits_that_the_gateway_does_not_tell_are_left_out() -> None:
    headers = {"X-LiveKit-Inference-RPM-Limit": "60", "X-LiveKit-Inference-Credits-Used": ""}
    assert _utils.quota_fields(headers) == {"rpm_limit": "60"}
