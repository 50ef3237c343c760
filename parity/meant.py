"""Differences from the published package that are meant, and why."""

from __future__ import annotations

import re
from dataclasses import dataclass
from fnmatch import fnmatchcase


@dataclass(frozen=True)
class Meant:
    """One difference: where it shows, in which lines, and why it is so."""

    part: str
    scene: str
    lines: str
    reason: str

    def covers(self, part: str, scene: str, line: str) -> bool:
        """Whether `line` of a comparison ("-" theirs, "+" ours) is this difference."""
        return (
            part == self.part
            and fnmatchcase(scene, self.scene)
            and re.search(self.lines, line) is not None
        )


MEANT = [
    Meant(
        "conversations",
        "a_model_that_fails",
        r"\+ agent_state_changed .*thinking",
        "the last reply that fails is thought about as those before it are",
    ),
    Meant(
        "turns",
        "turns_by_hand",
        r"- .* role=user interrupted=False",
        "a turn without words leaves no empty message in the history",
    ),
    Meant(
        "turns",
        "not_to_be_interrupted",
        r"\+ .* text_content=unheard",
        "what is said over a speech that can't be interrupted gets no reply, but isn't lost",
    ),
    Meant(
        "turns",
        "a_tool_without_its_argument",
        r"Error parsing arguments for `demanding`",
        "the model is told what is wrong with its arguments, without the address of a manual",
    ),
    Meant(
        "turns",
        "*",
        r"- speaker: resume",
        "a speaker is told to resume when there is something to play",
    ),
    Meant(
        "providers",
        "stt: lost between words",
        r"",
        "a transcript proves that the connection works: only failures in a row use up the retries",
    ),
    Meant(
        "providers",
        "stt: another sample rate",
        r"- metrics",
        "a frame that can't be used is refused before anything is sent",
    ),
    Meant(
        "providers",
        "tts*: broken",
        r"error tts_error ValueError final|- metrics .*'audio_duration': 0.0",
        "an unexpected exception is told as an error event too, and nothing spoken has no metrics",
    ),
    Meant(
        "functions",
        "contexts",
        r" aws: ",
        "a tool's output that is an error is sent to Bedrock as one",
    ),
    Meant(
        "functions",
        "sentences",
        r"[?-] 你好。|\+ 你好。",
        "sentences of languages without spaces are joined without them",
    ),
    Meant("functions", "events", r"CloseEvent", "`CloseEvent.report` tells how the close went"),
    Meant(
        "rooms",
        "text at once",
        r"'Hello caller. Welcome here.'",
        "text that is ahead of its track waits for it, and isn't lost to who reads the old way",
    ),
    Meant(
        "realtime",
        "using_a_tool",
        r"agent_state_changed",
        "while a tool runs the agent thinks, as it does with other models",
    ),
    Meant(
        "realtime",
        "asked_for_words_only",
        r"[+] (model: context|history: function_call|function_tools_executed)",
        "a call that is ignored is answered: realtime models wait for that",
    ),
    Meant(
        "spans",
        "*",
        r"\+ .* (has (lk\.agent_label|lk\.speech_id|gen_ai\.(request\.model|provider\.name))"
        r"|(lk\.agent_label|gen_ai\.(request\.model|provider\.name))=)",
        "spans tell also which agent, speech and model they are about",
    ),
    Meant(
        "spans",
        "*",
        r"\+ (agent_turn has lk\.pii\.instructions|llm_request_run has lk\.provider_request_ids"
        r"|user_turn has lk\.(eou\.resume_count|on_user_turn_completed_delay))",
        "what is known is recorded each time",
    ),
    Meant(
        "spans",
        "*",
        r"- llm_request (has )?gen_ai\.usage\.",
        "a model that tells no usage has none, rather than 0",
    ),
    Meant(
        "spans",
        "*",
        r"user_speaking is in (user_turn|agent_session)",
        "speech is a part of a turn only once there are words",
    ),
    Meant(
        "workers",
        "offers",
        r"raising: JS_RUNNING",
        "an error of the entrypoint fails the job",
    ),
    Meant(
        "workers",
        "a_server_that_is_not_there",
        r"fails",
        "the exit status of a worker that failed says so",
    ),
    Meant("workers", "without_a_secret", r"fails", "so does that of one that could not start"),
    Meant(
        "workers",
        "logs",
        r"a dict",
        "what is logged as a dict in a job keeps its fields on the way to the worker",
    ),
    Meant(
        "workers",
        "commands",
        r"-(install|show)-completion|console --(in|out)put|start LIVEKIT_",
        "a recording can be played to an agent; variables are named where they count",
    ),
]
