"""An expressive voice: the LLM is told its markup, the voice gets it, the history keeps the words."""

from __future__ import annotations

from typing import Any

import pytest

from fakes.llm import FakeLLM
from fakes.session import make_session
from fakes.speaker import Speaker
from fakes.tts import FakeTTS
from livekit.agents.tts import StreamAdapter
from livekit.agents.voice import Agent, AgentSession

ID = "lk.expressive.instructions"


def voice(key: str = "cartesia") -> FakeTTS:
    return FakeTTS(streaming=False, markup_key=key)


async def guide(tts: Any, on: Any, **agent: Any) -> str | None:
    """What the LLM is told about the markup in a reply; None if nothing."""
    llm = FakeLLM(default='<expr type="expression" label="happy"/>hello there')
    session: AgentSession[Any] = make_session(llm, tts=tts, expressive=on)
    session.output.audio = Speaker()
    await session.start(Agent(instructions="x", **agent))
    handle = session.generate_reply(user_input="hi")
    await handle
    assert handle.exception() is None
    assert session.history.messages()[-1].text_content == "hello there"
    item: Any = llm.requests[0].chat_ctx.get_by_id(ID)
    await session.aclose()
    return None if item is None else str(item.text_content)


async def test_the_llm_learns_the_markup_of_the_voice() -> None:
    told = await guide(voice(), True)
    assert told is not None and "<expr" in told and "{tts.markup" not in told
    assert await guide(StreamAdapter(tts=voice()), {}) == told


@pytest.mark.parametrize(
    ("tts", "expressive"),
    [
        (voice(), False),
        (voice(""), True),
        # its text does not pass through the framework's conversion
        (FakeTTS(streaming=True, markup_key="cartesia"), True),
    ],
    ids=["off", "no dialect", "streams by itself"],
)
async def test_without_an_expressive_voice_nothing_is_said_of_it(
    tts: FakeTTS, expressive: bool
) -> None:
    assert await guide(tts, expressive) is None


async def test_the_guide_can_be_replaced_and_added_to() -> None:
    options = {
        "tts_instructions_template": "Speak. {tts.markup.llm_instructions}",
        "tts_instructions_append": "Never shout.",
    }
    told = await guide(voice(), options)
    assert told is not None
    assert told.startswith("Speak. ") and told.endswith("Never shout.") and "<expr" in told


async def test_an_agent_decides_for_itself() -> None:
    assert await guide(voice(), True, expressive=False) is None
    assert await guide(voice(), False, expressive={"speech_steering": {"pace": "slow"}})
