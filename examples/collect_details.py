"""An agent that takes down who calls: name, phone number and email address, one task for each.

    python examples/collect_details.py console --text     type with it
    python examples/collect_details.py dev

The tasks come with the package: each asks, checks what it hears, and reads it back to callers who speak.
A group does them in turn, and lets the caller go back ("wait, my name is wrong"). To use a real language model, replace `thinking()` by one line, and the `on_enter` of the tasks is no longer
needed: the model asks in its own words.

    llm=openai.LLM()                    # or any other llm.LLM
"""

from __future__ import annotations

import re
from typing import Any

from rules import Rule, RulesLLM

from livekit.agents import (
    Agent,
    AgentServer,
    AgentSession,
    JobContext,
    cli,
    function_tool,
    inference,
)
from livekit.agents.beta.workflows import (
    GetEmailTask,
    GetNameTask,
    GetPhoneNumberTask,
    TaskGroup,
)
from livekit.plugins import piper, pocketsphinx

server = AgentServer()


class AskName(GetNameTask):
    """Asks for the name."""

    async def on_enter(self) -> None:
        """Ask."""
        self.session.say("May I have your name, please?")


class AskPhone(GetPhoneNumberTask):
    """Asks for the phone number."""

    async def on_enter(self) -> None:
        """Ask."""
        self.session.say("What is your phone number, with the country code?")


class AskEmail(GetEmailTask):
    """Asks for the email address."""

    async def on_enter(self) -> None:
        """Ask."""
        self.session.say("And your email address?")


class Membership(Agent):
    """Signs callers up for a library."""

    def __init__(self) -> None:
        super().__init__(
            instructions="You answer the phone of a library. Call `sign_up` for whoever wants to "
            "become a member."
        )

    async def on_enter(self) -> None:
        """Greet the caller."""
        self.session.say("This is the library. Would you like to become a member?")

    @function_tool
    async def sign_up(self) -> str:
        """Sign the caller up."""
        group = TaskGroup(chat_ctx=self.chat_ctx, summarize_chat_ctx=False)
        group.add(AskName, id="name", description="the caller's first name")
        group.add(AskPhone, id="phone", description="the caller's phone number")
        group.add(AskEmail, id="email", description="the caller's email address")
        # raises ToolError, which the model is told, when the caller declines
        found = (await group).task_results
        return (
            f"{found['name'].first_name}, {found['phone'].phone_number}, "
            f"{found['email'].email_address}"
        )


def thinking() -> RulesLLM:
    """The library's "language model"."""
    return RulesLLM(
        [
            Rule([r"\bmy name is wrong\b"], tool="out_of_scope", arguments=_back_to_the_name),
            Rule([r"\byes\b", r"\bcorrect\b"], tool="confirm_name"),
            Rule([r"\byes\b", r"\bcorrect\b"], tool="confirm_phone_number"),
            Rule([r"\byes\b", r"\bcorrect\b"], tool="confirm_email_address"),
            Rule([r"\bname is\b"], tool="update_name", arguments=_name),
            Rule([r"\d{3}"], tool="update_phone_number", arguments=_number),
            Rule([r" at .* dot ", "@"], tool="update_email_address", arguments=_email),
            Rule([r"\brather not\b"], tool="decline_email_capture", arguments=_reason),
            Rule([r"\byes\b", r"\bmember\b"], tool="sign_up"),
        ],
        results={
            "update_name": _read_back,
            "update_phone_number": _read_back,
            "update_email_address": _read_back,
            "sign_up": "Welcome! I have noted: {}.",
        },
        otherwise="I am sorry, could you say that in another way?",
    )


def _name(said: str) -> dict[str, Any]:
    return {"first_name": said.split("name is")[-1].strip(" .").title()}


def _number(said: str) -> dict[str, Any]:
    return {"phone_number": "".join(re.findall(r"[+\d]", said))}


def _email(said: str) -> dict[str, Any]:
    return {"email": said.replace(" at ", "@").replace(" dot ", ".").split()[-1].strip(".")}


def _reason(said: str) -> dict[str, Any]:
    return {"reason": said}


def _back_to_the_name(said: str) -> dict[str, Any]:
    return {"task_ids": ["name"]}


def _read_back(output: str) -> str:
    found = re.search(r"Say to the user: (.*?)(?: \(.*\))?\. Ask", output)
    return f"{found.group(1)}. Is that correct?" if found else output


@server.rtc_session(agent_name="library")
async def entrypoint(ctx: JobContext) -> None:
    """One call."""
    session = AgentSession[None](
        stt=pocketsphinx.STT(), vad=inference.VAD(), llm=thinking(), tts=piper.TTS()
    )
    session.on("close", lambda ev: ctx.shutdown(ev.reason.value))
    await session.start(agent=Membership(), room=ctx.room)


if __name__ == "__main__":
    cli.run_app(server)
