"""The verdicts on who has picked up, and the rules by which they are reached."""

from __future__ import annotations

from enum import Enum
from typing import Literal

from pydantic import BaseModel

__all__ = [
    "AMD_PROMPT",
    "HUMAN_SILENCE_THRESHOLD",
    "HUMAN_SPEECH_THRESHOLD",
    "MACHINE_SILENCE_THRESHOLD",
    "MAX_ENDPOINTING_DELAY",
    "MAX_EXTENSIONS",
    "MAX_EXTENSION_SECS",
    "NO_SPEECH_THRESHOLD",
    "TIMEOUT",
    "AMDCategory",
    "AMDPredictionEvent",
]

HUMAN_SPEECH_THRESHOLD = 2.5
"""Seconds of speech up to which a greeting is taken for a human's."""

HUMAN_SILENCE_THRESHOLD = 0.5
"""Seconds of silence after a short greeting."""

MACHINE_SILENCE_THRESHOLD = 1.5
"""Seconds of silence after a long greeting, or one with words."""

NO_SPEECH_THRESHOLD = 10.0
"""Seconds to wait for a first sound."""

TIMEOUT = 20.0
"""Seconds for the whole detection."""

MAX_ENDPOINTING_DELAY = 3.0
"""Seconds of silence after which whoever speaks is through, when nothing else says so."""

MAX_EXTENSIONS = 3
"""How often a model may ask for more time."""

MAX_EXTENSION_SECS = 10.0
"""Seconds that it gets at most, each time."""

AMD_PROMPT = """\
A phone call was just picked up. You read what a speech recogniser heard of the other side so far; \
expect misheard and missing words. Decide who or what answered, and call save_prediction once.

Labels:
- human: a person who can talk now. Typically short, and waits for an answer: "Hello?", "This is \
Anna speaking", "Smith and Sons, how can I help?".
- machine-ivr: an automated line that wants something of the caller: a menu ("press 1 for sales"), \
a request to enter or say something, a queue, or call screening that asks for the caller's name and \
reason before it connects.
- machine-vm: a voicemail that takes a message: a recorded greeting that says nobody can answer and \
invites to leave a message, or announces a tone.
- machine-unavailable: a recording that ends the matter: a full mailbox, a mailbox that is not set \
up, a number out of service or not reachable.
- uncertain: the words fit several of these, as the beginning of a sentence often does. Choose it \
rather than guess from a partial, ambiguous transcript.

If postpone_termination is offered and more is likely to be said that would settle the matter, call \
it instead with the seconds to wait."""


class AMDCategory(str, Enum):
    """Who or what has picked up."""

    HUMAN = "human"
    MACHINE_IVR = "machine-ivr"
    """A phone menu, or call screening."""
    MACHINE_VM = "machine-vm"
    """A voicemail that takes messages."""
    MACHINE_UNAVAILABLE = "machine-unavailable"
    """A recording after which nothing can be said: mailbox full, number out of service."""
    UNCERTAIN = "uncertain"


_MACHINES = (AMDCategory.MACHINE_IVR, AMDCategory.MACHINE_VM, AMDCategory.MACHINE_UNAVAILABLE)


class AMDPredictionEvent(BaseModel):
    """Who has picked up: the result of `AMD.execute`, and its event "amd_prediction".

    Attributes:
        speech_duration: Seconds from the first sound to the last, 0 without one.
        category: The verdict.
        reason: How it was reached: "short_greeting", "llm", "no_speech_timeout",
            "detection_timeout" or "participant_missing".
        transcript: The words that were heard.
        delay: Seconds from the end of speech (without any: from the beginning) to the verdict.
    """

    type: Literal["amd_prediction"] = "amd_prediction"
    speech_duration: float
    category: AMDCategory
    reason: str
    transcript: str
    delay: float

    @property
    def is_human(self) -> bool:
        """A person has picked up."""
        return self.category is AMDCategory.HUMAN

    @property
    def is_machine(self) -> bool:
        """A menu, a voicemail or a recording has. False, too, when it is uncertain."""
        return self.category in _MACHINES
