"""A small agent, complete with its command line. It needs no account, no key and no network.

    python examples/basic_agent.py console --text                             type with it
    python examples/basic_agent.py console                                    talk to it
    python examples/basic_agent.py console --input me.wav --output reply.wav  play a recording to it
    python examples/basic_agent.py dev                                        serve a LiveKit server

Speech recognition (pocketsphinx), synthesis (piper) and voice activity detection run on this
machine; the "language model" is a list of rules. With a real one, change one line:

    llm=openai.LLM()                    # or any other llm.LLM
"""

from __future__ import annotations

import time

from rules import Rule, RulesLLM

from livekit.agents import (
    Agent,
    AgentServer,
    AgentSession,
    JobContext,
    JobProcess,
    cli,
    function_tool,
    inference,
)
from livekit.plugins import piper, pocketsphinx

server = AgentServer()


class Assistant(Agent):
    """Tells the time, and says hello and goodbye."""

    def __init__(self) -> None:
        super().__init__(instructions="You are a friendly assistant on the phone. Be brief.")

    async def on_enter(self) -> None:
        """Greet whoever is there."""
        self.session.say("Hello! How can I help you?")

    @function_tool
    async def current_time(self) -> str:
        """What time it is."""
        return time.strftime("%H:%M")


def thinking() -> RulesLLM:
    """The assistant's "language model"."""
    return RulesLLM(
        [
            Rule([r"\btime\b", r"\bclock\b", r"\blate\b"], tool="current_time"),
            Rule([r"\bthank", r"\bbye\b"], say="You are welcome. Goodbye!"),
            Rule([r"\bhello\b", r"\bhi\b"], say="Hello! You can ask me what time it is."),
        ],
        results={"current_time": "It is {}."},
        otherwise="I am a very small assistant. You can ask me what time it is.",
    )


@server.rtc_session()
async def entrypoint(ctx: JobContext) -> None:
    """One call."""
    session = AgentSession(
        stt=pocketsphinx.STT(), vad=ctx.proc.userdata["vad"], llm=thinking(), tts=piper.TTS()
    )
    # hung up: leave the room at once instead of when the server closes it
    session.on("close", lambda ev: ctx.shutdown(ev.reason.value))
    await session.start(agent=Assistant(), room=ctx.room)


def prewarm(proc: JobProcess) -> None:
    """Load what every call needs, before there is one."""
    proc.userdata["vad"] = inference.VAD()


server.setup_fnc = prewarm

if __name__ == "__main__":
    cli.run_app(server)
