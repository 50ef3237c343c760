"""Two agents and a task: a receptionist hands over to sales, who ask for an address inline.

    python examples/multi_agent.py console --text

A tool that returns an agent hands the conversation over. An `AgentTask` takes it over only until it
has its answer, and the tool that awaits it goes on. To use a real language model, replace the rules
of each agent by one line in the session:

    llm=openai.LLM()                    # or any other llm.LLM
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import Any

from rules import Rule, RulesLLM

from livekit.agents import (
    Agent,
    AgentServer,
    AgentSession,
    AgentTask,
    JobContext,
    RunContext,
    cli,
    function_tool,
    inference,
)
from livekit.plugins import piper, pocketsphinx

server = AgentServer()


@dataclass
class Order:
    """What the agents of one call know; each finds it in `session.userdata`."""

    items: list[str] = field(default_factory=list)
    address: str | None = None


class AskAddress(AgentTask[str]):
    """Asks for an address until it has one."""

    def __init__(self) -> None:
        super().__init__(
            instructions="Ask for the address of the delivery, then call `take_address`.",
            llm=RulesLLM(
                [Rule([r"\bstreet\b"], tool="take_address", arguments=_address)],
                results={},
                otherwise="I am sorry, which street is that, and which number?",
            ),
        )

    async def on_enter(self) -> None:
        """Ask."""
        self.session.say("Where shall we bring it?")

    @function_tool
    async def take_address(self, address: str) -> None:
        """Take down the address.

        Args:
            address: Number and street.
        """
        self.complete(address)


class Sales(Agent):
    """Takes orders."""

    def __init__(self) -> None:
        super().__init__(
            instructions="You take orders. Call `order_pizza` for each.",
            llm=RulesLLM(
                [Rule([r"\bpizza\b"], tool="order_pizza")],
                results={"order_pizza": "Thank you. We bring it to {}."},
                otherwise="We have pizza. Would you like a pizza?",
            ),
        )

    async def on_enter(self) -> None:
        """Say who speaks now."""
        self.session.say("This is sales. What would you like to order?")

    @function_tool
    async def order_pizza(self, context: RunContext[Order]) -> str:
        """Order a pizza. Asks for the address, if that is not known."""
        order = context.userdata
        order.items.append("pizza")
        if order.address is None:
            order.address = await AskAddress()
        return order.address


class Receptionist(Agent):
    """Finds out who can help."""

    def __init__(self) -> None:
        super().__init__(
            instructions="You are a receptionist. Transfer callers who want to order something.",
            llm=RulesLLM(
                [Rule([r"\border\b", r"\bsales\b"], tool="transfer_to_sales")],
                results={},
                otherwise="I can connect you with sales, if you would like to order something.",
            ),
        )

    async def on_enter(self) -> None:
        """Greet the caller."""
        self.session.say("Hello! How can I help you?")

    @function_tool
    async def transfer_to_sales(self) -> Agent:
        """Hand the caller over to sales."""
        return Sales()


def _address(said: str) -> dict[str, Any]:
    found = re.search(r"\w+ \w+ street", said)
    return {"address": found.group(0) if found else said}


@server.rtc_session()
async def entrypoint(ctx: JobContext) -> None:
    """One call."""
    session = AgentSession[Order](
        userdata=Order(), stt=pocketsphinx.STT(), vad=inference.VAD(), tts=piper.TTS()
    )
    session.on("close", lambda ev: ctx.shutdown(ev.reason.value))
    await session.start(agent=Receptionist(), room=ctx.room)


if __name__ == "__main__":
    cli.run_app(server)
