"""Options of the engines of OpenAI's protocols: where they dial, who they are, what they ask for."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
from gateway import GatewayEmulator
from gateway.calls import QUICK, emulated
from gateway.realtime_route import ScriptedReply
from gateway.server import KEY, SECRET

from fakes.realtime_line import hear_out
from livekit.agents.inference._utils import create_access_token
from livekit.agents.llm import ChatContext, RealtimeError, function_tool
from livekit.agents.llm._realtime import openai_codec as codec
from livekit.agents.llm._realtime.gpt_live import GPTLiveModel
from livekit.agents.llm._realtime.openai import RealtimeModel, RealtimeSession


@pytest.fixture(autouse=True)
def no_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in (
        "OPENAI_API_KEY",
        "OPENAI_BASE_URL",
        "OPENAI_API_VERSION",
        "AZURE_OPENAI_ENDPOINT",
        "AZURE_OPENAI_API_KEY",
    ):
        monkeypatch.delenv(name, raising=False)


@asynccontextmanager
async def session_of(**options: Any) -> AsyncIterator[tuple[GatewayEmulator, RealtimeSession]]:
    """A session of the engine itself, with a key that the emulator happens to accept."""
    async with emulated() as (gateway, http):
        key = create_access_token(KEY, SECRET)
        given = {"base_url": gateway.base_url, "api_key": key, "conn_options": QUICK, **options}
        session = RealtimeModel(http_session=http, **given).session()
        try:
            yield gateway, session
        finally:
            await session.aclose()
        await gateway.until_closed(0.5)


async def dialled(model: RealtimeModel | GPTLiveModel) -> tuple[str, dict[str, str]]:
    """Where a session of the model dials, and with which headers."""
    session = model.session()
    address = session._create_ws_url_and_headers()
    await session.aclose()
    await model.aclose()
    return address


# -- where and who ---------------------------------------------------------------------------------


async def test_openai_is_dialled_with_its_key() -> None:
    url, headers = await dialled(RealtimeModel(api_key="k"))
    assert url == "wss://api.openai.com/v1/realtime?model=gpt-realtime"
    assert headers == {"User-Agent": "LiveKit Agents", "Authorization": "Bearer k"}


async def test_azure_is_dialled_by_its_deployment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AZURE_OPENAI_ENDPOINT", "https://me.openai.azure.com/")
    monkeypatch.setenv("AZURE_OPENAI_API_KEY", "k")
    model = RealtimeModel.with_azure(azure_deployment="mine")
    assert model.provider == "azure"
    url, headers = await dialled(model)
    assert url == "wss://me.openai.azure.com/openai/v1/realtime?model=mine"
    assert headers == {"User-Agent": "LiveKit Agents", "api-key": "k"}


async def test_azures_first_protocol_has_another_address_and_flat_options() -> None:
    model = RealtimeModel.with_azure(
        azure_deployment="mine",
        azure_endpoint="https://me.openai.azure.com",
        entra_token="token",
        api_version="2024-10-01-preview",
    )
    url, headers = await dialled(model)
    assert url == (
        "wss://me.openai.azure.com/openai/realtime?api-version=2024-10-01-preview&deployment=mine"
    )
    assert headers["Authorization"] == "Bearer token"
    session = model.session()
    update = session._session_update()["session"]
    await session.aclose()
    await model.aclose()
    assert update["modalities"] == ["text", "audio"] and update["voice"] == "marin"
    assert update["input_audio_format"] == update["output_audio_format"] == "pcm16"
    assert update["turn_detection"]["type"] == "semantic_vad"
    assert update["max_response_output_tokens"] == "inf" and "audio" not in update


@pytest.mark.parametrize(
    "options",
    [
        {"azure_endpoint": "https://a", "base_url": "https://b", "api_key": "k"},
        {"api_key": "k"},
        {"azure_endpoint": "https://a"},
    ],
)
def test_azure_needs_one_address_and_credentials(options: dict[str, str]) -> None:
    with pytest.raises(ValueError):
        RealtimeModel.with_azure(azure_deployment="mine", **options)


def test_a_key_is_needed_and_unknown_options_are_refused() -> None:
    with pytest.raises(ValueError, match="OPENAI_API_KEY"):
        RealtimeModel()
    with pytest.raises(ValueError, match="colour"):
        RealtimeModel(api_key="k", colour="red")


async def test_gpt_live_is_dialled_at_openai_and_at_azure() -> None:
    url, headers = await dialled(GPTLiveModel(api_key="k", service_tier="priority"))
    assert url == "wss://api.openai.com/v1/live/sessions"
    assert headers["OpenAI-Service-Tier"] == "priority"
    model = GPTLiveModel(
        azure_deployment="mine", base_url="https://me.openai.azure.com", api_key="k"
    )
    assert (model.provider, model.model) == ("azure", "mine")
    url, headers = await dialled(model)
    assert url == "wss://me.openai.azure.com/openai/v1/live/sessions"
    assert headers["api-key"] == "k"


# -- what can be done ------------------------------------------------------------------------------


def test_capabilities_follow_from_the_options() -> None:
    def can(**options: Any) -> Any:
        return RealtimeModel(api_key="k", **options).capabilities

    assert can().turn_detection and can().can_disable_turn_detection
    assert not can(turn_detection={"type": "server_vad", "create_response": False}).turn_detection
    assert not can(turn_detection=None).can_disable_turn_detection
    assert not can(input_audio_transcription=None).user_transcription
    assert not can(modalities=["text"]).audio_output
    model = RealtimeModel(api_key="k")
    model.update_options(turn_detection=None, input_audio_transcription=None)
    assert not model.capabilities.turn_detection and not model.capabilities.user_transcription


async def test_only_options_that_change_are_sent() -> None:
    async with session_of(voice="marin") as (gateway, session):
        model: Any = session.realtime_model
        model.update_options(voice="marin", speed=1.0)
        model.update_options(voice="cedar", speed=1.0, truncation="auto")
        model.update_options(input_audio_transcription={"model": "whisper-1"})
        await asyncio.sleep(0.5)
        record = gateway.of("realtime")[0].messages
        updates = [e["session"] for _, e in record if e["type"] == "session.update"][1:]
        assert updates == [
            {"type": "realtime", "audio": {"output": {"speed": 1.0}}},
            {"type": "realtime", "audio": {"output": {"voice": "cedar"}}, "truncation": "auto"},
            {"type": "realtime", "audio": {"input": {"transcription": {"model": "whisper-1"}}}},
        ]


async def test_a_reply_may_have_tools_of_its_own() -> None:
    @function_tool
    async def ring(times: int) -> None:
        """Ring a bell."""

    async with session_of() as (gateway, session):
        gateway.realtime.script.append(ScriptedReply("ding"))
        event = await session.generate_reply(
            tools=[ring], tool_choice={"type": "function", "function": {"name": "ring"}}
        )
        assert (await hear_out(event))[0] == ["ding"]
        (request,) = gateway.realtime.conversations[0].requests
        assert [tool["name"] for tool in request["tools"]] == ["ring"]
        assert request["tool_choice"] == {"type": "function", "name": "ring"}


async def test_whoever_listens_sees_every_event_in_both_directions() -> None:
    async with session_of() as (_, session):
        sent: list[str] = []
        received: list[str] = []
        session.on("openai_client_event_queued", lambda event: sent.append(event["type"]))
        session.on("openai_server_event_received", lambda event: received.append(event["type"]))
        session.clear_audio()
        await asyncio.sleep(0.5)
        assert sent == ["input_audio_buffer.clear"]
        assert received[:2] == ["session.created", "session.updated"]


async def test_a_handler_that_fails_costs_one_event() -> None:
    async with session_of() as (gateway, session):
        session._handle_response_created = None  # type: ignore[method-assign, assignment]
        gateway.realtime.script.extend([ScriptedReply("one"), ScriptedReply("two")])
        with pytest.raises(RealtimeError):
            await session.generate_reply()
        del session._handle_response_created
        assert (await hear_out(await session.generate_reply()))[0] == ["two"]


async def test_two_changes_of_the_conversation_are_made_one_after_the_other() -> None:
    async with session_of() as (gateway, session):
        contexts = []
        for text in ("one", "two"):
            chat_ctx = ChatContext()
            chat_ctx.add_message(role="user", content=text, id=text)
            contexts.append(session.update_chat_ctx(chat_ctx))
        await asyncio.gather(*contexts)
        assert gateway.realtime.conversations[0].said == ["user: two"]


# -- the protocol's first version ------------------------------------------------------------------


@pytest.mark.parametrize(("old", "new"), sorted(codec._OLD_NAMES.items()))
def test_events_of_the_first_protocol_are_read_like_todays(old: str, new: str) -> None:
    fields = {
        "response_id": "r",
        "item_id": "m",
        "delta": "AAAA",
        "item": {"type": "message", "id": "m", "role": "user", "content": []},
    }
    read, expected = codec.decode({"type": old, **fields}), codec.decode({"type": new, **fields})
    assert type(read) is type(expected)
    assert (read is None) == old.endswith(".done")


def test_an_unknown_kind_of_item_is_no_event() -> None:
    with pytest.raises(codec.BadEvent, match="unknown type"):
        codec.decode({"type": "conversation.item.added", "item": {"type": "poem", "id": "p"}})


# -- plugins that build on the engine --------------------------------------------------------------


async def test_a_handler_may_be_overridden_and_may_change_its_event() -> None:
    seen: list[Any] = []

    class Session(RealtimeSession):
        def _handle_response_created(self, event: Any) -> None:
            seen.append((event.response.id, event.response.metadata.client_event_id, event.unheard))
            event.response.metadata["client_event_id"] = "say_1"
            super()._handle_response_created(event)

        def _handle_conversion_item_added(self, event: Any) -> None:
            seen.append((event.item.type, event.item.role))
            event.previous_item_id = None
            super()._handle_conversion_item_added(event)

    class Spoken:
        """As an object of the `openai` library."""

        def model_dump(self) -> dict[str, Any]:
            fields = {"response_id": None, "item_id": "extra", "delta": "and more"}
            return {"type": "response.output_text.delta", **fields}

    async with emulated() as (gateway, http):
        model = RealtimeModel(
            api_key=create_access_token(KEY, SECRET), base_url=gateway.base_url, http_session=http
        )
        session = Session(model)
        gateway.realtime.script.append(ScriptedReply("one", never_ends=True))
        asked = session.generate_reply()
        said = session._response_created_futures["say_1"] = asyncio.Future()
        event = await said
        await asyncio.sleep(0.5)
        session._handle_response_text_delta(Spoken())  # type: ignore[arg-type]
        session.interrupt()
        assert (await hear_out(event))[0] == ["one", "and more"]
        (request,) = gateway.realtime.conversations[0].requests
        assert seen[0] == ("resp_1", request["metadata"]["client_event_id"], None)
        assert seen[1:] == [("message", "assistant")] and event.user_initiated
        asked.cancel()
        await session.aclose()
