"""The one table of what ends, codes and statuses mean, and the errors made by it."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import Any

import aiohttp
import pytest
from multidict import CIMultiDict
from yarl import URL

from livekit.agents import APIConnectionError, APIConnectOptions, APIStatusError, APITimeoutError
from livekit.agents._dial_errors import dial_error
from livekit.agents.inference._errors import (
    ConnectionState,
    Failure,
    Phase,
    classify_end,
    classify_server_error,
    classify_status,
    end_error,
    server_error,
)
from livekit.agents.inference._protocol.wire import ServerError
from livekit.agents.utils.retry import RetryPolicy

YOUNG = ConnectionState(Phase.OPEN, age=5.0)
OLD = ConnectionState(Phase.OPEN, age=31.0)
SPEAKING = ConnectionState(Phase.OPEN, age=31.0, speech_pending=True)
DRAINING = ConnectionState(Phase.DRAINING, age=5.0)
DRAINING_WITH_SPEECH = ConnectionState(Phase.DRAINING, age=5.0, speech_pending=True)
CLOSING = ConnectionState(Phase.CLOSING, speech_pending=True)


@pytest.mark.parametrize(
    ("code", "reason", "state", "expected"),
    [
        (1006, "", CLOSING, Failure.CLOSED),
        (2007, "", CLOSING, Failure.CLOSED),
        (1000, "", DRAINING, Failure.ENDED),
        (2007, "", DRAINING, Failure.ENDED),
        (1006, "", DRAINING, Failure.ENDED),
        (1000, "", DRAINING_WITH_SPEECH, Failure.ENDED),
        (1006, "", DRAINING_WITH_SPEECH, Failure.TRANSIENT),
        (1011, "", DRAINING_WITH_SPEECH, Failure.TRANSIENT),
        (2007, "", YOUNG, Failure.IDLE),
        (2007, "", SPEAKING, Failure.TRANSIENT),
        (1000, "Idle Timeout reached", YOUNG, Failure.IDLE),
        (4000, "closed due to INACTIVITY", YOUNG, Failure.IDLE),
        *((code, "", OLD, Failure.IDLE) for code in (1000, 1001, 1005, 1006, 1012, None)),
        *((code, "", YOUNG, Failure.RECYCLED) for code in (1000, 1001, 1012)),
        *((code, "", SPEAKING, Failure.RECYCLED) for code in (1000, 1001, 1012)),
        *((code, "", OLD, Failure.TRANSIENT) for code in (1011, 1013, 1014, 3000, 4999)),
        *((code, "", YOUNG, Failure.TRANSIENT) for code in (1005, 1006, None)),
        *((code, "", OLD, Failure.PROTOCOL) for code in (1002, 1003, 1007, 1009)),
        (1008, "", OLD, Failure.POLICY),
    ],
)
def test_what_the_end_of_a_connection_means(
    code: int | None, reason: str, state: ConnectionState, expected: Failure
) -> None:
    assert classify_end(code, reason, state) is expected


@pytest.mark.parametrize(
    ("code", "body", "state", "expected"),
    [
        (2007, {}, YOUNG, Failure.IDLE),
        ("2007", {}, OLD, Failure.IDLE),
        (2007, {}, SPEAKING, Failure.TRANSIENT),
        (2007, {}, DRAINING, Failure.ENDED),
        (2007, {}, CLOSING, Failure.CLOSED),
        (401, {}, OLD, Failure.AUTH),
        ("403", {}, OLD, Failure.AUTH),
        (400, {}, OLD, Failure.CALLER),
        (404, {}, OLD, Failure.CALLER),
        (422, {}, OLD, Failure.CALLER),
        (408, {}, OLD, Failure.TRANSIENT),
        (425, {}, OLD, Failure.TRANSIENT),
        (500, {}, OLD, Failure.TRANSIENT),
        (503, {}, OLD, Failure.TRANSIENT),
        (429, {}, OLD, Failure.QUOTA),
        ("quota", {}, OLD, Failure.QUOTA),
        (-1, {"type": "inference_quota_exceeded"}, OLD, Failure.QUOTA),
        (429, {"remaining_limit": 0}, OLD, Failure.EXHAUSTED),
        (429, {"category": "credits"}, OLD, Failure.EXHAUSTED),
        (1008, {}, OLD, Failure.POLICY),
        ("something_new", {}, OLD, Failure.TRANSIENT),
        (-1, {}, OLD, Failure.TRANSIENT),
    ],
)
def test_what_an_error_message_means(
    code: int | str, body: Mapping[str, Any], state: ConnectionState, expected: Failure
) -> None:
    assert classify_server_error(ServerError(code, "", body), state) is expected


@pytest.mark.parametrize("failure", list(Failure))
def test_only_failures_of_the_request_itself_are_final(failure: Failure) -> None:
    final = {Failure.AUTH, Failure.CALLER, Failure.EXHAUSTED}
    assert failure.retryable is (failure not in final)
    assert failure.counted is (failure not in {Failure.CLOSED, Failure.ENDED, Failure.IDLE})


def _refusal(status: int, **headers: str) -> aiohttp.ClientResponseError:
    secret = CIMultiDict({"Authorization": "Bearer secret-token"})
    request = aiohttp.RequestInfo(URL("http://x"), "GET", secret, URL("http://x"))  # type: ignore[arg-type]
    return aiohttp.WSServerHandshakeError(
        request, (), message="Invalid response status", status=status, headers=CIMultiDict(headers)
    )


@pytest.mark.parametrize(
    ("status", "retryable"), [(401, False), (403, False), (404, False), (429, True), (503, True)]
)
def test_a_refused_handshake_names_its_status_and_no_token(status: int, retryable: bool) -> None:
    error = dial_error(_refusal(status), "LiveKit Inference STT")
    assert isinstance(error, APIStatusError)
    assert (error.status_code, error.retryable) == (status, retryable)
    assert classify_status(status).retryable is retryable
    assert str(status) in str(error) and "failed to connect to LiveKit Inference STT" in str(error)
    assert "secret-token" not in repr(error) + str(error)


@pytest.mark.parametrize(
    ("status", "headers", "body", "text"),
    [
        (
            401,
            {},
            b'{"type":"unauthorized","error":"unknown API key","hint":"create another"}',
            "unknown API key; create another (401 Unauthorized)",
        ),
        (
            429,
            {"Retry-After": "7"},
            b'{"error":{"message":"too many\\nstreams.","hint":"close some"}}',
            "too many streams; close some; the server asks to wait for 7 s (429 Too",
        ),
        (404, {}, b"<html>nothing here</html>", "check the base URL and the name of the model"),
        (403, {}, b"not for you", "not for you; check the API key"),
        (429, {}, b"[1]", "there are too many requests or connections at once"),
        (503, {}, b"", "failed to connect to LiveKit Inference STT (503"),
        (500, {}, b'{"message": "' + b"x" * 900 + b'"}', "x" * 300 + " (500"),
        (500, {}, b"[" * 100_000, "["),
        (500, {}, b"\xff\xfe", "500"),
    ],
)
def test_a_refusal_says_what_was_wrong_and_what_to_do(
    status: int, headers: dict[str, str], body: bytes, text: str
) -> None:
    error = dial_error(_refusal(status, **headers), "LiveKit Inference STT", body)
    assert text in str(error)


def test_a_refusal_keeps_the_body_and_the_id_of_the_request() -> None:
    refused = _refusal(429, **{"x-request-id": "req_1"})
    error = dial_error(refused, "LiveKit Inference STT", b'{"quota_type":"stt"}')
    assert isinstance(error, APIStatusError)
    assert (error.body, error.request_id) == ({"quota_type": "stt"}, "req_1")


@pytest.mark.parametrize(
    ("header", "delay"), [("7", 7.0), ("120", 30.0), ("0", 0.1), ("soon", 0.1), ("-1", 0.1)]
)
def test_a_server_that_asks_for_patience_gets_it_up_to_half_a_minute(
    header: str, delay: float
) -> None:
    policy = RetryPolicy(APIConnectOptions(), rng=lambda: 1.0)
    error = dial_error(_refusal(429, **{"Retry-After": header}), "LiveKit Inference STT")
    assert policy.next_delay(error) == pytest.approx(delay)


def test_a_busy_server_gets_two_seconds() -> None:
    policy = RetryPolicy(APIConnectOptions(), rng=lambda: 1.0)
    assert policy.next_delay(end_error(Failure.TRANSIENT, 1013, "closed")) == pytest.approx(2.0)


def test_dials_that_time_out_or_break_can_be_repeated() -> None:
    late = dial_error(asyncio.TimeoutError(), "LiveKit Inference TTS")
    assert isinstance(late, APITimeoutError) and late.retryable
    broken = dial_error(aiohttp.ServerDisconnectedError(), "LiveKit Inference TTS")
    assert isinstance(broken, APIConnectionError) and broken.retryable


def test_an_exhausted_quota_is_final_and_says_which() -> None:
    body = {"type": "inference_quota_exceeded", "quota_type": "stt", "remaining_limit": 0, "x": 1}
    message = ServerError(-1, "no more", body)
    failure = classify_server_error(message, OLD)
    error = server_error(message, failure, "LiveKit Inference STT returned an error")
    assert isinstance(error, APIStatusError)
    assert error.status_code == 429 and not error.retryable
    assert error.body == {
        "code": -1,
        "type": "inference_quota_exceeded",
        "quota_type": "stt",
        "remaining_limit": 0,
    }


def test_a_code_of_the_gateway_stays_in_the_body() -> None:
    error = server_error(ServerError("overloaded"), Failure.TRANSIENT, "failed")
    assert error.body == {"code": "overloaded"} and error.retryable
