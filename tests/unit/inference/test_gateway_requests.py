"""Decisions and avatars: plain requests to the gateway."""

from __future__ import annotations

import asyncio
from types import SimpleNamespace
from typing import Any

import pytest
from gateway import faults
from gateway.calls import QUICK, emulated

from fakes.session import running
from livekit.agents import APIConnectionError, APIStatusError
from livekit.agents.inference import AvatarSession, DecisionModel
from livekit.agents.llm import Choice, Probability, Score

QUESTIONS = {
    "done": Probability("Is the caller done?"),
    "mood": Choice("How does the caller feel?", {"glad": "cheerful", "cross": "angry"}),
    "need": Score("How urgent is it?", ["not at all", "somewhat", "very"]),
}


async def test_questions_are_answered_by_name() -> None:
    async with emulated() as (gateway, session):
        model = DecisionModel(http_session=session, **gateway.arguments())
        response = await model.evaluate(input="bye!", decisions=QUESTIONS, conn_options=QUICK)
    [(path, body, headers)] = gateway.posts
    assert path == "/v1/decisions" and headers["Authorization"].startswith("Bearer ")
    assert body["state"] == "bye!" and body["model"] == "openai/gpt-6-luna-decisions"
    assert body["questions"]["mood"]["criteria"] == {"glad": "cheerful", "cross": "angry"}
    assert response.errors == {}
    assert response.results["done"].value == 0.8
    assert response.results["mood"].value == "glad"
    assert response.results["need"].value == 1.0
    assert (response.input_tokens, response.request_id) == (7, "dec_1")


@pytest.mark.parametrize(("status", "attempts"), [(400, 1), (401, 1), (429, 2), (503, 2)])
async def test_failed_decisions_are_repeated_as_far_as_that_makes_sense(
    status: int, attempts: int
) -> None:
    async with emulated() as (gateway, session):
        gateway.inject("decisions", faults.refuse(status, body={"error": "no"}))
        model = DecisionModel(http_session=session, **gateway.arguments())
        asking = model.evaluate(input="bye!", decisions=QUESTIONS, conn_options=QUICK)
        if attempts == 1:
            with pytest.raises(APIStatusError, match="no"):
                await asking
        else:
            await asking
    assert gateway.dials("decisions") == attempts


class Room:
    """As much of a room as an avatar looks at."""

    name = "lobby"

    def __init__(self) -> None:
        self.local_participant = SimpleNamespace(identity="agent-1")

    @property
    async def sid(self) -> str:
        return "RM_1"

    def isconnected(self) -> bool:
        return False

    def on(self, *_: Any) -> None: ...

    def off(self, *_: Any) -> None: ...

    def register_text_stream_handler(self, *_: Any) -> None: ...

    def unregister_text_stream_handler(self, *_: Any) -> None: ...


def _avatar(gateway: Any, session: Any, model: str = "lemonslice/a1", **options: Any) -> Any:
    return AvatarSession(
        model, http_session=session, conn_options=QUICK, **gateway.arguments(), **options
    )


async def test_an_avatar_is_started_once_and_ended() -> None:
    async with emulated() as (gateway, http), running() as (session, _):
        avatar = _avatar(gateway, http, extra_kwargs={"idle_timeout": 30, "style": "noir"})
        room: Any = Room()
        gateway.inject("avatar", faults.refuse(503))
        await avatar.start(session, room, livekit_url="wss://lk")
        (_, first, headers), (_, second, more_headers) = gateway.posts
        assert (
            first
            == second
            == {
                "provider": "lemonslice",
                "livekit_url": "wss://lk",
                "room_name": "lobby",
                "room_sid": "RM_1",
                "avatar_identity": "lemonslice-inference-avatar",
                "avatar_name": "lemonslice-inference-avatar",
                "agent_identity": "agent-1",
                "avatar_id": "a1",
                "idle_timeout_s": 30,
                "extra_kwargs": {"style": "noir"},
            }
        )
        assert headers["Idempotency-Key"] == more_headers["Idempotency-Key"]
        assert headers["X-LiveKit-Inference-Provider"] == "lemonslice"
        assert (avatar.session_id, avatar.provider_session_id) == ("av_1", "pv_1")
        with pytest.raises(RuntimeError, match="starts once"):
            await avatar.start(session, room, livekit_url="wss://lk")
        await avatar.aclose()
        await avatar.aclose()
        assert gateway.posts[2:] == [
            (
                "/v1/avatar/sessions/terminate",
                {
                    "provider": "lemonslice",
                    "provider_session_id": "pv_1",
                    "terminate_token": "tt_1",
                },
                gateway.posts[2][2],
            )
        ]


async def test_a_gateway_that_hangs_holds_up_the_end_of_an_avatar_for_five_seconds() -> None:
    async with emulated() as (gateway, http), running() as (session, _):
        avatar = _avatar(gateway, http)
        room: Any = Room()
        await avatar.start(session, room, livekit_url="wss://lk")
        gateway.inject("avatar", faults.stall_upgrade())
        began = asyncio.get_running_loop().time()
        await avatar.aclose()
        assert asyncio.get_running_loop().time() - began <= 5.6
        await avatar.aclose()
        assert [path for path, _, _ in gateway.posts] == [
            "/v1/avatar/sessions",
            "/v1/avatar/sessions/terminate",
            "/v1/avatar/sessions/terminate",
        ], "the second call tried again"


async def test_an_avatar_that_does_not_start_says_why() -> None:
    async with emulated() as (gateway, http), running() as (session, _):
        gateway.standing["avatar"] = faults.reset_upgrade()
        with pytest.raises(APIConnectionError):
            await _avatar(gateway, http).start(session, Room(), livekit_url="wss://lk")


@pytest.mark.parametrize(
    ("options", "complaint"),
    [
        ({"model": "/a1"}, "names no avatar"),
        ({"extra_kwargs": {"image_url": "x"}}, "image_url can't be given"),
        ({"api_key": ""}, "api_key is required"),
    ],
)
def test_bad_options_of_an_avatar_are_refused(options: dict[str, Any], complaint: str) -> None:
    with pytest.raises(ValueError, match=complaint):
        AvatarSession(**{"model": "lemonslice/a1", "api_key": "k", "api_secret": "s", **options})
