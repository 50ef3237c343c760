"""Tools that take long: one keeps the caller company, one lets the conversation go on.

    python examples/background_tasks.py console --text

`RunContext.with_filler` says something when it gets silent. `RunContext.update` reports progress:
from the first report on the tool runs in the background, and the agent listens and answers as
usual until the result comes in. Both end with the session, whatever they wait for. To use a real
language model, replace `thinking()` by one line:

    llm=openai.LLM()                    # or any other llm.LLM
"""

from __future__ import annotations

import asyncio
from typing import Any

from rules import Rule, RulesLLM

from livekit.agents import (
    Agent,
    AgentServer,
    AgentSession,
    JobContext,
    RunContext,
    cli,
    function_tool,
    inference,
)
from livekit.plugins import piper, pocketsphinx

SEARCH_SECONDS = 20.0
"""How long a search of flights takes."""

CHECK_SECONDS = 6.0
"""How long it takes to look at one flight."""

server = AgentServer()


class TravelAgent(Agent):
    """Looks for flights."""

    def __init__(self) -> None:
        super().__init__(instructions="You work at a travel agency. Be brief.")

    async def on_enter(self) -> None:
        """Greet the caller."""
        self.session.say("Hello! Where would you like to fly to?")

    @function_tool
    async def find_flight(self, context: RunContext[Any], to: str) -> str:
        """Search all airlines for a flight, which takes a while.

        Args:
            to: The city.
        """
        await context.update(f"I am searching all airlines for {to}", template="{message}")
        # from here on the caller can talk about something else
        await asyncio.sleep(SEARCH_SECONDS)
        return f"I have found a flight to {to} at nine in the morning"

    @function_tool
    async def check_flight(self, context: RunContext[Any]) -> str:
        """Look whether the flight of the caller is on time."""
        async with context.with_filler("Still checking.", delay=1.5, interval=2.0, max_steps=2):
            await asyncio.sleep(CHECK_SECONDS)
        return "on time"


def thinking() -> RulesLLM:
    """The travel agent's "language model"."""
    return RulesLLM(
        [
            Rule([r"\bpar[ie]s\b"], tool="find_flight", arguments=lambda said: {"to": "Paris"}),
            Rule([r"\blondon\b"], tool="find_flight", arguments=lambda said: {"to": "London"}),
            Rule([r"\bon time\b", r"\bcheck\b"], say="Let me see.", tool="check_flight"),
            Rule([r"\bweather\b"], say="It is sunny there at this time of the year."),
            Rule([r"\bthank", r"\bbye\b"], say="You are welcome. Goodbye!"),
        ],
        results={"find_flight": "{}.", "check_flight": "Your flight is {}."},
        otherwise="I can look for flights to Paris and to London, or check whether yours is on time.",
    )


@server.rtc_session()
async def entrypoint(ctx: JobContext) -> None:
    """One call."""
    session = AgentSession(
        stt=pocketsphinx.STT(), vad=inference.VAD(), llm=thinking(), tts=piper.TTS()
    )
    session.on("close", lambda ev: ctx.shutdown(ev.reason.value))
    await session.start(agent=TravelAgent(), room=ctx.room)


if __name__ == "__main__":
    cli.run_app(server)
