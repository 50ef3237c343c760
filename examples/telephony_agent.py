"""An agent that answers the phone: it transfers callers, and hangs up when they say goodbye.

    python examples/telephony_agent.py console --text     type with it
    TRANSFER_TO=tel:+15550100 python examples/telephony_agent.py dev

Have a SIP trunk's dispatch rule put callers into rooms of your LiveKit server. To use a real
language model, replace `thinking()` by one line:

    llm=openai.LLM()                    # or any other llm.LLM
"""

from __future__ import annotations

import os
from typing import Any

from livekit import rtc
from rules import Rule, RulesLLM

from livekit.agents import (
    Agent,
    AgentServer,
    AgentSession,
    JobContext,
    JobProcess,
    RunContext,
    ToolError,
    cli,
    function_tool,
    get_job_context,
    inference,
)
from livekit.agents.beta.tools import EndCallTool
from livekit.plugins import piper, pocketsphinx

TRANSFER_TO = os.environ.get("TRANSFER_TO", "tel:+15550100")
"""Where people are who can do more: a number, or a SIP address."""

server = AgentServer()


class FrontDesk(Agent):
    """Answers the phone of a small hotel."""

    def __init__(self) -> None:
        super().__init__(
            instructions="You answer the phone of a small hotel. Be friendly and brief. Transfer "
            "callers who want to talk to a person. When they say goodbye, end the call.",
            # says goodbye, closes the session and deletes the room, which hangs up
            tools=[EndCallTool()],
        )

    async def on_enter(self) -> None:
        """Greet the caller."""
        self.session.say("Good evening, this is the Hotel Lighthouse. How can I help you?")

    @function_tool
    async def breakfast(self) -> str:
        """When breakfast is served."""
        return "from seven to ten"

    @function_tool
    async def transfer_to_a_person(self, context: RunContext[Any]) -> str:
        """Transfer the call to a person."""
        job = get_job_context()
        caller = next(filter(is_phone, job.room.remote_participants.values()), None)
        if caller is None:
            raise ToolError("this is not a phone call, so it can't be transferred")
        # the words come first: a caller who is transferred doesn't hear the agent any more
        await context.session.say("I am connecting you. One moment, please.")
        await job.transfer_sip_participant(caller, TRANSFER_TO, play_dialtone=True)
        return "the caller is transferred"


def is_phone(participant: rtc.RemoteParticipant) -> bool:
    """Whether somebody called by phone."""
    return participant.kind == rtc.ParticipantKind.PARTICIPANT_KIND_SIP


def thinking() -> RulesLLM:
    """The front desk's "language model"."""
    return RulesLLM(
        [
            Rule([r"\bperson\b", r"\bsomebody\b", r"\bhuman\b"], tool="transfer_to_a_person"),
            Rule([r"\bbreakfast\b"], tool="breakfast"),
            Rule([r"\bthank", r"\bbye\b"], tool="end_call"),
        ],
        results={
            "breakfast": "Breakfast is served {}.",
            "transfer_to_a_person": "You are being transferred.",
            "end_call": "Thank you for calling. Goodbye!",
        },
        otherwise="I can tell you when breakfast is, or connect you with a person.",
    )


@server.rtc_session(agent_name="front-desk")
async def entrypoint(ctx: JobContext) -> None:
    """One call. A caller who hangs up closes the session, and with it the job."""
    session = AgentSession(
        stt=pocketsphinx.STT(), vad=ctx.proc.userdata["vad"], llm=thinking(), tts=piper.TTS()
    )
    session.on("close", lambda ev: ctx.shutdown(ev.reason.value))
    await session.start(agent=FrontDesk(), room=ctx.room)


def prewarm(proc: JobProcess) -> None:
    """Load what every call needs, before there is one."""
    proc.userdata["vad"] = inference.VAD()


server.setup_fnc = prewarm

if __name__ == "__main__":
    cli.run_app(server)
