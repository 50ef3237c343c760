"""A restaurant's receptionist on the phone, entirely on this machine.

Speech recognition (pocketsphinx), synthesis (piper) and voice activity detection run offline; the
"language model" is a list of rules, see `rules.py`. To use a real one, change one line:

    llm=openai.LLM()                    # or any other llm.LLM

    python examples/receptionist.py --mic      talk to it through the sound card
    make demo                                  listen in on a recorded call
"""

from __future__ import annotations

import argparse
import asyncio
import re
import sys
from typing import Any

from rules import Rule, RulesLLM

from livekit.agents import Agent, AgentSession, RunContext, ToolError, function_tool, inference

SLOW_LOOKUP = 20.0
"""Seconds the reservation system takes; longer than callers are patient."""

OPENING_HOURS = {
    "weekday": "from noon until ten in the evening",
    "weekend": "from five in the afternoon until midnight",
}

_NUMBERS = {"one": 1, "two": 2, "three": 3, "four": 4, "five": 5, "six": 6, "seven": 7, "eight": 8}


class Receptionist(Agent):
    """Knows the opening hours, takes bookings, and can look into the reservation system."""

    def __init__(self, *, lookup_seconds: float = SLOW_LOOKUP) -> None:
        super().__init__(
            instructions=(
                "You are the receptionist of a small restaurant. Be friendly and brief. Use the "
                "tools for opening hours, bookings and existing reservations."
            )
        )
        self._lookup_seconds = lookup_seconds
        self.bookings: list[dict[str, Any]] = []

    async def on_enter(self) -> None:
        """Greet the caller."""
        self.session.say("Good evening, this is the Harbor Restaurant. How can I help you?")

    @function_tool
    async def opening_hours(self) -> str:
        """When the restaurant is open."""
        return (
            f"On weekdays we are open {OPENING_HOURS['weekday']}, "
            f"and on weekends {OPENING_HOURS['weekend']}."
        )

    @function_tool
    async def book_table(self, people: int, when: str) -> str:
        """Book a table.

        Args:
            people: How many people.
            when: Day and time, in the caller's words.
        """
        if not 1 <= people <= 8:
            raise ToolError("we have tables for one to eight people")
        self.bookings.append({"people": people, "when": when})
        return f"a table for {people} people {when}"

    @function_tool
    async def find_reservation(self, context: RunContext[Any]) -> str:
        """Look for the caller's reservation in the reservation system, which is slow."""
        await asyncio.sleep(self._lookup_seconds)
        return f"{len(self.bookings)} reservations"


def _booking(said: str) -> dict[str, Any]:
    number = next((n for word, n in _NUMBERS.items() if re.search(rf"\b{word}\b", said)), 2)
    when = re.search(r"\b(today|tonight|tomorrow)( (morning|noon|afternoon|evening|night))?", said)
    return {"people": number, "when": when.group(0) if when else "tonight"}


def receptionist_rules() -> RulesLLM:
    """The receptionist's "language model"."""
    return RulesLLM(
        [
            Rule(
                [r"\breservation", r"look.{0,12}up", r"\bcheck\b"],
                say="One moment, I am looking into our reservation system.",
                tool="find_reservation",
            ),
            Rule([r"\bbook\b", r"\btable\b"], tool="book_table", arguments=_booking),
            Rule([r"\bopen", r"\bhours\b", r"\bclose"], tool="opening_hours"),
            Rule([r"\bthank", r"\bbye\b"], say="You are welcome. Goodbye!"),
            Rule([r"\bhello\b", r"\bhi\b"], say="Hello! How can I help you?"),
        ],
        results={
            "opening_hours": "{} Our kitchen takes the last orders half an hour before we close. "
            "Is there anything else I can do for you?",
            "book_table": "Wonderful, I have booked {}. We are looking forward to seeing you.",
            "find_reservation": "I found {} in our system.",
        },
        otherwise="I am sorry, I did not understand that. I can tell you our opening hours, book a "
        "table, or look for your reservation.",
    )


def make_session() -> AgentSession[None]:
    """The receptionist's ears, mind and voice: all of it on this machine."""
    from livekit.plugins import piper, pocketsphinx

    return AgentSession(
        stt=pocketsphinx.STT(),
        vad=inference.VAD(),
        llm=receptionist_rules(),
        tts=piper.TTS(),
    )


async def talk() -> int:
    """Talk through the sound card until Ctrl-C."""
    from livekit.agents.cli.errors import CLIError
    from livekit.agents.cli.sound_card import SoundCard

    try:
        microphone, speaker = SoundCard(None, None).open()
    except CLIError as error:
        print(error, file=sys.stderr)
        return 2
    session = make_session()
    session.input.audio = microphone
    session.output.audio = speaker
    session.on("user_input_transcribed", lambda ev: ev.is_final and print("you:  ", ev.transcript))
    session.on(
        "conversation_item_added",
        lambda ev: (
            ev.item.type == "message"
            and ev.item.role == "assistant"
            and print("agent:", ev.item.text_content)
        ),
    )
    closed = asyncio.Event()
    session.on("close", lambda _: closed.set())
    await session.start(Receptionist())
    print("Talk to the receptionist; Ctrl-C hangs up.")
    try:
        await closed.wait()
    except asyncio.CancelledError:
        pass  # Ctrl-C: hang up below
    await session.aclose()
    return 0


def main() -> int:
    """Parse the command line and run."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--mic", action="store_true", help="talk through the sound card")
    options = parser.parse_args()
    if not options.mic:
        parser.error("nothing to do: pass --mic to talk, or run `make demo` to listen to a call")
    try:
        return asyncio.run(talk())
    except KeyboardInterrupt:
        return 0


if __name__ == "__main__":
    sys.exit(main())
